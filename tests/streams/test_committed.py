"""Committed offsets: an error is never taken for "nothing is committed", and an unsettled offset is never returned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError, GroupLoadInProgressError
from aiokafka.protocol.commit import OffsetFetchRequest

from streams import committed
from streams.committed import StableOffsetsRequest, UnstableOffsetCommit, committed_by, committed_offsets
from streams.effects import CommittedSource
from streams.kafka import onlooker
from streams.records import Outgoing, TopicPartition
from streams.settings import EngineSettings
from streams.transactions import BY_TASK, KafkaTransactions
from tests.streams.load import Toy

LOADING, MOVED, UNKNOWN_TOPIC, FORBIDDEN, UNSTABLE = 14, 16, 3, 30, 88
A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)


def row(partition: int, offset: int, code: int = 0) -> tuple[Any, ...]:
    return partition, offset, -1, "", code, {}


ANSWER: list[Any] = [("a", [row(0, 7), row(1, -1)], {}), ("b", [row(0, -1, UNKNOWN_TOPIC)], {})]


def consumer(*answers: Any) -> Any:
    """A member whose coordinator gives these answers, one after the other; its requests are in `calls`."""
    left, calls = list(answers), []

    async def send(request: Any) -> Any:
        calls.append(request)
        topics, code = left.pop(0)
        return StableOffsetsRequest._CLASSES[0].RESPONSE_TYPE(0, topics, code, {})

    async def known() -> None:
        calls.append("known")

    coordinator = SimpleNamespace(
        group_id="g", ensure_coordinator_known=known, _send_req=send, coordinator_dead=lambda: calls.append("dead")
    )
    return SimpleNamespace(_coordinator=coordinator, calls=calls)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed, "COORDINATOR_PAUSE_S", 0.0)
    monkeypatch.setattr(committed, "UNSTABLE_PAUSE_S", 0.0)


async def test_a_coordinator_that_is_not_ready_has_not_said_that_nothing_is_committed() -> None:
    """Its answer lists no partition at all: aiokafka's committed() returns None for each of them."""
    member = consumer(([], LOADING), ([], MOVED), (ANSWER, 0))
    assert await committed_offsets(member, [A0, A1, B0]) == {A0: 7}
    assert member.calls.count("dead") == 1, "who is no longer the coordinator is not asked again"


async def test_the_source_of_effects_and_movers_reads_in_the_same_way() -> None:
    source = CommittedSource("nowhere:1", "g", ["a"])
    source._consumer = consumer(([], LOADING), (ANSWER, 0))
    assert await source.committed([A0, A1]) == {A0: 7, A1: None}


async def test_patience_ends_and_the_reason_is_raised() -> None:
    with pytest.raises(GroupLoadInProgressError):
        await committed_offsets(consumer(*[([], LOADING)] * 3), [A0], patience_s=-1)
    with pytest.raises(UnstableOffsetCommit, match="a transaction of group g has stayed open"):
        await committed_offsets(consumer(([("a", [row(0, 7, UNSTABLE)], {})], 0)), [A0], patience_s=-1)


async def test_an_error_that_will_not_pass_is_raised_at_once() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        await committed_offsets(consumer(([], FORBIDDEN)), [A0])
    with pytest.raises(GroupAuthorizationFailedError):
        await committed_offsets(consumer(([("a", [row(0, -1, FORBIDDEN)], {})], 0)), [A0])


async def test_only_unstable_partitions_are_asked_for_again() -> None:
    """Under load some partition is unstable at any moment: all at once might never be settled."""
    first: list[Any] = [("a", [row(0, 7, UNSTABLE), row(1, 5)], {})]
    member = consumer((first, 0), ([("a", [row(0, 9)], {})], 0))
    assert await committed_offsets(member, [A0, A1]) == {A0: 9, A1: 5}
    asked = [call.partitions for call in member.calls if isinstance(call, StableOffsetsRequest)]
    assert asked == [(A0, A1), (A0,)]


WORDS = TopicPartition("words", 0)


@pytest.fixture
async def reader(toy: Toy) -> AsyncIterator[AIOKafkaConsumer]:
    settings = EngineSettings(app_id="stable", bootstrap=toy.stack.kafka, state_dir=toy.stack.data_dir)
    async with onlooker(settings) as consumer:
        await consumer._coordinator.ensure_coordinator_known()
        yield consumer


async def test_a_broker_settles_the_transaction_before_its_offset_is_returned(
    toy: Toy, reader: AIOKafkaConsumer
) -> None:
    """Requests to a real broker while a transaction that commits an offset is open, and after its end."""
    settings = EngineSettings(app_id="stable", bootstrap=toy.stack.kafka, state_dir=toy.stack.data_dir)
    writer = KafkaTransactions(settings, "stable-words-0")
    await writer.start()

    async def commit_offset(offset: int) -> None:
        await writer.begin()
        await writer.send({WORDS: [Outgoing(0, b"k", b"v")]})
        await writer.send_offsets({WORDS: offset})

    try:
        await commit_offset(3)
        await writer.commit()
        assert await committed_by(reader, [WORDS]) == {WORDS: (3, BY_TASK)}
        await commit_offset(4)
        old = await reader._coordinator._send_req(OffsetFetchRequest("stable", [("words", [0])]))
        assert old.topics[0][1][0][1] == 3, "as aiokafka reads it: the offset from before, without a hint"
        with pytest.raises(UnstableOffsetCommit):
            await committed_by(reader, [WORDS], patience_s=-1)
        reading = asyncio.create_task(committed_by(reader, [WORDS]))
        await writer.commit()
        assert await reading == {WORDS: (4, BY_TASK)}
    finally:
        await writer.stop()


async def test_the_next_owner_never_reads_an_offset_from_before_the_fence(toy: Toy, reader: AIOKafkaConsumer) -> None:
    """The order of a take-over: the old owner's last commit, the new owner's InitProducerId, then the offset.

    On Kafka 3.9.0 and earlier 2 to 3 in 100 are stale without `require_stable`; on later ones this proves the request.
    """
    settings = EngineSettings(app_id="stable", bootstrap=toy.stack.kafka, state_dir=toy.stack.data_dir)
    owners = []
    try:
        for offset in range(1, 30):
            owner = KafkaTransactions(settings, "stable-words-0")
            owners.append(owner)
            await owner.start()
            assert (await committed_offsets(reader, [WORDS])).get(WORDS, 0) == offset - 1
            await owner.begin()
            await owner.send({WORDS: [Outgoing(0, b"k", b"v")]})
            await owner.send_offsets({WORDS: offset})
            await owner.commit()
    finally:
        for owner in owners:
            await owner.stop()
