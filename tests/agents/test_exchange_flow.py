"""Exchanges through the real task loop: the same again from the stock, or the money, line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.orders import OrderStatus
from schemas.purchases import Terms
from streams.driver import Driver
from tests.agents.domain import make_app
from tests.agents.shop import Shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.fund(1000)
        yield shop


async def delivered(shop: Shop, *lines: tuple[str, int]) -> str:
    uid = await shop.buy(*lines)
    await shop.lead(uid, "ship_order", shipment_id="s1")
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    return uid


async def exchanged(shop: Shop, uid: str, *parts: tuple[int, int], return_id: str = "r1") -> None:
    asked: dict[str, Any] = {"parts": [{"line": line, "quantity": quantity} for line, quantity in parts]}
    await shop.lead(uid, "request_return", return_id=return_id, reason="torn", exchange=True, **asked)
    await shop.lead(uid, "approve_return", return_id=return_id)
    await shop.lead(uid, "receive_return", return_id=return_id)


async def test_the_same_again(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 2))
    await exchanged(shop, uid, (1, 1))
    order = shop.order(uid)
    assert (order.status, order.refund_minor) == (OrderStatus.SHIPPED, 0) and shop.money() == (800, 0)
    assert shop.stock_of("book") == (4, 1), "3 were left; the torn one came back, and one is set aside"
    await shop.lead(uid, "ship_order", shipment_id="s2")
    await shop.lead(uid, "deliver_shipment", shipment_id="s2")
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.stock_of("book") == (3, 0)
    await shop.driver.advance(Terms().return_within_ms + 1)
    assert shop.order(uid).status is OrderStatus.COMPLETED and shop.money() == (800, 0)


async def test_what_came_back_is_not_what_is_sent(shop: Shop) -> None:
    """The last one was sold: there is none but the torn one, so the money goes back."""
    await shop.stock("book", 1, 100)
    uid = await delivered(shop, ("book", 1))
    await exchanged(shop, uid, (1, 1))
    order = shop.order(uid)
    assert order.status is OrderStatus.RETURNED and shop.happened(uid)[-2:] == ["replacement_refused", "refund_settled"]
    assert shop.money() == (1000, 0) and shop.stock_of("book") == (1, 0)


async def test_each_line_goes_its_own_way(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.stock("pen", 2, 10)
    uid = await delivered(shop, ("book", 1), ("pen", 2))
    await exchanged(shop, uid, (1, 1), (2, 1))
    order = shop.order(uid)
    assert order.status is OrderStatus.SHIPPED and (order.refund_minor, order.refunded_minor) == (10, 10)
    assert [(line.returned, line.exchanged, line.replaces) for line in order.lines] == [
        *((1, 1, None), (1, 0, None)),
        *((0, 0, 1), (0, 0, 2)),
    ]
    assert shop.money() == (890, 0) and shop.stock_of("pen") == (1, 0)


async def test_the_same_again_comes_back_for_the_money(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 1))
    await exchanged(shop, uid, (1, 1))
    await shop.lead(uid, "ship_order", shipment_id="s2")
    await shop.lead(uid, "return_shipment", shipment_id="s2")
    assert shop.order(uid).status is OrderStatus.RETURNED
    assert shop.money() == (1000, 0) and shop.stock_of("book") == (5, 0)


async def test_the_buyer_would_rather_have_the_money(shop: Shop) -> None:
    """What is set aside again can be cancelled as any part that has not left."""
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 2))
    await exchanged(shop, uid, (1, 1))
    await shop.lead(uid, "cancel_purchase", reason="no", parts=[{"line": 2, "quantity": 1}])
    assert shop.order(uid).status is OrderStatus.DELIVERED
    assert shop.money() == (900, 0) and shop.stock_of("book") == (4, 0)


async def test_the_price_is_that_of_the_day_it_was_bought(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 1))
    await shop.say("inventory", "change_item", "book", item_id="book", price_minor=900)
    await exchanged(shop, uid, (1, 1))
    assert shop.order(uid).lines[1].price_minor == 100 and shop.money() == (900, 0)


async def test_a_carrier_fetches_the_same_again(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 1))
    await exchanged(shop, uid, (1, 1))
    await shop.lead(uid, "request_shipment", shipment_id="c", carrier={})
    for said in ("picked_up", "out_for_delivery", "delivered"):
        await shop.answer(uid, said, "c")
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.stock_of("book") == (4, 0)


async def test_the_cart_sent_again_is_still_the_same_order(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await delivered(shop, ("book", 1))
    await exchanged(shop, uid, (1, 1))
    cart = {"user_id": "buyer", "lines": [{"item_id": "book", "quantity": 1}], "payment": {"method": "account"}}
    await shop.lead(uid, "place_cart", **cart)
    assert shop.happened(uid)[-1] == "replacement_reserved"
