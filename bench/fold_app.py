"""orders -> checked -> table `orders` -> one event: the fold that the peers do, on our engine, as a Faust worker.

`faust -A bench.fold_app worker`. BENCH_FOLD chooses between two ways to the same state and the same event:
`kept` decodes what the checks need and keeps the received bytes in the state, as the product does;
`whole` decodes everything and encodes it again, as the peers do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
from aiohttp import web

from schemas.settings import Settings
from streams import App, Stream, Table
from streams.logs import logging_config

BENCH_ID, KAFKA, PORT = os.environ["BENCH_ID"], os.environ["BENCH_KAFKA"], int(os.environ["BENCH_PORT"])
GROUP = "orders"
#: The product's own defaults: the fault suite passes on them.
_DEFAULTS = Settings.load({})

app = App(
    BENCH_ID,
    broker=f"kafka://{KAFKA}",
    data_dir=Path(os.environ["BENCH_DATA_DIR"]),
    web_bind="127.0.0.1",
    web_host="127.0.0.1",
    web_port=PORT,
    canonical_url=f"http://127.0.0.1:{PORT}",
    logging_config=logging_config("json", "info"),
    tuning={
        "dead_letters": f"{BENCH_ID}-letters",
        "batch_max_records": _DEFAULTS.batch_max_records,
        "fetch_max_wait_ms": _DEFAULTS.fetch_max_wait_ms,
        "retry_backoff_ms": _DEFAULTS.retry_backoff_ms,
        "session_timeout_ms": _DEFAULTS.session_timeout_ms,
        "transaction_timeout_ms": _DEFAULTS.transaction_timeout_ms,
    },
)
source = app.topic(f"{BENCH_ID}-in", group=GROUP, partitions=4)
events = app.topic(f"{BENCH_ID}-out", partitions=4)
letters = app.topic(f"{BENCH_ID}-letters", partitions=4)
orders: Table[bytes] = app.Table("orders", group=GROUP, value_type=bytes)


class _Item(msgspec.Struct):
    total_price: int


class _Payment(msgspec.Struct):
    goods_total: int
    amount: int


class _Needed(msgspec.Struct):
    """The fields that must be there, typed as far as the checks look at them."""

    order_uid: str
    track_number: str
    delivery: msgspec.Raw
    payment: _Payment
    items: list[_Item]
    customer_id: str


class _Stored(msgspec.Struct):
    version: int


_decode = msgspec.json.Decoder(_Needed).decode
_decode_stored = msgspec.json.Decoder(_Stored).decode
REQUIRED = ("order_uid", "track_number", "delivery", "payment", "items", "customer_id")


def fold_kept(raw: bytes, stored: bytes | None) -> tuple[str, bytes, bytes]:
    """order_uid, state, event. Raises for what is not JSON, lacks a field or does not add up."""
    order = _decode(raw)
    if sum([item.total_price for item in order.items]) != order.payment.goods_total:
        raise ValueError("goods_total")
    version = 1 if stored is None else _decode_stored(stored).version + 1
    state = b'{"status":"accepted","version":%d,"order":%b}' % (version, raw)
    return order.order_uid, state, _event(order.order_uid, order.payment.amount, version)


def fold_whole(raw: bytes, stored: bytes | None) -> tuple[str, bytes, bytes]:
    """The same, with every field decoded and encoded again."""
    order: dict[str, Any] = orjson.loads(raw)
    for field in REQUIRED:
        if field not in order:
            raise ValueError(field)
    if sum([item["total_price"] for item in order["items"]]) != order["payment"]["goods_total"]:
        raise ValueError("goods_total")
    version = 1 if stored is None else orjson.loads(stored)["version"] + 1
    state = orjson.dumps({"status": "accepted", "version": version, "order": order})
    return order["order_uid"], state, _event(order["order_uid"], order["payment"]["amount"], version)


def _event(order_uid: str, amount: int, version: int) -> bytes:
    return orjson.dumps({"type": "order.accepted", "order_uid": order_uid, "amount": amount, "version": version})


FOLDS: dict[str, Callable[[bytes, bytes | None], tuple[str, bytes, bytes]]] = {"kept": fold_kept, "whole": fold_whole}
fold = FOLDS[os.environ.get("BENCH_FOLD", "kept")]


@app.agent(source)
async def accept(stream: Stream[bytes]) -> None:
    """Check, remember, tell. The record's key is the order's uid, so its partition is the event's too."""
    async for raw in stream:
        record = stream.event
        assert record.key is not None
        key = record.key.decode()
        order_uid, state, event = fold(raw, orders.get(key))
        orders[key] = state
        await events.send(key=order_uid, value=event, partition=record.partition)


async def ready(request: web.Request) -> web.Response:
    """As the product's /health/ready: 200 when this worker answers for its tasks."""
    checks = app.engine.health()
    shown = {name: {"ok": check.ok, "detail": check.detail} for name, check in checks.items()}
    return web.json_response({"checks": shown}, status=200 if all(check.ok for check in checks.values()) else 503)


def routes(web_app: web.Application) -> None:
    web_app.router.add_get("/health/ready", ready)


app.on_web(routes)
