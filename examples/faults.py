"""Testing a program of your own against failures, on any machine: no container runtime is needed.

    python examples/faults.py

`Retrying` is the program: it runs a job, and tries again when the service fails. Below is how a test of it makes the
service fail, hang, lose or double what it tells, and die.
"""

import asyncio
import tempfile

import longshore
from longshore.simulator import Process, Simulator


class Retrying:
    """Runs a job, at most three times."""

    def __init__(self, engine: longshore.Engine) -> None:
        self.engine = engine
        self.tries = 0

    async def run(self, *command: str) -> int | None:
        while True:
            self.tries += 1
            try:
                return (await self.engine.run("host", command, timeout=5)).exit_code
            except longshore.ServiceError:
                if self.tries == 3:
                    raise


async def greet(process: Process) -> int:
    """A program of the simulated machine: what a container runs there."""
    await process.stdout.write(b"hello\n")
    return 7


async def show(temperament: str) -> None:
    simulator = Simulator("hcs" if temperament == "hcs" else "oci", programs={"greet": greet})
    no_memory = longshore.ServiceError("start", None, "no memory")
    with tempfile.TemporaryDirectory() as state:
        async with longshore.Engine(simulator, state=state) as engine:
            simulator.fail_at("start", no_memory, times=2)
            job = Retrying(engine)
            print(f"{temperament}: two failures, then", await job.run("greet"), "after", job.tries, "tries")

            simulator.fail_at("any", no_memory, after=1)  # the second step, whatever it is
            job = Retrying(engine)
            print(f"{temperament}: the second step fails, then", await job.run("greet"), "after", job.tries, "tries")

            simulator.delay("exit notification", 0.2)
            simulator.double("exit notification")
            print(f"{temperament}: told late, then twice:", await job.run("greet"), await job.run("greet"))

            box = await engine.launch("box", root="host", args=["sleep", "60"])
            waiting = asyncio.ensure_future(box.wait())
            await asyncio.sleep(0)
            simulator.disconnect()  # the service dies, and every container with it
            exit = await waiting
            print(f"{temperament}: a lost service: code {exit.code}, cause {exit.cause}")
            await box.delete()
        assert simulator.systems == {}, "nothing is left"


if __name__ == "__main__":
    for each in ("oci", "hcs"):
        asyncio.run(show(each))
