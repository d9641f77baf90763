"""Terminals: sizes, keys, detaching, and a terminal that is restored on every path."""

from __future__ import annotations

import signal

import pytest

from .command import Longshore

pytestmark = pytest.mark.real

PROGRAM = """
import os, signal, sys, termios
def show(*_):
    size = os.get_terminal_size(0)
    os.write(1, b"size:%d %d\\n" % (size.lines, size.columns))  # print may be what it interrupts
mode = termios.tcgetattr(0)
mode[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, mode)
signal.signal(signal.SIGWINCH, show)
show()
for line in sys.stdin:
    print("got:" + line.strip(), flush=True)
"""
SHELL = ["python3", "-c", PROGRAM]  # tells its size, and what it is told


def test_a_shell_at_a_terminal_can_be_talked_to(each_runtime: Longshore) -> None:
    with each_runtime.at_terminal("run", "-it", "host", "--", "sh", size=(33, 77)) as terminal:
        terminal.expect(b"$ ")
        terminal.type(b"stty size; tty; echo $((6*7))\n")
        terminal.expect(b"33 77\r\n/dev/pts/0\r\n42\r\n")
        terminal.type(b"exit 5\n")
        assert terminal.wait() == 5
        assert terminal.restored
    assert each_runtime.ok("ps", "-aq") == ""


def test_a_changed_window_is_a_changed_terminal(each_runtime: Longshore) -> None:
    with each_runtime.at_terminal("run", "-it", "host", "--", *SHELL, size=(33, 77)) as terminal:
        terminal.expect(b"size:33 77")
        terminal.resize(44, 101)
        terminal.expect(b"size:44 101")
        terminal.type(b"\x04")
        assert terminal.wait() == 0


def test_an_exec_has_a_terminal_of_its_own_and_follows_the_window(each_runtime: Longshore) -> None:
    each_runtime.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    with each_runtime.at_terminal("exec", "-it", "web", "--", *SHELL, size=(33, 77)) as terminal:
        terminal.expect(b"size:33 77")
        terminal.type(b"hello\n")
        terminal.expect(b"got:hello")
        terminal.resize(44, 101)
        terminal.expect(b"size:44 101")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
        assert terminal.restored


def test_ctrl_c_reaches_the_command_not_us(longshore: Longshore) -> None:
    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with longshore.at_terminal("run", "-it", "host", "--", "sh", "-c", script) as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x03")
        terminal.expect(b"interrupted")
        assert terminal.wait() == 3
        assert terminal.restored


def test_who_leaves_what_was_to_be_removed_is_told_that_it_stays(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "--rm", "--name", "shell", "host", "--", *SHELL) as terminal:
        terminal.expect(b"size:24 80")
        terminal.type(b"\x10\x11")
        terminal.expect(b"and stays until `longshore rm -f shell`")
        assert terminal.wait() == 0


def test_detach_keys_leave_it_running_and_attach_comes_back(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "--name", "shell", "host", "--", *SHELL) as terminal:
        terminal.expect(b"size:24 80")
        terminal.type(b"first\n")
        terminal.expect(b"got:first")
        terminal.type(b"\x10\x11")
        terminal.expect(b"runs on")
        assert terminal.wait() == 0
        assert terminal.restored
    assert longshore.json("ps", "--format", "json")[0]["id"] == "shell"
    with longshore.at_terminal("attach", "shell", size=(30, 90)) as terminal:
        terminal.expect(b"size:30 90")
        terminal.type(b"again\n")
        terminal.expect(b"got:again")
        terminal.type(b"\x10")
        terminal.type(b"\x11")
        assert terminal.wait() == 0
        assert terminal.restored
    with longshore.at_terminal("attach", "--detach-keys", "ctrl-a,d", "shell") as terminal:
        terminal.type(b"third\n")
        terminal.expect(b"got:third")
        terminal.type(b"\x01d")
        assert terminal.wait() == 0
    with longshore.at_terminal("attach", "shell") as terminal:
        terminal.type(b"fourth\n")
        terminal.expect(b"got:fourth")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
    assert longshore.json("inspect", "shell")[0]["exit"]["code"] == 0


