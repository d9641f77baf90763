"""The disk of the modern host: Debian with systemd, pure cgroup v2 and the suite's runtimes; made once, then kept.

It stands in `.vm/` of the checkout, or in `$LONGSHORE_VM`, in a folder named by what it was made of: a change of the
recipe makes another one, and two programs that want it at once make it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = {"trixie": "3.13", "bookworm": "3.11"}  # the suites there are, Debian 13 and 12, and what Python each has
SUITE = "trixie"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "udev", "kmod"),
    *(
        "crun",
        "runc",
        "conmon",
        "criu",
        "iptables",
        "catatonit",
        "bubblewrap",
        "python3",
        "iproute2",
        "procps",
        "ca-certificates",
    ),
)
WHEELS = ("msgspec>=0.18", "rich>=13", "pytest>=8", "pytest-asyncio>=0.24", "hypothesis>=6.100")
UNUSED = (  # units that a machine of a few minutes has no use for: half of its way up
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "getty@tty1.service", "getty-static.service", "serial-getty@ttyS0.service"),
    *(
        "systemd-update-utmp.service",
        "systemd-pcrphase.service",
        "systemd-logind.service",
        "systemd-hwdb-update.service",
    ),
    *("systemd-udev-settle.service", "systemd-binfmt.service", "systemd-timesyncd.service", "modprobe@drm.service"),
    *(
        "systemd-journal-catalog-update.service",
        "ldconfig.service",
        "systemd-networkd.service",
        "console-getty.service",
    ),
)
RUNNER = r"""#!/bin/bash
# Runs what the second disk brings, as a service of systemd, and switches the machine off.
udevadm wait --timeout=60 /dev/virtio-ports/output /dev/virtio-ports/status /dev/vda || exit
exec </dev/null >/dev/virtio-ports/output 2>&1
mkdir -p /longshore && tar -x -C /longshore -f /dev/vda || exit
cd /longshore
export HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
/bin/bash .command
echo $? >/dev/virtio-ports/status
sync
systemctl poweroff --force --force
"""
UNIT = """[Unit]
Description=The command that this machine was started for
[Service]
ExecStart=/usr/local/sbin/longshore-runner
StandardOutput=journal+console
Delegate=yes
TasksMax=infinity
LimitNOFILE=65536
[Install]
WantedBy=multi-user.target
"""
LONGSHORE = """#!/usr/bin/python3
import sys
from longshore.cli import main
sys.exit(main())
"""
CRIU = """#!/bin/sh
# CRIU stops a process by a hardware breakpoint, which brings a kernel down that QEMU emulates: by a single step instead
export CRIU_FAULT=130
exec /usr/sbin/criu "$@"
"""
FILES = {  # path: text, mode
    "usr/local/sbin/criu": (CRIU, 0o755),
    "usr/local/sbin/longshore-runner": (RUNNER, 0o755),
    "usr/local/bin/longshore": (LONGSHORE, 0o755),
    "usr/local/lib/python{python}/dist-packages/longshore.pth": ("/longshore/src\n", 0o644),
    "etc/systemd/system/longshore-runner.service": (UNIT, 0o644),
    "etc/systemd/journald.conf.d/volatile.conf": ("[Journal]\nStorage=volatile\n", 0o644),
    "etc/machine-id": ("6c6f6e6773686f72650000000000000d\n", 0o444),  # else each boot is a first one
    "etc/hostname": ("modern\n", 0o644),
    "etc/hosts": ("127.0.0.1 localhost modern\n", 0o644),
    "etc/fstab": ("", 0o644),
}


@dataclass(frozen=True)
class Image:
    """What a machine is started from."""

    disk: Path
    kernel: Path


def image(suite: str = SUITE) -> Image:
    """The image of a suite of Debian; made if it is not there yet (about a minute)."""
    home = Path(os.environ.get("LONGSHORE_VM", CHECKOUT / ".vm"))
    home.mkdir(parents=True, exist_ok=True)
    folder = home / _key(suite)
    found = Image(folder / "disk.raw", folder / "vmlinuz")
    with _alone(home / "lock"):
        if not found.disk.exists():
            work = Path(tempfile.mkdtemp(prefix="making.", dir=home))
            try:
                (work / "done").mkdir()
                _make(suite, work / "root", work / "done", work / "log")
                (work / "done").rename(folder)
            except subprocess.CalledProcessError:
                print((work / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
                raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return found


def _packages(suite: str) -> tuple[str, ...]:
    return (*PACKAGES, "libcriu2") if suite == "trixie" else PACKAGES  # of Debian 12's runtimes none loads it


def _key(suite: str) -> str:
    recipe = repr((suite, PYTHON[suite], _packages(suite), WHEELS, UNUSED, sorted(FILES.items())))
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(suite: str, root: Path, done: Path, log: Path) -> None:
    print(f"making the image of the modern host (Debian {suite}): about a minute", file=sys.stderr)
    python = PYTHON[suite]
    slim = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")]
    packages = ",".join(_packages(suite))
    with open(log, "wb") as words:
        kind = ["--variant=minbase", "--mode=root", '--aptopt=Acquire::Languages "none"', *slim]
        _run(["mmdebstrap", *kind, f"--include={packages}", suite, str(root)], words)
        target = root / "usr" / "local" / "lib" / f"python{python}" / "dist-packages"
        wheels = ["--only-binary=:all:", f"--python-version={python}"]
        wheels += [f"--platform={each}" for each in ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "any")]
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *wheels, *WHEELS], words)
        for path, (text, mode) in FILES.items():
            file = root / path.format(python=python)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            file.write_text(text)
            file.chmod(mode)
        units = root / "etc" / "systemd" / "system"
        for unit in UNUSED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
        wants = units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "longshore-runner.service").symlink_to("/etc/systemd/system/longshore-runner.service")
        (units / "default.target").unlink(missing_ok=True)
        (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
        [kernel] = (root / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, done / "vmlinuz")
        shutil.rmtree(root / "boot")
        (root / "boot").mkdir()
        with open(done / "disk.raw", "wb") as disk:
            disk.truncate(3 << 30)
        _run(["mkfs.ext4", "-q", "-d", str(root), str(done / "disk.raw")], words)


def _run(command: list[str], words: object) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, check=True)  # type: ignore[call-overload]
