"""Run code that you do not trust, and learn exactly how it ended.

python examples/sandbox.py 'print(sum(range(10)))'
"""

from __future__ import annotations

import asyncio
import sys

import longshore


async def evaluate(code: str) -> longshore.Completed:
    """Run a Python program as nobody, without network, in a machine whose secrets it cannot see."""
    async with longshore.Engine() as engine:
        return await engine.run(
            "host",
            ["python3", "-I", "-c", code],
            timeout=5,
            memory="128m",
            pids=32,
            cpus=0.5,
            max_output=1 << 20,
        )


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: sandbox.py CODE", file=sys.stderr)
        return 2
    try:
        done = asyncio.run(evaluate(sys.argv[1]))
    except longshore.TimeLimit as error:
        print(f"{error}; until then it said {error.result.stdout if error.result else b''!r}", file=sys.stderr)
        return 124
    print(done.text, end="")
    print(done.error_text, end="", file=sys.stderr)
    print(f"[{done.exit.cause}, code {done.exit_code}, {done.exit.cpu_time} s, {done.exit.peak_memory} bytes]")
    return done.exit_code if done.exit_code is not None else 125


if __name__ == "__main__":
    sys.exit(main())
