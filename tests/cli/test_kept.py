"""Containers that stay: every verb on real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .command import Longshore, Terminal, wait_until

pytestmark = pytest.mark.real

SERVER = "trap 'exit 3' TERM; echo ready; echo problem >&2; while :; do sleep 0.05; done"


def kept(longshore: Longshore, name: str = "web", *options: str, script: str = SERVER) -> None:
    """Run one that stays; one with the usual script is ready for signals when this returns."""
    assert longshore.ok("run", "-d", "--name", name, *options, "host", "--", "sh", "-c", script) == f"{name}\n"
    if script == SERVER:
        wait_until(lambda: longshore.ok("logs", name) == "ready\n")


def test_the_life_of_a_container_from_many_programs(each_runtime: Longshore) -> None:
    longshore = each_runtime
    assert longshore.ok("create", "--name", "web", "-l", "a=b", "host", "--", "sh", "-c", SERVER) == "web\n"
    [info] = longshore.json("ps", "-a", "--format", "json")
    assert (info["id"], info["state"], info["labels"]) == ("web", "created", {"a": "b"})
    assert longshore.ok("ps", "-q") == ""
    assert longshore.ok("start", "web") == "web\n"
    wait_until(lambda: longshore.ok("logs", "web") == "ready\n")
    assert longshore.ok("exec", "web", "echo", "hi") == "hi\n"
    assert longshore.ok("pause", "web") == "web\n"
    assert longshore.json("ps", "--format", "json")[0]["state"] == "paused"
    assert longshore.ok("resume", "web") == "web\n"
    assert longshore.ok("stop", "web") == "web\n"
    assert longshore.ok("wait", "web") == "3\n"
    [info] = longshore.json("inspect", "web")
    assert (info["state"], info["exit"]["code"]) == ("stopped", 3)
    assert longshore.ok("rm", "web") == "web\n"
    assert longshore.ok("ps", "-aq") == ""
    types = [
        event["type"] for event in longshore.lines("events", "--no-follow", "--container", "web", "--format", "json")
    ]
    assert types == ["start-container", "exit-process", "pause", "resume", "exit", "delete"]


def test_logs_keep_the_streams_apart(longshore: Longshore) -> None:
    kept(longshore, script="echo out; echo err >&2; printf unended")
    longshore.ok("wait", "web")
    done = longshore("logs", "web")
    assert (done.stdout, done.stderr) == (b"out\nunended", b"err\n")
    assert longshore("logs", "--stream", "stderr", "web").stdout == b""
    tagged = longshore.ok("logs", "--tags", "web").splitlines()
    assert sorted(tagged) == ["stderr err", "stdout out", "stdout unended"]
    stamped = longshore.ok("logs", "-t", "--stream", "stdout", "web").splitlines()[0]
    assert stamped.endswith("Z out")
    lines = longshore.lines("logs", "--format", "json", "web")
    assert {(line["stream"], line["data"]) for line in lines} == {
        ("stdout", "out\n"), ("stderr", "err\n"), ("stdout", "unended"),
    }  # fmt: skip
    assert longshore.ok("logs", "--since", "1h", "--stream", "stdout", "web") == "out\nunended"
    assert longshore.ok("logs", "--since", "2999-01-01", "web") == ""


def test_the_last_lines_of_a_log_and_what_comes(longshore: Longshore) -> None:
    kept(longshore, script="seq 100; exec sleep 1000")
    wait_until(lambda: longshore.ok("logs", "--tail", "1", "web") == "100\n")
    assert longshore.ok("logs", "-n", "3", "web") == "98\n99\n100\n"
    assert longshore.ok("logs", "-n", "0", "web") == ""


def test_following_a_log_ends_with_the_container(longshore: Longshore) -> None:
    kept(longshore)
    process = longshore.start("logs", "-f", "web")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    longshore.ok("exec", "web", "sh", "-c", "echo from exec > /proc/1/fd/1 || true")
    longshore.ok("stop", "web")
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_output_that_is_not_text_is_shown_as_it_is_and_told_in_base64(longshore: Longshore) -> None:
    kept(longshore, script="printf '\\377\\376\\n'")
    longshore.ok("wait", "web")
    assert longshore("logs", "web").stdout == b"\xff\xfe\n"
    assert longshore.lines("logs", "--format", "json", "web")[0]["base64"] == "//4K"


def test_interrupting_what_follows_is_quiet(longshore: Longshore) -> None:
    kept(longshore)
    for words in (["logs", "-f", "web"], ["events", "--since", "0"], ["stats", "--format", "json"]):
        process = longshore.start(*words)
        assert process.stdout is not None
        assert process.stdout.readline() != b""
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (130, b"" if words[0] != "logs" else b"problem\n"), words
    process = longshore.start("wait", "web")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode in (143, -signal.SIGTERM)


def test_a_reader_that_goes_away_is_no_error(longshore: Longshore) -> None:
    kept(longshore, script="seq 200000")
    longshore.ok("wait", "web")
    process = longshore.start("logs", "web")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_exec_has_streams_code_and_settings_of_its_own(each_runtime: Longshore) -> None:
    longshore = each_runtime
    kept(longshore, "web", "-e", "OUTER=1", "-w", "/tmp")
    done = longshore("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 9)
    script = "echo $OUTER $INNER; pwd; id -u"
    assert longshore.ok("exec", "-e", "INNER=2", "web", "sh", "-c", script).split() == ["1", "2", "/tmp", "65534"]
    assert longshore.ok("exec", "-e", "INNER=2", "-w", "/", "-u", "5", "web", "sh", "-c", script).split() == [
        "1",
        "2",
        "/",
        "5",
    ]
    assert longshore("exec", "-i", "web", "cat", input=b"x" * 1_000_000).stdout == b"x" * 1_000_000
    assert longshore("exec", "web", "cat", input=b"x").stdout == b""
    assert longshore("exec", "web", "/nonexistent").returncode == 127
    assert longshore("exec", "web", "/etc/passwd").returncode == 126
    assert longshore("exec", "web", "sh", "-c", "kill -9 $$").returncode == 137
    done = longshore("exec", "--timeout", "0.3", "web", "sh", "-c", "echo begun; sleep 60")
    assert (done.stdout, done.returncode) == (b"begun\n", 124)
    assert b"0.3 s" in done.stderr


def test_what_an_exec_leaves_running_does_not_hold_our_streams(longshore: Longshore) -> None:
    kept(longshore)
    begin = time.monotonic()
    assert longshore.ok("exec", "web", "sh", "-c", "sleep 1000 & echo done") == "done\n"
    assert time.monotonic() - begin < 500


def test_signals_are_passed_on_to_an_exec(longshore: Longshore) -> None:
    kept(longshore)
    script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = longshore.start("exec", "web", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert (out, err, process.returncode) == (b"got it\n", b"", 9)


def test_an_exec_ends_with_the_program_that_runs_it(longshore: Longshore) -> None:
    kept(longshore)
    process = longshore.start("exec", "web", "sh", "-c", "echo ready; sleep 1233 & sleep 1234")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert "sleep 1234" in longshore.ok("top", "web")
    process.kill()
    process.communicate()
    wait_until(lambda: "sleep 123" not in longshore.ok("top", "web"))
    assert longshore.json("inspect", "web")[0]["state"] == "running"


def test_a_detached_exec_has_a_name_and_runs_on(longshore: Longshore) -> None:
    kept(longshore)
    assert longshore.ok("exec", "-d", "--name", "job", "web", "sleep", "1234") == "job\n"
    assert "sleep 1234" in longshore.ok("top", "web")
    done = longshore("exec", "--name", "job", "web", "true")
    assert done.returncode == 125
    assert b"the name is taken" in done.stderr
    longshore.ok("signal", "web", "TERM", "--process", "job")
    wait_until(lambda: "sleep 123" not in longshore.ok("top", "web"))
    wait_until(lambda: longshore.json("inspect", "web")[0]["processes"]["job"]["exit"] is not None)
    assert longshore.json("inspect", "web")[0]["processes"]["job"]["exit"]["code"] == 143
    done = longshore("exec", "-d", "web", "/nonexistent")
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"no such command" in done.stderr


def test_no_process_is_given_the_machines_null_device(each_runtime: Longshore) -> None:
    """Its owner may change its mode, and a runtime gives it away."""
    kept(each_runtime)
    each_runtime.ok("exec", "web", "chmod", "600", "/proc/self/fd/0")
    each_runtime("run", "host", "--", "chmod", "600", "/proc/self/fd/0")
    status = os.stat("/dev/null")
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o666, 0, 0)


def test_kill_and_signal_reach_the_command(longshore: Longshore) -> None:
    kept(longshore)
    assert longshore.ok("kill", "-s", "TERM", "web") == "web\n"
    assert longshore.ok("wait", "web") == "3\n"
    kept(longshore, "two")
    longshore.ok("signal", "two", "15")
    assert longshore.ok("wait", "two") == "3\n"
    kept(longshore, "three")
    longshore.ok("kill", "three")
    assert longshore.ok("wait", "three") == "137\n"


def test_stop_kills_after_the_grace(longshore: Longshore) -> None:
    kept(longshore, "web", "--no-init", script="trap '' TERM; while :; do sleep 0.05; done")
    begin = time.monotonic()
    longshore.ok("stop", "-t", "0.5", "web")
    assert time.monotonic() - begin < 10
    assert longshore.ok("wait", "web") == "137\n"


def test_what_is_used_is_shown(each_runtime: Longshore) -> None:
    longshore = each_runtime
    kept(longshore, "web", "-m", "64m", "--pids-limit", "50")
    [stats] = longshore.lines("stats", "--no-stream", "--format", "json", "web")
    assert stats["container"] == "web"
    assert stats["memory_limit"] == 64 << 20
    assert stats["pids_limit"] == 50
    assert stats["memory"] > 0
    text = longshore.ok("stats", "--no-stream").splitlines()
    assert text[0].split()[0] == "CONTAINER"
    assert text[1].startswith("web ")
    longshore.ok("update", "-m", "96m", "--pids-limit", "60", "web")
    [stats] = longshore.lines("stats", "--no-stream", "--format", "json", "web")
    assert (stats["memory_limit"], stats["pids_limit"]) == (96 << 20, 60)


def test_a_stream_of_stats_ends_with_the_container(longshore: Longshore) -> None:
    kept(longshore)
    process = longshore.start("stats", "--interval", "0.1", "--format", "json", "web")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["container"] == "web"
    assert json.loads(process.stdout.readline())["cpu_percent"] is not None
    longshore.ok("stop", "web")
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_processes_are_listed(longshore: Longshore) -> None:
    kept(longshore, script="exec sleep 4321")
    wait_until(lambda: "sleep 4321" in longshore.ok("top", "web"))
    pids = longshore.ok("pids", "web").split()
    assert (
        len(pids)
        == len(longshore.json("top", "--format", "json", "web"))
        == len(longshore.json("pids", "--format", "json", "web"))
    )
    assert any(Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x004321\x00" for pid in pids)


def test_ps_shows_some_by_label_state_and_name(longshore: Longshore) -> None:
    kept(longshore, "web", "-l", "role=front", "-l", "ci")
    kept(longshore, "db", "-l", "role=back")
    longshore.ok("create", "--name", "later", "host", "--", "true")

    def shown(*words: str) -> list[str]:
        return longshore.ok("ps", "-q", *words).split()

    assert shown() == ["web", "db"]
    assert shown("-a") == ["web", "db", "later"]
    assert shown("--filter", "label=ci") == ["web"]
    assert shown("--filter", "label=role=back") == ["db"]
    assert shown("--filter", "state=created") == ["later"]
    assert shown("-a", "--filter", "name=e") == ["web", "later"]
    assert longshore("ps", "--filter", "state=odd").returncode == 125
    assert longshore("ps", "--filter", "nonsense").returncode == 125
    assert longshore.ok("ps").splitlines()[0].split() == ["CONTAINER", "STATE", "PID", "ROOT", "CREATED", "COMMAND"]


def test_commands_of_strangers_cannot_paint_the_terminal(longshore: Longshore) -> None:
    longshore.ok("create", "--name", "evil", "host", "--", "sh", "-c", "true", "\x1b[2J\x1b]0;x\x07\nFAKE ROW")
    for words in (["ps", "-a"], ["ps", "-a", "--no-trunc"]):
        text = longshore.ok(*words)
        assert "\x1b" not in text
        assert len(text.splitlines()) == 2
    assert longshore.json("ps", "-a", "--format", "json")[0]["command"][-1] == "\x1b[2J\x1b]0;x\x07\nFAKE ROW"


def test_events_are_followed_and_resumed_from_a_number(longshore: Longshore) -> None:
    process = longshore.start("events", "--format", "json")
    wait_until((Path(longshore.environment["LONGSHORE_ROOT"]) / "lib" / "journal").is_dir)
    first = json.loads(_line_after(process, longshore))
    kept(longshore, script="exit 4")
    longshore.ok("wait", "web")
    assert process.stdout is not None
    seen = [first]
    while not (seen[-1]["type"] == "exit" and seen[-1]["container"] == "web"):
        seen.append(json.loads(process.stdout.readline()))
    process.terminate()
    process.communicate(timeout=300)
    assert seen[-1]["exit"]["code"] == 4
    numbers = [event["seq"] for event in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    rest = longshore.lines("events", "--since", str(numbers[-2]), "--no-follow", "--format", "json")
    assert [event["seq"] for event in rest] == [numbers[-1]]
    assert "exit" in longshore.ok("events", "--since", "1h", "--no-follow")
    assert longshore.ok("events", "--since", "2999-01-01", "--no-follow") == ""


def _line_after(process: subprocess.Popen[bytes], longshore: Longshore) -> bytes:
    """The first event that it shows: made until it is there to see one."""
    import select

    assert process.stdout is not None
    while not select.select([process.stdout], [], [], 0)[0]:
        longshore.ok("run", "host", "--", "true")
    return process.stdout.readline()


def test_several_containers_can_be_named_and_a_failure_does_not_stop_the_rest(longshore: Longshore) -> None:
    kept(longshore, "one")
    kept(longshore, "two")
    done = longshore("stop", "one", "missing", "two")
    assert done.returncode == 125
    assert sorted(done.stdout.split()) == [b"one", b"two"]
    assert b"`missing`" in done.stderr
    assert longshore.ok("wait", "one", "two") == "3\n3\n"
    done = longshore("inspect", "one", "missing")
    assert done.returncode == 125
    assert [found["id"] for found in json.loads(done.stdout)] == ["one"]
    assert longshore.ok("rm", "one", "two") == "one\ntwo\n"


def test_a_container_is_not_removed_while_it_runs_unless_forced(longshore: Longshore) -> None:
    kept(longshore)
    done = longshore("rm", "web")
    assert done.returncode == 125
    assert b"running" in done.stderr
    assert longshore.ok("rm", "-f", "web") == "web\n"


def test_attach_shows_output_and_passes_the_exit_code(longshore: Longshore) -> None:
    kept(longshore, script="echo early; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo late; echo err >&2; exit 4")
    wait_until(lambda: longshore.ok("logs", "web") == "early\n")
    process = longshore.start("attach", "web")
    _until_attached(process)
    longshore.ok("exec", "web", "touch", "/tmp/go")
    out, err = process.communicate(timeout=300)
    assert (out, err, process.returncode) == (b"late\n", b"err\n", 4)
    done = longshore("attach", "web")
    assert done.returncode == 125
    assert b"stopped" in done.stderr


def _until_attached(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has the container's log open."""

    def attached() -> bool:
        links = [link for link in Path(f"/proc/{process.pid}/fd").iterdir() if link.is_symlink()]
        return any(str(link.readlink()).endswith("/log") for link in links)

    wait_until(attached)


