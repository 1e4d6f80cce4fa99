"""a changelog and whoever should hold the same rows; a topic and what should stand there -> the first that differs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.log import Log
from streams.records import Fields, Record, TopicPartition
from streams.store import IDENTITY, Store
from streams.table import Rows, every_row, side_by_side

#: Rows that differ and may yet be explained by a record further on; more than that are not looked at one by one.
MOST_PENDING = 10_000
DIGEST = 16

# -- rows --------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of `side` that is not the changelog's. `written_at`: where the changelog has what it has, if it has it."""

    side: str
    table: str
    key: bytes
    of_side: bytes | None
    of_changelog: bytes | None
    written_at: str | None


@dataclass
class Side:
    """Rows that a changelog should have at `positions`, by table. Stores are sides, and so is a fold.

    `wavers_until`: what the side holds is the changelog's at some offset from its position up to there, it is not known
    which. None: it is known, but a key that changed later is not judged: cleaning may have taken what it was.
    """

    name: str
    rows: Callable[[str], Rows]
    positions: Mapping[str, int]
    wavers_until: Mapping[str, int] | None = None


@dataclass
class _Pending:
    """Keys of one side and table that differ so far, with both values."""

    side: Side
    keys: dict[bytes, tuple[bytes | None, bytes | None]] = field(default_factory=dict)


class RowComparison:
    """Reads the changelogs of a task once, into `replica`, and stops where each side is to be held against it."""

    def __init__(self, log: Log, replica: Store, families: Mapping[TopicPartition, str], sides: Sequence[Side]) -> None:
        self._log, self._replica, self._families = log, replica, families
        self._stops: dict[str, list[tuple[int, Side]]] = {
            family: sorted(((side.positions[family], side) for side in sides if family in side.positions), key=_offset)
            for family in families.values()
        }
        self._pending: dict[str, list[_Pending]] = defaultdict(list)
        self.rows = 0

    async def run(self, ends: Mapping[TopicPartition, int], moved: Callable[[int], None]) -> Row | None:
        """The first row that differs, by table and key. `moved` hears of changelog records that were read."""
        async for tp, records, reached in self._log.read(dict.fromkeys(ends, 0), ends):
            self._take(self._families[tp], records, reached)
            moved(len(records))
        for family in self._stops:
            self._stop_before(family, None)
        for family in sorted(self._pending):
            for pending in self._pending[family]:
                for key in sorted(pending.keys):
                    return await self._named(family, pending, key, ends)
        return None

    def _take(self, family: str, records: Sequence[Record], reached: int) -> None:
        fresh: dict[bytes, bytes | None] = {}
        for record in records:
            if self._stops[family] and self._stops[family][0][0] <= record.offset:
                self._replica.apply({family: fresh}, {family: record.offset}, 0)
                fresh = {}
                self._stop_before(family, record.offset)
            if record.key is not None and record.key != IDENTITY:
                fresh[record.key] = record.value
                self._settle(family, record.offset, record.key, record.value)
        self._replica.apply({family: fresh}, {family: reached}, 0)

    def _settle(self, family: str, offset: int, key: bytes, value: bytes | None) -> None:
        """What is written later may be what a side has already."""
        for pending in self._pending.get(family, ()):
            if key in pending.keys:
                until = pending.side.wavers_until
                if until is None or (offset < until[family] and value == pending.keys[key][0]):
                    del pending.keys[key]

    def _stop_before(self, family: str, offset: int | None) -> None:
        """Compare all sides whose position is reached: no record before `offset` (None: any) is missing."""
        stops = self._stops[family]
        while stops and (offset is None or stops[0][0] <= offset):
            _, side = stops.pop(0)
            pending = _Pending(side)
            self._pending[family].append(pending)
            for key, ours, theirs in side_by_side(side.rows(family), every_row(self._replica, family)):
                self.rows += 1
                if ours != theirs and len(pending.keys) < MOST_PENDING:
                    pending.keys[key] = ours, theirs

    async def _named(self, family: str, pending: _Pending, key: bytes, ends: Mapping[TopicPartition, int]) -> Row:
        """With the place in the changelog that the row has from there."""
        tp = next(tp for tp, name in self._families.items() if name == family)
        end, found = min(ends[tp], pending.side.positions[family]), None
        async for _, records, _ in self._log.read({tp: 0}, {tp: end}):
            for record in records:
                if record.key == key and record.offset < end:
                    found = f"{tp.topic}-{tp.partition}-{record.offset}"
        return Row(pending.side.name, family, key, *pending.keys[key], found)


def _offset(stop: tuple[int, Side]) -> int:
    return stop[0]


# -- records -----------------------------------------------------------------------------------------------------------


def digest_of(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in (key, value, *(each for name, header in headers for each in (name.encode(), header))):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return digest.digest()


class Sent:
    """What should stand in a partition: a digest of each record in order, and the offset that it followed from."""

    def __init__(self) -> None:
        self.digests = bytearray()
        self.causes: list[str | None] = []

    def add(self, fields: Fields, cause: str | None) -> None:
        self.digests += digest_of(*fields[1:])
        self.causes.append(cause)

    def __len__(self) -> int:
        return len(self.causes)

    def at(self, number: int) -> bytes | None:
        return bytes(self.digests[number * DIGEST : (number + 1) * DIGEST]) or None


class Odd(NamedTuple):
    """What does not belong: a record of the topic, one that should be there (by its number from 0), or one for one."""

    record: Record | None
    number: int | None


class InOrder:
    """The records of a partition are those that were sent, one after the other; later ones may follow.

    `floor`: what stands below was there when the sender was looked at, so it must have sent it.
    """

    def __init__(self, sent: Sent, floor: int) -> None:
        self._sent, self._floor, self._number = sent, floor, 0
        #: The first record that is not the next one; what it is depends on the one after it.
        self._held: Record | None = None

    def take(self, record: Record) -> Odd | None:
        digest = digest_of(record.key, record.value, record.headers)
        if self._held is not None:
            return Odd(self._held, None if digest == self._sent.at(self._number) else self._number)
        if digest == self._sent.at(self._number):
            self._number += 1
        elif self._number >= len(self._sent):
            return Odd(record, None) if record.offset < self._floor else None
        elif digest == self._sent.at(self._number + 1):
            return Odd(None, self._number)
        else:
            self._held = record
        return None

    def close(self) -> Odd | None:
        if self._held is not None:
            return Odd(self._held, self._number)
        return Odd(None, self._number) if self._number < len(self._sent) else None


class Somewhere:
    """Each of the records that were sent is there at least once. `alone`: and no other below `floor`."""

    def __init__(self, sent: Sent, floor: int, *, alone: bool) -> None:
        self._numbers = {sent.at(number): number for number in reversed(range(len(sent)))}
        self._floor, self._alone, self._seen = floor, alone, set[int]()

    def take(self, record: Record) -> Odd | None:
        number = self._numbers.get(digest_of(record.key, record.value, record.headers))
        if number is not None:
            self._seen.add(number)
        elif self._alone and record.offset < self._floor:
            return Odd(record, None)
        return None

    def close(self) -> Odd | None:
        missing = min(set(self._numbers.values()) - self._seen, default=None)
        return None if missing is None else Odd(None, missing)
