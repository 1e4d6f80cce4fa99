"""a task's past, folded anew -> the rows that its changelogs have otherwise, and its offsets, in one transaction.

Tables are not emptied and filled again: until the transaction of a task commits nothing of it has changed, and then all
of it has. So a replay may be killed anywhere, and no start ever finds half a state. Whoever owned a task is fenced
before its past is read; a worker that begins meanwhile fences the replay, which then leaves that task alone. What was
done stands in the journal (`replayed`), in the same transaction: a run that was cut short is told from one that ended,
on whatever machine it is run again. It has ended when whoever asked for it was told (`reported`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import orjson

from streams import faults
from streams.attest import attested
from streams.clock import Clock
from streams.errors import LogMismatch
from streams.journal import REPLAYED, REPORTED
from streams.log import Extent, Log, Transactions
from streams.metrics import Metrics
from streams.past import Cursor, steps_of, tails_of
from streams.records import Fields, Outgoing, TopicPartition
from streams.restore import Restore
from streams.standing import Standing, find_standing, to_repeat
from streams.store import IDENTITY, Store
from streams.table import every_row, side_by_side
from streams.topology import Group, task_name

#: Rows, or records of an output, that are sent before their acknowledgements are waited for.
ROWS_AT_ONCE = 5_000
#: All rows of a task are one transaction; this is as long as Kafka's brokers let one last by default.
TRANSACTION_MS = 900_000

Target = tuple[Group, int]


class Compared(NamedTuple):
    """One partition of a table, before and after. `before` is None where there was nothing to compare with: its
    changelog was empty, or a `reset` had not been carried out. `first`: the first key, in their order, that differs."""

    table: str
    partition: int
    position: Mapping[str, int]
    rows: int
    before: str | None
    after: str
    changed: int
    first: str | None

    @property
    def equal(self) -> bool:
        return self.before in (None, self.after)


@dataclass(frozen=True)
class Job:
    """What is to be done. One that is asked for again before it has ended goes on. `tables`: none named means all."""

    code: str
    tasks: tuple[str, ...]
    tables: tuple[str, ...] = ()
    emit: tuple[str, ...] = ()
    since: str = "beginning"

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Job:
        """From JSON, which has no tuples."""
        fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in raw.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Done:
    """What a run has done to one task: a record of its journal."""

    run: str
    at_ms: int
    job: Job
    lines: tuple[Compared, ...]

    def encode(self) -> bytes:
        content = {"run": self.run, "at_ms": self.at_ms, "job": asdict(self.job)}
        return orjson.dumps(content | {"lines": [line._asdict() for line in self.lines]})

    @classmethod
    def decode(cls, raw: bytes) -> Done | None:
        """None for what a newer version wrote: it is no run that this one could go on with."""
        content = orjson.loads(raw)
        try:
            lines = tuple(Compared(**line) for line in content["lines"])
            return cls(content["run"], content["at_ms"], Job.of(content["job"]), lines)
        except (KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Span:
    """The past of one task that has begun: by input, from where to where, and the journal with its steps.

    `since`: where the snapshot stands that it is folded from; None for the beginning.
    `boundary` is the offset in the journal of a `reset` that no worker has carried out yet; None when there is none.
    `done`: what earlier replays said of it, oldest first; `reported`: runs that have ended, as this journal has them.
    """

    group: Group
    partition: int
    begins: Mapping[str, int]
    ends: Mapping[str, int]
    began: bool
    journal_end: int
    boundary: int | None
    steps: int
    done: tuple[Done, ...]
    reported: frozenset[str]
    since: Cursor | None = None

    @property
    def name(self) -> str:
        return task_name(self.group.name, self.partition)

    @property
    def records(self) -> int:
        """How many, at most: offsets have gaps."""
        return sum(max(0, end - self.begins[topic]) for topic, end in self.ends.items())

    @property
    def truncated(self) -> list[str]:
        """Inputs whose beginning was deleted, and is needed."""
        begins = self.begins if self.since is None else {}
        return [f"{topic}-{self.partition}" for topic, begin in begins.items() if begin > 0]

    @property
    def until(self) -> dict[TopicPartition, int]:
        ends = {TopicPartition(topic, self.partition): end for topic, end in self.ends.items()}
        return ends | {self.group.journal(self.partition): self.journal_end}


def name_of(target: Target) -> str:
    """The name of a task."""
    return task_name(target[0].name, target[1])


def targets(
    groups: Mapping[str, Group], domains: Collection[str], partitions: Collection[int], tables: Collection[str]
) -> list[Target]:
    """The tasks that are meant; nothing named means all. Raises ValueError, which says what there is."""
    have = {name: group for name, group in groups.items() if group.agents}
    if unknown := sorted(set(domains) - set(have)):
        raise ValueError(f"there is no domain {unknown[0]}; there are {', '.join(have)}")
    owners = {table: name for name, group in have.items() for table in group.tables}
    if unknown := sorted(set(tables) - set(owners)):
        raise ValueError(f"there is no table {unknown[0]}; there are {', '.join(owners)}")
    wanted = set(domains or have)
    if apart := [table for table in tables if owners[table] not in wanted]:
        raise ValueError(f"table {apart[0]} belongs to {owners[apart[0]]}, which is left out")
    if tables:
        wanted = {owners[table] for table in tables}
    found = [(have[name], number) for name in sorted(wanted) for number in range(have[name].partitions)]
    if unknown_partitions := sorted(set(partitions) - {number for _, number in found}):
        raise ValueError(f"there is no partition {unknown_partitions[0]}")
    return [(group, number) for group, number in found if not partitions or number in partitions]


async def find_span(log: Log, group: Group, partition: int, since: Cursor | None = None) -> Span | None:
    """What a replay of this task would take; None when it has never begun. Raises LogMismatch."""
    standing = await find_standing(log, group, partition)
    inputs, journal = group.inputs(partition), group.journal(partition)
    extent = (await log.survey([journal]))[journal]  # before the bounds: steps are of what is there
    pending = await to_repeat(log, group, partition, standing, extent)
    if extent.first is None:
        return None
    bounds = await log.bounds(inputs)
    begins, tails = {tp.topic: begin for tp, (begin, _) in bounds.items()}, tails_of(bounds)
    ends = _ends(standing, inputs, begins, None if pending is None else pending[0].offsets)
    if since is not None:
        _hold_cursor(task_name(group.name, partition), since, begins, ends, extent.end)
        begins |= since.offsets
    steps, done, reported = 0, list[Done](), set[str]()
    async for _, records, _ in log.read({journal: 0}, {journal: extent.end}):
        for record in records:
            steps += len(steps_of(record, since, tails))
            if record.key == REPLAYED and record.value is not None:
                done += [found for found in [Done.decode(record.value)] if found is not None]
            elif record.key == REPORTED and record.value is not None:
                reported.add(record.value.decode())
    boundary = None if pending is None else pending[1]
    said = steps, tuple(done), frozenset(reported)
    return Span(group, partition, begins, ends, standing.began, extent.end, boundary, *said, since)


def _hold_cursor(
    task: str, since: Cursor, begins: Mapping[str, int], ends: Mapping[str, int], journal_end: int
) -> None:
    """Raise LogMismatch when the log does not go on from there."""
    for topic, begin in begins.items():
        offset = since.offsets.get(topic, begin)
        if not begin <= offset <= ends[topic]:
            raise LogMismatch(
                f"the snapshot has {task} at {offset} of {topic}, of which {begin} to {ends[topic]} was taken: it is"
                " of another log, of a later moment, or what followed was deleted. Use another snapshot"
            )
    if since.journal > journal_end:
        raise LogMismatch(f"the snapshot has {task} at {since.journal} of its journal, which ends at {journal_end}")


def _ends(
    standing: Standing, inputs: Sequence[TopicPartition], begins: Mapping[str, int], offsets: Mapping[str, int] | None
) -> dict[str, int]:
    if offsets is None:
        return {tp.topic: standing.offsets[tp] for tp in inputs}
    return {tp.topic: offsets.get(tp.topic, begins[tp.topic]) for tp in inputs}


def unfinished(spans: Collection[Span], job: Job) -> tuple[str, dict[str, Done]] | None:
    """The run of this job that was cut short, with what it has done; None when there is none.

    Where records came in since, only outputs that were sent again bind it: the rest is done anew.
    """
    said = [(span, done) for span in spans for done in span.done if done.job == job]
    if not said:
        return None
    run = max((done for _, done in said), key=lambda done: done.at_ms).run
    mine = [(span, done) for span, done in said if done.run == run]
    moved = any(line.position != span.ends for span, done in mine for line in done.lines)
    if any(run in span.reported for span in spans) or (moved and not job.emit):
        return None
    return run, {span.name: done for span, done in mine}


class NotWhole(Exception):
    """What is left of the past does not make the rows that there are; nothing was written."""


@dataclass(frozen=True)
class Rebuild:
    """One task of a run. `folded` holds what its past came to; `scratch` gives an empty store of the task's tables."""

    log: Log
    span: Span
    run: str
    job: Job
    clock: Clock

    async def carry_out(
        self,
        producer: Transactions,
        folded: Store,
        scratch: Callable[[], Store],
        sent: Iterable[tuple[TopicPartition, Fields]] = (),
    ) -> Done:
        """Compare, then make the changelogs hold what `folded` holds, and the offsets what it reflects.

        `producer` was started before the span was found, so nobody else has written since. `sent`: the records that
        are to be sent again. Raises Fenced when a worker has begun meanwhile, LogMismatch, NotWhole.
        """
        group, number = self.span.group, self.span.partition
        tables = [name for name in group.tables if not self.job.tables or name in self.job.tables]
        extents = await self.log.survey(list(group.changelogs(number).values()))
        fresh = self._without_identity(extents, tables)
        before = scratch()
        try:
            await Restore(self.log, before, group, number, self.clock, Metrics()).run(extents)
            faults.point("replay_restored")
            lines = tuple(self._compare(table, before, folded, table in fresh) for table in tables)
            self._hold_whole(lines)
            await self._commit(producer, before, folded, lines, fresh, sent)
        finally:
            before.close()
        return Done(self.run, 0, self.job, lines)

    def _without_identity(self, extents: Mapping[TopicPartition, Extent], tables: Sequence[str]) -> set[str]:
        """The tables whose changelogs are to begin anew."""
        fresh = set()
        for name, tp in self.span.group.changelogs(self.span.partition).items():
            first = extents[tp].first
            if first is None and name not in tables:
                raise LogMismatch(
                    f"changelog {tp.topic}-{tp.partition} is empty, and table {name} is left out of this replay:"
                    " replay it too"
                )
            if first is None:
                fresh.add(name)
            elif first.key != IDENTITY or first.value is None:
                raise LogMismatch(
                    f"changelog {tp.topic}-{tp.partition} does not begin with its identity but with the record at"
                    f" offset {first.offset}: its beginning was deleted, or something else wrote to it. Run `faust -A"
                    " app reset`, which creates it anew, and this again"
                )
        if self.span.boundary is not None and len(tables) < len(self.span.group.tables):
            raise LogMismatch(f"{self.span.name} was reset: all of its tables are to be rebuilt, so replay them all")
        return fresh

    def _compare(self, table: str, before: Store, folded: Store, fresh: bool) -> Compared:
        number, position = self.span.partition, self.span.ends
        was, now = (attested(store, table, number, position) for store in (before, folded))
        changed, first = 0, None
        if was.hash != now.hash:
            for key, _ in differences(before, folded, table):
                changed, first = changed + 1, first or key.decode(errors="replace")
        known = not fresh and self.span.boundary is None
        return Compared(table, number, dict(position), now.rows, was.hash if known else None, now.hash, changed, first)

    def _hold_whole(self, lines: Sequence[Compared]) -> None:
        changed = sum(line.changed for line in lines)
        if changed and self.job.since == "beginning" and self.span.truncated and self.span.boundary is None:
            raise NotWhole(
                f"{self.span.name}: the beginning of {', '.join(self.span.truncated)} was deleted, and without it"
                f" {changed} rows would be others, the first of them {_first(lines)}: nothing was written. Replay"
                " from a snapshot (--from); or, if the loss is accepted, `faust -A app reset` and this again"
            )

    async def _commit(
        self,
        producer: Transactions,
        before: Store,
        folded: Store,
        lines: tuple[Compared, ...],
        fresh: Collection[str],
        sent: Iterable[tuple[TopicPartition, Fields]],
    ) -> None:
        """1. begin; 2. identities, rows that differ, outputs; 3. what was done; 4. offsets that were gone; 5. commit.

        Until 5 nobody sees any of it.
        """
        now_ms, number = self.clock.now_ms(), self.span.partition
        changelogs, journal = self.span.group.changelogs(number), self.span.group.journal(number)
        await producer.begin()
        faults.point("replay_begun")
        for table in sorted(fresh):
            await producer.send({changelogs[table]: [Outgoing(now_ms, IDENTITY, uuid.uuid4().hex.encode())]})
        for line in lines:
            if line.changed:
                rows = ((now_ms, key, value, ()) for key, value in differences(before, folded, line.table))
                await send_all(producer, ((changelogs[line.table], row) for row in rows))
        await send_all(producer, sent)
        done = Done(self.run, now_ms, self.job, lines)
        await producer.send({journal: [Outgoing(now_ms, REPLAYED, done.encode())]})
        faults.point("replay_sent")
        if not self.span.began or self.span.boundary is not None:
            offsets = {TopicPartition(topic, number): end for topic, end in self.span.ends.items()}
            repeated = {} if self.span.boundary is None else {journal: self.span.boundary + 1}
            await producer.send_offsets(offsets | repeated)
        await producer.commit()
        faults.point("replay_committed")


def _first(lines: Sequence[Compared]) -> str:
    """The first key that differs, with its table."""
    return next((f"{line.table}, key {line.first}" for line in lines if line.first is not None), "none")


def differences(before: Store, after: Store, table: str) -> Iterator[tuple[bytes, bytes | None]]:
    """What `after` has otherwise than `before`, in the order of the keys; None: it does not have that row."""
    both = side_by_side(every_row(before, table), every_row(after, table))
    return ((key, new) for key, old, new in both if old != new)


async def send_all(producer: Transactions, records: Iterable[tuple[TopicPartition, Fields]]) -> None:
    """Into the transaction that is open, some at a time: memory does not grow with their number."""
    piece: dict[TopicPartition, list[Fields]] = {}
    count = 0
    for to, fields in records:
        piece.setdefault(to, []).append(fields)
        count += 1
        if count == ROWS_AT_ONCE:
            await producer.send(piece)
            piece, count = {}, 0
    if piece:
        await producer.send(piece)
