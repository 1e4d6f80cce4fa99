"""a small topic, from its beginning -> every record, and the knowledge that nothing committed before is missing.

For what every worker has to know and no worker owns. No group and no position: who starts reads it all, so it must stay
small. Between two questions nothing runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer

from streams.brokers import Brokers, client_options
from streams.records import Record, TopicPartition

#: How long one answer of the brokers may take.
ANSWER_S = 10.0


class Tail(Protocol):
    """What following needs of a log. Kafka's is KafkaTail; a test brings its own."""

    async def open(self, partitions: Collection[TopicPartition]) -> None:
        """Read from the beginning; does nothing when open."""

    async def close(self) -> None:
        """Let go of everything; the next `open` begins anew. Never raises."""

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The end of what is committed, of these or of any other partitions."""

    async def position(self, partition: TopicPartition) -> int:
        """The offset after the last record read, commit markers included."""

    async def read(self) -> Sequence[Record]:
        """What has come, in order within each partition; it may be nothing."""


class KafkaTail:
    """A topic of a Kafka cluster, read committed."""

    def __init__(self, brokers: Callable[[], Brokers]) -> None:
        """`brokers` is asked when reading begins: where they are is known once the worker has read its command line."""
        self._brokers = brokers
        self._consumer: Any = None

    async def open(self, partitions: Collection[TopicPartition]) -> None:
        if self._consumer is not None:
            return
        self._consumer = AIOKafkaConsumer(
            **client_options(self._brokers()),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=500,
        )
        async with asyncio.timeout(ANSWER_S):
            await self._consumer.start()
        self._consumer.assign(list(partitions))
        for partition in partitions:
            self._consumer.seek(partition, 0)

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.gather(consumer.stop(), return_exceptions=True)

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        async with asyncio.timeout(ANSWER_S):
            found: dict[TopicPartition, int] = await self._consumer.end_offsets(list(partitions))
        return found

    async def position(self, partition: TopicPartition) -> int:
        return int(await self._consumer.position(partition))

    async def read(self) -> Sequence[Record]:
        got = await self._consumer.getmany(timeout_ms=200)
        return [record for records in got.values() for record in records]


class Follower:
    """Hands every record of the partitions to `take`, and says when all that was committed has been.

    `forget` is called when reading begins anew, before the first record.
    """

    def __init__(
        self,
        tail: Tail,
        partitions: Collection[TopicPartition],
        take: Callable[[Record], None],
        forget: Callable[[], None],
    ) -> None:
        self.tail, self._partitions = tail, tuple(partitions)
        self._take, self._forget = take, forget
        self._reading = asyncio.Lock()
        self._begun = self._done = 0
        self._open = False

    async def catch_up(self) -> None:
        """When it returns, whatever was committed before the call has been taken. Raises what the brokers raise.

        Callers that wait at the same time share a pass; only one that began after a call counts for it.
        """
        begun_before = self._begun
        async with self._reading:
            if self._done > begun_before:
                return
            self._begun += 1
            try:
                await self._pass()
            except BaseException:  # cancelled, too: records may have been read and not taken
                await self._begin_anew()
                raise
            self._done = self._begun

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The ends of any partitions now, read committed."""
        async with self._reading:
            await self._ensure_open()
            try:
                return await self.tail.ends(partitions)
            except BaseException:
                await self._begin_anew()
                raise

    async def close(self) -> None:
        await self._begin_anew()

    async def _pass(self) -> None:
        await self._ensure_open()
        ends = await self.tail.ends(self._partitions)
        while [p for p in self._partitions if await self.tail.position(p) < ends[p]]:
            for record in await self.tail.read():
                self._take(record)

    async def _ensure_open(self) -> None:
        if not self._open:
            self._forget()
            await self.tail.open(self._partitions)
            self._open = True

    async def _begin_anew(self) -> None:
        self._open = False
        await self.tail.close()
