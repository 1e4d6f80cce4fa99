"""What records come to, without a database."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agents.effects.postgres.rows import ITEM_COLUMNS, ORDER_COLUMNS, Rows, add_rows, headers_json, read_event
from streams.records import StoredRecord
from tests.agents.effects.history import EVENTS, History, records


def rows_of(batch: list[StoredRecord]) -> Rows:
    rows = Rows()
    add_rows(rows, batch, {EVENTS: read_event})
    return rows


def test_an_order_appears_once_in_its_newest_version() -> None:
    history = History()
    uid = history.place().order_uid
    history.place()
    history.cancel(uid)
    history.cancel(uid)
    rows = rows_of(records(history.events))
    assert [row[1] for row in rows.orders.values()] == [2, 1]
    assert len(rows.events) == 4 and not rows.changes and not rows.refused
    merged = dict(zip((*ORDER_COLUMNS, "event"), rows.orders[uid], strict=True))
    document = history.states[uid]["document"]
    assert merged["status"] == "cancelled" and merged["cancel_reason"] == "no longer wanted"
    assert merged["amount_minor"] == document["payment"]["amount"] and merged["event"] == 0
    assert merged["updated_by"] == "cancel-2" and merged["placed_at"] < merged["updated_at"]


def test_a_cancellation_whose_order_came_earlier_is_a_change() -> None:
    history = History()
    uid = history.place().order_uid
    history.cancel(uid)
    rows = rows_of(records(history.events[1:], first=1))
    assert not rows.orders
    assert rows.changes[uid].version == 2 and rows.changes[uid].status == "cancelled"


def test_a_placement_that_comes_again_after_its_cancellation_does_not_take_it_back() -> None:
    history = History()
    history.cancel(history.place().order_uid)
    placed, cancelled = history.events
    rows = rows_of(records([placed, cancelled, placed]))
    assert [row[1] for row in rows.orders.values()] == [2]


def test_items_carry_every_field_of_the_document() -> None:
    history = History()
    uid = history.place().order_uid
    (item, *_) = rows_of(records(history.events)).items
    named = dict(zip(ITEM_COLUMNS, item, strict=True))
    original = history.states[uid]["document"]["items"][0]
    assert named.pop("order_uid") == uid and named.pop("line_no") == 1
    renamed = {"price_minor": "price", "sale_percent": "sale", "total_price_minor": "total_price"}
    assert {renamed.get(name, name): value for name, value in named.items()} == original


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "not readable"),
        (b"{", "not readable"),
        (b'{"type":"order_placed"}', "no field 'order_uid'"),
        (b"[]", "not readable"),
        (b'{"type":"order_returned","order_uid":"a","version":3,"occurred_at":"2026-11-21T10:00:00Z",'
         b'"event_id":"x","caused_by":"y"}', "order_returned' is unknown to this version; upgrade"),
        (b'{"type":"order_placed","order_uid":"a","version":1,"occurred_at":"yesterday","event_id":"x","caused_by":"y"}',
         "yesterday"),
    ],
    ids=["empty", "no JSON", "missing fields", "no object", "an unknown type", "no time"],
)  # fmt: skip
def test_what_cannot_be_read_is_set_aside_and_leaves_nothing_behind(value: bytes, error: str) -> None:
    history = History()
    history.place()
    bad = StoredRecord(EVENTS, 0, 7, -1, b"k", value, [("trace", b"\xff")])
    rows = rows_of([bad, *records(history.events, first=8)])
    (refused,) = rows.refused
    assert refused[:3] == (EVENTS, 0, 7) and refused[5] == value
    assert error in refused[-1]
    assert len(rows.events) == len(rows.orders) == 1


def test_headers_are_text_where_they_are_text() -> None:
    shown: list[dict[str, Any]] = orjson.loads(
        headers_json([("a", b"x"), ("b", b"\xff"), ("c", b"\x00"), ("d\x00", b"")])
    )
    assert shown == [
        {"name": "a", "value": "x"},
        {"name": "b", "base64": "/w=="},
        {"name": "c", "base64": "AA=="},
        {"name": "d\ufffd", "value": ""},
    ]
