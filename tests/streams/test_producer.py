"""A record that the broker refuses, or does not answer for, costs nothing but itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from streams import admin
from streams.errors import NotReadable
from streams.producer import PlainProducer
from streams.settings import EngineSettings
from tests.processes import RunningStack

TOPIC = "commands"


@pytest.fixture
async def settings(clean_stack: RunningStack) -> EngineSettings:
    await admin.create(clean_stack.kafka, [admin.TopicConfig(TOPIC, 2, 1, {"max.message.bytes": "20000"})])
    return EngineSettings("app", clean_stack.kafka, clean_stack.data_dir)


@pytest.fixture
async def producer(settings: EngineSettings) -> AsyncIterator[PlainProducer]:
    async with PlainProducer(settings) as made:
        yield made


async def put(producer: PlainProducer, partition: int, value: bytes = b"x") -> int:
    return (await producer.send(TOPIC, partition, b"k", value, ())).offset


async def test_a_batch_that_the_broker_refuses_does_not_disable_its_partition(producer: PlainProducer) -> None:
    """The refused batch has taken sequence numbers that the broker never saw."""
    assert [await put(producer, 0), await put(producer, 1)] == [0, 0]
    with pytest.raises(NotReadable, match=r"commands.*MessageSizeTooLarge"):
        await put(producer, 0, b"x" * 50_000)
    assert [await put(producer, 0), await put(producer, 0), await put(producer, 1)] == [1, 2, 1]


async def test_records_of_other_callers_survive_the_replacement(producer: PlainProducer) -> None:
    """Those of other partitions are written by the old producer while it retires, or by the new one."""
    sends = [put(producer, 1) for _ in range(20)]
    refused, *taken = await asyncio.gather(put(producer, 0, b"x" * 50_000), *sends, return_exceptions=True)
    assert isinstance(refused, NotReadable)
    assert set(taken) == set(range(20))


async def test_many_failed_batches_of_one_producer_replace_it_once(producer: PlainProducer) -> None:
    first = producer._producer
    await asyncio.gather(*(put(producer, n, b"x" * 50_000) for n in (0, 1)), return_exceptions=True)
    second = await producer._current()
    assert second is not first
    producer._replace(first, TOPIC, 0, MessageSizeTooLargeError())  # a late one
    assert await producer._current() is second


async def test_a_record_that_was_never_sent_leaves_the_producer_alone(producer: PlainProducer) -> None:
    before = producer._producer
    with pytest.raises(NotReadable, match="was not sent"):
        await put(producer, 0, b"x" * (13 << 20))
    assert producer._producer is before


class Silent:
    """An aiokafka producer whose broker never answers."""

    def __init__(self) -> None:
        self.stopped = False

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    async def send(self, *_: object, **__: object) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


async def test_a_send_without_an_answer_ends_and_its_outcome_is_called_unknown(settings: EngineSettings) -> None:
    """aiokafka itself never gives up a batch of an idempotent producer."""
    producer, silent = PlainProducer(replace(settings, delivery_timeout_ms=50)), Silent()
    producer._producer = silent
    with pytest.raises(NotReadable, match="or took it and its answer was lost"):
        await put(producer, 0)
    await producer.stop()
    assert silent.stopped
    async with PlainProducer(settings) as again:
        assert await put(again, 0) == 0


async def test_a_start_that_fails_is_tried_again_by_the_next_record(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Silent):
        async def start(self) -> None:
            raise KafkaConnectionError("no broker")

    producer = PlainProducer(settings)
    make = producer._make
    monkeypatch.setattr(producer, "_make", Away)
    with pytest.raises(NotReadable, match="was not sent"):
        await put(producer, 0)
    monkeypatch.setattr(producer, "_make", make)
    assert await put(producer, 0) == 0
    await producer.stop()
    with pytest.raises(NotReadable, match="is stopping"):
        await put(producer, 0)
