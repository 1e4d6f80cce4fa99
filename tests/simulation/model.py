"""what the log shows of a topology -> what must come of it: the words that both topologies' models share.

A model is written from the documented behaviour and shares no code with the rules. It works on plain values: rows and
outputs are brought to a normal form, so that the order of JSON members or of headers does not matter.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, ClassVar, NamedTuple, Protocol

import orjson
from aiokafka.partitioner import murmur2

from streams import App
from streams.records import StoredRecord

LETTERS = "dead_letters.v1"


class Out(NamedTuple):
    """An output in its normal form."""

    topic: str
    partition: int
    timestamp: int
    key: bytes | None
    value: Any
    headers: Any


class Due(NamedTuple):
    """A deadline that waits."""

    due_at_ms: int
    id: str
    topic: str
    key: str
    value: bytes


@dataclass
class State:
    """One task's tables, normal rows by key, and its deadlines by id."""

    tables: dict[str, dict[bytes, Any]] = field(default_factory=dict)
    due: dict[str, Due] = field(default_factory=dict)
    deadlines: str = ""

    def copy(self) -> State:
        return State({name: dict(rows) for name, rows in self.tables.items()}, dict(self.due), self.deadlines)

    def schedule(self, due: Due) -> None:
        """Two rows: by time and by id; the same id again moves it."""
        self.cancel(due.id)
        self.due[due.id] = due
        row = [*due[:4], b64encode(due.value).decode()]
        rows = self.tables[self.deadlines]
        rows[b"t%013d\0%b" % (due.due_at_ms, due.id.encode())] = rows[b"i" + due.id.encode()] = row

    def cancel(self, id: str) -> None:
        due = self.due.pop(id, None)
        if due is not None:
            rows = self.tables[self.deadlines]
            del rows[b"t%013d\0%b" % (due.due_at_ms, id.encode())], rows[b"i" + id.encode()]


class Word(NamedTuple):
    """A record as a producer sends it; `about` is what a trace shows of it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    about: str
    headers: tuple[tuple[str, bytes], ...] = ()


class Topology(Protocol):
    """An application to simulate, and what must come of it."""

    name: ClassVar[str]
    #: group -> its input topics
    inputs: ClassVar[Mapping[str, tuple[str, ...]]]
    #: group -> its tables
    tables: ClassVar[Mapping[str, tuple[str, ...]]]
    #: group -> its table of deadlines
    deadlines: ClassVar[Mapping[str, str]]
    #: topics that only the tasks write to
    outputs: ClassVar[tuple[str, ...]]
    #: group -> the table that readers ask
    asked: ClassVar[Mapping[str, str]]

    def app(self, partitions: int) -> App:
        """The application, attached as its own wiring does; made once."""

    def words(self, chance: Random, partitions: int, count: int, now_ms: int, first: int = 0) -> list[Word]:
        """What producers send in one history; ids are numbered from `first`."""

    def work(self, state: State, record: StoredRecord, partitions: int) -> list[Out]:
        """What a record does to the state, and the outputs that it causes."""

    def row(self, table: str, value: bytes) -> Any:
        """A row's bytes in normal form."""

    def out(self, record: StoredRecord) -> Out:
        """A record of an output in normal form."""

    def due_value(self, value: bytes) -> Any:
        """A deadline's value in the normal form of its topic."""

    def identity(self, out: Out) -> str | None:
        """What no two outputs may share; None for those that have no name."""

    def keys(self, group: str) -> list[str]:
        """The keys that readers ask for."""

    def told(self, value: Any) -> Any:
        """What a reader sees of a row, as the application gives it, in the row's normal form."""


@cache
def home(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def letter(record: StoredRecord, kind: str, partitions: int) -> Out:
    """The dead letter of a record."""
    original = [(name, value) for name, value in record.headers if not name.startswith("dead-letter-")]
    said = {
        "kind": kind.encode(),
        "topic": record.topic.encode(),
        "partition": b"%d" % record.partition,
        "offset": b"%d" % record.offset,
        "timestamp": b"%d" % record.timestamp,
        "attempt": b"1",
    }
    headers = {"original": original, "said": said}
    return Out(LETTERS, record.partition % partitions, record.timestamp, record.key, record.value, headers)


def letter_seen(record: StoredRecord) -> Out:
    """A dead letter of the log in normal form; the faults and the agent's name are not the simulation's subject."""
    prefix = "dead-letter-"
    original = [(name, value) for name, value in record.headers if not name.startswith(prefix)]
    said = {name.removeprefix(prefix): value for name, value in record.headers if name.startswith(prefix)}
    for name in ("faults", "agent", "reason"):
        said.pop(name, None)
    return _out(record, record.value, {"original": original, "said": said})


def _out(record: StoredRecord, value: Any, headers: Any) -> Out:
    return Out(record.topic, record.partition, record.timestamp, record.key, value, headers)


def json_out(record: StoredRecord, parse: Callable[[bytes], Any] = orjson.loads) -> Out:
    value = None if record.value is None else parse(record.value)
    return _out(record, value, tuple(record.headers))


def due_out(due: Due, partitions: int, value: Any) -> Out:
    """What is sent when a deadline has come."""
    key = due.key.encode()
    return Out(due.topic, home(key, partitions), due.due_at_ms, key, value, ())
