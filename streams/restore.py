"""changelog partitions -> a store brought forward to their end; the same for a task's own store and for a standby."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping, Sequence

from streams.clock import Clock
from streams.errors import LogMismatch
from streams.log import Extent, Log
from streams.metrics import Metrics
from streams.records import Record, TopicPartition
from streams.store import IDENTITY, Store
from streams.topology import Group, task_name

log = logging.getLogger(__name__)

#: The cleaner takes a deletion out of a changelog this long after it has seen it (set on every changelog, see app.py).
KEEP_DELETIONS_MS = 24 * 3600 * 1000
#: A store that has missed more than this may have missed deletions that are gone. Half of it is leeway for clocks.
MOST_MISSED_MS = KEEP_DELETIONS_MS // 2

#: Whoever writes to a changelog adds a record and the marker of its transaction at least. What is behind by less has
#: missed nothing but the marker of its own last transaction, however long ago that was.
NOTHING_MISSED = 1

#: A restore of so many records is written to disk at its end: whoever is killed now copies none of it again.
KEPT_RECORDS = 5_000
#: How often a long restore says where it stands.
REPORT_EVERY_S = 5.0

MEND = (
    "Nothing is rebuilt silently. If the topic can be brought back (a mirror, a backup), bring it back and start again;"
    " otherwise stop all workers and run `faust -A app replay`: the tables are then built anew from the input topics."
)

ADOPT = "If it is new to this application, or its loss is accepted: `faust -A app topics adopt {topic}`."


class _MissedTooMuch(Exception):
    """A family has been left alone for so long that deletions may be gone: what comes next must not be copied."""


class Restore:
    """Copies raw bytes; nothing is decoded. Each family is brought forward from its own position.

    A family that has fallen far behind is emptied first. A changelog keeps deletions for a day only, so what is missing
    from it then is no longer told from what was never deleted: old rows would stay for ever (found by the simulation).
    It is looked at before each piece: a worker that was asleep for a day goes on in the middle of its reading.
    """

    def __init__(self, log_: Log, store: Store, group: Group, partition: int, clock: Clock, metrics: Metrics) -> None:
        self._log, self._store, self._clock, self._metrics = log_, store, clock, metrics
        self._name = task_name(group.name, partition)
        self._families = {tp: name for name, tp in group.changelogs(partition).items()}
        self._current_at_ms = dict.fromkeys(self._families, 0)
        self._gauge = metrics.restore_remaining.labels(group.name, str(partition))
        self.remaining = 0

    async def run(self, extents: Mapping[TopicPartition, Extent]) -> None:
        """Bring every family to the end of its changelog: `extents`, surveyed just now.

        Raises LogMismatch when the store is ahead of it.
        """
        while True:
            with contextlib.suppress(_MissedTooMuch):
                return await self._run(extents)

    async def _run(self, extents: Mapping[TopicPartition, Extent]) -> None:
        begun, begun_at_ms = time.monotonic(), self._clock.now_ms()
        reported = begun
        starts = {tp: self._store.position(name) for tp, name in self._families.items()}
        ends = {tp: extents[tp].end for tp in starts}
        for tp, start in starts.items():
            if start > ends[tp]:
                raise LogMismatch(
                    f"the store of {self._name} is at {tp.topic}-{tp.partition}-{start}, but that changelog ends at"
                    f" {ends[tp]}: it was deleted or re-created. {MEND}"
                )
            if start < ends[tp]:
                starts[tp] = self._begin(tp, start, ends[tp], begun_at_ms)
        self.remaining = total = sum(ends[tp] - start for tp, start in starts.items())
        async for tp, records, reached in self._log.read(starts, ends):
            self.remaining -= reached - starts[tp]
            starts[tp] = reached
            self.copy(tp, records, reached)
            self._gauge.set(max(0, self.remaining))
            if (now := time.monotonic()) - reported > REPORT_EVERY_S:
                reported = now
                self._report(total, now - begun)
            await asyncio.sleep(0)
        # Whatever stands behind these ends was written after `begun_at_ms`.
        self._store.apply({}, {self._families[tp]: end for tp, end in ends.items()}, begun_at_ms)
        if total >= KEPT_RECORDS:
            self._store.flush()
        self.remaining = 0
        self._gauge.set(0)
        self._metrics.restore_seconds.observe(time.monotonic() - begun)
        if total:
            log.info("restored %s: %d records in %.2f s", self._name, total, time.monotonic() - begun)

    def _begin(self, tp: TopicPartition, start: int, end: int, now_ms: int) -> int:
        """Where to copy from. On the way the family is as current as it was when it was last at an end.

        A family that begins empty is as current as its beginning: what it reads was not cleaned before it was read.
        """
        family = self._families[tp]
        current_at_ms = self._store.current_at_ms(family)
        if start > 0 and end - start <= NOTHING_MISSED:
            current_at_ms = now_ms
        if start > 0 and self._missed_too_much(current_at_ms):
            log.warning(
                "%s of %s has missed too much of its changelog (more than %d h): it is copied from the beginning",
                family,
                self._name,
                MOST_MISSED_MS // 3_600_000,
            )
            self._store.empty(family)
            start = 0
        self._current_at_ms[tp] = current_at_ms if start > 0 else now_ms
        return start

    async def follow(self) -> None:
        """Copy what arrives, after `run`: a standby. It is as current as when it was last run.

        Returns when too much time has passed since then: `run` it again.
        """
        now_ms = self._clock.now_ms()
        self._current_at_ms = {tp: self._store.current_at_ms(name) or now_ms for tp, name in self._families.items()}
        starts = {tp: self._store.position(name) for tp, name in self._families.items()}
        with contextlib.suppress(_MissedTooMuch):
            async for tp, records, reached in self._log.read(starts, None):
                self.copy(tp, records, reached)

    def copy(self, tp: TopicPartition, records: Sequence[Record], reached: int) -> None:
        if self._missed_too_much(self._current_at_ms[tp]):
            raise _MissedTooMuch
        family = self._families[tp]
        rows = {record.key: record.value for record in records if record.key is not None and record.key != IDENTITY}
        self._store.apply({family: rows}, {family: reached}, self._current_at_ms[tp])
        self._metrics.restore_records.inc(len(records))

    def _missed_too_much(self, current_at_ms: int) -> bool:
        return abs(self._clock.now_ms() - current_at_ms) > MOST_MISSED_MS

    def _report(self, total: int, seconds: float) -> None:
        rate = (total - self.remaining) / seconds
        log.warning(
            "restoring %s: %d of %d records, %.0f/s, about %.0f s left",
            self._name,
            total - self.remaining,
            total,
            rate,
            self.remaining / max(rate, 1),
        )


def verify_identities(
    extents: Mapping[TopicPartition, Extent], store: Store, group: Group, partition: int, began: bool
) -> dict[str, bytes]:
    """Make sure that the store and the changelogs belong together; gives the identities that are still to be written.

    The first record of each changelog partition is its identity, written once, by its first owner ever, in the
    transaction that commits the first offsets. A store keeps the identity that it was built from. `began`: the group
    has committed offsets for this task, so a changelog without any identity was lost. Raises LogMismatch.
    """
    fresh: dict[str, bytes] = {}
    for name, tp in group.changelogs(partition).items():
        first = extents[tp].first
        if first is not None:
            hold_identity(store, name, tp, first)
        elif began or store.identity(name) is not None:
            raise LogMismatch(
                f"changelog {tp.topic}-{tp.partition} is empty, though {task_name(group.name, partition)} has processed"
                f" records before: the topic was lost or re-created. {MEND} {ADOPT.format(topic=tp.topic)}"
            )
        else:
            fresh[name] = uuid.uuid4().hex.encode()
    return fresh


def require_settled(task: str, extents: Mapping[TopicPartition, Extent]) -> None:
    """Raise LogMismatch for a partition of this task that an open transaction keeps from being read to its end.

    Asked after InitProducerId: nothing of this task can be open then, and nobody else writes to these partitions. Read
    as far as it is stable, the store would be brought to an older state and written on from there.
    """
    for tp, (_, end, high) in extents.items():
        if high is not None and high > end:
            name = f"{tp.topic}-{tp.partition}"
            raise LogMismatch(
                f"{name} can be read up to {end} only, though it ends at {high}: a transaction that nobody will end"
                f" keeps the records behind it from {task}, which must not go on from an older state. End it with"
                f" Kafka's own tool, and start again: `kafka-transactions.sh --bootstrap-server ... abort --topic"
                f" {tp.topic} --partition {tp.partition} --start-offset {end}`. If that finds no open transaction, the"
                " leader of the partition was behind, and a new start is enough"
            )


def hold_identity(store: Store, family: str, tp: TopicPartition, first: Record) -> None:
    """Keep the changelog's identity in an empty store; compare it with that of a store that has one."""
    if first.key != IDENTITY or first.value is None:
        raise LogMismatch(
            f"changelog {tp.topic}-{tp.partition} does not begin with its identity but with the record at offset"
            f" {first.offset}: its beginning was deleted, or something else wrote to it. {MEND}"
        )
    held = store.identity(family)
    if held is None and store.position(family) == 0:
        store.identify(family, first.value)
    elif held != first.value:
        raise LogMismatch(
            f"the local store was built from another changelog than {tp.topic}-{tp.partition} is now: the topic was"
            f" re-created. {MEND}"
        )
