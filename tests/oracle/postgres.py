"""the fold of the events, the events, the dead letters -> the rows that PostgreSQL must have, and what it has."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from tests.oracle.history import Fold, Happened, Order
from tests.oracle.inlet import PREFIX, origin_of
from tests.oracle.log import Record, moment
from tests.oracle.verdict import Kind, Verdict

Row = dict[str, Any]
Rows = dict[Any, Row]

#: What an amount is made of.
PARTS = ("goods_total_minor", "delivery_cost_minor", "custom_fee_minor")


class Database(NamedTuple):
    """What PostgreSQL has: rows by primary key, columns by name. `refused` rows were set aside by the sink."""

    orders: Rows
    order_items: Rows
    order_events: Rows
    dead_letters: Rows
    refused: int = 0


def judge_postgres(fold: Fold, letters: Iterable[Record], found: Database, verdict: Verdict) -> None:
    """Row by row: an order as it stands, its items, each event once, each dead letter once."""
    expected = expected_database(fold, letters)
    for table in ("orders", "order_items", "order_events", "dead_letters"):
        verdict.same_rows(f"rows of postgres {table}", getattr(expected, table), getattr(found, table))
    if found.refused:
        verdict.add(Kind.LOST, "rows of postgres", "refused_rows", f"{found.refused} records were set aside")
    _judge_sums(expected, found, verdict)


def _judge_sums(expected: Database, found: Database, verdict: Verdict) -> None:
    """Money, added up on both sides: a difference that hides in no row would show here."""
    verdict.equal(
        "money",
        "orders.amount_minor",
        sum(row["amount_minor"] for row in expected.orders.values()),
        sum(row.get(name, 0) for row in found.orders.values() for name in PARTS),
    )
    verdict.equal(
        "money",
        "order_items.total_price_minor",
        sum(row["goods_total_minor"] for row in expected.orders.values()),
        sum(row.get("total_price_minor", 0) for row in found.order_items.values()),
    )


def expected_database(fold: Fold, letters: Iterable[Record]) -> Database:
    documents = {uid: orjson.loads(order.document) for uid, order in fold.orders.items()}
    items = {
        (uid, number): _item(uid, number, item)
        for uid, document in documents.items()
        for number, item in enumerate(document["items"], 1)
    }
    return Database(
        {uid: _order(order, documents[uid]) for uid, order in fold.orders.items()},
        items,
        {each.event["event_id"]: _event(each) for each in fold.happened},
        {row["id"]: row for row in map(_letter, letters) if row},
    )


def _order(order: Order, document: Mapping[str, Any]) -> Row:
    payment = document["payment"]
    return {
        "order_uid": order.order_uid,
        "version": order.version,
        "status": order.status,
        "customer_id": order.customer_id,
        "placed_at": datetime.fromisoformat(order.placed_at),
        "updated_at": datetime.fromisoformat(order.updated_at),
        "updated_by": order.updated_by,
        "cancel_reason": order.cancel_reason,
        "track_number": document["track_number"],
        "delivery_service": document["delivery_service"],
        "provider": payment["provider"],
        "currency": payment["currency"],
        "amount_minor": payment["amount"],
        "goods_total_minor": payment["goods_total"],
        "delivery_cost_minor": payment["delivery_cost"],
        "custom_fee_minor": payment["custom_fee"],
        "document": document,
    }


def _item(uid: str, number: int, item: Mapping[str, Any]) -> Row:
    return {
        "order_uid": uid,
        "line_no": number,
        "chrt_id": item["chrt_id"],
        "nm_id": item["nm_id"],
        "rid": item["rid"],
        "track_number": item["track_number"],
        "name": item["name"],
        "brand": item["brand"],
        "size": item["size"],
        "status": item["status"],
        "price_minor": item["price"],
        "sale_percent": item["sale"],
        "total_price_minor": item["total_price"],
    }


def _event(each: Happened) -> Row:
    event, at = each.event, each.at
    return {
        "event_id": event["event_id"],
        "type": event["type"],
        "order_uid": event["order_uid"],
        "version": event["version"],
        "occurred_at": datetime.fromisoformat(event["occurred_at"]),
        "caused_by": event["caused_by"],
        "reason": event.get("reason"),
        "topic": at.topic,
        "partition": at.partition,
        "offset": at.offset,
        "payload": orjson.loads(at.value or b"null"),
    }


def _letter(letter: Record) -> Row | None:
    """A dead letter's row. Texts are as the headers have them, but for NUL, which PostgreSQL cannot hold."""
    origin, ours = origin_of(letter), {name: raw.decode() for name, raw in letter.headers if name.startswith(PREFIX)}
    if origin is None:
        return None
    faults = orjson.loads(ours[f"{PREFIX}faults"])
    return {
        "id": str(origin),
        "kind": ours[f"{PREFIX}kind"],
        "reason": ours[f"{PREFIX}reason"],
        "faults": [{name: text.replace("\0", "\ufffd") for name, text in fault.items()} for fault in faults],
        "agent": ours[f"{PREFIX}agent"],
        "attempt": int(ours[f"{PREFIX}attempt"]),
        "origin_topic": origin.topic,
        "origin_partition": origin.partition,
        "origin_offset": origin.offset,
        "origin_at": datetime.fromisoformat(moment(int(ours[f"{PREFIX}timestamp"]))),
        "key": letter.key,
        "value": letter.value,
        "headers": [_header(name, raw) for name, raw in letter.headers if not name.startswith(PREFIX)],
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "redriven_at": None,
    }


def _header(name: str, raw: bytes) -> Row:
    """Values of headers are bytes: text where they are text that PostgreSQL can hold, base64 where not."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return {"name": name, "base64": base64.b64encode(raw).decode()}
    return {"name": name, "value": text}


async def read_database(dsn: str) -> Database:
    """All rows, by primary key."""
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=orjson.loads)
        await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
        keys = {
            "orders": ("order_uid",),
            "order_items": ("order_uid", "line_no"),
            "order_events": ("event_id",),
            "dead_letters": ("id",),
        }
        tables = {table: await _rows(connection, table, key) for table, key in keys.items()}
        return Database(**tables, refused=await connection.fetchval("SELECT count(*) FROM orderstream.refused_rows"))
    finally:
        await connection.close()


async def _rows(connection: Any, table: str, key: tuple[str, ...]) -> Rows:
    found = map(dict, await connection.fetch(f"SELECT * FROM orderstream.{table}"))
    return {row[key[0]] if len(key) == 1 else tuple(row[name] for name in key): row for row in found}
