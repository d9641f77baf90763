"""A CI runner in fifty lines: jobs side by side, each with limits and a log, none left behind if this is killed.

python examples/ci_runner.py
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

import longshore


@dataclass
class Job:
    name: str
    steps: list[list[str]]


JOBS = [
    Job("lint", [["python3", "-c", "print('all tidy')"]]),
    Job("test", [["sh", "-c", "echo one; sleep 0.2; echo two"], ["sh", "-c", "exit 3"]]),
    Job("hang", [["sleep", "60"]]),
]


async def work(engine: longshore.Engine, job: Job) -> str:
    """Run a job's steps in one container, each as an exec with a time limit; the first failure ends it."""
    box = await engine.launch(
        f"ci-{job.name}", root="host", args=["sleep", "infinity"], memory="512m", pids=256, owner="remove"
    )
    try:
        for step in job.steps:
            process = await box.exec(step, timeout=2, stderr=longshore.STDOUT)
            try:
                output, _ = await process.communicate()
            except longshore.TimeLimit as error:
                return f"{job.name}: {error}"
            sys.stdout.write("".join(f"{job.name} | {line}\n" for line in output.decode().splitlines()))
            if process.returncode != 0:
                return f"{job.name}: step {step} ended with {process.returncode}"
        return f"{job.name}: passed"
    finally:
        await box.delete(force=True)


async def main() -> None:
    async with longshore.Engine() as engine:
        for result in await asyncio.gather(*(work(engine, job) for job in JOBS)):
            print(result)


if __name__ == "__main__":
    asyncio.run(main())
