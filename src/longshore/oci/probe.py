"""What works on this host, found by trying: a real container for the runtime, a look at the kernel for the rest.

The answers are cached by boot and binary: a probe is slow the first time on a machine, and a file read after.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..aio.tasks import in_thread
from ..compute.values import Feature, Features
from ..errors import LongshoreError, NotSupported, ServiceError
from ..fs.files import find_program, read_whole, write_new
from ..fs.trees import remove_tree
from ..machine import boot_id
from ..typed_json import decode_json
from .cgroups.cgroup import ROOT, Cgroup, hierarchies, mode
from .config import seccomp
from .processes.launch import UPPER_HINT, enter_private_mounts, mount
from .processes.proc import status_known
from .rootfs.host_view import make_folder
from .runtimes import status
from .runtimes.runtime import Runtime, last_error

PREFERENCE = ("crun", "runc")
TRY_LIMIT = 20.0  # seconds that a runtime may take for an empty container
VERSION_LIMIT = 10.0
PREFIX = "longshore-probe-"  # of the folder in which a runtime is tried, and of its cgroup
LEFT_AFTER = 600.0  # seconds after which nobody is at work in one any more
FAILURE_KEPT = 300.0  # seconds that a failure is remembered: what caused it may be corrected without a new binary
ANSWERS_KEPT = 64  # the oldest go first: services with namespaces of their own come and go
VERSION = 2  # of what is tried

# The holes that are worth a word, and the first upstream version without them, of each line of versions that got one; a
# distribution may have fixed them in an older one (security-tracker.debian.org tells).
HOLES: Mapping[str, Sequence[tuple[Sequence[str], str]]] = {
    "runc": [
        (("1.1.5",), "CVE-2023-27561, CVE-2023-28642 (links in a root lead past its masked paths)"),
        (("1.1.12",), "CVE-2024-21626 (a descriptor of the host leaks into containers)"),
        (
            ("1.1.14", "1.2.0"),
            "CVE-2024-45310 (containers that share a root can have empty folders made outside of it)",
        ),
        (
            ("1.2.8", "1.3.3", "1.4.0"),
            "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881 (masked paths can be raced)",
        ),
    ],
    "crun": [
        (("1.4.4",), "CVE-2022-27650 (processes begin with inheritable capabilities)"),
        (("1.27",), "CVE-2026-30892 (`exec --user` may take a wrong user)"),
    ],
}


class Tried(msgspec.Struct, frozen=True):
    """What a runtime made of an empty container."""

    path: str
    version: str = ""
    works: bool = False
    reason: str = ""
    commands: str = ""  # its --help, for what it can do at all
    at: float = 0.0  # seconds since the epoch


class Cache(msgspec.Struct):
    """The answers, and what they depend on."""

    boot: str = ""
    version: int = VERSION
    answers: dict[str, Tried] = {}


def find(wanted: str) -> str | None:
    """The path of a runtime that was named, also where PATH lacks the system directories."""
    if "\0" in wanted:
        return None
    if os.sep in wanted:
        return wanted if os.access(wanted, os.X_OK) else None
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return find_program(wanted, path)


def must_hide_unified(path: str) -> bool:
    """crun refuses a "hybrid" host whose version 2 hierarchy has a controller left (src/libcrun/cgroup.c)."""
    if not os.path.basename(path).startswith("crun") or mode() != "hybrid":
        return False
    with suppress(OSError):
        return bool((ROOT / "unified" / "cgroup.controllers").read_text().strip())
    return False


def _key(path: str) -> str:
    status = os.stat(path)
    return f"{path}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


_RIGHTS = ("Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:")


def _rights() -> str:
    """What decides, beside the machine, whether this program may make a container: another program's answer with the
    same is ours, too. proc(5), namespaces(7)."""
    found = [line for line in _text("/proc/self/status").splitlines() if line.startswith(_RIGHTS)]
    for kind in ("cgroup", "mnt", "pid", "user"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/ns/{kind}"))
    found.append(_text("/proc/self/attr/current"))  # of AppArmor or SELinux
    return _joined(found)


def _means() -> str:
    """What else can make an attempt fail: limits, and the cgroups with theirs."""
    return _joined([_text("/proc/self/limits"), _text("/proc/self/cgroup"), os.environ.get("TMPDIR", "")])


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text("utf-8", "replace")
    return ""


def _joined(parts: Sequence[str]) -> str:
    """One line of all words: a digest would be shorter, but hashlib takes 2 ms to load at every first start."""
    return " ".join(" ".join(parts).split())


def _load(cache: Path) -> Cache:
    try:
        found = decode_json(read_whole(cache), Cache)
    except (OSError, ValueError):
        found = Cache()
    boot = boot_id()
    return found if (found.boot, found.version) == (boot, VERSION) else Cache(boot=boot)


def _save(cache: Path, found: Cache) -> None:
    with suppress(OSError):  # only a cache: the next call tries again
        write_new(cache, msgspec.json.encode(found))


async def tried(path: str, cache: Path) -> Tried:
    """What this binary makes of a container on this boot of the machine."""
    known = _load(cache)
    key = f"{_key(path)}:{_rights()}"
    answer = known.answers.get(key)
    if answer is not None:
        return answer
    failed = f"{key}:{_means()}"  # a failure holds only for programs in the very same situation, and for a while
    answer = known.answers.get(failed)
    if answer is None or time.time() - answer.at >= FAILURE_KEPT:
        answer = await _try(path)
        known.answers.pop(failed, None)
        known.answers[key if answer.works else failed] = answer
        while len(known.answers) > ANSWERS_KEPT:
            del known.answers[next(iter(known.answers))]
        _save(cache, known)
    return answer


def known_version(path: str, cache: Path) -> str:
    """Return the version of a runtime that was tried before; empty where it was not, or is gone."""
    with suppress(OSError):
        key = f"{_key(path)}:"  # whatever program has tried it
        found = (answer for tried_as, answer in _load(cache).answers.items() if tried_as.startswith(key))
        return next((answer.version for answer in found if answer.version), "")
    return ""


async def choose_runtime(wanted: str | None, *, cache: Path) -> Tried:
    """The runtime that was asked for, or the first one that works. NotSupported, with every reason, if none does."""
    reasons = []
    for name in (wanted,) if wanted else PREFERENCE:
        path = find(name)
        if path is None:
            reasons.append(f"{name} is not installed" if os.sep not in name else f"{name} is not there")
            continue
        answer = await tried(path, cache)
        if answer.works:
            return answer
        reasons.append(f"{name}: {answer.reason}")
    hint = f"choose another runtime (crun, runc), not {wanted}" if wanted else "apt-get install crun runc"
    raise NotSupported("running a container", "; ".join(reasons), hint=hint)


def _empty_container(root: Path, cgroup: str) -> dict[str, Any]:
    """A configuration of the least that a container is, over the machine's own programs, read-only."""
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
    return Cgroup(f"/{base.name}")  # nothing above it that another probe could remove at this moment


