"""From specs to HCS documents: what is written, what is left out, what is refused, and that nothing is ignored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import InvalidSpec, NotSupported, ServiceError
from longshore.hcs.schema1 import documents, translate
from longshore.hcs.schema1.foreign_document import ignored
from longshore.spec import (
    Endpoints,
    HyperV,
    Layers,
    Mount,
    ProcessSpec,
    Resources,
    Rlimit,
    Security,
    Spec,
    WindowsOptions,
)

FILTER = "C:\\control\\windowsfilter"
BASE = f"{FILTER}\\65bf96e5760a09edf1790cb229e2dfb2dbd0fcdc0bf7451bae099106bfbfea0c"
VOLUME = "\\\\?\\Volume{66d1ef4c-7a00-11e6-8948-00155ddbef9d}"
GUID = "18955d65-d45a-557b-bf1c-49d6dfefc526"


def host(*there: str, cpus: int = 8) -> translate.Host:
    """A machine on which these paths are, and where every layer has the documented id."""
    return translate.Host(cpus=cpus, name_to_guid=lambda name: GUID, exists=lambda path: path in there)


def config(spec: Spec, *there: str, id: str = "web", cpus: int = 8) -> documents.ContainerConfig:
    return translate.container_config(id, spec, host(*there, cpus=cpus))


def minimal(**fields: Any) -> Spec:
    fields.setdefault("layers", Layers(parents=[BASE]))
    fields.setdefault("args", ["cmd", "/c", "ver"])
    return Spec.of(**fields)


def windows(**fields: Any) -> Spec:
    return minimal(windows=WindowsOptions(**fields))


def from_oci(windows: dict[str, Any] | None = None, **members: Any) -> Spec:
    """A spec from a modern OCI document; its layers are the documented ones unless `windows` says others."""
    document: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": {"args": ["cmd"], "cwd": "C:\\"},
        "root": {"path": f"{VOLUME}\\"},
        "hostname": "web",
        "windows": {"layerFolders": [BASE, f"{FILTER}\\web"], **(windows or {})},
    }
    return Spec.from_oci({**document, **members})


# the examples in the original's source


def test_the_documented_example_of_process_isolation() -> None:
    """client_windows.go's comment, in the order that is really sent, with the member that it forgot."""
    id = "5e0055c814a6005b8e57ac59f9a522066e0af12b48b3c26a9416e23907698776"
    spec = Spec.of(
        root=f"rootfs:{VOLUME}",
        args=["cmd"],
        layers=Layers(parents=[BASE], scratch=f"{FILTER}\\{id}"),
        windows=WindowsOptions(
            owner="docker",
            ignore_flushes_during_boot=True,
            endpoints=Endpoints(ids=["eef2649d-bb17-4d53-9937-295a8efe6f2c"]),
        ),
    )
    text = documents.encode(config(spec, id=id))
    assert json.loads(text) == {
        "SystemType": "Container",
        "Name": id,
        "Owner": "docker",
        "IsDummy": False,
        "VolumePath": VOLUME,
        "IgnoreFlushesDuringBoot": True,
        "LayerFolderPath": f"{FILTER}\\{id}",
        "Layers": [{"ID": GUID, "Path": BASE}],
        "HostName": "5e0055c814a6",
        "MappedDirectories": [],
        "HvPartition": False,
        "EndpointList": ["eef2649d-bb17-4d53-9937-295a8efe6f2c"],
        "Servicing": False,
        "AllowUnqualifiedDNSQuery": False,
    }
    assert text.startswith('{"SystemType":"Container","Name":"5e0055c814a6005b')
    assert text.endswith('"Servicing":false,"AllowUnqualifiedDNSQuery":false}')


