"""one batch's reads, writes and sends -> held back until its transaction has committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from streams.errors import NotReadable, StoreDamaged, StoreUnavailable
from streams.records import Fields, Record, TopicPartition

if TYPE_CHECKING:
    from streams.store import Store
    from streams.table import Table

_ABSENT: Any = object()

#: A row of the overlay: the value as agents see it and the bytes that the log will hold; both None for a deletion.
Row = tuple[Any, bytes | None]
DELETED: Row = (None, None)


class View(Protocol):
    """What a table reads through: a batch in an agent, committed state behind HTTP."""

    partition: int

    def get(self, table: Table[Any], key: bytes) -> Any: ...
    def range(self, table: Table[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, Any]]: ...


#: The view of whoever runs now. Agents and readers are asyncio tasks of their own, so each sees its own.
current_view: ContextVar[View | None] = ContextVar("current_view", default=None)


def view_in_use(what: str) -> View:
    """The current view, or an error that says where `what` may be used."""
    view = current_view.get()
    if view is None:
        raise RuntimeError(f"{what} is readable only inside an agent or within `async with app.reading(...)`")
    return view


class CommittedView:
    """Reads of committed state only: what every HTTP answer is made of.

    A store that turns out to be damaged or closed under a read is NotReadable to the reader; `on_damage` is told, so
    that the task can have it rebuilt.
    """

    def __init__(self, store: Store, partition: int, on_damage: Callable[[StoreDamaged], None]) -> None:
        self._store, self.partition, self._on_damage = store, partition, on_damage

    def get(self, table: Table[Any], key: bytes) -> Any:
        with self._guarded():
            raw = self._store.get(table.name, key)
        return None if raw is None else table.codec.decode(raw)

    def range(self, table: Table[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, Any]]:
        decode = table.codec.decode
        with self._guarded():
            for key, raw in self._store.range(table.name, start, end, reverse):
                yield key, decode(raw)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except StoreDamaged as error:
            self._on_damage(error)
            raise NotReadable("the local store is damaged and is being rebuilt") from error
        except StoreUnavailable as error:
            raise NotReadable("the local store was closed: its task moved or is being started again") from error


class Batch:
    """The overlay and the outbox of one transaction, with a savepoint per record.

    Reads see the overlay first and the store second. Several writes of one key leave one change behind: only the last
    is sent to the changelog.
    """

    def __init__(self, store: Store, partition: int) -> None:
        self.partition = partition
        self.record: Record | None = None
        self.changes: dict[Table[Any], dict[bytes, Row]] = {}
        self.outbox: dict[TopicPartition, list[Fields]] = {}
        self._store = store
        self._undo: list[tuple[dict[bytes, Row], bytes, Row]] = []
        self._sent: list[list[Fields]] = []

    @property
    def timestamp(self) -> int:
        """What is derived from a record carries that record's time, so that a re-run writes the same bytes."""
        return self.record.timestamp if self.record is not None else 0

    def reset(self) -> None:
        """Begin the next batch with nothing written and nothing sent."""
        self.record = None
        self.changes, self.outbox = {}, {}
        self._undo.clear()
        self._sent.clear()

    def savepoint(self, record: Record | None) -> None:
        """Everything written and sent from here on belongs to this record."""
        self.record = record
        self._undo.clear()
        self._sent.clear()

    def rollback(self) -> None:
        """Undo what was written and sent since the savepoint."""
        for rows, key, before in reversed(self._undo):
            if before is _ABSENT:
                rows.pop(key, None)
            else:
                rows[key] = before
        for records in reversed(self._sent):
            records.pop()
        if self._sent:
            # Nothing at all for a partition is no batch of no records: Kafka's client answers that with no offset.
            self.outbox = {destination: records for destination, records in self.outbox.items() if records}
        self._undo.clear()
        self._sent.clear()

    def get(self, table: Table[Any], key: bytes) -> Any:
        rows = self.changes.get(table)
        if rows is not None:
            row = rows.get(key)
            if row is not None:
                return row[0]
        raw = self._store.get(table.name, key)
        return None if raw is None else table.codec.decode(raw)

    def set(self, table: Table[Any], key: bytes, value: Any) -> None:
        """Encodes at once, so that a value that cannot be written fails the record that wrote it and no other."""
        self._put(table, key, (value, table.encode(value)))

    def delete(self, table: Table[Any], key: bytes) -> None:
        self._put(table, key, DELETED)

    def _put(self, table: Table[Any], key: bytes, row: Row) -> None:
        rows = self.changes.get(table)
        if rows is None:
            rows = self.changes[table] = {}
        self._undo.append((rows, key, rows.get(key, _ABSENT)))
        rows[key] = row

    def range(self, table: Table[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, Any]]:
        """The store's range with the overlay laid over it."""
        rows = self.changes.get(table, {})
        fresh = iter(sorted((key for key in rows if start <= key < end), reverse=reverse))
        decode, following = table.codec.decode, next(fresh, None)
        for key, raw in self._store.range(table.name, start, end, reverse):
            while following is not None and following != key and (following > key) == reverse:
                if rows[following] is not DELETED:
                    yield following, rows[following][0]
                following = next(fresh, None)
            if following != key:
                yield key, decode(raw)
        while following is not None:
            if rows[following] is not DELETED:
                yield following, rows[following][0]
            following = next(fresh, None)

    def send(self, topic: str, partition: int, record: Fields) -> None:
        destination = TopicPartition(topic, partition)
        records = self.outbox.get(destination)
        if records is None:
            records = self.outbox[destination] = []
        records.append(record)
        self._sent.append(records)

    def changelog(self) -> dict[Table[Any], dict[bytes, bytes | None]]:
        """The folded changes as they go to the changelog and then to the store; None deletes."""
        return {table: {key: raw for key, (_, raw) in rows.items()} for table, rows in self.changes.items() if rows}
