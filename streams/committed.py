"""Reads the offsets that a group has committed: the only reader of them, for tasks, effects, movers and commands."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streams.records import TopicPartition

#: A coordinator that loads its group, or has moved, is asked again this long before the caller gets its error.
COORDINATOR_S, COORDINATOR_PAUSE_S = 30.0, 0.1
#: An offset that is about to be committed by a transaction is settled within milliseconds of its end.
UNSTABLE_PAUSE_S = 0.02


class UnstableOffsetCommit(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """A transaction that has not ended, or whose end has not reached the coordinator, will commit this offset."""

    errno = 88
    message = "UNSTABLE_OFFSET_COMMIT"
    description = "There are unstable offsets that need to be cleared."
    retriable = True


class _FetchedOffsets(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _FetchOffsets(RequestStruct):  # type: ignore[misc]
    """Kafka's OffsetFetch, version 7 (KIP-447, Kafka 2.5); aiokafka 0.14 has versions 1 to 3."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _FetchedOffsets
    SCHEMA = Schema(
        ("consumer_group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetsRequest(Request[_FetchOffsets]):  # type: ignore[misc]
    """Committed offsets, with UNSTABLE_OFFSET_COMMIT for those that a transaction is about to change."""

    API_KEY = 9

    def __init__(self, group: str, partitions: Sequence[TopicPartition]) -> None:
        self.group, self.partitions = group, tuple(partitions)

    def build(self, request_struct_class: type[_FetchOffsets]) -> _FetchOffsets:
        wanted: dict[str, list[int]] = defaultdict(list)
        for topic, partition in self.partitions:
            wanted[topic].append(partition)
        return request_struct_class(self.group, [(*each, {}) for each in wanted.items()], True, {})


async def committed_offsets(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], patience_s: float = COORDINATOR_S
) -> dict[TopicPartition, int]:
    """The group's committed offsets; partitions without one are left out. Raises KafkaError.

    aiokafka's own committed() overlooks the error that stands for a whole answer (COORDINATOR_LOAD_IN_PROGRESS,
    NOT_COORDINATOR) and returns "nothing is committed": after a restart of a broker everything would be done again.
    """
    return {tp: offset for tp, (offset, _) in (await committed_by(consumer, partitions, patience_s)).items()}


async def committed_by(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition], patience_s: float = COORDINATOR_S
) -> dict[TopicPartition, tuple[int, str]]:
    """As committed_offsets, each with the metadata of its committer: BY_TASK, or what Kafka's tools write.

    Only stable offsets are returned. Asked after InitProducerId of the only producer that commits them, they include
    every transaction of the owners before. Without `require_stable` a coordinator of Kafka 3.9.0 and earlier answers
    with the offset from before the last commit for up to 0.1 s after the fence (KAFKA-17507), and one that lost its
    partition without knowing it does so on every version.
    """
    coordinator, deadline = consumer._coordinator, time.monotonic() + patience_s
    offsets: dict[TopicPartition, tuple[int, str]] = {}
    missing = list(partitions)
    while missing:
        try:
            await coordinator.ensure_coordinator_known()
            missing = await _fetch(coordinator, missing, offsets)
            if missing and time.monotonic() > deadline:
                raise UnstableOffsetCommit(
                    f"a transaction of group {coordinator.group_id} has stayed open for {patience_s:.0f} s:"
                    f" {', '.join(f'{topic}-{partition}' for topic, partition in missing[:5])}"
                )
            await asyncio.sleep(UNSTABLE_PAUSE_S if missing else 0)
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
            if isinstance(error, NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            await asyncio.sleep(COORDINATOR_PAUSE_S)
    return offsets


async def _fetch(
    coordinator: Any, partitions: Sequence[TopicPartition], offsets: dict[TopicPartition, tuple[int, str]]
) -> list[TopicPartition]:
    """Ask once and add to `offsets`; returns the partitions whose offsets are not stable yet."""
    response = await coordinator._send_req(StableOffsetsRequest(coordinator.group_id, partitions))
    require(response.error_code)
    unstable: list[TopicPartition] = []
    for topic, found, _ in response.topics:
        for partition, offset, _epoch, beside, code, _tags in found:
            if code == UnstableOffsetCommit.errno:
                unstable.append(TopicPartition(topic, partition))
            elif for_code(code) is not UnknownTopicOrPartitionError:
                require(code)
                if offset >= 0:
                    offsets[TopicPartition(topic, partition)] = offset, beside or ""
    return unstable


def require(code: int) -> None:
    """Raise what a broker's error code stands for."""
    if code:
        raise for_code(code)()