def test_the_documented_example_of_hyper_v_isolation() -> None:
    id = "475c2c58933b72687a88a441e7e0ca4bd72d76413c5f9d5031fee83b98f6045d"
    spec = minimal(
        windows=WindowsOptions(
            owner="docker",
            ignore_flushes_during_boot=True,
            hyperv=HyperV(sandbox_path=FILTER),
            endpoints=Endpoints(
                ids=["e1bb1e61-d56f-405e-b75d-fd520cefa0cb"], dns_search_list=["a.com", "b.com", "c.com"]
            ),
        )
    )
    text = documents.encode(config(spec, f"{BASE}\\UtilityVM", id=id))
    assert json.loads(text) == {
        "SystemType": "Container",
        "Name": id,
        "Owner": "docker",
        "IsDummy": False,
        "IgnoreFlushesDuringBoot": True,
        "Layers": [{"ID": GUID, "Path": BASE}],
        "HostName": "475c2c58933b",
        "MappedDirectories": [],
        "SandboxPath": FILTER,
        "HvPartition": True,
        "EndpointList": ["e1bb1e61-d56f-405e-b75d-fd520cefa0cb"],
        "HvRuntime": {"ImagePath": f"{BASE}\\UtilityVM"},
        "Servicing": False,
        "AllowUnqualifiedDNSQuery": False,
        "DNSSearchList": "a.com,b.com,c.com",
    }
    assert list(json.loads(text))[-3:] == ["Servicing", "AllowUnqualifiedDNSQuery", "DNSSearchList"]


def test_hyper_v_isolation_needs_no_sandbox_path() -> None:
    """Bug 17: the original demanded one, though nothing reads it; it is sent only if it is given."""
    sent = json.loads(documents.encode(config(minimal(windows=WindowsOptions(hyperv=HyperV())), f"{BASE}\\UtilityVM")))
    assert "SandboxPath" not in sent
    assert sent["IsDummy"] is False


# a modern OCI document is the same thing


def test_an_oci_document_comes_to_the_same_document_as_options() -> None:
    modern = from_oci(
        {
            "hyperv": {},
            "servicing": True,
            "ignoreFlushesDuringBoot": True,
            "credentialSpec": '{"CmsPlugins":["ActiveDirectory"]}',
            "network": {
                "endpointList": ["e1", "e2"],
                "allowUnqualifiedDNSQuery": True,
                "DNSSearchList": ["a.com", "b.com"],
            },
            "resources": {
                "cpu": {"count": 2, "shares": 500, "maximum": 5050},
                "memory": {"limit": 1 << 30},
                "storage": {"iops": 7, "bps": 8, "sandboxSize": 1 << 35},
            },
        },
        mounts=[{"destination": "C:\\in", "source": "C:\\host", "options": ["RO"]}],
    )
    ours = Spec.of(
        layers=Layers(parents=[BASE], scratch=f"{FILTER}\\web"),
        hostname="web",
        args=["cmd"],
        memory="1g",
        mounts=[Mount(source="C:\\host", target="C:\\in", read_only=True)],
        windows=WindowsOptions(
            hyperv=HyperV(),
            servicing=True,
            ignore_flushes_during_boot=True,
            credentials='{"CmsPlugins":["ActiveDirectory"]}',
            endpoints=Endpoints(ids=["e1", "e2"], allow_unqualified_dns_query=True, dns_search_list=["a.com", "b.com"]),
            cpu_count=2,
            cpu_shares=500,
            cpu_maximum=5050,
            storage_iops=7,
            storage_bps=8,
        ),
    )
    there = f"{BASE}\\UtilityVM"
    assert documents.encode(config(modern, there)) == documents.encode(config(ours, there))


def test_the_last_of_the_layer_folders_is_the_containers_own() -> None:
    found = config(from_oci({"layerFolders": ["C:\\l\\top", "C:\\l\\base", "C:\\l\\own"]}))
    assert [layer.path for layer in found.layers or []] == ["C:\\l\\top", "C:\\l\\base"]
    assert found.layer_folder_path == "C:\\l\\own"
    assert found.volume_path == VOLUME  # and schema 1 takes it without the backslash at its end


@pytest.mark.parametrize("folders", [[], ["C:\\l\\own"]])
def test_layer_folders_need_a_parent(folders: list[str]) -> None:
    """Bug 19: the least number of layer folders was not checked."""
    with pytest.raises(InvalidSpec) as raised:
        config(from_oci({"layerFolders": folders}))
    assert raised.value.field == "oci.windows.layerFolders"


def test_a_credential_spec_may_be_an_object() -> None:
    found = config(from_oci({"credentialSpec": {"CmsPlugins": ["ActiveDirectory"]}}))
    assert found.credentials == '{"CmsPlugins":["ActiveDirectory"]}'


