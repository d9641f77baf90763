"""Words of users: what they write from habit is meant as docker means it, or refused by its name."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from longshore.cli.arguments import options
from longshore.cli.arguments.parser import Arguments, UsageError, parse
from longshore.cli.verbs.run import VERB
from longshore.errors import InvalidSpec
from longshore.spec import Mount, Rlimit, Security, Spec, parse_signal, parse_size
from longshore.spec.parts import UNLIMITED

from .command import Longshore


def spec(*words: str) -> Spec:
    """The spec that the words of a `run` mean."""
    return options.spec(parse(VERB, [*words, "host", "--", "true"], Arguments(help=False)))


# mounts


@pytest.mark.parametrize("name", ["dt=2026-01-01", "a=b=c", "=", "sources=x", "type", "x,y=z", "größe=1"])
def test_a_volume_may_have_an_equals_sign_in_its_name(tmp_path: Path, name: str) -> None:
    for target in ("/in", "/a=b"):
        assert Mount.parse(f"{tmp_path}/{name}:{target}:ro") == Mount(f"{tmp_path}/{name}", target, read_only=True)
        assert Mount.parse(f"./{name}:{target}").target == target
        assert Mount.parse(f"{tmp_path}:{target}/{name}:rw").target == f"{target}/{name}"


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/x", Mount("/a", "/x")),
        ("src=/a,dst=/x,ro", Mount("/a", "/x", read_only=True)),
        ("readonly,source=/a,destination=/x", Mount("/a", "/x", read_only=True)),
        ("Type=bind,SOURCE=/a,target=/x,readonly=false", Mount("/a", "/x")),
        ("source=/a=b,target=/x", Mount("/a=b", "/x")),
        ('type=bind,"source=/a,b",target=/x', Mount("/a,b", "/x")),
        ('"source=/a ""q""",target=/x', Mount('/a "q"', "/x")),
        ("source=/a,target=/x,bind-propagation=rslave", Mount("/a", "/x", options=["rslave"])),
        ("source=/a,target=/x,bind-nonrecursive", Mount("/a", "/x", options=["bind"])),
        ("type=tmpfs,target=/x,tmpfs-size=64MiB,tmpfs-mode=1777",
         Mount(None, "/x", "tmpfs", options=[f"size={64 << 20}", "mode=1777"])),
    ],
)  # fmt: skip
def test_a_mount_in_words_is_meant_as_docker_means_it(text: str, mount: Mount) -> None:
    assert Mount.parse_words(text) == mount
    assert Mount.parse(text) == mount


@pytest.mark.parametrize(
    "text",
    [
        "/a",
        "/a:",
        ":/x",
        "/a::ro",
        "/a:/x:ro:rw",
        "",
        ":",
        "/a:x",
        "type=bind,source=,target=/x",
        "readonly=maybe,target=/x",
        "type=volume,source=a,target=/x",
        "target=/x",
        "source=/a",
        'source="/a,target=/x',
        "source=/a,target=/x,volume-nocopy",
        "source=/a,target=/x,bind-recursive=sometimes",
        "type=tmpfs,target=/x,tmpfs-size=lots",
    ],
)
def test_a_mount_that_cannot_be_meant_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidSpec, match="mount"):
        Mount.parse(text)


@pytest.mark.skipif(sys.platform == "win32", reason="there it is a drive")
def test_a_folder_of_one_letter_is_no_drive_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Mount.parse("a:/x") == Mount(f"{tmp_path}/a", "/x")
    assert Mount.parse("C:\\data:C:\\in:ro").target == "C:\\in"


def test_a_long_mount_option_is_never_read_as_a_short_one() -> None:
    with pytest.raises(InvalidSpec, match="'/a:/x' is not a field"):
        spec("--mount", "/a:/x")


# environment


def env(tmp_path: Path, data: bytes) -> dict[str, str]:
    (tmp_path / "env").write_bytes(data)
    return options.environment(parse(VERB, ["--env-file", f"{tmp_path}/env", "host", "true"], Arguments(help=False)))


@pytest.mark.parametrize(
    ("data", "variables"),
    [
        (b"\xef\xbb\xbfFIRST=1\r\nSECOND=2\r\n", {"FIRST": "1", "SECOND": "2"}),
        (b"\xef\xbb\xbf# a comment\n  A=1\n\tB=2", {"A": "1", "B": "2"}),
        (b"A=\"quoted\"\nB='so'\nC=a b \n", {"A": '"quoted"', "B": "'so'", "C": "a b "}),
        (b"\n \n#A=1\n  # B=2\nC=#3\nD=a=b\nE=\n", {"C": "#3", "D": "a=b", "E": ""}),
        (b"A=1\rB=2\nC=\x0b\x0c\xc2\x85\xe2\x80\xa8x\n", {"A": "1\rB=2", "C": "\x0b\x0c\x85\u2028x"}),
        (b"HERE\nNOT_HERE\n", {"HERE": "as it is here"}),
        ("GRÖSSE=ü\n".encode(), {"GRÖSSE": "ü"}),
    ],
)
def test_an_env_file_is_read_as_docker_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, variables: dict[str, str]
) -> None:
    monkeypatch.setenv("HERE", "as it is here")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert env(tmp_path, data) == variables


