"""offsets, journal and inputs of a task -> how far it has come, what it has yet to repeat; or what of it was lost.

Every start of a task asks this, and so does `replay`: what somebody did to topics or offsets by hand is found here.
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.errors import LogMismatch
from streams.journal import MARKED, Boundary, hold_bounds, last_boundary
from streams.log import Extent, Log
from streams.records import TopicPartition
from streams.restore import ADOPT, MEND
from streams.topology import Group, task_name

RESTORE = (
    "Stop all workers and run `faust -A app offsets restore`, which puts back what the tasks have committed, as long as"
    " the broker remembers it."
)


@dataclass(frozen=True)
class Standing:
    """`offsets`: by input, the committed one; the beginnings of all when the task has never run. `replayed_to`: how far
    in its journal it has repeated its past, None when it never did."""

    offsets: dict[TopicPartition, int]
    began: bool
    replayed_to: int | None


async def find_standing(log: Log, group: Group, partition: int) -> Standing:
    """Raises LogMismatch when the offsets and the inputs do not belong together."""
    inputs, journal, task = group.inputs(partition), group.journal(partition), task_name(group.name, partition)
    committed = await log.committed([*inputs, journal])
    replayed_to = committed.pop(journal, None)
    began = bool(committed)
    bounds = await log.bounds(inputs)
    for tp, (_, end) in bounds.items():
        name = f"{tp.topic}-{tp.partition}"
        offset = committed.get(tp)
        if offset is None and began:
            raise LogMismatch(
                f"no offset is committed for {name}, though {task} has run before: the topic is new to this"
                f" application, it was deleted or re-created, or its offset was deleted. {RESTORE}"
                f" {ADOPT.format(topic=tp.topic)}"
            )
        if offset is not None and offset > end:
            raise LogMismatch(
                f"{offset} is committed for {name}, which ends at {end}: the topic was deleted or re-created. If it can"
                " be brought back (a mirror, a backup), bring it back and start again; nothing can be replayed"
                f" without it. {ADOPT.format(topic=tp.topic)}"
            )
    return Standing(committed or {tp: begin for tp, (begin, _) in bounds.items()}, began, replayed_to)


async def _hold_marks(log: Log, group: Group, partition: int) -> None:
    """Raise LogMismatch for offsets that somebody else has committed."""
    strange = await log.foreign([*group.inputs(partition), group.journal(partition)])
    if strange:
        names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in sorted(strange))
        raise LogMismatch(
            f"the offsets of {names} were set by somebody else than {task_name(group.name, partition)} (by Kafka's own"
            " tools with --reset-offsets, for instance). Taken from there, records would count twice or be missed:"
            f" tables and offsets belong together. {RESTORE}"
        )


async def to_repeat(
    log: Log, group: Group, partition: int, standing: Standing, journal: Extent
) -> tuple[Boundary, int] | None:
    """The boundary up to which the past is to be repeated, and its offset; None when there is nothing to repeat.

    A `reset` has forgotten the offsets, or the owner before was at it. Raises LogMismatch when the journal and the
    offsets do not belong together.
    """
    tp, task = group.journal(partition), task_name(group.name, partition)
    name = f"{tp.topic}-{tp.partition}"
    if journal.first is None:
        if standing.began:
            raise LogMismatch(
                f"{name} is empty, though {task} has run before: the topic was lost or re-created, and a replay could"
                f" not take the inputs in their old order. {ADOPT.format(topic=tp.topic)}"
            )
        return None
    if standing.began and journal.first.value == MARKED:
        await _hold_marks(log, group, partition)
    if standing.began and standing.replayed_to is None:
        return None
    found = await last_boundary(log, tp, journal.end)
    if found is None and not standing.began:
        raise LogMismatch(
            f"no offsets are committed for {task}, though {name} says that it has run before: they were deleted, or"
            f" expired while no worker ran (the broker's offsets.retention.minutes). {RESTORE} Where the broker does"
            " not know them any more, `faust -A app reset`: what one topic brought last may then be sent again."
        )
    if found is None or (standing.replayed_to or 0) > found[1]:
        return None
    hold_bounds(task, found[0], await log.bounds(group.inputs(partition)), MEND)
    return found
