"""an application's topology -> the real task loop over a log in memory, with time moved by hand (for tests).

As Kafka Streams' TopologyTestDriver: no broker, no threads, no waiting; but the tasks, the agents, the batches, the
savepoints, the dead letters and the five steps of the commit are the ones that a worker runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from streams.app import App
from streams.batch import using
from streams.clock import ManualClock
from streams.errors import Fenced
from streams.journal import REPLAY, boundary_now
from streams.log import Extent, Offsets
from streams.metrics import Metrics
from streams.partitioner import partition_for
from streams.records import Fields, Headers, Outgoing, Position, Record, StoredRecord, TopicPartition
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.task import Task
from streams.topology import task_name


class MemoryLog:
    """Topics as lists, offsets as a dict, transactions that become visible when they commit; it is a Log.

    A transactional id that is started again fences the one before, as Kafka's epochs do.
    """

    markers = 0

    def __init__(self) -> None:
        self.topics: dict[TopicPartition, list[StoredRecord]] = defaultdict(list)
        self.offsets: dict[TopicPartition, int] = {}
        #: Where partitions begin that have lost their first records.
        self.begins: dict[TopicPartition, int] = {}
        self.epochs: dict[str, int] = defaultdict(int)
        #: Partitions whose offset was set from outside, as Kafka's own tools do.
        self.set_by_hand: set[TopicPartition] = set()
        self._cursor: dict[TopicPartition, int] = {}

    def for_another_group(self) -> MemoryLog:
        """The same topics and fences, and offsets of its own."""
        other = MemoryLog()
        other.topics, other.epochs = self.topics, self.epochs
        return other

    def append(self, partition: TopicPartition, record: Fields) -> Position:
        records = self.topics[partition]
        offset = len(records)
        records.append(StoredRecord(partition.topic, partition.partition, offset, *record))
        return Position(partition.topic, partition.partition, offset)

    def transactions(self, transactional_id: str) -> MemoryTransactions:
        return MemoryTransactions(self, transactional_id)

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: self.offsets[partition] for partition in partitions if partition in self.offsets}

    async def foreign(self, partitions: Sequence[TopicPartition]) -> set[TopicPartition]:
        return self.set_by_hand & set(partitions)

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return {partition: (self.begins.get(partition, 0), len(self.topics[partition])) for partition in partitions}

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        return next((each.offset for each in self.topics[partition] if each.timestamp >= timestamp_ms), None)

    async def fetch(
        self, partitions: Sequence[TopicPartition], max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        fetched: dict[TopicPartition, Sequence[Record]] = {}
        for partition in partitions:
            start = self._cursor.get(partition, 0)
            records = self.topics[partition][start : start + max_records]
            if records:
                fetched[partition] = records
                self._cursor[partition] = start + len(records)
                max_records -= len(records)
        return fetched

    def seek(self, offsets: Offsets) -> None:
        self._cursor.update(offsets)

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        return {tp: Extent(next(iter(self.topics[tp]), None), len(self.topics[tp])) for tp in partitions}

    async def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        for partition, start in starts.items():
            end = len(self.topics[partition]) if ends is None else ends[partition]
            if start < end:
                yield partition, self.topics[partition][start:end], end


class MemoryTransactions:
    """One transactional producer of a MemoryLog."""

    def __init__(self, log: MemoryLog, transactional_id: str) -> None:
        self._log, self._id, self._epoch = log, transactional_id, 0
        self._pending: dict[TopicPartition, list[Fields]] = {}
        self._offsets: Offsets = {}

    async def start(self) -> None:
        self._log.epochs[self._id] += 1
        self._epoch = self._log.epochs[self._id]

    def _check(self) -> None:
        if self._epoch != self._log.epochs[self._id]:
            raise Fenced(f"{self._id} was fenced: a newer owner has begun")

    async def begin(self) -> None:
        self._check()
        self._pending, self._offsets = {}, {}

    async def send(self, records: Mapping[TopicPartition, Sequence[Fields]]) -> dict[TopicPartition, int]:
        """What Kafka would answer: the offsets that these records will have. One transaction is open at a time here."""
        self._check()
        for partition, sent in records.items():
            self._pending.setdefault(partition, []).extend(sent)
        return {tp: len(self._log.topics[tp]) + len(self._pending[tp]) for tp in records}

    async def send_offsets(self, offsets: Offsets) -> None:
        self._check()
        self._offsets = dict(offsets)

    async def commit(self) -> None:
        self._check()
        for partition, records in self._pending.items():
            for record in records:
                self._log.append(partition, record)
        self._log.offsets.update(self._offsets)
        self._log.set_by_hand -= set(self._offsets)

    async def stop(self) -> None:
        self._pending = {}


class Driver:
    """`async with Driver(app) as driver:` then produce, run, look.

    Give it an app on which `attach` was called; nothing of it is started but its tasks.
    """

    def __init__(
        self,
        app: App,
        *,
        batch_max_records: int = 2_000,
        commit_interval_ms: int = 0,
        now_ms: int = 1_700_000_000_000,
        log: MemoryLog | None = None,
    ) -> None:
        """`log`: where another driver, of another version, is at work."""
        self.app, self.log, self.clock, self.metrics = app, log or MemoryLog(), ManualClock(now_ms), Metrics()
        self.tasks: dict[str, Task] = {}
        self._started: list[Task] = []
        self._stores: dict[str, MemoryStore] = defaultdict(MemoryStore)
        self._settings = EngineSettings(
            app_id=str(app.conf.id),
            bootstrap="",
            state_dir=Path(),
            batch_max_records=batch_max_records,
            commit_interval_ms=commit_interval_ms,
        )

    async def __aenter__(self) -> Driver:
        self.app.check_topology()
        for group in self.app.groups.values():
            for partition in range(group.partitions):
                await self.start(group.name, partition)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._started:
            await task.close()

    async def start(self, group: str, partition: int, *, lose_store: bool = False) -> Task:
        """Begin a task as a new owner would: it fences the one before, which is left as it stands."""
        name = task_name(group, partition)
        if lose_store:
            self._stores.pop(name, None)
        store = self._stores[name]
        task = Task(
            self.app.groups[group],
            partition,
            self.log,
            lambda: store,
            self._settings,
            self.clock,
            self.metrics,
            self.app.live,
        )
        self._started.append(task)
        await task.open()
        self.tasks[name] = task
        return task

    async def replay(self, emit: Collection[str] = ()) -> None:
        """What `reset` does to a stopped application, and the start after it; `run` then repeats the past."""
        for name, task in self.tasks.items():
            await task.close()
            extent = (await self.log.survey([task.journal]))[task.journal]
            boundary = await boundary_now(self.log, task.inputs, task.journal, extent.end, frozenset(emit))
            self.log.append(task.journal, Outgoing(0, REPLAY, boundary.encode()))
            for partition in [*task.inputs, task.journal]:
                self.log.offsets.pop(partition, None)
            for changelog in task.group.changelogs(task.partition).values():
                self.log.topics.pop(changelog, None)
            self._stores.pop(name)
        for task in list(self.tasks.values()):
            await self.start(task.group.name, task.partition)

    def produce(
        self,
        topic: str,
        *,
        key: str | bytes | None = None,
        value: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
    ) -> Position:
        """Append a record as an outside producer would; without a partition, to the home of its key."""
        raw = key.encode() if isinstance(key, str) else key
        if partition is None:
            partition = partition_for(raw, self.app.declared[topic].partitions) if raw else 0
        record = Outgoing(self.clock.now_ms(), raw, value, headers)
        return self.log.append(TopicPartition(topic, partition), record)

    async def run(self) -> int:
        """Let every task take what has arrived until nothing is left; gives the number of records processed."""
        total = 0
        while True:
            steps = [await task.step(0.0) for task in self.tasks.values()]
            total += sum(steps)
            if not any(steps):
                return total

    async def advance(self, ms: int) -> None:
        """Move time and let what is due happen."""
        self.clock.advance(ms)
        await self.run()

    def read(self, topic: str) -> list[StoredRecord]:
        """Every committed record of a topic, by partition and offset."""
        partitions = sorted(tp for tp in self.log.topics if tp.topic == topic)
        return [record for partition in partitions for record in self.log.topics[partition]]

    def rows(self, table: str) -> dict[str, Any]:
        """The committed rows of a table over all its partitions."""
        found: dict[str, Any] = {}
        for task in self.tasks.values():
            if table in task.group.tables:
                with using(task.view()):
                    found.update(task.group.tables[table].range())
        return found

    def reading(self, group: str, partition: int) -> AbstractContextManager[None]:
        """As `app.reading` does in a worker."""
        return using(self.tasks[task_name(group, partition)].view())