def test_the_path_of_the_utility_vm_may_be_given() -> None:
    found = config(from_oci({"hyperv": {"utilityVMPath": "D:\\uvm"}}))
    assert found.hv_runtime == documents.HvRuntime(image_path="D:\\uvm")
    assert found.volume_path == ""


def test_what_is_said_beside_a_document_counts_more() -> None:
    document = {
        "network": {"endpointList": ["theirs"]},
        "resources": {"cpu": {"maximum": 100}, "memory": {"limit": 1 << 30}},
    }
    base = from_oci(document)
    spec = Spec.of(
        base,
        memory="2g",
        hostname="ours",
        env={"A": "2"},
        layers=Layers(parents=["C:\\l\\other"]),
        windows=WindowsOptions(endpoints=Endpoints(ids=["ours"]), cpu_percent=50),
    )
    found = config(spec)
    assert (found.endpoint_list, found.processor_maximum, found.memory_maximum) == (["ours"], 5000, 2048)
    assert found.host_name == "ours"
    assert [layer.path for layer in found.layers or []] == ["C:\\l\\other"]


@pytest.mark.parametrize(
    ("windows", "field"),
    [
        ({"layerFolders": "C:\\one"}, "oci.windows.layerFolders"),
        ({"layerFolders": [1, 2]}, "oci.windows.layerFolders[0]"),
        ({"servicing": "yes"}, "oci.windows.servicing"),
        ({"resources": {"cpu": {"maximum": 10_001}}}, "oci.windows.resources.cpu.maximum"),
        ({"resources": {"cpu": {"shares": -1}}}, "oci.windows.resources.cpu.shares"),
        ({"resources": {"cpu": {"count": "two"}}}, "oci.windows.resources.cpu.count"),
        ({"resources": {"memory": {"limit": 1 << 63}}}, "oci.windows.resources.memory.limit"),
        ({"resources": {"memory": {"limit": 1048575}}}, "oci.windows.resources.memory.limit"),
    ],
)
def test_a_bad_value_of_a_document_is_refused_by_its_path(windows: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        config(from_oci(windows))
    assert raised.value.field == field


def test_a_network_namespace_has_no_place_in_schema_1() -> None:
    with pytest.raises(NotSupported, match="networkNamespace"):
        config(from_oci({"network": {"networkNamespace": "x"}}))


def test_a_device_class_is_assigned() -> None:
    found = config(from_oci({"devices": [{"id": GUID, "idType": "class"}]}))
    assert found.assigned_devices == [documents.AssignedDevice(interface_class_guid=GUID)]
    with pytest.raises(NotSupported):
        config(from_oci({"devices": [{"id": "x", "idType": "vpci"}]}))


# layers


def test_layers_are_told_nearest_first_by_the_names_of_their_folders() -> None:
    asked: list[str] = []

    def name_to_guid(name: str) -> str:
        asked.append(name)
        return f"id of {name}"

    machine = translate.Host(cpus=1, name_to_guid=name_to_guid, exists=lambda path: False)
    found = translate.container_config("x", minimal(layers=Layers(parents=["C:\\l\\top", "D:/l/base"])), machine)
    assert asked == ["top", "base"]
    assert found.layers == [
        documents.Layer(id="id of top", path="C:\\l\\top"),
        documents.Layer(id="id of base", path="D:/l/base"),
    ]


@pytest.mark.parametrize("paths", [None, []])
def test_no_parent_layers_are_refused(paths: list[str] | None) -> None:
    with pytest.raises(InvalidSpec) as raised:
        config(minimal(layers=None, windows=WindowsOptions(layer_paths=paths)))
    assert raised.value.field == "windows.layer_paths"
    assert raised.value.hint


def test_layers_given_twice_are_refused() -> None:
    with pytest.raises(InvalidSpec) as raised:
        config(windows(layer_paths=[BASE]))
    assert raised.value.field == "layers"


def test_the_utility_vm_is_that_of_the_upper_most_layer_that_has_one() -> None:
    spec = minimal(
        layers=Layers(parents=["C:\\top", "C:\\middle", "C:\\base"]), windows=WindowsOptions(hyperv=HyperV())
    )
    found = config(spec, "C:\\middle\\UtilityVM", "C:\\base\\UtilityVM")
    assert found.hv_runtime == documents.HvRuntime(image_path="C:\\middle\\UtilityVM")


def test_no_utility_vm_in_any_layer_is_an_error() -> None:
    with pytest.raises(InvalidSpec, match="UtilityVM") as raised:
        config(windows(hyperv=HyperV()))
    assert raised.value.field == "windows.hyperv"


def test_an_error_in_looking_for_the_utility_vm_is_told() -> None:
    def denied(path: str) -> bool:
        raise PermissionError(13, "Access is denied", path)

    machine = translate.Host(cpus=1, name_to_guid=lambda name: GUID, exists=denied)
    with pytest.raises(ServiceError, match="Access is denied"):
        translate.container_config("web", windows(hyperv=HyperV()), machine)


def test_a_folder_that_is_not_there_does_not_exist(tmp_path: Any) -> None:
    assert translate.exists(str(tmp_path))
    assert not translate.exists(str(tmp_path / "not" / "there"))


@pytest.mark.parametrize("root", ["rootfs:C:\\web", "rootfs:\\\\?\\Volume{1}"])
def test_a_root_that_is_no_volume_is_refused(root: str) -> None:
    """Bug 19: later versions of the original look at this, too, but forget the answer."""
    with pytest.raises(InvalidSpec) as raised:
        config(minimal(root=root))
    assert raised.value.field == "root"


# limits


def test_more_processors_than_the_host_has_are_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "longshore.hcs"):
        assert config(windows(cpu_count=9)).processor_count == 8
    assert "9 processors were asked for" in caplog.text
    caplog.clear()
    assert config(windows(cpu_count=8)).processor_count == 8
    assert not caplog.text


