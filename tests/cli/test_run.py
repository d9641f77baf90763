"""`longshore run` on real containers: streams, exit codes, signals, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from .command import Longshore, wait_until

pytestmark = pytest.mark.real


def test_each_stream_stays_its_own_and_the_exit_code_is_the_commands(each_runtime: Longshore) -> None:
    done = each_runtime("run", "host", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    assert each_runtime.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_exit_codes_are_passed_on(longshore: Longshore, script: str, code: int) -> None:
    done = longshore("run", "host", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_the_time_limit_has_a_code_of_its_own(longshore: Longshore) -> None:
    done = longshore("run", "--timeout", "0.5", "host", "--", "sh", "-c", "echo begun; sleep 60")
    assert (done.returncode, done.stdout) == (124, b"begun\n")
    assert b"did not end within 0.5 s" in done.stderr
    assert longshore.ok("ps", "-aq") == ""


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(each_runtime: Longshore) -> None:
    for words, code in ((["/nonexistent"], 127), (["no-such-command"], 127), (["/etc/passwd"], 126), (["/tmp"], 126)):
        done = each_runtime("run", "host", "--", *words)
        assert (done.returncode, done.stdout) == (code, b""), (words, done.stderr)
        assert 1 <= len(done.stderr.splitlines()) <= 2
    assert each_runtime.ok("ps", "-aq") == ""


def test_input_is_given_only_if_asked_for_and_ends(longshore: Longshore) -> None:
    assert longshore("run", "-i", "host", "--", "cat", input=b"hello\n").stdout == b"hello\n"
    assert longshore("run", "host", "--", "cat", input=b"hello\n").stdout == b""


def test_bytes_are_passed_as_they_are_in_both_directions(longshore: Longshore) -> None:
    data = bytes(range(256)) * 40_000
    assert longshore("run", "-i", "host", "--", "cat", input=data).stdout == data


def test_files_as_streams_are_copied_and_stay_their_owners(longshore: Longshore, tmp_path: Path) -> None:
    """A runtime would give them to the container's user."""
    source, target, errors = tmp_path / "in", tmp_path / "out", tmp_path / "err"
    source.write_bytes(os.urandom(3_000_000))
    with source.open("rb") as stdin, target.open("wb") as stdout, errors.open("wb") as stderr:
        script = "cat; echo err >&2"
        longshore("run", "-i", "host", "--", "sh", "-c", script, stdin=stdin, stdout=stdout, stderr=stderr)
    assert target.read_bytes() == source.read_bytes()
    assert errors.read_bytes() == b"err\n"
    assert {path.stat().st_uid for path in (source, target, errors)} == {os.getuid()}
    assert os.stat("/dev/null").st_uid == 0


