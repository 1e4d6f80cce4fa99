"""How many of a row of records stand by an offset: found by their times, with times as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.driver import MemoryLog
from streams.log import Offsets
from streams.lookup import Sought, TooFar, how_many_by
from streams.records import Outgoing, Record, TopicPartition

PLACE = TopicPartition("events", 0)


class InPieces(MemoryLog):
    """Gives records in pieces that reach behind the end, as Kafka's batches do, and counts what it was asked."""

    def __init__(self, records: Sequence[tuple[int, bytes]]) -> None:
        super().__init__()
        self.asked = self.given = 0
        for timestamp, value in records:
            self.append(PLACE, Outgoing(timestamp, b"k", value))

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        self.asked += 1
        return await super().offset_at(partition, timestamp_ms)

    async def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        assert ends is not None
        for start in range(starts[PLACE], ends[PLACE], 4):
            piece = self.topics[PLACE][start : start + 4]
            self.given += len(piece)
            yield PLACE, piece, start + len(piece)


async def found(log: InPieces, offset: int, most_records: int = 10_000) -> int:
    """How many of the records that say `mine` stand by the offset."""
    mine = [record for record in log.topics[PLACE] if record.value == b"mine"]

    async def sought(number: int) -> Sought:
        one = mine[number - 1]
        return Sought(one.timestamp, lambda record: record.value == b"mine" and record.offset >= one.offset)

    return await how_many_by(log, PLACE, offset, len(mine), sought, most_records)


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([b"mine", b"another"])), min_size=1, max_size=40))
async def test_every_offset_of_any_log(records: list[tuple[int, bytes]]) -> None:
    log = InPieces(records)
    for offset in range(len(records)):
        standing = sum(value == b"mine" for _, value in records[: offset + 1])
        assert await found(log, offset) == standing, offset


async def test_a_logarithm_is_asked_for_and_little_is_read() -> None:
    log = InPieces([(number, b"mine" if number % 4 == 0 else b"another") for number in range(4_000)])
    assert await found(log, 2_345) == 587
    assert log.asked <= log2(1_000) + 2 and log.given < 100


async def test_what_takes_too_much_is_given_up() -> None:
    log = InPieces([(7, b"another")] * 100 + [(7, b"mine")])
    assert await found(log, 100, most_records=101) == 1
    with pytest.raises(TooFar, match="events-0 from 0 to 100"):
        await found(log, 100, most_records=100)
