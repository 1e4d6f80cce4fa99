"""the topic that says which version is live, and what there is of each -> shown; one that is not live, removed."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from cli.building import Side, side_of
from cli.console import Found, Operator, confirm, json_option, note, put_json, put_table
from cli.into import NOT_NOW, given_back, topics_of, what_is_said
from streams import admin
from streams.live import Said, folder_of, named
from streams.reset import WorkersRunning, forget_offsets, members, require_no_members


@click.command()
@click.option("--abandon", is_flag=True, help="End a switch that was cut short: the version that was live goes on.")
@click.option("--remove", metavar="VERSION", help="Delete the tables, journals and offsets of one that is not live.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def versions(operator: Operator, abandon: bool, remove: str | None, yes: bool, as_json: bool) -> None:
    """Show which version is live, what there is of others, and which workers run. `replay --into` switches.

    Exit codes: 0 shown, or done; 1 it is live, its workers run, or no switch was under way; 2 usage; 3 no broker
    answers.
    """
    if abandon and remove is not None:
        raise click.UsageError("Either --abandon or --remove.")
    try:
        if abandon:
            _abandon(operator, yes, as_json)
        elif remove is not None:
            _remove(operator, remove, yes, as_json)
        else:
            _show(operator, as_json)
    except (*NOT_NOW, WorkersRunning) as error:
        raise Found(str(error)) from None


def _abandon(operator: Operator, yes: bool, as_json: bool) -> None:
    confirm("End the switch that is under way, and let the version go on that was live?", yes)
    back = operator.run(given_back(operator))
    if as_json:
        put_json({"live": back})
    note(f"{named(back).capitalize()} is live, and its workers go on.")


def _show(operator: Operator, as_json: bool) -> None:
    said = operator.run(what_is_said(operator))
    rows = operator.run(_found(operator, said))
    if as_json:
        put_json({"said": None if said is None else orjson.loads(said.encode()), "versions": rows})
        return
    cells = [(row["version"] or "(no name)", row["state"], row["topics"], ", ".join(row["workers"])) for row in rows]
    put_table(("version", "state", "topics", "workers"), cells)
    if said is not None:
        at = datetime.fromtimestamp(said.at_ms / 1000, UTC).isoformat(timespec="seconds")
        note(f"Last word, of {at}: {said.state}, from {named(said.source)} to {named(said.to)}.")


async def _found(operator: Operator, said: Said | None) -> list[dict[str, Any]]:
    """Every version of which there is a journal, and the one that is at hand."""
    existing = await admin.partition_counts(operator.brokers)
    shared = operator.app.shared_id
    names = {version_of(name, shared) for name in existing if name.startswith(f"{shared}-")} - {None}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for version in sorted({*names, operator.app.version, ""} - {None}, key=str):
            side = side_of(operator, str(version), Path(folder))
            topics = [topic.name for topic in topics_of(operator, side) if topic.name in existing]
            state = state_of(str(version), said)
            rows.append(
                {"version": version, "state": state, "topics": len(topics), "workers": await members(side.settings)}
            )
    return rows


def version_of(topic: str, shared: str) -> str | None:
    """The version whose journal this is."""
    rest = topic.removeprefix(f"{shared}-")
    version, _, name = rest.partition("-")
    return version[1:] if topic.endswith("-journal") and version.startswith("v") and "-" in name else None


def state_of(version: str, said: Said | None) -> str:
    if said is not None and said.state == "switching":
        return {said.source: "is switched from", said.to: "is switched to"}.get(version, "stands by")
    return "live" if version == ("" if said is None else said.to) else "stands by"


def _remove(operator: Operator, version: str, yes: bool, as_json: bool) -> None:
    said = operator.run(what_is_said(operator))
    if (state := state_of(version, said)) != "stands by":
        raise Found(f"{named(version).capitalize()} {'is ' if state == 'live' else ''}{state}: it is not removed.")
    with tempfile.TemporaryDirectory() as folder:
        side = side_of(operator, version, Path(folder))
        confirm(f"Delete every table, journal and offset of {named(version)}?", yes)
        topics, stores = operator.run(_removed(operator, side))
    if as_json:
        put_json({"removed": version, "topics": topics, "stores": stores})
        return
    note(f"{named(version).capitalize()} is removed: {len(topics)} topics, {len(stores)} directories of stores here.")


async def _removed(operator: Operator, side: Side) -> tuple[list[str], list[str]]:
    """Offsets go first: the broker refuses while a worker runs, and that is the lock. Killed, it is run again."""
    await require_no_members(side.settings)
    await forget_offsets(side.settings)
    existing = await admin.partition_counts(operator.brokers)
    topics = [topic.name for topic in topics_of(operator, side) if topic.name in existing]
    await admin.delete(operator.brokers, topics)
    below = folder_of(operator.settings.data_dir, side.version)
    stores = [path for path in sorted(below.glob("state-*")) if path.is_dir()]
    for path in stores:
        shutil.rmtree(path)
    return topics, [str(path) for path in stores]
