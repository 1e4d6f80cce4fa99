"""a moment and a record -> the record, sent when the moment has come: time-driven rules stay replayable.

A deadline is state like any other: it is written in the batch that asks for it, survives through the changelog, and is
emitted by the task that owns it in the same transaction that forgets it. What a rule sees is only the record.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from streams.batch import Batch, view_in_use
from streams.codec import Codec, encode_json
from streams.errors import Misdeclared
from streams.partitioner import partition_for
from streams.records import Outgoing, TopicPartition
from streams.table import Table
from streams.topic import Topic

#: Bounds one batch, so that a crowd of deadlines does not hold up the records for longer than a full batch would.
MAX_DUE = 500
#: How the keys of the two rows begin.
BY_TIME, _BY_ID = "t", "i"
_BY_TIME_RAW = BY_TIME.encode()
_MAX_MS = 10**13 - 1


class Deadline(NamedTuple):
    """A record to send at `due_at_ms`; `id` is unique within the task and names it for `cancel`."""

    due_at_ms: int
    id: str
    topic: str
    key: str
    value: bytes


def _encode(deadline: Deadline) -> bytes:
    return orjson.dumps([*deadline[:4], b64encode(deadline.value).decode()])


def _decode(raw: bytes) -> Deadline:
    due_at_ms, id, topic, key, value = orjson.loads(raw)
    return Deadline(due_at_ms, id, topic, key, b64decode(value))


class Deadlines:
    """The deadlines of one group. Two rows each: by time, to find what is due; by id, to cancel or move it."""

    def __init__(self, app_id: str, group: str) -> None:
        self.table: Table[Deadline] = Table(
            app_id, f"{group}_deadlines", group=group, codec=Codec(_encode, _decode), help="Records to send when due."
        )
        self._topics: dict[str, Topic] = {}

    def target(self, topic: Topic) -> None:
        """Declare a topic that deadlines may send to (its partition count is needed when they are due)."""
        self._topics[topic.name] = topic

    def schedule(self, due_at_ms: int, topic: Topic, *, key: str, value: Any, id: str) -> None:
        """Send `value` to `topic` at `due_at_ms` (milliseconds since the epoch). The same id again moves it."""
        if not 0 <= due_at_ms <= _MAX_MS:
            raise ValueError(f"a deadline must lie between 1970 and 2286: {due_at_ms} ms")
        self.target(topic)
        self.cancel(id)
        raw = encode_json(value)
        topic.require_room(key.encode(), raw)  # when it is due there is no record any more that could fail
        deadline = Deadline(due_at_ms, id, topic.name, key, raw)
        self.table[_time_key(deadline)] = deadline
        self.table[_BY_ID + id] = deadline

    def cancel(self, id: str) -> None:
        """Forget a deadline; nothing happens when there is none."""
        deadline = self.table.get(_BY_ID + id)
        if deadline is not None:
            del self.table[_BY_ID + id]
            del self.table[_time_key(deadline)]

    def next_due_ms(self, since_ms: int = 0) -> int | None:
        """When the first deadline is due that is due at `since_ms` or later; None when there is none.

        Deadlines that were sent or cancelled leave deletions before the first one, which a read passes one by one until
        they are compacted: 20 to 120 ms after 200,000 of them. Who knows that there is none before a moment says so.
        """
        for _, deadline in self._since(since_ms, 1):
            return deadline.due_at_ms
        return None

    def floor_ms(self, next_due_ms: int | None, changes: Mapping[bytes, bytes | None]) -> int | None:
        """A moment before which nothing is due, given the first deadline before these changes of the table, and the
        changes; None when there was and is none."""
        scheduled = [_due_of(key) for key, row in changes.items() if row is not None and key.startswith(_BY_TIME_RAW)]
        return min(scheduled if next_due_ms is None else [*scheduled, next_due_ms], default=None)

    def due(self, now_ms: int, since_ms: int = 0) -> Iterator[Deadline]:
        """The deadlines due by now, at most MAX_DUE, given that there is none before `since_ms`."""
        for _, deadline in self._since(since_ms, MAX_DUE):
            if deadline.due_at_ms > now_ms:
                return
            yield deadline

    def _since(self, since_ms: int, limit: int) -> Iterator[tuple[str, Deadline]]:
        after = _moment(since_ms) if since_ms > 0 else None
        return self.table.range(BY_TIME, after=after, limit=limit)

    def emit(self, now_ms: int, since_ms: int = 0) -> int:
        """Send what is due into the current batch and forget it; gives how many. A record's time is its due time."""
        due = list(self.due(now_ms, since_ms))
        for deadline in due:
            self.send(deadline)
        return len(due)

    def send(self, deadline: Deadline) -> None:
        """Send this one into the current batch and forget it."""
        batch = view_in_use("a deadline")
        if not isinstance(batch, Batch):
            raise RuntimeError("deadlines are emitted by their task only")
        topic = self._topics.get(deadline.topic)
        if topic is None:
            raise Misdeclared(
                f"deadline {deadline.id!r} of table {self.table.name} is due and goes to topic {deadline.topic}, which"
                " this version does not declare as a target: the partition waits, since a deadline must not be lost."
                f" Declare it again with `deadlines.target(...)` until none is left, or run the version that does"
            )
        key = deadline.key.encode()
        home = TopicPartition(topic.name, partition_for(key, topic.partitions))
        batch.send(home, Outgoing(deadline.due_at_ms, key, deadline.value))
        self.cancel(deadline.id)

    def stands(self, deadline: Deadline) -> bool:
        """Whether it is still to be sent, at the same moment."""
        return self.table.get(_BY_ID + deadline.id) == deadline


def _time_key(deadline: Deadline) -> str:
    return f"{_moment(deadline.due_at_ms)}\0{deadline.id}"


def _moment(ms: int) -> str:
    """What the keys of all deadlines of a moment begin with, and stand behind."""
    return f"{BY_TIME}{ms:013d}"


def _due_of(raw_key: bytes) -> int:
    return int(raw_key[len(_BY_TIME_RAW) : raw_key.index(b"\0")])
