"""rows and events of a fold -> one SQLite file -> what differs between two of them, row by row and event by event."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

#: The first bytes of every file that SQLite wrote.
MAGIC = b"SQLite format 3\0"
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (tbl TEXT, part INTEGER, key BLOB, value BLOB NOT NULL, PRIMARY KEY (tbl, key, part)) WITHOUT ROWID;
CREATE TABLE events (topic TEXT, key BLOB, n INTEGER, value BLOB, PRIMARY KEY (topic, key, n)) WITHOUT ROWID;
"""
#: Events are written in such groups.
EVENTS_AT_ONCE = 2_000


class NoSnapshot(ValueError):
    """The file is not one of ours, or of another form."""


class Parted(NamedTuple):
    """The first event of a key that is not the same in both; None where the key has none any more. `n` from 0."""

    topic: str
    key: bytes
    n: int
    before: bytes | None
    after: bytes | None


class RowDiffers(NamedTuple):
    """A row that is not the same in both; None where there is none."""

    table: str
    partition: int
    key: bytes
    before: bytes | None
    after: bytes | None


class Snapshot:
    """What a fold came to: every row of its tables, and every record that it sent to topics that it does not read."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Raises NoSnapshot. `new`: begin an empty one."""
        if not new:
            require_snapshot(path)
        self.path = path
        self._db = sqlite3.connect(path)
        if new:
            # A file that was not finished is of no use, so nothing has to survive a crash.
            self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)
        self._count = 0
        self._events: list[tuple[str, bytes, int, bytes | None]] = []

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, name: str, value: str) -> None:
        """Something about the whole."""
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def said(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, value FROM about ORDER BY name"))

    def add_event(self, task: int, topic: str, key: bytes, value: bytes | None) -> None:
        """The next event of this key that this task sends. Those of two tasks are kept apart: they have no order."""
        self._count += 1
        self._events.append((topic, key, task << 40 | self._count, value))
        if len(self._events) >= EVENTS_AT_ONCE:
            self._write_events()

    def add_rows(self, table: str, partition: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", ((table, partition, *row) for row in rows))

    def take_in(self, part: Path) -> None:
        """Add what another one holds, of other keys."""
        self._write_events()
        self._db.commit()
        self._db.execute("ATTACH ? AS part", (str(part),))
        self._db.executescript(
            "INSERT INTO rows SELECT * FROM part.rows; INSERT INTO events SELECT * FROM part.events; DETACH part;"
        )

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """In the order of the keys."""
        yield from self._db.execute("SELECT key, value FROM rows WHERE tbl = ? ORDER BY key", (table,))

    def rows_of(self, table: str, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Those of one partition."""
        yield from self._db.execute("SELECT key, value FROM rows WHERE tbl = ? AND part = ?", (table, partition))

    def events_of(self, topic: str, key: bytes) -> list[bytes | None]:
        self._write_events()
        found = self._db.execute("SELECT value FROM events WHERE topic = ? AND key = ? ORDER BY n", (topic, key))
        return [value for (value,) in found]

    def count_events(self, topic: str) -> int:
        self._write_events()
        count: int = self._db.execute("SELECT COUNT(*) FROM events WHERE topic = ?", (topic,)).fetchone()[0]
        return count

    def events(self) -> Iterator[tuple[str, bytes, bytes | None]]:
        """By topic and key, each key's in their order."""
        self._write_events()
        yield from self._db.execute("SELECT topic, key, value FROM events ORDER BY topic, key, n")

    def close(self) -> None:
        self._write_events()
        self._db.commit()
        self._db.close()

    def _write_events(self) -> None:
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", self._events)
        self._events.clear()

    def differing_rows(self, other: Snapshot) -> Iterator[RowDiffers]:
        """Rows that are not the same in `other`, in the order of table and key."""
        other._db.commit()
        self._db.commit()
        self._db.execute("ATTACH ? AS other", (str(other.path),))
        try:
            found = self._db.execute(
                "SELECT tbl, part, key, a.value, b.value FROM main.rows a LEFT JOIN other.rows b USING (tbl, key, part)"
                " WHERE b.value IS NOT a.value"
                " UNION ALL SELECT tbl, part, key, NULL, b.value FROM other.rows b LEFT JOIN main.rows a"
                " USING (tbl, key, part) WHERE a.value IS NULL ORDER BY 1, 3, 2"
            )
            for row in found.fetchall():
                yield RowDiffers(*row)
        finally:
            self._db.execute("DETACH other")

    def parted_events(self, other: Snapshot) -> Iterator[Parted]:
        """For each key whose events are not the same in `other`, the first that is not."""
        mine, theirs = (_by_key(each.events()) for each in (self, other))
        left, right = next(mine, None), next(theirs, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left[0] < right[0]):
                assert left is not None, "one of them is there"
                (topic, key), values = left
                yield Parted(topic, key, 0, values[0], None)
                left = next(mine, None)
            elif left is None or right[0] < left[0]:
                (topic, key), values = right
                yield Parted(topic, key, 0, None, values[0])
                right = next(theirs, None)
            else:
                (topic, key), pairs = left[0], zip_longest(left[1], right[1])
                parted = next(((n, *pair) for n, pair in enumerate(pairs) if pair[0] != pair[1]), None)
                if parted is not None:
                    yield Parted(topic, key, *parted)
                left, right = next(mine, None), next(theirs, None)


def _by_key(
    events: Iterable[tuple[str, bytes, bytes | None]],
) -> Iterator[tuple[tuple[str, bytes], list[bytes | None]]]:
    for key, group in groupby(events, key=lambda event: event[:2]):
        yield key, [value for _, _, value in group]


def is_snapshot(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def require_snapshot(path: Path) -> None:
    """Raise NoSnapshot for a file that `faust -A app snapshot` did not write."""
    if not is_snapshot(path):
        raise NoSnapshot(f"{path} is not a snapshot: `faust -A app snapshot FILE` writes one")
