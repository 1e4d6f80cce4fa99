"""a static member's heartbeat -> the same with the member's own id, so that a member that was replaced hears of it.

aiokafka's heartbeats do not say which instance they are of. The broker then calls a replaced member unknown, and it
joins again and replaces its replacement: two workers with one id would put each other out for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import BrokerResponseError, KafkaError, NoError, RebalanceInProgressError, for_code, kafka_errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatResponse_v1
from aiokafka.protocol.types import Int32, Schema, String

from streams.records import TopicPartition

if TYPE_CHECKING:
    from streams.engine import Engine


class FencedInstanceId(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """Another member has taken the place of this group instance id (KIP-345). aiokafka 0.14 does not know the code, and
    calls it UnknownError as it does all others that it does not know: those pass, and this one does not."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "Another member uses this group instance id."


kafka_errors.setdefault(FencedInstanceId.errno, FencedInstanceId)


class _Response(Response):  # type: ignore[misc]
    API_KEY, API_VERSION, SCHEMA = 12, 3, HeartbeatResponse_v1.SCHEMA


class _Struct(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 12, 3, _Response
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class InstanceHeartbeat(Request[_Struct]):  # type: ignore[misc]
    """KIP-345's: refused with FENCED_INSTANCE_ID when another member has taken the instance's place."""

    API_KEY = 12

    def __init__(self, plain: HeartbeatRequest, instance_id: str) -> None:
        self._words = (plain._group, plain._generation_id, plain._member_id, instance_id)

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        return request_struct_class(*self._words)


#: Answers to a heartbeat: the group is complete, or it rebalances and no member has got a new assignment yet.
IN_THE_GROUP = (NoError, RebalanceInProgressError)


async def is_member(coordinator: Any) -> bool:
    """Ask the group whether this member is in its current generation; False also when nobody answers.

    Nothing in the coordinator changes, unlike after its own heartbeat: an answer that comes late, while the member
    joins again, must not reset the generation that is about to begin.
    """
    request = HeartbeatRequest(coordinator.group_id, coordinator.generation, coordinator.member_id)
    try:
        answer = await coordinator._send_req(request)
    except KafkaError:
        return False
    return for_code(answer.error_code) in IN_THE_GROUP


def name_instance(coordinator: Any) -> None:
    """Have this coordinator's heartbeats say which instance they are of, if it is one."""
    send, instance_id = coordinator._send_req, coordinator._group_instance_id

    async def named(request: Any) -> Any:
        return await send(InstanceHeartbeat(request, instance_id) if isinstance(request, HeartbeatRequest) else request)

    if instance_id is not None:
        coordinator._send_req = named


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes aiokafka's rebalance callbacks to the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._engine.revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._engine.assigned(assigned)


class Unconfirmed(Exception):
    """The group has not confirmed this member for long: what it knows of the cluster may be of no use any more."""


class Confirmation:
    """Raises Unconfirmed when a member has heard nothing from its group for several sessions.

    A new membership begins with new clients, from the bootstrap addresses: brokers may all have been replaced. Longer
    than two rebalances, since no heartbeat is confirmed while one lasts.
    """

    SESSIONS = 3

    def __init__(self, session_ms: int, rebalance_ms: int, now: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = max(self.SESSIONS * session_ms, 2 * rebalance_ms) / 1000
        self._session_s, self._now = session_ms / 1000, now
        self._since = self._seen_at = now()

    def check(self, confirmed_at: float) -> None:
        """Called every half second; time in which this process itself slept does not count. Raises Unconfirmed."""
        now, before = self._now(), self._seen_at
        self._seen_at = now
        if now - before > self._session_s:
            self._since = now
        if now - max(self._since, confirmed_at) > self.limit_s:
            raise Unconfirmed(
                f"the group has not confirmed this worker for {self.limit_s:.0f} s: it joins again with new connections"
                " from the bootstrap addresses"
            )
