"""Choose the OCI runtime that works on this machine, by running an empty container with it.

The answer is cached by boot, binary and rights: the trial takes a moment once, and later a file is read. A failure is
remembered for a few minutes only, and only for programs in the same situation, because limits or cgroups may cause it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ...aio.tasks import in_thread
from ...errors import LongshoreError, NotSupported, ServiceError
from ...fs.files import find_program, read_whole, write_new
from ...fs.trees import remove_tree
from ...machine import boot_id
from ...typed_json import decode_json
from ..cgroups.cgroup import Cgroup
from ..cgroups.hierarchies import ROOT, mode
from ..rootfs.host_view import make_folder
from .runtime import Runtime, last_error

PREFERENCE = ("crun", "runc")
TRY_LIMIT = 20.0  # seconds that a runtime may take for an empty container
VERSION_LIMIT = 10.0  # seconds that a program may take to print its version
PREFIX = "longshore-probe-"  # of the folder in which a runtime is tried, and of its cgroup
LEFT_AFTER = 600.0  # seconds after which such a folder has no owner at work any more
FAILURE_KEPT = 300.0  # seconds that a failure is remembered: its cause may be corrected without a new binary
ANSWERS_KEPT = 64  # the oldest go first: services with namespaces of their own come and go
VERSION = 2  # of the trial: raised when the trial changes

# lines of proc_pid_status(5) that decide whether this program may make a container
_RIGHTS = ("Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


class Tried(msgspec.Struct, frozen=True):
    """The result of running an empty container with a runtime."""

    path: str
    version: str = ""
    works: bool = False
    reason: str = ""
    commands: str = ""  # its --help, for what it can do at all
    at: float = 0.0  # seconds since the epoch
    silent: bool = False  # it failed without a reason, as when it is killed: this shows nothing, and is not cached


class Cache(msgspec.Struct):
    """The cached results, and what they depend on."""

    boot: str = ""
    version: int = VERSION
    answers: dict[str, Tried] = {}


def find(wanted: str) -> str | None:
    """Return the path of a program, also where PATH lacks the system directories; None if there is none."""
    if "\0" in wanted:
        return None
    if os.sep in wanted:
        return wanted if os.access(wanted, os.X_OK) else None
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return find_program(wanted, path)


def must_hide_unified(path: str) -> bool:
    """Return whether the runtime must not see the cgroup hierarchy of version 2.

    crun refuses a "hybrid" host whose version 2 hierarchy has a controller left (src/libcrun/cgroup.c).
    """
    if not os.path.basename(path).startswith("crun") or mode() != "hybrid":
        return False
    with suppress(OSError):
        return bool((ROOT / "unified" / "cgroup.controllers").read_text().strip())
    return False


def _key(path: str) -> str:
    status = os.stat(path)
    return f"{path}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _rights() -> str:
    """Return the rights of this program: another program with the same rights gets the same result.

    proc(5), namespaces(7).
    """
    found = [line for line in _text("/proc/self/status").splitlines() if line.startswith(_RIGHTS)]
    for kind in ("cgroup", "mnt", "pid", "user"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/ns/{kind}"))
    found.append(_text("/proc/self/attr/current"))  # of AppArmor or SELinux
    return _joined(found)


def _means() -> str:
    """Return what else can make a trial fail: limits, and the cgroups with their own limits."""
    return _joined([_text("/proc/self/limits"), _text("/proc/self/cgroup"), os.environ.get("TMPDIR", "")])


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text("utf-8", "replace")
    return ""


def _joined(parts: Sequence[str]) -> str:
    """Join all words to one line. A digest is shorter, but importing hashlib takes 2 ms at every first start."""
    return " ".join(" ".join(parts).split())


def _load(cache: Path) -> Cache:
    try:
        found = decode_json(read_whole(cache), Cache)
    except (OSError, ValueError):
        found = Cache()
    boot = boot_id()
    return found if (found.boot, found.version) == (boot, VERSION) else Cache(boot=boot)


def _save(cache: Path, found: Cache) -> None:
    with suppress(OSError):  # only a cache: the next call repeats the trial
        write_new(cache, msgspec.json.encode(found))


async def tried(path: str, cache: Path) -> Tried:
    """Return the result of this binary for this boot of the machine, from the cache or by a trial."""
    known = _load(cache)
    key = f"{_key(path)}:{_rights()}"
    answer = known.answers.get(key)
    if answer is not None:
        return answer
    failed = f"{key}:{_means()}"  # a failure holds only for programs in the same situation, and for a while
    answer = known.answers.get(failed)
    if answer is None or time.time() - answer.at >= FAILURE_KEPT:
        answer = await _try(path)
        if answer.silent and (answer := await _try(path)).silent:
            return answer
        known.answers.pop(failed, None)
        known.answers[key if answer.works else failed] = answer
        while len(known.answers) > ANSWERS_KEPT:
            del known.answers[next(iter(known.answers))]
        _save(cache, known)
    return answer


def known_version(path: str, cache: Path) -> str:
    """Return the version of a runtime that was tried before; empty where it was not, or is gone."""
    with suppress(OSError):
        key = f"{_key(path)}:"  # whichever program tried it
        found = (answer for tried_as, answer in _load(cache).answers.items() if tried_as.startswith(key))
        return next((answer.version for answer in found if answer.version), "")
    return ""


async def choose_runtime(wanted: str | None, *, cache: Path) -> Tried:
    """Return the runtime that was asked for, or the first one that works.

    Raises: NotSupported, with the reason of each runtime, if none works.
    """
    reasons = []
    for name in (wanted,) if wanted else PREFERENCE:
        path = find(name)
        if path is None:
            reasons.append(f"{name} is not installed" if os.sep not in name else f"{name} does not exist")
            continue
        answer = await tried(path, cache)
        if answer.works:
            return answer
        reasons.append(f"{name}: {answer.reason}")
    hint = f"use another runtime (crun, runc) than {wanted}" if wanted else "run `apt-get install crun runc`"
    raise NotSupported("running a container", "; ".join(reasons), hint=hint)


def _empty_container(root: Path, cgroup: str) -> dict[str, Any]:
    """Return the smallest configuration that is a container, over the machine's own programs, read-only."""
    make_folder(root / "dev", 0o755)  # crun wants it there
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    ]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"):
        if os.path.isdir(f"/{name}"):
            make_folder(root / name, 0o755)
            mounts.append({"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]})
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(root)},
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }


