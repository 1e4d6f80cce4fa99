"""the log and a task's journal -> what the task took, in the order in which it took it: the past, act by act.

Nothing is written and no group is joined: offsets are asked for, topics are read by readers of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import orjson

from streams.errors import LogMismatch
from streams.journal import ADOPTED, STEPS, Act, Due, Run, Step, boundary_now
from streams.log import Log
from streams.records import Record, TopicPartition
from streams.topology import Group

NO_PAST = "What it held then is in the tables and nowhere else, so they cannot be made anew."
#: The largest run that is handed out at once.
MAX_RUN = 2_000


async def reached(log: Log, groups: Sequence[Group]) -> dict[TopicPartition, int]:
    """How far every task has come: by input the offset after the last record that is in its state, by journal its end.

    One that was reset counts as far as it had come before. The journals are read last: they know all that is in the
    state, and perhaps what came a moment later.
    """
    tasks = [(group, partition) for group in groups for partition in range(group.partitions)]
    journals = [group.journal(partition) for group, partition in tasks]
    ends = await log.survey(journals)
    committed = await log.committed([*journals, *(tp for group, number in tasks for tp in group.inputs(number))])
    offsets: dict[TopicPartition, int] = {}
    for (group, partition), journal in zip(tasks, journals, strict=True):
        inputs = group.inputs(partition)
        mine = {tp: committed[tp] for tp in inputs if tp in committed}
        if journal in committed or not mine:  # it was reset, then or lately
            boundary = await boundary_now(log, inputs, journal, ends[journal].end, frozenset())
            mine = {tp: boundary.offsets[tp.topic] for tp in inputs if tp.topic in boundary.offsets}
        offsets |= mine
    return offsets | {journal: extent.end for journal, extent in (await log.survey(journals)).items()}


def tails_of(bounds: Mapping[TopicPartition, tuple[int, int]]) -> dict[str, int]:
    """By topic, where it ends."""
    return {tp.topic: end for tp, (_, end) in bounds.items()}


class Cursor(NamedTuple):
    """Where a fold has stopped: by input topic the next offset, and the record of the journal whose steps are not all
    taken, with the number of those that are."""

    offsets: Mapping[str, int]
    journal: int
    taken: int


async def cursor_of(log: Log, group: Group, partition: int, until: Mapping[TopicPartition, int]) -> Cursor:
    """Where `past_of` stops that is asked for the past up to `until`."""
    return (await course_of(log, group, partition, until))[0]


async def course_of(
    log: Log, group: Group, partition: int, until: Mapping[TopicPartition, int], since: Cursor | None = None
) -> tuple[Cursor, list[Step]]:
    """Where `past_of` stops, and the steps that are wholly taken there, `since` on."""
    inputs, journal = group.inputs(partition), group.journal(partition)
    bounds, taken = await log.bounds(inputs), list[Step]()
    ends = {tp.topic: until.get(tp, bounds[tp][0]) for tp in inputs}
    async with aclosing(_steps(log, journal, until.get(journal, 0), since, tails_of(bounds))) as steps:
        found = Cursor(ends, until.get(journal, 0), 0)
        async for step, at, number in steps:
            if at >= found.journal:
                continue
            if step.topic in ends and step.end > ends[step.topic]:
                found = Cursor(ends, at, number)
            else:
                taken.append(step)
    return found, taken


async def past_of(
    log: Log, group: Group, partition: int, until: Mapping[TopicPartition, int], since: Cursor | None = None
) -> AsyncIterator[Act]:
    """What this task did up to the offsets of `until`, a moment that `reached` gave; or what followed on `since`.

    The journal may say more than had happened then: the first step that leads beyond `until` is the last. What no step
    says is the run that was open, and only one input can have moved in it.
    """
    inputs, journal = group.inputs(partition), group.journal(partition)
    bounds = await log.bounds(inputs)
    begins = {tp: bounds[tp][0] if since is None else since.offsets.get(tp.topic, bounds[tp][0]) for tp in inputs}
    readers = {tp.topic: _Input(log, tp, begins[tp], until.get(tp, bounds[tp][0])) for tp in inputs}
    try:
        async with aclosing(_steps(log, journal, until.get(journal, 0), since, tails_of(bounds))) as steps:
            beyond = False
            async for step, _, _ in steps:
                if beyond:
                    continue  # what is left is looked at all the same: it may say that the past is gone
                if step.topic is None:
                    yield Due(step.end)
                elif (reader := readers.get(step.topic)) is not None:  # an input that is no more has no agent
                    async for run in reader.up_to(step.end):
                        yield run
                    beyond = step.end > reader.end
        for reader in readers.values():
            async for run in reader.up_to(reader.end):
                yield run
    finally:
        for reader in readers.values():
            await reader.close()


async def _steps(
    log: Log, journal: TopicPartition, end: int, since: Cursor | None, tails: Mapping[str, int]
) -> AsyncGenerator[tuple[Step, int, int]]:
    """Each step with the offset of its record and its number there. Raises LogMismatch (see `steps_of`)."""
    start = 0 if since is None else since.journal
    async with aclosing(log.read({journal: start}, {journal: end})) as pieces:  # type: ignore[type-var]  # a generator
        async for _, records, _ in pieces:
            for record in records:
                if record.offset < end:
                    for number, step in steps_of(record, since, tails):
                        yield step, record.offset, number


def steps_of(record: Record, since: Cursor | None, tails: Mapping[str, int]) -> list[tuple[int, Step]]:
    """The steps of a record of a journal that are not taken yet, with their numbers.

    `tails`: where the inputs end. Raises LogMismatch for a past that is not in them any more.
    """
    if since is not None and record.offset < since.journal:
        return []
    if record.key == ADOPTED and record.value is not None:
        topic, offset = orjson.loads(record.value)
        raise LogMismatch(
            f"{topic}-{record.partition} was deleted once; since `topics adopt` another goes on from {offset}."
            f" {NO_PAST}"
        )
    if record.key != STEPS or record.value is None:
        return []
    first = since.taken if since is not None and record.offset == since.journal else 0
    steps = [(number, Step(*step)) for number, step in enumerate(orjson.loads(record.value)) if number >= first]
    for _, (topic, end) in steps:
        if topic is not None and end > tails.get(topic, end):
            raise LogMismatch(
                f"{topic}-{record.partition} was taken up to {end} once and ends at {tails[topic]} now: it was deleted"
                f" or re-created. {NO_PAST}"
            )
    return steps


class _Input:
    """One input of a task, read once from its beginning; what was read too far waits."""

    def __init__(self, log: Log, partition: TopicPartition, begin: int, end: int) -> None:
        self.partition, self.end = partition, end
        self._pieces = log.read({partition: begin}, {partition: end})
        self._ahead: deque[Record] = deque()
        self._read_to = begin

    async def up_to(self, offset: int) -> AsyncIterator[Run]:
        """The records before `offset` and before the end that were not handed out yet."""
        offset = min(offset, self.end)
        while True:
            records: list[Record] = []
            while self._ahead and self._ahead[0].offset < offset and len(records) < MAX_RUN:
                records.append(self._ahead.popleft())
            if records:
                yield Run(self.partition, records)
            elif self._ahead or self._read_to >= offset or not await self._read():
                return

    async def _read(self) -> bool:
        piece = await anext(self._pieces, None)
        if piece is None:
            return False
        _, records, self._read_to = piece
        self._ahead.extend(records)
        return True

    async def close(self) -> None:
        await self._pieces.aclose()  # type: ignore[attr-defined]  # an async generator
