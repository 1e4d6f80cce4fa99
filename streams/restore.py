"""changelog partitions -> a store brought forward to their end; the same for a task's own store and for a standby."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

from streams.errors import LogMismatch
from streams.log import Log, Transactions
from streams.metrics import Metrics
from streams.records import Outgoing
from streams.store import IDENTITY, Store
from streams.topology import Group

log = logging.getLogger(__name__)

#: How often a long restore says where it stands.
REPORT_EVERY_S = 5.0


class Restore:
    """Copies raw bytes; nothing is decoded. Each changelog family is brought forward from its own position."""

    def __init__(self, log_: Log, store: Store, group: Group, partition: int, metrics: Metrics) -> None:
        self._log, self._store, self._group, self._partition = log_, store, group, partition
        self._metrics = metrics
        self.remaining = 0
        self.copied = 0

    async def run(self, still_wanted: Callable[[], bool] = lambda: True) -> None:
        """Bring every family to the end that the changelog has now. Raises LogMismatch when it is another changelog."""
        begun = time.monotonic()
        ends = {name: (tp, await self._log.end(tp)) for name, tp in self._group.changelogs(self._partition).items()}
        self.copied, self.remaining = (
            0,
            sum(max(0, end - self._store.position(name)) for name, (_, end) in ends.items()),
        )
        gauge = self._metrics.restore_remaining.labels(self._group.name, str(self._partition))
        reported = begun
        for name, (tp, end) in ends.items():
            start = self._store.position(name)
            if start > end:
                raise LogMismatch(
                    f"the store of {self._group.name}-{self._partition} is at {tp.topic}-{tp.partition}-{start}, but that"
                    f" changelog ends at {end}: it was deleted or re-created. {MEND}"
                )
            async for records, reached in self._log.read(tp, start, end):
                self._store.apply(
                    {name: {r.key: r.value for r in records if r.key not in (None, IDENTITY)}}, {name: reached}
                )  # type: ignore[misc]
                self.copied += len(records)
                self.remaining = max(0, self.remaining - (reached - start))
                start = reached
                gauge.set(self.remaining)
                self._metrics.restore_records.inc(len(records))
                if (now := time.monotonic()) - reported > REPORT_EVERY_S:
                    reported = now
                    self._report(now - begun)
                if not still_wanted():
                    return
                await asyncio.sleep(0)
            if self._store.position(name) < end:
                self._store.apply({}, {name: end})
        gauge.set(0)
        self._metrics.restore_seconds.observe(time.monotonic() - begun)

    def _report(self, seconds: float) -> None:
        rate = self.copied / seconds
        log.warning(
            "restoring %s-%d: %d records copied, %d to go, %.0f/s, about %.0f s left",
            self._group.name,
            self._partition,
            self.copied,
            self.remaining,
            rate,
            self.remaining / max(rate, 1),
        )


MEND = (
    "If the topic is gone for good, stop all workers, run `faust -A app topics create`, and start the workers on an empty"
    " data directory after resetting the group's offsets (docs/operating.md, lost topics); nothing is rebuilt silently"
)


async def verify_identity(
    log_: Log, producer: Transactions, store: Store, group: Group, partition: int, began: bool
) -> None:
    """Make sure that the store and the changelogs belong together.

    The first record of each changelog partition is its identity, written once, by the first owner ever. A store keeps
    the identity that it was built from. `began`: the group has committed offsets for this task, so that a changelog
    without any identity was lost. Raises LogMismatch.
    """
    for name, tp in group.changelogs(partition).items():
        first = await log_.first(tp)
        held = store.identity(name)
        if first is None:
            if held is not None or began:
                raise LogMismatch(
                    f"changelog {tp.topic}-{tp.partition} is empty, though this task has processed records before. {MEND}"
                )
            identity = uuid.uuid4().hex.encode()
            await producer.begin()
            await producer.send({tp: [Outgoing(0, IDENTITY, identity)]})
            await producer.commit()
            store.identify(name, identity)
            continue
        if first.key != IDENTITY or first.value is None:
            raise LogMismatch(
                f"changelog {tp.topic}-{tp.partition} does not begin with its identity but with the record at offset"
                f" {first.offset}: its beginning was deleted, or something else wrote to it. {MEND}"
            )
        if held is None and store.position(name) == 0:
            store.identify(name, first.value)
        elif held != first.value:
            raise LogMismatch(
                f"the store of {group.name}-{partition} was built from another changelog than {tp.topic}-{tp.partition}"
                f" is now: the topic was re-created. {MEND}"
            )
