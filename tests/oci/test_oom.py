"""Out of memory: told once, in the record and as an event; and whose it was, init's or a child's."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest

from longshore.compute.events import Event
from longshore.compute.values import PIPE
from longshore.engine.container import Container
from longshore.engine.engine import Engine
from longshore.exit_record import Cause
from longshore.logs.reader import LogRecord
from longshore.oci import system

pytestmark = [pytest.mark.real, pytest.mark.modern]

HOG = ["python3", "-c", "x = bytearray(200 << 20)"]
WAITING = ["sh", "-c", "trap 'exit 5' TERM; echo up; sleep 1000 & wait"]


async def told(engine: Engine) -> list[str]:
    found: list[str] = []
    async with aclosing(engine.events(since=0, follow=False)) as events:
        async for event in events:
            assert isinstance(event, Event)
            found.append(event.type)
    return found


async def seen(box: Container) -> bool:
    return bool((await box.inspect())["oom"])


async def check_that_a_stranger_who_kills_init_is_told(box: Container) -> None:
    """Though something in it has been out of memory."""
    info = await box.info()
    assert info.pid is not None
    os.kill(info.pid, signal.SIGKILL)
    exit = await box.wait()
    assert (exit.signal, exit.cause) == (9, Cause.SIGNALLED)
    assert await seen(box)


async def test_an_init_that_is_killed_for_lack_of_memory_is_told_once(engine: Engine, state: Path) -> None:
    box = await engine.launch("box", root="host", args=HOG, memory="32m", memory_swap="32m")
    exit = await box.wait()
    assert (exit.code, exit.signal, exit.cause) == (137, 9, Cause.OOM)
    assert await seen(box)
    assert await told(engine) == ["start-container", "oom", "exit"]
    async with Engine(state=state) as other:  # nor does another program tell it again
        assert (await (await other.get("box")).wait()).cause is Cause.OOM
        assert await told(other) == ["start-container", "oom", "exit"]
    await box.delete()


async def test_a_small_init_in_front_of_the_program_does_not_hide_it(engine: Engine) -> None:
    done = await engine.run("host", HOG, memory="32m", memory_swap="32m", init=True)
    assert (done.exit_code, done.exit.cause) == (137, Cause.OOM)
    assert await told(engine) == ["start-container", "oom", "exit", "delete"]


async def test_an_exec_that_is_killed_for_lack_of_memory_says_so_and_its_init_lives_on(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=WAITING, memory="32m", memory_swap="32m")
    process = await box.exec(HOG, name="hog")
    exit = await process.wait()
    assert (exit.code, exit.signal, exit.cause) == (137, 9, Cause.OOM)
    assert (await box.info()).state == "running"
    # of the next one that is killed it is not said
    other = await box.exec(["sleep", "1000"])
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    assert (await other.wait()).cause is Cause.SIGNALLED

    end = await box.stop()
    assert (end.code, end.cause) == (5, Cause.EXITED), "it was not init's"
    assert await seen(box), "but there was one"
    assert (await told(engine)).count("oom") == 1
    await box.delete()


async def test_a_grandchild_that_is_killed_for_lack_of_memory_is_not_init(engine: Engine) -> None:
    script = f"python3 -c '{HOG[2]}'; exit 7"
    box = await engine.launch("box", root="host", args=["sh", "-c", script], memory="32m", memory_swap="32m")
    exit = await box.wait()
    assert (exit.code, exit.signal, exit.cause) == (7, None, Cause.EXITED)
    assert await seen(box)
    assert await told(engine) == ["start-container", "oom", "exit"]
    await box.delete()


async def test_a_stranger_kills_an_init_whose_exec_was_out_of_memory(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=WAITING, owner="remove", memory="32m", memory_swap="32m")
    for _ in range(2):
        assert (await (await box.exec(HOG, stdout=PIPE)).wait()).cause is Cause.OOM
    await check_that_a_stranger_who_kills_init_is_told(box)


async def test_an_init_that_is_killed_for_lack_of_memory_after_an_exec_was(engine: Engine) -> None:
    script = f"trap 'exec python3 -c \"{HOG[2]}\"' TERM; echo up; sleep 1000 & wait"
    box = await engine.launch(
        "box", root="host", args=["sh", "-c", script], owner="remove", memory="32m", memory_swap="32m"
    )
    assert (await (await box.exec(HOG)).wait()).cause is Cause.OOM
    await box.signal("TERM")
    assert (await box.wait()).cause is Cause.OOM


async def test_a_stranger_kills_an_init_whose_child_had_been_out_of_memory_before(engine: Engine) -> None:
    script = f"python3 -c '{HOG[2]}'; echo gone; exec sleep 1000"
    box = await engine.launch(
        "box", root="host", args=["sh", "-c", script], owner="remove", memory="32m", memory_swap="32m"
    )
    async with aclosing(box.logs(follow=True)) as logs:
        async for record in logs:
            if isinstance(record, LogRecord) and record.data == b"gone\n":
                break
    noted = engine._state.store.containers / "box" / "persist" / "oom"
    noted.touch()  # in version 2, conmon before 2.2.0 does not do it (its issue 426)
    at = os.stat(noted).st_mtime - system.OOM_LIMIT - 1  # as if that had been a while ago
    os.utime(noted, (at, at))
    await check_that_a_stranger_who_kills_init_is_told(box)


async def test_without_a_lack_of_memory_nothing_is_told(engine: Engine) -> None:
    box = await engine.launch("box", root="host", args=WAITING, memory="64m", memory_swap="64m")
    await box.kill()
    assert (await box.wait()).cause is Cause.KILLED
    assert not await seen(box)
    assert "oom" not in await told(engine)
    await box.delete()
