"""items in a file or a pipe -> a worker, which says what became of each -> a summary; the catalogue as it stands."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Annotated, Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cli.auditing import audit, table_of
from cli.console import PATIENCE_S, Found, Operator, Unreachable, json_option, note, progress, put_json, put_table
from cli.order import ask, no_worker, read_json
from cli.stock import Count
from schemas.accounts import Currency
from schemas.inventory import MAX_QUANTITY, Attributes, ItemId, ItemName, LowStockAt, OutletId, PriceMinor
from schemas.strict_json import location_path
from tables.inventory import GROUP

HOME, EVENTS = "/api/v1/items", "inventory.events.v1"
#: Items on their way at the same time: enough that a worker's batches are full, few enough that none waits for long.
IN_FLIGHT = 64
#: Bad lines that are told one by one; a file of another kind would fill the screen.
MOST_TOLD = 20
#: How long one item is tried while the workers recover or move partitions.
TRIED_S = 30.0


class ItemLine(BaseModel):
    """A line of the file: an item, and what is in stock of it at first."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    item_id: ItemId
    outlet_id: OutletId
    name: ItemName
    price_minor: PriceMinor
    currency: Currency
    attributes: Attributes = Field(default_factory=dict)
    low_stock_at: LowStockAt = 0
    stock: Annotated[int, Field(ge=0, le=MAX_QUANTITY)] = 0


class Step(NamedTuple):
    """One request of an item, which counts once, however often it is sent."""

    name: str
    method: str
    path: str
    body: dict[str, Any]


class BadLine(NamedTuple):
    """A line that was not loaded, or not wholly."""

    line: int
    item_id: str | None
    path: str
    message: str

    def __str__(self) -> str:
        about = f"{self.item_id}: " if self.item_id else ""
        return f"line {self.line}: {about}{self.path}: {self.message}"


@dataclass
class Summary:
    """What a run did: how many items were made, or were there before, which steps were done, and what not."""

    lines: int = 0
    done: Counter[str] = field(default_factory=Counter)
    bad: list[BadLine] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        counts = {name: self.done[name] for name in ("created", "there_before", "stocked", "low_stock_at")}
        bad = [bad._asdict() for bad in sorted(self.bad, key=lambda each: (each.line, each.path))]
        return {"lines": self.lines, **counts, "seconds": round(self.seconds, 3), "bad": bad}


@click.group()
def items() -> None:
    """The catalogue and its stock: load many items at once, look at one or all, count everything anew.

    Exit codes: 0 all well, 1 a line was not loaded, there is no such item or a count is wrong, 2 usage, 3 no worker (or
    for verify no broker) answers.
    """


@items.command()
@click.argument("file", type=click.File("rb"))
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@click.option("--dry-run", is_flag=True, help="Check every line and send nothing; no worker is needed.")
@json_option
@click.pass_obj
def load(operator: Operator, file: IO[bytes], url: str | None, dry_run: bool, as_json: bool) -> None:
    """Create the items of FILE (JSON lines; - reads a pipe), with `stock` and `low_stock_at` where a line names them.

    Waits for the outcome of each. Loaded again, nothing counts twice: an item that is there with this content is left
    as it is, and its first stock is received once for ever. Bad lines are named and the others loaded.
    """
    summary = Summary()
    lines = _read(file, summary)
    with progress("checking" if dry_run else "loading", _length(file)) as bar:
        if dry_run:
            for _, _, size in lines:
                bar.update(size)
        else:
            operator.run(_load_all(url or operator.web_url, lines, summary, bar))
    _tell(summary, as_json, dry_run)


@items.command()
@click.argument("item_id")
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@json_option
@click.pass_obj
def show(operator: Operator, item_id: str, url: str | None, as_json: bool) -> None:
    """Look an item up, with what is on hand, reserved and available."""
    (item,) = operator.run(_asked(url or operator.web_url, [f"{HOME}/{quote(item_id, safe='')}"]))
    if item is None:
        raise Found(f"There is no item {item_id}.")
    if as_json:
        put_json(item)
    else:
        for name, value in item.items():
            click.echo(f"{name + ':':<15}{value}")


