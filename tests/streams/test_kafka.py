"""answers of a broker -> what our side of aiokafka makes of them, where aiokafka itself overlooks something."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, GroupLoadInProgressError
from aiokafka.protocol.commit import OffsetFetchResponse_v3

from streams import kafka
from streams.kafka import committed_offsets
from streams.records import TopicPartition
from streams.settings import EngineSettings
from tests.streams.load import Toy

LOADING, MOVED, UNKNOWN_TOPIC, FORBIDDEN = 14, 16, 3, 30
A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)
ANSWER = [("a", [(0, 7, "", 0), (1, -1, "", 0)]), ("b", [(0, -1, "", UNKNOWN_TOPIC)])]


def consumer(*answers: Any) -> Any:
    """A member whose coordinator gives these answers, one after the other; what it was told is in `calls`."""
    left, calls = list(answers), []

    async def send(request: Any) -> Any:
        calls.append(request)
        topics, code = left.pop(0)
        return OffsetFetchResponse_v3(0, topics, code)

    async def known() -> None:
        calls.append("known")

    coordinator = SimpleNamespace(
        group_id="g", ensure_coordinator_known=known, _send_req=send, coordinator_dead=lambda: calls.append("dead")
    )
    return SimpleNamespace(_coordinator=coordinator, calls=calls)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "COORDINATOR_PAUSE_S", 0.0)


async def test_a_coordinator_that_is_not_ready_has_not_said_that_nothing_is_committed() -> None:
    """Its answer lists no partition at all: aiokafka's committed() gives None for each of them."""
    member = consumer(([], LOADING), ([], MOVED), (ANSWER, 0))
    assert await committed_offsets(member, [A0, A1, B0]) == {A0: 7}
    assert member.calls.count("dead") == 1, "who is no longer the coordinator is not asked again"


async def test_patience_ends_and_the_reason_is_told() -> None:
    with pytest.raises(GroupLoadInProgressError):
        await committed_offsets(consumer(*[([], LOADING)] * 3), [A0], patience_s=-1)


async def test_what_will_not_pass_is_told_at_once() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        await committed_offsets(consumer(([], FORBIDDEN)), [A0])
    with pytest.raises(GroupAuthorizationFailedError):
        await committed_offsets(consumer(([("a", [(0, -1, "", FORBIDDEN)])], 0)), [A0])


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