def test_a_created_shell_can_be_started_at_the_terminal(longshore: Longshore) -> None:
    longshore.ok("create", "-it", "--name", "shell", "host", "--", *SHELL)
    with longshore.at_terminal("start", "-ai", "shell", size=(35, 95)) as terminal:
        terminal.expect(b"size:35 95")
        terminal.type(b"hello\n")
        terminal.expect(b"got:hello")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
        assert terminal.restored
    assert longshore.json("inspect", "shell")[0]["state"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_us_is_passed_on_and_the_terminal_restored(longshore: Longshore, number: signal.Signals) -> None:
    script = "trap 'exit 6' TERM HUP; echo ready; while :; do sleep 0.05; done"
    with longshore.at_terminal("run", "-it", "host", "--", "sh", "-c", script) as terminal:
        terminal.expect(b"ready")
        terminal.signal(number)
        assert terminal.wait() == 6
        assert terminal.restored
    assert longshore.ok("ps", "-aq") == ""


def test_the_terminal_is_restored_when_the_container_is_killed_by_another(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "--name", "shell", "host", "--", *SHELL) as terminal:
        terminal.expect(b"size:24 80")
        longshore.ok("kill", "shell")
        assert terminal.wait() == 137
        assert terminal.restored
    assert longshore.ok("ps", "-aq") == ""


def test_the_terminal_is_restored_when_the_command_is_not_there(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "host", "--", "/nonexistent") as terminal:
        assert terminal.wait() == 127
        assert terminal.restored
    assert longshore.ok("ps", "-aq") == ""


def test_a_closed_window_ends_the_container(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "host", "--", "sh") as terminal:
        terminal.expect(b"$ ")
        terminal.hang_up()
        assert terminal.process.wait(20) in (129, 130, 137)
    assert longshore.ok("ps", "-aq") == ""


def test_a_closed_window_leaves_what_it_was_only_attached_to(longshore: Longshore) -> None:
    longshore.ok("run", "-dit", "--name", "shell", "host", "--", *SHELL)
    with longshore.at_terminal("attach", "--sig-proxy=false", "shell") as terminal:
        terminal.type(b"hello\n")
        terminal.expect(b"got:hello")
        terminal.hang_up()
        assert terminal.process.wait(20) == 129
    assert longshore.json("inspect", "shell")[0]["state"] == "running"


def test_a_time_limit_ends_it_at_a_terminal_too(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-it", "--timeout", "0.5", "host", "--", "sleep", "1000") as terminal:
        assert terminal.wait() == 124
        assert terminal.restored
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    with longshore.at_terminal("exec", "-it", "--timeout", "0.5", "web", "--", "sleep", "1000") as terminal:
        assert terminal.wait() == 124
        assert terminal.restored


def test_a_terminal_that_is_not_there_is_asked_for_in_vain(longshore: Longshore) -> None:
    done = longshore("run", "-it", "host", "--", "sh")
    assert done.returncode == 125
    assert b"not a terminal" in done.stderr
    done = longshore("run", "-t", "host", "--", "tty")
    assert (done.stdout, done.returncode) == (b"/dev/pts/0\r\n", 0)


def test_input_at_a_terminal_without_t_is_lines(longshore: Longshore) -> None:
    with longshore.at_terminal("run", "-i", "host", "--", "cat") as terminal:
        terminal.type(b"abc\n")
        terminal.expect(b"abc\r\nabc\r\n")  # once by the terminal's echo, once by cat
        terminal.type(b"\x04")
        assert terminal.wait() == 0


def test_stats_on_a_terminal_is_a_table_that_stays_in_its_place(longshore: Longshore) -> None:
    longshore.ok("run", "-d", "--name", "web", "host", "--", "sleep", "infinity")
    with longshore.at_terminal("stats", "--interval", "0.2", size=(24, 120)) as terminal:
        terminal.expect(b"CPU %")
        terminal.expect(b"web")
        terminal.expect(b"\x1b[1A")  # back to the line above, to draw it again
        terminal.expect(b"web")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert b"\x1b[?25h" in terminal.screen  # the cursor is shown again
        assert terminal.restored
