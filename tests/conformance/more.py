"""Scenarios that nobody recorded, between those that somebody did: a table, by family.

`python -m tests.conformance.more DIR` plays each on the model of the original (original.py) and writes it down as a
file of the recordings' schema; with `--whole` those with further codes, too. The project's own are in modelled/; their
tag says that they were not recorded. Play others with LONGSHORE_VECTORS=DIR.
"""

# mypy: disable-error-code="assignment,dict-item,list-item"
# the tables below hold JSON, each row of another shape

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from .original import record
from .rules import SILENT
from .vectors import Vector

Json = dict[str, Any]

ID = "7f3a6c1de2b94580a1c3d5e7f9081726354453627180915a4b3c2d1e0f9e8d7c"
FOLDER = "C:\\control\\windowsfilter\\"
BASE = f"{FOLDER}65bf96e5760a09edf1790cb229e2dfb2dbd0fcdc0bf7451bae099106bfbfea0c"
UPPER = f"{FOLDER}a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90"
VOLUME = "\\\\?\\Volume{66d1ef4c-7a00-11e6-8948-00155ddbef9d}"
PENDING = "0xC0370103"
CODES = (
    "0x80070002", "0x80070005", "0x8007000E", "0x80070057", "0x80004005", "0x80070490", "0x8007007F", "0x800705B4",
    "0xC0370101", "0xC0370102", "0xC0370105", "0xC0370109", "0xC037010A", "0xC037010D", "0xC037010E", "0xC037010F",
    "0xC0370110", "0xC0370112", "0x8037010D", "0x80370114",
)  # fmt: skip

LIKE_OTHERS = tuple(code for code in CODES if code not in ("0x80070005", "0xC0370110"))

LAYER: Json = {"type": "Layer", "layerFolderPath": f"{FOLDER}{ID}", "layerPaths": [BASE]}
HYPERV: Json = {"type": "HyperVIsolation", "isHyperV": True, "sandboxPath": FOLDER[:-1]}
UVM = [f"{BASE}\\UtilityVM"]
CREATE: Json = {"op": "create"}
SETTLE: Json = {"op": "settle"}
STATS: Json = {"op": "stats"}
SERVICING: Json = {"type": "Servicing", "isServicing": True}


def process(**members: Any) -> Json:
    return {"args": ["cmd"], "cwd": "", "user": {"username": ""}, **members}


def spec(**members: Any) -> Json:
    usual: Json = {
        "ociVersion": "1.0.0-rc2-dev",
        "platform": {"os": "windows", "arch": "amd64"},
        "process": process(args=["cmd", "/c", "ver"], cwd="C:\\"),
        "root": {"path": VOLUME},
        "hostname": ID[:12],
        "windows": {},
    }
    return {**usual, **members}


def add(name: str = "e1", **members: Any) -> Json:
    made = members.pop("process", None) or process()
    return {"op": "addprocess", "name": name, "process": made, **members}


def act(action: str, **members: Any) -> Json:
    return {"op": "service", "do": {"action": action, **members}}


def ends(pid: int = 1004, code: int = 0, **members: Any) -> Json:
    return act("process_exit", process=pid, exitCode=code, **members)


def signal(sig: int) -> Json:
    return {"op": "signal", "sig": sig}


def scenario(
    *operations: Json,
    functions: Json | None = None,
    options: list[Json] | None = None,
    spec: Json | None = None,
    host: Json | None = None,
    id: str = ID,
    **members: Any,
) -> Json:
    service: Json = {"functions": functions} if functions else {}
    if "guids" in members:
        service["guids"] = members.pop("guids")
    made = {"container": id, "spec": spec or _spec(), "options": [LAYER] if options is None else options}
    return {
        "host": {"cpus": 8, **(host or {})},
        "service": service,
        "create": made,
        "operations": list(operations or [CREATE]),
        **members,
    }


_spec = spec

Scenarios = Iterator[tuple[str, Json]]