@items.command("list")
@click.option("--outlet", "outlet_id", help="Only items of this outlet.")
@click.option("--query", help="Only items that have all these words in name or id, in any case.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many, at most.")
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@json_option
@click.pass_obj
def list_items(
    operator: Operator, outlet_id: str | None, query: str | None, limit: int, url: str | None, as_json: bool
) -> None:
    """List items by item_id."""
    found, more = operator.run(_listed(url or operator.web_url, {"outlet_id": outlet_id, "query": query}, limit))
    if as_json:
        put_json({"items": found, "more": more})
    else:
        columns = ["item_id", "outlet_id", "on_hand", "reserved", "available", "price_minor", "currency", "name"]
        put_table(columns, [[item[column] for column in columns] for item in found])
        if more:
            note(f"There are more than {limit}; --limit shows them, --outlet and --query narrow them down.")


@items.command()
@json_option
@click.pass_obj
def verify(operator: Operator, as_json: bool) -> None:
    """Count every stock and reservation anew from inventory.events.v1, compare them with the tables, and name the first
    offset at which something is wrong. Needs no worker; those that run may go on."""
    count, finding = audit(operator, EVENTS, "counting", partial(count_of, operator))
    if as_json:
        told = None if finding is None else finding._asdict()
        put_json({"right": finding is None, "events": count.events, **count.sums(), "finding": told})
    if finding is not None:
        raise Found(f"{finding}.")
    if not as_json:
        sums = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in count.sums().items())
        click.echo(f"Right: {count.events:,} events, as the tables have them: {sums}.")


async def count_of(operator: Operator, read_before: dict[int, int]) -> Count:
    stocks = await table_of(operator, GROUP, "items")
    return Count(stocks, await table_of(operator, GROUP, "stock_reservations"), read_before)