@pytest.mark.parametrize("line", [b"export A=1", b"A B=1", b"=1", b"A =1", b"A\xff=1", b"A=\xff"])
def test_a_line_of_an_env_file_that_is_no_variable_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(UsageError, match=r"--env-file: .*/env, line 2: "):
        env(tmp_path, b"GOOD=1\n" + line + b"\n")


# limits


@pytest.mark.parametrize(
    ("text", "soft", "hard"),
    [
        ("core=-1", UNLIMITED, UNLIMITED),
        ("core=-1:-1", UNLIMITED, UNLIMITED),
        ("core=unlimited", UNLIMITED, UNLIMITED),
        ("core=0:-1", 0, UNLIMITED),
        ("core=0:Unlimited", 0, UNLIMITED),
        ("RLIMIT_CORE=1:2", 1, 2),
        ("core=0", 0, 0),
        ("core=18446744073709551615", UNLIMITED, UNLIMITED),
    ],
)
def test_a_ulimit_may_be_unlimited(text: str, soft: int, hard: int) -> None:
    assert spec("--ulimit", text).rlimits == [Rlimit(name="core", soft=soft, hard=hard)]


@pytest.mark.parametrize(
    "text",
    [
        "core",
        "core=",
        "core=1:",
        "core=:1",
        "core=1:2:3",
        "core=-2",
        "core=2:1",
        "core=-1:5",
        "core=1.5",
        "core=²",
        "core=١",
        "core=0x10",
        "core= 1",
        "core=18446744073709551616",
        "=1",
        "nothing=1",
    ],
)
def test_a_ulimit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises((UsageError, InvalidSpec), match="limit"):
        spec("--ulimit", text)


def test_every_limit_of_the_kernel_has_its_name() -> None:
    import resource

    for name in dir(resource):
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":  # of BSD
            assert Rlimit(name=name, soft=-1, hard="unlimited").hard == UNLIMITED


@pytest.mark.real
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_unlimited_reaches_the_process_or_the_reason_is_given(longshore: Longshore, runtime: str) -> None:
    words = ["--runtime", runtime, "run"]
    said = longshore.ok(*words, "--ulimit", "core=0:-1", "--ulimit", "cpu=unlimited", "host", "--", "sh", "-c",
                        "ulimit -Sc; ulimit -Hc; ulimit -St")  # fmt: skip
    assert said.split() == ["0", "unlimited", "unlimited"]
    done = longshore(*words, "--ulimit", "nofile=-1", "host", "--", "true")
    assert done.returncode == 125
    assert b"rlimits[nofile]: the hard limit unlimited is above " in done.stderr


# signals


def test_every_name_that_kill_lists_is_known() -> None:
    for each in signal.valid_signals():
        if isinstance(each, signal.Signals):
            for name in (each.name, each.name.lower(), each.name.removeprefix("SIG"), str(each.value), each.value):
                assert parse_signal(name) == each.value, name
    for alias, number in (("IOT", 6), ("CLD", 17), ("POLL", 29), ("STKFLT", 16), ("PWR", 30), ("UNUSED", 31)):
        assert parse_signal(alias) == parse_signal(f"sig{alias.lower()}") == number
    for distance in range(31):
        assert parse_signal(f"RTMIN+{distance}") == 34 + distance
        assert parse_signal(f"SIGRTMAX-{distance}") == 64 - distance


@pytest.mark.parametrize(
    "name",
    ["RTMAX+1", "RTMIN-1", "RTMAX-31", "RTMIN+31", "RTMAX-", "RT", "SIG", "", " TERM", "٩", "ſTERM", "ıNT", "0", "65"],
)
def test_a_signal_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="signal"):
        parse_signal(name)


@pytest.mark.parametrize(("annotated", "number"), [("SIGRTMAX-1", 63), ("INT", 2), ("37", 37)])
def test_a_document_may_name_its_stop_signal(annotated: str, number: int) -> None:
    document = {"ociVersion": "1.0.2", "annotations": {"org.opencontainers.image.stopSignal": annotated}}
    assert Spec.from_oci(document, args=["true"]).stop_signal == number
    assert Spec.from_oci(document, args=["true"], stop_signal="HUP").stop_signal == 1
    document["annotations"] = {"org.opencontainers.image.stopSignal": "ODD"}
    with pytest.raises(InvalidSpec, match=r"oci.annotations\[org.opencontainers.image.stopSignal\]"):
        Spec.from_oci(document, args=["true"])