def configurations() -> Scenarios:
    """What a container is made of: every member, alone and with others."""
    for name, resources in (
        ("count_1", {"cpu": {"count": 1}}),
        ("count_2_of_4", {"cpu": {"count": 2}}),
        ("count_9", {"cpu": {"count": 9}}),
        ("count_2_32", {"cpu": {"count": 1 << 32}}),
        ("count_max", {"cpu": {"count": (1 << 64) - 1}}),
        ("shares_2", {"cpu": {"shares": 2}}),
        ("shares_5000", {"cpu": {"shares": 5000}}),
        ("shares_10001", {"cpu": {"shares": 10001}}),
        ("percent_99", {"cpu": {"percent": 99}}),
        ("percent_101", {"cpu": {"percent": 101}}),
        ("percent_200", {"cpu": {"percent": 200}}),
        ("cpu_all", {"cpu": {"count": 3, "shares": 77, "percent": 42}}),
        ("cpu_nulls", {"cpu": {"count": None, "shares": None, "percent": None}}),
        ("memory_1m", {"memory": {"limit": 1 << 20}}),
        ("memory_1", {"memory": {"limit": 1}}),
        ("memory_2m_less_1", {"memory": {"limit": (2 << 20) - 1}}),
        ("memory_int64_max", {"memory": {"limit": (1 << 63) - 1}}),
        ("memory_2_63", {"memory": {"limit": 1 << 63}}),
        ("memory_max_uint64", {"memory": {"limit": (1 << 64) - 1}}),
        ("memory_null", {"memory": {"limit": None, "reservation": None}}),
        ("memory_both", {"memory": {"limit": 512 << 20, "reservation": 256 << 20}}),
        ("storage_both", {"storage": {"iops": 500, "bps": 1 << 20}}),
        ("storage_bps", {"storage": {"bps": 10_485_760}}),
        ("storage_zero", {"storage": {"iops": 0, "bps": 0}}),
        ("storage_sandbox", {"storage": {"sandboxSize": 20 << 30}}),
        ("storage_sandbox_zero", {"storage": {"sandboxSize": 0, "iops": 1}}),
        ("storage_nulls", {"storage": {"iops": None, "bps": None, "sandboxSize": None}}),
        ("network", {"network": {"egressBandwidth": 12345}}),
        ("nulls", {"cpu": None, "memory": None, "storage": None, "network": None}),
        (
            "all",
            {
                "cpu": {"count": 4, "shares": 500, "percent": 25},
                "memory": {"limit": 3 << 30},
                "storage": {"iops": 7, "bps": 8},
                "network": {"egressBandwidth": 9},
            },
        ),
    ):
        yield f"config_{name}", scenario(spec=spec(windows={"resources": resources}), host={"cpus": 4})
    for name, windows in (("windows_null_resources", {"resources": None}),):
        yield f"config_{name}", scenario(spec=spec(windows=windows))
    for name, members in (
        ("hostname_empty", {"hostname": ""}),
        ("hostname_long", {"hostname": "h" * 63}),
        ("hostname_unicode", {"hostname": "größe-日本"}),
        ("mounts_empty", {"mounts": []}),
        ("mounts_null", {"mounts": None}),
        ("mount_one", {"mounts": [{"destination": "c:\\data", "source": "d:\\data"}]}),
        ("mount_no_options", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": []}]}),
        ("mount_ro", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": ["ro"]}]}),
        ("mount_ro_upper", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": ["rw", "RO"]}]}),
        ("mount_rw", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": ["rw"]}]}),
        ("mount_readonly_word", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": ["readonly"]}]}),
        ("mount_rro", {"mounts": [{"destination": "c:\\d", "source": "d:\\d", "options": ["xro", "rbind"]}]}),
        ("mount_unicode", {"mounts": [{"destination": "c:\\ü<>&", "source": "d:\\日本 x", "options": ["Ro"]}]}),
        ("mount_pipe", {"mounts": [{"destination": "\\\\.\\pipe\\x", "source": "\\\\.\\pipe\\x"}]}),
        (
            "mounts_three",
            {"mounts": [{"destination": f"c:\\m{i}", "source": f"d:\\{i}", "options": ["ro"] * i} for i in range(3)]},
        ),
        (
            "mounts_same",
            {"mounts": [{"destination": "c:\\m", "source": "d:\\1"}, {"destination": "c:\\m", "source": "d:\\2"}]},
        ),
    ):
        yield f"config_{name}", scenario(spec=spec(**members))
    endpoints = {"type": "NetworkEndpoints"}
    for name, options in (
        ("endpoint_one", [{**endpoints, "endpoints": ["eef2649d-bb17-4d53-9937-295a8efe6f2c"]}]),
        ("endpoint_names", [{**endpoints, "endpoints": ["a", "ü", ""]}]),
        ("dns_unqualified", [{**endpoints, "endpoints": ["a"], "allowUnqualifiedDNSQuery": True}]),
        ("dns_search_blank", [{**endpoints, "endpoints": ["a"], "dnsSearchList": [""]}]),
        ("dns_search_two", [{**endpoints, "endpoints": None, "dnsSearchList": ["a.com", "b.com"]}]),
        (
            "network_twice_null_search",
            [
                {**endpoints, "endpoints": ["a"], "dnsSearchList": ["x.y"], "allowUnqualifiedDNSQuery": True},
                {**endpoints, "endpoints": ["b"]},
            ],
        ),
        (
            "network_twice_empty_search",
            [
                {**endpoints, "endpoints": ["a"], "dnsSearchList": ["x.y"]},
                {**endpoints, "endpoints": None, "dnsSearchList": []},
            ],
        ),
        ("credentials", [{"type": "Credentials", "credentials": '{"CmsPlugins":["ActiveDirectory"],"x":"<&>"}'}]),
        ("credentials_text", [{"type": "Credentials", "credentials": "not\tjson\n\u2028\u2029\x01\x7f\x08\x0c"}]),
        (
            "credentials_twice",
            [{"type": "Credentials", "credentials": "a"}, {"type": "Credentials", "credentials": ""}],
        ),
        ("servicing_false", [{"type": "Servicing", "isServicing": False}]),
        ("servicing_then_not", [SERVICING, {"type": "Servicing", "isServicing": False}]),
        ("flush_then_not", [{"type": "Flush", "ignoreFlushesDuringBoot": v} for v in (True, False)]),
        ("hyperv_then_not", [HYPERV, {"type": "HyperVIsolation", "isHyperV": False, "sandboxPath": ""}]),
    ):
        if name == "servicing_then_not":
            continue  # the original's start looked for any, its document at the last: not sure
        yield f"config_{name}", scenario(options=[LAYER, *options], host={"directories": UVM})
        yield f"config_{name}_first", scenario(options=[*options, LAYER], host={"directories": UVM})
    for name, options in (
        ("layers_three", [{**LAYER, "layerPaths": [UPPER, f"{FOLDER}middle", BASE]}]),
        ("layer_slashes", [{**LAYER, "layerPaths": ["C:/control/windowsfilter/abc"]}]),
        ("layer_mixed_slashes", [{**LAYER, "layerPaths": ["C:\\control/windowsfilter\\abc"]}]),
        ("layer_drive", [{**LAYER, "layerPaths": ["C:abc"]}]),
        ("layer_unc", [{**LAYER, "layerPaths": ["\\\\server\\share\\layer"]}]),
        ("layer_blank", [{**LAYER, "layerPaths": ["C:\\with blank\\a b"]}]),
        ("layer_no_folder", [{"type": "Layer", "layerFolderPath": "", "layerPaths": [BASE]}]),
        ("layer_null", [{"type": "Layer", "layerFolderPath": "x"}]),
        ("layer_null_then_one", [{"type": "Layer", "layerFolderPath": "x"}, LAYER]),
        ("layer_one_then_null", [LAYER, {"type": "Layer", "layerFolderPath": "x"}]),
        ("hyperv_two_layers", [{**LAYER, "layerPaths": [UPPER, BASE]}, HYPERV]),
        ("hyperv_all", [HYPERV, {**LAYER, "layerPaths": [UPPER, BASE]},
                        {"type": "Flush", "ignoreFlushesDuringBoot": True},
                        {**endpoints, "endpoints": ["a"], "dnsSearchList": ["b", "c"]},
                        {"type": "Credentials", "credentials": "{}"}]),
        ("hyperv_empty_sandbox", [LAYER, {**HYPERV, "sandboxPath": ""}]),
        ("hyperv_slash_layer", [{**LAYER, "layerPaths": [BASE.replace("\\", "/")]}, HYPERV]),
        ("hyperv_layer_ends", [{**LAYER, "layerPaths": [BASE + "\\"]}, HYPERV]),
        ("hyperv_none_there", [{**LAYER, "layerPaths": [UPPER, f"{FOLDER}x"]}, HYPERV]),
        ("hyperv_bad_second", [{**LAYER, "layerPaths": [UPPER, "C:\\a*b"]}, HYPERV]),
        ("hyperv_bad_behind_good", [{**LAYER, "layerPaths": [BASE, "C:\\a*b"]}, HYPERV]),
    ):  # fmt: skip
        yield f"config_{name}", scenario(options=options, host={"directories": UVM})
    for name, root in (("root_other_volume", VOLUME.replace("66d1", "ABCD")), ("root_slash", VOLUME + "\\")):
        yield f"config_{name}", scenario(spec=spec(root={"path": root}))
    yield "config_guids", scenario(guids={BASE.rsplit("\\", maxsplit=1)[-1]: "18955d65-d45a-557b-bf1c-49d6dfefc526"})
    for id in ("a", "A.b-c_9", "x" * 64, "x" * 128):
        yield f"config_id_{len(id)}_{id[0]}", scenario(id=id)
    for code in ("0x80070057", "0x80004005", "0x80070002", "0x800401F3", "0xC0370112", "0x80041002"):
        failing = {"NameToGuid": [{"hr": code, "match": "middle"}]}
        paths = [UPPER, f"{FOLDER}middle", BASE]
        yield f"config_guid_fails_{code}", scenario(functions=failing, options=[{**LAYER, "layerPaths": paths}])


PROCESSES: dict[str, Json] = {
    "arg_empty": process(args=["cmd", "", "x"]),
    "args_blank": process(args=["c:\\a b\\x.exe", "a b", "c\td"]),
    "args_quotes": process(args=["cmd", 'a"b', '"', '\\"']),
    "args_backslashes": process(args=["cmd", "a\\", "a b\\", "\\\\x\\\\", "\\"]),
    "args_unicode": process(args=["cmd", "ü", "日本", "😀", "<&>", "\u2028"]),
    "args_control": process(args=["cmd", "a\nb", "\x01", "\x7f"]),
    "args_many": process(args=["cmd", *map(str, range(200))]),
    "args_shell": process(args=["cmd", "/c", "echo %PATH% & dir | more > x ^ y"]),
    "args_empty": process(args=[]),
    "env_null": process(env=None),
    "env_empty": process(env=[]),
    "env_no_equals": process(env=["A", "B=1", ""]),
    "env_equals_only": process(env=["=", "=C:=C:\\x", "A=="]),
    "env_twice": process(env=["A=1", "a=2", "A=3", "A="]),
    "env_order": process(env=["b=1", "a=2", "B=3", "_=4", "ü=5", "😀=6", "\uffff=7", "1=8"]),
    "env_values": process(env=["A=a=b=c", "B=ü<>&", "C= ", "D=\t\n", 'E="', "F=\\"]),
    "user": process(user={"username": "ContainerAdministrator"}),
    "user_domain": process(user={"username": "DOMAIN\\ü user"}),
    "cwd": process(cwd="C:\\Program Files\\ü"),
    "cwd_slash": process(cwd="/x/y"),
    "terminal": process(terminal=True, consoleSize={"height": 25, "width": 80}),
    "terminal_zero": process(terminal=True, consoleSize={"height": 0, "width": 0}),
    "terminal_max": process(terminal=True, consoleSize={"height": 65535, "width": 65535}),
    "terminal_height": process(terminal=True, consoleSize={"height": 7}),
    "no_terminal_size": process(terminal=False, consoleSize={"height": 25, "width": 80}),
    "no_members": {"args": ["cmd"], "cwd": "", "user": {}},
}


def processes() -> Scenarios:
    for name, one in PROCESSES.items():
        yield f"process_{name}", scenario(spec=spec(process=one))
        yield f"exec_{name}", scenario(CREATE, add(process=one), SETTLE)
    for cwd in ("", "C:\\app"):
        own = process(cwd=cwd, env=["INIT=1"], user={"username": "u"})
        yield (
            f"exec_inherits_{bool(cwd)}",
            scenario(CREATE, add(), add("e2", process=process(cwd="D:\\")), spec=spec(process=own)),
        )


def creations() -> Scenarios:
    for code in CODES:
        yield (
            f"create_fails_{code}",
            scenario(CREATE, STATS, functions={"HcsCreateComputeSystem": [{"hr": code, "result": {"Error": 1}}]}),
        )
        later = [{"hr": PENDING, "notify": [{"type": "SystemCreateCompleted", "status": code, "after_ms": 20}]}]
        yield f"create_fails_later_{code}", scenario(CREATE, STATS, functions={"HcsCreateComputeSystem": later})
        yield f"start_fails_{code}", scenario(CREATE, STATS, functions={"HcsStartComputeSystem": [{"hr": code}]})
        later = [{"hr": PENDING, "notify": [{"type": "SystemStartCompleted", "status": code, "after_ms": 20}]}]
        yield f"start_fails_later_{code}", scenario(CREATE, SETTLE, STATS, functions={"HcsStartComputeSystem": later})
        yield f"createprocess_fails_{code}", scenario(CREATE, SETTLE, functions={"HcsCreateProcess": [{"hr": code}]})
        exec_fails = {"HcsCreateProcess": [{"times": 1}, {"hr": code}]}
        yield f"exec_fails_{code}", scenario(CREATE, add(), add("e1"), ends(code=4), SETTLE, functions=exec_fails)
    for code in ("0x80070005", "0xC0370104", "0xC0370105", "0x80070006"):
        register = {"HcsRegisterComputeSystemCallback": [{"hr": code}]}
        yield f"create_register_fails_{code}", scenario(CREATE, STATS, functions=register)
        register = {"HcsRegisterProcessCallback": [{"hr": code}]}
        yield f"createprocess_register_fails_{code}", scenario(CREATE, SETTLE, STATS, functions=register)
        register = {"HcsRegisterProcessCallback": [{"times": 1}, {"hr": code}]}
        yield f"exec_register_fails_{code}", scenario(CREATE, add(), SETTLE, functions=register)
    for verb, told in (("Create", "SystemCreateCompleted"), ("Start", "SystemStartCompleted")):
        function = f"Hcs{verb}ComputeSystem"
        low = verb.lower()
        for name, rule in (
            ("now", {"hr": 0}),
            ("one", {"hr": 1}),
            ("slow", {"delay_ms": 100}),
            ("late", {"hr": PENDING, "notify": [{"type": told, "after_ms": 300}]}),
            ("at_once", {"hr": PENDING, "notify": [{"type": told, "after_ms": 0}]}),
            ("positive_status", {"hr": PENDING, "notify": [{"type": told, "status": 0, "data": "{}"}]}),
            ("result", {"result": {"Error": 0, "ErrorMessage": "x"}}),
        ):
            yield f"{low}_{name}", scenario(CREATE, SETTLE, functions={function: [rule]})
        for name, notify in (
            ("exits", [{"type": "SystemExited", "after_ms": 20}]),
            ("exits_failing", [{"type": "SystemExited", "status": "0xC0370106", "after_ms": 20}]),
            ("disconnects", [{"type": "ServiceDisconnect", "after_ms": 20}]),
            ("never", []),
        ):
            yield (
                f"{low}_{name}",
                scenario(
                    CREATE,
                    SETTLE,
                    STATS,
                    functions={function: [{"hr": PENDING, "notify": notify}]},
                    host={"timeouts": {"default_ms": 1500, "terminate_ms": 1500}},
                ),
            )
    for function in (
        "HcsStartComputeSystem", "HcsRegisterComputeSystemCallback", "HcsCreateProcess", "HcsRegisterProcessCallback",
        "HcsTerminateComputeSystem", "HcsGetProcessProperties", "HcsGetComputeSystemProperties", "HcsTerminateProcess",
        "HcsModifyProcess", "HcsResumeComputeSystem", "HcsPauseComputeSystem", "HcsShutdownComputeSystem",
    ):  # fmt: skip
        steps = [
            CREATE,
            add(),
            STATS,
            {"op": "signalprocess", "name": "e1", "sig": 9},
            SETTLE,
            ends(1008),
            SETTLE,
            ends(code=3),
            SETTLE,
        ]
        yield f"missing_{function}", scenario(*steps, host={"missingFunctions": [function]})
    for where in ("stdin", "stdout", "stderr"):
        withheld = {"HcsCreateProcess": [{"withhold": [where]}]}
        if where != "stdin":
            yield f"{where}_withheld_too", scenario(CREATE, ends(), SETTLE, functions=withheld)
    yield (
        "create_two",
        scenario(
            CREATE,
            {"op": "create", "container": "other"},
            STATS,
            ends(code=1),
            SETTLE,
            {"op": "stats", "container": "other"},
            ends(1008, 2),
            SETTLE,
        ),
    )
    yield "create_again_after_exit", scenario(CREATE, ends(code=1), SETTLE, CREATE, SETTLE, STATS)
    yield (
        "create_again_after_failure",
        scenario(
            CREATE, SETTLE, CREATE, SETTLE, functions={"HcsStartComputeSystem": [{"hr": "0x80070005", "times": 1}]}
        ),
    )


def exits() -> Scenarios:
    for code in (2, 3, 42, 127, 128, 137, 256, 259, 65536, 0x7FFFFFFF, 0xC0000005, 0xC000013A, 0xC0000142, 0xFFFFFFFE):
        yield f"exit_{code}", scenario(CREATE, ends(code=code), SETTLE, STATS)
        yield f"exec_exit_{code}", scenario(CREATE, add(), ends(1008, code), SETTLE, STATS)
    for name, properties in (
        ("empty_object", {}),
        ("exited_only", {"Exited": True}),
        ("not_exited", {"ProcessId": 1004, "Exited": False, "ExitCode": 0, "LastWaitResult": 0}),
        ("wait_result_negative", {"ProcessId": 1004, "Exited": True, "ExitCode": 0, "LastWaitResult": -1}),
        ("wait_result_258", {"ProcessId": 1004, "Exited": True, "ExitCode": 3, "LastWaitResult": 258}),
        ("other_pid", {"ProcessId": 9, "Exited": True, "ExitCode": 3, "LastWaitResult": 0}),
        ("more_members", {"Exited": True, "ExitCode": 3, "Later": {"x": [1]}}),
        ("max", {"Exited": True, "ExitCode": 4294967295}),
        ("empty_text", ""),
        ("null_text", "null"),
        ("garbage", "{"),
        ("none", None),
    ):
        if name == "null_text":
            continue  # Go reads it as an empty object; so the same as the first, but not sure of the double
        yield (
            f"exit_code_{name}",
            scenario(CREATE, ends(code=3), SETTLE, functions={"HcsGetProcessProperties": [{"properties": properties}]}),
        )
        only = {"HcsGetProcessProperties": [{"match": "1008", "properties": properties}]}
        yield f"exec_code_{name}", scenario(CREATE, add(), ends(1008, 3), SETTLE, ends(code=5), SETTLE, functions=only)
    for code in ("0x80070005", "0x80070006", "0x8007006D", "0xC0370105", "0xC037010E", "0xC0370110", "0x80070490"):
        yield (
            f"exit_query_{code}",
            scenario(CREATE, ends(code=3), SETTLE, functions={"HcsGetProcessProperties": [{"hr": code}]}),
        )
        yield (
            f"exit_updates_{code}",
            scenario(CREATE, ends(code=3), SETTLE, functions={"HcsGetComputeSystemProperties": [{"hr": code}]}),
        )
        yield f"exit_status_{code}", scenario(CREATE, ends(code=3, status=code), SETTLE)
        yield f"exec_status_{code}", scenario(CREATE, add(), ends(1008, 3, status=code), SETTLE)
        for verb in ("Shutdown", "Terminate"):
            failing: Json = {f"Hcs{verb}ComputeSystem": [{"hr": code}]}
            if verb == "Terminate":
                failing["HcsShutdownComputeSystem"] = [{"hr": "0xC037010E"}]
            yield f"{verb.lower()}_{code}", scenario(CREATE, ends(code=3), SETTLE, STATS, functions=failing)
        for kind in ("Process", "ComputeSystem"):
            for what in (f"HcsClose{kind}", f"HcsUnregister{kind}Callback"):
                yield f"{what}_{code}", scenario(CREATE, ends(code=3), SETTLE, functions={what: [{"hr": code}]})
    for name, properties in (
        ("false", {"AreUpdatesPending": False}),
        ("absent", {"Id": ID}),
        ("more", {"AreUpdatesPending": True, "Stopped": True, "ExitType": "x"}),
        ("none", None),
        ("garbage", "["),
        ("wrong_type", {"AreUpdatesPending": "yes"}),
    ):
        if name == "wrong_type":
            continue
        yield (
            f"exit_updates_{name}",
            scenario(CREATE, ends(), SETTLE, functions={"HcsGetComputeSystemProperties": [{"properties": properties}]}),
        )
    for name, rule in (
        ("now", {"hr": 0}),
        ("late", {"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 100}]}),
        ("failing", {"hr": PENDING, "notify": [{"type": "SystemExited", "status": "0x80004005", "after_ms": 20}]}),
        ("disconnects", {"hr": PENDING, "notify": [{"type": "ServiceDisconnect", "after_ms": 20}]}),
        ("never", {"hr": PENDING, "notify": []}),
    ):
        limits = {"timeouts": {"shutdown_ms": 1500, "terminate_ms": 1500}}
        rules = {"HcsShutdownComputeSystem": [rule]}
        yield (
            f"shutdown_{name}",
            scenario(CREATE, ends(code=3), SETTLE, {"op": "sleep", "ms": 3300}, SETTLE, functions=rules, host=limits),
        )
        rules = {"HcsShutdownComputeSystem": [{"hr": "0x80070005"}], "HcsTerminateComputeSystem": [rule]}
        yield (
            f"shutdown_fails_terminate_{name}",
            scenario(CREATE, ends(code=3), SETTLE, {"op": "sleep", "ms": 3300}, SETTLE, functions=rules, host=limits),
        )
    for name, rule in (
        ("at_once", {"exit": {"code": 6, "after_ms": 0}}),
        ("soon", {"exit": {"code": 6, "after_ms": 30}}),
        ("output", {"stdout": "out\n", "stderr": "err\n", "exit": {"code": 0, "after_ms": 30}}),
        ("repeat", {"stdout": "0123456789", "repeat": 20_000, "exit": {"code": 0, "after_ms": 60}}),
        ("closed_output", {"stdout": "x", "close_output": True, "exit": {"code": 1, "after_ms": 60}}),
        ("unicode", {"stdout": "ü日本😀", "exit": {"code": 1, "after_ms": 30}}),
        ("failing_status", {"exit": {"code": 7, "after_ms": 30, "status": "0x80004005"}}),
        ("on_close", {"exit": {"on": "stdin_close", "code": 9}}),
        ("pid", {"pid": 77, "exit": {"code": 2, "after_ms": 40}}),
        ("slow", {"delay_ms": 80, "exit": {"code": 2, "after_ms": 40}}),
    ):
        last = [{"op": "close_stdin", "name": "init"}, SETTLE] if name == "on_close" else []
        yield f"exit_{name}", scenario(CREATE, SETTLE, *last, functions={"HcsCreateProcess": [rule]})
        if name in ("repeat", "on_close"):
            continue
        yield (
            f"exec_{name}",
            scenario(CREATE, add(), SETTLE, ends(code=5), SETTLE, functions={"HcsCreateProcess": [{"times": 1}, rule]}),
        )
    yield (
        "exit_silent_then_told",
        scenario(
            CREATE, ends(code=4, silent=True), SETTLE, act("notify_process", process=1004, type="ProcessExited"), SETTLE
        ),
    )
    yield (
        "exit_disconnect_process",
        scenario(CREATE, act("notify_process", process=1004, type="ServiceDisconnect"), SETTLE),
    )
    yield (
        "exec_disconnect_process",
        scenario(CREATE, add(), act("notify_process", process=1008, type="ServiceDisconnect"), SETTLE, ends(), SETTLE),
    )
    yield (
        "exec_silent_then_told",
        scenario(
            CREATE,
            add(),
            ends(1008, 4, silent=True),
            SETTLE,
            act("notify_process", process=1008, type="ProcessExited"),
            SETTLE,
        ),
    )
    yield (
        "exit_two_execs_first",
        scenario(CREATE, add("a"), add("b"), ends(1008, 1), SETTLE, ends(1012, 2), SETTLE, ends(1004, 3), SETTLE),
    )
    yield (
        "exit_execs_after",
        scenario(
            CREATE,
            add("a"),
            add("b"),
            ends(1004, 3),
            SETTLE,
            ends(1012, 2),
            SETTLE,
            functions={"HcsShutdownComputeSystem": [{"hr": "0xC0370110"}]},
        ),
    )
    yield (
        "system_exited_then_process",
        scenario(CREATE, act("notify_system", type="SystemExited"), SETTLE, ends(code=1067), SETTLE),
    )


def streams() -> Scenarios:
    for name, data in (("empty", ""), ("unicode", "ü日本😀\r\n"), ("long", "x" * 20_000)):
        write = {"op": "write_stdin", "name": "init", "data": data}
        close = {"op": "close_stdin", "name": "init"}
        yield f"stdin_{name}", scenario(CREATE, write, SETTLE, close, SETTLE, ends(), SETTLE)
    close = {"op": "close_stdin", "name": "e1"}
    write = {"op": "write_stdin", "name": "e1", "data": "a"}
    yield "stdin_exec_twice", scenario(CREATE, add(), write, write, SETTLE, close, SETTLE, ends(1008), SETTLE)
    yield "stdin_exec_attach_close", scenario(CREATE, add(attach="close_stdin"), SETTLE, ends(1008), SETTLE)
    yield "stdin_attach_close", scenario({**CREATE, "attach": "close_stdin"}, SETTLE, ends(), SETTLE)
    for code in CODES[:16]:
        failing = {"HcsModifyProcess": [{"hr": code}]}
        yield f"stdin_close_{code}", scenario(CREATE, {"op": "close_stdin", "name": "init"}, SETTLE, functions=failing)
        yield (
            f"resize_{code}",
            scenario(CREATE, {"op": "resize", "name": "init", "width": 80, "height": 25}, functions=failing),
        )
    held = {**CREATE, "attach": "hold"}
    out = act("write", process=1004, stream="stdout", data="late\n")
    yield "held_then_read", scenario(held, out, SETTLE, {"op": "start_reading", "name": "init"}, SETTLE, ends(), SETTLE)
    yield (
        "held_exit_then_read",
        scenario(held, out, ends(code=2), SETTLE, {"op": "start_reading", "name": "init"}, SETTLE),
    )
    yield "held_never_read", scenario(held, out, ends(code=2), SETTLE)
    yield (
        "written_in_pieces",
        scenario(
            CREATE, out, SETTLE, out, SETTLE, act("write", process=1004, stream="stderr", data="e"), ends(), SETTLE
        ),
    )
    for name in ("stdout", "stderr"):
        again = {"op": "read_again", "name": "init", "stream": name}
        yield (
            f"ended_{name}",
            scenario(CREATE, act("end", process=1004, stream=name), SETTLE, again, ends(code=1), SETTLE),
        )
        yield (
            f"closed_{name}",
            scenario(CREATE, {"op": "close_output", "name": "init", "stream": name}, out, SETTLE, ends(), SETTLE),
        )


def signals() -> Scenarios:
    for sig in (3, 10, 12, 19, 20, 64):
        yield f"signal_{sig}", scenario(CREATE, signal(sig), SETTLE, STATS)
    for sig in (0, 65, -9, 1000):
        yield f"signal_{sig}", scenario(CREATE, signal(sig), SETTLE, STATS)  # it shut the system down
    for code in CODES:
        for sig, verb in ((9, "Terminate"), (15, "Shutdown")):
            once = {f"Hcs{verb}ComputeSystem": [{"hr": code, "times": 1}]}
            yield f"signal_{sig}_{code}", scenario(CREATE, signal(sig), SETTLE, STATS, functions=once)
        failing = {"HcsTerminateProcess": [{"hr": code, "times": 1}]}
        kill = {"op": "signalprocess", "name": "e1", "sig": 15}
        yield f"signalprocess_{code}", scenario(CREATE, add(), kill, SETTLE, STATS, functions=failing)
    for sig in (0, 1, 9, 15, -5, 1000):
        kill = {"op": "signalprocess", "name": "e1", "sig": sig}
        yield f"signalprocess_sig_{sig}", scenario(CREATE, add(), kill, SETTLE, STATS)
    kill = {"op": "signalprocess", "name": "e2", "sig": 9}
    yield "signalprocess_second", scenario(CREATE, add(), add("e2"), kill, SETTLE, STATS)
    yield "signalprocess_unknown", scenario(CREATE, add(), {**kill, "name": "nope"}, SETTLE)
    yield "signalprocess_ended", scenario(CREATE, add("e2"), ends(1008, 2), SETTLE, kill)
    yield (
        "signalprocess_code",
        scenario(
            CREATE, add("e2"), kill, SETTLE, functions={"HcsTerminateProcess": [{"exitCode": 99, "after_ms": 60}]}
        ),
    )
    yield (
        "signal_9_code",
        scenario(
            CREATE,
            signal(9),
            SETTLE,
            functions={
                "HcsTerminateComputeSystem": [
                    {
                        "hr": PENDING,
                        "kill": {"exitCode": 55, "after_ms": 20},
                        "notify": [{"type": "SystemExited", "after_ms": 100}],
                    }
                ]
            },
        ),
    )
    yield "signal_9_with_execs", scenario(CREATE, add(), ends(1008), SETTLE, signal(9), SETTLE)
    yield "signal_15_with_exec_ended", scenario(CREATE, add(), ends(1008), SETTLE, signal(15), SETTLE)
    for width, height in ((80, 25), (1, 1), (65535, 65535), (65536, 1), (0, 0), (-1, 5), (5, 100000)):
        yield (
            f"resize_{width}_{height}",
            scenario(CREATE, {"op": "resize", "name": "init", "width": width, "height": height}),
        )
    terminal = process(terminal=True, consoleSize={"height": 5, "width": 6})
    size = {"op": "resize", "name": "e1", "width": 3, "height": 4}
    yield "resize_exec_terminal", scenario(CREATE, add(process=terminal), size, ends(1008), SETTLE, size)
    yield "resize_unknown", scenario(CREATE, size)


def states() -> Scenarios:
    pause, resume = {"op": "pause"}, {"op": "resume"}
    layers = [LAYER, HYPERV]
    for code in CODES:
        once = {"HcsPauseComputeSystem": [{"hr": code, "times": 1}]}
        yield f"pause_{code}", scenario(CREATE, pause, STATS, functions=once, options=layers, host={"directories": UVM})
        once = {"HcsResumeComputeSystem": [{"hr": code, "times": 1}]}
        yield (
            f"resume_{code}",
            scenario(CREATE, pause, resume, STATS, resume, functions=once, options=layers, host={"directories": UVM}),
        )
    for verb in ("Pause", "Resume"):
        for name, rule in (
            ("now", {"hr": 0}),
            (
                "fails_later",
                {"hr": PENDING, "notify": [{"type": f"System{verb}Completed", "status": "0xC0370105", "after_ms": 20}]},
            ),
            ("late", {"hr": PENDING, "notify": [{"type": f"System{verb}Completed", "after_ms": 100}]}),
            ("never", {"hr": PENDING, "notify": []}),
        ):
            host = {"directories": UVM, "timeouts": {"default_ms": 1500}}
            yield (
                f"{verb.lower()}_{name}",
                scenario(
                    CREATE,
                    pause,
                    resume,
                    STATS,
                    functions={f"Hcs{verb}ComputeSystem": [rule]},
                    options=layers,
                    host=host,
                ),
            )
    hosted = {"directories": UVM}
    yield "pause_exit", scenario(CREATE, pause, ends(code=3), SETTLE, options=layers, host=hosted)
    yield "pause_kill", scenario(CREATE, pause, signal(9), SETTLE, options=layers, host=hosted)
    yield "pause_pause", scenario(CREATE, pause, pause, options=layers, host=hosted)
    yield "resume_alone", scenario(CREATE, resume, options=layers, host=hosted)
    yield "pause_exec", scenario(CREATE, pause, add(), resume, add(), options=layers, host=hosted)
    yield "pause_resume_twice", scenario(CREATE, pause, resume, pause, resume, options=layers, host=hosted)
    plain = {"type": "HyperVIsolation", "isHyperV": False}
    yield "pause_process_isolated", scenario(CREATE, pause, resume, options=[LAYER, plain])
    for name, statistics in (
        ("empty", {}),
        (
            "no_network",
            {
                "Memory": {
                    "MemoryUsageCommitBytes": 1,
                    "MemoryUsageCommitPeakBytes": 2,
                    "MemoryUsagePrivateWorkingSetBytes": 3,
                }
            },
        ),
        (
            "processor",
            {
                "Timestamp": "2017-02-22T10:11:12.1234567Z",
                "Processor": {"TotalRuntime100ns": 10, "RuntimeUser100ns": 4, "RuntimeKernel100ns": 6},
            },
        ),
        (
            "network_two",
            {
                "Network": [
                    {
                        "BytesReceived": 1,
                        "BytesSent": 2,
                        "PacketsReceived": 3,
                        "PacketsSent": 4,
                        "DroppedPacketsIncoming": 5,
                        "DroppedPacketsOutgoing": 6,
                        "EndpointId": "a",
                        "InstanceId": "b",
                    },
                    {},
                ]
            },
        ),
        (
            "offset",
            {"Timestamp": "2017-02-22T10:11:12+01:00", "Storage": {"ReadCountNormalized": 9, "WriteSizeBytes": 8}},
        ),
        ("max", {"Memory": {"MemoryUsagePrivateWorkingSetBytes": (1 << 64) - 1}}),
    ):
        yield (
            f"stats_{name}",
            scenario(
                CREATE,
                STATS,
                functions={
                    "HcsGetComputeSystemProperties": [{"match": "Statistics", "properties": {"Statistics": statistics}}]
                },
            ),
        )
    for name, listed in (
        (
            "one",
            [
                {
                    "ProcessId": 1004,
                    "ImageName": "cmd.exe",
                    "KernelTime100ns": 5,
                    "UserTime100ns": 6,
                    "MemoryCommitBytes": 1,
                    "MemoryWorkingSetPrivateBytes": 2,
                    "MemoryWorkingSetSharedBytes": 3,
                    "CreateTimestamp": "2017-02-22T10:11:12.1234567Z",
                }
            ],
        ),
        ("bare", [{"ProcessId": 4}, {"ImageName": "ü.exe"}]),
        ("null", None),
    ):
        yield (
            f"summary_{name}",
            scenario(
                CREATE,
                {"op": "summary"},
                functions={
                    "HcsGetComputeSystemProperties": [{"match": "ProcessList", "properties": {"ProcessList": listed}}]
                },
            ),
        )
    for code in ("0x80070005", "0xC037010E", "0xC0370110", "0xC0370105", "0x80004005"):
        failing = {"HcsGetComputeSystemProperties": [{"hr": code}]}
        yield f"stats_{code}", scenario(CREATE, STATS, functions=failing)
        yield f"summary_{code}", scenario(CREATE, {"op": "summary"}, functions=failing)
    for name, text in (("garbage", "x"), ("empty", ""), ("list", "[")):
        yield (
            f"summary_{name}",
            scenario(CREATE, {"op": "summary"}, functions={"HcsGetComputeSystemProperties": [{"properties": text}]}),
        )


def servicing() -> Scenarios:
    options = [LAYER, SERVICING]
    for code in (1, 5, 0xC0000005, 0xFFFFFFFF):
        ended = {"HcsCreateProcess": [{"exit": {"code": code, "after_ms": 30}}]}
        yield f"servicing_{code}", scenario(CREATE, STATS, SETTLE, functions=ended, options=options)
    ended = {"HcsCreateProcess": [{"exit": {"code": 0, "after_ms": 30}}]}
    beside = {**CREATE, "async": True, "label": "c"}
    wait = {"op": "sleep", "ms": 300}
    for status in (0, "0xC0370106", "0x80004005"):
        exited = act("notify_system", type="SystemExited", status=status)
        yield (
            f"servicing_status_{status}",
            scenario(beside, wait, exited, {"op": "join", "label": "c"}, SETTLE, functions=ended, options=options),
        )
    yield (
        "servicing_disconnected",
        scenario(
            beside,
            wait,
            act("notify_system", type="ServiceDisconnect"),
            {"op": "join", "label": "c"},
            SETTLE,
            functions=ended,
            options=options,
        ),
    )
    yield (
        "servicing_late",
        scenario(CREATE, SETTLE, functions=ended, options=options, host={"timeouts": {"servicing_ms": 1500}}),
    )
    for function in ("HcsCreateProcess", "HcsCreateComputeSystem", "HcsStartComputeSystem"):
        for code in ("0x80070005", "0xC0370105"):
            yield (
                f"servicing_{function}_{code}",
                scenario(CREATE, STATS, SETTLE, functions={function: [{"hr": code}]}, options=options),
            )


def others() -> Scenarios:
    """Notifications about the other kind of handle: nothing comes of them."""
    kill = {"op": "signalprocess", "name": "e1", "sig": 9}
    for type, pid in (
        ("SystemExited", 1004), ("SystemExited", 1008), ("SystemStartCompleted", 1008), ("SystemPauseCompleted", 1008),
        ("SystemResumeCompleted", 1004), ("SystemCreateCompleted", 1008),
    ):  # fmt: skip
        told = act("notify_process", process=pid, type=type)
        name = f"others_{type}_{'init' if pid == 1004 else 'exec'}"
        steps = [CREATE, add(), told, SETTLE, STATS, add("e2"), {**kill, "name": "e2"}, SETTLE, STATS]
        yield name, scenario(*steps)
        if pid == 1008:  # init's own registration is not held up
            yield f"{name}_then_exit", scenario(CREATE, add(), told, SETTLE, STATS, ends(1004, 6), SETTLE, STATS)
        yield f"{name}_failing", scenario(CREATE, add(), {**told, "do": {**told["do"], "status": "0x80004005"}}, STATS)
    for type in ("ProcessExited", "0x77"):
        told = act("notify_system", type=type)
        yield f"others_{type}_system", scenario(CREATE, add(), told, SETTLE, STATS, ends(1008, 2), SETTLE, STATS)
        yield f"others_{type}_system_signal", scenario(CREATE, told, STATS, add(), kill, SETTLE, STATS)
    lost = act("notify_process", process=1008, type="ServiceDisconnect", status="0x800706BA")
    yield "others_ServiceDisconnect_exec", scenario(CREATE, add(), lost, SETTLE, STATS, ends(1004, 6), SETTLE, STATS)


def numbers() -> Scenarios:
    """What the service says in numbers that do not fit, in other types, or with null for a member."""
    memory, processor = "Memory", "Processor"
    for name, statistics in (
        ("negative", {memory: {"MemoryUsageCommitBytes": -1}}),
        ("negative_peak", {memory: {"MemoryUsageCommitPeakBytes": -4096}}),
        ("two_64", {memory: {"MemoryUsagePrivateWorkingSetBytes": 1 << 64}}),
        ("float", {processor: {"TotalRuntime100ns": 1.5}}),
        ("whole_float", {processor: {"RuntimeUser100ns": 2.0}}),
        ("exponent", {"Uptime100ns": 1e3}),
        ("text", {"Storage": {"ReadSizeBytes": "12"}}),
        ("flag", {"Storage": {"WriteSizeBytes": True}}),
        ("list", {memory: [1]}),
        ("network_object", {"Network": {"BytesSent": 1}}),
        ("network_negative", {"Network": [{"BytesSent": 1}, {"PacketsSent": -1}]}),
        ("endpoint_number", {"Network": [{"EndpointId": 7}]}),
        ("null_numbers", {memory: {"MemoryUsageCommitBytes": None}, "Uptime100ns": None}),
        ("null_objects", {memory: None, processor: None, "Storage": None, "Network": None}),
        ("null_times", {"Timestamp": None, "ContainerStartTime": None, memory: {"MemoryUsageCommitBytes": 3}}),
        ("null_endpoint", {"Network": [{"EndpointId": None, "InstanceId": None, "BytesSent": 4}, None]}),
        ("max_all", {memory: {"MemoryUsageCommitBytes": (1 << 64) - 1}, "Uptime100ns": (1 << 64) - 1}),
        ("unknown_members", {"Later": -1, memory: {"Later": 1.5, "MemoryUsageCommitBytes": 5}}),
    ):  # fmt: skip
        answer = {"HcsGetComputeSystemProperties": [{"match": "Statistics", "properties": {"Statistics": statistics}}]}
        yield f"numbers_stats_{name}", scenario(CREATE, STATS, functions=answer)
    for name, listed in (
        ("private_negative", [{"ProcessId": 4, "MemoryWorkingSetPrivateBytes": -4}]),
        ("pid_two_32", [{"ProcessId": 1 << 32}]),
        ("pid_negative", [{"ProcessId": -1}]),
        ("pid_max", [{"ProcessId": (1 << 32) - 1, "MemoryCommitBytes": (1 << 64) - 1}]),
        ("time_float", [{"ProcessId": 4, "KernelTime100ns": 0.5}]),
        ("image_number", [{"ProcessId": 4, "ImageName": 5}]),
        ("second_bad", [{"ProcessId": 4}, {"ProcessId": 8, "UserTime100ns": "x"}]),
        ("object", {"ProcessId": 4}),
        ("null_members", [{"ProcessId": 4, "ImageName": None, "CreateTimestamp": None, "MemoryCommitBytes": None}]),
        ("null_element", [{"ProcessId": 4}, None]),
    ):
        answer = {"HcsGetComputeSystemProperties": [{"match": "ProcessList", "properties": {"ProcessList": listed}}]}
        yield f"numbers_summary_{name}", scenario(CREATE, {"op": "summary"}, functions=answer)
    for name, base in (
        ("owner", {"Owner": None}), ("name", {"Id": None, "Name": None, "SystemType": None}),
        ("state", {"State": None}), ("exit_type", {"ExitType": None, "Stopped": None}),
        ("all", {"Statistics": None, "ProcessList": None}),
    ):  # fmt: skip
        answer = {"HcsGetComputeSystemProperties": [{"properties": base}]}
        steps = [CREATE, STATS, {"op": "summary"}, ends(code=3), SETTLE]
        yield f"numbers_null_{name}", scenario(*steps, functions=answer)
    for name, pending in (("null", None), ("number", 1), ("text", "true"), ("true", True)):
        answer = {"HcsGetComputeSystemProperties": [{"properties": {"AreUpdatesPending": pending}}]}
        yield f"numbers_updates_{name}", scenario(CREATE, ends(code=3), SETTLE, functions=answer)
    for name, status in (
        ("code_null", {"Exited": True, "ExitCode": None}), ("code_negative", {"Exited": True, "ExitCode": -1}),
        ("code_two_32", {"Exited": True, "ExitCode": 1 << 32}), ("code_float", {"Exited": True, "ExitCode": 1.0}),
        ("code_text", {"Exited": True, "ExitCode": "3"}), ("exited_null", {"Exited": None, "ExitCode": 3}),
        ("exited_number", {"Exited": 1, "ExitCode": 3}), ("pid_null", {"ProcessId": None, "Exited": True}),
        ("wait_null", {"Exited": True, "ExitCode": 3, "LastWaitResult": None}),
        ("wait_two_31", {"Exited": True, "ExitCode": 3, "LastWaitResult": 1 << 31}),
        ("pid_negative", {"ProcessId": -4, "Exited": True, "ExitCode": 3}),
    ):  # fmt: skip
        answer = {"HcsGetProcessProperties": [{"properties": status}]}
        yield f"numbers_{name}", scenario(CREATE, ends(code=3), SETTLE, functions=answer)
        only = {"HcsGetProcessProperties": [{"match": "1008", "properties": status}]}
        yield (
            f"numbers_exec_{name}",
            scenario(CREATE, add(), ends(1008, 3), SETTLE, ends(code=5), SETTLE, functions=only),
        )


def pauses() -> Scenarios:
    """Pauses that hang, and receivers that refuse what was done."""
    pause, resume = {"op": "pause"}, {"op": "resume"}
    made: Json = {"options": [LAYER, HYPERV], "host": {"directories": UVM, "timeouts": {"default_ms": 1500}}}
    never, refused = {"hr": PENDING, "notify": []}, {"hr": "0xC0370105"}
    hung = {"HcsPauseComputeSystem": [{**never, "times": 1}]}
    after = [STATS, add(), ends(1008), SETTLE, ends(code=4), SETTLE]
    yield "pause_hung_exit", scenario(CREATE, pause, SETTLE, *after, functions=hung, **made)
    yield "pause_hung_kill", scenario(CREATE, pause, SETTLE, signal(9), SETTLE, STATS, functions=hung, **made)
    for name, rules in (
        ("resume_refused", {**hung, "HcsResumeComputeSystem": [refused]}),
        ("resume_refused_once", {**hung, "HcsResumeComputeSystem": [{**refused, "times": 1}]}),
        ("resume_access", {**hung, "HcsResumeComputeSystem": [{"hr": "0x80070005"}]}),
    ):
        yield f"pause_hung_{name}", scenario(CREATE, pause, SETTLE, *after, functions=rules, **made)
    for name, backend in (
        ("pause", {"pause": "no"}), ("resume", {"resume": "not now"}), ("both", {"pause": "no", "resume": "no"}),
        ("exit", {"exit": "no"}), ("exit_process", {"exit-process": "no", "exit": "no"}),
    ):  # fmt: skip
        steps = [CREATE, pause, STATS, resume, *after]
        yield f"receiver_refuses_{name}", scenario(*steps, backend=backend, **made)
    refusing = {**made, "backend": {"pause": "no"}}
    yield "receiver_refuses_pause_kill", scenario(CREATE, pause, signal(9), SETTLE, **refusing)
    yield "receiver_refuses_pause_exit", scenario(CREATE, pause, ends(code=3), SETTLE, STATS, **refusing)
    yield "receiver_refuses_pause_twice", scenario(CREATE, pause, resume, pause, resume, STATS, **refusing)
    yield "receiver_refuses_pause_pause", scenario(CREATE, pause, pause, resume, STATS, **refusing)
    refusing = {**made, "backend": {"resume": "no"}}
    yield "receiver_refuses_resume_twice", scenario(CREATE, pause, resume, pause, resume, add(), STATS, **refusing)
    yield "receiver_refuses_resume_resume", scenario(CREATE, pause, resume, resume, STATS, **refusing)
    for code in ("0x80070005", "0xC0370105"):
        failing = {"HcsPauseComputeSystem": [{"hr": code, "times": 1}]}
        yield f"receiver_refuses_pause_{code}", scenario(CREATE, pause, pause, resume, functions=failing, **refusing)


def endings() -> Scenarios:
    """Further processes that are alive when the first one ends."""
    late = [{"hr": PENDING, "kill": {"exitCode": 5, "after_ms": 100},
             "notify": [{"type": "SystemExited", "after_ms": 200}]}]  # fmt: skip
    two = [CREATE, add("a"), add("b")]
    shut = {"HcsShutdownComputeSystem": late}
    for name, steps in (
        ("both_by_shutdown", []),
        ("one_by_itself", [{"op": "sleep", "ms": 50}, ends(1008, 7)]),
        ("both_by_themselves", [{"op": "sleep", "ms": 30}, ends(1012, 8), {"op": "sleep", "ms": 30}, ends(1008, 7)]),
    ):
        yield f"endings_{name}", scenario(*two, ends(1004, 3), *steps, SETTLE, functions=shut)
    once = {"HcsShutdownComputeSystem": [{"hr": "0x80070005"}], "HcsTerminateComputeSystem": late}
    itself = [{"op": "sleep", "ms": 50}, ends(1008, 7)]
    yield "endings_terminated", scenario(*two, ends(1004, 3), *itself, SETTLE, functions=once)
    output = act("write", process=1004, stream="stdout", data="late\n")
    closing = [act("end", process=1004, stream="stdout"), act("end", process=1004, stream="stderr")]
    told = act("notify_process", process=1004, type="ProcessExited")
    slow = [{"hr": PENDING, "notify": [{"type": "SystemExited", "after_ms": 5000}]}]
    for pause in (1200, 3000):
        steps = [{"op": "sleep", "ms": pause}, output, *closing, {"op": "sleep", "ms": 6000}, SETTLE]
        rules = {"HcsShutdownComputeSystem": slow}
        yield f"endings_output_after_{pause}", scenario(CREATE, told, *steps, functions=rules)


FAMILIES = {
    "others": others,
    "numbers": numbers,
    "pauses": pauses,
    "endings": endings,
    "configurations": configurations,
    "processes": processes,
    "creations": creations,
    "exits": exits,
    "streams": streams,
    "signals": signals,
    "states": states,
    "servicing": servicing,
}


def modelled(name: str, family: str, members: Json) -> Json:
    """One scenario as a recording would have it."""
    return recorded({"schema": 1, "name": name, "tags": ["modelled", family], "timeline": [], **members})


def vector(whole: Json) -> Vector:
    return msgspec.convert(whole, Vector)


def recorded(whole: Json) -> Json:
    """The scenario with what the model was seen to do."""
    seen = record(vector(whole))
    outcomes = [
        {
            key: step[key]
            for key in ("result", "error", "panic", "hung")
            if step.get(key) or (key == "result" and key in step)
        }
        for step in seen["operations"]
    ]
    steps = [
        {**step, **({"error": None} if step["op"] not in SILENT else {}), **outcome}
        for step, outcome in zip(whole["operations"], outcomes, strict=True)
    ]
    return {**whole, **seen, "operations": steps, "stability": {}}


def cases(*, whole: bool) -> list[tuple[str, str, Json]]:
    """The table; not `whole`: without the codes that are like others."""
    return [
        (name, family, members)
        for family, make in FAMILIES.items()
        for name, members in make()
        if whole or not any(name.endswith(code) for code in LIKE_OTHERS)
    ]


def main(where: Path, *, whole: bool) -> None:
    where.mkdir(parents=True, exist_ok=True)
    table = cases(whole=whole)
    assert len({name for name, _, _ in table}) == len(table), "two scenarios of one name"

    vector(
        {"schema": 1, "name": "", "create": {"container": ""}, "operations": []}
    )  # not first in many threads at once

    def write(case: tuple[str, str, Json]) -> None:
        text = json.dumps(modelled(case[0], case[1], json.loads(json.dumps(case[2]))), ensure_ascii=True)
        (where / f"{case[0]}.json").write_text(text + "\n", encoding="utf-8")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, table))


if __name__ == "__main__":
    main(Path(sys.argv[1]), whole="--whole" in sys.argv)
