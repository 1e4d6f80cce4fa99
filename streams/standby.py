"""another worker's changelog -> a warm copy of its store here, so that taking its task over takes milliseconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from streams.errors import LogMismatch
from streams.log import Log
from streams.metrics import Metrics
from streams.restore import Restore
from streams.store import Store
from streams.topology import Group

log = logging.getLogger(__name__)

#: How far a standby may be behind, in time; it costs one look at the end of each changelog.
LOOK_EVERY_S = 1.0


class Standby:
    """Follows the changelogs of one task. It never writes to the log and never answers reads."""

    def __init__(
        self, group: Group, partition: int, log_: Log, open_store: Callable[[], Store], metrics: Metrics
    ) -> None:
        self.group, self.partition = group, partition
        self._log, self._open_store, self._metrics = log_, open_store, metrics

    async def run(self) -> None:
        """Follow until cancelled, then let go of the store, so that the task can open it."""
        store = self._open_store()
        try:
            await self._identify(store)
            while True:
                await Restore(self._log, store, self.group, self.partition, self._metrics).run()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            store.close()

    async def _identify(self, store: Store) -> None:
        """Wait for the changelogs' identities and hold on to them. Raises LogMismatch for a store of another changelog."""
        for name, tp in self.group.changelogs(self.partition).items():
            while (first := await self._log.first(tp)) is None:
                await asyncio.sleep(LOOK_EVERY_S)
            held = store.identity(name)
            if held is None and first.value is not None:
                store.identify(name, first.value)
            elif held != first.value:
                raise LogMismatch(f"the standby of {self.group.name}-{self.partition} was built from another changelog")
