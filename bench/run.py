#!/usr/bin/env python3
"""Measure longshore beside bare runtimes and other engines, and print a table of medians and ratios.

Everything in a row is measured in turns (A B C A B C ...), so that a slow minute of the machine is everybody's:
only ratios within a row mean something. Needs root, runc or crun, and conmon; docker, podman and bubblewrap are
measured where they are installed (`apt-get install docker.io podman bubblewrap busybox-static`). What bare means, and
what is counted, stands in bench/bare.py. Leaves nothing behind.

    python bench/run.py                      # all rows: some minutes
    python bench/run.py --rows 'run-*,life'  # some rows
    python bench/run.py --quick              # does it still work? numbers mean nothing
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fnmatch
import gc
import json
import os
import platform
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import rows_processes
import rows_scale
import rows_simulator
import rows_store
import rows_streams
from context import Bench
from measure import HEADER, RowMaker, RowResult, lines, markdown, measure

ROWS: list[RowMaker] = [
    *rows_processes.ROWS,
    *rows_streams.ROWS,
    *rows_store.ROWS,
    *rows_scale.ROWS,
    *rows_simulator.ROWS,
]


def machine() -> dict[str, Any]:
    """What the numbers were measured on; no names of hosts."""
    system = "unknown"
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            system = line.partition("=")[2].strip('"')
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "system": system,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def fresh_heap() -> None:
    """Give back what the row before has left: a heap of a gigabyte makes the next row's streams slower."""
    gc.collect()
    with suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def chosen(patterns: str | None) -> list[RowMaker]:
    if patterns is None:
        return [maker for maker in ROWS if not maker.on_demand]
    wanted = patterns.split(",")
    found = [maker for maker in ROWS if any(fnmatch.fnmatch(maker.name, pattern) for pattern in wanted)]
    if not found:
        raise SystemExit(f"no row is called {patterns}; there are {', '.join(maker.name for maker in ROWS)}")
    return found


async def main(arguments: argparse.Namespace) -> int:
    results: list[RowResult] = []
    makers = chosen(arguments.rows)
    where = machine()
    print(f"{where['date']}, {where['processors']} cores, {where['system']}, kernel {where['kernel']}", flush=True)
    print(HEADER)
    bench = Bench(
        quick=arguments.quick,
        runtimes=arguments.runtimes.split(","),
        with_peers=not arguments.no_peers,
        alive=arguments.alive,
    )
    failed = 0
    async with bench:
        for maker in makers:
            fresh_heap()
            async with maker.make(bench) as row:
                result = await measure(maker, row)
            results.append(result)
            failed += sum(bool(item.error) for item in result.results)
            print("\n" + "\n".join(lines(result)), flush=True)
    if arguments.markdown:
        Path(arguments.markdown).write_text(markdown(results))
    if arguments.json:
        document = {"machine": where, "quick": arguments.quick, "rows": [result.document() for result in results]}
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="bench/run.py"
    )
    parser.add_argument("--rows", metavar="PATTERN", help="only these rows: names or patterns, with commas between")
    parser.add_argument("--json", metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="write the table to FILE, as docs/performance.md has it")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds: few rounds, small amounts")
    parser.add_argument("--no-peers", action="store_true", help="leave docker, podman and bwrap out")
    parser.add_argument("--runtimes", default="crun,runc", help="which runtimes (%(default)s)")
    parser.add_argument("--alive", type=int, default=200, help="how many are to be alive together (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list the rows")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    if options.list:
        for maker in ROWS:
            print(f"{maker.name:<20} {maker.title}{'  (only when asked for)' if maker.on_demand else ''}")
        sys.exit(0)
    if os.geteuid() != 0:
        sys.exit("bench/run.py: needs root, as longshore does for now")
    sys.exit(asyncio.run(main(options)))
