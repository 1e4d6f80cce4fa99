"""an order's id -> a worker's HTTP answer -> the order, and its timeline, for a person or as JSON."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from urllib.parse import quote

import aiohttp
import click
import orjson

from cli.console import PATIENCE_S, Found, Operator, Unreachable, json_option, put_json, put_table
from cli.erase import opened
from cli.letters import Gone, HiddenByTransaction
from cli.past import as_it_was
from schemas.currencies import format_amount
from streams.errors import NotReadable
from tables.versions import HOW, AfterRecord, read_cut

#: What a worker says of a question, and not of itself.
REFUSALS = ("#no-such-past", "#bad-parameter")


@click.command()
@click.argument("order_uid")
@click.option("--timeline", is_flag=True, help="Also every event and refusal, with the record that caused it.")
@click.option("--as-of", metavar="MOMENT", help="How it stood at a time (RFC 3339), a version, or a position.")
@click.option("--from-log", is_flag=True, help="Fold its events from Kafka instead of asking a worker.")
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@json_option
@click.pass_obj
def order(
    operator: Operator,
    order_uid: str,
    timeline: bool,
    as_of: str | None,
    from_log: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Look an order up, as it is or as it was. Any worker answers; it asks the owner of the order's partition.

    With --from-log no worker is needed: every event of the order's partition is read, and the order's are folded.

    Exit codes: 0 found, 1 no such order or not at that moment, 2 usage, 3 no worker (--from-log: no broker) answers, or
    none can answer yet.
    """
    if timeline and (as_of is not None or from_log):
        raise click.UsageError("--timeline has all moments: it goes with neither --as-of nor --from-log.")
    if as_of is not None or from_log:
        if from_log:
            told = _from_log(operator, order_uid, as_of)
        else:
            told = operator.run(_as_it_was(url or operator.web_url, order_uid, as_of or ""))
        if as_json:
            put_json(told)
        else:
            _show(told)
        return
    found = operator.run(_look_up(url or operator.web_url, order_uid, timeline))
    if as_json:
        put_json(found if timeline else found["order"])
    else:
        if found["order"] is not None:
            _show(found["order"])
        if timeline:
            _show_timeline(found["timeline"])
    if found["order"] is None:
        raise Found(f"There is no order {order_uid}" + ("; it was only spoken of." if timeline else "."))


async def _as_it_was(base: str, order_uid: str, as_of: str) -> dict[str, Any]:
    """How a worker says that the order stood. Raises Found when it did not, or that was no moment."""
    path = f"/api/v1/orders/{quote(order_uid, safe='')}?as_of={quote(as_of, safe='')}"
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=PATIENCE_S * 2)) as session:
        found: dict[str, Any] | None = await ask(session, base, path)
    if found is None:
        raise Found(f"There is no order {order_uid}.")
    return found


def _from_log(operator: Operator, order_uid: str, as_of: str | None) -> dict[str, Any]:
    """The same from the events themselves."""
    try:
        cut = None if as_of is None else read_cut(as_of)
    except ValueError as error:
        raise click.BadParameter(f"{error}; {HOW}.", param_hint="--as-of") from None
    assert operator.folds is not None, "app.py hands them over"
    kinds = [kind.topic for kind in operator.folds.kinds()]
    if isinstance(cut, AfterRecord) and cut.position.topic not in kinds:
        raise click.BadParameter(f"from the log, a position on {' or '.join(kinds)} is a moment.", param_hint="--as-of")
    try:
        standing = operator.run(as_it_was(operator.brokers, operator.folds, order_uid, cut))
    except (LookupError, Gone, HiddenByTransaction) as error:
        raise Found(str(error)) from error
    if standing.order is None:
        raise Found(f"There is no order {order_uid} in the events" + (f" up to {as_of}." if as_of else "."))
    told: dict[str, Any] = orjson.loads(_opened(operator, standing.order.to_json()))
    return {**told, "told_at": str(standing.told_at)}


