"""offsets, journal and inputs of a task -> how far it has come, what it has yet to repeat; or what of it was lost.

Every start of a task asks this, and so does `replay`: what somebody did to topics or offsets by hand is found here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.errors import LogMismatch
from streams.journal import MARKED, Boundary, hold_bounds, last_boundary
from streams.log import Extent, Log
from streams.records import TopicPartition
from streams.restore import ADOPT, MEND
from streams.topology import Group, task_name

log = logging.getLogger(__name__)

RESTORE = (
    "Stop all workers and run `faust -A app offsets restore`, which puts back what the tasks have committed, as long as"
    " the broker remembers it."
)


@dataclass(frozen=True)
class Standing:
    """`offsets`: by input, the committed one; the beginnings of all when the task has never run. `replayed_to`: how far
    in its journal it has repeated its past, None when it never did. `skipped`: by input, how many offsets the broker
    deleted before the task had taken them; `offsets` are behind them."""

    offsets: dict[TopicPartition, int]
    began: bool
    replayed_to: int | None
    skipped: Mapping[TopicPartition, int] = field(default_factory=dict)


async def find_standing(log_: Log, group: Group, partition: int) -> Standing:
    """Compare the committed offsets with what the inputs hold now.

    Raises LogMismatch when they do not belong together, and when records of an input that is kept for ever were deleted
    before this task took them. Where a retention lets the broker delete, the task goes on behind them: `skipped`.
    """
    inputs, journal, task = group.inputs(partition), group.journal(partition), task_name(group.name, partition)
    committed = await log_.committed([*inputs, journal])
    replayed_to = committed.pop(journal, None)
    began = bool(committed)
    bounds = await log_.bounds(inputs)
    skipped: dict[TopicPartition, int] = {}
    for tp, (begin, end) in bounds.items():
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
        if offset is not None and offset < begin:
            if group.topics[tp.topic].is_kept:
                raise LogMismatch(
                    f"{name} was deleted from {offset} to {begin - 1} before {task} had taken it: the records of these"
                    f" {begin - offset} offsets are in no table and in no dead letter. The topic is to be kept for"
                    " ever, so somebody has deleted them (kafka-delete-records, another retention.ms, a lost disk). If"
                    " they can be had from a mirror or a backup, produce them again afterwards. To accept the loss and"
                    f" go on, stop all workers and run `faust -A app topics adopt {tp.topic}`; no replay takes this"
                    " topic in after that"
                )
            committed[tp] = begin
            if (begin, offset) == (end, end - 1):
                # Nothing is left, and the last thing that was there is the marker of a transaction wherever the writers
                # of the topic use them. An idle week must not look like a loss.
                log.warning("%s: the last offset of %s (%d) is deleted: a marker, or a record", task, name, offset)
            else:
                skipped[tp] = begin - offset
    return Standing(committed or {tp: begin for tp, (begin, _) in bounds.items()}, began, replayed_to, skipped)


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
