"""`replay --into VERSION`: a version's tables built beside the live ones, compared, and switched over to."""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from cli.building import Building, Side, side_of
from cli.console import Found, Operator, confirm, note, progress, put_json, put_table
from cli.folding import scratch
from schemas.settings import VERSION
from streams import admin
from streams.admin import TopicConfig, TopicsDiffer, What
from streams.building import Seen
from streams.clock import SystemClock
from streams.errors import (
    Fenced,
    LogMismatch,
    NotLive,
    NotReadable,
    OutcomeUnknown,
    StoreDamaged,
    StoreUnavailable,
)
from streams.kafka import KafkaLog, KafkaReader, onlooker
from streams.live import Live, Said, StillThere, Switch, named
from streams.past import reached
from streams.reset import members

#: What keeps it from being carried out; each says what to do. It may be run again.
NOT_NOW = (Fenced, LogMismatch, NotLive, NotReadable, OutcomeUnknown, StoreDamaged, StoreUnavailable)
GIVE_UP = "`faust -A app versions --abandon` lets the version go on that was live"


@dataclass
class Report:
    """What is told at the end."""

    source: str
    to: str
    tables: Sequence[Seen] = ()
    records: int = 0
    rounds: int = 0
    built_s: float = 0.0
    #: From the first word of the switch to the last; None when there was none.
    switched_s: float | None = None

    @property
    def differ(self) -> list[Seen]:
        return [seen for seen in self.tables if not seen.equal]

    def to_json(self) -> dict[str, Any]:
        rows = [seen._asdict() | {"equal": seen.equal} for seen in self.tables]
        told = {"from": self.source, "to": self.to, "records": self.records, "rounds": self.rounds}
        times = {"built_s": round(self.built_s, 2), "switched_s": self.switched_s and round(self.switched_s, 2)}
        return told | times | {"switched": self.switched_s is not None, "equal": not self.differ, "tables": rows}


