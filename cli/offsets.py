"""the group's offsets, and what its tasks had committed -> both side by side -> what somebody has changed, put back."""

from __future__ import annotations

from typing import Any

import click

from cli.console import Found, Operator, confirm, json_option, note, put_json, put_table
from streams.positions import Position, positions
from streams.positions import restore as put_back
from streams.reset import WorkersRunning, require_no_members


@click.group()
def offsets() -> None:
    """What the tasks have committed, and whether somebody else has changed it since."""


@offsets.command()
@json_option
@click.pass_obj
def show(operator: Operator, as_json: bool) -> None:
    """Compare the committed offsets with those that the tasks have committed last.

    The latter come from the broker's own topic (__consumer_offsets), which forgets what was deleted when it is cleaned;
    `-` stands for what nobody knows. Exit codes: 0 they are the same, 1 some are not, 3 no broker answers.
    """
    found = operator.run(positions(operator.app.engine_settings(), operator.app.groups))
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
    found = operator.run(positions(settings, operator.app.groups))
    wanted = [each for each in found if each.restorable]
    _put(wanted, as_json)
    if wanted and not dry_run:
        confirm(f"Commit {len(wanted)} offsets of group {settings.app_id}?", yes)
        try:
            operator.run(_restored(operator, wanted))
        except WorkersRunning as error:
            raise Found(str(error)) from None
    if unknown := [each for each in found if each.last is None]:
        names = ", ".join(f"{each.partition.topic}-{each.partition.partition}" for each in unknown)
        raise Found(f"The broker does not know any more what was committed of {names}.")
    note(f"{len(wanted)} offsets {'would be' if dry_run else 'were'} put back.")


async def _restored(operator: Operator, wanted: list[Position]) -> None:
    settings = operator.app.engine_settings()
    await require_no_members(settings)
    await put_back(settings, wanted)


def _put(found: list[Position], as_json: bool) -> None:
    if as_json:
        rows: list[dict[str, Any]] = [
            {**each.partition._asdict(), "committed": each.now, "by_task": each.last} for each in found
        ]
        put_json({"offsets": rows})
        return
    cells = [
        (each.partition.topic, each.partition.partition, *("-" if n is None else n for n in (each.now, each.last)))
        for each in found
    ]
    put_table(("topic", "partition", "committed", "by its task"), cells)
