"""The descriptors of this program: nothing is begun that could not be ended for lack of them.

A program that has run out of descriptors cannot learn how its containers end, nor record it, nor delete them. So what
would begin something new is refused while there are still enough for all that is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from ..errors import DescriptorLimit
from ..fs.files import descriptors

START = 34  # open at once while a container or a process is started: three streams of the caller's, twelve cgroups
END = 8  # while one is deleted
VIEW = 4  # of a log, for as long as somebody reads it
RESERVE = 24  # never given away: for the short work on files, and for what else the program does


class Descriptors:
    """`ends` counts what is watched and will need one more descriptor, at its end."""

    def __init__(self, ends: Callable[[], int]) -> None:
        self._ends = ends
        self._promised = 0  # to those who are at work; some of it is open already
        self._queue = asyncio.Lock()  # the first in it waits for room, the others for their turn
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def starting(self, what: str) -> AsyncIterator[None]:
        """Room for beginning something new. While others are at work it waits for theirs; then DescriptorLimit."""
        async with self._queue:
            while (lack := self._lack(START)) is not None:
                if not self._promised:
                    raise DescriptorLimit(what, *lack)
                await self._one_given_back()
            self._promised += START
        with self._giving_back(START):
            yield

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Room for deleting something: it waits, while others are at work, and is never refused."""
        async with self._queue:
            while self._lack(END) is not None and self._promised:
                await self._one_given_back()
            self._promised += END
        with self._giving_back(END):
            yield

    def check_view(self, what: str) -> None:
        """DescriptorLimit if there are too few for one more view of a log."""
        lack = self._lack(VIEW)
        if lack is not None:
            raise DescriptorLimit(what, *lack)

    def _lack(self, wanted: int) -> tuple[int, int] | None:
        """How many there are, and how many may be: where that is too little for this as well."""
        found = descriptors()
        if found is None:
            return None
        used, limit = found
        return found if used + self._promised + self._ends() + wanted + RESERVE > limit else None

    async def _one_given_back(self) -> None:
        self._given_back.clear()
        await self._given_back.wait()

    @contextmanager
    def _giving_back(self, number: int) -> Iterator[None]:
        try:
            yield
        finally:
            self._promised -= number
            self._given_back.set()
