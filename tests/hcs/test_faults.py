"""What Windows' service may do that it was not seen to do: systems that are gone, late output, pauses that hang."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from longshore import Engine
from longshore.compute.limits import HcsLimits, Limits
from longshore.compute.values import PIPE, Stdio
from longshore.errors import (
    InvalidSpec,
    InvalidState,
    LongshoreError,
    NotSupported,
    NotVisible,
    ServiceError,
    TimeLimit,
)
from longshore.exit_record import Cause
from longshore.hcs.dll.hresults import HcsError
from longshore.hcs.schema1 import documents, translate
from longshore.hcs.streams import stdio
from longshore.spec import HyperV, Layers, Mount, ProcessSpec, Spec, WindowsOptions

from .scripted import TYPES
from .test_engine import engine
from .world import ALL, BASE, script, windows, world

PENDING, GONE, DENIED, BAD_HANDLE, BAD_STATE = 0xC0370103, 0xC037010E, 0x80070005, 0x80070006, 0xC0370105
SOON = HcsLimits(default=0.5, shutdown=0.5, terminate=0.5, late_exit=0.2)
SYSTEM = {name: number for name, number in TYPES.items() if name not in ("ProcessExited", "ServiceDisconnect")}


# notifications


@pytest.mark.parametrize("type", SYSTEM.values(), ids=SYSTEM)
async def test_process_told_of_a_system_goes_on(tmp_path: Path, type: int) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        work = await box.exec(["cmd"], name="work")
        for pid in (work.pid, 1004):
            it.hcs.notify_process(it.process(pid), type, 0)
        await it.quiet()
        assert (await box.info()).state == "running"
        await box.stats()
        more = await box.exec(["cmd"], name="more")
        await more.kill()
        assert (await more.wait()).cause is Cause.KILLED
        it.exit(work.pid, 6)
        assert (await work.wait()).code == 6
        it.exit(1004, 7)
        assert (await box.wait()).code == 7


async def test_system_told_of_a_process_or_of_an_unknown_type_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        for type in (TYPES["ProcessExited"], 0, 6, 0xB, 0x77, 0x10001, 0xFFFFFFFF):
            it.notify(type)
        await it.quiet()
        assert (await box.info()).state == "running"
        it.exit(1004, 7)
        assert (await box.wait()).code == 7


# systems that are gone


@pytest.mark.parametrize("code", [GONE, 0x8037010E, BAD_HANDLE])
@pytest.mark.parametrize("verb", ["kill", "stop", "delete"])
async def test_system_that_is_gone_untold_ends_with_unknown_code(tmp_path: Path, verb: str, code: int) -> None:
    async with world(tmp_path, limits=SOON) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.script(
            HcsTerminateComputeSystem=[{"hr": code, "notify": []}],
            HcsShutdownComputeSystem=[{"hr": code, "notify": []}],
            HcsOpenComputeSystem=[{"hr": GONE}],
            HcsGetProcessProperties=[{"hr": GONE}],
        )
        if verb == "delete":
            await box.delete(force=True)
        else:
            await (box.kill() if verb == "kill" else box.stop(grace=0.1))
            exit = await box.wait()
            assert (exit.code, exit.cause in (Cause.SYSTEM_GONE, Cause.KILLED)) == (None, True)
            assert (await box.info()).state == "stopped"
            await box.delete(force=True)
        assert await longshore.list() == []


async def test_invalid_handle_of_a_system_that_lives_is_an_error(tmp_path: Path) -> None:
    """A handle that is not valid says nothing by itself: the system was looked for by its id, and is there."""
    async with world(tmp_path, limits=SOON) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.script(HcsTerminateComputeSystem=[{"hr": BAD_HANDLE, "notify": [], "times": 1}])
        with pytest.raises(HcsError, match="handle is not valid"):
            await box.kill()
        assert (await box.info()).state == "running"
        await box.kill()
        await box.wait()


# output after the end


@pytest.mark.parametrize("pause", [1.2, 2.5])
async def test_output_after_the_end_arrives(tmp_path: Path, pause: float) -> None:
    rule = {"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 3500}]}
    async with world(tmp_path, script(HcsShutdownComputeSystem=[rule])) as it:
        system, init = await it.launch()
        it.hcs.notify_process(it.process(init.pid), TYPES["ProcessExited"], 0)
        settling = asyncio.create_task(system.settle(await init.wait(), 60))
        await asyncio.sleep(pause)  # the time is what is tried
        it.hcs.write(it.process(init.pid), "stdout", b"late\n")
        it.hcs.end(it.process(init.pid), "stdout")
        assert init.streams.stdout is not None
        assert await init.streams.stdout.read() == b"late\n"
        await settling
        await system.close()


async def test_held_pipe_is_released_once_its_system_has_ended(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, init = await it.launch()
        it.hcs.notify_process(it.process(init.pid), TYPES["ProcessExited"], 0)
        exit = await init.wait()
        assert init.streams.stdout is not None
        reading = asyncio.create_task(init.streams.stdout.read())
        it.process(init.pid).exited = True  # its pipes stay open
        await system.settle(exit, 10)
        async with asyncio.timeout(stdio.LATE_OUTPUT * 3):
            assert await reading == b""
        await system.close()


async def test_held_pipe_of_an_exec_is_released_after_its_limit_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = HcsLimits(terminate=5, late_exit=0.2, late_output=1.5)
    async with world(tmp_path, limits=limits) as it:
        system, _ = await it.launch()
        work = await system.exec(ProcessSpec(args=["cmd"]), Stdio(stdout=PIPE, stderr=PIPE), "work", it.place("work"))
        it.hcs.notify_process(it.process(work.pid), TYPES["ProcessExited"], 0)
        begin = asyncio.get_running_loop().time()
        with caplog.at_level(logging.WARNING, "longshore.hcs"):
            assert work.streams.stdout is not None
        assert await work.streams.stdout.read() == b""
        assert asyncio.get_running_loop().time() - begin >= 1.4
        assert "stdout: no output for 1.5 s after the end of its process" in caplog.text
        await system.close()


# the orderly shutdown


async def test_shutdown_is_given_its_own_limit_before_a_terminate(tmp_path: Path) -> None:
    rule = {"hr": PENDING, "kill": {"exitCode": 0}, "notify": [{"type": "SystemExited", "after_ms": 1500}]}
    limits = HcsLimits(shutdown=60, terminate=0.5, late_exit=0.2)
    async with world(tmp_path, script(HcsShutdownComputeSystem=[rule]), limits=limits) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.exit(1004, 3)
        assert (await box.wait()).code == 3
        assert it.count("HcsTerminateComputeSystem") == 0


async def test_usual_limits_of_hcs_are_the_documented_ones(tmp_path: Path) -> None:
    """DESIGN: shutdown 300 s, then terminate 30; the engine's limit for settling does not cut that short."""
    async with world(tmp_path, limits=HcsLimits()) as it:
        system, _ = await it.launch()
        assert system.settle_limit(Limits()) >= 330
        text = Path(__file__).parents[2].joinpath("docs", "windows.md").read_text(encoding="utf-8")
        for name, seconds in ((each, getattr(HcsLimits(), each)) for each in HcsLimits.__struct_fields__):
            assert f"| `{name}` | {seconds:g} |" in text
        await system.close()


