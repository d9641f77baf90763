"""What works on this Windows, and why the rest does not.

Not guessed from its build: the service is asked, the DLL looked at for its exports, the token for privileges. Whether
there is Hyper-V nobody is asked: it is taken to be where the program is that runs utility VMs.
"""

from __future__ import annotations

import ntpath
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..compute.values import Feature, Features
from ..errors import LongshoreError, NotSupported
from .dll import privileges, service_manager
from .dll.hresults import ACCESS_DENIED, HcsError, same
from .dll.vmcompute import PROTOTYPES, Vmcompute
from .schema1 import documents
from .system.process import NO_SIGNALS, USE_KILL
from .system.system import NEW_LIMITS, NO_INPUT, NO_UPDATE

OLDEST_BUILD = 14393  # Windows Server 2016, the first with containers
OPTIONAL = {
    "HcsSignalProcess": "from build 17763 on",
    "HcsGetServiceProperties": "from build 17763 on",
    "HcsPauseComputeSystem": "for `pause`",
    "HcsResumeComputeSystem": "for `resume`",
    "HcsModifyComputeSystem": "to add and remove endpoints",
    "ActivateLayer": "to mount scratch layers",
    "DeactivateLayer": "to unmount scratch layers",
    "PrepareLayer": "to mount scratch layers",
    "UnprepareLayer": "to unmount scratch layers",
    "GetLayerMountPath": "to mount scratch layers",
    "LayerExists": "to make scratch layers",
    "CreateSandboxLayer": "to make scratch layers",
    "DestroyLayer": "to remove scratch layers",
    "ExpandSandboxSize": "for `storage_size`",
    "ProcessBaseImage": "to finish a base layer that was unpacked",
    "ProcessUtilityImage": "to finish a utility VM that was unpacked",
    "GrantVmAccess": "to let a utility VM read a file",
}
"""Exports without which containers run, and what each is for."""

LAYER_CALLS = (
    "LayerExists",
    "CreateSandboxLayer",
    "ActivateLayer",
    "PrepareLayer",
    "GetLayerMountPath",
    "UnprepareLayer",
    "DeactivateLayer",
    "DestroyLayer",
)
PAUSE_CALLS = ("HcsPauseComputeSystem", "HcsResumeComputeSystem")
NEWER = "use a newer build of Windows"
RIGHTS = "run it as a member of Administrators or of Hyper-V Administrators"
START = "start it: `Start-Service vmcompute`"
FEATURE = "`Enable-WindowsOptionalFeature -Online -FeatureName Containers`, then restart Windows"


def windows_version() -> str:
    """`10.0.17763`; empty where this is not Windows."""
    ask: Any = getattr(sys, "getwindowsversion", None)
    if ask is None:
        return ""
    found = ask()
    return f"{found.major}.{found.minor}.{found.build}"


def build() -> int:
    """The build number, 0 where there is none."""
    return int(windows_version().rpartition(".")[2] or 0)


def has_hypervisor(exists: Callable[[str], bool] = os.path.exists) -> bool:
    """Whether the program is there that runs utility VMs; `exists` is asked."""
    try:
        return exists(ntpath.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "vmwp.exe"))
    except OSError:
        return False


def schema_versions(vmcompute: Vmcompute) -> str:
    """The schema versions that the service says it supports; 1.0 is what longshore speaks."""
    try:
        text = vmcompute.get_service_properties('{"PropertyTypes":["Basic"]}')
        found = documents.decode(text or "", _ServiceProperties)
    except (LongshoreError, msgspec.MsgspecError):
        return "1.0"
    versions = [version for basic in found.properties or [] for version in basic.supported_schema_versions or []]
    return ", ".join(f"{version.major}.{version.minor}" for version in versions) or "1.0"


class _Basic(documents.Answer, kw_only=True, frozen=True):
    supported_schema_versions: list[documents.SchemaVersion] | None = None


class _ServiceProperties(documents.Answer, kw_only=True, frozen=True):
    properties: list[_Basic] | None = None


class Findings:
    """Features, one added after the other."""

    def __init__(self) -> None:
        self.items: dict[str, Feature] = {}

    def add(self, name: str, supported: bool, reason: str = "", hint: str | None = None) -> None:
        """One capability: why it works or does not, and the next step if not."""
        self.items[name] = Feature(name, supported, reason, None if supported else hint)


def probe(load: Vmcompute | NotSupported, exists: Callable[[str], bool] = os.path.exists) -> Features:
    """Every capability, with its reason. `load` is the binding, or why there is none; `exists` tells whether there is
    a file. Blocks: calls the service."""
    found = Findings()
    version = windows_version()
    number = build()
    new_enough = not number or number >= OLDEST_BUILD
    found.add(
        "windows",
        new_enough,
        f"build {number}" if number else "of unknown build",
        f"build {OLDEST_BUILD} (Windows Server 2016) or newer",
    )
    if isinstance(load, NotSupported):
        _add_state(found, load)
        found.add("run", False, load.reason, load.hint)
        _add_rest(found, None, load.reason, load.hint, exists)
        return _features(found, version)
    runs, reason, hint = _ask(load, found)
    found.add("run", runs, reason, hint)
    _add_rest(found, load if runs else None, "" if runs else reason, hint, exists)
    return _features(found, version)


