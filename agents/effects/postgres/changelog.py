"""a table's changelog, or topics' ends, read from Kafka by an operator's command -> rows in key order, offsets."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rocksdict import Options, Rdict, WriteBatch

from streams.brokers import Brokers, client_options
from streams.sources import PARTITION_FETCH_BYTES

#: A transaction that nobody ends is aborted by the broker after 15 s, its own time-out: reads wait for that at most.
STALLED_S = 60.0


class Stalled(Exception):
    """Something that should have moved has not, for STALLED_S seconds."""


async def bounds(
    brokers: Brokers | str, topics: Collection[str], *, committed: bool, client: Mapping[str, Any] | None = None
) -> dict[TopicPartition, tuple[int, int]]:
    """First offset and end of every partition: the end of what is committed, or of all that was written."""
    async with _reader(brokers, committed, client) as consumer:
        partitions = await _partitions(consumer, topics)
        first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        return {partition: (first[partition], end[partition]) for partition in partitions}


@asynccontextmanager
async def folded(
    brokers: Brokers | str,
    changelog: str,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    client: Mapping[str, Any] | None = None,
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The table that the changelog says, as of now, in key order. It is put together on disk: memory holds no table."""
    directory = Path(tempfile.mkdtemp(prefix="orderstream-verify-"))
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    table = Rdict(str(directory), options=options)
    try:
        # To the end of what was written, not of what is committed now: a transaction that has just been committed on
        # the events' partition may not be so on this one yet.
        ends = await bounds(brokers, [changelog], committed=False, client=client)
        async with _reader(brokers, True, client) as consumer:
            await _fold(consumer, {p: bound for p, bound in ends.items() if bound[0] < bound[1]}, table, progress)
        yield _values(table)
    finally:
        table.close()
        shutil.rmtree(directory, ignore_errors=True)


async def _fold(
    consumer: Any, ends: Mapping[TopicPartition, tuple[int, int]], table: Any, progress: Callable[[int, int], None]
) -> None:
    consumer.assign(list(ends))
    for partition, (first, _) in ends.items():
        consumer.seek(partition, first)
    total = sum(end - first for first, end in ends.values())
    done, moved_at = 0, asyncio.get_running_loop().time()
    while done < total:
        records = [record for part in (await consumer.getmany(timeout_ms=500)).values() for record in part]
        batch = WriteBatch(raw_mode=True)
        for record in records:
            if record.key is None or record.key.startswith(b"\0"):
                continue  # the store's own, not a row
            if record.value is None:
                batch.delete(record.key)
            else:
                batch.put(record.key, record.value)
        table.write(batch)
        reached = 0
        for partition, (first, end) in ends.items():
            reached += min(end, await consumer.position(partition)) - first
        now = asyncio.get_running_loop().time()
        if reached > done:
            done, moved_at = reached, now
            progress(done, total)
        elif now - moved_at > STALLED_S:
            raise Stalled(f"the changelog gave nothing for {STALLED_S:.0f} s at {done} of {total} records")


async def _values(table: Any) -> AsyncIterator[dict[str, Any]]:
    for _, value in table.items():
        yield orjson.loads(value)


@asynccontextmanager
async def _reader(brokers: Brokers | str, committed: bool, client: Mapping[str, Any] | None) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **client_options(brokers),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed" if committed else "read_uncommitted",
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        fetch_max_wait_ms=100,
        **(client or {}),
    )
    async with asyncio.timeout(30):
        await consumer.start()
    try:
        await asyncio.sleep(0)  # aiokafka's stop() fails on a task of its own that has not begun yet
        yield consumer
    finally:
        await consumer.stop()


async def _partitions(consumer: Any, topics: Collection[str]) -> list[TopicPartition]:
    found = []
    for topic in topics:
        numbers = await consumer._client._wait_on_metadata(topic)
        found += [TopicPartition(topic, number) for number in sorted(numbers)]
    return found
