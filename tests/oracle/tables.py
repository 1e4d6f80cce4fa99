"""the fold of the events -> the rows that each table must have -> the changelogs, folded, held to them.

The layout of keys is the documented one (NUL parts them): `orders` by order_uid; `order_timeline` by order_uid and
version, a refusal with the topic and offset of its cause behind; `order_refusals` by order_uid and command_id; the
indexes by place, newest first, then order_uid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from tests.oracle.history import Fold, Happened, Order
from tests.oracle.inputs import keeps
from tests.oracle.log import LAST_MS, Log, Record, clamped_ms, home_of
from tests.oracle.verdict import Kind, Verdict

Rows = dict[str, Any]


def judge_changelogs(log: Log, fold: Fold, verdict: Verdict) -> None:
    """Every changelog, folded, is what the events come to; every row stands where the order is at home."""
    homes: dict[str, int] = {}

    def home(uid: str) -> int:
        return homes.setdefault(uid, home_of(uid, log.partitions))

    expected = expected_rows(fold)
    owners: dict[str, Callable[[str], str]] = {
        "orders": lambda key: key,
        "order_timeline": lambda key: key.split("\0")[0],
        "order_refusals": lambda key: key.split("\0")[0],
        "orders_by_customer": lambda key: key.split("\0")[2],
        "orders_by_time": lambda key: key.split("\0")[1],
    }
    for table, rows in expected.items():
        found = folded(log.changelogs.get(table, ()))
        verdict.same_rows(f"rows of {table}", rows, {key: _read(table, value) for key, (_, value) in found.items()})
        for key, (partition, _) in found.items():
            if key in rows and partition != home(owners[table](key)):
                verdict.add(Kind.WRONG, f"rows of {table}", key.replace("\0", "␀"), f"stands in partition {partition}")
    _judge_documents(fold, folded(log.changelogs.get("orders", ())), verdict)


def folded(records: Iterable[Record]) -> dict[str, tuple[int, bytes]]:
    """What a changelog says at its end: key -> (partition, value). Keys that begin with NUL are the engine's own."""
    rows: dict[str, tuple[int, bytes]] = {}
    for record in records:
        if record.key is None or record.key.startswith(b"\0"):
            continue
        key = record.key.decode()
        if record.value is None:
            rows.pop(key, None)
        else:
            rows[key] = record.partition, record.value
    return rows


def expected_rows(fold: Fold) -> dict[str, Rows]:
    """Table -> key -> the row, as parsed JSON; a document stands in it as its parsed content."""
    by_place = {place_of(order): order for order in fold.orders.values()}
    return {
        "orders": {uid: order_row(order) for uid, order in fold.orders.items()},
        "order_timeline": {timeline_key(each): timeline_entry(each) for each in fold.happened},
        "order_refusals": {
            f"{each.event['order_uid']}\0{each.event['caused_by']}": str(each.event["version"])
            for each in fold.happened
            if not each.changed
        },
        "orders_by_customer": {f"{order.customer_id}\0{place}": order.status for place, order in by_place.items()},
        "orders_by_time": {place: order.status for place, order in by_place.items()},
    }


def order_row(order: Order) -> Rows:
    """A row of `orders`, without its document, which is compared as bytes."""
    return {
        "order_uid": order.order_uid,
        "version": order.version,
        "status": order.status,
        "customer_id": order.customer_id,
        "placed_at": order.placed_at,
        "updated_at": order.updated_at,
        "updated_by": order.updated_by,
        "cancel_reason": order.cancel_reason,
    }


def timeline_entry(each: Happened) -> Rows:
    event, cause = each.event, each.cause
    said = ("type", "order_uid", "version", "event_id", "caused_by", "occurred_at")
    return {
        **{name: event[name] for name in said},
        "reason": event.get("reason"),
        "topic": cause.topic,
        "partition": cause.partition,
        "offset": cause.offset,
    }


def timeline_key(each: Happened) -> str:
    key = f"{each.event['order_uid']}\0{each.event['version']:010d}"
    return key if each.changed else f"{key}\0{each.cause.topic}\0{each.cause.offset:020d}"


def place_of(order: Order) -> str:
    """Where an order stands among all: the time left until the end of 13 digits of milliseconds, then its uid."""
    return f"{LAST_MS - clamped_ms(order.placed_ms):013d}\0{order.order_uid}"


def _read(table: str, value: bytes) -> Any:
    if table.startswith("orders_by") or table == "order_refusals":
        return value.decode()
    try:
        row = orjson.loads(value)
    except ValueError:
        return value
    return {name: member for name, member in row.items() if name != "document"} if isinstance(row, dict) else row


def _judge_documents(fold: Fold, found: Mapping[str, tuple[int, bytes]], verdict: Verdict) -> None:
    """Documents are kept byte for byte, as the last member of their row."""
    for uid, order in fold.orders.items():
        if uid in found and not keeps(found[uid][1], order.document):
            verdict.add(Kind.WRONG, "rows of orders", uid, "its document is not the bytes received")
