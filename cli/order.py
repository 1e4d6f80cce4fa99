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


@click.command()
@click.argument("order_uid")
@click.option("--timeline", is_flag=True, help="Also every event and refusal, with the record that caused it.")
@click.option("--url", help="The worker to ask. Default: the one of ORDERSTREAM_WEB_HOST and ORDERSTREAM_WEB_PORT.")
@json_option
@click.pass_obj
def order(operator: Operator, order_uid: str, timeline: bool, url: str | None, as_json: bool) -> None:
    """Look an order up. Any worker answers; it asks the owner of the order's partition.

    Exit codes: 0 found, 1 no such order, 2 usage, 3 no worker answers or none can answer yet.
    """
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
    for name, value in order.items():
        if name != "document":
            click.echo(f"{name + ':':<15}{'-' if value is None else value}")
    document = order.get("document", {})
    payment = document.get("payment", {})
    click.echo(f"{'amount:':<15}{payment.get('amount')} {payment.get('currency')} (minor units)")
    for item in document.get("items", ()):
        click.echo(f"{'item:':<15}{item.get('name')} ({item.get('brand')}), {item.get('total_price')}")
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
