"""a keyring in a worker -> read whole at the start, looked at twice an hour, its topic kept going to be compacted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from mode import Service
from prometheus_client import CollectorRegistry, Gauge

from schemas.topics import CUSTOMER_KEYS
from tables.keys import Keyring

log = logging.getLogger(__name__)

#: Twice in the time after which a segment is old: the second closes what the first has begun.
TICK_S = (CUSTOMER_KEYS.compact_within_ms or 0) / 1000 / 2
AGAIN_S = 5.0


class Keeper(Service):
    """Reads all keys before the first request needs one; ends with the worker. Raises nothing into it."""

    def __init__(
        self,
        keyring: Keyring,
        registry: CollectorRegistry,
        tick_s: float = TICK_S,
        again_s: float = AGAIN_S,
        **kwargs: Any,
    ) -> None:
        self._keyring, self._tick_s, self._again_s = keyring, tick_s, again_s
        self._running: asyncio.Task[None] | None = None
        known = Gauge("orderstream_customer_keys", "Keys of customers that this worker knows.", registry=registry)
        known.set_function(lambda: len(keyring))
        super().__init__(**kwargs)

    async def on_start(self) -> None:
        self._running = asyncio.create_task(self._run(), name="customers' keys")

    async def _run(self) -> None:
        while True:
            try:
                await self._keyring.look()
                if self._keyring.strange:
                    log.warning("%s: %d records are no keys", CUSTOMER_KEYS.name, self._keyring.strange)
                await self._keyring.tick()
                wait_s = self._tick_s
            except Exception as error:  # a worker that has just started is not connected yet
                log.info("%s: %s; trying again", CUSTOMER_KEYS.name, error)
                wait_s = self._again_s
            await asyncio.sleep(wait_s)

    async def on_stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._keyring.close()
