"""aiokafka -> the log of `streams/log.py`: inputs, offsets asked of the broker, changelogs read raw."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from streams.brokers import told
from streams.committed import committed_by, committed_offsets
from streams.errors import OutcomeUnknown
from streams.log import Extent
from streams.records import Record, TopicPartition
from streams.settings import EngineSettings
from streams.transactions import BY_TASK, KafkaTransactions

log = logging.getLogger(__name__)

#: With nothing read for this long, a fetch waits this long: 10 requests a second instead of 200 for the broker.
IDLE_AFTER_S, IDLE_FETCH_MS = 0.5, 100
#: An isolation level of Kafka's protocol: the end of a partition is then its high watermark.
READ_UNCOMMITTED = 0
#: What a look into the log fetches at once: what is sought stands near to where it is sought.
LOOK_BYTES = 64 << 10


@asynccontextmanager
async def onlooker(settings: EngineSettings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that may ask for the group's offsets, and set them. Never subscribed, it is no member of the group."""
    consumer = AIOKafkaConsumer(**settings.client_options, group_id=settings.app_id, enable_auto_commit=False)
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


def _reader(settings: EngineSettings, max_bytes: int) -> AIOKafkaConsumer:
    """A consumer outside the group, for one pass over a changelog."""
    return AIOKafkaConsumer(
        **settings.client_options,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=max_bytes,
        check_crcs=False,  # RocksDB and TCP check; off is measurably faster
    )


def rest_when_idle(consumer: AIOKafkaConsumer, settings: EngineSettings) -> None:
    """Let fetches wait longer while nothing comes; a record that comes is answered at once all the same.

    The short wait is for partitions that were just read: they are not in the fetch under way, which aiokafka sends as
    soon as it has an answer, and nothing of theirs is seen before that one ends. With nothing read, all are in it. The
    wait has to be set before the next fetch is built, thus where the answer comes in.
    """
    fetcher = consumer._fetcher
    take, read_at = fetcher._proc_fetch_request, -float("inf")
    at_rest = max(settings.fetch_max_wait_ms, IDLE_FETCH_MS)

    async def taken(assignment: Any, node_id: Any, request: Any) -> bool:
        nonlocal read_at
        has_records: bool = await take(assignment, node_id, request)
        now = time.monotonic()
        if has_records:
            read_at = now
        idle = now - read_at > IDLE_AFTER_S
        fetcher._fetch_max_wait_ms = at_rest if idle else settings.fetch_max_wait_ms
        return has_records

    fetcher._proc_fetch_request = taken


async def _asked(call: Any, what: str) -> Any:
    """What a consumer answers. Raises OutcomeUnknown."""
    try:
        return await call
    except KafkaError as error:
        raise OutcomeUnknown(f"asking for {what}: {told(error)}") from error


