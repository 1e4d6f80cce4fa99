"""The comparison finds what was planted, names it, and finds nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agents.effects.postgres.verify import verify
from streams.records import TopicPartition
from tests.agents.effects.history import EVENTS, History, fetch, new_destination, records, write

P0 = TopicPartition(EVENTS, 0)


@pytest.fixture
async def history(database: str) -> History:
    """Sixty events, written; the third order is known to be placed and not cancelled."""
    history = History()
    placed = [history.place().order_uid for _ in range(10)]
    for uid in placed[:2]:
        history.cancel(uid)
    history.run(48)
    await write(new_destination(database), records(history.events))
    return history


async def states(history: History) -> AsyncIterator[dict[str, Any]]:
    for uid in sorted(history.states):
        yield history.states[uid]


def uid_of(history: History) -> str:
    return sorted(history.states)[len(history.states) // 2]


async def test_equal_sides_have_no_difference_and_the_same_digest(database: str, history: History) -> None:
    seen: list[int] = []
    verified = await verify(database, states(history), progress=seen.append)
    assert verified.difference is None and verified.rows == len(history.states) == seen[-1]
    assert verified.items == sum(len(state["document"]["items"]) for state in history.states.values())
    assert verified.digest == (await verify(database, states(history))).digest
    history.states[uid_of(history)]["document"]["locale"] = "xx"
    assert verified.digest != (await verify(database, states(history))).digest


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        ("UPDATE orders SET status = 'lost' WHERE order_uid = $1", "orders.status"),
        ("UPDATE orders SET amount_minor = amount_minor + 1 WHERE order_uid = $1", "orders.amount_minor"),
        ("UPDATE orders SET placed_at = placed_at + interval '1 ms' WHERE order_uid = $1", "orders.placed_at"),
        ("UPDATE orders SET version = version + 1 WHERE order_uid = $1", "orders.version"),
        ("UPDATE orders SET document = jsonb_set(document, '{delivery,city}', '\"Rome\"') WHERE order_uid = $1",
         "orders.document.delivery.city"),
        ("UPDATE orders SET document = jsonb_set(document, '{items,0,price}', '1.5') WHERE order_uid = $1",
         "orders.document.items[0].price"),
        ("UPDATE orders SET document = document || '{\"more\": null}' WHERE order_uid = $1", "orders.document.more"),
        ("DELETE FROM orders WHERE order_uid = $1", "orders.row"),
        ("INSERT INTO orders SELECT order_uid || 'x', version, status, customer_id, placed_at, updated_at, updated_by, "
         "cancel_reason, track_number, delivery_service, provider, currency, amount_minor, goods_total_minor, "
         "delivery_cost_minor, custom_fee_minor, document FROM orders WHERE order_uid = $1", "orders.row"),
        ("UPDATE order_items SET brand = 'other' WHERE order_uid = $1 AND line_no = 1", "order_items.brand"),
        ("DELETE FROM order_items WHERE order_uid = $1 AND line_no = 1", "order_items.row"),
        ("INSERT INTO order_items SELECT order_uid, 99, chrt_id, nm_id, rid, track_number, name, brand, size, status, "
         "price_minor, sale_percent, total_price_minor FROM order_items WHERE order_uid = $1 AND line_no = 1",
         "order_items.row"),
        ("INSERT INTO order_items SELECT order_uid || 'x', 99, chrt_id, nm_id, rid, track_number, name, brand, size, "
         "status, price_minor, sale_percent, total_price_minor FROM order_items WHERE order_uid = $1 AND line_no = 1",
         "order_items.row"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)  # fmt: skip
async def test_a_planted_difference_is_named(database: str, history: History, statement: str, column: str) -> None:
    uid = uid_of(history)
    await fetch(database, statement, uid)
    difference = (await verify(database, states(history))).difference
    assert difference is not None
    assert f"{difference.table}.{difference.column}" == column
    assert difference.key.split()[0].removesuffix("x") == uid
    assert difference.expected != difference.found
    assert repr(difference.expected) in str(difference) and repr(difference.found) in str(difference)


@pytest.mark.parametrize("change", ["placed", "cancelled"])
async def test_what_changed_after_the_tables_were_read_is_no_difference(
    database: str, history: History, change: str
) -> None:
    tables = History(states={uid: dict(state) for uid, state in history.states.items()})
    end = len(history.events)
    if change == "placed":
        history.place()
    else:
        history.cancel(next(uid for uid, state in sorted(history.states.items()) if state["status"] == "placed"))
    await write(new_destination(database), records(history.events[end:], first=end), end)
    verified = await verify(database, states(tables), ends={P0: end})
    assert verified.difference is None and verified.ahead == 1
    for ends in (None, {P0: end + 1}):
        assert (await verify(database, states(tables), ends=ends)).difference is not None


async def test_a_row_that_postgres_lacks_is_a_difference_however_new(database: str, history: History) -> None:
    end = len(history.events)
    history.place()
    difference = (await verify(database, states(history), ends={P0: end})).difference
    assert difference is not None and difference.column == "row" and "PostgreSQL has nothing" in str(difference)


async def test_numbers_written_differently_are_equal(database: str) -> None:
    history = History()
    first = history.place()
    raw = first.document.replace(b'"locale"', b'"weight":1e2,"ratio":0.10,"locale"')
    again = History(seed=9)
    again.place(raw)
    await write(new_destination(database), records(again.events))
    change: Callable[[], None] = again.states[first.order_uid]["document"].update
    assert (await verify(database, states(again))).difference is None
    change({"weight": 101})  # type: ignore[call-arg]
    assert (await verify(database, states(again))).difference is not None
