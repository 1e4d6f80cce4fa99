"""one task's log, changelogs, outputs and stores -> held against a fold of the log -> what differs first, by name.

A task is looked at as of a moment that the log has: what its committed offsets say. Workers may go on meanwhile. The
changelogs are surveyed before that moment (`floor`) and after it (`ceiling`): in between lies the commit that belongs
to it. A key that no record between the two changes must be as the fold has it; one that some do must have been so at
one of them. At rest both ends are the same, and so is every row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from streams.attest import SETTLE_S
from streams.comparison import InOrder, Odd, Row, RowComparison, Sent, Side, Somewhere
from streams.errors import NotReadable, StoreDamaged, StoreUnavailable
from streams.fold import Fold, Said
from streams.journal import REPLAY, Act, Boundary, Run
from streams.log import Extent, Log
from streams.past import past_of, reached
from streams.records import Fields, TopicPartition
from streams.store import Memory, RocksStore, Store
from streams.table import Rows, every_row
from streams.topology import Group, task_name

FOLD = "a fold of the log"
#: Records that are folded between two words about how far it is.
PIECE = 500


class Difference(NamedTuple):
    """The first place where two sides differ; each side by its name, None where it has nothing.

    `at`: topic-partition-offset of the record that explains it, where that is known.
    """

    what: str
    name: str
    partition: int
    key: bytes | None
    sides: Mapping[str, bytes | None]
    at: str | None


@dataclass
class Verified:
    """What was compared, as of which offsets, and the first difference. `unfounded`: why there was no fold."""

    positions: dict[str, int] = field(default_factory=dict)
    records: int = 0
    rows: int = 0
    events: int = 0
    stores: int = 0
    unfounded: str | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Bounds:
    """The moment, and where the changelogs and the outputs ended before it and after it."""

    until: Mapping[TopicPartition, int]
    floor: Mapping[TopicPartition, int]
    ceiling: Mapping[TopicPartition, int]


@dataclass(frozen=True)
class Place:
    """What a task is verified with. `inputs`: of the whole application; `outputs`: topics that this group alone writes.

    `stores`: directories of this machine that may hold a store of the task.
    """

    inputs: Collection[str]
    outputs: Collection[str]
    letters: TopicPartition
    scratch: Path
    memory: Memory
    stores: Sequence[Path] = ()
    moved: Callable[[int], None] = lambda count: None


class Verification:
    """One task. `run` it once."""

    def __init__(self, log: Log, group: Group, partition: int, place: Place) -> None:
        self._log, self._group, self._partition, self._place = log, group, partition, place
        self._name = task_name(group.name, partition)
        self._families = {tp: name for name, tp in group.changelogs(partition).items()}
        self._sent = {TopicPartition(topic, partition): Sent() for topic in place.outputs}
        self._found = Verified()

    async def run(self) -> Verified:
        """Raises NotReadable while the task is being replayed."""
        found, bounds = self._found, await self._bounds()
        found.positions = {f"{tp.topic}-{tp.partition}": end for tp, end in sorted(bounds.until.items())}
        found.unfounded = await self._what_is_gone()
        fold = None if found.unfounded else await self._folded(bounds)
        try:
            found.difference = await self._rows(fold, bounds)
            for to in () if fold is None else self._sent:
                found.difference = found.difference or await self._output(to, bounds)
        finally:
            if fold is not None:
                await fold.close()
        return found

    # -- the moment ---------------------------------------------------------------------------------------------------

    async def _bounds(self) -> Bounds:
        outside = [*self._families, *self._sent]
        floor = await self._log.bounds(outside)
        await asyncio.sleep(SETTLE_S)
        until = await reached(self._log, [self._group])
        mine = {tp: until[tp] for tp in self._group.inputs(self._partition) if tp in until}
        committed = await self._log.committed(list(mine))
        if behind := [tp for tp, end in mine.items() if committed.get(tp, -1) < end]:
            at, (topic, partition) = committed.get(behind[0], 0), behind[0]
            raise NotReadable(
                f"{self._name} is taking its past again, {topic}-{partition} from {at} to {mine[behind[0]]}: try again"
                " when /health/ready of the workers answers 200"
            )
        await asyncio.sleep(SETTLE_S)
        ceiling = await self._log.bounds(outside)
        journal = self._group.journal(self._partition)
        before, after = ({tp: end for tp, (_, end) in side.items()} for side in (floor, ceiling))
        return Bounds(mine | {journal: until[journal]}, before, after)

    async def _what_is_gone(self) -> str | None:
        bounds = await self._log.bounds(self._group.inputs(self._partition))
        gone = [f"{tp.topic}-{tp.partition}" for tp, (first, _) in sorted(bounds.items()) if first > 0]
        return f"the beginning of {', '.join(gone)} was deleted" if gone else None

    # -- the fold -----------------------------------------------------------------------------------------------------

    async def _folded(self, bounds: Bounds) -> Fold:
        fold = self._fold("fold")
        async for said, records in self._course(fold, bounds):
            for to, fields in said.sent:
                if to.topic not in self._place.inputs:
                    record = said.record
                    cause = None if record is None else f"{record.topic}-{record.partition}-{record.offset}"
                    self._sent.setdefault(to, Sent()).add(fields, cause)
            self._found.records += records
            self._place.moved(records)
        fold.keep()
        return fold

    def _fold(self, what: str) -> Fold:
        path = self._place.scratch / f"{what}-{self._name}"
        store = RocksStore(path, self._group.tables, self._place.memory)
        return Fold(self._group, self._partition, store, self._place.letters)

    async def _course(self, fold: Fold, bounds: Bounds, piece: int = PIECE) -> AsyncIterator[tuple[Said, int]]:
        """All that the task did up to the moment, and how many records it was."""
        async for act in past_of(self._log, self._group, self._partition, bounds.until):
            for part in _pieces(act, piece):
                for said in await fold.take(part):
                    yield said, said.record is not None

    # -- rows ---------------------------------------------------------------------------------------------------------

    async def _rows(self, fold: Fold | None, bounds: Bounds) -> Difference | None:
        """Of the stores on this machine and of the fold: the changelogs are read once, for all."""
        with ExitStack() as closing:
            opened = [self._opened(path, closing) for path in self._place.stores]
            extents = await self._log.survey(list(self._families))  # the stores are behind these ends, not ahead
            sides = [self._store_side(store, extents) for store in opened if store is not None]
            self._found.stores = len(sides)
            if fold is not None:
                floor, ceiling = ({name: side[tp] for tp, name in self._families.items()} for side in _both(bounds))
                sides.append(Side(FOLD, _rows_of(fold.store), floor, ceiling))
            replica = RocksStore(
                self._place.scratch / f"changelog-{self._name}", self._group.tables, self._place.memory
            )
            closing.callback(replica.close)
            comparison = RowComparison(self._log, replica, self._families, sides)
            row = await comparison.run({tp: extent.end for tp, extent in extents.items()}, self._place.moved)
            self._found.rows += comparison.rows
        if row is None:
            return None
        changelog = row.written_at or f"the changelog of {row.table}"
        sides_of = {row.side: row.of_side, changelog: row.of_changelog}
        at = await self._last_writer(row, bounds) if fold is not None else None
        return Difference("table", row.table, self._partition, row.key, sides_of, at)

    def _opened(self, path: Path, closing: ExitStack) -> RocksStore | None:
        """What is on disk of a store. One that is being moved away or written anew is looked at another time."""
        try:
            store = RocksStore(path, self._group.tables, self._place.memory, read_only=True)
        except (StoreUnavailable, StoreDamaged):
            return None
        closing.callback(store.abandon)
        return store

    def _store_side(self, store: RocksStore, extents: Mapping[TopicPartition, Extent]) -> Side:
        """Its rows, but for families that were built from another changelog: their next start finds that, and says."""
        identities = {name: extents[tp].first for tp, name in self._families.items()}
        positions = {
            name: store.position(name)
            for name, first in identities.items()
            if first is not None and name in store.families and store.identity(name) == first.value
        }
        return Side(f"the store {store.path.parent.name}/{store.path.name}", _rows_of(store), positions)

    async def _last_writer(self, row: Row, bounds: Bounds) -> str | None:
        """Once more from the beginning: the record that made this row what it is in the log's own course."""
        fold, before, writer = self._fold("writer"), None, None
        try:
            async for said, _ in self._course(fold, bounds, piece=1):
                after = fold.raw(row.table, row.key)
                if after != before:
                    record, before = said.record, after
                    writer = None if record is None else f"{record.topic}-{record.partition}-{record.offset}"
        finally:
            await fold.close()
        return writer

    # -- outputs ------------------------------------------------------------------------------------------------------

    async def _output(self, to: TopicPartition, bounds: Bounds) -> Difference | None:
        """Hold a partition of an output against what the fold sent there."""
        first, end = (await self._log.bounds([to]))[to]
        if first > 0:
            return None  # what retention has left has no place to be compared from
        sent, floor = self._sent[to], bounds.floor.get(to, 0)
        if to.topic not in self._place.outputs:
            course: InOrder | Somewhere = Somewhere(sent, floor, alone=False)
        elif to.topic in await self._sent_again():
            course = Somewhere(sent, floor, alone=True)
        else:
            course = InOrder(sent, floor)
        async for _, records, _ in self._log.read({to: 0}, {to: end}):
            for record in records:
                self._found.events += 1
                if (odd := course.take(record)) is not None:
                    return await self._told(to, odd, bounds)
        odd = course.close()
        return None if odd is None else await self._told(to, odd, bounds)

    async def _sent_again(self) -> set[str]:
        """Topics that some replay of this task was told to send its records to once more."""
        journal, again = self._group.journal(self._partition), set[str]()
        end = (await self._log.bounds([journal]))[journal][1]
        async for _, records, _ in self._log.read({journal: 0}, {journal: end}):
            for record in records:
                if record.key == REPLAY and record.value is not None:
                    again |= Boundary.decode(record.value).emit
        return again

    async def _told(self, to: TopicPartition, odd: Odd, bounds: Bounds) -> Difference:
        """With both sides in full: only a digest was kept of what the fold sent."""
        record, sent = odd.record, None if odd.number is None else await self._sent_as(to, odd.number, bounds)
        topic = f"{to.topic}-{to.partition}" if record is None else f"{to.topic}-{to.partition}-{record.offset}"
        key = record.key if record is not None else sent[1] if sent is not None else None
        sides = {FOLD: None if sent is None else sent[2], topic: None if record is None else record.value}
        cause = None if odd.number is None else self._sent[to].causes[odd.number]
        return Difference("topic", to.topic, to.partition, key, sides, cause)

    async def _sent_as(self, to: TopicPartition, number: int, bounds: Bounds) -> Fields | None:
        fold, count = self._fold("sent"), 0
        try:
            async for said, _ in self._course(fold, bounds):
                for each in said.sent:
                    if each.to == to:
                        if count == number:
                            return each.fields
                        count += 1
        finally:
            await fold.close()
        return None


def _both(bounds: Bounds) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
    return bounds.floor, bounds.ceiling


def _rows_of(store: Store) -> Callable[[str], Rows]:
    return lambda family: every_row(store, family)


def _pieces(act: Act, size: int) -> Iterator[Act]:
    if isinstance(act, Run):
        for first in range(0, len(act.records), size):
            yield Run(act.partition, act.records[first : first + size])
    else:
        yield act
