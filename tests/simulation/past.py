"""a history's log at rest -> every task taken through its past once more, from nothing, on a disk of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from streams.clock import Clock
from streams.driver import MemoryLog, MemoryTransactions
from streams.journal import REPLAY, Boundary
from streams.log import Extent, Offsets
from streams.metrics import Metrics
from streams.records import Record, StoredRecord, TopicPartition
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.task import Task, TaskState
from streams.topology import Group
from tests.simulation.cluster import Cluster


class PastLog:
    """What `reset` leaves of a task: inputs and the journal as they are, a boundary, an empty changelog.

    It is read only: what the replay writes goes to a log in memory, and `sent` has the topics.
    """

    markers = 0

    def __init__(self, cluster: Cluster, group: Group, partition: int) -> None:
        self._cluster, self._fresh = cluster, MemoryLog()
        self._inputs, self._journal = group.inputs(partition), group.journal(partition)
        self._cursor: dict[TopicPartition, int] = dict.fromkeys(self._inputs, 0)
        boundary = Boundary({tp.topic: cluster.committed.get(tp, 0) for tp in self._inputs})
        self._end = cluster.at(self._journal).stable
        self._boundary = StoredRecord(self._journal.topic, partition, self._end, 0, REPLAY, boundary.encode())
        self._own = {self._journal, *group.changelogs(partition).values()}

    @property
    def sent(self) -> set[str]:
        """Topics that were written to though nobody asked for it."""
        return {tp.topic for tp, records in self._fresh.topics.items() if records and tp not in self._own}

    def transactions(self, transactional_id: str) -> MemoryTransactions:
        return MemoryTransactions(self._fresh, transactional_id)

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._fresh.committed(partitions)

    async def foreign(self, partitions: Sequence[TopicPartition]) -> set[TopicPartition]:
        return set()

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return {tp: (0, self._cluster.at(tp).stable) for tp in partitions}

    async def fetch(
        self, partitions: Sequence[TopicPartition], max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        fetched = {}
        for tp in partitions:
            fetched[tp], self._cursor[tp] = self._cluster.at(tp).read(self._cursor[tp], max_records)
        return fetched

    def seek(self, offsets: Offsets) -> None:
        self._cursor.update(offsets)

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        extents = await self._fresh.survey(partitions)
        if self._journal in extents:
            first = next(iter(self._cluster.at(self._journal).read(0, 1)[0]), None)
            extents[self._journal] = Extent(first, self._end + 1)
        return extents

    async def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        start = starts.get(self._journal)
        if start is None:
            async for piece in self._fresh.read(starts, ends):
                yield piece
            return
        while start < self._end:
            records, start = self._cluster.at(self._journal).read(start, 7, self._end)
            yield self._journal, records, start
        yield self._journal, [self._boundary], self._end + 1


async def repeated(
    cluster: Cluster, group: Group, partition: int, settings: EngineSettings, clock: Clock
) -> tuple[MemoryStore, set[str]] | None:
    """The store that a replay of this task leads to, and the topics that it wrote to; None when it never began."""
    if not cluster.at(group.journal(partition)).read(0, 1)[0]:
        return None
    store, log = MemoryStore(), PastLog(cluster, group, partition)
    task = Task(group, partition, log, lambda: store, settings, clock, Metrics())
    try:
        await task.open()
        while task.state is TaskState.REPLAYING:
            if await task.step(0.0) == 0 and task.state is TaskState.REPLAYING:
                raise AssertionError(f"the replay of {task.name} stands still with {task.remaining} records to go")
    finally:
        await task.close()
    return store, log.sent
