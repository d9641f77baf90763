"""Bad input and bad luck: one or two lines, the right code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .command import Longshore, wait_until

pytestmark = pytest.mark.real

HOST = ["host", "--", "true"]


def refused(longshore: Longshore, *words: str, code: int = 125, **options: Any) -> str:
    """Run what must be refused, in one or two lines; what was said."""
    done = longshore(*words, **options)
    assert (done.returncode, done.stdout) == (code, b""), (words, done.stderr)
    said = done.stderr.decode()
    lines = said.splitlines()
    assert 1 <= len(lines) <= 2, said
    assert lines[0].startswith("longshore: ")
    assert all(line.startswith("  hint: ") for line in lines[1:])
    return said


@pytest.mark.parametrize(
    "words",
    [
        ["start", "missing"], ["exec", "missing", "true"], ["attach", "missing"], ["logs", "missing"],
        ["wait", "missing"], ["signal", "missing", "TERM"], ["kill", "missing"], ["stop", "missing"],
        ["pause", "missing"], ["resume", "missing"], ["resize", "missing", "1", "1"], ["stats", "missing"],
        ["top", "missing"], ["pids", "missing"], ["update", "-m", "64m", "missing"], ["rm", "missing"],
        ["rm", "-f", "missing"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_unknown_container_is_told_by_every_verb(longshore: Longshore, words: list[str]) -> None:
    assert "there is no container `missing`" in refused(longshore, *words)


def test_an_unknown_process_is_told(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    assert "no process `missing`" in refused(longshore, "signal", "web", "TERM", "-p", "missing")


def test_a_taken_id_is_refused_and_its_container_unharmed(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    for words in (
        ["run", "--name", "web", *HOST],
        ["run", "-d", "--name", "web", *HOST],
        ["create", "--name", "web", *HOST],
    ):
        assert "the id is taken" in refused(longshore, *words)
    assert longshore.ok("ps", "-q") == "web\n"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 129, "a b", "\x1b[2J", "ü"])
def test_an_illegal_id_is_refused(longshore: Longshore, name: str) -> None:
    for words in (["run", "--name", name, *HOST], ["rm", "--", name], ["inspect", "--", name]):
        if words[0] == "inspect":
            done = longshore(*words)
            assert done.returncode == 125
            assert json.loads(done.stdout) == []
        elif name == "" and words[0] == "run":
            continue  # an empty one is none: a name is made up
        else:
            assert "\x1b" not in refused(longshore, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rootfs:/nonexistent", "--", "true"], r"root"),
        (["rootfs:relative", "--", "true"], r"root: cannot use /.*/relative: no such file"),
        (["rootfs:", "--", "true"], r"root: is empty"),
        (
            ["image:Latest", "--", "true"],
            r"image: 'Latest' is not an image's name: a repository is written in lower case",
        ),
        (["a b", "--", "true"], r"(?s)root: 'a b' is not known.*hint: use an image's name such as"),
        (["-p", "80:80", *HOST], r"(?s)no option `-p`.*hint: .*there are no networks yet"),
        (["--entrypoint", "sh", *HOST], r"entrypoint: is an image's, and the root 'host' is none"),
        (["--shm-size", "1g", *HOST], r"(?s)no option `--shm-size`.*hint: use --tmpfs /dev/shm:size="),
        (["/nonexistent/bundle"], r"is not a bundle"),
        (["-v", "/nonexistent:/x", *HOST], r"/nonexistent"),
        (["-v", "nonsense", *HOST], r"mount: 'nonsense'"),
        (["--mount", "type=odd,target=/x", *HOST], r"mount.type: 'odd'"),
        (["--mount", "type=bind,source=/tmp", *HOST], r"mount.target"),
        (["--mount", "colour=red", *HOST], r"'colour' is not a field"),
        (["-v", "/tmp:/x", "-v", "/usr:/x", *HOST], r"mounts\[1\].target: /x is mounted twice"),
        (["-u", "nosuchuser", *HOST], r"user"),
        (["-u", "", *HOST], r"user"),
        (["-w", "relative", *HOST], r"cwd: 'relative'"),
        (["-w", "/nonexistent", *HOST], r"cwd"),
        (["-m", "lots", *HOST], r"memory: 'lots' is not a size"),
        (["-m", "1k", *HOST], r"memory: 1024 bytes are too few"),
        (["-m", "64m", "--memory-swap", "32m", *HOST], r"memory_swap"),
        (["--cpus", "0", *HOST], r"cpus: 0.0 is not between"),
        (["--cpus", "100000", *HOST], r"cpus: 100000.0 is not between"),
        (["--cpu-weight", "0", *HOST], r"cpu_weight"),
        (["--cpuset-cpus", "a-b", *HOST], r"cpuset"),
        (["--pids-limit", "0", *HOST], r"pids: 0"),
        (["--hostname", "-x-", *HOST], r"hostname"),
        (["--cap-add", "not a cap", *HOST], r"cap_add"),
        (["--cap-add", "FLY", *HOST], r"FLY"),
        (["--ulimit", "odd=1", *HOST], r"odd"),
        (["--ulimit", "nofile=2:1", *HOST], r"nofile"),
        (["--ulimit", "nofile", *HOST], r"--ulimit"),
        (["--stop-signal", "ODD", *HOST], r"signal"),
        (["--security-opt", "odd=1", *HOST], r"odd"),
        (["--security-opt", "seccomp=/nonexistent", *HOST], r"seccomp|/nonexistent"),
        (["--userns", "1:2", *HOST], r"--userns"),
        (["--env-file", "/nonexistent", *HOST], r"--env-file: cannot read /nonexistent"),
        (["--show", "/nonexistent", *HOST], r"show|/nonexistent"),
        (["--layer", "/nonexistent", "--", "true"], r"layers|/nonexistent"),
        (["--layer", "/usr", "host", "--", "true"], r"--layer replaces the root"),
        (["--scratch", "/tmp", *HOST], r"--scratch needs --layer"),
        (["--detach-keys", "ctrl-", "-it", *HOST], r"detach-keys|not a terminal"),
        (["-d", "--rm", *HOST], r"-d and --rm"),
        (["-d", "--timeout", "1", *HOST], r"-d and --timeout"),
        (["host"], r"there is no command"),
        (["host", "--"], r"there is no command"),
        (["host", "--", ""], r"args\[0\]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(longshore: Longshore, words: list[str], said: str) -> None:
    assert re.search(said, refused(longshore, "run", *words))
    assert longshore.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "it is not a JSON object"),
        ({"process": {"args": "true"}, "root": {"path": "."}}, "args"),
        ({"process": {"args": ["true"], "cwd": 5}, "root": {"path": "."}}, "cwd"),
        ({"process": {"args": ["true"]}, "root": 5}, "root"),
    ],
)
def test_a_specification_that_is_none_is_refused(
    longshore: Longshore, tmp_path: Path, document: object, said: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    assert said in refused(longshore, "run", "--spec", str(path))
    assert "cannot read" in refused(longshore, "run", "--spec", str(tmp_path / "missing.json"))


def test_words_that_are_not_text_are_no_obstacle_to_an_answer(longshore: Longshore) -> None:
    for words in (
        [b"run", b"host", b"--", b"echo", b"\xff\xfe"],
        [b"run", b"-e", b"A=\xff", b"host", b"--", b"true"],
        [b"rm", b"\xff"],
    ):
        done = longshore(*words)
        assert done.returncode in (0, 125)
        assert len(done.stderr.splitlines()) <= 2
    assert longshore.ok("ps", "-aq") == ""


def test_an_argument_that_is_too_long_for_the_kernel_is_told(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=" + "x" * 200_000 + "\n")
    said = refused(longshore, "run", "--env-file", str(tmp_path / "env"), *HOST)
    assert re.search("too long|large|env", said)
    assert longshore.ok("ps", "-aq") == ""


def test_ten_megabytes_of_environment_end_in_an_answer(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("".join(f"V{number}={'x' * 100_000}\n" for number in range(100)))
    done = longshore("run", "--env-file", str(tmp_path / "env"), "host", "--", "sh", "-c", "echo ${#V99}")
    assert (done.returncode, done.stdout) == (0, b"100000\n") or (done.returncode in (125, 126) and done.stderr)
    assert len(done.stderr.splitlines()) <= 2
    assert longshore.ok("ps", "-aq") == ""


def test_a_runtime_that_is_not_there_or_no_runtime_is_named(longshore: Longshore, tmp_path: Path) -> None:
    assert "nosuchruntime" in refused(longshore, "--runtime", "nosuchruntime", "run", *HOST)
    assert "nothing/here" in refused(longshore, "--runtime", "/nothing/here", "run", *HOST)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'I will not' >&2; exit 1\n")
    broken.chmod(0o755)
    assert "broken" in refused(longshore, "--runtime", str(broken), "run", *HOST)
    assert longshore("ps", "--runtime", "nosuchruntime").returncode == 0


def test_a_state_directory_that_cannot_be_is_told(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(longshore, "--root", str(tmp_path / "file"), "ps")
    assert str(tmp_path / "file") in said
    if os.path.isdir("/proc/1"):
        assert "/proc/nothing" in refused(longshore, "--root", "/proc/nothing", "run", *HOST)


def test_a_state_directory_of_a_later_version_is_refused(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "store.json").write_text('{"version": 999, "id": "later"}')
    assert "version 999" in refused(longshore, "--root", str(tmp_path), "ps")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_told(longshore: Longshore, small_disk: Path) -> None:
    longshore.ok("--root", str(small_disk), "ps")
    with pytest.raises(OSError, match="No space left"), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    said = refused(longshore, "--root", str(small_disk), "run", "-d", "--name", "web", *HOST)
    assert re.search("[Nn]o space left|full", said)
    (small_disk / "filler").unlink()
    assert longshore.ok("--root", str(small_disk), "ps", "-aq") == ""


def test_an_ordinary_user_is_told_what_is_missing(longshore: Longshore, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    if subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "test", "-r", __file__], check=False).returncode:
        pytest.skip("an ordinary user cannot read this tree")
    from .command import ARGV

    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *ARGV, "--root", str(state), "run", *HOST]
    done = subprocess.run(argv, env=longshore.environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 125
    assert b"root" in done.stderr
    assert b"Traceback" not in done.stderr


def test_pausing_twice_and_resuming_what_runs_is_told(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    assert "it is running" in refused(longshore, "resume", "web")
    longshore.ok("pause", "web")
    assert "it is paused" in refused(longshore, "pause", "web")
    assert "paused" in refused(longshore, "exec", "web", "true")
    longshore.ok("rm", "-f", "web")


def test_what_has_ended_is_not_signalled_measured_or_executed_in(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "true")
    longshore.ok("wait", "web")
    for words in (
        ["kill", "web"],
        ["signal", "web", "TERM"],
        ["exec", "web", "true"],
        ["stats", "web"],
        ["top", "web"],
        ["pause", "web"],
    ):
        if words[0] == "stats":
            assert longshore("stats", "--no-stream", "web").returncode == 125
        else:
            assert "stopped" in refused(longshore, *words)
    assert longshore.ok("stop", "web") == "web\n"  # it is as was wanted


def test_updates_that_cannot_be_are_refused(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "-m", "64m", "host", "--", "sleep", "infinity")
    assert "nothing to change" in refused(longshore, "update", "web")
    assert "memory" in refused(longshore, "update", "-m", "1", "web")
    assert "cpus" in refused(longshore, "update", "--cpus", "-1", "web")


def test_debug_shows_where_an_error_comes_from_and_nothing_else_does(longshore: Longshore) -> None:
    from .command import ARGV

    done = subprocess.run(
        [*ARGV, "--debug", "start", "missing"], env=longshore.environment, capture_output=True, timeout=300, check=False
    )
    assert b"Traceback" in done.stderr
    assert b"ContainerNotFound" in done.stderr
    assert done.returncode == 125


def test_a_container_whose_program_hangs_can_be_removed(longshore: Longshore) -> None:
    script = "trap '' TERM INT HUP; while :; do sleep 0.05; done"
    longshore.ok("run", "-d", "--name", "web", "--no-init", "host", "--", "sh", "-c", script)
    longshore.ok("rm", "-f", "web")
    wait_until(lambda: longshore.ok("ps", "-aq") == "")


def test_a_folder_as_root_is_told_how_it_is_written(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text("{}")
    assert "./bundle for the bundle" in refused(longshore, "run", "bundle", cwd=tmp_path)
    (tmp_path / "tree").mkdir()
    assert "rootfs:" in refused(longshore, "run", "./tree", "--", "true", cwd=tmp_path)


def test_a_root_file_system_may_be_given_by_a_relative_path(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "command").write_text("#!/command\n")
    (tmp_path / "tree" / "command").chmod(0o755)
    found = json.loads(longshore.ok("explain", "--json", "run", "rootfs:tree", "--", "/command", cwd=tmp_path))
    assert any(str(tmp_path / "tree") in step for step in found["mounts"])


def test_one_that_runs_is_not_removed_and_the_way_to_is_told(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    said = refused(longshore, "rm", "web")
    assert "cannot remove container `web`: it is running" in said
    assert "`longshore rm -f web`" in said


@pytest.mark.parametrize("words", [["ps"], ["version"], ["help"], ["run", "host", "--", "echo", "hi"]], ids=" ".join)
def test_an_output_that_takes_no_more_is_named(longshore: Longshore, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = longshore(*words, stdout=full)
    assert done.returncode == 125
    assert done.stderr == b"longshore: cannot write to standard output: No space left on device\n"


def test_a_hint_is_told_once_also_where_the_traceback_shows_it(longshore: Longshore) -> None:
    from .command import ARGV

    for words in (["--debug", "start", "missing"], ["start", "missing"]):
        done = subprocess.run([*ARGV, *words], env=longshore.environment, capture_output=True, timeout=300, check=False)
        assert done.stderr.count(b"hint: ") == 1


def test_a_process_that_has_ended_is_named_when_it_is_signalled(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    longshore.ok("exec", "-d", "--name", "bg2", "web", "--", "true")
    wait_until(lambda: longshore.json("inspect", "web")[0]["processes"]["bg2"]["exit"] is not None)
    assert "process `bg2` of container `web` has ended" in refused(longshore, "signal", "web", "TERM", "-p", "bg2")


def test_what_was_updated_is_what_inspect_shows(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "-m", "64m", "--pids-limit", "50", "host", "--", "sleep", "infinity")
    longshore.ok("update", "-m", "128m", "web")
    limits = longshore.json("inspect", "web")[0]["spec"]["resources"]
    assert (limits["memory"], limits["pids"]) == (128 << 20, 50)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_message_about_a_hostile_name_is_printable(longshore: Longshore, debug: list[str]) -> None:
    from .command import ARGV

    command = [*ARGV, *debug, "run", "host", "--", "\x1b]0;title\x07\x1b[2J\u202e"]
    done = subprocess.run(command, env=longshore.environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 127
    assert all(line.isprintable() for line in done.stderr.decode().splitlines())
