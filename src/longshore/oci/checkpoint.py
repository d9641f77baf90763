"""Checkpoints: the runtime has CRIU write the processes of a container to files, and start them again from these.

What CRIU must know, and we therefore see to: a container's mounts that come from outside are those of `config.json`
(the runtime names them); the files that are open must be as they were, so what was written to the root is kept with
the images; the pipes of standard streams are replaced by those of the new monitor (the runtime's descriptors.json).
Everything is frozen while it is written, so that images and files are of one moment.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..aio.tasks import in_thread, uninterrupted
from ..compute.values import Place
from ..errors import LongshoreError, ServiceError
from ..fs.files import store_error, write_new
from ..fs.trees import remove_tree
from ..typed_json import decode_json
from .bundle import Bundle
from .cgroups.cgroup import Cgroup
from .rootfs.layers import remove_work
from .runtimes.choice import PREFERENCE
from .runtimes.runtime import Runtime
from .system import OciSystem

CHECKPOINT_LIMIT = 300.0  # seconds that CRIU may take to write a container to the disk
IMAGES = "images"
NOTES = "service.json"
BEFORE = "before"  # in the place: what an earlier life had written, until the next one is on record
CRIU_CONFIGURATION = "org.criu.config"  # an annotation: the file in which CRIU finds further options
RUNC_CONFIGURATION = "/etc/criu/runc.conf"  # where there is no annotation
SCRATCH_LIMIT = 1 << 40  # bytes of what a container wrote to its root


class Notes(msgspec.Struct):
    """What a restore has to know of how the checkpoint was made."""

    runtime: str  # the other one's words for mounts are different
    connections: bool = False


def read_notes(directory: Path) -> Notes:
    """What was noted when the checkpoint was made. An archive may have brought it: no program is named by a path."""
    try:
        found = decode_json((directory / NOTES).read_bytes(), Notes)
        if found.runtime not in PREFERENCE:
            raise ValueError(f"{found.runtime!r} is no runtime")
        return found
    except (OSError, ValueError) as error:  # msgspec's are ValueErrors, too
        raise ServiceError(
            "restore a container",
            None,
            f"the checkpoint {directory} is damaged: {error}",
            hint="use another checkpoint",
        ) from None


async def write(system: OciSystem, directory: Path, lock_fd: int, *, connections: bool) -> None:
    """Have CRIU write the images, and pack what was written to the root beside them. The system is frozen."""
    runtime = system.runtime
    images, work = directory / IMAGES, directory / "work"
    images.mkdir(mode=0o700)
    work.mkdir(mode=0o700)
    log = directory / "runtime.log"
    options = ["--image-path", str(images), "--work-path", str(work), "--leave-running"]
    options += await options_for(runtime, system.config, connections=connections)
    try:
        await runtime.verb(
            log,
            "checkpoint",
            *options,
            system.id,
            container_id=system.id,
            limit=CHECKPOINT_LIMIT,
            pass_fds=[lock_fd],
        )
    except ServiceError as error:
        raise explain(runtime.name, "checkpoint", system.id, error, work / "dump.log") from error
    await uninterrupted(in_thread(lambda: _pack(system.place, directory)))
    notes = Notes(runtime=runtime.name, connections=connections)
    write_new(directory / NOTES, msgspec.json.encode(notes))
    remove_tree(work)
    log.unlink(missing_ok=True)


def _pack(place: Place, directory: Path) -> None:
    from .rootfs import upper_archive  # it loads tarfile

    try:
        for folder in _scratch(place):
            upper_archive.pack(folder, directory / f"{folder.name}.tar", limit=SCRATCH_LIMIT)
    except RecursionError:
        error = OSError(errno.ENAMETOOLONG, "folders that the container made are nested too deeply")
        raise store_error(f"write the checkpoint {directory}", error) from None
    except OSError as error:
        raise store_error(f"write the checkpoint {directory}", error) from error


def _scratch(place: Place) -> list[Path]:
    """The folders that hold what the container wrote to its root: one for each overlay of its own."""
    found = place.data.glob("scratch*")
    return sorted(path for path in found if not path.name.endswith((".work", ".links")))


async def options_for(runtime: Runtime, config: dict[str, Any], *, connections: bool) -> list[str]:
    """What is said to CRIU, by way of the runtime, for both directions."""
    options = ["--file-locks"]
    if connections:
        options.append("--tcp-established")
    namespaces = (config.get("linux") or {}).get("namespaces") or []
    own_network = any(each.get("type") == "network" and not each.get("path") for each in namespaces)
    if own_network and await _can_skip_lock(runtime):
        # nobody from outside can reach a network of its own; and CRIU needs iptables to lock one
        options += ["--network-lock", "skip"]
    return options


async def _can_skip_lock(runtime: Runtime) -> bool:
    def ask() -> bool:
        done = subprocess.run([runtime.path, "checkpoint", "--help"], capture_output=True, timeout=10, check=False)
        return b"--network-lock" in done.stdout

    with suppress(OSError, subprocess.SubprocessError):
        return await in_thread(ask)
    return False


def explain(runtime: str, verb: str, id: str, error: ServiceError, log: Path) -> LongshoreError:
    """The runtime says that CRIU failed; CRIU's log says why."""
    detail, text = error.detail, ""
    with suppress(OSError):
        text = log.read_text(errors="replace")
    errors = re.findall(r"Error \([^)]*\): (.+)", text)
    if errors:
        detail = f"CRIU: {errors[0]}"
    hint = "run `longshore doctor`; CRIU cannot save devices, or sockets that are connected to the outside"
    if "tcp-established" in text or "Connected TCP socket" in text:
        hint = "use `connections` (--connections): the container has open connections"
    elif "iptables" in detail:
        hint = "run `apt-get install iptables`: CRIU locks the network with it"
    elif "bad size" in detail or "bad mode" in detail:
        hint = "put back the files outside of its root that have changed since the checkpoint"
    return ServiceError(verb, id, detail, code=error.code, hint=hint)