def _remove_left(temporary: Path) -> None:
    """What somebody left who was killed while he tried a runtime, long ago."""
    for base in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError, LongshoreError):
            status = base.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > LEFT_AFTER:
                group = _group_of(base)
                group.kill(1.0)
                group.remove()
                remove_tree(base)


async def _try(path: str) -> Tried:
    version, commands = await _ask(path, "--version"), await _ask(path, "--help")
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
        # in a mount namespace of its own whatever the runtime: nothing that it mounts can be left
        reason = ""
        try:
            await runtime.verb(log, "run", "--bundle", str(base), id, container_id=id, limit=TRY_LIMIT)
        except ServiceError as error:
            reason = last_error(log) or str(error)
        except LongshoreError as error:
            reason = str(error)
        finally:
            group.kill(1.0)
            group.remove()
    return Tried(path, _version_of(version), not reason, reason, commands, time.time())


async def _ask(path: str, option: str) -> str:
    """What a program prints when asked; empty if it cannot be started."""

    return await in_thread(lambda: _ask_here(path, option))


def _ask_here(path: str, option: str) -> str:
    import subprocess

    try:
        done = subprocess.run([path, option], capture_output=True, timeout=VERSION_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).decode("utf-8", "replace")


def version_of(path: str) -> str:
    """Return a program's version; empty if it gives none. Blocks while it runs."""
    return _version_of(_ask_here(path, "--version"))