# pauses


async def test_pause_that_hangs_keeps_its_limit_and_resume_is_asked(tmp_path: Path) -> None:
    rules = script(
        HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}],
        HcsResumeComputeSystem=[{"hr": BAD_STATE, "times": 1}, {"delay_ms": 1200, "hr": BAD_STATE, "times": 1}],
    )
    limits = HcsLimits(default=0.5, terminate=0.6, late_exit=0.2)
    async with world(tmp_path, rules, limits=limits) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec(hyperv=True))
        for _ in range(2):
            begin = asyncio.get_running_loop().time()
            with pytest.raises(TimeLimit, match="pause"):
                await box.pause()
            assert asyncio.get_running_loop().time() - begin < 0.5 + 0.5
        await it.until(lambda: it.count("HcsResumeComputeSystem") == 2)
        before = it.count("HcsResumeComputeSystem")
        it.script()
        await box.resume()
        assert it.count("HcsResumeComputeSystem") > before
        assert (await box.info()).state == "running"


async def test_pause_that_could_not_be_taken_back_leaves_resume_to_the_caller(tmp_path: Path) -> None:
    rules = script(
        HcsPauseComputeSystem=[{"hr": PENDING, "notify": []}], HcsResumeComputeSystem=[{"hr": BAD_STATE, "times": 1}]
    )
    async with world(tmp_path, rules, limits=SOON) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec(hyperv=True))
        with pytest.raises(TimeLimit, match="pause"):
            await box.pause()
        await it.until(lambda: it.count("HcsResumeComputeSystem") == 1)
        await it.quiet()
        await box.resume()
        assert it.count("HcsResumeComputeSystem") == 2
        with pytest.raises(LongshoreError, match="running"):
            await box.resume()