def _opened(operator: Operator, raw: bytes) -> bytes:
    """The order with its personal data, where that is sealed and its key is there."""
    if not operator.settings.seal:
        return raw
    try:
        return operator.run(opened(operator, raw))
    except NotReadable as error:
        raise Unreachable(error.reason) from error


async def _look_up(base: str, order_uid: str, timeline: bool) -> dict[str, Any]:
    """The order, or None, and its timeline (a refusal has one without an order). Raises Found when there is neither."""
    path = f"/api/v1/orders/{quote(order_uid, safe='')}"
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=PATIENCE_S * 2)) as session:
        order = await ask(session, base, path)
        if not timeline:
            if order is None:
                raise Found(f"There is no order {order_uid}.")
            return {"order": order}
        entries: list[Any] = []
        page = await ask(session, base, f"{path}/timeline")
        if page is None:
            raise Found(f"There is no order {order_uid}.")
        while page is not None:
            entries += page["entries"]
            following = page["next_cursor"]
            page = await ask(session, base, f"{path}/timeline?cursor={quote(following)}") if following else None
        return {"order": order, "timeline": entries}


async def ask(session: aiohttp.ClientSession, base: str, path: str, *, missing: str = "no-such-order") -> Any:
    """The answer's JSON, or None for the problem `missing`. While the worker recovers (503), ask again for a while."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            async with session.get(path) as answer:
                status, body = answer.status, await answer.read()
                retry_after_s = float(answer.headers.get("Retry-After", "1") or 1)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(no_worker(base, error)) from error
        told = read_json(base, body)
        if status == 200:
            return told
        if status == 404 and str(told.get("type", "")).endswith(missing):
            return None
        if str(told.get("type", "")).endswith(REFUSALS):
            raise Found(str(told["detail"]))
        detail = told.get("detail") or told.get("title") or "no detail"
        if status != 503:
            raise Unreachable(f"The worker at {base} answered {status} for {path}: {detail}")
        if time.monotonic() + retry_after_s > deadline:
            raise Unreachable(f"The worker at {base} cannot answer yet ({detail}); try again in a moment.")
        await asyncio.sleep(retry_after_s)


def no_worker(base: str, error: Exception) -> str:
    cause = str(error)
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        cause = os.strerror(error.os_error.errno)  # without the tuples and the "ssl:default" of the long form
    return (
        f"No worker answers at {base}: {cause or type(error).__name__}.\n"
        "Start one with `faust -A app worker` (or `make dev`), or name another with --url or ORDERSTREAM_WEB_PORT."
    )


def read_json(base: str, body: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        raise Unreachable(f"What answers at {base} is no worker of Orderstream: its answer is not a JSON object.")
    return told


def _show(order: dict[str, Any]) -> None:
    width = max(map(len, order)) + 2
    for name, value in order.items():
        if name == "document":
            continue
        if name.endswith("_minor") and isinstance(value, int) and isinstance(order.get("currency"), str):
            shown = format_amount(value, order["currency"])
        else:
            shown = "-" if value is None else str(value)
        click.echo(f"{name.removesuffix('_minor') + ':':<{width}}{shown}")
    if "document" in order:
        document = order["document"]
        payment = document.get("payment", {})
        currency = payment.get("currency", "")
        click.echo(f"{'amount:':<{width}}{format_amount(payment.get('amount', 0), currency)}")
        for item in document.get("items", ()):
            price = format_amount(item.get("total_price", 0), currency)
            click.echo(f"{'item:':<{width}}{item.get('name')} ({item.get('brand')}), {price}")
    click.echo()


def _show_timeline(entries: list[dict[str, Any]]) -> None:
    rows = [
        [
            entry.get("occurred_at"),
            entry.get("version"),
            entry.get("type"),
            f"{entry.get('topic')}-{entry.get('partition')}-{entry.get('offset')}",
            entry.get("reason") or "",
        ]
        for entry in entries
    ]
    put_table(["occurred_at", "version", "what", "caused by the record", "reason"], rows)
