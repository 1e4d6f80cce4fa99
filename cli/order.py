"""an order's id -> a worker's HTTP answer -> the order, and its timeline, for a person or as JSON."""

from __future__ import annotations

import asyncio
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
        return
    _show(found["order"])
    if timeline:
        click.echo()
        _show_timeline(found["timeline"])


async def _look_up(base: str, order_uid: str, timeline: bool) -> dict[str, Any]:
    path = f"/api/v1/orders/{quote(order_uid, safe='')}"
    async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=PATIENCE_S * 2)) as session:
        found = {"order": await _ask(session, base, path, order_uid)}
        if timeline:
            answer = await _ask(session, base, f"{path}/timeline", order_uid)
            found["timeline"] = answer["timeline"] if isinstance(answer, dict) else answer
        return found


async def _ask(session: aiohttp.ClientSession, base: str, path: str, order_uid: str) -> Any:
    """The answer's JSON. While the worker says 503 (it recovers or rebalances), ask again for a bounded time."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            async with session.get(path) as answer:
                status, body = answer.status, await answer.read()
                retry_after_s = float(answer.headers.get("Retry-After", "1") or 1)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unreachable(_no_worker(base, error)) from error
        if status == 200:
            return _json(base, body)
        if status == 404:
            raise Found(f"There is no order {order_uid}.")
        if status != 503:
            raise Unreachable(f"The worker at {base} answered {status} for {path}: {_detail(body)}")
        if time.monotonic() + retry_after_s > deadline:
            raise Unreachable(f"The worker at {base} cannot answer yet ({_detail(body)}); try again in a moment.")
        await asyncio.sleep(retry_after_s)


def _no_worker(base: str, error: BaseException) -> str:
    return (
        f"No worker answers at {base}: {error or type(error).__name__}.\n"
        "Start one with `faust -A app worker` (or `make dev`), or name another with --url or ORDERSTREAM_WEB_PORT."
    )


def _json(base: str, body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreachable(f"What answers at {base} is no worker of Orderstream: its answer is not JSON.") from error


def _detail(body: bytes) -> str:
    """What a problem document (RFC 9457) says, or the start of whatever came instead."""
    try:
        problem = orjson.loads(body)
        return str(problem.get("detail") or problem.get("title"))
    except (orjson.JSONDecodeError, AttributeError):
        return body[:200].decode("utf-8", "replace") or "an empty answer"


def _show(order: dict[str, Any]) -> None:
    for name, value in order.items():
        if name != "document":
            click.echo(f"{name + ':':<15}{'-' if value is None else value}")
    document = order.get("document", {})
    payment = document.get("payment", {})
    click.echo(f"{'amount:':<15}{payment.get('amount')} {payment.get('currency')} (minor units)")
    for item in document.get("items", ()):
        click.echo(f"{'item:':<15}{item.get('name')} ({item.get('brand')}), {item.get('total_price')}")


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
