"""Shows the offsets of tasks and effects beside what they had committed, and puts back or sets what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from cli.console import Found, Operator, confirm, json_option, note, put_json, put_table
from streams.committed import committed_offsets
from streams.kafka import KafkaLog, onlooker
from streams.positions import Position, positions, positions_of_effects
from streams.positions import restore as put_back
from streams.records import TopicPartition
from streams.reset import WorkersRunning, require_no_members
from streams.settings import EngineSettings


@click.group()
def offsets() -> None:
    """What tasks and effects have committed, and whether it has been changed since."""


@offsets.command()
@json_option
@click.pass_obj
def show(operator: Operator, as_json: bool) -> None:
    """Compare the committed offsets with those that the tasks have committed last.

    The latter come from the broker's own topic (__consumer_offsets), which forgets what was deleted when it is cleaned;
    `-` stands for what nobody knows. Exit codes: 0 they are the same, 1 some are not, 3 no broker answers.
    """
    found = operator.run(_positions(operator))
    _put(found, as_json)
    if other := [each for each in found if each.now != each.last]:
        raise Found(
            f"{len(other)} offsets are not what the tasks have committed. `faust -A app offsets restore` puts back what"
            " is known."
        )
    note(f"{len(found)} offsets are as the tasks have committed them.")


@offsets.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def restore(operator: Operator, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Commit what the tasks have committed last, where it is deleted or is something else now.

    Stop all workers first. Run `faust -A app replay` afterwards: it shows whether tables and offsets belong together.
    Exit codes: 0 done, or nothing to do; 1 workers run, or some are not known to the broker any more; 2 usage; 3 no
    broker answers.
    """
    settings = operator.app.engine_settings()
    found = operator.run(_positions(operator))
    wanted = [each for each in found if each.restorable]
    _put(wanted, as_json)
    if wanted and not dry_run:
        names = ", ".join(sorted({each.group or settings.app_id for each in wanted}))
        confirm(f"Commit {len(wanted)} offsets of group {names}?", yes)
        try:
            operator.run(_restored(operator, wanted))
        except WorkersRunning as error:
            raise Found(str(error)) from None
    if unknown := [each for each in found if each.last is None]:
        names = ", ".join(f"{each.partition.topic}-{each.partition.partition}" for each in unknown)
        raise Found(f"The broker does not know any more what was committed of {names}.")
    note(f"{len(wanted)} offsets {'would be' if dry_run else 'were'} put back.")


@offsets.command()
@click.argument("effect")
@click.option("--at", type=click.Choice(["beginning", "end"]), required=True, help="Where it goes on.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def begin(operator: Operator, effect: str, at: str, yes: bool, as_json: bool) -> None:
    """Say where an effect goes on in the partitions that it has no offset for.

    For an effect that has run before and whose offsets the broker has forgotten (`offsets restore` comes first). From
    the end it misses what was not done yet; from the beginning it does again all that it ever did. Stop all workers
    first. Exit codes: 0 done, or no offset is missing; 1 workers run; 2 usage; 3 no broker answers.
    """
    groups = _groups(operator)
    found = next((each for each in operator.app.effects if each.name == effect), None)
    if found is None:
        names = ", ".join(sorted(each.name for each in operator.app.effects)) or "none"
        raise click.BadParameter(f"there is no effect {effect}; effects: {names}", param_hint="EFFECT")
    settings = replace(operator.app.engine_settings(), app_id=found.group_id)
    wanted = operator.run(_missing(settings, groups[found.group_id], at))
    _put(wanted, as_json)
    if wanted:
        confirm(f"Let {effect} go on at the {at} of {len(wanted)} partitions?", yes)
        try:
            operator.run(_restored(operator, wanted))
        except WorkersRunning as error:
            raise Found(str(error)) from None
    note(f"{len(wanted)} offsets were set.")


async def _missing(settings: EngineSettings, partitions: Sequence[TopicPartition], at: str) -> list[Position]:
    async with onlooker(settings) as consumer:
        committed = await committed_offsets(consumer, partitions)
        bounds = await KafkaLog(settings, consumer).bounds(partitions)
    return [
        Position(tp, None, bounds[tp][0 if at == "beginning" else 1], settings.app_id)
        for tp in partitions
        if tp not in committed
    ]


async def _positions(operator: Operator) -> list[Position]:
    settings = operator.app.engine_settings()
    return [
        *await positions(settings, operator.app.groups),
        *await positions_of_effects(settings, _groups(operator)),
    ]


def _groups(operator: Operator) -> dict[str, list[TopicPartition]]:
    """The consumer groups of the effects with the partitions that they read."""
    declared = operator.app.declared
    return {
        effect.group_id: [
            TopicPartition(topic, number) for topic in effect.consumed for number in range(declared[topic].partitions)
        ]
        for effect in operator.app.effects
    }


async def _restored(operator: Operator, wanted: list[Position]) -> None:
    settings = operator.app.engine_settings()
    for group in sorted({each.group for each in wanted}):
        await require_no_members(replace(settings, app_id=group or settings.app_id))
    await put_back(settings, wanted)


def _put(found: list[Position], as_json: bool) -> None:
    if as_json:
        rows: list[dict[str, Any]] = [
            {**each.partition._asdict(), "committed": each.now, "by_task": each.last}
            | ({"group": each.group} if each.group else {})
            for each in found
        ]
        put_json({"offsets": rows})
        return
    cells = [(*each.partition, *("-" if n is None else n for n in (each.now, each.last)), each.group) for each in found]
    put_table(("topic", "partition", "committed", "by its task", "effect"), cells)