def _group_of(base: Path) -> Cgroup:
    return Cgroup(f"/{base.name}")  # at the top: another trial could remove a parent of it at this moment


def _remove_left(temporary: Path) -> None:
    """Remove the folders and cgroups of earlier trials that were killed."""
    for base in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError, LongshoreError):
            status = base.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > LEFT_AFTER:
                group = _group_of(base)
                group.kill(1.0)
                group.remove()
                remove_tree(base)


async def _try(path: str) -> Tried:
    version, commands = await ask(path, "--version"), await ask(path, "--help")
    import tempfile

    await in_thread(lambda: _remove_left(Path(tempfile.gettempdir())), or_here=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        base = Path(name)
        root = base / "root"
        make_folder(root, 0o755)
        id = f"probe-{base.name.rpartition('-')[2]}"
        group = _group_of(base)
        document = _empty_container(root, group.path)
        (base / "config.json").write_bytes(msgspec.json.encode(document))
        runtime = Runtime(path, base / "state", hide_unified=must_hide_unified(path))
        make_folder(runtime.root, 0o700)
        log = base / "log"
        # the runtime gets a mount namespace of its own, so that none of its mounts can be left
        reason, silent = "", False
        try:
            await runtime.verb(log, "run", "--bundle", str(base), id, container_id=id, limit=TRY_LIMIT)
        except ServiceError as error:
            said = last_error(log)
            reason, silent = said or str(error), not said and error.code is not None
        except LongshoreError as error:
            reason = str(error)
        finally:
            group.kill(1.0)
            group.remove()
    return Tried(path, version_in(version), not reason, reason, commands, time.time(), silent)


async def ask(path: str, option: str) -> str:
    """Return what a program prints when called with `option`; empty if it cannot be started."""
    return await in_thread(lambda: _output_of(path, option))


def _output_of(path: str, option: str) -> str:
    import subprocess

    try:
        done = subprocess.run([path, option], capture_output=True, timeout=VERSION_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).decode("utf-8", "replace")


def version_of(path: str) -> str:
    """Return a program's version; empty if it prints none. Blocks while the program runs."""
    return version_in(_output_of(path, "--version"))


def commands_of(path: str) -> str:
    """Return what a runtime prints for `--help`; empty if it prints nothing. Blocks while the program runs."""
    return _output_of(path, "--help")


def can_checkpoint(commands: str) -> bool:
    """Return whether a runtime that prints this for `--help` makes checkpoints."""
    return re.search(r"^\s*checkpoint\b", commands, re.MULTILINE) is not None


def version_in(text: str) -> str:
    """Return the version in the output of `--version`; empty if there is none."""
    match = re.search(r"version:? +(\S+)", text)
    return match[1].rstrip(",") if match else ""


async def versions(paths: Sequence[str]) -> dict[str, str]:
    """Return the versions of programs, by their names."""
    return {os.path.basename(path): version_in(await ask(path, "--version")) or "unknown" for path in paths}
