"""A runtime that hangs: every operation ends at its limit with a typed error, and nothing is left."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from longshore import Engine, InvalidSpec, Limits, ServiceError
from longshore.compute.limits import HcsLimits
from longshore.oci.runtimes.choice import find

from ..leftovers import leftovers
from ..pace import slower


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A runtime that works, until `stuck` beside it names the verb in which it hangs."""
    crun = find("crun")
    path = tmp_path / "crun"
    path.write_text(f"""#!/bin/sh
verb=$(cat {tmp_path}/stuck)
for word; do
  [ "$word" != "$verb" ] || exec sleep 1000
done
exec {crun} "$@"
""")
    path.chmod(0o755)
    (tmp_path / "stuck").write_text("none")
    return path


@pytest.mark.real
@pytest.mark.parametrize("verb", ["create", "run", "start", "exec"])
async def test_a_runtime_that_hangs_is_given_up_at_the_limit(hanging: Path, state: Path, verb: str) -> None:
    seconds = 0.5 * slower()  # which what does not hang must keep
    limits = Limits(create=seconds, start=seconds, verb=seconds)
    async with asyncio.timeout(60 * slower()), Engine(state=state, runtime=str(hanging), limits=limits) as engine:
        box = await engine.launch("box", root="host", args=["sleep", "infinity"])
        (hanging.parent / "stuck").write_text(verb)
        with pytest.raises(ServiceError, match=re.escape(f"within {seconds:g} s")):
            if verb == "create":
                await engine.create("other", root="host", args=["true"])
            elif verb == "run":
                await engine.run("host", ["true"])
            elif verb == "start":
                await engine.launch("other", root="host", args=["true"], owner="keep")
            else:
                await box.exec(["true"])
        (hanging.parent / "stuck").write_text("none")
        await (await box.exec(["true"])).wait()
        assert [info.id for info in await engine.list()] == ["box"]
        await box.delete(force=True)
        assert leftovers(state, engine_open=True) == []


def test_a_limit_that_is_no_time_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidSpec, match=r"limits\.verb"):
        Limits(verb=0)
    with pytest.raises(InvalidSpec, match=r"limits\.hcs\.shutdown"):
        Limits(hcs=HcsLimits(shutdown=float("nan")))
