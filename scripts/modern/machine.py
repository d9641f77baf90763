"""One machine in QEMU: started from the image with this checkout in it, runs one command, and goes.

    scripts/vm image                      make the image, or see that it is there
    scripts/vm run 'COMMAND'              run a command (by bash, in /longshore, a copy of this checkout)
    scripts/vm run --suite bookworm 'COMMAND'  the same on Debian 12
    scripts/vm run --disk FILE 'COMMAND'  the same on a disk that stays: FILE is made from the image if it is not there

What it prints, and its exit code, are the command's; 124: the time limit; 125: no command came to its end.
Any number of machines may run at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from image import CHECKOUT, PYTHON, SUITE, Image, image

LIMIT = 900.0
MEMORY = "2048"
OPTIONS = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off audit=0 no_timer_check systemd.show_status=false"
)


class Machine:
    """A machine that was switched on: `wait` for its command, or pull the plug by `cut`."""

    def __init__(
        self, command: str, *, suite: str = SUITE, disk: Path | None = None, output: Callable[[bytes], object]
    ) -> None:
        self._output = output
        self._work = Path(tempfile.mkdtemp(prefix="longshore-vm-"))
        try:
            _pack(self._work / "brought.tar", command)
            self._qemu = subprocess.Popen(
                self._command_line(image(suite), disk),
                stdin=subprocess.PIPE,  # never written: its end would close the port on the machine's side
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            shutil.rmtree(self._work)
            raise
        self._relay = threading.Thread(target=self._pass_on)
        self._relay.start()

    def _command_line(self, made: Image, disk: Path | None) -> list[str]:
        if disk is None:
            root = f"file={made.disk},format=raw,snapshot=on"
        else:
            if not disk.exists():
                subprocess.run(["cp", "--sparse=always", made.disk, disk], check=True)
            root = f"file={disk},format=raw,cache=writeback"
        # No initrd: of all disks, the kernel has that of NVMe built in.
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-m", MEMORY, "-smp", "2"),
            *("-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none", "-kernel", str(made.kernel)),
            *("-append", OPTIONS, "-serial", f"file:{self._work / 'console'}"),
            *("-device", "nvme,id=disks,serial=longshore"),
            *("-drive", f"{root},if=none,id=root", "-device", "nvme-ns,drive=root,nsid=1"),
            *("-drive", f"file={self._work / 'brought.tar'},format=raw,readonly=on,if=none,id=brought"),
            # Not of NVMe as well: the kernel names those in any order, and the other one may be the root.
            *("-device", "virtio-blk-pci,drive=brought", "-device", "virtio-serial", "-device", "virtio-rng-pci"),
            *("-chardev", "stdio,id=output,signal=off", "-device", "virtserialport,chardev=output,name=output"),
            *("-chardev", f"file,id=status,path={self._work / 'status'}"),
            *("-device", "virtserialport,chardev=status,name=status"),
        ]

    def _pass_on(self) -> None:
        assert self._qemu.stdout is not None
        while data := os.read(self._qemu.stdout.fileno(), 1 << 16):
            self._output(data)

    def wait(self, limit: float = LIMIT) -> int:
        """The exit code of the command; 124 if it takes longer than `limit` seconds, 125 if it came to no end."""
        try:
            self._qemu.wait(limit)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            self.cut()
        status = self._work / "status"
        text = status.read_text().strip() if status.exists() else ""
        if not text:
            print(f"the machine ended without a word; its console:\n{self.console()[-3000:]}", file=sys.stderr)
        return int(text) if text else 125

    def is_on(self) -> bool:
        """Whether nobody has switched it off yet."""
        return self._qemu.poll() is None

    def cut(self) -> None:
        """Pull the plug, now. Idempotent."""
        self._qemu.kill()
        self._qemu.wait()
        self._relay.join()

    def console(self) -> str:
        """What the kernel and systemd said."""
        file = self._work / "console"
        return file.read_text(errors="replace") if file.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        for pipe in (self._qemu.stdin, self._qemu.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._work)


def _pack(path: Path, command: str) -> None:
    """This checkout as it stands, committed or not, without what git ignores; and the command."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    script = path.with_name("command")
    script.write_text(command + "\n")
    with tarfile.open(path, "w") as tar:
        for name in filter(None, listed.stdout.decode().split("\0")):
            try:
                tar.add(CHECKOUT / name, name, recursive=False)
            except FileNotFoundError:  # deleted, and not committed yet
                continue
        tar.add(script, ".command")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/vm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("image", help="make the image, or see that it is there")
    run = verbs.add_parser("run", help="run a command in a machine of its own")
    run.add_argument("--limit", type=float, default=LIMIT, help="seconds, after which the plug is pulled (%(default)g)")
    run.add_argument("--disk", type=Path, help="a disk that stays")
    for verb in (make, run):
        verb.add_argument("--suite", choices=PYTHON, default=SUITE, help="of Debian (%(default)s)")
    run.add_argument("command")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no machine outlives this
    if asked.verb == "image":
        print(image(asked.suite).disk)
        return 0
    begun = time.monotonic()
    with Machine(asked.command, suite=asked.suite, disk=asked.disk, output=_write) as machine:
        code = machine.wait(asked.limit)
    print(f"the machine was on for {time.monotonic() - begun:.0f} s; exit code {code}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
