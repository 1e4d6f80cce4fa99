"""in which order a task took its inputs -> records of its own -> the same order again when it is replayed.

Each input topic has an order; between two of them there is none but the one in which the task happened to take them,
and the moments at which deadlines fell due came from a clock. A replay that is to end in the same state needs both. The
journal of a task (`<app id>-<group>-journal`, one partition for each task, kept for ever) has them, in the transactions
that they describe:

- `began`, once: the task's first owner ever wrote it. A journal without it was lost.
- `adopted`, from `topics adopt`: `[topic, offset]`; this input was deleted, and goes on from there with another past.
- `steps`: `[[topic, end], …, [null, now_ms]]`, run-length coded. A run of one topic is written down when another one
  follows, so a task that reads one topic at a time writes next to nothing. `end` is the offset after the run's last
  record; `null` says that deadlines were emitted as of `now_ms`.
- `replay`: `{"offsets": {topic: end}, "emit": [topic]}`, from `reset`: everything up to here is repeated by the next
  owner. The run that was open then ends at these offsets. Records that the replay sends are in the log already and are
  not sent again, but for the topics in `emit`.
- `built`: `replay --into` has written what stands before it, from another version's past (streams/building.py).
- `replayed`: what `replay` did to the task (streams/replay.py); `reported`: whoever asked for that run was told what
  came of it. They say nothing of the order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from streams.errors import LogMismatch
from streams.log import Log, Offsets
from streams.records import Outgoing, Record, TopicPartition

BEGAN, STEPS, REPLAY = b"began", b"steps", b"replay"
REPLAYED, REPORTED = b"replayed", b"reported"
ADOPTED, BUILT = b"adopted", b"built"
#: The first record of a journal whose task marks the offsets that it commits; in older ones it is empty.
MARKED = b"marked"


class Run(NamedTuple):
    """Records of one input, in its order."""

    partition: TopicPartition
    records: Sequence[Record]

    @property
    def end(self) -> int:
        return self.records[-1].offset + 1


class Due(NamedTuple):
    """The deadlines that were due at this moment; always the last act of a batch."""

    now_ms: int


#: What one batch consists of, in order.
Act = Run | Due


def size(acts: Iterable[Act]) -> int:
    """The number of records; deadlines that were due count as one."""
    return sum(len(act.records) if isinstance(act, Run) else 1 for act in acts)


class Step(NamedTuple):
    """One step of a journal: a topic up to an offset, or (no topic) deadlines as of a moment in milliseconds."""

    topic: str | None
    end: int


class Writer:
    """Writes down what a replay would have to know, and no more.

    Which run is open is unknown to a new owner; ends of all inputs say the same as that one's, because at most one of
    them has moved since the last step.
    """

    def __init__(self, inputs: Sequence[TopicPartition]) -> None:
        self._open = tuple(inputs)
        self._next_open = self._open

    def steps(self, acts: Iterable[Act], committed: Offsets) -> bytes | None:
        """The record that belongs into the transaction of these acts; None when there is nothing to say."""
        steps: list[Step] = []
        ends, still_open = dict(committed), self._open
        for act in acts:
            following = () if isinstance(act, Due) else (act.partition,)
            if still_open != following:
                steps += [Step(partition.topic, ends[partition]) for partition in still_open]
            if isinstance(act, Due):
                steps.append(Step(None, act.now_ms))
            else:
                ends[act.partition] = act.end
            still_open = following
        self._next_open = still_open
        return orjson.dumps([list(step) for step in steps]) if steps else None

    def committed(self) -> None:
        """The transaction that `steps` was asked for has committed."""
        self._open = self._next_open


@dataclass(frozen=True)
class Boundary:
    """What `reset` left: how far the task had come, and which topics are to get their records again."""

    offsets: Mapping[str, int]
    emit: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        return orjson.dumps({"offsets": dict(self.offsets), "emit": sorted(self.emit)})

    @classmethod
    def decode(cls, raw: bytes) -> Boundary:
        content = orjson.loads(raw)
        return cls(content["offsets"], frozenset(content["emit"]))


async def last_boundary(log: Log, journal: TopicPartition, end: int) -> tuple[Boundary, int] | None:
    """The boundary that the journal ends with and its offset; None when anything else came after it.

    Behind it may stand what readers do not see: its marker, and the records and markers of any number of transactions
    that were aborted (a `replay` that was killed before its commit). So the last record is looked for backwards, in
    steps that double until one is found.
    """
    found: Record | None = None
    reach, start = 2, end
    while found is None and start > 0:
        start, reach = max(0, end - reach), 2 * reach
        async for _, records, _ in log.read({journal: start}, {journal: end}):
            found = next((record for record in reversed(records) if record.offset < end), found)
    if found is None or found.key != REPLAY or found.value is None:
        return None
    return Boundary.decode(found.value), found.offset


async def boundary_now(
    log: Log, inputs: Sequence[TopicPartition], journal: TopicPartition, end: int, emit: frozenset[str]
) -> Boundary:
    """How far a stopped task has come, and thus has sent what it sends.

    One that was stopped in the midst of a replay has not come there again yet: the older boundary holds. So it does
    when the offsets are gone already, because a `reset` was killed.
    """
    committed = await log.committed([*inputs, journal])
    replayed_to = committed.pop(journal, None)
    last = await last_boundary(log, journal, end)
    if last is not None and (not committed or (replayed_to is not None and replayed_to <= last[1])):
        return Boundary(last[0].offsets, emit)
    return Boundary({partition.topic: offset for partition, offset in committed.items()}, emit)


class Replay:
    """The steps that are still to be repeated, read as they are needed.

    Shapes: `position` is the offset of the journal record whose steps are not all taken; it is committed with each
    batch, so that the next owner goes on from there.
    """

    def __init__(self, log: Log, journal: TopicPartition, start: int, boundary: Boundary, end: int) -> None:
        self.boundary, self.position = boundary, start
        self._steps = self._read(log, journal, start, end)
        self._end = end
        self._ahead: tuple[Step, int] | None = None

    async def _read(self, log: Log, journal: TopicPartition, start: int, end: int) -> AsyncIterator[tuple[Step, int]]:
        """Every step with the offset of its record, and at last the runs that were open."""
        async for _, records, _ in log.read({journal: start}, {journal: end}):
            for record in records:  # a piece may reach behind the end
                if record.key == STEPS and record.value is not None and record.offset < end:
                    for topic, reached in orjson.loads(record.value):
                        yield Step(topic, reached), record.offset
        for topic, reached in self.boundary.offsets.items():
            yield Step(topic, reached), end

    async def current(self) -> Step | None:
        """The step to take; None when all are taken."""
        if self._ahead is None:
            self._ahead = await anext(self._steps, None)
            self.position = self._end + 1 if self._ahead is None else self._ahead[1]
        return None if self._ahead is None else self._ahead[0]

    def taken(self) -> None:
        """Go on to the next step."""
        self._ahead = None

    async def close(self) -> None:
        await self._steps.aclose()  # type: ignore[attr-defined]  # an async generator


def hold_bounds(name: str, boundary: Boundary, bounds: Mapping[TopicPartition, tuple[int, int]], mend: str) -> None:
    """Raise LogMismatch when an input ends before the place that it has to be replayed to."""
    for partition, (_, end) in bounds.items():
        wanted = boundary.offsets.get(partition.topic, 0)
        if wanted > end:
            raise LogMismatch(
                f"{name} is to be replayed up to {partition.topic}-{partition.partition}-{wanted}, but that topic ends"
                f" at {end}: it was deleted or re-created. {mend}"
            )


def began_record() -> Outgoing:
    return Outgoing(0, BEGAN, MARKED)