# kill and stop beside words that last


@pytest.mark.parametrize("whole", [False, True], ids=["process", "container"])
async def test_kill_does_not_wait_behind_a_word_that_lasts(tmp_path: Path, whole: bool) -> None:
    """Words on one handle wait for each other, and servercore answers a console event when the process has ended."""
    async with world(tmp_path, modern=True, limits=HcsLimits(terminate=5, late_exit=0.2)) as it:
        system, init = await it.launch()
        work = await system.exec(ProcessSpec(args=["cmd"]), Stdio(), "work", it.place("work"))
        it.script(HcsSignalProcess=[{"delay_ms": 4000}])
        own = {call["systemHandle"] for call in it.hcs.calls if "systemHandle" in call}
        await work.signal(15)
        begin = asyncio.get_running_loop().time()
        await (system.terminate() if whole else work.kill())
        assert (await (init if whole else work).wait()).cause is Cause.KILLED
        assert asyncio.get_running_loop().time() - begin < 3.5
        verb = "HcsTerminateComputeSystem" if whole else "HcsTerminateProcess"
        by = [call["systemHandle"] for call in it.hcs.calls if call["function"] == verb]
        assert len(by) == 1
        assert not own & set(by)
        await system.close()
        await it.until(lambda: it.open_handles == 0)


async def test_stop_asks_the_system_half_way_through_its_grace(tmp_path: Path) -> None:
    async with world(tmp_path, modern=True) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec())
        it.script(HcsSignalProcess=[{"hr": DENIED}, {"hr": 0}], HcsShutdownComputeSystem=[{"hr": 0, "notify": []}])
        it.script(HcsSignalProcess=[{"delay_ms": 1500, "hr": 0x80070015}])  # taken, and nothing comes of it
        begin = asyncio.get_running_loop().time()
        await box.stop(grace=4)
        assert it.count("HcsShutdownComputeSystem") >= 1
        assert it.count("HcsTerminateComputeSystem") == 0
        assert asyncio.get_running_loop().time() - begin < 4


# answers


@pytest.mark.parametrize(
    "text",
    [
        '{"Owner":null,"State":null,"Id":null}',
        '{"Statistics":{"Network":[{"EndpointId":null,"BytesSent":null}],"Memory":null,"Timestamp":null}}',
        '{"ProcessList":[{"ProcessId":null,"ImageName":null},null]}',
        "null",
        '{"Statistics":null,"ProcessList":null}',
    ],
)
def test_null_counts_as_a_member_that_is_absent(text: str) -> None:
    assert isinstance(documents.decode(text, documents.ContainerProperties), documents.ContainerProperties)


@pytest.mark.parametrize("text", ['{"Exited":true,"ExitCode":null}', '{"Exited":true,"LastWaitResult":null}'])
def test_null_in_a_status_counts_as_zero(text: str) -> None:
    assert documents.decode(text, documents.ProcessStatus) == documents.ProcessStatus(exited=True)


@pytest.mark.parametrize("answer", ["[" * 100_000, '{"Owner":1}', "\ud800", "{"])
async def test_answer_that_cannot_be_read_is_a_service_error(tmp_path: Path, answer: str) -> None:
    rules = script(HcsGetComputeSystemProperties=[{"properties": answer}])
    async with world(tmp_path, rules, limits=SOON) as it:
        system, _ = await it.launch()
        with pytest.raises(ServiceError, match="read Statistics of"):
            await system.stats()
        await system.close()


async def test_half_of_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    answer = '{"Owner":"\ud800","Statistics":{"Uptime100ns":10000000}}'
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[{"properties": answer}])) as it:
        system, _ = await it.launch()
        assert (await system.stats()).uptime == 1
        assert (await system.properties()).owner == "?"
        await system.close()


