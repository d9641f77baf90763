"""Power cuts: a machine in QEMU makes containers, its plug is pulled, it boots, its books are checked; and so on.

    scripts/powercuts --cuts 50 --seed 1      (half a minute to two for each cut)

Each boot looks at what the last cut left (books.py), deletes it, and works until the next cut (load.py). The disk is a
copy of the image that stays from cut to cut. Pulling the plug is SIGKILL for QEMU: what the guest had written to its
disk is kept (it is in the host's page cache), what was in the guest's memory is lost. A real disk may also lose what it
has in its own cache; whoever syncs is safe from both.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from machine import Machine

BOOT_LIMIT = 400.0
BOOTS = 3
COMMAND = "python3 scripts/modern/books.py && exec python3 -X faulthandler scripts/modern/load.py {seed}"


class Lines:
    """What a machine told, with the time of each line."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.begun = threading.Event()
        self._rest = b""

    def take(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace").strip()
            self.lines.append((time.monotonic(), text))
            if text.startswith("did "):  # from here on there is something to lose
                self.begun.set()


def compare(
    did: list[tuple[float, list[str]]], cut_at: float, books: dict[str, Any]
) -> tuple[list[str], dict[str, int]]:
    """What is wrong in the books, by what was told before the cut; and what was lost, by kind."""
    wrong = list(books["wrong"])
    lost = {"created": 0, "ended": 0, "deleted": 0, "damaged": len(books["damaged"]), "empty": len(books["empty"])}
    told: dict[str, dict[str, tuple[float, list[str]]]] = {}
    for at, (what, id, *rest) in did:
        told.setdefault(id, {})[what] = (at, rest)
    for id, steps in told.items():
        if "created" not in steps:  # a `run`: its own end removed it
            if id in books["found"]:
                wrong.append(f"`{id}`, of `run`, came back")
            continue
        found = books["found"].get(id)
        if "deleted" in steps:
            lost["deleted"] += found is not None
        elif found is None or found["state"] == "damaged":
            lost["created"] += 1
            wrong.append(f"`{id}`, made {cut_at - steps['created'][0]:.1f} s before the cut: {found or 'gone'}")
        elif "ended" in steps:
            ended_at, [code] = steps["ended"]
            if str(found["code"]) != code:
                lost["ended"] += 1
                wrong.append(f"`{id}` ended with {code} {cut_at - ended_at:.1f} s before the cut; now {found}")
        elif found["cause"] not in ("system_gone", "never_started", "killed", "exited", "signalled"):
            wrong.append(f"`{id}`: {found}")
        elif "started" in steps and found["cause"] == "never_started":
            wrong.append(f"`{id}` was started: {found}")
    return wrong, lost


def one_cut(disk: Path, seed: int, number: int, longest: float) -> tuple[Lines, str, float]:
    """Boot, have it look and work, pull the plug: what it told, what its console said, and when the plug was pulled.

    A machine that says nothing at all never came to the disk's longshore (QEMU's emulation panics now and then on the
    way up): it is started again.
    """
    chance = random.Random(f"{seed}.{number}")
    for _ in range(BOOTS):
        lines = Lines()
        with Machine(COMMAND.format(seed=seed * 1000 + number), disk=disk, output=lines.take) as machine:
            deadline = time.monotonic() + BOOT_LIMIT
            while not lines.begun.wait(0.2) and machine.is_on() and time.monotonic() < deadline:
                pass
            if lines.begun.is_set():  # there is something to lose
                time.sleep(chance.uniform(0.5, longest) * chance.random())
            at = time.monotonic()
            machine.cut()
            console = machine.console()
        if lines.lines:
            break
        print(f"cut {number}: no word of the machine: {console[-300:]!r}", flush=True)
    return lines, console, at


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/powercuts", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--longest", type=float, default=60.0, help="seconds of work before a cut, at most")
    parser.add_argument("--until", help="HH:MM: no cut is begun after this time of the day")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seed = random.randrange(1 << 20) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    bad = cuts = unbegun = 0
    did: list[tuple[float, list[str]]] = []
    cut_at = 0.0
    totals: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="longshore-vm-disk-", dir="/var/tmp") as folder:
        for number in range(asked.cuts + 1):
            if asked.until and time.strftime("%H:%M") >= asked.until:
                break
            lines, console, at = one_cut(Path(folder) / "disk.raw", seed, number, asked.longest)
            begun = lines.begun.is_set()
            books = [json.loads(line[6:]) for _, line in lines.lines if line.startswith("books ")]
            if not books:
                print(f"cut {number}: the machine came to no books", console[-2000:], lines.lines[-20:], flush=True)
                return 1
            if number:
                wrong, lost = compare(did, cut_at, books[0])
                cuts, bad = cuts + 1, bad + bool(wrong)
                for name, count in lost.items():
                    totals[name] = totals.get(name, 0) + count
                totals["told"] = totals.get("told", 0) + len(did)
                totals["found"] = totals.get("found", 0) + len(books[0]["found"])
                totals["half-made"] = totals.get("half-made", 0) + len(books[0]["undone"])
                print(f"cut {number}: told {len(did)}, found {len(books[0]['found'])}, lost {lost}", flush=True)
                for each in books[0]["refused"]:
                    print(f"    {each}", flush=True)
                for each in wrong:
                    print(f"  WRONG {each}", flush=True)
            if not begun:
                unbegun += 1
                words = [text for _, text in lines.lines if not text.startswith("books ")]
                print(f"cut {number}: the work did not begin: {words[-40:]}", flush=True)
                if unbegun == BOOTS:
                    return 1
            did = [(when, line.split()[1:]) for when, line in lines.lines if line.startswith("did ")]
            for _, line in lines.lines:
                if line.startswith("refused "):
                    print(f"    {line}", flush=True)
            cut_at = at
    print(f"{cuts} cuts, {bad} with wrong books; {totals}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
