"""A runtime or a monitor that hangs, dies, prints rubbish or lies: a typed error at the limit, and nothing is left.

The real runtime does the work; a script before it misbehaves at one verb, once it is told to.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from longshore.compute.limits import Limits
from longshore.engine.engine import Engine
from longshore.errors import ContainerNotFound, InvalidState, LongshoreError
from longshore.oci.service import OciService

pytestmark = pytest.mark.real

LIMITS = Limits(create=0.8, start=0.8, verb=0.8, settle=5, end=10)

FAKE_RUNTIME = """\
#!/bin/bash
# what to do, and at which verb, is in a file beside this script
log= pid= verb= previous=
for word in "$@"; do
  case $previous in --log) log=$word ;; --pid-file) pid=$word ;; esac
  case $word in create|start|run|exec|delete|update|kill) [ -n "$verb" ] || verb=$word ;; esac
  previous=$word
done
[ -f MODE ] && read -r at how <MODE && [ "$at" = "$verb" ] || exec REAL "$@"
rubbish() {{
  head -c 3000 /dev/urandom >&2
  printf '{{"level":"error"\\n{{"level":5}}\\n\\xff\\xfe\\n[[[[\\n' >"$log"
}}
case $how in
  hang) exec sleep 1000 ;;
  killed) kill -KILL $$ ;;
  nothing) exit 0 ;;
  rubbish) rubbish; exit 1 ;;
  rubbish-pid) rubbish; echo rubbish >"$pid"; exec sleep 1000 ;;
  everybody) echo -1 >"$pid"; exec sleep 1000 ;;
  stranger) cat STRANGER >"$pid"; exec sleep 1000 ;;
  too-late)
    kill -KILL "$(cat STRANGER)"
    echo '{{"level":"error","msg":"write to sync socket: Broken pipe"}}' >"$log"
    exit 1
    ;;
  taken-apart)
    kill -KILL "$(cat STRANGER)"
    echo '{{"level":"error","msg":"executable file `true` not found in $PATH"}}' >"$log"
    exit 1
    ;;
esac
"""

FAKE_MONITOR = """\
#!/bin/bash
[ -f MODE ] && read -r how <MODE || exec REAL "$@"
case $how in
  hang) exec sleep 1000 ;;
  silent) exit 0 ;;
  killed) kill -KILL $$ ;;
  rubbish) head -c 3000 /dev/urandom >&"$_OCI_SYNCPIPE" ;;
  everybody) echo '{{"data": -1}}' >&"$_OCI_SYNCPIPE" ;;
  zero) echo '{{"data": 0}}' >&"$_OCI_SYNCPIPE" ;;
  stranger) echo "{{\\"data\\": $(cat STRANGER)}}" >&"$_OCI_SYNCPIPE" ;;
  long) head -c 3000000 /dev/zero | tr '\\0' x >&"$_OCI_SYNCPIPE" ;;
esac
"""


def in_place_of(program: str, text: str, folder: Path) -> Path:
    """A script by the name of a program, in `folder`, which runs the real one unless the file `mode` there says so."""
    real = subprocess.run(["which", program], capture_output=True, text=True, check=True).stdout.strip()
    path = folder / program
    for name, value in {"MODE": folder / "mode", "REAL": real, "STRANGER": folder / "stranger"}.items():
        text = text.replace(name, str(value))
    path.write_text(textwrap.dedent(text.replace("{{", "{").replace("}}", "}")))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any container, and must live."""
    program = subprocess.Popen(["sleep", "1000"])
    (tmp_path / "stranger").write_text(f"{program.pid}\n")
    yield program
    alive = program.poll() is None
    program.kill()
    program.wait()
    assert alive, "a process of somebody else's was killed"


