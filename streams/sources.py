"""topics of a Kafka cluster -> records for those who keep positions of their own: sinks and effects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from streams.brokers import Brokers, client_options
from streams.records import Record

log = logging.getLogger(__name__)

#: A fetch that finds less than it wants waits this long. It wants one record, unless whoever reads wants more.
FETCH_WAIT_MS = 100
#: Each partition's fetch; with the partitions assigned it bounds the memory that fetched records can take.
PARTITION_FETCH_BYTES = 4 << 20


class Source(Protocol):
    """What a sink needs of a log. Kafka's is KafkaSource; a simulation brings its own, in memory."""

    @property
    def generation(self) -> int:
        """Grows with every assignment."""

    @property
    def assigned(self) -> frozenset[TopicPartition]: ...

    async def open(self) -> None:
        """Join the group; does nothing when joined."""

    async def close(self) -> None:
        """Leave the group. Never raises."""

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """First offset and end (of what is committed) of each partition."""

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read from here. Until a new assignment is sought it yields no records."""

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]: ...

    def position(self, partition: TopicPartition) -> int:
        """The offset after the last record polled, commit markers included."""


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]
    """Topics of a Kafka cluster, read committed, shared with the group's other members.

    The traps of aiokafka that shape it: heartbeats stand still while `on_partitions_assigned` runs, so it only notes
    the assignment; a partition without a position makes the fetcher ask for a committed offset, so each gets one at
    once and stays paused until the true one is sought; with any reset policy but `none` an offset that is out of range
    is skipped silently.
    """

    def __init__(
        self, brokers: Brokers | str, group_id: str, topics: Collection[str], client: Mapping[str, Any] | None = None
    ) -> None:
        self._brokers, self._group_id, self._topics = brokers, group_id, sorted(topics)
        self._client = dict(client or {})
        self._consumer: Any = None
        self.generation = 0
        self.assigned: frozenset[TopicPartition] = frozenset()

    async def open(self) -> None:
        if self._consumer is not None:
            return
        settings: dict[str, Any] = {
            **client_options(self._brokers),
            "group_id": self._group_id,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
        }
        consumer = AIOKafkaConsumer(**(settings | self._client))
        consumer.subscribe(self._topics, listener=self)
        self._consumer = consumer
        try:
            async with asyncio.timeout(30):
                await consumer.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        self.generation += 1
        self.assigned = frozenset()
        if consumer is None:
            return
        try:
            async with asyncio.timeout(10):
                await consumer.stop()
        except Exception as error:
            log.info("sink group %s: leaving it failed: %r", self._group_id, error)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.generation += 1
        self.assigned = frozenset()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for partition in assigned:
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)
        self.generation += 1
        self.assigned = frozenset(assigned)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        async with asyncio.timeout(10):
            first = await self._consumer.beginning_offsets(list(partitions))
            end = await self._consumer.end_offsets(list(partitions))
        return {partition: (first[partition], end[partition]) for partition in partitions}

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)
        self._consumer.resume(*positions)

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        # During a rebalance this waits for its end, however long: there is nothing to do meanwhile.
        got = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        return [record for records in got.values() for record in records]

    def position(self, partition: TopicPartition) -> int:
        # consumer.position() is a coroutine that can wait; every assigned partition was sought, so the state has it.
        return int(self._consumer._subscription.subscription.assignment.state_value(partition).position)
