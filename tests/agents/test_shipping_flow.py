"""A carrier and an order through the real task loop: what it says when, and what becomes of stock, money and status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.orders import OrderStatus
from schemas.purchases import CarrierTerms, ShipmentState, Terms
from schemas.shipping import Stage
from streams.driver import Driver
from tests.agents.domain import elsewhere, make_app
from tests.agents.shop import Shop

TERMS = CarrierTerms(answer_within_ms=60_000, asks=2, stale_after_ms=3_600_000, hold_ms=10_000)
CARRIER: dict[str, Any] = {"carrier": TERMS.model_dump()}
ONE = [{"line": 1, "quantity": 1}]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("book", 5, 100)
        await shop.fund(1000)
        yield shop


async def packed(shop: Shop, pieces: int = 2, **more: Any) -> str:
    """An order whose carrier is asked to fetch it."""
    uid = await shop.buy(("book", pieces), **more)
    await shop.lead(uid, "pack_order", **CARRIER)
    return uid


async def test_packed_fetched_and_delivered(shop: Shop) -> None:
    uid = await packed(shop, address={"city": "Kiryat Mozkin"})
    assert shop.asked(uid) == [("book", 1)]
    assert (shop.order(uid).status, shop.order(uid).shipments[0].state) == (OrderStatus.PACKED, "requested")
    assert shop.booking(uid).address == {"city": "Kiryat Mozkin"}
    await shop.answer(uid, "registered", tracking_number="T-77")
    assert shop.order(uid).shipments[0].tracking_number == "T-77" and shop.stock_of("book") == (5, 2)
    await shop.answer(uid, "picked_up")
    assert shop.order(uid).status is OrderStatus.SHIPPED and shop.stock_of("book") == (3, 0)
    await shop.answer(uid, "out_for_delivery")
    assert shop.order(uid).status is OrderStatus.OUT_FOR_DELIVERY
    await shop.answer(uid, "failed", reason="nobody home")
    assert ("carrier_noted", "failed: nobody home") in shop.timeline(uid)
    await shop.answer(uid, "delivered")
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.booking(uid).failed_attempts == 1
    await shop.driver.advance(Terms().return_within_ms + 1)
    assert shop.order(uid).status is OrderStatus.COMPLETED and shop.money() == (800, 0)
    assert shop.asked(uid) == [("book", 1)], "what is at its end is not asked for"


async def test_without_a_carrier_nobody_is_asked(shop: Shop) -> None:
    uid = await shop.buy(("book", 2))
    await shop.lead(uid, "pack_order")
    assert shop.asked(uid) == [] and shop.order(uid).shipments == ()
    await shop.lead(uid, "ship_order", shipment_id="s1")
    assert shop.order(uid).status is OrderStatus.SHIPPED


async def test_several_shipments_of_which_one_goes_without_a_carrier(shop: Shop) -> None:
    uid = await shop.buy(("book", 3))
    await shop.lead(uid, "request_shipment", shipment_id="a", parts=ONE, **CARRIER)
    await shop.lead(uid, "ship_order", shipment_id="b", parts=ONE)
    await shop.lead(uid, "request_shipment", shipment_id="c", **CARRIER)
    assert [shipment.parts[0].quantity for shipment in shop.order(uid).shipments] == [1, 1, 1]
    await shop.lead(uid, "ship_order", shipment_id="d", parts=ONE)
    assert shop.happened(uid)[-1] == "ship_order: more_than_there_is", "the carrier may come for it any moment"
    for shipment in ("a", "c"):
        await shop.answer(uid, "picked_up", shipment)
        await shop.answer(uid, "delivered", shipment)
    await shop.lead(uid, "deliver_shipment", shipment_id="b")
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.stock_of("book") == (2, 0)


async def test_repeats_and_other_partitions_change_nothing(shop: Shop) -> None:
    uid = await packed(shop)
    for _ in range(2):
        await shop.answer(uid, "picked_up", response_id="same", partition=elsewhere(uid))
        await shop.answer(uid, "picked_up")
    assert shop.happened(uid).count("order_shipped") == 1 and shop.stock_of("book") == (3, 0)
    version = shop.booking(uid).version
    await shop.answer(uid, "registered")
    await shop.answer(uid, "registered")
    assert shop.booking(uid).version == version + 1, "late, and still good for its number; once"


async def test_what_comes_too_early_waits(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.answer(uid, "delivered")
    await shop.answer(uid, "out_for_delivery")
    assert shop.order(uid).status is OrderStatus.PACKED
    assert ("carrier_noted", "delivered: held") in shop.timeline(uid)
    await shop.answer(uid, "picked_up")
    assert shop.order(uid).status is OrderStatus.DELIVERED
    assert shop.happened(uid)[-3:] == ["order_shipped", "shipment_sent_out", "shipment_delivered"]
    await shop.driver.advance(TERMS.hold_ms + 1)
    assert shop.happened(uid)[-1] == "shipment_delivered", "its time to wait is over, and so is it"


@pytest.mark.parametrize(
    ("last", "status", "shelf"),
    [("delivered", OrderStatus.DELIVERED, (3, 0)), ("returned_to_origin", OrderStatus.RETURNED, (5, 0))],
)
async def test_a_lost_pick_up_is_believed_in_time(
    shop: Shop, last: str, status: OrderStatus, shelf: tuple[int, int]
) -> None:
    uid = await packed(shop)
    await shop.answer(uid, last)
    await shop.driver.advance(TERMS.hold_ms + 1)
    assert shop.order(uid).status is status and shop.stock_of("book") == shelf


async def test_what_comes_too_late_is_refused_and_shown(shop: Shop) -> None:
    uid = await packed(shop)
    for said in ("picked_up", "delivered", "returned_to_origin", "out_for_delivery"):
        await shop.answer(uid, said)
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.stock_of("book") == (3, 0)
    assert ("carrier_noted", "returned_to_origin refused: already_delivered") in shop.timeline(uid)
    await shop.answer(uid, "delivered", "s9")
    assert shop.timeline(uid)[-1] == ("carrier_noted", "delivered refused: no_such_shipment")


async def test_returned_to_origin_fills_the_shelf_and_pays_back(shop: Shop) -> None:
    uid = await packed(shop)
    for said in ("registered", "picked_up", "out_for_delivery", "failed", "returned_to_origin"):
        await shop.answer(uid, said)
    assert shop.order(uid).status is OrderStatus.RETURNED
    assert shop.stock_of("book") == (5, 0) and shop.money() == (1000, 0)


async def test_a_carrier_that_never_answers_is_given_up(shop: Shop) -> None:
    """Its goods are free again, and go another way."""
    uid = await packed(shop)
    await shop.driver.advance(TERMS.answer_within_ms + 1)
    assert shop.asked(uid) == [("book", 1), ("book", 2)]
    await shop.driver.advance(TERMS.answer_within_ms + 1)
    assert shop.asked(uid)[2:] == [("cancel", 1)]
    assert ("carrier_noted", "given up: no answer to 2 asks") in shop.timeline(uid)
    await shop.lead(uid, "ship_order", shipment_id="by-hand")
    assert shop.happened(uid)[-1] == "ship_order: nothing_to_ship", "it may have heard, and come"
    for _ in range(2):
        await shop.driver.advance(TERMS.answer_within_ms + 1)
    assert shop.order(uid).shipments[0].state is ShipmentState.CANCELLED and shop.stock_of("book") == (5, 2)
    await shop.lead(uid, "ship_order", shipment_id="by-hand")
    assert shop.order(uid).status is OrderStatus.SHIPPED and shop.stock_of("book") == (3, 0)


async def test_a_carrier_that_comes_after_it_was_given_up_takes_it(shop: Shop) -> None:
    uid = await packed(shop)
    for _ in range(4):
        await shop.driver.advance(TERMS.answer_within_ms + 1)
    assert shop.booking(uid).stage is Stage.CANCELLED
    await shop.answer(uid, "picked_up")
    assert shop.order(uid).status is OrderStatus.SHIPPED and shop.stock_of("book") == (3, 0)


async def test_one_that_is_under_way_is_asked_for_how_it_stands(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.answer(uid, "picked_up")
    for _ in range(3):
        await shop.driver.advance(TERMS.stale_after_ms + 1)
    assert shop.asked(uid) == [("book", number) for number in (1, 2, 3, 4)]


async def test_the_carrier_confirms_a_cancellation(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    assert shop.order(uid).status is OrderStatus.CANCELLED and shop.money() == (1000, 0)
    assert shop.asked(uid)[-1] == ("cancel", 1)
    assert shop.stock_of("book") == (5, 2), "the carrier may have it: nobody else can"
    await shop.answer(uid, "cancelled")
    assert shop.stock_of("book") == (5, 0)


async def test_what_is_fetched_after_a_cancellation_is_recalled(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    await shop.answer(uid, "picked_up")
    assert shop.happened(uid)[-2:] == ["ship_order: not_in_this_status", "carrier_noted"]
    assert shop.asked(uid)[-1] == ("recall", 1) and shop.stock_of("book") == (5, 2)
    await shop.answer(uid, "out_for_delivery")
    assert shop.timeline(uid)[-1] == ("carrier_noted", "out_for_delivery refused: recalled")
    await shop.answer(uid, "returned_to_origin")
    assert shop.order(uid).status is OrderStatus.CANCELLED
    assert shop.stock_of("book") == (5, 0) and shop.money() == (1000, 0)


@pytest.mark.parametrize("early", [True, False], ids=["before the recall", "after it"])
async def test_what_is_delivered_though_cancelled_is_lost(shop: Shop, early: bool) -> None:
    """The buyer has both: the books say so, and nobody is sold what is not there."""
    uid = await packed(shop)
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    if early:
        await shop.answer(uid, "delivered")
    await shop.answer(uid, "picked_up")
    if not early:
        await shop.answer(uid, "delivered")
    order = shop.order(uid)
    assert (order.status, order.shipments[0].state) == (OrderStatus.CANCELLED, ShipmentState.LOST)
    assert shop.stock_of("book") == (3, 0) and shop.money() == (1000, 0)


async def test_a_carrier_that_confirms_and_fetches_all_the_same(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    await shop.answer(uid, "cancelled")
    await shop.answer(uid, "picked_up")
    assert shop.asked(uid)[-1] == ("recall", 1) and shop.stock_of("book") == (5, 0)
    await shop.answer(uid, "delivered")
    assert shop.stock_of("book") == (3, 0), "free again, and gone"


async def test_the_seller_withdraws_a_shipment(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.lead(uid, "withdraw_shipment", shipment_id="s1", reason="too dear")
    assert shop.asked(uid)[-1] == ("cancel", 1) and shop.order(uid).status is OrderStatus.PACKED
    await shop.answer(uid, "cancelled")
    await shop.lead(uid, "cancel_purchase", reason="one is enough", parts=ONE)
    await shop.lead(uid, "ship_order", shipment_id="s2")
    assert shop.order(uid).status is OrderStatus.SHIPPED and shop.stock_of("book") == (4, 0)


async def test_a_withdrawal_that_comes_too_late(shop: Shop) -> None:
    """The order still wants it: it travels."""
    uid = await packed(shop)
    await shop.lead(uid, "withdraw_shipment", shipment_id="s1", reason="too dear")
    await shop.answer(uid, "picked_up")
    assert shop.order(uid).status is OrderStatus.SHIPPED and shop.asked(uid)[-1] == ("cancel", 1)
    await shop.driver.advance(TERMS.stale_after_ms + 1)
    assert shop.asked(uid)[-1] == ("book", 1), "how it stands; nobody cancels what travels"


async def test_a_person_says_first_what_the_carrier_says_later(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.answer(uid, "picked_up")
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    await shop.answer(uid, "delivered")
    assert shop.happened(uid)[-1] == "deliver_shipment: not_in_this_status"
    assert shop.order(uid).status is OrderStatus.DELIVERED and shop.stock_of("book") == (3, 0)


async def test_a_failed_capture_ends_a_packed_order(shop: Shop) -> None:
    """As a cancellation: the carrier is asked not to come, and the goods wait for its word."""
    uid = await shop.buy(("book", 2), method="provider")
    await shop.say("payments", "record_authorisation", uid, order_uid=uid, source="provider", amount_minor=200)
    await shop.lead(uid, "pack_order", **CARRIER)
    failed = {"source": "provider", "step": "capture", "reason": "declined_by_provider"}
    await shop.say("payments", "record_failure", uid, order_uid=uid, **failed)
    await shop.say("payments", "record_void", uid, order_uid=uid, source="provider")
    assert shop.order(uid).status is OrderStatus.REJECTED and shop.asked(uid)[-1] == ("cancel", 1)
    assert shop.stock_of("book") == (5, 2)
    await shop.answer(uid, "cancelled")
    assert shop.stock_of("book") == (5, 0)


async def test_what_is_no_response_goes_to_the_dead_letters(shop: Shop) -> None:
    uid = await packed(shop)
    await shop.answer(uid, "registered", tracking_number=None)
    await shop.answer(uid, "teleported")
    letters = shop.driver.read("dead_letters.v1")
    assert len(letters) == 2 and shop.booking(uid).version == 1
    assert b"tracking_number" in dict(letters[0].headers)["dead-letter-faults"]
    await shop.answer(uid, "picked_up")
    assert shop.order(uid).status is OrderStatus.SHIPPED