@pytest.fixture
def no_signals_to_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect here must not end the machine that the tests run on."""
    real = os.kill

    def kill(pid: int, number: int) -> None:
        assert pid > 1, f"kill({pid})"
        real(pid, number)

    monkeypatch.setattr(os, "kill", kill)


async def _run(engine: Engine) -> object:
    return await engine.run("host", ["true"], name="box")


async def _create(engine: Engine) -> object:
    return await engine.create("box", root="host", args=["sleep", "infinity"], owner="remove")


async def _start(engine: Engine) -> object:
    return await (await engine.get("waiting")).start()


async def _exec(engine: Engine) -> object:
    return await (await engine.get("neighbour")).run(["true"])


async def _update(engine: Engine) -> object:
    await (await engine.get("neighbour")).update(pids=50)
    return None


async def _delete(engine: Engine) -> object:
    await (await engine.get("waiting")).delete(force=True)
    return None


VERBS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "run": _run,
    "create": _create,
    "start": _start,
    "exec": _exec,
    "update": _update,
    "delete": _delete,
}
FINE = {("start", "nothing"), ("update", "nothing"), ("delete", "killed"), ("delete", "rubbish")}
"""Where a lie is not found out by the call itself, or the rest is done without the runtime."""

CASES = {
    "crun": [
        *[(verb, how) for verb in VERBS for how in ("killed", "nothing", "rubbish")],
        *[(verb, "hang") for verb in ("run", "create", "exec")],
        *[("run", "rubbish-pid"), ("exec", "everybody"), ("run", "stranger"), ("exec", "stranger")],
    ],
    "runc": [("run", "nothing"), ("exec", "rubbish"), ("run", "stranger"), ("exec", "everybody")],
}


@pytest.mark.usefixtures("stranger", "no_signals_to_groups")
@pytest.mark.parametrize("runtime", CASES)
async def test_a_runtime_that_misbehaves_is_told_and_all_else_goes_on(
    state: Path, tmp_path: Path, runtime: str
) -> None:
    fake = in_place_of(runtime, FAKE_RUNTIME, tmp_path)
    wrong: list[str] = []
    async with asyncio.timeout(300), Engine(state=state, runtime=str(fake), limits=LIMITS) as engine:
        neighbour = await engine.launch("neighbour", root="host", args=["sleep", "infinity"], owner="remove")
        for case in CASES[runtime]:
            await _case(engine, tmp_path / "mode", *case, wrong)
            if (await neighbour.info()).state != "running":
                wrong.append(f"{case}: the neighbour is disturbed")
                break
    assert not wrong, "\n".join(wrong)


async def _case(engine: Engine, mode: Path, verb: str, how: str, wrong: list[str]) -> None:
    if verb in ("start", "delete"):
        await engine.create("waiting", root="host", args=["sleep", "infinity"], owner="remove")
    mode.write_text(f"{verb} {how}\n")
    try:
        async with asyncio.timeout(300):
            await VERBS[verb](engine)
        if (verb, how) not in FINE:
            wrong.append(f"{verb} {how}: nobody noticed")
    except LongshoreError as error:
        if len(str(error)) > 5000:
            wrong.append(f"{verb} {how}: {len(str(error))} characters of rubbish")
    except Exception as error:
        wrong.append(f"{verb} {how}: {error!r}")
    mode.unlink()
    for id in ("box", "waiting"):
        try:
            await (await engine.get(id)).delete(force=True)
        except ContainerNotFound:
            pass
        except LongshoreError as error:
            wrong.append(f"{verb} {how}: {id} cannot be deleted afterwards: {error}")


@pytest.mark.parametrize("runtime", CASES)
@pytest.mark.parametrize("how", ["too-late", "taken-apart"])
async def test_an_exec_into_a_container_that_is_just_ending_is_told_that_it_is_stopped(
    state: Path, tmp_path: Path, runtime: str, how: str
) -> None:
    """Not that the runtime failed, nor that there is no such command in what is left of the root: init is killed, and
    has many children to take along, when the runtime gives up."""
    fake = in_place_of(runtime, FAKE_RUNTIME, tmp_path)
    crowd = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; wait"
    async with asyncio.timeout(300), Engine(state=state, runtime=str(fake)) as engine:
        box = await engine.launch("box", root="host", args=["sh", "-c", crowd], owner="remove")
        (tmp_path / "stranger").write_text(f"{(await box.info()).pid}\n")
        (tmp_path / "mode").write_text(f"exec {how}\n")
        with pytest.raises(InvalidState, match="stopped"):
            await box.run(["true"])
        (tmp_path / "mode").unlink()


@pytest.mark.parametrize("runtime", CASES)
async def test_a_start_of_what_is_killed_meanwhile_ends_though_the_runtime_hangs_and_tells_that_it_is_stopped(
    state: Path, tmp_path: Path, runtime: str
) -> None:
    """As crun does, which waits for an init that is not there any more."""
    fake = in_place_of(runtime, FAKE_RUNTIME, tmp_path)
    async with Engine(state=state, runtime=str(fake), limits=Limits(verb=60)) as engine:
        box = await engine.create("box", root="host", args=["sleep", "infinity"], owner="remove")
        (tmp_path / "mode").write_text("start hang\n")
        starting = asyncio.create_task(box.start())
        async with Engine(state=state, runtime=str(fake)) as other:
            there = await other.get("box")
            while (await there.info()).state != "running":
                await asyncio.sleep(0.01)
            await there.kill()
            async with asyncio.timeout(300):
                with pytest.raises(InvalidState, match="it is stopped"):
                    await starting
        (tmp_path / "mode").unlink()


@pytest.mark.usefixtures("stranger")
async def test_a_monitor_that_never_answers_or_lies_is_told(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = in_place_of("conmon", FAKE_MONITOR, tmp_path)
    monkeypatch.setattr(OciService, "_monitor", lambda self: str(fake))
    mode = tmp_path / "mode"
    wrong = []
    async with asyncio.timeout(300), Engine(state=state, limits=LIMITS) as engine:
        for how in ("hang", "silent", "killed", "rubbish", "everybody", "zero", "stranger", "long"):
            mode.write_text(f"{how}\n")
            try:
                async with asyncio.timeout(300):
                    await _create(engine)
                wrong.append(f"{how}: nobody noticed")
            except LongshoreError as error:
                if len(str(error)) > 5000:
                    wrong.append(f"{how}: {len(str(error))} characters of rubbish")
                if not error.hint:
                    wrong.append(f"{how}: no hint with {str(error)[:200]!r}")
            assert await engine.list() == [], how
        mode.unlink()
        await (await engine.create("box", root="host", args=["true"])).delete()
    assert not wrong, "\n".join(wrong)
