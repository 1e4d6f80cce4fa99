"""PostgreSQL's rows and the log's tables -> rebuilt from the log, or compared -> equal, or the first difference."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import click

import local
from agents.effects import postgres
from agents.effects.postgres import Difference, Stalled, Verified
from cli.console import Found, Operator, Unreachable, confirm, json_option, progress, put_json

T = TypeVar("T")

#: What each step of a comparison is called on the bar.
STEPS = {"read": "reading the changelog", "wait": "waiting for the sink", "compare": "comparing"}


@click.group()
def sink() -> None:
    """Compare PostgreSQL with the tables, or fill it again from the log. Orders flow on meanwhile.

    Exit codes: 0 equal rows, 1 a difference or a sink that does not move, 2 usage, 3 no broker or no PostgreSQL.
    """


@sink.command()
@json_option
@click.pass_obj
def verify(operator: Operator, as_json: bool) -> None:
    """Compare every order, item, purchase and payment in PostgreSQL with the tables that Kafka's changelogs say, and
    name the first difference."""
    _report(verified(operator), as_json)


@sink.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def rebuild(operator: Operator, yes: bool, as_json: bool) -> None:
    """Empty the sink's tables, fill them again from the log, and compare. Needs no worker; running ones help."""
    confirm(f"Empty the tables of {operator.postgres_place()} and fill them again from the log?", yes)
    dsn = operator.postgres()
    assert operator.folds is not None, "app.py hands them over"
    with _bars() as advance:
        work = postgres.rebuild(
            dsn,
            operator.brokers,
            postgres.TOPICS,
            postgres.make_sink(operator.app, lambda: dsn, operator.folds.rows),
            progress=lambda done, total: advance("writing rows", done, total),
        )
        offsets = _run(operator, operator.after_check(work))
    _report(verified(operator), as_json, {"offsets": offsets})


def verified(operator: Operator) -> Verified:
    """Every row of PostgreSQL held against the tables. Raises Found, Unreachable."""
    tables = operator.app.groups["orders"].tables
    with _bars() as advance:
        work = postgres.verify_against_changelog(
            operator.postgres(),
            operator.brokers,
            tables["orders"].changelog,
            postgres.TOPICS,
            bought={tables[name].changelog: kind for name, kind in postgres.KINDS.items()},
            progress=lambda step, done, total: advance(STEPS[step], done, total),
        )
        return _run(operator, operator.after_check(work))


def _run(operator: Operator, work: Coroutine[Any, Any, T]) -> T:
    try:
        return operator.run(work)
    except Stalled as error:
        raise Found(f"{error}") from error
    except asyncpg.UndefinedTableError as error:
        raise Found("The sink has never written there: a worker with ORDERSTREAM_SINK on makes the tables.") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        place = operator.postgres_place()
        raise Unreachable(
            f"PostgreSQL at {place}: {error or type(error).__name__}\n{local.no_postgres(operator.settings)}"
        ) from error


class _bars:  # used as a function
    """One bar after the other, each for a step whose length is known when it begins."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._label: str | None = None
        self._bar: Any = None
        return self._advance

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def _advance(self, label: str, done: int, total: int) -> None:
        if label != self._label:
            self.__exit__()
            self._label = label
            self._bar = progress(label, total)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)


def _report(result: Verified, as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        found = result.difference
        put_json(
            {
                **(more or {}),
                "equal": found is None,
                "orders": result.rows,
                "items": result.items,
                **result.bought,
                "ahead": result.ahead,
                "digest": result.digest,
                "difference": None if found is None else _shown(found),
            }
        )
    elif result.difference is None:
        ahead = f", {result.ahead} of them newer in PostgreSQL already" if result.ahead else ""
        bought = "".join(f", {count:,} {table}" for table, count in result.bought.items())
        click.echo(f"Equal: {result.rows:,} orders{ahead} and {result.items:,} items{bought}, hash {result.digest}.")
    if result.difference is not None:
        raise Found(f"Row {result.rows:,} differs: {result.difference}. `faust -A app sink rebuild` mends it.")


def _shown(found: Difference) -> dict[str, Any]:
    return {
        "table": found.table,
        "key": found.key,
        "column": found.column,
        "expected": found.expected,
        "found": found.found,
    }
