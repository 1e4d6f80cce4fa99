"""the dead-letter topic -> list, show, redrive -> rows for an operator, and records back on their topics."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click

from cli import letters
from cli.console import Found, Operator, json_option, note, progress, put_json, put_table
from cli.letters import Contents, Letter
from schemas.topics import DEAD_LETTERS
from streams.errors import Fenced, OutcomeUnknown

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
    whole = _run(operator, letters.whole(operator.brokers, letter))
    details = {**whole.details(), "redriven": letter.redriven}
    if as_json:
        put_json(details)
        return
    for name in ("id", "kind", "reason", "timestamp", "attempt", "redriven", "agent", "key"):
        click.echo(f"{name + ':':<11}{details[name]}")
    for fault in whole.faults:
        click.echo(f"{'fault:':<11}{fault.path}: {fault.message}")
    for header in details["headers"]:
        click.echo(f"{'header:':<11}{header['name']}: {header['value']}")
    click.echo()
    click.echo(whole.value if whole.value is not None else "(no value: a tombstone)")


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

        work = letters.redrive(operator.brokers, operator.app_id, DEAD_LETTERS.name, choose, sent)
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