def test_an_input_that_would_end_at_once_is_refused(longshore: Longshore) -> None:
    done = longshore("run", "-di", "host", "--", "cat")
    assert done.returncode == 125
    assert b"-dit" in done.stderr


def test_start_attached_shows_all_from_the_first_byte(longshore: Longshore) -> None:
    longshore.ok("create", "--name", "job", "host", "--", "sh", "-c", "echo out; echo err >&2; exit 4")
    done = longshore("start", "-a", "job")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 4)
    longshore.ok("create", "-i", "--name", "copy", "host", "--", "cat")
    done = longshore("start", "-i", "copy", input=b"hello\n")
    assert (done.stdout, done.returncode) == (b"hello\n", 0)
    done = longshore("start", "job")
    assert done.returncode == 125
    assert b"stopped" in done.stderr


def test_the_size_of_a_terminal_can_be_set(longshore: Longshore) -> None:
    longshore.ok("run", "-dt", "--name", "shell", "host", "--", "sh", "-c", "while :; do stty size; sleep 0.05; done")
    longshore.ok("resize", "shell", "41", "123")
    wait_until(lambda: longshore.ok("logs", "-n", "1", "shell").strip() == "41 123")
    kept(longshore)
    assert longshore("resize", "web", "41", "123").returncode == 125
    assert longshore("resize", "shell", "0", "5").returncode == 125


