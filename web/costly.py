"""Lets one costly read at a time have the event loop, so that the engine and cheap requests keep their share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streams.errors import NotReadable

#: A read shorter than this is followed by the next at once: a pause would cost more than it gives.
LEAST_S = 0.002


class CostlyReads:
    """Turns for reads of many rows. A read that took long is followed by a pause as long, for everything else.

    A read is a piece of work without a wait in it. Without turns, all that are ready run one after the other before
    the event loop looks at anything else: forty lists at once took it for seconds.
    """

    def __init__(self, waiting: int) -> None:
        """`waiting`: the most that may wait for their turn."""
        self._most, self._waiting = waiting, 0
        self._turn = asyncio.Semaphore(1)

    @asynccontextmanager
    async def turn(self, wait_s: float) -> AsyncIterator[None]:
        """Hold the turn. Raises NotReadable when too many wait, and when it does not come within `wait_s`."""
        if self._waiting >= self._most:
            raise NotReadable(f"{self._most} reads of many rows wait for this worker already")
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._turn.acquire()
        except TimeoutError:
            raise NotReadable("other reads of many rows keep this worker busy") from None
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            took_s = loop.time() - began
            if took_s < LEAST_S:
                self._turn.release()
            else:
                loop.call_later(took_s, self._turn.release)
