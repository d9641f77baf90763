"""The container engine that you import: containers from Python, with no daemon.

    async with longshore.Engine() as engine:
        done = await engine.run("host", ["python3", "-c", "print(6*7)"], timeout=10)

`longshore.run` and `longshore.sync` are the blocking form. Every public name is here, and is loaded when it is
first used: the import itself loads neither asyncio nor anything of a platform.
"""

# Neither `typing` nor `__future__` annotations: this module is loaded by each start of the command line.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import sync as sync
    from .compute.events import Event as Event
    from .compute.events import Gap as Gap
    from .compute.limits import HcsLimits as HcsLimits
    from .compute.limits import Limits as Limits
    from .compute.values import DEVNULL as DEVNULL
    from .compute.values import INHERIT as INHERIT
    from .compute.values import INIT as INIT
    from .compute.values import LOG as LOG
    from .compute.values import PIPE as PIPE
    from .compute.values import STDOUT as STDOUT
    from .compute.values import ContainerInfo as ContainerInfo
    from .compute.values import Feature as Feature
    from .compute.values import Features as Features
    from .compute.values import NetworkStats as NetworkStats
    from .compute.values import Plan as Plan
    from .compute.values import ProcessInfo as ProcessInfo
    from .compute.values import Stats as Stats
    from .engine.checkpoints import CheckpointInfo as CheckpointInfo
    from .engine.container import Container as Container
    from .engine.engine import Engine as Engine
    from .engine.images import Images as Images
    from .engine.output import Attachment as Attachment
    from .engine.process import Process as Process
    from .engine.recovery import Restored as Restored
    from .errors import CheckpointExists as CheckpointExists
    from .errors import CheckpointNotFound as CheckpointNotFound
    from .errors import CommandFailed as CommandFailed
    from .errors import CommandNotExecutable as CommandNotExecutable
    from .errors import CommandNotFound as CommandNotFound
    from .errors import ContainerExists as ContainerExists
    from .errors import ContainerNotFound as ContainerNotFound
    from .errors import DescriptorLimit as DescriptorLimit
    from .errors import EngineClosed as EngineClosed
    from .errors import ImageNotFound as ImageNotFound
    from .errors import InvalidImage as InvalidImage
    from .errors import InvalidSpec as InvalidSpec
    from .errors import InvalidState as InvalidState
    from .errors import LongshoreError as LongshoreError
    from .errors import MonitorLost as MonitorLost
    from .errors import NotSupported as NotSupported
    from .errors import NotVisible as NotVisible
    from .errors import OutputLimit as OutputLimit
    from .errors import PlatformNotFound as PlatformNotFound
    from .errors import ProcessExists as ProcessExists
    from .errors import ProcessNotFound as ProcessNotFound
    from .errors import RegistryAuthError as RegistryAuthError
    from .errors import RegistryError as RegistryError
    from .errors import RegistryUnreachable as RegistryUnreachable
    from .errors import ServiceError as ServiceError
    from .errors import StoreError as StoreError
    from .errors import TimeLimit as TimeLimit
    from .exit_record import Cause as Cause
    from .exit_record import Completed as Completed
    from .exit_record import Exit as Exit
    from .images.values import HistoryEntry as HistoryEntry
    from .images.values import Image as Image
    from .images.values import Problem as Problem
    from .images.values import Pruned as Pruned
    from .images.values import PullPolicy as PullPolicy
    from .images.values import PullProgress as PullProgress
    from .logs.format import LogGap as LogGap
    from .logs.format import LogRecord as LogRecord
    from .spec import Endpoints as Endpoints
    from .spec import HyperV as HyperV
    from .spec import Layers as Layers
    from .spec import Mount as Mount
    from .spec import ProcessSpec as ProcessSpec
    from .spec import Resources as Resources
    from .spec import Rlimit as Rlimit
    from .spec import Security as Security
    from .spec import Spec as Spec
    from .spec import SpecFields as SpecFields
    from .spec import SpecSettings as SpecSettings
    from .spec import WindowsOptions as WindowsOptions
    from .sync import run as run

    __version__: str

_NAMES = {
    "engine.checkpoints": "CheckpointInfo",
    "compute.values": "DEVNULL INHERIT INIT LOG PIPE STDOUT ContainerInfo Feature Features NetworkStats Plan"
    " ProcessInfo Stats",
    "engine.container": "Container",
    "engine.images": "Images",
    "engine.output": "Attachment",
    "engine.process": "Process",
    "engine.engine": "Engine",
    "engine.recovery": "Restored",
    "exit_record": "Cause Completed Exit",
    "errors": "CheckpointExists CheckpointNotFound CommandFailed CommandNotExecutable CommandNotFound ContainerExists"
    " ContainerNotFound DescriptorLimit EngineClosed ImageNotFound InvalidImage InvalidSpec InvalidState LongshoreError"
    " MonitorLost NotSupported NotVisible OutputLimit PlatformNotFound ProcessExists ProcessNotFound RegistryAuthError"
    " RegistryError RegistryUnreachable ServiceError StoreError TimeLimit",
    "compute.events": "Event Gap",
    "compute.limits": "HcsLimits Limits",
    "images.values": "HistoryEntry Image Problem Pruned PullPolicy PullProgress",
    "logs.format": "LogGap LogRecord",
    "spec": "Endpoints HyperV Layers Mount ProcessSpec Resources Rlimit Security Spec SpecFields SpecSettings"
    " WindowsOptions",
    "sync": "run",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("sync", "simulator")

__all__ = [
    "DEVNULL",
    "INHERIT",
    "INIT",
    "LOG",
    "PIPE",
    "STDOUT",
    "Attachment",
    "Cause",
    "CheckpointExists",
    "CheckpointInfo",
    "CheckpointNotFound",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "Completed",
    "Container",
    "ContainerExists",
    "ContainerInfo",
    "ContainerNotFound",
    "DescriptorLimit",
    "Endpoints",
    "Engine",
    "EngineClosed",
    "Event",
    "Exit",
    "Feature",
    "Features",
    "Gap",
    "HcsLimits",
    "HistoryEntry",
    "HyperV",
    "Image",
    "ImageNotFound",
    "Images",
    "InvalidImage",
    "InvalidSpec",
    "InvalidState",
    "Layers",
    "Limits",
    "LogGap",
    "LogRecord",
    "LongshoreError",
    "MonitorLost",
    "Mount",
    "NetworkStats",
    "NotSupported",
    "NotVisible",
    "OutputLimit",
    "Plan",
    "PlatformNotFound",
    "Problem",
    "Process",
    "ProcessExists",
    "ProcessInfo",
    "ProcessNotFound",
    "ProcessSpec",
    "Pruned",
    "PullPolicy",
    "PullProgress",
    "RegistryAuthError",
    "RegistryError",
    "RegistryUnreachable",
    "Resources",
    "Restored",
    "Rlimit",
    "Security",
    "ServiceError",
    "Spec",
    "SpecFields",
    "SpecSettings",
    "Stats",
    "StoreError",
    "TimeLimit",
    "WindowsOptions",
    "run",
    "sync",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    found: object
    if name in _HOME:
        found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in _MODULES:
        found = import_module(f".{name}", __name__)
    elif name == "__version__":
        found = import_module(".machine", __name__).longshore_version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # found at once from now on
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES, "__version__"})
