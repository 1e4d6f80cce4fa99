"""acts of one task's past -> the real agents over a store of its own -> rows, and what each record would have sent.

Steps 1 and 5 of a task (streams/task.py) without a transaction between them: nothing reaches a log. What a rule sees is
the same, whatever the batches were: reads go through the batch to the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from streams.agent import AgentRun
from streams.batch import Batch, CommittedView, using
from streams.deadlines import BY_TIME, Deadline
from streams.errors import StoreDamaged
from streams.journal import Act, Run
from streams.metrics import Metrics
from streams.records import Fields, Record, TopicPartition
from streams.store import Store
from streams.table import Table, every_row
from streams.topology import Group

#: Acts between two writes to the store: reads of a range sort what was not written yet.
KEEP_EVERY = 200


class Sent(NamedTuple):
    """One record on its way out."""

    to: TopicPartition
    fields: Fields


class Said(NamedTuple):
    """What one record led to; None for the deadlines of a moment."""

    record: Record | None
    sent: list[Sent]


class Overheard(Batch):
    """A batch whose sends stand beside the record that they follow from."""

    def __init__(self, store: Store, partition: int, deadlines: Table[Deadline] | None) -> None:
        super().__init__(store, partition)
        self.said: list[Said] = []
        #: Rows of the table of deadlines that were written and not yet asked for.
        self.scheduled: list[Deadline] = []
        self._deadlines = deadlines

    def savepoint(self, record: Record | None) -> None:
        super().savepoint(record)
        self.said.append(Said(record, []))

    def rollback(self) -> None:
        super().rollback()
        self.said[-1].sent.clear()

    def send(self, destination: TopicPartition, record: Fields) -> None:
        self.said[-1].sent.append(Sent(destination, record))

    def put(self, table: Table[Any], key: bytes, raw: bytes | None) -> None:
        super().put(table, key, raw)
        if table is self._deadlines and raw is not None and key.startswith(BY_TIME.encode()):
            self.scheduled.append(table.codec.decode(raw))


class Fold:
    """One task of a group over a store that nobody else has."""

    def __init__(self, group: Group, partition: int, store: Store, letters: TopicPartition) -> None:
        """`letters`: where records go that could not be applied (topic and partition, as in a worker)."""
        self.group, self.partition, self.store = group, partition, store
        deadlines = group.deadlines.table if group.deadlines else None
        self.batch = Overheard(store, partition, deadlines)
        metrics = Metrics()
        self._runs = {topic: AgentRun(agent, self.batch, letters, metrics) for topic, agent in group.agents.items()}
        self._acts = 0

    async def take(self, act: Act) -> Sequence[Said]:
        """Do what the task did; gives what each record sends, in order."""
        if isinstance(act, Run):
            return await self.feed(act.partition.topic, act.records)
        return self.due(act.now_ms)

    async def feed(self, topic: str, records: Sequence[Record]) -> Sequence[Said]:
        await self._runs[topic].feed(records)
        return self._over(len(records))

    def due(self, now_ms: int) -> Sequence[Said]:
        """Send the deadlines that are due at this moment."""
        if self.group.deadlines is None:
            return ()
        with using(self.batch):
            self.batch.savepoint(None)
            self.group.deadlines.emit(now_ms)
        return self._over(1)

    def send_due(self, deadline: Deadline) -> Sequence[Said]:
        """Send this one deadline, if it still stands as it was."""
        deadlines = self.group.deadlines
        assert deadlines is not None, "a deadline belongs to a group that has some"
        with using(self.batch):
            if not deadlines.stands(deadline):
                return ()
            self.batch.savepoint(None)
            deadlines.send(deadline)
        return self._over(1)

    def keep(self) -> None:
        """Write what was changed to the store."""
        changes = self.batch.changelog()
        if changes:
            self.store.apply({table.name: rows for table, rows in changes.items()}, {}, 0)
        self.batch.reset()
        self._acts = 0

    def view(self) -> CommittedView:
        """What a worker would answer from now; read the tables `using` it."""
        self.keep()
        return CommittedView(self.store, self.partition, _damaged)

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Every row of a table, as its changelog has it."""
        self.keep()
        return every_row(self.store, table)

    def raw(self, table: str, key: bytes) -> bytes | None:
        """One row, as its changelog has it."""
        written = self.batch.changes.get(self.group.tables[table], {})
        return written[key] if key in written else self.store.get(table, key)

    async def close(self) -> None:
        for run in self._runs.values():
            await run.close()
        self.store.close()

    def _over(self, acts: int) -> Sequence[Said]:
        said, self.batch.said = self.batch.said, []
        self._acts += acts
        if self._acts >= KEEP_EVERY:
            self.keep()
        return said


def _damaged(error: StoreDamaged) -> None:
    raise error
