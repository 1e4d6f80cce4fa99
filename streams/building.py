"""the past of one version of an application, folded -> rows, journal and offsets of another, which then stands there.

A version is built piece by piece, while the other one works. A piece of a task is one transaction: the rows that it
changed, the steps of the other's journal (so that the new version has a journal of its own, and can be replayed), the
offsets, and a record `built` that says how far the other's past is in it. Killed anywhere, the next piece goes on from
the last `built`. The way back is the same: what was live before is brought on from where it was left, by the journal of
the one that was built from it.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from streams import faults
from streams.attest import attested
from streams.errors import LogMismatch
from streams.journal import BUILT, STEPS, Step, began_record
from streams.log import Log, Transactions
from streams.past import Cursor
from streams.records import Fields, Outgoing, Record, TopicPartition
from streams.replay import differences, send_all
from streams.store import IDENTITY, Store
from streams.topology import Group, task_name

#: Steps in one record of a journal: some 30 bytes each, far below what a record may have.
STEPS_AT_ONCE = 5_000

#: Table, key, value; None: the row is deleted.
RawRow = tuple[str, bytes, bytes | None]
#: By key, the values that were written to it.
Moving = Mapping[bytes, set[bytes | None]]


@dataclass(frozen=True)
class Built:
    """How far the past of `source`, an app id, is in the tables. `code`: by which rules."""

    source: str
    cursor: Cursor
    code: str
    at_ms: int

    def encode(self) -> bytes:
        offsets, journal, taken = self.cursor
        content = {"source": self.source, "code": self.code, "at_ms": self.at_ms}
        return orjson.dumps(content | {"offsets": dict(offsets), "journal": journal, "taken": taken})

    @classmethod
    def decode(cls, raw: bytes) -> Built:
        said = orjson.loads(raw)
        cursor = Cursor(said["offsets"], said["journal"], said["taken"])
        return cls(said["source"], cursor, said["code"], said["at_ms"])


class Ground(NamedTuple):
    """Where a task of a version stands in the past of another one.

    `cursor`: None when nothing of it is there. `bare`: its changelogs that are empty. `code`: by which rules it was
    built, None when nobody built it since it was live.
    """

    cursor: Cursor | None
    bare: tuple[str, ...]
    code: str | None


async def find_ground(log: Log, target: Group, partition: int, of_source: Log, source: Group) -> Ground:
    """`log` is that of the target's group. Raises LogMismatch when the two have no place in common."""
    name, inputs, journal = task_name(target.name, partition), target.inputs(partition), target.journal(partition)
    committed = {tp.topic: end for tp, end in (await log.committed(inputs)).items()}
    extents = await log.survey([journal, *target.changelogs(partition).values()])
    bare = tuple(family for family, tp in target.changelogs(partition).items() if extents[tp].first is None)
    if not committed and extents[journal].first is None:
        return Ground(None, bare, None)
    for _, built in await _built(log, journal):
        if built.source == source.app_id and dict(built.cursor.offsets) == committed:
            return Ground(built.cursor, bare, built.code)
    for at, built in await _built(of_source, source.journal(partition)):
        if built.source == target.app_id and dict(built.cursor.offsets) == committed:
            return Ground(Cursor(committed, at + 1, 0), bare, None)
    raise LogMismatch(
        f"{name} of {target.app_id} has a past that {source.app_id} does not go on from: it was live, or was built, and"
        " something else came after. Remove that version (`faust -A app versions --remove`), and build it anew"
    )


async def _built(log: Log, journal: TopicPartition) -> list[tuple[int, Built]]:
    """The newest first, each with its offset."""
    end = (await log.bounds([journal]))[journal][1]
    found = []
    async for _, records, _ in log.read({journal: 0}, {journal: end}):
        found += [(each.offset, Built.decode(each.value)) for each in records if each.key == BUILT and each.value]
    return found[::-1]


