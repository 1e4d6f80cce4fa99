"""a stopped application -> its past folded anew -> tables that hold what it says, and whether they did before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.attest import DECIDING
from cli.bases import BEGINNING, Base, find_base
from cli.console import Found, Operator, confirm, json_option, note, progress, put_json, put_table, table_lines
from cli.folding import plan as folding_plan
from cli.folding import scratch
from cli.into import replay_into
from cli.refolding import Moved, Outcome, carry_out, find_spans, mark_reported
from cli.reset import outputs_of, require_outputs
from cli.rooms import ROOT
from streams import NotReadable, admin
from streams.admin import TopicsDiffer, What
from streams.attest import code_version
from streams.errors import Fenced, LogMismatch, OutcomeUnknown, StoreDamaged, StoreUnavailable
from streams.folding import Plan
from streams.replay import Compared, Job, Span, Target, name_of, targets, unfinished
from streams.reset import WorkersRunning, members, stores_of

#: What keeps a replay from being carried out; each says what to do. It may be run again.
NOT_NOW = (Fenced, LogMismatch, NotReadable, OutcomeUnknown, StoreDamaged, StoreUnavailable, WorkersRunning)


@click.command()
@click.option("--domain", "domains", metavar="GROUP", multiple=True, help="Only this group of topics. Repeatable.")
@click.option("--partition", "partitions", metavar="N", type=int, multiple=True, help="Only this one. Repeatable.")
@click.option("--table", "tables", metavar="NAME", multiple=True, help="Write only this table. Repeatable.")
@click.option(
    "--from",
    "since",
    metavar="WHEN",
    default=BEGINNING,
    show_default=True,
    help="A time (RFC 3339), an offset of a task's journal, or a snapshot's file: fold from the newest snapshot then.",
)
@click.option("--emit", metavar="TOPIC", multiple=True, help="An output topic that gets its records again. Repeatable.")
@click.option("--into", metavar="VERSION", help="Build this version's tables beside the live ones, and switch to it.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def replay(
    operator: Operator,
    domains: tuple[str, ...],
    partitions: tuple[int, ...],
    tables: tuple[str, ...],
    since: str,
    emit: tuple[str, ...],
    into: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Fold the past anew, make the tables what it says, and compare them with what they were.

    Stop all workers first. The records of the input topics are taken in the order in which they were taken before;
    nothing is sent (but for --emit) and no offset moves. A task's tables change in one transaction, or not at all;
    killed anywhere, run it again: it goes on. Exit codes: 0 done, and the tables are what they were; 1 rows differ
    (they are what the past says now), workers run, or the log is not whole; 2 usage; 3 no broker answers.

    With --into workers go on: the tables are built beside theirs, as another version; differences are shown, and then
    that version becomes the live one, whose workers stand by. Exit codes: 0 it is live, 1 it is not.
    """
    if into is not None:
        if domains or partitions or tables or emit or since != BEGINNING:
            raise click.UsageError("--into builds the whole of a version, from the beginning, and sends nothing again.")
        replay_into(operator, into, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    require_outputs(operator, emit)
    try:
        chosen = targets(operator.app.groups, domains, partitions, tables)
        names = tuple(map(name_of, chosen))
        base = find_base(operator, since, names)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    code = code_version(ROOT / room for room in DECIDING)
    if base is not None and base.code != code:
        note(f"{base.path} was written by other code: what came before {base.taken_at} is as that understood it.")
    start = BEGINNING if base is None else base.taken_at
    job = Job(code, names, tuple(sorted(set(tables))), tuple(sorted(set(emit))), start)
    try:
        shown = operator.run(_plan(operator, chosen, job, base))
        if dry_run:
            _show_plan(shown, as_json)
            if shown.workers:
                raise Found("This replay would be refused: workers run. Stop them first.")
            return
        outcome = _carried_out(operator, chosen, shown, yes)
    except NOT_NOW as error:
        raise Found(str(error)) from None
    try:
        _report(outcome, as_json)
    finally:
        operator.run(mark_reported(operator, outcome))


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """What would be done, and what stands in its way."""

    spans: list[Span]
    job: Job
    base: Base | None
    workers: list[str]
    missing: list[str]
    stores: list[str]
    silent: list[str]
    run: str | None
    did: tuple[str, ...]

    def tables(self) -> dict[str, str]:
        """Table -> changelog."""
        return {
            name: table.changelog
            for span in self.spans
            for name, table in span.group.tables.items()
            if not self.job.tables or name in self.job.tables
        }

    @property
    def records(self) -> int:
        return sum(span.records for span in self.spans if span.name not in self.did)

    def to_json(self) -> dict[str, Any]:
        tasks = [
            {
                "task": span.name,
                "inputs": {topic: [span.begins[topic], end] for topic, end in span.ends.items()},
                "records": span.records,
                "journal_steps": span.steps,
                "done": span.name in self.did,
            }
            for span in self.spans
        ]
        found = {"tasks": tasks, "records": self.records, "tables": self.tables(), "missing_changelogs": self.missing}
        effects = {"sent_again": list(self.job.emit), "not_sent_again": self.silent}
        found |= {"from": self.job.since, "snapshot": None if self.base is None else str(self.base.path)}
        return found | {"stores": self.stores, **effects, "workers": self.workers, "continues": self.run}

    def lines(self) -> Iterator[str]:
        some = [span for span in self.spans if span.records]
        cells = [(span.name, f"{span.records:,}", f"{span.steps:,}", self._inputs(span)) for span in some]
        yield from table_lines(("task", "records", "journal steps", "input from..to"), cells)
        if len(some) < len(self.spans):
            yield f"{len(self.spans) - len(some)} more tasks have taken nothing"
        if self.base is not None:
            apart = [span.name for span in self.spans if span.since is None]
            yield f"folded from {self.base.path}, of {self.base.taken_at}"
            yield f"not in it, so folded from the beginning: {', '.join(apart) or 'none'}"
        yield f"{len(self.tables())} tables: {', '.join(self.tables())}"
        if self.missing:
            yield f"changelogs to be created: {', '.join(self.missing)}"
        stores = Counter(str(Path(store).parent) for store in self.stores)
        shown = ", ".join(f"{count} in {parent}" for parent, count in stores.items())
        yield f"stores on this machine, made again at the next start: {shown or 'none'}"
        yield f"sent again: {', '.join(self.job.emit) or 'nothing'}"
        yield f"not sent again (--emit would): {', '.join(self.silent)}"
        yield "never: requests to providers and carriers, webhooks; they follow their own positions"
        if self.run is not None:
            yield f"goes on with run {self.run[:8]}, which was cut short: {len(self.did)} tasks are done"
        if self.workers:
            yield f"refused while workers run: {', '.join(self.workers)}"

    def _inputs(self, span: Span) -> str:
        if span.name in self.did:
            return "done"
        return ", ".join(
            f"{topic} {span.begins[topic]}..{end}" for topic, end in span.ends.items() if end > span.begins[topic]
        )


async def _plan(operator: Operator, chosen: Sequence[Target], job: Job, base: Base | None) -> Planned:
    settings = operator.app.engine_settings()
    wanted = {table.changelog for group, _ in chosen for table in group.tables.values()}
    differences = [each for each in await admin.plan(operator.brokers, operator.app.required_topics()) if each.blocks]
    missing = [each.topic for each in differences if each.what is What.MISSING and each.topic in wanted]
    if len(missing) < len(differences):
        raise TopicsDiffer(differences)
    spans = await find_spans(operator, chosen, base)
    cut_short = unfinished(spans, job)
    return Planned(
        spans,
        job,
        base,
        await members(settings),
        missing,
        [str(path) for path in stores_of(settings, [span.name for span in spans])],
        [name for name in outputs_of(operator) if name not in job.emit],
        None if cut_short is None else cut_short[0],
        () if cut_short is None else tuple(sorted(cut_short[1])),
    )


def _show_plan(shown: Planned, as_json: bool) -> None:
    if as_json:
        put_json(shown.to_json() | {"dry_run": True})
        return
    for line in shown.lines():
        click.echo(line)


# -- the run -----------------------------------------------------------------------------------------------------------


def _carried_out(operator: Operator, chosen: Sequence[Target], shown: Planned, yes: bool) -> Outcome:
    for line in shown.lines():
        note(line)
    if not shown.workers:
        confirm(f"Replay {shown.records:,} records and rebuild {len(shown.tables())} tables?", yes)
    began, done = time.monotonic(), 0
    with scratch(operator) as folder, progress("replaying", 2 * shown.records) as bar:

        def moved(count: int) -> None:
            nonlocal done
            done += count  # each record is read, and folded
            bar.update(count, f"{done / 2 / max(0.001, time.monotonic() - began):,.0f} records/s")

        plan = folding_plan(operator, apart=(), emit=shown.job.emit)
        outcome = operator.run(_run(operator, chosen, shown, plan, folder, moved))
    seconds = time.monotonic() - began
    note(f"{done // 2:,} records in {seconds:.1f} s: {done / 2 / seconds:,.0f}/s.")
    return outcome


async def _run(
    operator: Operator, chosen: Sequence[Target], shown: Planned, plan: Plan, folder: Path, moved: Moved
) -> Outcome:
    changelogs = [topic for topic in operator.app.changelog_topics() if topic.name in shown.missing]
    await admin.create(operator.brokers, changelogs)
    return await carry_out(operator, chosen, shown.job, shown.base, plan, folder, moved)


def _report(outcome: Outcome, as_json: bool) -> None:
    lines = [line for _, done in sorted(outcome.done.items()) for line in done.lines]
    other = [line for line in lines if not line.equal]
    if as_json:
        rows = [line._asdict() | {"equal": line.equal} for line in lines]
        equal = not other and not outcome.left
        put_json(
            {"run": outcome.run, "equal": equal, "continued": outcome.continued, "left": outcome.left, "tables": rows}
        )
    else:
        told = [line for line in lines if line.rows or line.changed]
        put_table(("table", "partition", "rows", "before", "after", ""), [_cells(line) for line in told])
        if len(told) < len(lines):
            click.echo(f"{len(lines) - len(told)} more have no rows, before and after.")
    if outcome.left:
        raise Found("Left as they were: " + "; ".join(f"{task}: {why}" for task, why in sorted(outcome.left.items())))
    if other:
        each = other[0]
        raise Found(
            f"{each.table}, partition {each.partition}: {each.changed} rows are others now, the first is {each.first}."
            f" {len(other)} of {len(lines)} partitions of tables differ: they hold what the past and the rules say."
        )
    if rebuilt := sum(line.before is None for line in lines):
        note(f"Rebuilt: {rebuilt} partitions of tables, of which nothing was there to compare with.")
    if len(lines) > rebuilt:
        note(f"Equal: {len(lines) - rebuilt} partitions of tables hold what they held.")


def _cells(line: Compared) -> tuple[object, ...]:
    what = "equal" if line.equal else f"{line.changed} rows, first {line.first}"
    before = (line.before or "-")[:16]
    return line.table, line.partition, line.rows, before, line.after[:16], "rebuilt" if line.before is None else what
