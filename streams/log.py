"""the log as a task sees it -> two protocols, kept by Kafka (`streams/kafka.py`) and by the test driver's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from streams.records import Outgoing, Record, TopicPartition

Offsets = Mapping[TopicPartition, int]


class Transactions(Protocol):
    """The transactional producer of one task; there is one transactional id per task, and that is the fence.

    Every method raises Fenced when a newer owner has started, and OutcomeUnknown for everything else that leaves the
    transaction in doubt.
    """

    async def start(self) -> None:
        """Register the id: older owners are fenced and their open transaction is resolved when this returns."""
        ...

    async def begin(self) -> None: ...

    async def send(self, records: Mapping[TopicPartition, Sequence[Outgoing]]) -> dict[TopicPartition, int]:
        """Send and wait until every record was acknowledged; gives the offset after the last one of each partition."""
        ...

    async def send_offsets(self, offsets: Offsets) -> None: ...
    async def commit(self) -> None: ...
    async def stop(self) -> None: ...


class Log(Protocol):
    """Inputs, offsets and changelogs."""

    def transactions(self, transactional_id: str) -> Transactions: ...

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets, asked of the broker now; partitions without one are left out."""
        ...

    async def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset that is still there."""
        ...

    async def fetch(
        self, partitions: Sequence[TopicPartition], max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Whatever has arrived, at most `max_records`; waits up to `timeout_s` when there is nothing."""
        ...

    def seek(self, offsets: Offsets) -> None:
        """Read on from these offsets and let their partitions flow."""
        ...

    async def end(self, partition: TopicPartition) -> int:
        """The offset after the last committed record."""
        ...

    def read(self, partition: TopicPartition, start: int, end: int) -> AsyncIterator[tuple[Sequence[Record], int]]:
        """Committed records of [start, end) in large pieces, each with the offset reached after it."""
        ...

    async def first(self, partition: TopicPartition) -> Record | None:
        """The record at the very beginning, without reading much more than it."""
        ...
