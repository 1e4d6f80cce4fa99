"""a record that is known to be in a partition, and when it was written -> where it stands, without reading it all.

The broker finds the first record of a time by its index. Records of one batch share their time, and times need not
ascend, so from there on they are read; what is sought stands at that place or behind it, never before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from streams.log import Offsets
from streams.records import Record, TopicPartition


class LogReader(Protocol):
    """The log as this needs it."""

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset that is still there, and the one after the last committed record."""
        ...

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """The first offset whose record has this timestamp or a later one; None when no record has."""
        ...

    def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        """Committed records from `starts` to `ends`, in pieces."""
        ...


class Sought(NamedTuple):
    """A record that has this timestamp (milliseconds), and how to know it, or one that must be behind it."""

    timestamp_ms: int
    found: Callable[[Record], bool]


class TooFar(Exception):
    """More records than the bound would have to be read."""


async def how_many_by(
    log: LogReader,
    partition: TopicPartition,
    offset: int,
    count: int,
    sought: Callable[[int], Awaitable[Sought]],
    most_records: int,
) -> int:
    """How many of `count` records stand at `offset` or before it. `sought`: the number-th of them, from 1.

    They stand in the partition in this order, so a logarithm of them is looked for. `offset` must be below the end of
    the partition. Raises TooFar when that takes more than `most_records` altogether.
    """
    left = most_records
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        stands, read = await _stands_by(log, partition, offset, await sought(middle), left)
        left -= read
        if stands:
            low = middle
        else:
            high = middle - 1
    return low


async def _stands_by(
    log: LogReader, partition: TopicPartition, offset: int, sought: Sought, most_records: int
) -> tuple[bool, int]:
    """Whether it stands at `offset` or before it, and how many records had to be read to know."""
    start = await log.offset_at(partition, sought.timestamp_ms)
    if start is None:
        return False, 0
    read = 0
    pieces = log.read({partition: start}, {partition: offset + 1})
    try:
        async for _, records, _ in pieces:
            for record in records:
                if record.offset > offset:  # a piece may reach behind the end
                    break
                read += 1
                if read > most_records:
                    raise TooFar(f"{partition.topic}-{partition.partition} from {start} to {offset}")
                if sought.found(record):
                    return True, read
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator; it holds a connection
    return False, read
