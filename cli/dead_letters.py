"""the dead-letter topic -> list, show, redrive -> rows for an operator, and records back on their topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cli import letters
from cli.console import Found, Operator, confirm, json_option, note, progress, put_json, put_table
from cli.letters import Contents, Letter
from cli.tryout import try_record
from schemas.dead_letters import DeadLetter
from schemas.topics import DEAD_LETTERS, ORDER_INBOX, ORDERS
from streams.errors import Fenced, NotReadable, OutcomeUnknown
from streams.records import StoredRecord

T = TypeVar("T")

KIND = click.Choice(["poison", "failed"])


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Look at records that could not be applied, and send them back once their cause is mended.

    Exit codes: 0 ok, 1 not found or not possible, 2 usage, 3 no broker answers.
    """


@dead_letters.command(name="list")
@click.option("--reason", help="Only letters with this reason.")
@click.option("--kind", type=KIND, help="poison: cannot be decoded or validated. failed: our code raised.")
@click.option("--pending", is_flag=True, help="Only letters that were not redriven.")
@json_option
@click.pass_obj
def list_(operator: Operator, reason: str | None, kind: str | None, pending: bool, as_json: bool) -> None:
    """List dead letters, oldest first. With --json: an array of rows."""
    contents = _now(operator)
    found = [
        letter
        for letter in contents.letters
        if (reason is None or letter.says.reason == reason)
        and (kind is None or letter.says.kind == kind)
        and not (pending and letter.redriven)
    ]
    if as_json:
        put_json([letter.row() for letter in found])
        return
    if found:
        put_table(["id", "kind", "reason", "attempt", "redriven", "first fault"], [_line(letter) for letter in found])
    note(f"{len(found)} of {len(contents.letters)} dead letters.")


@dead_letters.command()
@click.argument("id_", metavar="ID")
@json_option
@click.pass_obj
def show(operator: Operator, id_: str, as_json: bool) -> None:
    """Show one dead letter whole: every fault, the headers, and the original bytes."""
    letter = next((each for each in _now(operator).letters if each.id == id_), None)
    if letter is None:
        raise Found(f"There is no dead letter {id_}; `faust -A app dead-letters list` shows the ids.")
    whole, missing = _whole(operator, letter)
    details = {**whole.details(), "redriven": letter.redriven}
    if as_json:
        put_json(details)
        return
    for name in ("id", "kind", "reason", "timestamp", "attempt", "redriven", "agent", "key"):
        click.echo(f"{name + ':':<11}{details[name]}")
    for fault in whole.faults:
        click.echo(f"{'fault:':<11}{fault.path}: {fault.message}")
    for name, value in whole.left_out.items():
        click.echo(f"{name + ':':<18}{value}")
    for header in details["headers"]:
        click.echo(f"{'header:':<11}{header['name']}: {header['value']}")
    click.echo()
    click.echo(whole.value if whole.value is not None else f"({missing})")


@dead_letters.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--reason", help="Every letter with this reason.")
@click.option("--all", "everything", is_flag=True, help="Every letter.")
@click.option("--dry-run", is_flag=True, help="Only say which would be sent back.")
@json_option
@click.pass_obj
def redrive(
    operator: Operator, ids: tuple[str, ...], reason: str | None, everything: bool, dry_run: bool, as_json: bool
) -> None:
    """Send letters back to the topic they came from, each once: one that was redriven is passed over.

    The original key, value and headers go back, with the number of the attempt; a record that fails again comes back
    as a new dead letter with an id of its own.
    """
    if sum([bool(ids), reason is not None, everything]) != 1:
        raise click.UsageError("Name either ids, or --reason, or --all.")
    contents = _now(operator)
    choose = _chooser(ids, reason)
    chosen = [letter for letter in contents.letters if choose(letter)]
    unknown = sorted(set(ids) - {letter.id for letter in chosen})
    if unknown:
        raise Found(f"There is no dead letter {', '.join(unknown)}; nothing was sent. `list` shows the ids.")
    if dry_run:
        outcome = letters.Outcome(
            redriven=[letter.id for letter in chosen if not letter.redriven],
            already=[letter.id for letter in chosen if letter.redriven],
        )
    else:
        outcome = _redrive(operator, choose, len(chosen)) if chosen else letters.Outcome()
    if as_json:
        put_json({"redriven": outcome.redriven, "already_redriven": outcome.already, "dry_run": dry_run})
        return
    click.echo(f"{len(outcome.redriven)} {'would be ' if dry_run else ''}redriven, {len(outcome.already)} were before.")
    for id_ in outcome.redriven[:20]:
        click.echo(f"  {id_}")
    if len(outcome.redriven) > 20:
        click.echo(f"  and {len(outcome.redriven) - 20} more (--json has all)")


