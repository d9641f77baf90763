"""The blocking twin: the same engine, for programs without a loop; on both temperaments of the simulator.

What needs a program of its own (Ctrl-C, fork, the end of the interpreter) runs one.
"""

from __future__ import annotations

import _thread
import asyncio
import importlib.util
import inspect
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, BinaryIO, TypeVar, cast

import pytest

import longshore
from longshore import Event, Gap, LogGap, LogRecord, sync
from longshore.compute.values import now
from longshore.engine import container, engine
from longshore.simulator import Process, Simulator, Temperament
from longshore.sync import loop_thread

from ..descriptors import open_files
from ..needs import needs

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 300  # seconds after which a test that hangs is interrupted
TWINS = {
    sync.Engine: engine.Engine,
    sync.Container: container.Container,
    sync.Process: container.Process,
    sync.Attachment: container.Attachment,
}
KINDS = (
    (r"asyncio\.StreamReader", "Reader"),
    (r"asyncio\.StreamWriter", "Writer"),
    (r"AsyncGenerator\[(.*), None\]", r"ClosingIterator[\1]"),
)

T = TypeVar("T")


class Hangs(BaseException):
    """A test took too long."""


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """Interrupt a test that hangs."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Hangs

    if hasattr(signal, "SIGALRM"):  # Windows has nothing that interrupts itself: there, it hangs
        before = signal.signal(signal.SIGALRM, handler)
        signal.alarm(LIMIT)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    else:
        yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "longshore"] == []


@pytest.fixture(params=["oci", "hcs"])
def simulator(request: pytest.FixtureRequest) -> Simulator:
    """The service, in both temperaments."""
    temperament: Temperament = request.param
    return Simulator(temperament)


@pytest.fixture
def blocking(simulator: Simulator) -> Iterator[sync.Engine]:
    """A blocking engine on the simulator."""
    with sync.Engine(simulator) as made:
        yield made


@pytest.fixture
def box(blocking: sync.Engine) -> sync.Container:
    """A container that runs until TERM."""
    return blocking.launch("web", args=["trap"])


def name_of(event: Event | Gap) -> str:
    """What happened to which container."""
    assert isinstance(event, Event)
    return f"{event.type} {event.container}"


def data_of(record: LogRecord | LogGap) -> bytes:
    assert isinstance(record, LogRecord)
    return record.data


def interrupt_when(condition: Callable[[], object], times: int = 1) -> threading.Thread:
    """Press Ctrl-C once the condition holds."""

    def press() -> None:
        while not condition():
            time.sleep(0.001)
        for _ in range(times):
            press_once()
            time.sleep(0.02)

    def press_once() -> None:
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()  # what the console's handler does on Windows

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def main_thread_waits() -> bool:
    """Whether the main thread is inside a blocking call."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return frame is not None and frame.f_code.co_filename == loop_thread.__file__ and frame.f_code.co_name == "wait"