def _version_of(text: str) -> str:
    match = re.search(r"version:? +(\S+)", text)
    return match[1].rstrip(",") if match else ""


async def versions(paths: Sequence[str]) -> dict[str, str]:
    """The versions of programs, by their names."""
    return {os.path.basename(path): _version_of(await _ask(path, "--version")) or "unknown" for path in paths}


def holes(name: str, version: str) -> list[str]:
    """Known holes of a runtime's upstream version."""
    have = _numbers(version)
    return [text for fixed_in, text in HOLES.get(name, []) if have and not _has_fix(have, fixed_in)]


def _has_fix(have: tuple[int, ...], fixed_in: Sequence[str]) -> bool:
    """Whether a version has the fix of these versions: one of a later line, or not before it in the same line."""
    lines = [_numbers(each) for each in fixed_in]
    return have >= lines[-1] or any(have[:2] == line[:2] and have >= line for line in lines)


def describe_holes(name: str, version: str) -> str:
    """What is said of a runtime's holes; empty if none is known."""
    known = holes(name, version)
    return f"upstream's {version} has {'; '.join(known)}: see whether your package has the fix" if known else ""


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


async def probe(wanted: str | None, *, cache: Path) -> Features:
    """Every capability of this host, each with its reason and the next step."""
    items: dict[str, Feature] = {}

    def add(name: str, supported: bool, reason: str = "", hint: str | None = None) -> None:
        items[name] = Feature(name, supported, reason, hint)

    root = os.geteuid() == 0
    add("root", root, "runs as root" if root else "longshore needs root for now", None if root else "use sudo")
    chosen: Tried | None = None
    for name in dict.fromkeys([*([wanted] if wanted else []), *PREFERENCE]):
        path = find(name)
        if path is None:
            add(os.path.basename(name), False, "not installed", f"apt-get install {os.path.basename(name)}")
            continue
        if not root:
            add(os.path.basename(name), False, "cannot be tried as an ordinary user", "use sudo")
            continue
        answer = await tried(path, cache)
        known = describe_holes(os.path.basename(name), answer.version)
        words = f"version {answer.version or 'unknown'} at {path}"
        if known:
            words += f"; {known}"
        add(os.path.basename(name), answer.works, words if answer.works else answer.reason, None)
        if answer.works and chosen is None and (wanted is None or name == wanted):
            chosen = answer
    why = "" if chosen else "no runtime works here"
    hint = None if chosen else "apt-get install crun runc conmon"
    if chosen is not None:
        why = await in_thread(lambda: _problem_of_state(cache.parent), "longshore-probe")
        hint = UPPER_HINT if why else None
    runs = not why
    add("run", runs, why or f"by {chosen.path if chosen else ''}", hint)
    monitor = find("conmon")
    if monitor is None:
        add("conmon", False, "not installed: no container can outlive its caller", "apt-get install conmon")
    else:
        add("conmon", True, f"version {(await versions([monitor]))['conmon']} at {monitor}")
    _add_first(add)
    _add_kernel(add, runs, why)
    await _add_checkpoint(add, chosen)
    add(
        "rootless",
        False,
        "longshore needs root for now",
        "rootless needs newuidmap, /etc/subuid and a delegated cgroup",
    )
    name = os.path.basename(chosen.path) if chosen else "no runtime"
    return Features(service="oci", version=f"{name} {chosen.version}" if chosen else name, items=items)


def _add_first(add: Any) -> None:
    """The program that reports whether a command was executed, and the init, which is the same program."""
    machine = os.uname().machine
    own = status.available()
    here = "longshore's own first program" if own else f"there is no first program for this machine ({machine})"
    add("first", own, here if own else f"{here}: only the runtime's log shows that a command never ran", None)
    init = find("catatonit")
    add(
        "init",
        own or init is not None,
        here if own else f"catatonit at {init}" if init else f"{here}, and catatonit is not installed",
        None if own or init else "apt-get install catatonit",
    )


