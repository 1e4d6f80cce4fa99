"""Restores that sleep for more than a day, and those that are killed after it -> no old row stays, none comes twice."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from streams.clock import ManualClock
from streams.log import Extent
from streams.metrics import Metrics
from streams.records import Record, TopicPartition
from streams.restore import KEEP_DELETIONS_MS, KEPT_RECORDS, Restore
from streams.store import IDENTITY, Memory, MemoryStore, RocksStore
from streams.table import Table
from streams.topology import Group
from tests.waiting import until

CHANGELOG = TopicPartition("app-t-changelog", 0)
END = 10


def record(offset: int, key: bytes, value: bytes) -> Record:
    return cast(Record, SimpleNamespace(offset=offset, key=key, value=value))


class SleepyLog:
    """Offset 2 wrote a row and offset 5 deleted it. The reader falls asleep between the two, for more than a day."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock, self._slept = clock, False

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int] | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        if ends == {CHANGELOG: 0}:
            return
        if starts[CHANGELOG] == 0:
            row = [] if self._slept else [record(2, b"k", b"old")]
            yield CHANGELOG, [record(0, IDENTITY, b"id"), *row], 3
        if not self._slept:
            self._slept = True
            self._clock.advance(KEEP_DELETIONS_MS + 1)
        yield CHANGELOG, [], END


def make_group() -> Group:
    return Group("g", "app", tables={"t": Table[Any]("app", "t", group="g", value_type=bytes)})


def make_restore() -> tuple[Restore, MemoryStore]:
    clock, store = ManualClock(), MemoryStore()
    log = cast(Any, SleepyLog(clock))
    return Restore(log, store, make_group(), 0, clock, Metrics()), store


async def test_one_that_wakes_up_while_it_reads_begins_anew() -> None:
    restore, store = make_restore()
    await restore.run({CHANGELOG: Extent(record(0, IDENTITY, b"id"), END)})
    assert (store.get("t", b"k"), store.position("t")) == (None, END)


async def test_a_standby_that_wakes_up_copies_nothing_more_until_it_is_run_again() -> None:
    """Found by the simulation, seed 216614: its next piece came from behind the deletions."""
    restore, store = make_restore()
    await restore.run({CHANGELOG: Extent(record(0, IDENTITY, b"id"), 0)})
    await restore.follow()
    assert (store.get("t", b"k"), store.position("t")) == (b"old", 3), "as it was, and it is known to be behind"
    await restore.run({CHANGELOG: Extent(record(0, IDENTITY, b"id"), END)})
    assert (store.get("t", b"k"), store.position("t")) == (None, END)


class LongLog:
    """So many rows, in one piece."""

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        end = ends[CHANGELOG]
        yield CHANGELOG, [record(offset, b"k%06d" % offset, b"row") for offset in range(starts[CHANGELOG], end)], end


async def test_what_a_long_one_copied_outlives_kill_9(tmp_path: Path) -> None:
    """The folder as it is while the store is open: what a process that is killed would leave behind."""
    store = RocksStore(tmp_path / "live", ["t"], Memory(1 << 20, 64 << 20))
    restore = Restore(cast(Any, LongLog()), store, make_group(), 0, ManualClock(), Metrics())
    await restore.run({CHANGELOG: Extent(record(0, IDENTITY, b"id"), KEPT_RECORDS)})

    def left_behind() -> int:
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
        found = RocksStore(tmp_path / "killed", ["t"], Memory(1 << 20, 64 << 20), read_only=True)
        try:
            return found.position("t")
        finally:
            found.abandon()

    await until(lambda: left_behind() == KEPT_RECORDS)
    store.close()
