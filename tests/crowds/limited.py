"""A program that may have only a few descriptors, and wants more containers than that allows. It tells what it met.

python -m tests.crowds.limited STATE RUNTIME LIMIT WANTED
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

from longshore.engine.container import Attachment
from longshore.engine.engine import Engine
from longshore.errors import DescriptorLimit, LongshoreError

from .measure import descriptors


async def crowd(state: str, runtime: str, limit: int, wanted: int) -> dict[str, Any]:
    found: dict[str, Any] = {"limit": limit}
    async with Engine(state=state, runtime=runtime) as engine:
        launches = (
            engine.launch(f"box-{n}", root="host", args=["sh", "-c", f"trap 'exit {n % 100}' TERM; sleep 1000 & wait"])
            for n in range(wanted)
        )
        met = await asyncio.gather(*launches, return_exceptions=True)
        boxes = [box for box in met if not isinstance(box, BaseException)]
        errors = [error for error in met if isinstance(error, BaseException)]
        found["launched"] = len(boxes)
        found["errors"] = Counter(type(error).__name__ for error in errors)
        found["messages"] = sorted({str(error) for error in errors})[:3]
        found["hints"] = sorted({str(error.hint) for error in errors if isinstance(error, LongshoreError)})
        found["open"] = descriptors()
        # at the limit: all that is there can still be used, watched and ended
        found["listed"] = len(await engine.list(states=["running"]))
        found["measured"] = len([stats for box in boxes if (stats := await box.stats()).cpu_time is not None])
        found["refused"] = 0
        for begin in (boxes[0].exec(["true"]), engine.run("host", ["true"])):
            try:
                await begin
            except DescriptorLimit:
                found["refused"] += 1
        views: list[Attachment] = []
        with suppress(DescriptorLimit):
            while len(views) < limit:
                views.append(await boxes[0].attach())
        found["views"] = len(views)
        for view in views:
            await view.close()
        exits = await asyncio.gather(*(box.stop(grace=300) for box in boxes))
        found["right"] = sum(exit.code == int(box.id[4:]) % 100 for box, exit in zip(boxes, exits, strict=True))
        await asyncio.gather(*(box.delete() for box in boxes))
        found["left"] = len(await engine.list())
        found["again"] = (await engine.run("host", ["echo", "here"])).text
    return found


if __name__ == "__main__":
    state, runtime, limit, wanted = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(json.dumps(asyncio.run(crowd(state, runtime, int(limit), int(wanted)))))
