"""Sends single records from outside agents (HTTP, effects, commands), idempotently, without a transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from streams.brokers import told
from streams.errors import NotReadable
from streams.records import Headers, Position
from streams.settings import EngineSettings
from streams.transactions import MAX_REQUEST_BYTES

log = logging.getLogger(__name__)

#: A producer that is replaced may still write what other callers wait for; after this long it is closed.
RETIRE_S = 5.0
#: When a caller may try again whose record was not written, or perhaps not.
RETRY_AFTER_S = 2.0


class PlainProducer:
    """Records from outside agents, acknowledged by all replicas and not part of any transaction.

    One idempotent aiokafka producer at a time. aiokafka numbers a batch when it sends it and does not take the numbers
    back when the batch fails for good, as Java's client does (KIP-360): the broker refuses every later batch of that
    partition with OUT_OF_ORDER_SEQUENCE_NUMBER. So after a failed batch the producer is replaced by a new one, which
    has a producer id and numbers of its own.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Connect. Raises KafkaError when no broker answers."""
        await self._current()

    async def stop(self) -> None:
        """Write what is under way, at most RETIRE_S, and close."""
        self._stopped = True
        self.renew()
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def renew(self) -> None:
        """Let the next record begin a new producer, which finds the brokers from the bootstrap addresses."""
        producer, self._producer = self._producer, None
        if producer is not None:
            retiring = asyncio.get_running_loop().create_task(_retire(producer), name="retiring producer")
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def send(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Position:
        """Write one record; returns its position once all replicas in step have it.

        Raises NotReadable: the record was not sent, or no answer came within `delivery_timeout_ms` of the settings, or
        the broker refused it. Its text says whether the record may have been written all the same.
        """
        sending: asyncio.Future[Any] | None = None
        try:
            async with asyncio.timeout(self._settings.delivery_timeout_ms / 1000):
                producer = await self._current()
                # An error here is raised before the record is in a batch: it was never sent and has no number.
                sending = await producer.send(topic, value, key=key, partition=partition, headers=list(headers) or None)
                sent = await sending
        except (KafkaError, TimeoutError) as error:
            why = f"no answer in time ({error!r})" if isinstance(error, TimeoutError) else told(error)
            if sending is None:
                raise NotReadable(f"the record for {topic} was not sent: {why}", RETRY_AFTER_S) from error
            self._replace(producer, topic, partition, error)
            raise NotReadable(
                f"the broker did not take the record for {topic}, or took it and its answer was lost: {why}",
                RETRY_AFTER_S,
            ) from error
        return Position(sent.topic, sent.partition, sent.offset)

    async def _current(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._stopped:
                raise NotReadable("this worker is stopping", RETRY_AFTER_S)
            if self._producer is None:
                producer = self._make()
                try:
                    await producer.start()
                except BaseException:
                    await _retire(producer)
                    raise
                self._producer = producer
            return self._producer

    def _make(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._settings.client_options,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_request_size=MAX_REQUEST_BYTES,
            retry_backoff_ms=self._settings.retry_backoff_ms,
        )

    def _replace(self, failed: AIOKafkaProducer, topic: str, partition: int, error: BaseException) -> None:
        """Once for each failed producer, however many of its batches fail."""
        if failed is self._producer:
            log.warning("a batch for %s-%d failed (%r): a new producer takes its place", topic, partition, error)
            self.renew()


async def _retire(producer: AIOKafkaProducer) -> None:
    """Close a producer; a batch that it can neither write nor give up is cut off after RETIRE_S."""
    try:
        async with asyncio.timeout(RETIRE_S):
            await producer.stop()
        return
    except Exception as error:
        log.info("a producer did not stop cleanly: %r", error)
    with contextlib.suppress(Exception):
        # Its stop() waits for its batches first: what it would have done then is done here.
        await producer._sender.close()
        producer._message_accumulator.fail_all(ProducerClosed())
    with contextlib.suppress(Exception):
        await producer.client.close()
