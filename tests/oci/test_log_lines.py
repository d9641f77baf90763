"""What `logs` gives of real programs: lines, however they were written; pieces where those are asked for."""

from __future__ import annotations

import pytest

from longshore.engine.engine import Engine
from longshore.logs.reader import LogRecord

pytestmark = pytest.mark.real


async def test_a_program_that_does_not_buffer_is_read_line_by_line(engine: Engine) -> None:
    script = """if True:
        import sys, time
        for i in range(3):
            for text in ("tick", " ", str(i), "\\n"):
                sys.stdout.write(text)
                time.sleep(0.02)  # so that the monitor reads each by itself
            print("tock", i, file=sys.stderr)
        sys.stdout.write("end")
        """
    box = await engine.launch("box", root="host", args=["python3", "-Su", "-c", script], owner="remove")
    followed = [record async for record in box.logs(follow=True) if isinstance(record, LogRecord)]
    for records in (followed, [record async for record in box.logs() if isinstance(record, LogRecord)]):
        text = [record.data for record in records if record.stream == "stdout"]
        assert text == [b"tick 0\n", b"tick 1\n", b"tick 2\n", b"end"]
        assert [record.data for record in records if record.stream == "stderr"] == [b"tock %d\n" % i for i in range(3)]
        assert all(record.at.tzinfo and record.nanoseconds // 1000 == record.at.microsecond for record in records)
    pieces = [record.data async for record in box.logs(pieces=True) if isinstance(record, LogRecord)]
    assert len(pieces) > 7
    assert sorted(b"".join(pieces)) == sorted(b"".join(record.data for record in followed))
    assert [record.data async for record in box.logs(tail=1) if isinstance(record, LogRecord)] in (
        [b"end"],
        [b"tock 2\n"],
    )


async def test_a_line_of_many_megabytes_arrives_in_bounded_parts(engine: Engine) -> None:
    command = ["sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x"]
    box = await engine.launch("box", root="host", args=command, owner="remove", log_size="1g")
    records = [record async for record in box.logs(follow=True) if isinstance(record, LogRecord)]
    assert sum(len(record.data) for record in records) == 30_000_000
    assert max(len(record.data) for record in records) <= 1 << 20
    assert len(records) <= 30