@pytest.mark.parametrize(
    ("cpus", "isolated", "expected"),
    [
        (2.0, False, (0, 2500)),
        (0.01, False, (0, 12)),
        (20, False, (0, 10_000)),
        (1.5, True, (2, 7500)),
        (0.5, True, (1, 5000)),
        (99, True, (8, 10_000)),
    ],
)
def test_processors_worth_of_time(cpus: float, isolated: bool, expected: tuple[int, int]) -> None:
    options = WindowsOptions(hyperv=HyperV(utility_vm_path="C:\\uvm") if isolated else None)
    found = config(minimal(cpus=cpus, windows=options))
    assert (found.processor_count, found.processor_maximum) == expected


def test_processors_limited_twice_are_refused() -> None:
    with pytest.raises(InvalidSpec):
        config(minimal(cpus=1.0, windows=WindowsOptions(cpu_count=1)))
    with pytest.raises(InvalidSpec):
        WindowsOptions(cpu_percent=1, cpu_maximum=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_percent", 101),
        ("cpu_shares", 10_001),
        ("cpu_maximum", 10_001),
        ("cpu_count", -1),
        ("storage_bps", 1 << 64),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(field: str, value: int) -> None:
    """Bug 13: the original had percent without an upper limit."""
    with pytest.raises(InvalidSpec) as raised:
        WindowsOptions(**{field: value})  # type: ignore[arg-type]
    assert raised.value.field == f"windows.{field}"


def test_percent_is_sent_in_hundredths() -> None:
    """Bug 13: percent was multiplied after it was rounded, and its bound was said to be 100."""
    assert config(windows(cpu_percent=50)).processor_maximum == 5000
    assert config(windows(cpu_maximum=5050)).processor_maximum == 5050


def test_the_size_of_the_scratch_layer_is_no_part_of_the_document() -> None:
    assert config(windows(storage_size="40g")).storage_sandbox_size == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"pids": 10},
        {"resources": Resources(cpuset="0")},
        {"memory": "8m", "memory_swap": "16m"},
        {"resources": Resources(memory_reservation="8m")},
        {"rlimits": [Rlimit(name="nofile", soft=1, hard=1)]},
        {"network": "host"},
        {"security": Security(cap_add=["NET_ADMIN"])},
        {"init": True},
        {"read_only": True},
        {"mounts": [Mount(target="C:\\tmp", type="tmpfs")]},
        {"mounts": [Mount(source="C:\\x", target="C:\\x", options=["ro", "nosuid"])]},
    ],
)
def test_what_windows_has_no_such_thing_for_is_refused_not_ignored(fields: dict[str, Any]) -> None:
    """Bug 21: never a silent success."""
    with pytest.raises(NotSupported) as raised:
        config(minimal(**fields))
    assert raised.value.reason