@dead_letters.command(name="try")
@click.argument("id_", metavar="ID")
@click.option("--edit", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The value to try instead.")
@click.option("--redrive", "send", is_flag=True, help="Then send it back as it was tried, once.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def try_(operator: Operator, id_: str, edit: Path | None, send: bool, yes: bool, as_json: bool) -> None:
    """Show what a letter would do if it came now: events, rows that change, and what follows in other domains.

    The record (or the value in the file of --edit, with its key and headers) goes through the real rules over the
    tables as they are, read from the changelogs; nothing is written and nobody is called. With --redrive it is then
    sent back, after a question; a letter that was redriven before is not sent again.
    """
    letter = next((each for each in _now(operator).letters if each.id == id_), None)
    if letter is None:
        raise Found(f"There is no dead letter {id_}; `faust -A app dead-letters list` shows the ids.")
    if letter.says.topic not in operator.app.declared:
        raise Found(f"{letter.says.topic}, where {id_} came from, is no topic of this application.")
    if send and letter.redriven:
        raise Found(f"{id_} was redriven before; nothing was sent.")
    whole, missing = _whole(operator, letter)
    value = whole.value if edit is None else edit.read_bytes()
    if value is None and letter.is_incomplete:
        raise Found(missing)
    to = letters.home_of(whole, operator.app.declared[whole.topic].partitions)
    headers = letters.headers_back(whole.headers, whole)
    now = int(time.time() * 1000)
    # In clear: the rules do with a document what they do with it sealed.
    taken_from = ORDERS.name if to.topic == ORDER_INBOX.name else to.topic
    record = StoredRecord(taken_from, to.partition, whole.offset, now, whole.key, value, headers)
    try:
        found = _run(operator, operator.after_check(try_record(operator, record)))
    except NotReadable as error:
        raise Found(f"{error}.") from None
    if send:
        if not as_json:
            _show_trial(id_, found)
        confirm(f"Send {id_} back to {to.topic} like this?", yes)
        edited = {} if edit is None or value is None else {id_: value}
        work = letters.redrive(
            operator.brokers, operator.app.shared_id, DEAD_LETTERS.name, lambda each: each.id == id_, edited=edited
        )
        found["redriven"] = bool(_run(operator, work).redriven)
    if as_json:
        put_json({"id": id_, **found})
    elif send:
        click.echo("Redriven." if found["redriven"] else "It was redriven meanwhile; nothing was sent.")
    else:
        _show_trial(id_, found)


def _show_trial(id_: str, found: dict[str, Any]) -> None:
    for fault in found["faults"]:
        click.echo(f"{fault['topic']}: {fault['reason']}: {fault['path']}: {fault['message']}")
    click.echo(f"{id_} would {'be applied' if found['applied'] else 'be a dead letter again'}.")
    for record in found["records"][1:]:
        click.echo(f"then:    {record['topic']} {record['key']}: {_kind(record['value'])}")
    if found["not_followed"]:
        click.echo(f"and {found['not_followed']} more records that were not followed")
    for event in found["events"]:
        click.echo(f"event:   {event['topic']} {event['key']}: {_kind(event['value'])}")
    for row in found["changes"]:
        click.echo(f"row:     {row['table']} {row['key']}: {_change(row['before'], row['after'])}")


def _kind(value: Any) -> str:
    return str(value.get("type", "a document")) if isinstance(value, dict) else "bytes"


def _change(before: Any, after: Any) -> str:
    """What is another value, field by field; a new row and one that goes are told as such."""
    if before is None or after is None:
        return "new" if before is None else "deleted"
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return f"{before} -> {after}"
    names = (name for name in {**before, **after} if before.get(name) != after.get(name))
    return ", ".join(f"{name} {before.get(name)} -> {after.get(name)}" for name in names)


def _whole(operator: Operator, letter: Letter) -> tuple[DeadLetter, str]:
    """The letter with its record, and what there is to say where it has none."""
    try:
        return _run(operator, letters.whole(operator.brokers, letter)), "no value: a tombstone"
    except Found as gone:
        if not letter.is_incomplete:
            raise
        return letter.says, gone.message


def _chooser(ids: Sequence[str], reason: str | None) -> Callable[[Letter], bool]:
    named = set(ids)
    if named:
        return lambda letter: letter.id in named
    if reason is not None:
        return lambda letter: letter.says.reason == reason
    return lambda letter: True


def _redrive(operator: Operator, choose: Callable[[Letter], bool], length: int) -> letters.Outcome:
    with progress("redriving", length) as bar:

        def sent(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        work = letters.redrive(operator.brokers, operator.app.shared_id, DEAD_LETTERS.name, choose, sent)
        return _run(operator, work)


def _now(operator: Operator) -> Contents:
    contents = _run(operator, letters.letters_now(operator.brokers, DEAD_LETTERS.name))
    if contents.foreign:
        note(f"{contents.foreign} records on {DEAD_LETTERS.name} are no dead letters of ours: not shown.")
    return contents


def _run(operator: Operator, work: Coroutine[Any, Any, T]) -> T:
    try:
        return operator.run(work)
    except (letters.Gone, letters.HiddenByTransaction) as error:
        raise Found(str(error)) from error
    except (Fenced, OutcomeUnknown) as error:
        raise Found(
            f"{error}. What was sent is marked, so run the same command again: nothing is sent twice."
        ) from error


def _line(letter: Letter) -> list[object]:
    says = letter.says
    first = f"{says.faults[0].path}: {says.faults[0].message}" if says.faults else ""
    more = f" (+{len(says.faults) - 1})" if len(says.faults) > 1 else ""
    return [letter.id, says.kind, says.reason, says.attempt, "yes" if letter.redriven else "no", first + more]
