"""declared topics + the broker's -> plan, create, check -> the same topics on both, or what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from cli.console import Found, Operator, confirm, json_option, note, put_json, put_table, wants_json
from streams import admin
from streams.admin import Difference, TopicConfig, What
from streams.brokers import Brokers
from streams.errors import Fenced, OutcomeUnknown
from streams.forwarding import forward as forward_records
from streams.reset import OffsetGone, WorkersRunning
from streams.reset import adopt as take_in


@click.group(invoke_without_command=True)
@click.pass_context
def topics(context: click.Context) -> None:
    """Compare the declared topics with the broker's, and create them. Alone: plan.

    Exit codes: 0 as declared, 1 something differs, 2 usage, 3 no broker answers.
    """
    if context.invoked_subcommand is None:
        context.invoke(plan, as_json=wants_json())


@topics.command()
@json_option
@click.pass_obj
def plan(operator: Operator, as_json: bool) -> None:
    """Show every declared topic and how it differs from the broker's. Changes nothing.

    A setting that is only preferred, which managed clusters may not let be set, is shown and counts as declared.
    """
    wanted = operator.app.required_topics()
    differences = operator.run(admin.plan(operator.brokers, wanted))
    if as_json:
        put_json({"topics": _rows(wanted, differences), "differences": len(differences)})
    else:
        _show(wanted, differences)
    if any(not difference.is_preferred for difference in differences):
        raise click.exceptions.Exit(1)


@topics.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask before a change that lets the broker delete records.")
@json_option
@click.pass_obj
def create(operator: Operator, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Create missing topics and set differing configurations. Partition counts are never changed: keys would move."""
    wanted = operator.app.required_topics()
    differences = operator.run(admin.plan(operator.brokers, wanted))
    missing = [difference.topic for difference in differences if difference.what is What.MISSING]
    changes = [difference for difference in differences if difference.what is What.CONFIG]
    left = [difference for difference in differences if not difference.mendable]
    kept: list[Difference] = []
    if not dry_run:
        for change in changes:
            if change.may_delete_records:
                confirm(f"{change}. Setting it lets the broker delete records it keeps now. Set it?", yes)
        new = [topic for topic in wanted if topic.name in missing]
        done = operator.run(_mend(operator.brokers, new, changes))
        kept = [change for change in changes if change not in done]
        changes = done
    if as_json:
        put_json(
            {
                "created": missing,
                "altered": [_difference(change) for change in changes],
                "left": [_difference(difference) for difference in (*left, *kept)],
                "dry_run": dry_run,
            }
        )
    else:
        _say_done(missing, changes, left, dry_run)
        for each in kept:
            note(f"{each}: the broker does not take it.")
    if left:
        raise click.exceptions.Exit(1)


@topics.command()
@json_option
@click.pass_obj
def check(operator: Operator, as_json: bool) -> None:
    """Make the check that a worker makes at its start: topics as declared, and each partition has a leader."""
    wanted = operator.app.required_topics()
    try:
        operator.run(admin.check(operator.brokers, wanted))
    except Found as error:
        if as_json:
            put_json({"ok": False, "topics": len(wanted), "detail": error.message})
        raise
    if as_json:
        put_json({"ok": True, "topics": len(wanted), "detail": None})
    else:
        click.echo(f"{len(wanted)} topics are as declared, and every partition has a leader.")


@topics.command()
@click.argument("topic")
@json_option
@click.pass_obj
def adopt(operator: Operator, topic: str, as_json: bool) -> None:
    """Take in an input, changelog or journal that is new to a running application, or whose loss is accepted.

    It begins where it stands now. Stop all workers first.
    """
    try:
        work = take_in(operator.app.engine_settings(), operator.app.groups, topic)
        taken = operator.run(operator.after_check(work))
    except KeyError:
        kinds = "an agent's input, a changelog or a journal"
        raise click.BadParameter(f"{topic} is not {kinds}", param_hint="TOPIC") from None
    except (WorkersRunning, OffsetGone) as error:
        raise Found(str(error)) from None
    if as_json:
        put_json({"topic": topic, "partitions": [partition.partition for partition in taken]})
        return
    for partition in taken:
        click.echo(f"{topic}-{partition.partition}: taken in")
    if not taken:
        click.echo(f"{topic} is known in every partition; nothing to do.")


@topics.command()
@click.argument("topic")
@click.option("--dry-run", is_flag=True, help="Only count what would be forwarded.")
@json_option
@click.pass_obj
def forward(operator: Operator, topic: str, dry_run: bool, as_json: bool) -> None:
    """Bring the records of partitions that were added to an input to the partitions that tasks read, each once.

    Workers may run. Set the producers to the declared partition count first: what they write to added partitions
    afterwards waits there for the next run of this command.
    """
    declared = operator.app.declared.get(topic)
    if declared is None or declared.group is None:
        raise click.BadParameter(f"{topic} is not an agent's input", param_hint="TOPIC")
    try:
        done = operator.run(forward_records(operator.app.engine_settings(), declared, dry_run=dry_run))
    except (Fenced, OutcomeUnknown) as error:
        raise Found(f"{error}. What was forwarded is committed; run this again for the rest.") from None
    if as_json:
        rows = [{"partition": tp.partition, "records": count} for tp, count in done.items()]
        put_json({"topic": topic, "forwarded": rows, "dry_run": dry_run})
        return
    for tp, count in done.items():
        click.echo(f"{tp.topic}-{tp.partition}: {count} records {'would be ' if dry_run else ''}forwarded")
    if not done:
        click.echo(f"{topic} has the declared partitions and no more; nothing to do.")


async def _mend(brokers: Brokers, missing: Sequence[TopicConfig], changes: Sequence[Difference]) -> list[Difference]:
    """Returns the changes that the broker has taken."""
    await admin.create(brokers, missing)
    return await admin.alter(brokers, changes)


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "topic": difference.topic,
        "what": difference.what,
        "setting": difference.setting,
        "wanted": difference.wanted,
        "found": difference.found,
        "mendable": difference.mendable,
    }


def _rows(wanted: Sequence[TopicConfig], differences: Sequence[Difference]) -> list[dict[str, Any]]:
    return [
        {
            "name": topic.name,
            "partitions": topic.partitions,
            "replication_factor": topic.replication_factor,
            "config": dict(topic.config),
            "differences": [_difference(each) for each in differences if each.topic == topic.name],
        }
        for topic in wanted
    ]


def _show(wanted: Sequence[TopicConfig], differences: Sequence[Difference]) -> None:
    rows = []
    for topic in wanted:
        states = [str(each).removeprefix(f"{topic.name}: ") for each in differences if each.topic == topic.name]
        rows.append([topic.name, topic.partitions, topic.config.get("cleanup.policy", "-"), "; ".join(states) or "ok"])
    put_table(["topic", "partitions", "cleanup", "state"], rows)
    for line in admin.advice(differences):
        note(line)


def _say_done(missing: Sequence[str], changes: Sequence[Difference], left: Sequence[Difference], dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for name in missing:
        click.echo(f"{name}: {would}created")
    for change in changes:
        click.echo(f"{change.topic}: {change.setting} {would}set to {change.wanted} (was {change.found})")
    for difference in left:
        click.echo(str(difference))
    for line in admin.advice(left):
        note(line)
    if not missing and not changes and not left:
        click.echo("Every topic is as declared; nothing to do.")
