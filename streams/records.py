"""records as the log has them -> the shapes that every room shares (Record, Position, Outgoing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aiokafka.structs import TopicPartition

__all__ = ["Event", "Fields", "Headers", "Omitted", "Outgoing", "Position", "Record", "StoredRecord", "TopicPartition"]

Headers = Sequence[tuple[str, bytes]]


class Record(Protocol):
    """One record of a topic. `timestamp` is in milliseconds since the epoch (aiokafka's ConsumerRecord fits)."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


#: A character of a header's name has at most so many bytes, and a header at most so many for its two lengths.
MAX_UTF8, HEADER_BYTES = 4, 10
#: Of a record besides key, value and headers, and of the batch around it.
RECORD_OVERHEAD_BYTES = 512

#: What an agent holds in its hand: Faust's word for a record that is being processed.
Event = Record


class StoredRecord(NamedTuple):
    """A Record outside aiokafka: what the in-memory log of the test driver keeps."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


#: What an Outgoing is made of. Hot paths build the bare tuple: the class costs a third of a microsecond a record.
Fields = tuple[int, bytes | None, bytes | None, Headers]


class Outgoing(NamedTuple):
    """A record on its way out, its partition already chosen; `timestamp` in milliseconds."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Omitted(bytes):
    """Stands for a value that is too large to be held: empty, with its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str

    @classmethod
    def of(cls, size: int, sha256: str) -> Omitted:
        omitted = cls()
        omitted.size, omitted.sha256 = size, sha256
        return omitted


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a record's content, as it counts towards a topic's max.message.bytes."""
    size = len(key or b"") + (value.size if isinstance(value, Omitted) else len(value or b""))
    # A header may have no value, though its type does not say so.
    return size + sum(len(name) * MAX_UTF8 + len(content or b"") + HEADER_BYTES for name, content in headers)


def _whole_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


class Position(NamedTuple):
    """Where a record stands in the log. Its text form is `topic-partition-offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `topic-partition-offset` (the topic may hold hyphens). Raises ValueError."""
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        parts = text.rsplit("-", 2)
        # int() of thousands of digits raises an error of its own; Kafka's largest offset has 19.
        if len(parts) != 3 or not parts[0] or not all(_whole_number(part) for part in parts[1:]):
            raise ValueError(f"not a position: {shown!r}; write <topic>-<partition>-<offset>, as in orders-2-1234")
        partition, offset = int(parts[1]), int(parts[2])
        if partition >= 2**31 or offset >= 2**63:
            raise ValueError(f"not a position: {shown!r}; the partition or the offset is larger than Kafka's")
        return cls(parts[0], partition, offset)
