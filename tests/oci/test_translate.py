"""From specs to the documents of a runtime: processes, capabilities, limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import InvalidSpec, NotSupported
from longshore.oci.config import translate
from longshore.oci.rootfs.users import NOBODY, Account
from longshore.spec import ProcessSpec, Resources, Security

ROOT = Account(uid=0, gid=0, home="/root", name="root")
WEB = Account(uid=1000, gid=1000, home="/home/web", name="web")


def limits(**fields: Any) -> Any:
    return msgspec.to_builtins(translate.resources(Resources(**fields), unified=False, swap=True))


# capabilities


def test_root_has_the_usual_capabilities_and_none_that_is_inherited() -> None:
    sets, _ = translate.capabilities(Security(), ROOT, of_the_machine=False)
    assert sets.effective == sets.permitted == sets.bounding
    assert set(sets.bounding) <= set(translate.USUAL_CAPABILITIES)
    assert (sets.inheritable, sets.ambient) == ([], [])


def test_a_user_on_the_machines_own_view_has_none_at_all() -> None:
    sets, _ = translate.capabilities(Security(), NOBODY, of_the_machine=True)
    assert sets == translate.capability_sets([], [], 65534)
    assert sets.bounding == []


def test_a_user_elsewhere_is_only_bounded_by_the_usual_ones() -> None:
    sets, _ = translate.capabilities(Security(), WEB, of_the_machine=False)
    assert sets.bounding
    assert sets.effective == sets.permitted == sets.ambient == []


def test_what_is_asked_for_by_name_reaches_a_user_that_is_not_root() -> None:
    sets, _ = translate.capabilities(Security(cap_add=["NET_BIND_SERVICE"]), WEB, of_the_machine=False)
    assert sets.ambient == sets.effective == sets.permitted == sets.inheritable == ["CAP_NET_BIND_SERVICE"]


def test_all_can_be_dropped_and_one_given_back() -> None:
    sets, why = translate.capabilities(Security(cap_drop=["ALL"], cap_add=["chown"]), ROOT, of_the_machine=False)
    assert sets.bounding == ["CAP_CHOWN"]
    assert "as asked" in why


@pytest.mark.parametrize("field", ["cap_add", "cap_drop"])
def test_a_capability_that_does_not_exist_is_refused_by_its_path(field: str) -> None:
    asked: dict[str, Any] = {field: ["NET_RAW", "NO_SUCH"]}
    with pytest.raises(InvalidSpec) as error:
        translate.capabilities(Security(**asked), ROOT, of_the_machine=False)
    assert error.value.field == f"security.{field}[1]"


# limits


def test_memory_alone_means_no_swap_beyond_it() -> None:
    assert limits(memory="64m") == {"memory": {"limit": 64 << 20, "swap": 64 << 20}}


def test_swap_is_left_alone_where_it_is_not_accounted() -> None:
    found = translate.resources(Resources(memory="64m"), unified=False, swap=False)
    assert msgspec.to_builtins(found) == {"memory": {"limit": 64 << 20}}


def test_unlimited_swap() -> None:
    assert limits(memory="64m", memory_swap=-1)["memory"]["swap"] == -1


def test_swap_without_memory_is_refused() -> None:
    with pytest.raises(InvalidSpec) as error:
        limits(memory_swap="64m")
    assert error.value.field == "memory_swap"


def test_cpus_become_a_quota_of_a_period() -> None:
    assert limits(cpus=1.5) == {"cpu": {"quota": 150_000, "period": 100_000}}
    assert limits(cpus=0.01) == {"cpu": {"quota": 1000, "period": 100_000}}


def test_no_limit_of_processes_is_a_number_that_every_runtime_takes() -> None:
    assert limits(pids=-1) == {"pids": {"limit": 1 << 22}}
    assert limits(pids=20) == {"pids": {"limit": 20}}


def test_the_usual_weight_is_the_usual_share_on_cgroup_v1() -> None:
    assert limits(cpu_weight=100) == {"cpu": {"shares": 1024}}
    assert limits(cpu_weight=1) == {"cpu": {"shares": 10}}
    assert limits(cpu_weight=10000) == {"cpu": {"shares": 102400}}


@given(st.integers(1, 10000))
def test_on_cgroup_v2_the_weight_is_exact_whatever_the_runtime_makes_of_shares(weight: int) -> None:
    found = msgspec.to_builtins(translate.resources(Resources(cpu_weight=weight), unified=True, swap=True))
    assert found["unified"] == {"cpu.weight": str(weight)}
    assert 1 + (found["cpu"]["shares"] - 2) * 9999 // 262142 == weight  # as runc 1.1 and crun 1.8 convert


def test_an_update_says_only_what_changes() -> None:
    assert set(translate.resources_update(Resources(cpus=1.0))) == {"cpu"}
    assert translate.resources_update(Resources(pids=5)) == {"pids": {"limit": 5}}


# processes

CONFIG: dict[str, Any] = {
    "process": {
        "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
        "args": ["init"],
        "env": ["PATH=/bin", "SECRET=x=y"],
        "cwd": "/srv",
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": [], "permitted": []},
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    }
}


def test_an_exec_has_what_its_container_has() -> None:
    found = translate.process(CONFIG, ProcessSpec(args=["ls"]), None)
    assert found["args"] == ["ls"]
    assert found["user"] == {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert found["env"] == ["PATH=/bin", "SECRET=x=y"]
    assert found["cwd"] == "/srv"
    assert found["noNewPrivileges"] is True
    assert found["rlimits"] == CONFIG["process"]["rlimits"]
    assert found["capabilities"]["bounding"] == ["CAP_CHOWN", "CAP_KILL"]
    assert found["terminal"] is False


def test_an_execs_environment_adds_to_the_containers() -> None:
    found = translate.process(CONFIG, ProcessSpec(args=["ls"], env={"PATH": "/sbin", "MORE": "1"}), None)
    assert found["env"] == ["PATH=/sbin", "SECRET=x=y", "MORE=1"]


def test_an_execs_terminal_has_its_size_from_the_start() -> None:
    found = translate.process(CONFIG, ProcessSpec(args=["ls"], terminal=True, size=(33, 77)), None)
    assert found["consoleSize"] == {"height": 33, "width": 77}
    assert "TERM=xterm" in found["env"]


def test_a_privileged_exec_has_all_that_the_container_may_have_and_no_more() -> None:
    found = translate.process(CONFIG, ProcessSpec(args=["ls"], privileged=True), None)
    assert found["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_KILL"]
    with pytest.raises(InvalidSpec) as error:
        translate.process(CONFIG, ProcessSpec(args=["ls"], cap_add=["SYS_ADMIN"]), None)
    assert error.value.field == "cap_add[0]"


def test_labels_only_describe() -> None:
    assert translate.label_annotations({"app": "web"}) == {"app": "web"}
    with pytest.raises(InvalidSpec) as error:
        translate.label_annotations({"run.oci.handler": "krun"})
    assert error.value.field == "labels[run.oci.handler]"


def test_an_exec_with_an_oci_process_of_its_own_takes_only_the_folder_from_its_container() -> None:
    process = {"args": ["id"], "env": ["ONLY=1"], "user": {"uid": 7, "gid": 7}}
    found = translate.process({"process": {"cwd": "/work", "env": ["A=1"]}}, ProcessSpec(oci=process), None)
    assert (found["args"], found["env"], found["cwd"]) == (["id"], ["ONLY=1"], "/work")
    assert found["user"] == {"uid": 7, "gid": 7}


def test_a_command_as_one_string_is_windows() -> None:
    with pytest.raises(NotSupported, match="command_line"):
        translate.process(CONFIG, ProcessSpec(command_line="ls -l"), None)
