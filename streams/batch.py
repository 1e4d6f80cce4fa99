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

#: Rows of the overlay as the log and the store will hold them; None for a deletion.
Rows = dict[bytes, bytes | None]


class View(Protocol):
    """What a table reads through: a batch in an agent, committed state behind HTTP."""

    partition: int

    def get(self, table: Table[Any], key: bytes) -> Any: ...
    def range(self, table: Table[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, Any]]: ...


#: The view of whoever runs now. Agents and readers are asyncio tasks of their own, so each sees its own.
current_view: ContextVar[View | None] = ContextVar("current_view", default=None)


@contextmanager
def using(view: View) -> Iterator[None]:
    """Tables read, and in a batch write, through this view meanwhile."""
    token = current_view.set(view)
    try:
        yield
    finally:
        current_view.reset(token)


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

    Reads see the overlay first and the store second, and decode what they find in either: a value that was just written
    is read as it will be read later. Several writes of one key leave one change behind: only the last is sent to the
    changelog.
    """

    def __init__(self, store: Store, partition: int) -> None:
        self.partition = partition
        self.record: Record | None = None
        #: What is derived from a record carries that record's time, so that a re-run writes the same bytes.
        self.timestamp = 0
        self.changes: dict[Table[Any], Rows] = {}
        self.outbox: dict[TopicPartition, list[Fields]] = {}
        self._store = store
        self._undo: list[tuple[Rows, bytes, bytes | None]] = []
        self._sent: list[list[Fields]] = []

    def reset(self) -> None:
        """Begin the next batch with nothing written and nothing sent."""
        self.record, self.timestamp = None, 0
        self.changes, self.outbox = {}, {}
        self._undo.clear()
        self._sent.clear()

    def savepoint(self, record: Record | None) -> None:
        """Everything written and sent from here on belongs to this record."""
        self.record, self.timestamp = record, 0 if record is None else record.timestamp
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
        self._undo.clear()
        self._sent.clear()

    def get(self, table: Table[Any], key: bytes) -> Any:
        rows = self.changes.get(table)
        raw = _ABSENT if rows is None else rows.get(key, _ABSENT)
        if raw is _ABSENT:
            raw = self._store.get(table.name, key)
        return None if raw is None else table.codec.decode(raw)

    def put(self, table: Table[Any], key: bytes, raw: bytes | None) -> None:
        """A row; None deletes it. The caller has encoded it, so that what cannot be written fails its own record."""
        rows = self.changes.get(table)
        if rows is None:
            rows = self.changes[table] = {}
        self._undo.append((rows, key, rows.get(key, _ABSENT)))
        rows[key] = raw

    def range(self, table: Table[Any], start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, Any]]:
        """The store's range with the overlay laid over it."""
        rows: Rows = self.changes.get(table, {})
        fresh = iter(sorted((key for key in rows if start <= key < end), reverse=reverse))
        decode, following = table.codec.decode, next(fresh, None)
        for key, raw in self._store.range(table.name, start, end, reverse):
            while following is not None and following != key and (following > key) == reverse:
                if (written := rows[following]) is not None:
                    yield following, decode(written)
                following = next(fresh, None)
            if following != key:
                yield key, decode(raw)
        while following is not None:
            if (written := rows[following]) is not None:
                yield following, decode(written)
            following = next(fresh, None)

    def send(self, destination: TopicPartition, record: Fields) -> None:
        records = self.outbox.get(destination)
        if records is None:
            records = self.outbox[destination] = []
        records.append(record)
        self._sent.append(records)

    def changelog(self) -> dict[Table[Any], Rows]:
        """The folded changes as they go to the changelog and then to the store; None deletes."""
        return {table: rows for table, rows in self.changes.items() if rows}