def test_a_view_of_this_machine_is_refused_beside_a_document_too() -> None:
    with pytest.raises(NotSupported, match="`host` root"):
        config(Spec.of(from_oci(), root="host:full"))


def test_the_host_root_beside_layers_of_a_document_is_refused_as_it_is_beside_layers() -> None:
    document = from_oci().oci
    assert document is not None
    said = "root: 'host' cannot be combined with the OCI document's `layerFolders`"
    with pytest.raises(InvalidSpec, match=said):
        Spec.of(from_oci(), root="host")
    with pytest.raises(InvalidSpec, match=said):
        Spec.from_oci(document, root="host")
    both = {**document, "linux": {}}  # for both platforms: this is the root that it is to have on Linux
    assert Spec.from_oci(both, root="host").root == "host"


# what is said of a document's switches counts


@pytest.mark.parametrize("member", ["servicing", "ignoreFlushesDuringBoot"])
def test_a_switch_of_a_document_can_be_taken_back(member: str) -> None:
    name = {"servicing": "servicing", "ignoreFlushesDuringBoot": "ignore_flushes_during_boot"}[member]
    given = from_oci({member: True})
    sent = member[0].upper() + member[1:]
    for said, comes_to in ((None, True), (False, False), (True, True)):
        options: dict[str, Any] = {name: said}
        spec = Spec.of(given, windows=WindowsOptions(**options))
        assert getattr(translate.options(spec), name) is comes_to
        assert json.loads(documents.encode(config(spec)))[sent] is comes_to


# the size of the scratch layer


@pytest.mark.parametrize(
    "spec",
    [
        lambda: Spec.of(args=["cmd"], windows=WindowsOptions(layer_paths=[BASE], storage_size="40g")),
        lambda: Spec.of(
            root=f"rootfs:{VOLUME}",
            args=["cmd"],
            layers=Layers(parents=[BASE]),
            windows=WindowsOptions(storage_size="40g"),
        ),
        lambda: Spec.of(layers=Layers(parents=[BASE]), windows=WindowsOptions(servicing=True, storage_size="40g")),
    ],
    ids=["layers of the caller's", "a volume", "servicing"],
)
def test_a_size_is_refused_where_no_scratch_layer_is_made(spec: Callable[[], Spec]) -> None:
    with pytest.raises(InvalidSpec, match=r"windows\.storage_size: is the size of a scratch layer") as told:
        config(spec())
    assert told.value.hint == "leave it out, or give `layers` alone"


# mounts


def test_folders_and_pipes_of_the_host() -> None:
    """Bug 18: named pipes became folders."""
    spec = minimal(
        mounts=[
            Mount(source="C:\\host", target="D:", options=["RO"]),
            Mount(source="\\\\.\\pipe\\docker", target="\\\\.\\pipe\\engine"),
        ]
    )
    found = config(spec)
    assert found.mapped_directories == [
        documents.MappedDirectory(
            host_path="C:\\host", container_path="D:", read_only=True, bandwidth_maximum=0, iops_maximum=0
        )
    ]
    assert found.mapped_pipes == [documents.MappedPipe(host_path="\\\\.\\pipe\\docker", container_pipe_name="engine")]


def test_a_pipe_is_seen_as_a_pipe() -> None:
    """Bug 18: a named pipe was mounted as a folder."""
    with pytest.raises(InvalidSpec) as raised:
        config(minimal(mounts=[Mount(source="\\\\.\\pipe\\x", target="C:\\x")]))
    assert raised.value.field == "mounts[0].target"


def test_a_mount_takes_the_place_of_the_documents_for_its_target() -> None:
    base = from_oci(
        mounts=[{"destination": "C:\\a", "source": "C:\\theirs"}, {"destination": "C:\\b", "source": "C:\\x"}]
    )
    found = config(Spec.of(base, mounts=[Mount(source="C:\\ours", target="C:\\a")]))
    assert [(entry.host_path, entry.container_path) for entry in found.mapped_directories] == [
        ("C:\\x", "C:\\b"),
        ("C:\\ours", "C:\\a"),
    ]


