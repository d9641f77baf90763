"""How the processes of a container come into its cgroup: by themselves where the kernel lets others wait.

To move another process, or a process with all its threads, the kernel of cgroups takes a lock that waits for an RCU
grace period: 7 to 15 milliseconds of sleep for each container, unless a process was moved just before
(kernel/cgroup/cgroup.c, cgroup_attach_lock). Two ways are free:

- Version 1: a thread moves itself, by writing `0` to the `tasks` file of its new group.
- Version 2: a process is born in its group (clone3 with CLONE_INTO_CGROUP). crun does that since 1.7, for `exec` since
  1.4. So there the runtime makes the cgroup, as the specification has it.

In version 1 every runtime moves others. So there longshore makes the group itself, and limits it (`limits.py`), and
crun is told to leave cgroups alone. What becomes the container then enters by itself:

- `run` and `exec`: the first program enters before it executes the command. crun stays outside, as ever.
- An exec meets other processes in its container. Where their capabilities let them interfere with the first program
  (`may_interfere`), crun's `exec` itself is in a second group, the *ante-room*, with walls and limits of its own: what
  kept the first program from entering would have gained nothing that counts.
- A kept container must be in its group before it is started: else no program would find it to end it. So the monitor
  executes crun's `create` through the first program: that is in the group while it works, and its init stays there.
  The limits are written when it is done.

`docs/decisions/0013-longshore-makes-cgroups-of-version-1.md` has the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..config.ignored import Known
from ..documents import DeviceRule, Memory, Pids, Resources
from ..processes.launch import FREE_NUMBER, out_of_the_way
from .cgroup import Cgroup
from .hierarchies import ROOT, mode, read_number
from .limits import bases, folders, limit, make

VARIABLE = "LONGSHORE_CGROUPS"  # `own`: longshore makes the cgroups that it can; else the runtime makes all
PLACE = 6  # the first descriptor of those that the first program inherits: after `PASSED` others
TAKES_DISABLED = (1, 0)  # crun's --cgroup-manager=disabled is older; 1.8.1 was tried
OPTION = "--cgroup-manager=disabled"

ANTEROOM = "runtimes"  # beside the container's own group
ANTEROOM_LIMITS = Resources(
    devices=[DeviceRule(allow=False, access="rwm")], memory=Memory(limit=1 << 30), pids=Pids(limit=4096)
)  # for some thousand execs at once: a crun has half a megabyte of its own

# by these a process can trace the first program of an exec, or have another executed in its place
INTERFERING = frozenset({"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"})

# what enters where there is no first program: an exec in a container that was made with one
SHELL = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 126; shift; n=$((n-1)); done; exec "$@"'


class Way(NamedTuple):
    """Who makes a container's cgroup, and why."""

    own: bool
    reason: str


def choose(runtime: Known, *, first: bool, document: bool, kept: bool, again: bool = False) -> Way:
    """Choose who makes the cgroup of a container.

    `first`: whether the first program executes its command; `document`: whether it has a document of its caller's, of
    which longshore knows not all; `again`: whether it goes on from a checkpoint.
    """
    why = _why_not(runtime, first=first, document=document, kept=kept, again=again)
    if why is not None:
        return Way(False, f"made by {runtime.name or 'the runtime'}: {why}")
    who = "crun's `create` enters" if kept else "its process enters"
    return Way(True, f"made and limited by longshore, and {who} by itself, which spares a wait of the kernel's")


def _why_not(runtime: Known, *, first: bool, document: bool, kept: bool, again: bool) -> str | None:
    if os.environ.get(VARIABLE) != "own":
        return f"{VARIABLE}=own is not set"
    if mode() == "v2":
        return "in version 2 crun's processes are born in it, without a wait"
    if not 0 < 2 * len(bases(ROOT)) <= FREE_NUMBER - PLACE:
        return f"{len(bases(ROOT))} hierarchies of version 1 are mounted"
    if not runtime.name.startswith("crun"):
        return "it cannot be told to leave cgroups alone"
    if runtime.numbers < TAKES_DISABLED:
        return "only newer versions can be told to leave cgroups alone"
    if document:
        return "the document may ask for what longshore does not know"
    if not first:
        return "no first program executes the command, which would enter the cgroup"
    if again:
        return "the container goes on from a checkpoint"
    if kept and runtime.checkpoints:
        return "a checkpoint of the container may be asked for"
    return None


def flags(group: int = 0) -> str:
    """What the first program is told of the descriptors by which it enters: of the first group that it inherits them
    of, or of the second."""
    count = len(bases(ROOT))
    return "".join(f"c{PLACE + group * count + each}" for each in range(count))


def may_interfere(config: Mapping[str, Any]) -> bool:
    """Whether a container's processes may be able to keep the first program of an exec from entering the cgroup."""
    given = (config.get("process") or {}).get("capabilities") or {}
    namespaces = (config.get("linux") or {}).get("namespaces") or []
    able = any(not INTERFERING.isdisjoint(names or []) for names in given.values())
    return able or any(each.get("type") == "user" for each in namespaces)


def make_anteroom(group: Cgroup) -> Cgroup:
    """Make the group that crun's `exec` is in, beside a container's own, unless it is there. Raises OSError. Blocks."""
    found = Cgroup(f"{os.path.dirname(group.path)}/{ANTEROOM}", root=group.root)
    pids, wanted = found.directory("pids"), ANTEROOM_LIMITS.pids
    if pids is not None and wanted is not None and read_number(pids / "pids.max") == wanted.limit:
        return found  # the last that is written
    make(found)
    limit(found, ANTEROOM_LIMITS)
    return found


class Entrance:
    """The descriptors by which a process enters a group of version 1: `places`, for the first program."""

    def __init__(self, group: Cgroup) -> None:
        self.places: list[int] = []
        try:
            for folder in folders(group):
                self.places.append(out_of_the_way(os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close them. Idempotent."""
        while self.places:
            os.close(self.places.pop())

    def __enter__(self) -> Entrance:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def shell(group: Cgroup) -> Sequence[str]:
    """What begins the command line of a program that enters a group of version 1 before it runs."""
    files = [f"{folder}/tasks" for folder in folders(group)]
    return ["/bin/sh", "-c", SHELL, "sh", str(len(files)), *files]
