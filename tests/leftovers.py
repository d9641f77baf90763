"""What longshore left behind, told by its own names: the machine is shared, so nothing is counted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
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


def processes(state: Path | str) -> Iterator[str]:
    """Processes that have the state directory in their command line, or are in one of its cgroups."""
    name = store_id(Path(state))
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
            groups = Path(f"/proc/{entry}/cgroup").read_text()
            of_ours = name is not None and f"/longshore/{name}." in groups
            ours = of_ours or (str(state).encode() in line and b"pytest" not in line)
            if ours and not _is_zombie(entry):  # that is for its parent to wait for, the machine's first process or so
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


def mounts(state: Path | str) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(state) in line:
            yield f"mount {line}"


KEPT = re.compile(
    r"lib(/store\.json|/probe\.json|/journal(/lock|/boot|/\d+\.jsonl)?|/containers|/trash)?"
    r"|lib/images(/ingest|/(blobs|layers|fixups|records|names)(/.*)?)?|run/images(/locks|/gc\.lock)?"
    r"|run(/lock|/boot|/view|/containers|/leases|/trash|/runtime(/[^/]+)?|/views(/.*)?)?"
)
"""What a store has when it has no container and no owner: all else is left from one."""

KINDS = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFREG: "file", stat.S_IFDIR: "directory"}


def files(state: Path) -> Iterator[str]:
    """Files, directories, fifos and sockets of containers, leases and runtimes, temporary ones too."""
    for path, directories, names in os.walk(state):
        for name in [*names, *directories]:
            found = Path(path, name)
            relative = str(found.relative_to(state))
            # crun 1.9 and newer keep compiled seccomp profiles in `.cache`, by content, until the boot ends
            if not KEPT.fullmatch(relative) and not relative.startswith("run/runtime/crun/.cache"):
                with suppress(FileNotFoundError):
                    yield f"{KINDS.get(stat.S_IFMT(found.lstat().st_mode), 'node')} {found}"


def locks(state: Path) -> Iterator[str]:
    """Locks that somebody holds on what is in the store."""
    named: dict[tuple[str, int], Path] = {}
    for path, _, names in os.walk(state):
        for found in (Path(path, name) for name in names):
            with suppress(FileNotFoundError):
                status = found.lstat()
                named[f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", status.st_ino] = found
    for line in Path("/proc/locks").read_text().splitlines():
        kind, _, _, holder, place = line.split(": ", 1)[1].removeprefix("-> ").split()[:5]  # proc_locks(5)
        device, _, inode = place.rpartition(":")
        if (device, int(inode)) in named:
            yield f"lock of {holder} ({kind}) on {named[device, int(inode)]}"


def leftovers(state: Path, *, engine_open: bool = False) -> list[str]:
    """All that is left of containers, execs and leases in a store; empty when nothing is.

    With `engine_open`, an engine still has its lease: the lease, its own cgroup and its keeper are no leftovers.
    """
    found = [*processes(state), *cgroups(state), *mounts(state), *files(state), *locks(state)]
    if engine_open:
        own = tuple(f"/longshore/{store_id(state)}.{path.name}" for path in (state / "run" / "leases").glob("*"))
        found = [line for line in found if "keeper.sh" not in line and "/run/leases/" not in line]
        found = [line for line in found if not (line.startswith("cgroup ") and line.endswith(own))]
    return found


def remove_leftovers(state: Path) -> None:
    """Remove what a failed test has left, so that no other test meets it."""
    for line in processes(state):
        with suppress(ProcessLookupError):
            os.kill(int(line.split()[1].rstrip(":")), signal.SIGKILL)
    for line in reversed([*mounts(state)]):
        subprocess.run(["umount", "--lazy", line.split()[5]], check=False)
    for line in reversed([*cgroups(state)]):
        with suppress(OSError):  # it is gone, or its processes are not yet
            os.rmdir(line.removeprefix("cgroup "))
    shutil.rmtree(state, ignore_errors=True)


def leftovers_of_run(prefix: str, stores: set[str]) -> list[str]:
    """All that a whole run has left: the names of its state directories begin with `prefix`."""
    if os.name == "nt":
        return []
    directories = [f"directory {path}" for path in Path(tempfile.gettempdir()).glob(f"{prefix}*")]
    groups = [path for base in CGROUPS.iterdir() for path in (base / "longshore").glob("*")]
    ours = [f"cgroup {path}" for path in groups if path.name.partition(".")[0] in stores]
    return [*directories, *processes(prefix), *mounts(prefix), *ours]