def _add_state(found: Findings, failure: LongshoreError) -> str:
    """The state of the service that does not answer, as Windows' service manager has it."""
    state = service_manager.ask()
    hint = {"not installed": FEATURE, "stopped": START}.get(state, failure.hint)
    found.add("service", False, f"vmcompute is {state}" if not state.startswith("unknown") else state, hint)
    return state


def _features(found: Findings, version: str) -> Features:
    return Features(service="hcs", version=version or "unknown", items=found.items, keeps_output=False)


def _ask(vmcompute: Vmcompute, found: Findings) -> tuple[bool, str, str | None]:
    """Whether the service answers, and lets this user ask."""
    absent = [name for name in PROTOTYPES if not vmcompute.has(name)]
    missing = [name for name in absent if name not in OPTIONAL]
    if missing:
        why = f"vmcompute.dll lacks {', '.join(missing)}"
        found.add("calls", False, why, NEWER)
        return False, why, NEWER
    but = "".join(f", but {name} ({OPTIONAL[name]})" for name in absent)
    found.add("calls", True, f"vmcompute.dll has all {len(PROTOTYPES)}{but}")
    try:
        vmcompute.enumerate_compute_systems("{}")
    except HcsError as error:
        if same(error.code or 0, (ACCESS_DENIED, 0x8037011B)):
            found.add("service", True, "it answers")
            found.add("rights", False, "this user may not use the compute service", RIGHTS)
            return False, "this user may not use the compute service", RIGHTS
        state = _add_state(found, error)
        hint = {"not installed": FEATURE, "stopped": START}.get(state, error.hint or f"see {FEATURE}")
        return False, f"the compute service does not answer: {error.detail}", hint
    except LongshoreError as error:
        _add_state(found, error)
        return False, str(error), error.hint
    found.add("service", True, "it answers")
    found.add("rights", True, "this user may use it")
    return True, f"by vmcompute.dll, schema {schema_versions(vmcompute)}", None


def _lacking(vmcompute: Vmcompute | None, names: Iterable[str]) -> str:
    """Return a sentence that names the exports that the DLL lacks; empty if it has all."""
    absent = [name for name in names if vmcompute is not None and not vmcompute.has(name)]
    return f"vmcompute.dll lacks {', '.join(absent)}" if absent else ""


def _add_rest(
    found: Findings, vmcompute: Vmcompute | None, why: str, hint: str | None, exists: Callable[[str], bool]
) -> None:
    """The rest. `vmcompute` None: nothing can be run, for the reason `why`, with the next step `hint`."""
    runs = vmcompute is not None
    isolated = runs and has_hypervisor(exists)
    no_vm = why or "Hyper-V is not installed"
    enable = hint or "`Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All`"
    found.add("hyperv", isolated, "utility VMs can be run" if isolated else no_vm, enable)
    lacking = _lacking(vmcompute, LAYER_CALLS)
    rights = runs and not lacking and privileges.enable()
    found.add(
        "layers",
        rights,
        "scratch layers can be made and mounted"
        if rights
        else why or lacking or "backup and restore privileges are not held",
        hint or "run it as an administrator; or give a volume that is mounted already",
    )
    lacking = _lacking(vmcompute, PAUSE_CALLS)
    found.add(
        "pause",
        isolated and not lacking,
        no_vm if not isolated else lacking or "with Hyper-V isolation only",
        enable if not isolated else NEWER,
    )
    found.add("signals", False, NO_SIGNALS, USE_KILL)
    console = vmcompute is not None and vmcompute.has("HcsSignalProcess")
    found.add(
        "console-events",
        console,
        "TERM is CtrlShutdown, INT is CtrlC"
        if console
        else why or f"HcsSignalProcess is there {OPTIONAL['HcsSignalProcess']}",
        "a container is asked to shut down as a whole instead",
    )
    found.add("update", False, why or NO_UPDATE, NEW_LIMITS)
    found.add("attach-stdin", False, NO_INPUT, "use `launch` with stdin=PIPE, or `exec`")
    found.add(
        "oom-events",
        False,
        "Windows does not report a lack of memory",
        "compare `memory_peak` of `stats` with the limit",
    )
    found.add("exec-deadline", runs, why or "the process is killed; what it started ends with the container", hint)
    found.add(
        "wait-status",
        False,
        "Windows forgets the exit code of a container that no program had open",
        "let the program run that started it; `longshore run -d` leaves one behind",
    )
    found.add(
        "checkpoint",
        False,
        "Windows containers have none (schema 1)",
        "keep in a mount what is to outlive the container",
    )