async def test_moment_at_the_end_of_time_is_unknown(tmp_path: Path) -> None:
    told = {"Statistics": {"ContainerStartTime": "9999-12-31T23:59:59-10:00", "Uptime100ns": 25}}
    async with world(tmp_path, script(HcsGetComputeSystemProperties=[{"properties": told}])) as it:
        system, _ = await it.launch()
        stats = await system.stats()
        assert (stats.started_at, stats.uptime) == (None, 2.5e-6)
        await system.close()


async def test_refused_query_is_not_taken_for_ours(tmp_path: Path) -> None:
    """After the service was lost, a system that has our id is ended only if it says that it is ours."""
    async with world(tmp_path, limits=SOON) as it:
        system, _ = await it.launch()
        it.notify(TYPES["ServiceDisconnect"])
        await it.quiet()
        it.script(HcsTerminateComputeSystem=[{"hr": BAD_HANDLE, "notify": [], "times": 1}],
                  HcsGetComputeSystemProperties=[{"hr": DENIED}])  # fmt: skip
        with pytest.raises(HcsError):
            await system.delete()
        it.script()
        await system.delete()
        await system.close()


async def test_base_properties_are_asked_with_an_empty_object(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        system, _ = await it.launch()
        await system.properties()
        assert it.documents("HcsGetComputeSystemProperties")[-1] == "{}"
        await system.close()


# documents


def host() -> translate.Host:
    return translate.Host(cpus=4, name_to_guid=lambda name: name, exists=lambda path: True)


def config(**fields: Any) -> documents.ContainerConfig:
    options = fields.pop("windows", None) or windows()
    return translate.container_config("box", Spec.of(args=["cmd"], windows=options, **fields), host())


def test_devices_with_hyper_v_are_refused() -> None:
    options = WindowsOptions(layer_paths=[BASE], hyperv=HyperV(), devices=["5B45201D-F2F2-4F3B-85BB-30FF1F953599"])
    with pytest.raises(NotSupported, match=r"windows\.devices"):
        config(windows=options)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (r"C:\data", r"\\.\pipe\x"),
        (r"C:\data", "//./pipe/x"),
        (r"\\.\pipe\x", r"C:\x"),
        ("//./pipe/x", r"C:\x"),
        ("//./pipe/", "//./pipe/x"),
        ("//./pipe/x", r"\\.\pipe" + "\\"),
    ],
)
def test_pipe_on_one_side_alone_is_refused(source: str, target: str) -> None:
    with pytest.raises(InvalidSpec, match="mounts"):
        config(mounts=[Mount(source=source, target=target)])


@pytest.mark.parametrize("path", ["//./pipe/docker_engine", r"\\.\PIPE\docker_engine", r"\\./pipe/docker_engine"])
def test_pipe_in_any_spelling_is_mapped_as_one(path: str) -> None:
    made = config(mounts=[Mount(source=path, target=path)])
    assert made.mapped_directories == []
    assert [each.container_pipe_name for each in made.mapped_pipes] == ["docker_engine"]
    assert "/" not in made.mapped_pipes[0].host_path


def test_new_builds_are_sent_members_of_today() -> None:
    old, new = (documents.for_build(config(), build) for build in (14393, 17763))
    assert {"IsDummy", "Servicing", "EndpointList", "MappedDirectories", "AllowUnqualifiedDNSQuery"} <= set(old)
    assert set(old) - set(new) == {
        "IsDummy", "IgnoreFlushesDuringBoot", "MappedDirectories", "EndpointList", "Servicing",
        "AllowUnqualifiedDNSQuery",
    }  # fmt: skip
    assert [name for name in old if name in new] == list(new)
    mapped = config(mounts=[Mount(source=r"C:\d", target=r"C:\d")])
    assert documents.for_build(mapped, 20348)["MappedDirectories"][0]["CreateInUtilityVM"] is False
    assert "CreateInUtilityVM" not in documents.for_build(mapped, 17134)["MappedDirectories"][0]
    assert documents.shown(config(), 17763) == new


# what could not be made, and not be ended


