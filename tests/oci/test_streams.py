"""Streams that the caller gives: files stay whose they are, whatever the runtime does with them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from longshore.compute import DEVNULL
from longshore.engine import Engine
from longshore.errors import InvalidSpec

pytestmark = pytest.mark.real


@pytest.mark.parametrize("verb", ["run", "exec"])
async def test_a_file_given_as_a_stream_keeps_its_owner_and_what_was_given_to_read_is_not_written(
    engine: Engine, tmp_path: Path, verb: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("skipped\nread\n")
    source.chmod(0o640)
    target.touch()
    os.chown(target, 1234, 1234)
    command = ["sh", "-c", "cat; (echo overwritten >/proc/self/fd/0) 2>/dev/null; (chmod 777 /proc/self/fd/1) 2>&1"]
    given, taken = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
    os.lseek(given, len("skipped\n"), os.SEEK_SET)
    try:
        if verb == "run":
            await engine.run("host", command, stdin=given, stdout=taken, stderr=DEVNULL)
        else:
            box = await engine.launch("box", root="host", args=["sleep", "infinity"], owner="remove")
            await (await box.exec(command, stdin=given, stdout=taken, stderr=DEVNULL)).wait()
    finally:
        os.close(given)
        os.close(taken)
    assert source.read_text() == "skipped\nread\n"
    assert target.read_text().startswith("read\n")
    for path, owner, mode in ((source, 0, 0o640), (target, 1234, 0o644)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (owner, owner, mode), path


async def test_the_machines_null_device_stays_its_own_when_it_is_given(engine: Engine) -> None:
    before = os.stat(os.devnull)
    with open(os.devnull, "r+b", buffering=0) as null:
        await engine.run("host", ["sh", "-c", "chmod 600 /proc/self/fd/0"], stdin=null.fileno(), stdout=null.fileno())
    after = os.stat(os.devnull)
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


async def test_a_descriptor_that_is_not_open_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidSpec) as caught:
        await engine.run("host", ["true"], stdin=99_999)
    assert caught.value.field == "stdin"