def python(source: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; what it writes to its standard error is worth a look."""
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **more)


# one source for every signature


def the_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sync", ROOT / "scripts" / "make_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not (ROOT / "scripts" / "make_sync.py").exists(), reason="not a checkout")
def test_the_blocking_module_is_what_the_asyncio_classes_say() -> None:
    assert the_script().up_to_date(), "run python scripts/make_sync.py"


def parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any, str]]:
    """Kind, default and annotation of the public parameters."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = str(parameter.annotation)
        for asynchronous, blocking in KINDS:
            annotation = re.sub(asynchronous, blocking, annotation)
        if not name.startswith("_"):
            found[name] = (parameter.kind, parameter.default, annotation)
    return found


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_both_forms_have_the_same_names_parameters_defaults_and_docstrings(twin: type) -> None:
    original = TWINS[twin]
    functions = {name: each for name, each in vars(original).items() if not name.startswith("_")}
    missing = {name for name in functions if not hasattr(twin, name)}
    assert missing == set()

    for name, each in functions.items():
        other = vars(twin)[name]
        if isinstance(each, property):
            assert isinstance(other, property)
            continue
        expected, found = parameters(each), parameters(other)
        if name == "wait":
            found.pop("timeout")
        assert list(found) == list(expected), name
        assert found == expected, name
        assert not inspect.iscoroutinefunction(other), name
        assert inspect.getdoc(each) is not None, name
        assert (inspect.getdoc(other) or "").startswith(inspect.getdoc(each) or "-"), name

    assert parameters(twin.__init__).keys() <= parameters(original.__init__).keys() | {"args", "kwargs"}  # type: ignore[misc]
    added = {name for name in vars(twin) if not name.startswith("_") and name not in functions}
    assert added <= {"container_id", "name", "args", "exit", "init", "stdin"}, "attributes of the other form"


def test_the_engine_opens_with_the_same_parameters() -> None:
    assert parameters(sync.Engine) == parameters(engine.Engine)


def test_run_takes_what_the_engine_and_its_run_take() -> None:
    expected = parameters(engine.Engine.run) | parameters(engine.Engine.__init__)
    expected = {name: what for name, what in expected.items() if name != "self"}
    found = parameters(sync.run)
    assert found.keys() == expected.keys()
    for name, (_, default, annotation) in expected.items():
        assert found[name][1:] == (default, annotation), name


# running


def test_run_collects_what_a_command_writes(simulator: Simulator) -> None:
    done = longshore.run("host", ["echo", "hi"], service=simulator)
    assert (done.exit_code, done.text) == (0, "hi\n")
    assert simulator.systems == {}


def test_run_feeds_input(simulator: Simulator) -> None:
    data = os.urandom(1 << 20)
    assert longshore.run("host", ["cat"], input=data, service=simulator).stdout == data


def test_run_raises_what_the_asyncio_form_raises(simulator: Simulator) -> None:
    with pytest.raises(longshore.CommandNotFound):
        longshore.run("host", ["no-such-command"], service=simulator)
    with pytest.raises(longshore.CommandFailed) as failed:
        longshore.run("host", ["exit", "3"], check=True, service=simulator)
    assert failed.value.result.exit_code == 3
    with pytest.raises(longshore.TimeLimit) as late:
        longshore.run("host", ["trap", "begun"], timeout=0.2, service=simulator)
    assert late.value.result is not None
    assert late.value.result.text == "begun\n"
    with pytest.raises(TypeError):
        longshore.run("host", "echo hi", service=simulator)
    assert simulator.systems == {}


async def test_it_works_inside_a_running_loop(simulator: Simulator) -> None:
    assert longshore.run("host", ["echo", "hi"], service=simulator).text == "hi\n"
    with sync.Engine(simulator) as blocking:
        box = blocking.launch("web", args=["trap"])
        assert box.exec(["echo", "in"]).communicate() == (b"in\n", b"")
        assert box.stop().code == 0
    await asyncio.sleep(0)  # and the loop goes on


def test_many_runs_leave_neither_threads_nor_descriptors(simulator: Simulator) -> None:
    longshore.run("host", ["true"], service=simulator)
    before = len(open_files())
    for _ in range(30):
        longshore.run("host", ["true"], service=simulator)
    assert len(open_files()) <= before


# processes and streams


def test_streams_are_binary_files(box: sync.Container) -> None:
    process = box.exec(["cat"], stdin=longshore.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdin.write(b"one\ntwo\n") == 8
    assert process.stdout.readline() == b"one\n"
    process.stdin.writelines([b"three\n", b"fo"])
    process.stdin.write(memoryview(b"ur\nrest"))
    process.stdin.close()
    assert process.stdin.closed
    assert next(process.stdout) == b"two\n"
    assert process.stdout.read(3) == b"thr"
    assert process.stdout.readline(2) == b"ee"
    assert list(process.stdout) == [b"\n", b"four\n", b"rest"]
    assert process.stdout.read() == b""
    assert process.wait().code == 0
    with pytest.raises(ValueError, match="closed"):
        process.stdin.write(b"more")


def test_a_stream_can_be_read_as_text(box: sync.Container) -> None:
    process = box.exec(["echo", "grüße"])
    assert process.stdout is not None
    with io.TextIOWrapper(cast("BinaryIO", process.stdout), encoding="utf-8") as text:
        assert text.read() == "grüße\n"


def test_a_line_of_any_length_comes_whole(box: sync.Container) -> None:
    line = b"x" * (3 << 20) + b"\n"
    process = box.exec(["cat"], stdin=longshore.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(process.stdin.write, line + b"end")
        assert process.stdout.readline() == line
        writing.result()
    process.stdin.close()
    assert process.stdout.read() == b"end"


def test_communicate_has_what_was_read_ahead(box: sync.Container) -> None:
    process = box.exec(["cat"], stdin=longshore.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\ntwo\n")
    assert process.stdout.readline() == b"one\n"
    assert process.communicate(b"three\n") == (b"two\nthree\n", b"")


def test_an_error_of_communicate_has_what_was_read_ahead(box: sync.Container) -> None:
    process = box.exec(["cat"], stdin=longshore.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\ntwo\n")
    assert process.stdout.readline() == b"one\n"
    other = box.exec(["trap", "first\nsecond"])
    assert other.stdout is not None
    assert other.stdout.readline() == b"first\n"
    with pytest.raises(longshore.TimeLimit) as late:
        other.communicate(timeout=0.05)
    assert late.value.result is not None
    assert late.value.result.stdout == b"second\n"
    process.kill()


def test_waiting_is_limited_and_what_is_waited_for_goes_on(box: sync.Container) -> None:
    process = box.exec(["sleep", "infinity"])
    with pytest.raises(longshore.TimeLimit, match="did not end within"):
        process.wait(timeout=0.05)
    with pytest.raises(longshore.TimeLimit, match="container `web`"):
        box.wait(timeout=0.05)
    assert process.returncode is None
    process.kill()
    assert process.wait(timeout=300).cause is longshore.Cause.KILLED
    box.kill()
    assert box.wait(timeout=300).cause is longshore.Cause.KILLED


def test_a_reader_closed_by_another_thread_ends_the_read(box: sync.Container) -> None:
    process = box.exec(["trap"])
    stream = process.stdout
    assert stream is not None
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(stream.read)
        with pytest.raises(TimeoutError):
            reading.result(0.05)
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            reading.result(10)
    process.kill()


def test_writing_to_a_process_that_has_gone_fails(box: sync.Container) -> None:
    process = box.exec(["true"], stdin=longshore.PIPE)
    process.wait()
    assert process.stdin is not None
    with pytest.raises(ConnectionError):
        for _ in range(100):
            process.stdin.write(b"x" * 100_000)
    process.stdin.close()


def test_the_same_object_stands_for_the_same_process(blocking: sync.Engine, box: sync.Container) -> None:
    process = box.exec(["sleep", "infinity"], name="nap")
    assert box.process("nap") is process
    assert blocking.get("web").process("nap") is process
    assert process.stdout is process.stdout
    assert box.init is box.init
    assert (process.name, process.container_id, process.args) == ("nap", "web", ["sleep", "infinity"])
    assert process.exit is None
    process.kill()
    assert process.wait() is process.exit


def test_the_output_of_a_kept_container_can_be_attached_to(blocking: sync.Engine) -> None:
    box = blocking.create("cat", args=["cat"], stdin=longshore.PIPE)
    box.start()
    with box.attach(stdin=True, logs=True) as attached:
        assert attached.stdin is not None
        attached.stdin.write(b"there\n")
        assert attached.stdout.readline() == b"there\n"
        attached.stdin.close()
        assert attached.wait(timeout=300).code == 0
        assert attached.stdout.read() == b""


# iterators


def test_events_are_those_from_the_call_on(blocking: sync.Engine) -> None:
    box = blocking.create("web", args=["true"])
    with blocking.events() as events:
        box.start()
        assert [name_of(event) for event in itertools.islice(events, 2)] == ["start-container web", "exit web"]
    assert list(events) == []


def test_events_that_are_past_come_all_and_end(blocking: sync.Engine, box: sync.Container) -> None:
    for _ in range(100):
        box.exec(["true"]).wait()
    box.stop()
    numbers = [event.seq for event in blocking.events(since=0, follow=False) if isinstance(event, Event)]
    assert numbers == list(range(1, 103))


def test_the_log_is_followed_to_the_end(blocking: sync.Engine) -> None:
    box = blocking.launch("web", args=["trap", "ready"])
    records = box.logs(follow=True)
    assert data_of(next(records)) == b"ready\n"
    box.stop()
    assert list(records) == []


def test_an_iterator_closed_by_another_thread_ends(blocking: sync.Engine) -> None:
    events = blocking.events()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, events)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        events.close()
        assert waiting.result(10) == []
    events.close()


def test_an_iterator_that_was_dropped_watches_nothing_any_more(blocking: sync.Engine, box: sync.Container) -> None:
    for event in blocking.events(since=0):
        assert name_of(event) == "start-container web"
        break
    core = blocking._inner._state
    deadline = time.monotonic() + 10
    while core.subscriptions and time.monotonic() < deadline:
        blocking.version()  # a turn of its loop
    assert not core.subscriptions


def test_an_iterator_interrupted_in_its_wait_can_be_gone_on_with(blocking: sync.Engine, box: sync.Container) -> None:
    events = blocking.events()
    pressing = interrupt_when(main_thread_waits)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    pressing.join()
    box.stop()
    assert name_of(next(events)) == "exit web"
    events.close()


def test_stats_are_measured_when_they_are_asked_for(box: sync.Container) -> None:
    with box.watch_stats(interval=0.01) as stats:
        next(stats)
        asked = now()
        assert next(stats).at >= asked
    assert list(stats) == []


def test_iterators_end_with_the_engine(blocking: sync.Engine, box: sync.Container) -> None:
    events = blocking.events()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, events)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        blocking.close()
        waiting.result(10)
    assert list(events) == []


# many threads, one engine


def test_threads_share_one_engine(blocking: sync.Engine) -> None:
    def work(number: int) -> bytes:
        return blocking.run("host", ["echo", str(number)]).stdout

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(200))) == [b"%d\n" % number for number in range(200)]


def test_one_of_two_starts_at_once_fails(blocking: sync.Engine) -> None:
    box = blocking.create("web", args=["trap"])

    def start(_: int) -> str:
        try:
            box.start()
        except longshore.InvalidState:
            return "refused"
        return "started"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(start, range(2))) == ["refused", "started"]


