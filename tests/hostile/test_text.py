"""NUL characters and text that is not UTF-8: refused by a typed error, by whatever way they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.compute.values import PIPE
from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec, LongshoreError
from longshore.simulator import Simulator
from longshore.spec import Endpoints, HyperV, Layers, Mount, ProcessSpec, Security, Spec, WindowsOptions

BAD = ["a\0b", "\0", "a\udcff"]  # the last is what os.fsdecode makes of a name that is not UTF-8

FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "args[1]": lambda bad: {"args": ["true", bad]},
    "env[A]": lambda bad: {"env": {"A": bad}},
    "cwd": lambda bad: {"cwd": f"/{bad}"},
    "user": lambda bad: {"user": bad},
    "hostname": lambda bad: {"hostname": bad},
    "mount.source": lambda bad: {"mounts": [Mount(f"/{bad}", "/x")]},
    "mount.target": lambda bad: {"mounts": [f"/x:/{bad}"]},
    "mounts[0].options[0]": lambda bad: {"mounts": [Mount("/x", "/x", options=[bad])]},
    "layers.parents[0]": lambda bad: {"layers": Layers(parents=[f"/{bad}"])},
    "layers.scratch": lambda bad: {"layers": Layers(parents=["/usr"], scratch=f"/{bad}")},
    "root": lambda bad: {"root": f"rootfs:/{bad}"},
    "show[0]": lambda bad: {"show": [f"/{bad}"]},
    "labels[a]": lambda bad: {"labels": {"a": bad}},
    "security.seccomp": lambda bad: {"security": Security(seccomp=f"/{bad}")},
    "security.masked_paths[0]": lambda bad: {"security": Security(masked_paths=[f"/{bad}"])},
    "security.readonly_paths[1]": lambda bad: {"security": Security(readonly_paths=["/proc", f"/{bad}"])},
    "windows.credentials": lambda bad: {"windows": WindowsOptions(credentials=bad)},
    "windows.owner": lambda bad: {"windows": WindowsOptions(owner=bad)},
    "windows.devices[0]": lambda bad: {"windows": WindowsOptions(devices=[bad])},
    "windows.layer_paths[0]": lambda bad: {"windows": WindowsOptions(layer_paths=[bad]), "root": ""},
    "windows.hyperv.utility_vm_path": lambda bad: {"windows": WindowsOptions(hyperv=HyperV(utility_vm_path=bad))},
    "windows.endpoints.shared_container": lambda bad: {
        "windows": WindowsOptions(endpoints=Endpoints(shared_container=bad))
    },
    "cpuset": lambda bad: {"cpuset": bad},
    "init": lambda bad: {"init": bad},
    "oci.process.args[0]": lambda bad: {"oci": {"process": {"args": [bad]}}},
    "oci.annotations[a.b]": lambda bad: {"oci": {"annotations": {"a.b": bad}}},
    "oci.mine[0].more": lambda bad: {"oci": {"mine": [{"more": bad}]}},
    "oci.mine": lambda bad: {"oci": {"mine": {bad: 1}}},
}


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("field", FIELDS)
def test_text_that_no_kernel_takes_is_refused_by_its_field(field: str, bad: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        Spec.of(**({"args": ["true"]} | FIELDS[field](bad)))
    assert refused.value.field == field
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize("field", ["args[0]", "env[A]", "cwd", "user", "command_line", "oci.env[0]", "oci.mine"])
def test_text_of_an_exec_is_refused_by_its_field(field: str, bad: str) -> None:
    name, _, rest = field.replace("[", ".").partition(".")
    value: Any = {"args": [bad], "env": {"A": bad}, "cwd": f"/{bad}", "oci": {"env": [bad]}}.get(name, bad)
    given: dict[str, Any] = {"args": ["true"]} if name not in ("args", "command_line") else {}
    with pytest.raises(InvalidSpec) as refused:
        ProcessSpec(**(given | {name: {"mine": bad} if rest == "mine" else value}))
    assert refused.value.field == field


@pytest.mark.parametrize("bad", BAD, ids=ascii)
async def test_text_beside_a_spec_is_refused_by_a_typed_error(tmp_path: Path, bad: str) -> None:
    async with Engine(Simulator(), state=tmp_path) as engine:
        box = await engine.launch("box", args=["sleep", "forever"], owner="remove", stdin=PIPE)
        for call in (
            lambda: engine.create(bad, args=["true"]),
            lambda: engine.run("host", ["true"], name=bad),
            lambda: engine.get(bad),
            lambda: engine.create("x", args=["true"], owner=bad),  # type: ignore[arg-type]
            lambda: box.exec(["true"], name=bad),
            lambda: box.process(bad),
            lambda: box.signal(bad),
            lambda: box.stop(signal=bad),
            lambda: box.update(cpuset=bad),
            lambda: box.update(add_endpoints=[bad]),
            lambda: box.checkpoint(bad),
            lambda: box.export_checkpoint("x", tmp_path / bad),
            lambda: box.delete_checkpoint(bad),
            lambda: box.start(checkpoint=bad),
            lambda: engine.import_checkpoint(tmp_path / bad),
        ):
            with pytest.raises(LongshoreError):
                await call()


@pytest.mark.parametrize("field", ["state", "runtime"])
async def test_a_nul_in_the_settings_of_an_engine_is_refused(tmp_path: Path, field: str) -> None:
    given: dict[str, Any] = {"state": tmp_path} | {field: f"{tmp_path}/a\0b"}
    with pytest.raises(LongshoreError):
        async with Engine(**given) as engine:
            await engine.run("host", ["true"])
