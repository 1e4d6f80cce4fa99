"""the ledger's sums, live from a worker or added up from the log -> a trial balance, or the first wrong offset."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson

from cli.auditing import audit, first_finding, looked_through, rows_of, table_of
from cli.books import Books, Lines, write_line
from cli.console import PATIENCE_S, Found, Operator, json_option, put_json, put_table
from cli.letters import reader_of
from cli.order import ask

EVENTS = "accounts.events.v1"
COLUMNS = ["currency", "accounts", "accounts_minor", "held_minor", "clearing_minor", "difference_minor"]


@click.group()
def ledger() -> None:
    """The sums of all accounts, and whether they are right.

    Exit codes: 0 right, 1 a difference or a record that cannot be, 2 usage, 3 no broker or no worker answers.
    """


@ledger.command("trial-balance")
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@json_option
@click.pass_obj
def trial_balance(operator: Operator, url: str | None, as_json: bool) -> None:
    """Sum up accounts and clearing accounts by currency, live. Both together are 0 at any moment."""
    lines = operator.run(_asked(url or operator.web_url))
    _show(lines, as_json, {"currencies": lines})
    wrong = [line["currency"] for line in lines if line["difference_minor"] != 0]
    if wrong:
        raise Found(f"{', '.join(wrong)} do not add up to 0: `faust -A app ledger verify` names the first offset.")


@ledger.command()
@json_option
@click.pass_obj
def verify(operator: Operator, as_json: bool) -> None:
    """Add every balance up anew from accounts.events.v1, compare it with the tables, and name the first offset at which
    something is wrong. Needs no worker; those that run may go on."""
    books, finding = audit(operator, EVENTS, "adding up", partial(books_of, operator))
    lines = books.sums()
    told = None if finding is None else finding._asdict()
    counts = {"right": finding is None, "events": books.events, "movements": books.movements, "finding": told}
    if finding is None or as_json:
        _show(lines, as_json, {**counts, "currencies": lines})
    if finding is not None:
        raise Found(f"{finding}.")
    if not as_json:
        click.echo(f"Right: {books.events:,} events and {books.movements:,} movements, as the tables have them.")


@ledger.command()
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option(
    "--at",
    "cut",
    multiple=True,
    metavar="PARTITION=OFFSET",
    callback=lambda _, __, given: _cut_of(given),
    help=f"Only what stands below this offset of {EVENTS}; once for each partition. Default: all that is committed.",
)
@click.pass_obj
def prove(operator: Operator, file: Path, cut: dict[int, int]) -> None:
    """Write the balance of every account at a moment of the log to FILE, for others to check from the topic alone:
    deploy/audit/check_trial_balance.py is fifty lines that do, and need nothing of this project."""
    positions, books = looked_through(operator, _up_to(operator, cut))
    accounts = [
        {"account_id": id, "currency": each.currency, "balance_minor": each.balance, "held_minor": each.held}
        for id, each in sorted(books.accounts.items())
    ]
    told = {"topic": EVENTS, "positions": positions, "currencies": books.sums(), "accounts": accounts}
    file.write_bytes(
        orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
    )
    at = ", ".join(f"{EVENTS}-{partition}-{offset}" for partition, offset in sorted(positions.items()))
    click.echo(f"{file}: {len(accounts):,} accounts, {books.movements:,} movements, below {at}.", err=True)


async def _up_to(operator: Operator, cut: dict[int, int]) -> tuple[dict[int, int], Books]:
    """Where it was cut, and the books below. Raises Found for the first event at which they are wrong."""
    events, _ = await reader_of(operator.brokers, EVENTS)
    ends = await events.ends("read_committed")
    there = {partition.partition: end for partition, end in ends.items()}
    for partition, offset in cut.items():
        if offset > there.get(partition, -1):
            end = f"ends at {there[partition]}" if partition in there else f"is not there, only {sorted(there)}"
            raise Found(f"{EVENTS}-{partition} {end}: there is no moment {partition}={offset}.")
    positions = there | cut
    books = Books({}, {}, {})
    wanted = {partition: positions[partition.partition] for partition in ends}
    finding = await first_finding(events, wanted, "adding up", books)
    if finding is not None:
        raise Found(f"{finding}.")
    return positions, books


def _cut_of(given: tuple[str, ...]) -> dict[int, int]:
    try:
        return {int(partition): int(offset) for partition, offset in (each.split("=") for each in given)}
    except ValueError:
        raise click.BadParameter("must be PARTITION=OFFSET, such as 0=1234") from None


async def _asked(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=PATIENCE_S * 2)) as session:
        told = await ask(session, url, "/api/v1/ledger/trial-balance")
        return list(told["currencies"])


async def books_of(operator: Operator, read_before: dict[int, int]) -> Books:
    accounts = await table_of(operator, "accounts", "accounts")
    return Books(accounts, await _statements(operator), read_before)


async def _statements(operator: Operator) -> dict[str, Lines[int]]:
    found: dict[str, Lines[int]] = {}
    async for record in rows_of(operator, "accounts", "account_entries"):
        if record.value is not None:
            write_line(found, orjson.loads(record.value))
    return found


def _show(lines: list[dict[str, Any]], as_json: bool, told: dict[str, Any]) -> None:
    if as_json:
        put_json(told)
    else:
        put_table(COLUMNS, [[line["currency"], *(f"{line[name]:,}" for name in COLUMNS[1:])] for line in lines])
