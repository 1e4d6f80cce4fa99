"""answers of a broker -> what our side of aiokafka makes of them, where aiokafka itself overlooks something."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams import kafka
from streams.records import TopicPartition
from streams.settings import EngineSettings
from tests.streams.load import Toy


@pytest.fixture
async def member(toy: Toy) -> AsyncIterator[AIOKafkaConsumer]:
    """Reads all partitions of `words` with the engine's waits; `requests` counts what it asks the broker for."""
    settings = EngineSettings(app_id="idle", bootstrap=toy.stack.kafka, state_dir=toy.stack.data_dir)
    consumer = AIOKafkaConsumer(bootstrap_servers=toy.stack.kafka, fetch_max_wait_ms=settings.fetch_max_wait_ms)
    await consumer.start()
    take = consumer._fetcher._proc_fetch_request
    consumer.requests = []

    async def counted(*args: Any) -> bool:
        consumer.requests.append(args[-1])
        read: bool = await take(*args)
        return read

    consumer._fetcher._proc_fetch_request = counted
    kafka.rest_when_idle(consumer, settings)
    consumer.assign([TopicPartition("words", n) for n in range(4)])
    for partition in consumer.assignment():
        consumer.seek(partition, 0)
    yield consumer
    await consumer.stop()


async def test_who_is_idle_asks_seldom_and_sees_what_comes_at_once(toy: Toy, member: AIOKafkaConsumer) -> None:
    """The second record of a partition meets a fetch that began without that partition: it has to be a short one."""
    await member.getmany(timeout_ms=1_000)
    member.requests.clear()
    await member.getmany(timeout_ms=1_000)
    assert len(member.requests) < 20, "an idle member asks every 100 ms, not every 5"
    producer = AIOKafkaProducer(bootstrap_servers=toy.stack.kafka)
    await producer.start()
    waits = []
    try:
        for _ in range(10):
            began = time.monotonic()
            await producer.send_and_wait("words", b"x", partition=0)
            while not await member.getmany(timeout_ms=1_000, max_records=1):
                pass
            waits.append(time.monotonic() - began)
    finally:
        await producer.stop()
    assert sorted(waits)[len(waits) // 2] < kafka.IDLE_FETCH_MS / 1000 / 2, waits
