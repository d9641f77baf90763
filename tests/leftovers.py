"""What longshore left behind, told by its own names: the machine is shared, so nothing is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

CGROUPS = Path("/sys/fs/cgroup")


def store_id(state: Path) -> str | None:
    """The id of the store in a state directory, which names its cgroups."""
    try:
        return str(msgspec.json.decode((state / "lib" / "store.json").read_bytes())["id"])
    except OSError:
        return None


def processes(state: Path) -> Iterator[str]:
    """Processes that have the state directory in their command line, or are in one of its cgroups."""
    name = store_id(state)
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
            groups = Path(f"/proc/{entry}/cgroup").read_text()
            of_ours = name is not None and f"/longshore/{name}." in groups
            if _is_zombie(entry):
                continue  # for its parent to wait for, which may be the machine's first process
            if of_ours or (str(state).encode() in line and b"pytest" not in line):
                yield f"process {entry}: {line[:200].decode(errors='replace')}"


def _is_zombie(pid: str) -> bool:
    data = Path(f"/proc/{pid}/stat").read_bytes()
    return data[data.rfind(b")") + 2 :][:1] in (b"Z", b"X")


def cgroups(state: Path) -> Iterator[str]:
    name = store_id(state)
    if name is not None:
        for base in [CGROUPS, *CGROUPS.iterdir()]:
            for top in (base / "longshore").glob(f"{name}.*"):
                yield from (f"cgroup {path}" for path, _, _ in os.walk(top))


def mounts(state: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(state) in line:
            yield f"mount {line}"


def files(state: Path) -> Iterator[str]:
    """Directories of containers and leases, runtime states, and temporary files."""
    for where in ("run/containers", "run/leases", "run/trash", "lib/containers"):
        with suppress(FileNotFoundError):
            yield from (f"file {path}" for path in (state / where).iterdir())
    with suppress(FileNotFoundError):
        for runtime in (state / "run" / "runtime").iterdir():
            # crun 1.9 and newer keep compiled seccomp profiles in `.cache`, by content, until the boot ends
            yield from (f"runtime state {path}" for path in runtime.iterdir() if path.name != ".cache")
    for path, _, names in os.walk(state):
        yield from (f"temporary file {path}/{name}" for name in names if name.startswith(".") and "/diff/" not in path)


def leftovers(state: Path, *, engine_open: bool = False) -> list[str]:
    """All that is left of containers, execs and leases in a store; empty when nothing is.

    With `engine_open`, an engine still has its lease: the lease and its keeper are no leftovers.
    """
    found = [*processes(state), *cgroups(state), *mounts(state), *files(state)]
    if engine_open:
        found = [line for line in found if "keeper.sh" not in line and "/run/leases/" not in line]
    return found