@pytest.mark.parametrize("way", ["launch", "start"])
async def test_half_made_container_is_read_without_asking_the_service(tmp_path: Path, way: str) -> None:
    """Reading changes nothing, fails in words of its own operation, and shows one state by every way in."""
    rules = script(HcsStartComputeSystem=[{"hr": BAD_STATE}], HcsTerminateComputeSystem=[{"hr": DENIED}])
    async with world(tmp_path, rules, limits=SOON) as it, engine(it) as longshore:
        with pytest.raises(HcsError, match="start container `box`"):
            if way == "launch":
                await longshore.launch("box", it.spec())
            else:
                await (await longshore.create("box", it.spec())).start()
        before = len(it.hcs.calls)
        for _ in range(2):
            assert [(info.id, info.state) for info in await longshore.list()] == [("box", "stopped")]
            box = await longshore.get("box")
            assert (await box.info()).state == (await box.inspect())["state"] == "stopped"
            for operation, words in ((box.stats, "measure"), (box.top, "list the processes of"), (box.pids, "list")):
                with pytest.raises(InvalidState, match=words):
                    await operation()
        assert it.functions[before:] == []
        with pytest.raises(HcsError, match="access is denied"):
            await box.delete(force=True)
        it.script()
        await box.delete(force=True)
        await longshore.launch("box", it.spec())


@pytest.mark.parametrize("function", ["HcsOpenComputeSystem", "HcsGetComputeSystemProperties"])
async def test_state_that_the_service_refuses_to_say_is_hidden(tmp_path: Path, function: str) -> None:
    async with world(tmp_path, crew=True) as it, engine(it) as longshore:
        box = await longshore.launch("box", it.spec("sleep", "60"))
        async with Engine(it.another(), state=it.base / "state") as other:
            it.script(**{function: [{"hr": DENIED}]})
            assert [info.state for info in await other.list()] == ["hidden"]
            with pytest.raises(NotVisible, match="access is denied"):
                await (await other.get("box")).stats()
            it.script()
            assert [info.state for info in await other.list()] == ["running"]
        await box.delete(force=True)


# layers and commands


async def test_own_scratch_layer_that_is_mounted_no_more_does_not_hold_up_a_deletion(tmp_path: Path) -> None:
    """After a restart of Windows it is not mounted, and undoing its mount fails with whatever code Windows has."""
    scratch = r"C:\layers\mine"
    async with world(tmp_path) as it:
        it.hcs.layers[scratch] = {"made"}
        spec = Spec.of(args=["cmd"], layers=Layers(parents=[BASE], scratch=scratch))
        system = await it.service.create("box", spec, ALL, it.place())
        it.hcs.layers[scratch] = {"made"}
        it.script(
            UnprepareLayer=[{"hr": 0x80070057}],
            DeactivateLayer=[{"hr": 0x80070057}],
            GetLayerMountPath=[{"hr": DENIED}],
        )
        await system.delete()
        assert scratch in it.hcs.layers
        await system.close()


async def test_own_scratch_layer_that_stays_mounted_is_an_error_of_its_deletion(tmp_path: Path) -> None:
    scratch = r"C:\layers\mine"
    async with world(tmp_path) as it:
        it.hcs.layers[scratch] = {"made"}
        spec = Spec.of(args=["cmd"], layers=Layers(parents=[BASE], scratch=scratch))
        system = await it.service.create("box", spec, ALL, it.place())
        it.script(UnprepareLayer=[{"hr": 0x80070057}])
        with pytest.raises(HcsError, match="UnprepareLayer"):
            await system.delete()
        it.script()
        await system.delete()
        await system.close()


def test_command_begins_at_the_root_unless_told_otherwise() -> None:
    assert translate.init_process(Spec.of(args=["cmd"], windows=windows())).working_directory == "C:\\"
    assert translate.init_process(Spec.of(args=["cmd"], cwd="D:\\x", windows=windows())).working_directory == "D:\\x"
    document = {"ociVersion": "1.0.0", "process": {"args": ["cmd"], "cwd": ""}}
    assert translate.init_process(Spec.of(oci=document, windows=windows())).working_directory == ""


@pytest.mark.parametrize(("code", "word"), [(0xC03A001A, "compact"), (0x803B0002, "Get-HnsEndpoint")])
def test_code_with_a_remedy_has_its_next_step(code: int, word: str) -> None:
    assert word in (HcsError("making", "box", code).hint or "")
