"""the log as a task sees it -> two protocols, kept by Kafka (streams/kafka.py) and by the test driver's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from streams.records import Fields, Record, TopicPartition

Offsets = Mapping[TopicPartition, int]


class Extent(NamedTuple):
    """The first record that is still there (None when there is none) and the offset after the last committed one.

    `high`: the offset after the last record at all, committed or not (the high watermark); None where nobody asked.
    """

    first: Record | None
    end: int
    high: int | None = None


class Transactions(Protocol):
    """The transactional producer of one task; there is one transactional id per task, and that is the fence.

    Every method raises Fenced when a newer owner has started, and OutcomeUnknown for everything else that leaves the
    transaction in doubt.
    """

    async def start(self) -> None:
        """Register the id: older owners are fenced and their open transaction is resolved when this returns."""
        ...

    async def begin(self) -> None: ...

    async def send(self, records: Mapping[TopicPartition, Sequence[Fields]]) -> dict[TopicPartition, int]:
        """Send and wait until every record was acknowledged; gives the offset after the last one of each partition."""
        ...

    async def send_offsets(self, offsets: Offsets) -> None: ...
    async def commit(self) -> None: ...
    async def stop(self) -> None: ...


class Log(Protocol):
    """Inputs, offsets and changelogs."""

    #: Offsets that the end of a transaction takes up in each partition that it wrote to.
    markers: int

    def transactions(self, transactional_id: str) -> Transactions: ...

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's committed offsets, asked of the broker now; partitions without one are left out."""
        ...

    async def foreign(self, partitions: Sequence[TopicPartition]) -> set[TopicPartition]:
        """Those whose committed offset no task has committed: somebody has set it."""
        ...

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset that is still there, and the one after the last committed record."""
        ...

    async def fetch(
        self, partitions: Sequence[TopicPartition], max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Whatever has arrived, at most `max_records`; waits up to `timeout_s` when there is nothing."""
        ...

    def seek(self, offsets: Offsets) -> None:
        """Read on from these offsets and let their partitions flow."""
        ...

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        """What lies at both ends of these partitions now, as a read-committed reader sees them."""
        ...

    def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        """Committed records from `starts` in large pieces, each with the offset that is reached after it.

        Stops when every partition has reached its end; without `ends` it follows for ever.
        """
        ...