# numbers


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("1g", 1 << 30), ("5KB", 5 << 10), ("7b", 7), ("7", 7)]
)
def test_a_size_may_have_the_suffixes_that_people_write(text: str, size: int) -> None:
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("text", ["1.5g", "0x10", "١", "1e3", "-1", "1_0", "m", "1mm", "+1"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="memory"):
        parse_size(text, "memory")


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("1.5", 1.5), ("90s", 90), ("1m30s", 90), ("2h", 7200), ("500ms", 0.5), ("1d", 86400)],
)
def test_a_length_of_time_may_have_parts(text: str, value: float) -> None:
    assert options.seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1", "-1s", "1x", "1m30", "inf", "nan", "١", "1_0", "1 s", "1e400"])
def test_a_length_of_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"length of time|negative"):
        options.seconds(text)


@pytest.mark.parametrize("text", ["١", "1_0", " 1", "1.0", "0x1", "²", ""])
def test_a_whole_number_has_plain_digits(text: str) -> None:
    for words in (["--pids-limit", text], ["--cpu-weight", text], ["--userns", f"0:{text}:1"]):
        with pytest.raises(UsageError):
            spec(*words)
    with pytest.raises((UsageError, InvalidSpec)):
        spec("--cpuset-cpus", text or "-")


# the rest


def test_values_may_have_the_signs_that_separate_names(tmp_path: Path) -> None:
    made = spec("-l", "a=b=c", "-l", "bare", "-e", "X=a=b", "--security-opt", f"seccomp={tmp_path}/a:b=c")
    assert made.labels == {"a": "b=c", "bare": ""}
    assert made.env == {"X": "a=b"}
    assert made.security == Security(seccomp=f"{tmp_path}/a:b=c")
    assert spec("--security-opt", "no-new-privileges:false").security == Security(no_new_privileges=False)
    assert spec("--hostname", "my_host").hostname == "my_host"
    assert spec("--read-only=1").read_only
    assert not spec("--read-only=0").read_only


# bundles


@pytest.mark.real
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_paths_of_a_bundle_are_meant_from_its_folder(longshore: Longshore, tmp_path: Path, runtime: str) -> None:
    bundle = tmp_path / "bundle"
    for name in ("root/usr", "root/proc", "root/dev", "root/in", "root/sock", "extra"):
        (bundle / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (bundle / "root" / name).symlink_to(f"usr/{name}")
    (bundle / "extra" / "f").write_text("seen\n")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(bundle / "s"))
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        {"destination": "/in", "type": "none", "source": "./extra", "options": ["rbind", "ro"]},
        {"destination": "/sock", "source": "../bundle/extra", "options": ["bind", "ro"]},
    ]
    process = {"args": ["cat", "/in/f", "/sock/f"], "env": ["PATH=/usr/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    namespaces = [{"type": kind} for kind in ("pid", "mount")]
    document = {"ociVersion": "1.2.0", "process": process, "root": {"path": "root"}, "mounts": mounts}
    (bundle / "config.json").write_text(json.dumps({**document, "linux": {"namespaces": namespaces}}))
    ways: list[tuple[list[str], Path]] = [
        ([str(bundle)], tmp_path),
        (["./bundle"], tmp_path),
        (["--spec", "bundle/config.json"], tmp_path),
        (["--spec", "bundle"], tmp_path),
        (["./"], bundle),
    ]
    for words, folder in ways:
        done = longshore("--runtime", runtime, "run", *words, cwd=folder)
        assert (done.stdout, done.returncode) == (b"seen\nseen\n", 0), (words, done.stderr)
    reasons = json.loads(longshore.ok("--runtime", runtime, "explain", "--json", "run", str(bundle)))["reasons"]
    assert "./extra" in reasons["oci.mounts[3].source"]
    assert "bundle's folder" in reasons["oci.root.path"]
    assert ("1.0.2" in reasons.get("oci.ociVersion", "")) is (runtime == "crun")
    for path in (bundle, bundle / "config.json", str(bundle)):
        found = Spec.from_oci(path).oci
        assert found is not None
        assert found["mounts"][3]["source"] == f"{bundle}/extra"
    alone = {**document, "linux": {}}
    assert Spec.from_oci(alone).oci == alone  # what has no folder is left as it is, and refused when it is made


@pytest.mark.parametrize(("data", "said"), [(b"{", "not JSON"), (b"[]", "not a JSON object"), (None, "cannot read")])
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, data: bytes | None, said: str) -> None:
    if data is not None:
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(InvalidSpec, match=said) as refused:
        Spec.from_oci(tmp_path)
    assert refused.value.field == "oci"