@dataclass(frozen=True)
class Piece:
    """What is written of a task at once."""

    group: Group
    partition: int
    bare: Sequence[str]
    rows: Iterable[RawRow]
    steps: Sequence[Step]
    built: Built

    async def write(self, producer: Transactions, new: bool) -> None:
        """`new`: the task has no journal yet. Raises Fenced when somebody else has begun to build, or to work.

        1. begin; 2. identities, rows; 3. the journal; 4. offsets; 5. commit. Until 5 nobody sees any of it.
        """
        now_ms, number = self.built.at_ms, self.partition
        changelogs, journal = self.group.changelogs(number), self.group.journal(number)
        await producer.begin()
        faults.point("build_begun")
        for table in self.bare:
            await producer.send({changelogs[table]: [Outgoing(now_ms, IDENTITY, uuid.uuid4().hex.encode())]})
        await send_all(producer, ((changelogs[table], (now_ms, key, value, ())) for table, key, value in self.rows))
        said: list[Fields] = [began_record()] if new else []
        for first in range(0, len(self.steps), STEPS_AT_ONCE):
            some = [list(step) for step in self.steps[first : first + STEPS_AT_ONCE]]
            said.append(Outgoing(now_ms, STEPS, orjson.dumps(some)))
        await producer.send({journal: [*said, Outgoing(now_ms, BUILT, self.built.encode())]})
        faults.point("build_sent")
        offsets = self.built.cursor.offsets
        await producer.send_offsets({TopicPartition(topic, number): end for topic, end in offsets.items()})
        await producer.commit()
        faults.point("build_committed")


# -- what both hold ----------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One partition of a table in both versions, at the same place in the past.

    `changed`: rows that differ; `first`: the first of their keys, in order. `moving`: rows that the live version was
    writing just then, and whose older or newer state the other one has. The hashes are of all rows.
    """

    table: str
    partition: int
    rows: int
    before: str
    after: str
    changed: int
    first: str | None
    moving: int

    @property
    def equal(self) -> bool:
        return not self.changed


class Mirror:
    """What the changelogs of a task that may be at work held at an offset, in a store of its own."""

    def __init__(
        self, log: Log, group: Group, partition: int, store: Store, tables: Container[str] | None = None
    ) -> None:
        """`tables`: which of the group's; all when it is left out."""
        self._log, self._partition, self._store = log, partition, store
        changelogs = group.changelogs(partition)
        self._families = {tp: name for name, tp in changelogs.items() if tables is None or name in tables}
        self._reached = dict.fromkeys(self._families, 0)

    async def ends(self) -> dict[TopicPartition, int]:
        """Where the changelogs end now."""
        return {tp: end for tp, (_, end) in (await self._log.bounds(list(self._families))).items()}

    async def bring_to(self, ends: Mapping[TopicPartition, int]) -> None:
        """Copy up to these ends, and no record more."""
        async for tp, records in self._between(ends):
            rows = {each.key: each.value for each in records if each.key is not None and each.key != IDENTITY}
            self._store.apply({self._families[tp]: rows}, {}, 0)
        self._reached |= ends

    async def moving(self, ends: Mapping[TopicPartition, int]) -> dict[str, Moving]:
        """By table, what is written to which key from here to these ends."""
        found: dict[str, Moving] = defaultdict(lambda: defaultdict(set))
        async for tp, records in self._between(ends):
            for each in records:
                if each.key is not None:
                    found[self._families[tp]][each.key].add(each.value)
        return found

    async def _between(self, ends: Mapping[TopicPartition, int]) -> AsyncIterator[tuple[TopicPartition, list[Record]]]:
        async for tp, records, _ in self._log.read(self._reached, ends):
            yield tp, [each for each in records if each.offset < ends[tp]]

    def compare(self, table: str, built: Store, position: Mapping[str, int], moving: Moving) -> Seen:
        """Hold a table against what was built. What moves must have been, or be about to be, what was built."""
        was, now = (attested(store, table, self._partition, position) for store in (self._store, built))
        changed, excused, first = 0, 0, None
        for key, value in differences(self._store, built, table) if was.hash != now.hash else ():
            if value in moving.get(key, ()):
                excused += 1
            else:
                changed, first = changed + 1, first or key.decode(errors="replace")
        return Seen(table, self._partition, now.rows, was.hash, now.hash, changed, first, excused)

    def close(self) -> None:
        self._store.close()
