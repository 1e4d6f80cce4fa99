"""fetches of a consumer -> what brokers are told of them: first everything, then what has changed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest

from streams.fetch_sessions import LAST_EPOCH, FetchSessions, remember_fetches
from streams.records import TopicPartition
from tests.streams.load import Toy

ID = 77
LOST = 71  # INVALID_FETCH_SESSION_EPOCH


class Broker:
    """Keeps what it was told; its answers say nothing of any partition."""

    def __init__(self, newest: int = 11) -> None:
        self.newest, self.asked, self.instead = newest, list[Any](), list[Any]()
        self._client = self

    async def send(self, node_id: Any, request: Any, **options: Any) -> Any:
        self.asked.append((node_id, request.prepare({1: (4, self.newest), 3: (0, 9)})))
        await asyncio.sleep(0)
        instead = self.instead.pop(0) if self.instead else None
        if isinstance(instead, BaseException):
            raise instead
        code, id = instead or (0, ID)
        return SimpleNamespace(API_VERSION=self.newest, error_code=code, session_id=id, topics=[])

    def last(self) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
        """Session, its epoch, offsets by partition as they were asked for, and what is no longer wanted."""
        _, request = self.asked[-1]
        at = 1 if self.newest < 9 else 2
        offsets = {topic: {each[0]: each[at] for each in some} for topic, some in request.topics}
        return request.session_id, request.session_epoch, offsets, dict(request.forgotten_topics_data)


def fetch(**offsets: dict[int, int]) -> FetchRequest:
    topics = [
        (topic, [(partition, offset, 1_000) for partition, offset in of.items()]) for topic, of in offsets.items()
    ]
    return FetchRequest(5, 1, 1_000, 1, topics)


@pytest.mark.parametrize("newest", [7, 8, 9, 11])
async def test_only_what_has_changed_is_said_again(newest: int) -> None:
    broker = Broker(newest)
    sessions = FetchSessions(broker)
    await sessions.send(1, fetch(a={0: 5, 1: 6}, b={0: 7}))
    assert broker.last() == (0, 0, {"a": {0: 5, 1: 6}, "b": {0: 7}}, {})
    await sessions.send(1, fetch(a={0: 5, 1: 6}, b={0: 7}))
    assert broker.last() == (ID, 1, {}, {})
    await sessions.send(1, fetch(a={0: 9, 1: 6}, b={0: 7}))
    assert broker.last() == (ID, 2, {"a": {0: 9}}, {})
    await sessions.send(1, fetch(a={1: 6}))  # the others' records are here and wait to be taken
    _, epoch, offsets, forgotten = broker.last()
    assert (epoch, offsets, forgotten) == (3, {}, {"a": [0], "b": [0]})
    await sessions.send(1, fetch(a={0: 10, 1: 6}, b={0: 7}))
    assert broker.last() == (ID, 4, {"a": {0: 10}, "b": {0: 7}}, {})


async def test_each_broker_has_a_session_of_its_own() -> None:
    broker = Broker()
    sessions = FetchSessions(broker)
    for node in (1, 2, 1):
        await sessions.send(node, fetch(a={0: 5}))
    assert [(node, request.session_epoch) for node, request in broker.asked] == [(1, 0), (2, 0), (1, 1)]


@pytest.mark.parametrize("mishap", [KafkaConnectionError(), asyncio.CancelledError(), (LOST, 0), (0, 0)])
async def test_a_session_that_either_side_has_lost_is_begun_anew(mishap: Any) -> None:
    """Lost, given up while it was asked, unknown to the broker, or not kept by it."""
    broker = Broker()
    sessions = FetchSessions(broker)
    await sessions.send(1, fetch(a={0: 5}))
    broker.instead = [mishap]
    if isinstance(mishap, BaseException):
        with pytest.raises(type(mishap)):
            await sessions.send(1, fetch(a={0: 5}))
    else:
        await sessions.send(1, fetch(a={0: 5}))
    await sessions.send(1, fetch(a={0: 5}))
    assert broker.last() == (0, 0, {"a": {0: 5}}, {})


async def test_numbers_begin_again_after_the_last() -> None:
    broker = Broker()
    sessions = FetchSessions(broker)
    await sessions.send(1, fetch(a={0: 5}))
    sessions._sessions[1].epoch = LAST_EPOCH
    for _ in range(2):
        await sessions.send(1, fetch(a={0: 5}))
    assert broker.last()[:2] == (ID, 1)


async def test_old_brokers_and_other_requests_are_left_alone() -> None:
    broker = Broker(newest=6)
    sessions = FetchSessions(broker)
    for _ in range(2):
        await sessions.send(1, fetch(a={0: 5}))
    assert [len(request.topics) for _, request in broker.asked] == [1, 1]
    await sessions.send(1, MetadataRequest([]))
    assert type(broker.asked[-1][1]).__name__.startswith("MetadataRequest")


async def test_nothing_is_missed_and_nothing_comes_twice(toy: Toy) -> None:
    """On a real broker: partitions that fill by turns, some paused, one sought back, and the session lost meanwhile."""
    parts = [TopicPartition("words", n) for n in range(4)]
    consumer = AIOKafkaConsumer(bootstrap_servers=toy.stack.kafka, fetch_max_wait_ms=5, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=toy.stack.kafka)
    await consumer.start()
    await producer.start()
    try:
        consumer.assign(parts)
        await consumer.seek_to_end(*parts)
        first = {part: await consumer.position(part) for part in parts}
        said: list[Any] = []
        send = consumer._client.send

        async def noted(node_id: Any, request: Any, **options: Any) -> Any:
            answer = await send(node_id, request, **options)
            if hasattr(answer, "session_id"):
                said.append((request._session.epoch, len(answer.topics)))
            return answer

        consumer._client.send = noted
        remember_fetches(consumer)
        taken: dict[TopicPartition, list[int]] = {part: [] for part in parts}

        async def take(count: int) -> None:
            while count > 0:
                for part, records in (await consumer.getmany(timeout_ms=1_000, max_records=3)).items():
                    taken[part] += [record.offset for record in records]
                    count -= len(records)

        for turn in range(40):
            for n in range(turn % 4 + 1):
                await producer.send_and_wait("words", b"x", partition=(turn + n) % 4)
            if turn % 5 == 0:
                consumer.pause(parts[turn % 4])
            if turn % 7 == 0:
                consumer.resume(*parts)
            if turn == 20:
                consumer._client.send.__self__._sessions.clear()
            await asyncio.sleep(0.01)
            if turn % 3 == 0:
                consumer.resume(*parts)
                await take(turn % 4 + 1)
        ends = await consumer.end_offsets(parts)
        consumer.resume(*parts)
        await take(sum(ends.values()) - sum(first.values()) - sum(map(len, taken.values())))
        assert taken == {part: list(range(first[part], ends[part])) for part in parts}
        consumer.seek(parts[0], first[parts[0]])
        taken[parts[0]].clear()
        await take(ends[parts[0]] - first[parts[0]])
        assert taken[parts[0]] == list(range(first[parts[0]], ends[parts[0]]))
        assert [epoch for epoch, _ in said].count(0) == 2, "one session until it was lost, and one from there on"
    finally:
        await consumer.stop()
        await producer.stop()
