"""the ledger's sums, live from a worker or added up from the log -> a trial balance, or the first wrong offset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson

from cli.books import Books, Finding, Lines, write_line
from cli.console import PATIENCE_S, Found, Operator, json_option, progress, put_json, put_table
from cli.letters import Gone, HiddenByTransaction, Reader, reader_of
from cli.order import ask
from streams.records import Record

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
    try:
        books, finding = operator.run(operator.after_check(_added_up(operator)))
    except (Gone, HiddenByTransaction) as error:
        raise Found(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
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
    try:
        positions, books = operator.run(operator.after_check(_up_to(operator, cut)))
    except (Gone, HiddenByTransaction) as error:
        raise Found(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
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
    with progress("adding up", sum(wanted.values())) as bar:
        async for record in events.read(wanted, {}):
            bar.update(1)
            finding = books.post(record.partition, record.offset, record.topic, record.key, record.value)
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


async def _added_up(operator: Operator) -> tuple[Books, Finding | None]:
    """The tables first, the journal after them: what the tables hold is then in the journal that is read."""
    events, _ = await reader_of(operator.brokers, EVENTS)
    before = await events.ends("read_committed")
    accounts = await table_of(operator, "accounts", "accounts")
    lines = await _statements(operator)
    # To the end of what was written, not of what is committed now: a transaction whose rows were just read may not have
    # reached this topic yet.
    ends = await events.ends("read_uncommitted")
    books = Books(accounts, lines, {partition.partition: end for partition, end in before.items()})
    with progress("adding up", sum(ends.values())) as bar:
        async for record in events.read(ends, {}):
            bar.update(1)
            finding = books.post(record.partition, record.offset, record.topic, record.key, record.value)
            if finding is not None:
                return books, finding
    return books, books.close()


async def rows_of(operator: Operator, group: str, table: str) -> AsyncIterator[Record]:
    """The changelog of a table from its beginning, rows only."""
    reader: Reader
    reader, _ = await reader_of(operator.brokers, operator.app.groups[group].tables[table].changelog)
    async for record in reader.read(await reader.ends("read_uncommitted"), {}):
        if record.key is not None and not record.key.startswith(b"\0"):  # the store's own
            yield record


async def table_of(operator: Operator, group: str, table: str) -> dict[str, dict[str, Any]]:
    """The rows of a table as its changelog ends."""
    rows: dict[str, dict[str, Any]] = {}
    async for record in rows_of(operator, group, table):
        if record.key is not None and record.value is not None:
            rows[record.key.decode()] = orjson.loads(record.value)
    return rows


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