def replay_into(operator: Operator, to: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Build the tables of this version by the rules at hand, show how they differ, and make it the live one."""
    if not re.fullmatch(VERSION, to):
        raise click.BadParameter(f"{to} is no name of a version: small letters and digits", param_hint="--into")
    source = ""
    try:
        said = operator.run(what_is_said(operator))
        live = source_of(said, to)
        if live is None:
            _already(to, as_json)
            return
        source = live
        with scratch(operator) as folder:
            sides = side_of(operator, source, folder), side_of(operator, to, folder)
            if dry_run:
                _show_plan(*sides, operator.run(_plan(operator, *sides)), as_json)
                return
            # Nobody sees a bar where there is no terminal, so nobody has to know how much there is.
            length = operator.run(_plan(operator, *sides))["records"] if sys.stderr.isatty() else 0
            with progress("building", 2 * length) as bar:  # each record is read, and folded
                report = Report(source, to)
                operator.run(_carried_out(operator, *sides, said, report, bar, yes, as_json))
    except NOT_NOW as error:
        raise Found(str(error)) from None
    except StillThere as error:
        raise Found(
            f"{error} did not let go within the time: nothing was switched, and {named(source)} works on. Stop those"
            " workers, or bring them to this release, and run this again."
        ) from None


async def what_is_said(operator: Operator) -> Said | None:
    """Asked once the topics that all versions share are known to be as declared."""
    live, declared = live_of(operator), operator.app.declared
    await admin.check(operator.brokers, [topic for topic in operator.app.required_topics() if topic.name in declared])
    async with KafkaReader(operator.app.engine_settings()) as reader:
        await live.look(reader)
    return live.said


def live_of(operator: Operator) -> Live:
    """Raises Found for an application without versions."""
    if operator.app.live is None:
        raise Found("This application has no versions: it declares no topic that says which of them is live.")
    return Live(operator.app.live.partition.topic, operator.app.version)


def source_of(said: Said | None, to: str) -> str | None:
    """The version to build from; None when the other is live already. Raises NotLive while another switch is on."""
    live = "" if said is None else said.live
    if live is not None or said is None:
        return None if live == to else live
    if said.to != to:
        raise NotLive(f"a switch from {named(said.source)} to {named(said.to)} is under way: {GIVE_UP}")
    return said.source


def _already(to: str, as_json: bool) -> None:
    note(f"{named(to).capitalize()} is live already.")
    if as_json:
        put_json({"to": to, "switched": False, "equal": True, "tables": []})


# -- the plan ----------------------------------------------------------------------------------------------------------


def topics_of(operator: Operator, side: Side) -> list[TopicConfig]:
    """Changelogs and journals of a version, as they are to be created."""
    replicas = operator.app.engine_settings().replication_factor
    return [replace(topic, replication_factor=replicas) for topic in side.app.own_topics()]


async def _missing(operator: Operator, side: Side) -> list[TopicConfig]:
    """Raises TopicsDiffer for those that are there and are others than they should be."""
    wanted = topics_of(operator, side)
    differences = [each for each in await admin.plan(operator.brokers, wanted) if each.blocks]
    missing = {each.topic for each in differences if each.what is What.MISSING}
    if len(missing) < len(differences):
        raise TopicsDiffer(differences)
    return [topic for topic in wanted if topic.name in missing]


async def _plan(operator: Operator, source: Side, target: Side) -> dict[str, Any]:
    """Asks, and writes nothing."""
    settings = source.settings
    async with onlooker(settings) as consumer:
        until = await reached(KafkaLog(settings, consumer), source.groups)
    inputs = {topic for group in source.groups for topic in group.agents}
    return {
        "from": source.version,
        "to": target.version,
        "records": sum(end for tp, end in until.items() if tp.topic in inputs),
        "tables": sorted(table for group in target.groups for table in group.tables),
        "topics_to_create": [topic.name for topic in await _missing(operator, target)],
        "workers": await members(settings),
        "standing_by": await members(target.settings),
    }


def _show_plan(source: Side, target: Side, found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(found | {"dry_run": True})
        return
    made, tables = found["topics_to_create"], found["tables"]
    click.echo(f"From {named(source.version)} to {named(target.version)}, by the rules at hand:")
    click.echo(f"{found['records']:,} records, at most; what is built of them already is not folded again")
    click.echo(f"{len(tables)} tables: {', '.join(tables)}")
    click.echo(f"topics to be created: {len(made)}" + (f", {made[0]} the first" if made else ""))
    click.echo(f"workers of {named(source.version)}: {', '.join(found['workers']) or 'none'}")
    click.echo(f"workers of {named(target.version)}: {', '.join(found['standing_by']) or 'none yet; it needs some'}")


# -- the run -----------------------------------------------------------------------------------------------------------


async def _carried_out(
    operator: Operator, source: Side, target: Side, said: Said | None, report: Report, bar: Any, yes: bool, quiet: bool
) -> None:
    began = time.monotonic()
    await admin.create(operator.brokers, await _missing(operator, target))
    gone = {topic.name for topic in await _missing(operator, source)}
    tables = frozenset(
        name for group in source.groups for name, table in group.tables.items() if table.changelog not in gone
    )
    folder = source.settings.state_dir
    async with Building(source, target, tables, folder, lambda count: bar.update(count)) as building:
        under_way = said is not None and said.state == "switching"
        if under_way:
            note("Goes on with a switch that was cut short.")
        else:
            await building.catch_up()
            report.built_s, report.tables = time.monotonic() - began, await building.compare()
            report.records, report.rounds = building.records, building.rounds
            _tell(report, quiet, switched=False)
            if not await members(target.settings):
                raise Found(_nobody(target))
            confirm(f"Switch from {named(source.version)} to {named(target.version)}?", yes)
            await building.catch_up()  # it took a while to compare, and perhaps to answer
        await _switched(operator, building, report)
        report.tables = await building.compare()
        report.records, report.rounds = building.records, building.rounds
    _tell(report, quiet, switched=True)
    if quiet:
        put_json(report.to_json())
    note(
        f"{named(target.version).capitalize()} is live; {report.switched_s:.1f} s were nobody's. The way back:"
        f" `faust -A app replay --into '{source.version}'`."
    )


def _nobody(target: Side) -> str:
    return (
        f"{named(target.version).capitalize()} is built, and no worker of it stands by: nobody would answer. Start"
        f" workers with ORDERSTREAM_VERSION={target.version or chr(39) * 2}, and run this again: it goes on."
    )


async def _switched(operator: Operator, building: Building, report: Report) -> None:
    live, log, run = live_of(operator), building.of_target, uuid.uuid4().hex
    producer = log.transactions(live_id(operator))
    began = time.monotonic()
    try:
        switch = Switch(live, log, producer, building.fences(), building.left, building.bring, SystemClock())
        await switch.carry_out(building.source.version, building.target.version, run)
    finally:
        await producer.stop()
    report.switched_s = time.monotonic() - began


def live_id(operator: Operator) -> str:
    """Who says which version is live: the one of them that began last."""
    return f"{operator.app.shared_id}-live"


async def given_back(operator: Operator) -> str:
    """End a switch that was cut short; gives the version that goes on. Raises NotLive when there is none."""
    settings, live = operator.app.engine_settings(), live_of(operator)
    async with onlooker(settings) as consumer:
        log = KafkaLog(settings, consumer)
        producer = log.transactions(live_id(operator))
        try:
            switch = Switch(live, log, producer, (), _nothing, _nothing, SystemClock())
            return await switch.give_back(uuid.uuid4().hex)
        finally:
            await producer.stop()


async def _nothing() -> None:
    return None


# -- the report --------------------------------------------------------------------------------------------------------


def _tell(report: Report, quiet: bool, *, switched: bool) -> None:
    """The table before it asks, and again only if it has become another one."""
    told = [seen for seen in report.tables if seen.rows or seen.changed]
    if not quiet and (not switched or report.differ):
        live, built = (version or "unnamed" for version in (report.source, report.to))
        put_table(("table", "partition", "rows", live, built, ""), [_cells(seen) for seen in told])
        if len(told) < len(report.tables):
            note(f"{len(report.tables) - len(told)} more have no rows in either.")
    if not switched:
        rate = report.records / max(0.001, report.built_s)
        note(f"{report.records:,} records in {report.built_s:.1f} s and {report.rounds} rounds: {rate:,.0f}/s.")
    where = "as of the switch" if switched else "as of now, while it works"
    if report.differ:
        first = report.differ[0]
        note(
            f"{sum(seen.changed for seen in report.differ)} rows differ, in {len(report.differ)} of"
            f" {len(report.tables)} partitions of tables, {where}; the first: {first.table}, partition"
            f" {first.partition}, key {first.first}."
        )
    else:
        note(f"Equal: {len(report.tables)} partitions of tables hold the same, {where}.")


def _cells(seen: Seen) -> tuple[object, ...]:
    what = "equal" if seen.equal else f"{seen.changed} rows, first {seen.first}"
    if seen.moving:
        what += f", {seen.moving} on the move"
    return seen.table, seen.partition, seen.rows, seen.before[:16], seen.after[:16], what
