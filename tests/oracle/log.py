"""records as they stand in the log -> the names that the oracle uses for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple
from uuid import UUID

from aiokafka.partitioner import murmur2

INTAKE = "orders"
COMMANDS = "orders.commands.v1"
EVENTS = "orders.events.v1"
LETTERS = "dead_letters.v1"

#: The name space of all derived ids. Documented as never changing: another one would give every replay other ids.
NAMESPACE = UUID("6f1f4f3e-5d0a-5c59-9d0e-0a4f2b7c81e6")
#: 13 digits of milliseconds: times outside of 1970 to 2286 are brought to the nearest end.
LAST_MS = 9_999_999_999_999


class Position(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


class Record(NamedTuple):
    """One record as a reader gets it. `timestamp` in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset)


@dataclass(frozen=True)
class Log:
    """All that was written, as a read-committed reader sees it: topic -> records, by partition and offset.

    `changelogs`: table -> records. `sent`: the positions that clients were told when they wrote to the topic of
    commands; None when nobody kept them.
    """

    partitions: int
    topics: Mapping[str, Sequence[Record]]
    changelogs: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    sent: frozenset[Position] | None = None

    def of(self, topic: str) -> Sequence[Record]:
        return self.topics.get(topic, ())


@lru_cache(maxsize=1 << 20)
def home_of(key: str, partitions: int) -> int:
    """Kafka's default: murmur2 over the key, made positive, modulo the partitions (`toPositive(murmur2(key)) % n`)."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def derived(name: str) -> str:
    """The id that follows from a name: RFC 9562 version 5. As uuid.uuid5, which takes four times as long."""
    raw = bytearray(sha1(NAMESPACE.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def clamped_ms(timestamp: int) -> int:
    return min(max(timestamp, 0), LAST_MS)


def moment(timestamp: int) -> str:
    """RFC 3339, UTC, milliseconds, as events tell the time of the record that caused them."""
    seconds, milliseconds = divmod(clamped_ms(timestamp), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