def test_a_null_in_a_document_is_a_member_that_is_absent() -> None:
    base = from_oci(hostname=None, mounts=[{"destination": "C:\\a", "source": "C:\\b", "type": None}], linux=None)
    assert config(base).host_name == ""


def test_what_windows_ignores_of_a_document_is_reported() -> None:
    cpu = {"affinity": [{"mask": 1, "group": 0}], "count": 1}
    found = ignored({"mine": 1, "windows": {"resources": {"cpu": cpu}, "other": {}}, "linux": {"sysctl": {}}})
    assert list(found) == ["oci.mine", "oci.windows.other", "oci.windows.resources.cpu.affinity"]
    assert ignored(None) == {}


SAME_PLACE = ["c:\\data", "C:\\Data\\", "C:/DATA", "C:\\\\data", "C:\\x\\..\\data", "C:\\data.", "C:\\data "]


@pytest.mark.parametrize("other", SAME_PLACE)
def test_two_mounts_at_one_place_are_refused_in_any_spelling(other: str) -> None:
    with pytest.raises(InvalidSpec, match="mounted twice") as raised:
        config(minimal(mounts=[Mount(source="C:\\x", target="C:\\Data"), Mount(source="C:\\y", target=other)]))
    assert raised.value.field == "mounts[1].target"


@pytest.mark.parametrize("other", SAME_PLACE)
def test_a_mount_replaces_the_documents_in_any_spelling(other: str) -> None:
    base = from_oci(mounts=[{"destination": other, "source": "C:\\theirs"}])
    found = config(Spec.of(base, mounts=[Mount(source="C:\\ours", target="C:\\Data")])).mapped_directories
    assert [(entry.host_path, entry.container_path) for entry in found] == [("C:\\ours", "C:\\Data")]


@pytest.mark.parametrize("other", ["C:\\Data2", "D:\\Data", "C:\\Data\\x", "C:\\", "\\\\.\\pipe\\Data"])
def test_mounts_at_two_places_are_both_kept(other: str) -> None:
    source = "\\\\.\\pipe\\x" if "pipe" in other else "C:\\y"
    found = config(minimal(mounts=[Mount(source="C:\\x", target="C:\\Data"), Mount(source=source, target=other)]))
    assert len(found.mapped_directories) + len(found.mapped_pipes) == 2


def test_a_mount_of_a_type_that_windows_has_not_is_refused() -> None:
    """Bug 18: the type of a mount was not looked at."""
    with pytest.raises(NotSupported, match=r"oci.mounts\[0\].type"):
        config(from_oci(mounts=[{"destination": "C:\\a", "source": "C:\\b", "type": "tmpfs"}]))


# processes


def test_init_has_stdin_and_stdout_always_and_stderr_unless_a_terminal() -> None:
    found = translate.process_config(minimal())
    assert (found.create_std_in_pipe, found.create_std_out_pipe, found.create_std_err_pipe) == (True, True, True)
    found = translate.process_config(minimal(terminal=True, size=(30, 100)))
    assert (found.create_std_in_pipe, found.create_std_out_pipe, found.create_std_err_pipe) == (True, True, False)
    assert found.console_size == (30, 100)  # height, width (lessons, 15)


def test_a_size_without_a_terminal_is_not_sent() -> None:
    """Bug 16: the size was sent without a terminal, and a terminal without a size crashed."""
    assert translate.process_config(minimal(size=(30, 100))).console_size == (0, 0)
    assert translate.process_config(minimal(terminal=True)).console_size == (0, 0)


def test_servicing_has_no_streams() -> None:
    found = translate.process_config(windows(servicing=True))
    assert (found.create_std_in_pipe, found.create_std_out_pipe, found.create_std_err_pipe) == (False, False, False)


def test_a_command_line_is_passed_as_it_is() -> None:
    """Bug 14: arguments were joined by blanks, so callers escaped, and nothing could be passed untouched."""
    line = 'cmd /s /c "echo  "a" & b"'
    spec = Spec.of(layers=Layers(parents=[BASE]), command_line=line)
    assert translate.process_config(spec).command_line == line
    assert translate.process_config(ProcessSpec(command_line=line), spec).command_line == line


