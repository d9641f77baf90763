"""What a program found out about the runtimes holds for programs in the same situation, and for no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.oci.runtimes.choice import find

from ..cli.command import ARGV, Longshore

pytestmark = pytest.mark.real
WEAKER = {
    "no CAP_SYS_ADMIN": ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"],
    "no CAP_CHOWN and CAP_MKNOD": ["setpriv", "--bounding-set", "-mknod,-sys_admin,-chown"],
    "a limit on files": ["prlimit", "--fsize=0"],
}


def run(state: Path, *before: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LONGSHORE_ROOT": str(state), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*before, *ARGV, "run", "host", "--", "true"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("weaker", WEAKER)
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_failure_of_a_weaker_program_is_not_everybodys(state: Path, weaker: str, runtime: str) -> None:
    longshore = Longshore(state, runtime)
    failed = run(state, *WEAKER[weaker])
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    longshore.ok("run", "host", "--", "true")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_success_of_a_stronger_program_is_not_everybodys(state: Path, runtime: str) -> None:
    async with Engine(state=state, runtime=runtime) as engine:
        assert (await engine.run("host", ["true"])).exit_code == 0
    failed = run(state, *WEAKER["no CAP_SYS_ADMIN"])
    assert failed.returncode == 125
    assert "running a container is not supported here" in failed.stderr


KILLED = """#!/bin/sh
case " $* " in *" run "*)
  if [ "$(wc -l <{count})" -lt {times} ]; then echo killed >>{count}; kill -KILL $$; fi
esac
exec {real} "$@"
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize(("times", "codes"), [(1, [0, 0]), (2, [125, 0])], ids=["once", "twice"])
def test_killed_attempt_at_a_container_is_not_remembered(
    state: Path, tmp_path: Path, runtime: str, times: int, codes: list[int]
) -> None:
    count, script = tmp_path / "count", tmp_path / runtime
    count.touch()
    real = find(runtime)
    script.write_text(KILLED.format(count=count, times=times, real=real))
    script.chmod(0o755)
    longshore = Longshore(state, str(script))
    assert [longshore("run", "host", "--", "true").returncode for _ in codes] == codes
    assert count.read_text().splitlines() == ["killed"] * times