def test_doctor_version_and_restore_answer(longshore: Longshore) -> None:
    text = longshore.ok("doctor")
    assert all(line.split()[0] in ("yes", "no", "->") for line in text.splitlines())
    found = longshore.json("doctor", "--format", "json")
    assert found["items"]["run"]["supported"] is True
    assert longshore.json("version", "--format", "json")["longshore"]
    assert "conmon" in longshore.ok("version")
    kept(longshore)
    assert longshore.ok("restore").split() == ["running", "web"]
    assert longshore.json("restore", "--format", "json") == {
        "running": ["web"],
        "ended": [],
        "undone": [],
        "hidden": [],
    }


def test_a_live_table_without_rich_is_printed_again_and_again_without_a_complaint(longshore: Longshore) -> None:
    import sys

    kept(longshore)
    without = "import sys; sys.modules['rich'] = None; from longshore.cli import main; main()"
    argv = [sys.executable, "-c", without, "stats", "--interval", "0.1"]
    with Terminal(argv, longshore.environment, (24, 120)) as terminal:
        assert b"rich" not in terminal.expect(b"CPU %")
        terminal.expect(b"CPU %")
        terminal.type(b"\x03")
        assert terminal.wait() == 130


def test_a_locale_that_cannot_spell_a_name_is_no_obstacle(longshore: Longshore) -> None:
    longshore.ok("create", "--name", "web", "host", "--", "echo", "naïve")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = longshore.ok("ps", "-a", env=ascii_only)
    assert "na\\xefve" in text
    assert "naïve" in longshore.ok("ps", "-a", env={"PYTHONUTF8": "1"})