def test_the_command_line_of_a_document_is_preferred_to_its_arguments() -> None:
    process = {"args": ["a", "b c"], "commandLine": "a  b", "cwd": "C:\\"}
    assert translate.process_config(from_oci(process=process)).command_line == "a  b"
    del process["commandLine"]
    assert translate.process_config(from_oci(process=process)).command_line == 'a "b c"'


def test_a_command_said_twice_is_refused() -> None:
    with pytest.raises(InvalidSpec) as raised:
        Spec.of(layers=Layers(parents=[BASE]), args=["a"], command_line="b")
    assert raised.value.field == "command_line"
    with pytest.raises(InvalidSpec):
        ProcessSpec()


def test_an_exec_takes_from_its_container_what_it_does_not_say() -> None:
    spec = minimal(env={"A": "1", "Path": "C:\\a"}, cwd="C:\\work", user="ContainerUser")
    found = translate.process_config(ProcessSpec(args=["x"], env={"PATH": "C:\\b", "B": "2"}), spec)
    assert found.environment == {"A": "1", "B": "2", "PATH": "C:\\b"}  # names are the same in any case on Windows
    assert (found.working_directory, found.user) == ("C:\\work", "ContainerUser")


def test_an_exec_with_a_process_of_its_own_takes_only_the_folder() -> None:
    spec = minimal(env={"A": "1"}, cwd="C:\\work", user="ContainerUser")
    process = ProcessSpec(oci={"args": ["x"], "env": ["B=2"], "cwd": "", "user": {"username": ""}})
    found = translate.process_config(process, spec)
    assert (found.environment, found.working_directory, found.user) == ({"B": "2"}, "C:\\work", "")


def test_an_execs_capabilities_are_not_windows() -> None:
    with pytest.raises(NotSupported):
        translate.process_config(ProcessSpec(args=["x"], privileged=True), minimal())


def test_a_documents_environment_is_taken_as_the_original_took_it() -> None:
    entries = ["B=1", "NOEQ", "A=b=c", "EMPTY=", "=C:=C:\\x", "B=2", "b=3"]
    assert list(translate.environment(entries).items()) == [
        ("", "C:=C:\\x"),
        ("A", "b=c"),
        ("B", "2"),
        ("EMPTY", ""),
        ("b", "3"),
    ]


ENTRY = st.text(alphabet="aAbB=\\ü", max_size=6)


@given(st.lists(ENTRY, max_size=10))
def test_an_environment_is_sorted_and_the_last_of_a_name_counts(entries: list[str]) -> None:
    found = translate.environment(entries)
    assert list(found) == sorted(found, key=lambda name: name.encode())
    last = {entry.partition("=")[0]: entry.partition("=")[2] for entry in entries if "=" in entry}
    assert found == last


NAMES = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    st.lists(NAMES, min_size=1, max_size=4),
    st.integers(0, 10_000),
    st.integers(0, 100),
    st.integers(0, 1 << 40),
    st.lists(NAMES.filter(lambda text: "," not in text), max_size=3),
)
def test_any_document_is_valid_json_that_says_what_was_asked(
    names: list[str], shares: int, percent: int, bps: int, search: list[str]
) -> None:
    options = WindowsOptions(
        cpu_shares=shares, cpu_percent=percent, storage_bps=bps, endpoints=Endpoints(ids=names, dns_search_list=search)
    )
    spec = minimal(layers=Layers(parents=[f"C:\\{name}" for name in names]), windows=options)
    found = json.loads(documents.encode(config(spec)))
    assert [layer["Path"] for layer in found["Layers"]] == [f"C:\\{name}" for name in names]
    assert found.get("ProcessorWeight", 0) == shares
    assert found.get("ProcessorMaximum", 0) == percent * 100
    assert found.get("StorageBandwidthMaximum", 0) == bps
    assert found.get("DNSSearchList", "") == ",".join(search)
    assert found["EndpointList"] == names


def test_a_host_name_that_windows_takes_is_made_of_the_id() -> None:
    assert config(minimal(), id="web_1.test").host_name == "web-1-test"
    assert config(minimal(), id="a" * 64).host_name == "a" * 12
    assert config(minimal(hostname="Given")).host_name == "Given"
