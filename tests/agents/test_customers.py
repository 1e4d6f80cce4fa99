"""Customers: the table of outcomes, what the window shows and what it does not, and histories by the hundred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pytest import mark, param

import agents.customers
from agents.checkout import react
from agents.customers import decide, evolve
from schemas.base import rfc3339
from schemas.customers import (
    MOST_REFUSED,
    AdmitOrder,
    Customer,
    CustomerRefusal,
    OrderAdmitted,
    OrderLimit,
    OrderNotAdmitted,
    read_event,
)
from schemas.payments import PaymentMethod
from schemas.purchases import CartLine, CartPayment, PlaceCart, order_uid_of
from tests.agents.customer_histories import TOGETHER, play

NOW = 1_700_000_000_000
WINDOW = 60_000
TWO = OrderLimit(most=2, window_ms=WINDOW)
#: `python -m tests.agents.customer_histories 10000` plays more.
SEEDS = range(400 // TOGETHER)


def cart(name: str) -> PlaceCart:
    payment = CartPayment(method=PaymentMethod.ACCOUNT)
    line = CartLine(item_id="book", quantity=1)
    return PlaceCart(command_id=name, order_uid=order_uid_of(name), user_id="asha", lines=[line], payment=payment)


def attempt(id: str, name: str | None = None, limit: OrderLimit = TWO) -> AdmitOrder:
    """`name`: of the cart, where it is not the attempt's own."""
    return AdmitOrder(command_id=id, cart=cart(name or id), limit=limit)


def played(past: Sequence[tuple[int, AdmitOrder]]) -> Customer | None:
    customer: Customer | None = None
    for at_ms, command in past:
        for event in decide(customer, command, rfc3339(NOW + at_ms)):
            customer = evolve(customer, event)
    return customer


ONE, BOTH = [(0, attempt("a"))], [(0, attempt("a")), (10_000, attempt("b"))]
WIDER, SHORTER = OrderLimit(most=3, window_ms=WINDOW), OrderLimit(most=2, window_ms=20_000)
FULL_LATER = [*BOTH, (20_000, attempt("c", limit=WIDER))]


@mark.parametrize(
    ("past", "at_ms", "command", "next_at_ms"),
    [
        param([], 0, attempt("a"), None, id="the first"),
        param(ONE, 1, attempt("b"), None, id="the last that is allowed"),
        param(BOTH, 20_000, attempt("c"), WINDOW, id="one too many: when the oldest leaves"),
        param(BOTH, WINDOW - 1, attempt("c"), WINDOW, id="a millisecond too soon"),
        param(BOTH, WINDOW, attempt("c"), None, id="the moment that was named"),
        param(FULL_LATER, 30_000, attempt("d"), 10_000 + WINDOW, id="fewer are allowed now: two have to leave"),
        param(BOTH, 20_000, attempt("c", limit=WIDER), None, id="more are allowed now"),
        param(BOTH, 25_000, attempt("c", limit=SHORTER), None, id="the window is shorter now"),
        param(BOTH, -5, attempt("c"), WINDOW, id="another worker's clock is behind"),
        param(BOTH, -WINDOW, attempt("c"), None, id="a clock that was wrong does not block"),
    ],
)
def test_attempts(past: list[tuple[int, AdmitOrder]], at_ms: int, command: AdmitOrder, next_at_ms: int | None) -> None:
    before = played(past)
    (event,) = decide(before, command, rfc3339(NOW + at_ms))
    after = evolve(before, event)
    assert event.version == after.version == (before.version if before else 0) + 1
    assert read_event(event.model_dump_json().encode()) == event
    assert Customer.from_json(after.to_json()) == after
    if next_at_ms is None:
        assert isinstance(event, OrderAdmitted) and event.counted == len(after.admitted)
        assert after.has_admitted(command.cart.order_uid) and react(event) == (command.cart,)
    else:
        assert isinstance(event, OrderNotAdmitted) and react(event) == ()
        assert (event.reason, event.next_at_ms) == (CustomerRefusal.TOO_MANY_ORDERS, NOW + next_at_ms)
        refused = after.refusal(command.command_id)
        assert refused is not None and refused.next_at_ms == NOW + next_at_ms


FULL = [*BOTH, (20_000, attempt("c"))]


@mark.parametrize(
    ("past", "at_ms", "command"),
    [
        param(ONE, 1, attempt("a"), id="the attempt again"),
        param(ONE, 1, attempt("again", "a"), id="the order again, by another attempt"),
        param(FULL, 20_001, attempt("c"), id="the refused attempt again"),
        param(FULL, WINDOW, attempt("c"), id="and when another would be admitted"),
    ],
)
def test_repetitions_say_nothing(past: list[tuple[int, AdmitOrder]], at_ms: int, command: AdmitOrder) -> None:
    assert decide(played(past), command, rfc3339(NOW + at_ms)) == ()


def test_a_refused_cart_may_come_again() -> None:
    (event,) = decide(played(FULL), attempt("c-again", "c"), rfc3339(NOW + WINDOW))
    assert isinstance(event, OrderAdmitted)


def test_what_the_window_has_forgotten_is_judged_anew_and_is_another_event() -> None:
    (first,) = decide(None, attempt("a"), rfc3339(NOW))
    (again,) = decide(evolve(None, first), attempt("a"), rfc3339(NOW + WINDOW))
    assert first.caused_by == again.caused_by and first.event_id != again.event_id


def test_a_row_is_bounded() -> None:
    """By the limit and by what is known of refused attempts, however many come; nothing stays behind the window."""
    past = [(n, attempt(f"a{n}")) for n in range(100)]
    customer = played(past)
    assert customer is not None and len(customer.admitted) == 2
    assert [each.command_id for each in customer.refused] == [f"a{n}" for n in range(100 - MOST_REFUSED, 100)]
    later = played([*past, (3 * WINDOW, attempt("later"))])
    assert later is not None and (len(later.admitted), later.refused) == (1, ())


async def test_histories() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, replay=seed % 4 == 0)
    assert set(seen) == {"order_admitted", "order_not_admitted"}


def _everything(rows: Any, *_: Any) -> Any:
    return rows


def _one_millisecond_more(rows: Any, now_ms: int, limit: OrderLimit) -> Any:
    return tuple(row for row in rows if abs(now_ms - row.at_ms) <= limit.window_ms)


@mark.parametrize("broken", [_everything, _one_millisecond_more], ids=["forgets nothing", "a millisecond late"])
async def test_a_window_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    monkeypatch.setattr(agents.customers, "_inside", broken)
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            await play(seed)
