"""Options of Windows containers: what they mean, and that they are refused where there are none."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from longshore.cli.arguments import options, windows_options
from longshore.cli.arguments.parser import Arguments, UsageError, parse, parse_global
from longshore.cli.verbs import load
from longshore.compute.values import Place
from longshore.errors import InvalidSpec
from longshore.hcs.service import HcsService
from longshore.spec import Endpoints, HyperV, Spec, WindowsOptions


@pytest.fixture(autouse=True)
def as_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_options, "HERE", True)


def arguments(*words: str) -> Arguments:
    common, _ = parse_global([])
    return parse(load("run"), words, common)


def spec(*words: str) -> Spec:
    return options.spec(arguments("--layer", "/base", *words))


def test_each_option_is_the_field_of_its_name(tmp_path: Path) -> None:
    credentials = tmp_path / "credspec.json"
    credentials.write_text('\ufeff{"CmsPlugins":["ActiveDirectory"]}\n', encoding="utf-8")
    made = spec(
        *("--isolation", "hyperv", "--utility-vm", r"C:\vm", "--credential-spec", str(credentials)),
        *("--endpoint", "e1", "--endpoint", "e2", "--dns-search", "a.com", "--unqualified-dns", "--network-of", "web"),
        *("--ignore-flushes", "--cpu-count", "2", "--cpu-percent", "50", "--io-maxbandwidth", "1000"),
        *("--io-maxiops", "20", "--storage-size", "40g", "--device-class", "guid", "--", "cmd"),
    )
    assert made.windows == WindowsOptions(
        hyperv=HyperV(utility_vm_path=r"C:\vm"),
        endpoints=Endpoints(
            ids=["e1", "e2"], dns_search_list=["a.com"], allow_unqualified_dns_query=True, shared_container="web"
        ),
        credentials='{"CmsPlugins":["ActiveDirectory"]}',
        ignore_flushes_during_boot=True,
        cpu_count=2,
        cpu_percent=50,
        storage_bps=1000,
        storage_iops=20,
        storage_size=40 << 30,
        devices=["guid"],
    )


def test_without_any_there_are_none() -> None:
    assert spec("--", "cmd").windows is None


def test_servicing_needs_no_command_and_a_command_line_is_one() -> None:
    made = spec("--servicing")
    assert made.windows is not None
    assert made.windows.servicing
    line = 'cmd /s /c "echo  "a" & b"'
    assert spec("--command-line", line).command_line == line


def test_isolation_of_a_document_is_taken_back_in_words(tmp_path: Path) -> None:
    document = tmp_path / "config.json"
    document.write_text(json.dumps({"process": {"args": ["cmd"], "cwd": "/"}, "windows": {"hyperv": {}}}))
    made = options.spec(arguments("--spec", str(document), "--isolation", "process"))
    assert made.windows is not None
    assert not made.windows.isolated


def test_the_chain_that_docker_has_written_down_is_followed(tmp_path: Path) -> None:
    top, bare = tmp_path / "top", tmp_path / "bare"
    for folder in (top, bare):
        folder.mkdir()
    (top / "layerchain.json").write_text(json.dumps(["/layers/middle", "/layers/base"]))
    made = options.spec(arguments("--layer-chain", str(top), "--", "cmd"))
    assert made.layers is not None
    assert made.layers.parents == [str(top), "/layers/middle", "/layers/base"]
    made = options.spec(arguments("--layer-chain", str(bare), "--", "cmd"))
    assert made.layers is not None
    assert made.layers.parents == [str(bare)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--utility-vm", "x", "--", "cmd"], "needs --isolation hyperv"),
        (["--isolation", "vm", "--", "cmd"], "'vm' is not one of process, hyperv"),
        (["--cpu-percent", "many", "--", "cmd"], "--cpu-percent: 'many' is not a whole number"),
        (["--credential-spec", "/nowhere", "--", "cmd"], "--credential-spec: cannot read /nowhere"),
        (["--layer-chain", "/nowhere", "--", "cmd"], "--layer and --layer-chain"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_options_name(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        spec(*words)


def test_values_out_of_range_are_refused_by_their_field() -> None:
    with pytest.raises(InvalidSpec, match="cpu_percent"):
        spec("--cpu-percent", "101", "--", "cmd")


def test_a_layer_chain_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder") as caught:
        options.spec(arguments("--layer-chain", str(tmp_path / "gone"), "--", "cmd"))
    assert "docker image inspect" in (caught.value.hint or "")
    (tmp_path / "layerchain.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot read"):
        options.spec(arguments("--layer-chain", str(tmp_path), "--", "cmd"))


@pytest.mark.parametrize(
    "words", [["--isolation", "hyperv"], ["--servicing"], ["--endpoint", "e1"], ["--cpu-count", "0"]]
)
def test_elsewhere_they_are_refused_not_ignored(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(windows_options, "HERE", False)
    with pytest.raises(UsageError, match=f"{words[0]}: only Windows containers"):
        spec(*words, "--", "cmd")


async def test_they_reach_the_document_that_the_service_gets(tmp_path: Path) -> None:
    made = spec(
        *("--no-init", "--isolation", "hyperv", "--utility-vm", r"C:\vm", "--endpoint", "e1", "-m", "512m"),
        *("--", "cmd", "/c", "a b"),
    )
    plan = HcsService(tmp_path).plan("box", made, Place(run=tmp_path, data=tmp_path))
    container: Any = plan.documents["HcsCreateComputeSystem"]
    process: Any = plan.documents["HcsCreateProcess"]
    assert (container["HvPartition"], container["HvRuntime"]) == (True, {"ImagePath": r"C:\vm"})
    assert (container["EndpointList"], container["MemoryMaximumInMB"]) == (["e1"], 512)
    assert process["CommandLine"] == 'cmd /c "a b"'


DOCUMENT = Path(__file__).parents[2] / "docs" / "windows.md"


def commands() -> list[list[str]]:
    """The command lines that the document shows, as PowerShell takes them apart."""
    found = []
    for block in re.findall(r"```powershell\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        for line in block.splitlines():
            found += [
                shlex.split(command.replace("\\", "/"))[1:]
                for command in re.split(r"; | # ", line)
                if command.startswith("longshore ")
            ]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_command_lines_of_the_document_are_ones(words: list[str]) -> None:
    common, (name, *rest) = parse_global(words)
    verb = load(name)
    if name == "explain":
        name, *rest = rest
        verb = load(name)
    args = parse(verb, rest, common)
    if name == "run":
        assert args.command, "every example runs something"


def test_the_document_shows_both_isolations_and_a_container_that_stays() -> None:
    text = [" ".join(words) for words in commands()]
    assert any("--isolation hyperv" in line for line in text)
    assert any(line.startswith("run --layer-chain") for line in text)
    assert any(line.startswith("run -d") for line in text)
    assert len(text) >= 9


async def test_endpoints_are_changed_by_name(tmp_path: Path) -> None:
    from longshore.engine.engine import Engine
    from tests.hcs.world import world

    async with world(tmp_path) as it, Engine(it.service, state=tmp_path / "state") as engine:
        box = await engine.launch("box", it.spec())
        common, _ = parse_global([])
        args = parse(load("update"), ["--add-endpoint", "e1", "--remove-endpoint", "e2", "box"], common)
        run = load("update").run
        assert run is not None
        assert await run(engine, args) == 0
        assert [json.loads(each)["RequestType"] for each in it.documents("HcsModifyComputeSystem")] == ["Add", "Remove"]
        limited = parse(load("update"), ["-m", "512m", "--add-endpoint", "e3", "box"], common)
        assert await run(engine, limited) == 125
        assert it.count("HcsModifyComputeSystem") == 2
        await box.delete(force=True)