def _length(file: IO[bytes]) -> int:
    """Bytes of a file, for the bar; a pipe's are not known."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0


def _read(file: IO[bytes], summary: Summary) -> Iterator[tuple[int, ItemLine, int]]:
    """The good lines with their numbers and sizes; bad ones go to the summary. One at a time: a file may be large."""
    for number, raw in enumerate(file, start=1):
        if not raw.strip():
            continue
        summary.lines += 1
        try:
            yield number, ItemLine.model_validate_json(raw), len(raw)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                summary.bad.append(BadLine(number, None, location_path(fault["loc"]), fault["msg"]))


def steps_of(line: ItemLine) -> Iterator[Step]:
    """What makes an item of a line. Creating it again is harmless by itself; the rest has keys that never change."""
    path = f"{HOME}/{line.item_id}"
    yield Step("created", "POST", HOME, line.model_dump(mode="json", exclude={"stock", "low_stock_at"}))
    if line.low_stock_at:
        body = {"low_stock_at": line.low_stock_at, "idempotency_key": "items-load-low-stock-at"}
        yield Step("low_stock_at", "PATCH", path, body)
    if line.stock:
        body = {"delta": line.stock, "reason": "initial stock", "idempotency_key": "items-load-stock"}
        yield Step("stocked", "POST", f"{path}/stock", body)


async def _load_all(base: str, lines: Iterator[tuple[int, ItemLine, int]], summary: Summary, bar: Any) -> None:
    """IN_FLIGHT items at a time, each of them step by step."""
    started = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=TRIED_S)
    async with aiohttp.ClientSession(base, timeout=timeout, connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def worker() -> None:
            for number, line, size in lines:
                await _load(session, base, number, line, summary)
                bar.update(size)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT):
                    group.create_task(worker())
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if not isinstance(first, Unreachable):
                raise
            raise Unreachable(
                f"{first}\n{summary.lines} lines were begun. Load the same file again when a worker answers: what was"
                " done is not done twice."
            ) from failures
    summary.seconds = time.perf_counter() - started


async def _load(session: aiohttp.ClientSession, base: str, number: int, line: ItemLine, summary: Summary) -> None:
    for step in steps_of(line):
        status, told, replayed = await _sent(session, base, step)
        if status >= 400:
            summary.bad.append(_refused(number, line, step, told))
            return
        if step.name == "created" and status == 200:
            summary.done["there_before"] += 1
        elif not replayed:
            summary.done[step.name] += 1


def _refused(number: int, line: ItemLine, step: Step, told: dict[str, Any]) -> BadLine:
    path = {"created": "$", "low_stock_at": "$.low_stock_at", "stocked": "$.stock"}[step.name]
    if str(told.get("type", "")).endswith("idempotency-key-reused"):
        message = f"another number was loaded before; change it with {step.method} {step.path}"
        return BadLine(number, line.item_id, path, message)
    reason = f" ({told['reason']})" if "reason" in told else ""
    return BadLine(number, line.item_id, path, f"{told.get('detail', told.get('title', 'refused'))}{reason}")


async def _sent(session: aiohttp.ClientSession, base: str, step: Step) -> tuple[int, dict[str, Any], bool]:
    """The final answer to a step: its status and JSON, and whether it was given before.

    What is not known yet (202) or cannot be known yet (503) is asked again, which its key makes harmless.
    """
    deadline = time.monotonic() + TRIED_S
    while True:
        try:
            async with session.request(step.method, step.path, json=step.body) as answer:
                status, raw = answer.status, await answer.read()
                retry_after_s = float(answer.headers.get("Retry-After", "1") or 1)
                replayed = "Idempotency-Replayed" in answer.headers
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(no_worker(base, error)) from error
        told = read_json(base, raw)
        if status not in (202, 503):
            if status >= 500 or (status in (404, 405) and "reason" not in told):
                raise Unreachable(f"The worker at {base} answered {status} for {step.path}: {told.get('detail')}")
            return status, told, replayed
        if time.monotonic() + retry_after_s > deadline:
            detail = told.get("detail", "it does not say what became of it")
            raise Unreachable(f"The worker at {base} cannot answer yet ({detail}).")
        await asyncio.sleep(retry_after_s)


def _tell(summary: Summary, as_json: bool, dry_run: bool) -> None:
    if summary.lines == 0:
        raise click.UsageError("The file is empty: there is nothing to load.")
    bad = sorted(summary.bad, key=lambda each: (each.line, each.path))
    bad_lines = len({each.line for each in bad})
    if as_json:
        put_json({**summary.row(), "dry_run": dry_run})
    elif dry_run:
        click.echo(f"{summary.lines:,} lines, {bad_lines:,} of them bad; nothing was sent.")
    else:
        done, rate = summary.done, summary.lines / summary.seconds if summary.seconds else 0.0
        click.echo(
            f"{summary.lines:,} lines in {summary.seconds:.2f} s ({rate:,.0f}/s): {done['created']:,} items created,"
            f" {done['there_before']:,} there before, stock received for {done['stocked']:,}"
        )
    if bad:
        told = [str(each) for each in bad[:MOST_TOLD]]
        rest = [f"and {len(bad) - MOST_TOLD} more faults; --json has them all"] if len(bad) > MOST_TOLD else []
        wrong = "are bad" if dry_run else "were not loaded as they are"
        raise Found("\n".join([f"{bad_lines:,} of {summary.lines:,} lines {wrong}:", *told, *rest]))


async def _asked(base: str, paths: list[str]) -> list[Any]:
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=PATIENCE_S * 2)) as session:
        return [await ask(session, base, path, missing="no-such-item") for path in paths]


async def _listed(base: str, filters: dict[str, str | None], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """The first items, page by page, and whether there are more."""
    found: list[dict[str, Any]] = []
    asked = {name: value for name, value in filters.items() if value}
    cursor = ""
    while True:
        size = min(limit - len(found), 200)
        (page,) = await _asked(base, [f"{HOME}?{urlencode({**asked, 'limit': size, 'cursor': cursor})}"])
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None or len(found) >= limit:
            return found, cursor is not None
