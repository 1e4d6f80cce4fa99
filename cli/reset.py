"""a stopped application -> its tables and positions forgotten -> the next start folds the input from the beginning."""

from __future__ import annotations

import click

from cli.console import Found, Operator, confirm, json_option, note, put_json
from streams.errors import LogMismatch
from streams.reset import WorkersRunning, local_stores
from streams.reset import reset as forget


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--emit", metavar="TOPIC", multiple=True, help="An output topic that gets its records again. Repeatable.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def reset(operator: Operator, dry_run: bool, emit: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Forget tables and positions, so that the next start builds everything anew from the input topics.

    Stop all workers first. The next ones take every record again in the order in which it was taken before, and
    answer 503 until they are done. What they sent before is not sent again, but for the topics of --emit: those get
    the same events with the same ids once more. Exit codes: 0 done, 1 workers run, it was not confirmed, or an input
    was deleted whose records only the tables have, 2 a topic that --emit cannot name, 3 no broker answers.
    """
    require_outputs(operator, emit)
    settings, changelogs = operator.app.engine_settings(), operator.app.changelog_topics()
    names = [topic.name for topic in changelogs]
    if dry_run:
        stores = [str(path) for path in local_stores(settings)]
    else:
        confirm(
            f"Delete the offsets of group {settings.app_id}, {len(names)} changelogs and the stores under"
            f" {settings.state_dir.parent}, and begin anew from the input topics?",
            yes,
        )
        try:
            stores = [str(path) for path in operator.run(forget(settings, operator.app.groups, changelogs, emit))]
        except (LogMismatch, WorkersRunning) as error:
            raise Found(str(error)) from None
    if as_json:
        forgotten = {"group": settings.app_id, "changelogs": names, "stores": stores}
        put_json(forgotten | {"emit": list(emit), "dry_run": dry_run})
        return
    would = "would be " if dry_run else ""
    for name in [f"offsets of group {settings.app_id}", *names, *stores]:
        click.echo(f"{name}: {would}forgotten")
    note("The next worker folds the input topics from their beginning. Stores on other machines must be removed there.")


def outputs_of(operator: Operator) -> list[str]:
    """The topics that nobody in this application reads."""
    groups, live = operator.app.groups.values(), operator.app.live
    own = {topic for group in groups for topic in group.agents} | ({live.partition.topic} if live else set())
    return sorted(operator.app.declared.keys() - own)


def require_outputs(operator: Operator, emit: tuple[str, ...]) -> None:
    """Raise click.BadParameter: what the application reads itself would count twice."""
    outputs = outputs_of(operator)
    if wrong := [name for name in emit if name not in outputs]:
        raise click.BadParameter(f"{wrong[0]} is no output topic; they are {', '.join(outputs)}", param_hint="--emit")