def test_both_streams_in_one_file_keep_their_order(longshore: Longshore, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        script = "for i in 1 2 3 4 5; do echo $i; echo -$i >&2; done"
        longshore("run", "host", "--", "sh", "-c", script, stdout=file, stderr=subprocess.STDOUT)
    assert (tmp_path / "out").read_text().split() == [sign + str(i) for i in range(1, 6) for sign in ("", "-")]


def test_a_reader_that_goes_away_ends_the_command(longshore: Longshore) -> None:
    process = longshore.start("run", "host", "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(20) in (141, 1)  # SIGPIPE, or `yes` that says why
    assert process.stderr is not None
    process.stderr.close()


def test_a_full_device_is_told(longshore: Longshore) -> None:
    with open("/dev/full", "wb") as full:
        done = longshore("run", "host", "--", "echo", "x", stdout=full)
    assert done.returncode == 125
    assert b"No space left on device" in done.stderr
    with open("/dev/full", "wb") as full:
        done = longshore("version", stdout=full)
    assert done.returncode == 125
    assert b"No space left on device" in done.stderr


def test_closed_streams_are_no_obstacle(longshore: Longshore) -> None:
    from .command import ARGV

    line = f"exec {' '.join(ARGV)} run -i host -- sh -c 'cat; echo x; exit 3' <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], env=longshore.environment, timeout=300, check=False).returncode == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(longshore: Longshore, number: signal.Signals) -> None:
    script = "trap 'echo got it; exit 9' INT TERM HUP USR1; echo ready; while :; do sleep 0.05; done"
    process = longshore.start("run", "host", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert (out, err, process.returncode) == (b"got it\n", b"", 9)


def test_a_command_without_a_handler_is_ended_by_a_signal(longshore: Longshore) -> None:
    process = longshore.start("run", "host", "--", "sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.communicate()
    assert longshore.ok("ps", "-aq") == ""


def test_who_insists_kills_what_does_not_listen(longshore: Longshore) -> None:
    script = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done"
    process = longshore.start("run", "host", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def insist() -> bool:
        process.send_signal(signal.SIGINT)
        return process.poll() is not None

    wait_until(insist)
    assert process.returncode in (137, 130)  # killed; or one more came while it was removed
    process.communicate()
    assert longshore.ok("ps", "-aq") == ""


def test_without_sig_proxy_a_signal_ends_the_run_and_the_container(longshore: Longshore) -> None:
    script = "trap 'echo never' TERM; echo ready; while :; do sleep 0.05; done"
    process = longshore.start("run", "--sig-proxy=false", "host", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert (out, process.returncode) == (b"", 143)
    assert longshore.ok("ps", "-aq") == ""


def test_killing_the_program_leaves_nothing(longshore: Longshore, state: Path) -> None:
    process = longshore.start("run", "host", "--", "sh", "-c", "echo ready; sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    wait_until(lambda: longshore.ok("ps", "-aq") == "")


def test_settings_reach_the_container(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\nFROM_FILE=1\nHOME_HERE\n\nSPACES= a b \n")
    words = [
        "-e",
        "A=1",
        "-e",
        "OUTER",
        "-e",
        "MISSING",
        "--env-file",
        str(tmp_path / "env"),
        "-w",
        "/tmp",
        "-u",
        "7:8",
    ]
    script = 'echo $A $OUTER ${MISSING-unset} $FROM_FILE "[$SPACES]" $HOME_HERE; pwd; id -u; id -g; hostname'
    env = {"OUTER": "2", "HOME_HERE": "h"}
    done = longshore("run", *words, "--hostname", "box", "host", "--", "sh", "-c", script, env=env)
    assert done.stdout.decode().splitlines() == ["1 2 unset 1 [ a b ] h", "/tmp", "7", "8", "box"], done.stderr


def test_mounts_reach_the_container(longshore: Longshore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    source.chmod(0o777)
    (source / "file").write_text("seen\n")
    script = "cat /a/file; echo x > /a/no 2>/dev/null || echo ro; echo new > /b/made; stat -f -c %T /c"
    mounts = ["-v", f"{source}:/a:ro", "--mount", f"type=bind,source={source},target=/b", "--tmpfs", "/c:size=1m"]
    assert longshore.ok("run", *mounts, "host", "--", "sh", "-c", script).split() == ["seen", "ro", "tmpfs"]
    assert (source / "made").read_text() == "new\n"


def test_a_root_a_bundle_a_spec_and_layers_can_be_given(longshore: Longshore, tmp_path: Path) -> None:
    import json

    upper, lower, bundle = tmp_path / "upper", tmp_path / "lower", tmp_path / "bundle"
    for directory in (upper, lower, bundle / "rootfs"):
        directory.mkdir(parents=True)
    (upper / "which").write_text("upper\n")
    (lower / "which").write_text("lower\n")
    programs = [word for name in ("bin", "lib", "lib64", "usr") for word in ("-v", f"/{name}:/{name}:ro")]
    layers = ["--layer", str(upper), "--layer", str(lower)]
    assert longshore.ok("run", *programs, *layers, "--", "cat", "/which") == "upper\n"
    assert longshore.ok("run", *programs, f"rootfs:{lower}", "cat", "/which") == "lower\n"
    mounts = [
        {"destination": f"/{name}", "source": f"/{name}", "type": "bind", "options": ["rbind", "ro"]}
        for name in ("bin", "lib", "lib64", "usr")
    ]
    document = {
        "ociVersion": "1.0.2",
        "process": {"args": ["sh", "-c", "cat /which; exit 5"], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": "rootfs"},
        "mounts": [*mounts, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }
    (bundle / "rootfs" / "which").write_text("bundle\n")
    (bundle / "config.json").write_text(json.dumps(document))
    for words in ([str(bundle)], ["--spec", str(bundle / "config.json")]):
        done = longshore("run", *words)
        assert (done.stdout, done.returncode) == (b"bundle\n", 5), done.stderr
    assert longshore.ok("run", "--spec", str(bundle), "--", "echo", "other") == "other\n"


@pytest.mark.parametrize("init", [["--init"], ["--no-init"]])
def test_out_of_memory_is_told(longshore: Longshore, init: list[str]) -> None:
    done = longshore("run", "-m", "24m", *init, "host", "--", "python3", "-c", "x = bytearray(1 << 30)")
    assert done.returncode == 137
    assert b"out of memory" in done.stderr


def test_very_long_arguments_and_environments_get_through(longshore: Longshore, tmp_path: Path) -> None:
    long = "x" * 100_000
    assert longshore.ok("run", "host", "--", "sh", "-c", "echo ${#1}", "sh", long) == "100000\n"
    lines = [f"V{number}={'y' * 100_000}" for number in range(15)]
    (tmp_path / "env").write_text("\n".join(lines))
    assert (
        longshore.ok("run", "--env-file", str(tmp_path / "env"), "host", "--", "sh", "-c", "echo ${#V14}") == "100000\n"
    )


def test_explain_shows_what_run_would_do_and_can_be_compared(longshore: Longshore) -> None:
    import json

    text = longshore.ok("explain", "run", "host", "--", "echo", "hi")
    for part in ("# config.json", "# mounts", "# command lines", "# settings, and why"):
        assert part in text
    first = longshore.ok("explain", "--json", "run", "host", "--", "echo", "hi")
    again = longshore.ok("explain", "run", "--json", "host", "--", "echo", "hi")
    assert first == again
    plan = json.loads(first)
    assert plan["documents"]["config.json"]["process"]["args"][-2:] == ["echo", "hi"]
    other = json.loads(longshore.ok("explain", "--json", "run", "-m", "64m", "host", "--", "echo", "hi"))
    assert other != plan
    assert longshore.ok("ps", "-aq") == ""