def _problem_of_state(data: Path) -> str:
    """Why an overlay cannot have what a container writes in the state directory: found by mounting one. Blocks.

    In the mount namespace of a thread of its own: with that the mount ends.
    """
    import tempfile

    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=data) as base:
            for name in ("lower", "upper", "work", "merged"):
                os.mkdir(f"{base}/{name}", 0o700)
            problem: list[str] = []

            def attempt() -> None:
                try:
                    enter_private_mounts(hide_unified=False)
                    os.chdir(base)  # of this thread alone by now; its path may hold what options are cut at
                    mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
                except OSError as error:
                    problem.append(error.strerror or str(error))

            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
    except OSError as error:
        return f"the state directory {data} cannot be written: {error.strerror or error}"
    if not problem:
        return ""
    return f"a container cannot write to its root where the state directory is, {data}: {problem[0]}"


def _add_kernel(add: Any, runs: bool, why: str) -> None:
    kind = mode()
    where = hierarchies()
    unified = kind == "v2"
    add("cgroups", bool(where), {"v1": "version 1", "hybrid": "version 1 and 2 (hybrid)", "v2": "version 2"}[kind])
    add("signals", runs, why)
    add("attach-stdin", runs, why)
    freezer = unified or "freezer" in where
    no_freezer = "the freezer controller is not mounted"
    add("pause", runs and freezer, why or ("" if freezer else no_freezer))
    add("update", runs, why)
    memory = unified or "memory" in where
    no_memory = "the memory controller is not mounted"
    add("memory-limit", runs and memory, why or ("" if memory else no_memory))
    add("oom-events", runs and memory, why or ("" if memory else no_memory))
    how = "by a cgroup of the exec's own" if unified else "by freezing the container"
    add("exec-deadline", runs and freezer, why or (how if freezer else no_freezer))
    add(
        "wait-status",
        status_known(),
        "exit(137) and SIGKILL can be told apart" if status_known() else "this kernel tells strangers no status",
        None if status_known() else "Linux 6.15 or newer; until then a signal is inferred from codes above 128",
    )
    profile = seccomp.source("default")[1]
    add("seccomp", Path("/proc/sys/kernel/seccomp").exists(), f"profile: {profile}")


async def _add_checkpoint(add: Any, chosen: Tried | None) -> None:
    criu = find("criu")
    if chosen is None:
        add("checkpoint", False, "no runtime works here")
    elif not re.search(r"^\s*checkpoint\b", chosen.commands, re.MULTILINE):
        add(
            "checkpoint",
            False,
            f"this {os.path.basename(chosen.path)} was built without it",
            "use runc: Engine(runtime='runc'), or `--runtime runc`",
        )
    elif criu is None:
        add("checkpoint", False, "criu is not installed", "apt-get install criu")
    else:
        works, reason, hint = await _try_criu(criu, chosen)
        add("checkpoint", works, reason, hint)


async def _try_criu(criu: str, chosen: Tried) -> tuple[bool, str, str | None]:
    """Whether CRIU works with this kernel, and with this runtime."""
    checked, said = await _check(criu)
    if not checked:
        why = next((line.strip() for line in said.splitlines() if "Error" in line), said.strip()[-200:])
        return False, f"`criu check` fails on this kernel: {why}", "a newer criu may know this kernel"
    if os.path.basename(chosen.path).startswith("crun"):
        if not await _loads("libcriu.so.2"):
            return False, "crun needs libcriu.so.2, which is not installed", "apt-get install libcriu2"
    elif find("iptables-restore") is None:
        return False, "CRIU locks networks by iptables, which is not installed", "apt-get install iptables"
    return True, f"criu {_version_of((await _ask(criu, '--version')).lower()) or 'of an unknown version'}", None


async def _check(criu: str) -> tuple[bool, str]:
    """What `criu check` says."""

    def check() -> tuple[bool, str]:
        import subprocess

        try:
            done = subprocess.run([criu, "check"], capture_output=True, timeout=TRY_LIMIT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, str(error)
        return done.returncode == 0, (done.stdout + done.stderr).decode("utf-8", "replace")

    return await in_thread(check)


async def _loads(library: str) -> bool:

    def load() -> bool:
        import ctypes

        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True

    return await in_thread(load)