async def _bounds(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    begins = await _asked(consumer.beginning_offsets(list(partitions)), "beginning offsets")
    ends = await _asked(consumer.end_offsets(list(partitions)), "end offsets")
    return {partition: (begins[partition], ends[partition]) for partition in partitions}


async def _high_watermarks(reader: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """Where these partitions end with what no transaction has committed yet. The reader must have no position yet: it
    would fetch with the same isolation level meanwhile."""
    fetcher = reader._fetcher
    before, fetcher._isolation_level = fetcher._isolation_level, READ_UNCOMMITTED
    try:
        found: dict[TopicPartition, int] = await reader.end_offsets(partitions)
        return found
    finally:
        fetcher._isolation_level = before


class KafkaLog:
    """The Log of a worker: inputs come from the group's consumer, changelogs from readers of their own."""

    markers = 1

    def __init__(self, settings: EngineSettings, consumer: AIOKafkaConsumer) -> None:
        self._settings, self._consumer = settings, consumer

    def transactions(self, transactional_id: str) -> KafkaTransactions:
        return KafkaTransactions(self._settings, transactional_id)

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = await _asked(
            committed_offsets(self._consumer, partitions), "committed offsets"
        )
        return found

    async def foreign(self, partitions: Sequence[TopicPartition]) -> set[TopicPartition]:
        found = await _asked(committed_by(self._consumer, partitions), "committed offsets")
        return {partition for partition, (_, beside) in found.items() if beside != BY_TASK}

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return await _bounds(self._consumer, partitions)

    async def fetch(
        self, partitions: Sequence[TopicPartition], max_records: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        fetched: Mapping[TopicPartition, Sequence[Record]] = await _asked(
            self._consumer.getmany(*partitions, timeout_ms=int(timeout_s * 1000), max_records=max_records), "records"
        )
        return fetched

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing happens for partitions that a rebalance has taken meanwhile: their task is about to be closed."""
        assigned = self._consumer.assignment()
        if all(partition in assigned for partition in offsets):
            for partition, offset in offsets.items():
                self._consumer.seek(partition, offset)
            self._consumer.resume(*offsets)

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        if not partitions:
            return {}
        reader = _reader(self._settings, 1 << 10)
        await _asked(reader.start(), "changelogs")
        try:
            reader.assign(partitions)
            begins = await _asked(reader.beginning_offsets(partitions), "changelogs")
            ends = await _asked(reader.end_offsets(partitions), "changelogs")
            highs = await _asked(_high_watermarks(reader, partitions), "changelogs")
            firsts: dict[TopicPartition, Record] = {}
            waiting = {partition for partition in partitions if begins[partition] < ends[partition]}
            for partition in waiting:
                reader.seek(partition, begins[partition])
            reader.pause(*(partition for partition in partitions if partition not in waiting))
            while waiting:
                fetched = await _asked(reader.getmany(*waiting, timeout_ms=200), "changelogs")
                firsts |= {partition: records[0] for partition, records in fetched.items() if records}
                # Nothing but markers of aborted transactions may lie there: then there is no first record.
                waiting = {p for p in waiting - firsts.keys() if await reader.position(p) < ends[p]}
                reader.pause(*firsts)
        finally:
            await reader.stop()
        return {tp: Extent(firsts.get(tp), ends[tp], highs[tp]) for tp in partitions}

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int] | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        reached = {tp: start for tp, start in starts.items() if ends is None or start < ends[tp]}
        if not reached:
            return
        reader = _reader(self._settings, 8 << 20)
        await _asked(reader.start(), "a changelog")
        try:
            reader.assign(list(reached))
            for partition, start in reached.items():
                reader.seek(partition, start)
            while reached:
                fetched = await _asked(reader.getmany(*reached, timeout_ms=200, max_records=5_000), "a changelog")
                for partition in list(reached):
                    position = await reader.position(partition)
                    if position > reached[partition]:
                        reached[partition] = position
                        yield partition, fetched.get(partition, ()), position
                    if ends is not None and position >= ends[partition]:
                        del reached[partition]
                        reader.pause(partition)
        finally:
            await reader.stop()


class KafkaReader:
    """Looks into partitions here and there, by one consumer outside the group: `async with KafkaReader(settings)`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._reader = _reader(settings, LOOK_BYTES)

    async def __aenter__(self) -> KafkaReader:
        await _asked(self._reader.start(), "a look into the log")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.stop()

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return await _bounds(self._reader, partitions)

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """From the broker's index, which is of what it has, committed or not; a negative timestamp is none."""
        if timestamp_ms <= 0:
            return (await self.bounds([partition]))[partition][0]
        found = await _asked(self._reader.offsets_for_times({partition: timestamp_ms}), "the offset of a time")
        return None if found.get(partition) is None else int(found[partition].offset)

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int] | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        assert ends is not None, "what is looked for has an end"
        for partition, start in starts.items():
            if self._reader.assignment() != {partition}:
                self._reader.assign([partition])
            self._reader.seek(partition, start)
            reached = start
            while reached < ends[partition]:
                records = (await _asked(self._reader.getmany(partition, timeout_ms=200), "records")).get(partition, ())
                reached = await self._reader.position(partition)
                if records:
                    yield partition, records, reached
