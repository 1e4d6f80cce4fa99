"""records of a topic -> what a function makes of them, on other topics -> each exactly once, without tables.

For the edge of an application: what a function makes may depend on more than the record, so no replay calls it again.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from streams.beginnings import Beginnings, find_starts
from streams.effects import Effect, EffectMetrics, EffectSource, Rounds
from streams.log import Transactions
from streams.records import Fields, Record, TopicPartition
from streams.rights import Right, fence
from streams.sink import Backoff
from streams.transactions import KafkaTransactions

#: Records in one transaction. What is made of them must not hold up the worker's event loop for long.
MOST_AT_ONCE = 200
POLL_S = 0.5

#: What is made of records of one partition, in their order, and where it goes.
Make = Callable[[Sequence[Record]], Awaitable[Sequence[tuple[TopicPartition, Fields]]]]


@dataclass
class Mover(Rounds):
    """The protocol, one step at a time:

    1. a new assignment, or anything that went wrong: start the transactional producer of each partition, which fences
       whoever had it and ends what they left open; only then read the committed positions, and seek there (as Runner);
    2. poll, and make;
    3. for each partition one transaction: what was made, and the position after the records that it was made of.

    A record stays until it can be made something of: `make` raises only what passes.
    """

    name: str
    source: EffectSource
    transactions: Callable[[str], Transactions]
    make: Make
    metrics: EffectMetrics
    backoff: Backoff = field(default_factory=Backoff)
    group: str = ""
    beginnings: Beginnings | None = None

    def __post_init__(self) -> None:
        self._generation: int | None = None
        self._producers: dict[TopicPartition, Transactions] = {}
        self._open = 0
        self.error: str | None = "not started"

    @property
    def open_records(self) -> int:
        return self._open

    async def round(self) -> float:
        if self._generation != self.source.generation:
            await self._begin()
        records = await self.source.poll(MOST_AT_ONCE, POLL_S)
        if self._generation == self.source.generation:
            await self._move(records)
        return 0.0

    async def finish(self, _timeout_s: float) -> None:
        """The end of a worker: what is not committed is another's."""
        await self.drop()
        await self.source.close()

    async def _begin(self) -> None:
        await self.drop()
        generation, partitions = self.source.generation, self.source.assigned
        for partition in partitions:
            producer = self._producers[partition] = self.transactions(f"{partition.topic}-{partition.partition}")
            await producer.start()
        if partitions:
            starts = await find_starts(self.name, self.group, self.source, partitions, self.beginnings)
            if generation != self.source.generation:
                return
            self.source.seek(starts)
        self._generation = generation

    async def _move(self, records: Sequence[Record]) -> None:
        of_partition: dict[TopicPartition, list[Record]] = defaultdict(list)
        for record in records:
            of_partition[TopicPartition(record.topic, record.partition)].append(record)
        self._open = len(records)
        for partition, mine in of_partition.items():
            outgoing: dict[TopicPartition, list[Fields]] = defaultdict(list)
            for place, fields in await self.make(mine):
                outgoing[place].append(fields)
            producer = self._producers[partition]
            await producer.begin()
            await producer.send(outgoing)
            await producer.send_offsets({partition: mine[-1].offset + 1})
            await producer.commit()
            self.metrics.done.labels(self.name).inc(len(mine))
            self._open -= len(mine)

    async def drop(self) -> None:
        producers, self._producers, self._generation = list(self._producers.values()), {}, None
        self._open = 0
        for producer in producers:
            with contextlib.suppress(Exception):
                await producer.stop()


class Move(Effect):
    """A mover in a worker: own consumer group, own pace."""

    def __init__(self, app: Any, name: str, topic: str, make: Make, **options: Any) -> None:
        async def never(_: Record) -> None:
            raise AssertionError("a mover takes records by the partition")

        super().__init__(app, name, [topic], never, **options)
        self._make, self._topic = make, topic

    def _runner_of(self, source: EffectSource) -> Mover:
        settings = replace(self.app.engine_settings(), app_id=self.group_id)  # the positions are this group's

        def transactions(what: str) -> Transactions:
            return KafkaTransactions(settings, f"{self.group_id}-{what}")

        proof = {"group": self.group_id, "beginnings": self.app.beginnings}
        return Mover(self.name, source, transactions, self._make, self._metrics, **proof)

    def fences(self) -> list[Right]:
        """The transactional ids that it needs, for the rights."""
        return [fence(f"{self.group_id}-{self._topic}-", f"the fence of {self.name}")]
