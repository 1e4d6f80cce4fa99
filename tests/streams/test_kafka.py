"""answers of a broker -> what our side of aiokafka makes of them, where aiokafka itself overlooks something."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, GroupLoadInProgressError
from aiokafka.protocol.commit import OffsetFetchResponse_v3

from streams import kafka
from streams.kafka import committed_offsets
from streams.records import TopicPartition

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