def test_a_call_in_the_engines_own_thread_is_refused() -> None:
    errors: list[str] = []

    async def calls(process: Process) -> int:
        try:
            own.version()
        except RuntimeError as error:
            errors.append(str(error))
        return 0

    with sync.Engine(Simulator(programs={"calls": calls})) as own:
        own.run("host", ["calls"])
    assert errors == ["a blocking call in the engine's own thread would wait for itself"]


# the end of an engine


def test_a_closed_engine_refuses_and_closing_again_is_fine(simulator: Simulator) -> None:
    blocking = sync.Engine(simulator)
    box = blocking.launch("web", args=["trap"])
    process = box.exec(["sleep", "infinity"])
    blocking.close()
    blocking.close(grace=1)
    for call in (blocking.version, box.info, process.wait, blocking.list, box.watch_stats):
        if call is process.wait:
            continue
        with pytest.raises(longshore.EngineClosed):
            call()
    assert process.exit is not None
    assert process.exit.cause is longshore.Cause.KILLED


def test_an_engine_never_used_can_be_closed() -> None:
    sync.Engine(Simulator()).close()


def test_who_waits_while_the_engine_closes_is_told(simulator: Simulator) -> None:
    blocking = sync.Engine(simulator)
    box = blocking.launch("web", args=["trap"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(box.wait)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        blocking.close()
        with pytest.raises(longshore.EngineClosed):
            waiting.result(10)


def test_leaving_the_block_does_what_the_owner_setting_says(simulator: Simulator) -> None:
    with pytest.raises(ZeroDivisionError), sync.Engine(simulator) as blocking:
        blocking.launch("kept", args=["trap"])
        blocking.launch("gone", args=["trap"], owner="remove")
        raise ZeroDivisionError
    assert list(simulator.systems) == ["kept"]


# interruptions


def test_an_interrupted_run_is_killed_and_removed_before_the_interruption_is_raised(simulator: Simulator) -> None:
    with sync.Engine(simulator) as blocking:
        pressing = interrupt_when(lambda: simulator.processes)
        with pytest.raises(KeyboardInterrupt):
            blocking.run("host", ["sleep", "infinity"])
        assert simulator.systems == {}
        assert blocking.list() == []
        pressing.join()


def test_interrupted_again_it_is_cleaned_up_all_the_same(simulator: Simulator) -> None:
    with pytest.raises(KeyboardInterrupt), sync.Engine(simulator) as blocking:
        simulator.delay("delete", 0.2)
        pressing = interrupt_when(lambda: simulator.processes, times=2)
        blocking.run("host", ["sleep", "infinity"])
    pressing.join()
    assert simulator.systems == {}


def test_an_interrupted_wait_only_stops_waiting(box: sync.Container) -> None:
    pressing = interrupt_when(main_thread_waits)
    with pytest.raises(KeyboardInterrupt):
        box.wait()
    pressing.join()
    assert box.info().state == "running"


@needs("signals")
def test_what_any_signal_handler_raises_interrupts(blocking: sync.Engine, simulator: Simulator) -> None:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, lambda number, frame: sys.exit(7))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(SystemExit):
        blocking.run("host", ["sleep", "infinity"])
    assert simulator.systems == {}


@needs("signals")
def test_a_signal_handler_may_call_the_engine(box: sync.Container) -> None:
    ends: list[longshore.Exit] = []
    signal.alarm(0)
    signal.signal(signal.SIGALRM, lambda number, frame: ends.append(box.stop()))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert box.wait().code == 0
    assert [end.code for end in ends] == [0]


def test_nothing_is_lost_by_a_read_that_was_interrupted(box: sync.Container) -> None:
    process = box.exec(["cat"], stdin=longshore.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"half a li")
    pressing = interrupt_when(main_thread_waits)
    with pytest.raises(KeyboardInterrupt):
        process.stdout.readline()
    pressing.join()
    process.stdin.write(b"ne\n")
    assert process.stdout.readline() == b"half a line\n"


# programs


@needs("fork")
def test_a_forked_child_is_refused_and_does_not_hang() -> None:
    done = python("""
        import os, sys, warnings, longshore
        from longshore.simulator import Simulator
        warnings.simplefilter("ignore", DeprecationWarning)
        engine = longshore.sync.Engine(Simulator()).__enter__()
        box = engine.launch("web", args=["trap", "out"])
        process = box.exec(["cat"], stdin=longshore.PIPE)
        events = engine.events()
        child = os.fork()
        if child == 0:
            calls = [engine.version, box.wait, process.stdout.read, lambda: next(events), box.logs,
                     lambda: process.stdin.write(b"x"), lambda: longshore.sync.Engine.run(engine, "host", ["true"])]
            refused = 0
            for call in calls:
                try:
                    call()
                except longshore.EngineClosed:
                    refused += 1
            events.close()
            engine.close()
            print(refused, len(calls), flush=True)
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(box.info().state)
        engine.close()
        """)
    assert (done.stdout, done.stderr, done.returncode) == ("7 7\n0\nrunning\n", "", 0)


@needs("fork")
def test_a_forked_child_can_open_an_engine_of_its_own() -> None:
    done = python("""
        import os, warnings, longshore
        from longshore.simulator import Simulator
        warnings.simplefilter("ignore", DeprecationWarning)
        with longshore.sync.Engine(Simulator()) as engine:
            engine.launch("web", args=["trap", "out"])
            if os.fork() == 0:
                print(longshore.run("host", ["echo", "child"], service=Simulator()).text, flush=True)
                os._exit(0)
            os.wait()
        """)
    assert (done.stdout, done.stderr, done.returncode) == ("child\n\n", "", 0)


def test_an_engine_left_open_is_closed_at_the_end_of_the_program() -> None:
    done = python("""
        import atexit
        from longshore.simulator import Simulator
        simulator = Simulator()
        atexit.register(lambda: print(sorted(simulator.systems)))  # runs after what is registered later
        import longshore
        engine = longshore.sync.Engine(simulator)
        engine.launch("kept", args=["trap"])
        box = engine.launch("gone", args=["trap"], owner="remove")
        process = box.exec(["sleep", "infinity"])
        events, log = engine.events(), box.logs(follow=True)
        other = longshore.sync.Engine(Simulator("hcs"))
        other.launch("web", args=["trap"])
        """)
    assert (done.stdout, done.stderr, done.returncode) == ("['kept']\n", "", 0)


def test_threads_that_wait_when_the_program_ends_do_not_keep_it() -> None:
    done = python("""
        import threading, time, longshore
        from longshore.simulator import Simulator
        engine = longshore.sync.Engine(Simulator())
        box = engine.launch("web", args=["trap"])
        for work in (box.wait, lambda: list(engine.events()), lambda: engine.run("host", ["sleep", "infinity"])):
            def quiet(work=work):
                try:
                    work()
                except longshore.EngineClosed:
                    pass
            threading.Thread(target=quiet, daemon=True).start()
        time.sleep(0.1)
        """)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


# real containers


@pytest.fixture(params=[each for each in ("crun", "runc") if shutil.which(each)])
def real(request: pytest.FixtureRequest, state: Path) -> Iterator[sync.Engine]:
    """A blocking engine on real containers."""
    with sync.Engine(state=state, runtime=request.param) as made:
        yield made


@pytest.mark.real
def test_real_containers_have_the_same_life(real: sync.Engine) -> None:
    box = real.create("web", root="host", args=["sh", "-c", "trap 'exit 3' TERM; echo up; sleep 60 & wait"])
    with real.events() as events, box.logs(follow=True) as log:
        box.start()
        assert data_of(next(log)) == b"up\n"
        process = box.exec(["sh", "-c", "echo err >&2; cat"], stdin=longshore.PIPE)
        assert process.communicate(b"x" * (1 << 20)) == (b"x" * (1 << 20), b"err\n")
        assert box.stats().pids is not None
        assert box.stop().code == 3
        assert list(log) == []
        told = [name_of(next(events)) for _ in range(3)]
    assert told == ["start-container web", "exit-process web", "exit web"]
    box.delete()
    assert real.list() == []


@pytest.mark.real
async def test_real_containers_run_inside_a_running_loop(real: sync.Engine) -> None:
    assert real.run("host", ["echo", "hi"]).text == "hi\n"


@pytest.mark.real
def test_a_hundred_real_runs_from_many_threads(real: sync.Engine) -> None:
    def work(number: int) -> str:
        return real.run("host", ["sh", "-c", f"echo {number}"]).text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(100))) == [f"{number}\n" for number in range(100)]


