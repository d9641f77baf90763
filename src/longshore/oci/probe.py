"""Report what works on this machine: runtimes by running a container, all else by asking the kernel.

`runtimes/choice.py` runs the container and caches the result.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..aio.tasks import in_thread
from ..compute.values import Feature, Features
from .cgroups.hierarchies import hierarchies, mode, read_text
from .config import seccomp
from .processes.launch import UPPER_HINT, enter_private_mounts, mount
from .processes.proc import status_known
from .runtimes import status
from .runtimes.choice import PREFERENCE, TRY_LIMIT, Tried, ask, can_checkpoint, find, tried, version_in, versions

# Known holes, with the first upstream version without them in each release line that got a fix. A distribution may have
# fixed them in an older version (see security-tracker.debian.org).
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


def holes(name: str, version: str) -> list[str]:
    """Return the known holes of a runtime's upstream version."""
    have = _numbers(version)
    return [text for fixed_in, text in HOLES.get(name, []) if have and not _has_fix(have, fixed_in)]


def _has_fix(have: tuple[int, ...], fixed_in: Sequence[str]) -> bool:
    """Return whether a version has a fix: it is of a later line, or not older than the fix in its own line."""
    lines = [_numbers(each) for each in fixed_in]
    return have >= lines[-1] or any(have[:2] == line[:2] and have >= line for line in lines)


def describe_holes(name: str, version: str) -> str:
    """Return a sentence about a runtime's known holes; empty if there are none."""
    known = holes(name, version)
    return f"upstream's {version} has {'; '.join(known)}: see whether your package has the fix" if known else ""


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


async def probe(wanted: str | None, *, cache: Path) -> Features:
    """Return every feature of this machine, each with its reason and the next step."""
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
    hint = None if chosen else "run `apt-get install crun runc conmon`"
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
    _add_kernel(add, runs, why, os.path.basename(chosen.path) if chosen else "")
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


def _add_entry(add: Any, kind: str, runtime: str) -> None:
    """Tell how the processes of containers come into their cgroups: with a wait in the kernel, or without."""
    hint = None
    if kind == "v2" and runtime.startswith("crun"):
        how = "processes are born in their cgroups"
    elif runtime.startswith("crun"):
        how = "processes enter their cgroups by themselves"
    elif "favordynmods" in (read_text("/proc/self/mounts") or ""):
        how = "the kernel moves processes without a wait (favordynmods)"
    else:
        how = (
            f"{runtime or 'the runtime'} moves processes into cgroups, and may sleep 7 to 15 ms for each in the kernel"
        )
        hint = "use crun; or mount the cgroups with the option favordynmods (Linux 6.0)"
    add("cgroup-entry", True, how, hint)


def _add_kernel(add: Any, runs: bool, why: str, name: str) -> None:
    kind = mode()
    where = hierarchies()
    unified = kind == "v2"
    add("cgroups", bool(where), {"v1": "version 1", "hybrid": "version 1 and 2 (hybrid)", "v2": "version 2"}[kind])
    _add_entry(add, kind, name)
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
        "exit code 137 and SIGKILL are distinguished"
        if status_known()
        else "this kernel reports an exit status to the parent process only",
        None if status_known() else "Linux 6.15 or newer; until then a signal is inferred from codes above 128",
    )
    profile = seccomp.source("default")[1]
    add("seccomp", Path("/proc/sys/kernel/seccomp").exists(), f"profile: {profile}")


async def _add_checkpoint(add: Any, chosen: Tried | None) -> None:
    criu = find("criu")
    if chosen is None:
        add("checkpoint", False, "no runtime works here")
    elif not can_checkpoint(chosen.commands):
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
            return False, "crun needs libcriu.so.2, which is not installed", "run `apt-get install libcriu2`"
    elif find("iptables-restore") is None:
        return False, "CRIU locks networks by iptables, which is not installed", "apt-get install iptables"
    return True, f"criu {version_in((await ask(criu, '--version')).lower()) or 'of an unknown version'}", None


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
