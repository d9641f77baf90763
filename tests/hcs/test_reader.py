"""The reader past whose buffer output goes: each byte once and in order, whoever waits, and whoever stops waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from longshore.aio.streams import PushReader


async def turn() -> None:
    await asyncio.sleep(0)


async def test_what_comes_while_somebody_waits_is_handed_over_as_it_is() -> None:
    reader = PushReader()
    waiting = asyncio.ensure_future(reader.read(100))
    await turn()
    data = b"piece"
    reader.feed_data(data)
    assert await waiting is data


async def test_more_than_was_asked_for_is_kept_for_the_next() -> None:
    reader = PushReader()
    waiting = asyncio.ensure_future(reader.read(3))
    await turn()
    reader.feed_data(b"abcdef")
    reader.feed_data(b"gh\n")
    reader.feed_eof()
    assert await waiting == b"abc"
    assert await reader.readline() == b"defgh\n"
    assert await reader.read(9) == b""
    assert reader.at_eof()


async def test_who_stops_waiting_just_when_it_comes_loses_nothing() -> None:
    reader = PushReader()
    waiting = asyncio.ensure_future(reader.read(100))
    await turn()
    reader.feed_data(b"one ")
    waiting.cancel()
    reader.feed_data(b"two")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    reader.feed_eof()
    assert await reader.read() == b"one two"


async def test_the_end_and_a_failure_wake_who_waits() -> None:
    acts: list[tuple[Callable[[PushReader], None], object]] = [
        (lambda reader: reader.feed_eof(), b""),
        (lambda reader: reader.set_exception(OSError("gone")), OSError),
    ]
    for act, expected in acts:
        reader = PushReader()
        waiting = asyncio.ensure_future(reader.read(100))
        await turn()
        act(reader)
        if expected is OSError:
            with pytest.raises(OSError, match="gone"):
                await waiting
        else:
            assert await waiting == expected


@pytest.mark.parametrize("seed", range(20))
async def test_a_stream_read_in_every_way_arrives_whole(seed: int) -> None:
    chance = random.Random(seed)
    reader = PushReader(limit=1 << 10)
    sent, got = bytearray(), bytearray()

    async def feed() -> None:
        for _ in range(300):
            data = bytes(chance.choices(b"ab\n", k=chance.randrange(1, 50)))
            sent.extend(data)
            reader.feed_data(data)
            if chance.random() < 0.5:
                await turn()
        reader.feed_eof()

    async def take() -> None:
        while not reader.at_eof():
            way = chance.random()
            if way < 0.3:
                got.extend(await reader.readline())
            elif way < 0.6:
                reading = asyncio.ensure_future(reader.read(chance.randrange(1, 60)))
                for _ in range(chance.randrange(3)):
                    await turn()
                reading.cancel()
                try:
                    got.extend(await reading)
                except asyncio.CancelledError:
                    pass
            else:
                got.extend(await reader.read(chance.randrange(1, 60)))

    await asyncio.gather(feed(), take())
    assert got == sent
