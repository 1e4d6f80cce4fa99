"""another worker's changelogs -> a warm copy of its store here, so that taking its task over takes milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from streams.clock import Clock
from streams.log import Log
from streams.metrics import Metrics
from streams.restore import Restore, hold_identity
from streams.store import Store
from streams.topology import Group

#: A changelog that has no identity yet is looked at this often: its first owner is about to write it.
LOOK_EVERY_S = 1.0
#: Where another version of the application is at work, nothing is written for long; what was is copied this often.
NOW_AND_THEN_S = 10.0
#: A standby that follows is at the end nearly always, but only a catch-up with a known end proves it to the store.
CATCH_UP_S = 3600.0


class Standby:
    """Follows the changelogs of one task. It never writes to the log and never answers reads."""

    def __init__(
        self,
        group: Group,
        partition: int,
        log_: Log,
        open_store: Callable[[], Store],
        clock: Clock,
        metrics: Metrics,
        follow: bool = True,
    ) -> None:
        """`follow`: copy what arrives as it arrives, and not now and then."""
        self._group, self._partition, self._follow = group, partition, follow
        self._log, self._open_store, self._clock, self._metrics = log_, open_store, clock, metrics

    async def run(self) -> None:
        """Follow until cancelled, then let go of the store, so that the task can open it.

        Raises LogMismatch when the store was built from other changelogs.
        """
        changelogs = self._group.changelogs(self._partition)
        store = self._open_store()
        try:
            extents = await self._log.survey(list(changelogs.values()))
            while any(extent.first is None for extent in extents.values()):
                await asyncio.sleep(LOOK_EVERY_S if self._follow else NOW_AND_THEN_S)
                extents = await self._log.survey(list(changelogs.values()))
            for name, tp in changelogs.items():
                first = extents[tp].first
                assert first is not None  # the loop above waited for it
                hold_identity(store, name, tp, first)
            restore = Restore(self._log, store, self._group, self._partition, self._clock, self._metrics)
            while True:
                await restore.run(await self._log.survey(list(changelogs.values())))
                if not self._follow:
                    await asyncio.sleep(NOW_AND_THEN_S)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CATCH_UP_S):
                        await restore.follow()
        finally:
            store.close()
