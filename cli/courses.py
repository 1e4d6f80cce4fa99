"""two snapshots -> which orders end differently, where each parted, and what money moved -> one report, as data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import orjson

from streams.snapshot import Parted, RowDiffers, Snapshot

#: Tables that hold an order under its id. One that is bought here stands in `purchases`, a document in `orders`.
ORDERS = ("orders", "purchases")
#: Topics whose records have an order's id as their key, in the order in which a reader wants to hear of them.
STORIES = ("purchases.events.v1", "orders.events.v1", "payments.events.v1")
#: What differs when only the way was another one. A series of numbers has no gap: one order less, and all that come
#: after it have the number before theirs.
OF_THE_WAY = {"version", "updated_at", "updated_by", "order_number"}
#: Sums of an order in minor units.
MONEY = ("total_minor", "captured_minor", "refunded_minor")
LETTERS = "dead_letters.v1"


def report(was: Snapshot, would: Snapshot, samples: int) -> dict[str, Any]:
    """What is different in `would`. Empty lists and zero differences: nothing is."""
    parted = {(each.topic, each.key): each for each in was.parted_events(would)}
    rows = list(was.differing_rows(would))
    orders = _orders(rows, parted)
    differ = [order for order in orders if order["ends_differently"]]
    chosen = [order["order_uid"] for order in (differ or orders)[:samples]]
    return {
        "orders": {
            "count": sum(1 for _ in _every_order(would)),
            "end_differently": len(differ),
            "another_way_to_the_same_end": len(orders) - len(differ),
        },
        "by_status": _by_status(was, would),
        "money": _money(was, would),
        "tables": dict(sorted(Counter(row.table for row in rows).items())),
        "topics": dict(sorted(Counter(topic for topic, _ in parted).items())),
        "dead_letters": would.count_events(LETTERS) - was.count_events(LETTERS),
        "differing": orders,
        "sample": [_in_full(was, would, uid) for uid in chosen],
    }


def _orders(rows: list[RowDiffers], parted: dict[tuple[str, bytes], Parted]) -> list[dict[str, Any]]:
    """Each order whose row or whose events are not the same."""
    found: dict[bytes, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {}
    for row in rows:
        if row.table in ORDERS:
            found[row.key] = _read(row.before), _read(row.after)
    keys = found.keys() | {key for topic, key in parted if topic in STORIES[:2]}
    return [_order(key, found.get(key), parted) for key in sorted(keys)]


def _order(
    key: bytes,
    row: tuple[dict[str, Any] | None, dict[str, Any] | None] | None,
    parted: dict[tuple[str, bytes], Parted],
) -> dict[str, Any]:
    before, after = row if row is not None else (None, None)
    fields = sorted(
        name
        for name in {*(before or {}), *(after or {})} - OF_THE_WAY
        if (before or {}).get(name) != (after or {}).get(name)
    )
    first = next((parted[topic, key] for topic in STORIES if (topic, key) in parted), None)
    return {
        "order_uid": key.decode(errors="replace"),
        "ends_differently": bool(fields),
        "fields": fields,
        "was": _standing(before),
        "would_be": _standing(after),
        "first_event": None if first is None else event_difference(first),
    }


def _standing(order: dict[str, Any] | None) -> dict[str, Any] | None:
    if order is None:
        return None
    names = ("status", "currency", *MONEY, "lost_minor", "ended", "end_detail")
    return {name: order[name] for name in names if order.get(name)}


def event_difference(parted: Parted) -> dict[str, Any]:
    """Where a key's events part, as data. `number` from 1."""
    return {
        "topic": parted.topic,
        "number": parted.n + 1,
        "was": _read(parted.before),
        "would_be": _read(parted.after),
    }


def row_difference(row: RowDiffers) -> dict[str, Any]:
    """A row that differs, as data. A row of other bytes than JSON differs in `bytes`."""
    before, after = _read(row.before) or {}, _read(row.after) or {}
    fields = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return {
        "table": row.table,
        "partition": row.partition,
        "key": row.key.decode(errors="replace"),
        "fields": fields,
        "was": _read(row.before),
        "would_be": _read(row.after),
    }


def _every_order(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for table in ORDERS:
        for _, raw in snapshot.rows(table):
            if order := _read(raw):
                yield order


def _by_status(was: Snapshot, would: Snapshot) -> dict[str, dict[str, int]]:
    before, after = (Counter(order["status"] for order in _every_order(each)) for each in (was, would))
    return {
        status: {"was": before[status], "would_be": after[status], "difference": after[status] - before[status]}
        for status in sorted({*before, *after})
    }


def _money(was: Snapshot, would: Snapshot) -> dict[str, dict[str, dict[str, int]]]:
    """By currency, of what is bought here: what it comes to, what was taken, what went back, and so what moved."""
    sums: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for side, snapshot in (("was", was), ("would_be", would)):
        for _, raw in snapshot.rows("purchases"):
            order = _read(raw) or {}
            amounts = {name: order.get(name) or 0 for name in MONEY}
            amounts["moved_minor"] = amounts["captured_minor"] - amounts["refunded_minor"]
            for name, amount in amounts.items() if order.get("currency") else ():
                line = sums[order["currency"]].setdefault(name, {"was": 0, "would_be": 0, "difference": 0})
                line[side] += amount
                line["difference"] = line["would_be"] - line["was"]
    return dict(sorted(sums.items()))


def _in_full(was: Snapshot, would: Snapshot, order_uid: str) -> dict[str, Any]:
    """Both courses of an order, event by event."""
    key = order_uid.encode()
    courses = [
        {
            "topic": topic,
            "was": [_read(raw) for raw in was.events_of(topic, key)],
            "would_be": [_read(raw) for raw in would.events_of(topic, key)],
        }
        for topic in STORIES
    ]
    return {"order_uid": order_uid, "courses": [each for each in courses if each["was"] or each["would_be"]]}


def pairs(course: dict[str, Any]) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """The events of both courses side by side."""
    return list(zip_longest(course["was"], course["would_be"]))


def _read(raw: bytes | None) -> dict[str, Any] | None:
    """A record or a row as data; bytes that are no JSON object as what they look like."""
    if raw is None:
        return None
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"bytes": raw.decode(errors="replace")}
