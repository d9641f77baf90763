"""longshore in a chroot: containers are walled in all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PROGRAM = """
import asyncio, os, sys
root, state, runtime, *path = sys.argv[1:]
sys.path[:0] = path
import longshore.oci.service, longshore.simulator, encodings.idna
from longshore import Engine
os.chroot(root)
os.chdir("/")

async def main():
    async with Engine(state=state, runtime=runtime) as engine:
        box = await engine.launch("box", root="host", args=["sleep", "infinity"], user="root", owner="remove")
        direct = await engine.launch(
            "direct", root="host", args=["sleep", "infinity"], user="root", owner="remove", stdout=-3, stderr=-3
        )
        for each in (box, direct):
            shell = await each.exec(["ls", "-a", "/", "/srv"])
            out, err = await shell.communicate()
            print(shell.returncode, *sorted(out.decode().split()), err.decode())

asyncio.run(main())
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_an_exec_in_a_container_that_was_made_in_a_chroot_stays_inside(tmp_path: Path, runtime: str) -> None:
    """Joining a container's mount namespace leads to the root of the namespace, whatever the container's root is."""
    root = tmp_path / "root"
    secret = "marker-of-the-machine"
    script = textwrap.dedent(f"""
        set -e
        mkdir -p {root}
        mount --bind / {root}          # a chroot that looks like the machine, but is not its root
        mount -t tmpfs tmpfs {root}/home
        touch {root}/home/inside-the-chroot
        mount --rbind /proc {root}/proc
        mount --rbind /sys {root}/sys
        mount --rbind /dev {root}/dev
        mount -t tmpfs tmpfs {root}/mnt
        mkdir {root}/mnt/state
        mount -t tmpfs tmpfs /srv      # the machine's own, which the chroot does not show
        touch /srv/{secret}
        exec {sys.executable} -c "$PROGRAM" {root} /mnt/state {runtime} {" ".join(filter(None, sys.path))}
    """)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", "bash", "-c", script],
        env=os.environ | {"PROGRAM": PROGRAM},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "0"]
    assert secret not in done.stdout
    assert "usr" in lines[0].split()