@pytest.mark.real
@pytest.mark.parametrize("whom", ["the program", "the terminal's whole group"])
def test_ctrl_c_kills_and_removes_a_real_run(state: Path, whom: str) -> None:
    source = """
        import sys, longshore
        try:
            longshore.run("host", ["sh", "-c", "echo up >&2; sleep 60"], stderr=longshore.INHERIT)
        except KeyboardInterrupt:
            with longshore.sync.Engine() as engine:
                print("left:", engine.list())
            raise
        """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, "LONGSHORE_ROOT": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stderr is not None
    assert program.stderr.readline() == b"up\n"
    begin = time.monotonic()
    if whom == "the program":
        os.kill(program.pid, signal.SIGINT)
    else:
        os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=LIMIT)
    assert out == b"left: []\n"
    assert err.rstrip().endswith(b"KeyboardInterrupt"), err
    assert program.returncode == -signal.SIGINT
    assert time.monotonic() - begin < 10


@pytest.mark.real
@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_a_real_run_is_heard_and_leaves_nothing(state: Path) -> None:
    source = 'import longshore.sync; print("go", flush=True); longshore.run("host", ["sleep", "1000"])'
    for turn in range(24):
        program = subprocess.Popen(
            [sys.executable, "-c", source],
            env={**os.environ, "LONGSHORE_ROOT": str(state)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert program.stdout is not None
        program.stdout.readline()
        time.sleep(turn * 0.004)  # the moment is what is tried
        os.killpg(program.pid, signal.SIGINT)
        _, err = program.communicate(timeout=LIMIT)
        assert err.rstrip().endswith(b"KeyboardInterrupt"), err
        assert program.returncode == -signal.SIGINT
        with sync.Engine(state=state) as after:
            assert after.list() == []


@pytest.mark.real
def test_a_real_engine_left_open_ends_what_is_its_own(state: Path) -> None:
    source = """
        import longshore
        engine = longshore.sync.Engine()
        box = engine.launch("gone", root="host", args=["sleep", "1000"], owner="remove")
        process = box.exec(["sleep", "1000"])
        log = box.logs(follow=True)
        """
    done = python(source, env={**os.environ, "LONGSHORE_ROOT": str(state)})
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    with sync.Engine(state=state) as after:
        assert after.list() == []
