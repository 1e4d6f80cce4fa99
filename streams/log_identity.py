"""Reads which log this is: the cluster's id, and the id that each topic got when it was created.

Offsets mean something in one log only. A topic that is deleted and created again has the same name and the same offsets
and another id (KIP-516), so whatever keeps offsets outside of Kafka keeps these ids beside them.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import IO, Any, NamedTuple

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from streams import admin
from streams.brokers import Brokers


class LogIdentity(NamedTuple):
    """`topics`: name -> id of those that exist."""

    cluster: str
    topics: Mapping[str, str]

    def difference(self, other: LogIdentity) -> str | None:
        """Why `other` is not this log, of the topics that both have; None when it is."""
        if other.cluster != self.cluster:
            return f"it is of the cluster {other.cluster}, and this is the cluster {self.cluster}"
        again = sorted(name for name, id in other.topics.items() if self.topics.get(name, id) != id)
        if again:
            return f"{', '.join(again[:5])}{' and others were' if len(again) > 5 else ' was'} deleted and created again"
        gone = sorted(other.topics.keys() - self.topics.keys())
        return f"there is no topic {', '.join(gone[:5])} any more" if gone else None


class _Uuid(AbstractType[str]):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: str) -> bytes:
        return uuid.UUID(value).bytes

    @classmethod
    def decode(cls, data: IO[bytes]) -> str:
        return str(uuid.UUID(bytes=data.read(16)))


class _Metadata(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AskMetadata(RequestStruct):  # type: ignore[misc]
    """Kafka's Metadata, version 12 (Kafka 3.0); aiokafka 0.14 has versions 0 to 5, without the ids of topics."""

    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Metadata
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_AskMetadata]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_AskMetadata]) -> _AskMetadata:
        return request_struct_class([(str(uuid.UUID(int=0)), name, {}) for name in self._topics], False, False, {})


async def read_identity(
    brokers: Brokers | str, topics: Collection[str], *, timeout_s: float = admin.ANSWER_TIMEOUT_S
) -> LogIdentity:
    """Ask a broker. Raises admin.BrokerUnreachable, NotLetIn, admin.TopicsRefused (a broker before Kafka 3.0)."""
    async with admin.admin_client(brokers, timeout_s) as client:
        answer: Any = await client._client.send(client._client.get_random_node(), _MetadataRequest(sorted(topics)))
    found = {}
    for code, name, id, *_ in answer.topics:
        if code == 0:
            found[name] = id
        elif code != 3:  # UNKNOWN_TOPIC_OR_PARTITION
            raise admin.TopicsRefused(f"{name}: {for_code(code).__name__}")
    return LogIdentity(answer.cluster_id, found)