def lead_into(cgroup: Cgroup, runtime: Runtime, bundle: Bundle) -> None:
    """Have CRIU restore into this cgroup. Blocks.

    In version 2, runc before 1.2 does not tell CRIU which it is. The container would be in the one that it was in when
    it was written: a restored one of another name in that of a stranger, and without its limits.
    """
    if not cgroup.unified or runtime.name != "runc":
        return
    annotations = bundle.config.setdefault("annotations", {})
    given = annotations.get(CRIU_CONFIGURATION, RUNC_CONFIGURATION)
    words = ""
    with suppress(FileNotFoundError):
        words = Path(given).read_text() if given else ""
    path = bundle.path / "criu.conf"
    try:
        path.write_text(f"{words}\ncgroup-root {cgroup.path}\n")
        annotations[CRIU_CONFIGURATION] = str(path)
        write_new(bundle.path / "config.json", msgspec.json.encode(bundle.config))
    except OSError as error:
        raise store_error(f"write to {bundle.path}", error) from error


# a next life in the same place


def set_aside(place: Place) -> None:
    """Move what an earlier life has written to its root out of the way, and remove the rest of it. Blocks."""
    before = place.data / BEFORE
    try:
        before.mkdir(mode=0o700)
        for path in place.data.glob("scratch*"):
            if path.name.endswith((".work", ".links")):
                remove_tree(path)  # overlayfs refuses the work folder of a mount that was not synced
            else:
                path.rename(before / path.name)
        remove_work(place.run)
        for name in ("bundle", "exits", "persist"):
            remove_tree(place.run / name)
        for name in ("pid", "monitor.pid"):
            (place.run / name).unlink(missing_ok=True)
    except OSError as error:
        raise store_error(f"prepare {place.data} for a restore", error) from error


def unpack(directory: Path, place: Place) -> None:
    """Have the root as it was when the checkpoint was made. Blocks."""
    from .rootfs import upper_archive

    try:
        for path in sorted(directory.glob("scratch*.tar")):
            upper_archive.unpack(path, place.data / path.name.removesuffix(".tar"), limit=SCRATCH_LIMIT)
    except OSError as error:
        raise store_error(f"unpack {directory}", error) from error


def put_back(place: Place) -> None:
    """Have what the earlier life had written where it was. Idempotent. Blocks."""
    before = place.data / BEFORE
    try:
        kept = os.listdir(before)
    except FileNotFoundError:
        return
    try:
        for path in place.data.glob("scratch*"):
            if path.name in kept or path.name.endswith((".work", ".links")):
                remove_tree(path)
        for name in kept:
            (before / name).rename(place.data / name)
        before.rmdir()
    except OSError as error:
        raise store_error(f"undo a restore in {place.data}", error) from error


def forget_before(place: Place) -> None:
    """The next life is on record: what the earlier one had written goes. Idempotent. Blocks."""
    remove_tree(place.data / BEFORE)
