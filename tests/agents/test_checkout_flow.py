"""Carts through the real task loop: stock, money and the order's life, joined by nothing but events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from schemas.orders import OrderStatus
from schemas.purchases import EndReason, Terms, order_uid_of
from streams.driver import Driver
from tests.agents.domain import make_app
from tests.agents.shop import Shop
from web.openapi.purchase_models import PurchaseView
from web.orders.shapes import present

PAID = ["cart_placed", "line_reserved", "order_validated", "order_paid", "order_approved"]
#: Stock's outlet has numbered it before the account has paid.
CART = {"user_id": "buyer", "lines": [{"item_id": "book", "quantity": 2}], "payment": {"method": "account"}}
AND_THEN = ["order_numbered", "payment_settled"]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        yield Shop(driver, domains)


async def test_a_cart_is_reserved_paid_and_approved(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2))
    assert shop.happened(uid) == [*PAID, *AND_THEN]
    order = shop.order(uid)
    assert (order.status, order.total_minor, order.captured_minor) == (OrderStatus.APPROVED, 200, 200)
    assert shop.money() == (800, 0) and shop.stock_of("book") == (5, 2)


DOCUMENT = orjson.loads((Path(__file__).parents[1] / "data" / "order.json").read_bytes())


async def test_a_document_cannot_take_the_place_of_what_was_bought(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2))
    before, told = shop.order(uid), shop.timeline(uid)
    for _ in range(2):
        shop.driver.produce("orders", key=uid, value=orjson.dumps({**DOCUMENT, "order_uid": uid}))
    await shop.driver.run()
    with shop.reading("orders", uid):
        assert shop.domains.orders.order(uid) is None
    assert shop.order(uid) == before
    assert shop.timeline(uid) == [*told, *[("order_refused", "order_uid_taken")] * 2]


async def test_a_cart_cannot_take_the_place_of_a_document(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    id = f"c{shop.count + 1}"
    uid = order_uid_of(id)
    shop.driver.produce("orders", key=uid, value=orjson.dumps({**DOCUMENT, "order_uid": uid}))
    await shop.driver.run()
    assert await shop.buy(("book", 2)) == uid
    with shop.reading("orders", uid):
        assert shop.domains.orders.order(uid) is not None and shop.domains.purchases.purchase(uid) is None
    assert shop.timeline(uid) == [("order_placed", None), ("purchase_command_refused", "order_uid_taken")]
    assert shop.stock_of("book") == (5, 0)
    await shop.say("purchases", "place_cart", uid, **{**CART, "order_uid": uid, "command_id": id})
    assert len(shop.timeline(uid)) == 2, "answered once"


async def test_one_line_that_is_out_of_stock_frees_the_others(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.stock("pen", 1, 10)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2), ("pen", 2))
    order = shop.order(uid)
    assert (order.status, order.ended) == (OrderStatus.REJECTED, EndReason.OUT_OF_STOCK)
    assert shop.stock_of("book") == (5, 0) and shop.stock_of("pen") == (1, 0) and shop.money() == (1000, 0)


async def test_split_takes_what_is_there(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.stock("pen", 1, 10)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2), ("pen", 3), ("none", 1), split=True)
    order = shop.order(uid)
    assert (order.status, order.total_minor) == (OrderStatus.APPROVED, 210)
    assert [line.refused for line in order.lines] == [None, None, "no_such_item"]
    assert shop.stock_of("pen") == (1, 1) and shop.money() == (790, 0)


async def test_without_an_account_or_money_nothing_stays_reserved(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    poor = await shop.buy(("book", 1))
    assert (shop.order(poor).status, shop.order(poor).end_detail) == (OrderStatus.REJECTED, "no_such_account")
    await shop.fund(99)
    poor = await shop.buy(("book", 1))
    assert (shop.order(poor).ended, shop.order(poor).end_detail) == (EndReason.PAYMENT_FAILED, "insufficient_funds")
    assert shop.stock_of("book") == (5, 0) and shop.money() == (99, 0)


async def test_a_cancelled_order_gives_everything_back(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2))
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    order = shop.order(uid)
    assert (order.status, order.refund_minor, order.refunded_minor) == (OrderStatus.CANCELLED, 200, 200)
    assert shop.stock_of("book") == (5, 0) and shop.money() == (1000, 0)
    await shop.lead(uid, "ship_order", shipment_id="s1")
    assert shop.happened(uid)[-1] == "ship_order: not_in_this_status"


async def test_cancelled_while_the_money_is_on_its_way(shop: Shop) -> None:
    """All at once: the cancellation stands in the log before anybody has answered."""
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 2), terms=Terms(approve_after_ms=None).model_dump())
    assert shop.order(uid).status is OrderStatus.PAID and shop.money() == (1000, 200)
    await shop.lead(uid, "cancel_purchase", reason="changed my mind")
    assert shop.money() == (1000, 0) and shop.stock_of("book") == (5, 0)


async def test_nobody_pays_in_time(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 2), method="provider", terms=Terms(pay_within_ms=60_000).model_dump())
    assert shop.order(uid).status is OrderStatus.AWAITING_PAYMENT and shop.stock_of("book") == (5, 2)
    await shop.driver.advance(60_001)
    order = shop.order(uid)
    assert (order.status, order.ended) == (OrderStatus.EXPIRED, EndReason.NOT_PAID_IN_TIME)
    assert shop.stock_of("book") == (5, 0)


async def test_the_seller_decides_or_time_does(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    by_hand = Terms(approve_after_ms=None).model_dump()
    rejected = await shop.buy(("book", 1), terms=by_hand)
    with shop.reading("orders", rejected):
        assert [uid for _, uid in shop.domains.orders.newest("buyer").rows] == [rejected]
        assert [order.order_uid for _, order in shop.domains.purchases.waiting_for("o1")] == [rejected]
    await shop.lead(rejected, "reject_order", reason="closed")
    assert shop.order(rejected).status is OrderStatus.REJECTED and shop.money() == (1000, 0)
    with shop.reading("orders", rejected):
        assert not list(shop.domains.purchases.waiting_for("o1"))
    later = await shop.buy(("book", 1), terms=Terms(approve_after_ms=5_000).model_dump())
    assert shop.order(later).status is OrderStatus.PAID
    await shop.driver.advance(5_001)
    assert shop.order(later).status is OrderStatus.APPROVED and shop.money() == (900, 0)


async def test_shipped_in_two_parts_delivered_and_complete(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 3))
    await shop.lead(uid, "pack_order")
    await shop.lead(uid, "ship_order", shipment_id="s1", parts=[{"line": 1, "quantity": 1}])
    await shop.lead(uid, "ship_order", shipment_id="s2")
    assert shop.stock_of("book") == (2, 0)
    await shop.lead(uid, "send_out", shipment_id="s1")
    assert shop.order(uid).status is OrderStatus.OUT_FOR_DELIVERY
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    assert shop.order(uid).status is OrderStatus.SHIPPED
    await shop.lead(uid, "deliver_shipment", shipment_id="s2")
    assert shop.order(uid).status is OrderStatus.DELIVERED
    await shop.driver.advance(Terms().return_within_ms + 1)
    assert shop.order(uid).status is OrderStatus.COMPLETED and shop.money() == (700, 0)


async def test_a_return_refunds_and_fills_the_shelf(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 3))
    await shop.lead(uid, "ship_order", shipment_id="s1")
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    await shop.lead(uid, "request_return", return_id="r1", parts=[{"line": 1, "quantity": 4}], reason="torn")
    assert shop.happened(uid)[-1] == "request_return: more_than_there_is"
    await shop.lead(uid, "request_return", return_id="r1", parts=[{"line": 1, "quantity": 1}], reason="torn")
    assert shop.order(uid).status is OrderStatus.RETURN_REQUESTED
    await shop.lead(uid, "receive_return", return_id="r1")
    assert shop.happened(uid)[-1] == "receive_return: return_not_open"
    await shop.lead(uid, "approve_return", return_id="r1")
    await shop.lead(uid, "receive_return", return_id="r1")
    order = shop.order(uid)
    assert (order.status, order.refunded_minor) == (OrderStatus.DELIVERED, 100)
    assert shop.money() == (800, 0) and shop.stock_of("book") == (3, 0)
    await shop.lead(uid, "request_return", return_id="r2", parts=[{"line": 1, "quantity": 2}], reason="torn")
    await shop.lead(uid, "approve_return", return_id="r2")
    await shop.lead(uid, "receive_return", return_id="r2")
    assert shop.order(uid).status is OrderStatus.RETURNED and shop.money() == (1000, 0)


async def test_returned_to_origin_refunds_what_was_paid(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    uid = await shop.buy(("book", 3))
    await shop.lead(uid, "ship_order", shipment_id="s1")
    await shop.lead(uid, "return_shipment", shipment_id="s1")
    assert shop.order(uid).status is OrderStatus.RETURNED
    assert shop.money() == (1000, 0) and shop.stock_of("book") == (5, 0)


async def test_cash_is_taken_when_the_last_shipment_has_arrived(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 3), method="cash_on_delivery")
    assert shop.order(uid).status is OrderStatus.APPROVED and shop.order(uid).captured_minor == 0
    await shop.lead(uid, "ship_order", shipment_id="s1", parts=[{"line": 1, "quantity": 1}])
    await shop.lead(uid, "ship_order", shipment_id="s2")
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    assert shop.order(uid).captured_minor == 0
    await shop.lead(uid, "return_shipment", shipment_id="s2")
    assert (shop.order(uid).status, shop.order(uid).captured_minor) == (OrderStatus.DELIVERED, 100)


async def test_a_part_is_cancelled_before_and_after_the_money_came(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.fund(1000)
    parts = [{"line": 1, "quantity": 1}]
    before = await shop.buy(("book", 2), terms=Terms(approve_after_ms=None).model_dump())
    await shop.lead(before, "cancel_purchase", reason="one is enough", parts=parts)
    await shop.lead(before, "approve_order")
    assert shop.money() == (900, 0) and shop.stock_of("book") == (5, 1)
    after = await shop.buy(("book", 2))
    await shop.lead(after, "cancel_purchase", reason="one is enough", parts=parts)
    order = shop.order(after)
    assert (order.status, order.total_minor, order.refunded_minor) == (OrderStatus.APPROVED, 100, 100)
    assert shop.money() == (800, 0) and shop.stock_of("book") == (5, 2)


async def test_currencies_are_not_mixed(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    await shop.stock("sake", 5, 100, "JPY")
    uid = await shop.buy(("book", 1), ("sake", 1))
    assert shop.order(uid).ended is EndReason.MIXED_CURRENCIES
    assert shop.stock_of("book") == (5, 0) and shop.stock_of("sake") == (5, 0)


async def test_what_costs_nothing_needs_no_payment(shop: Shop) -> None:
    await shop.stock("flyer", 5, 0)
    uid = await shop.buy(("flyer", 1))
    assert shop.order(uid).status is OrderStatus.APPROVED


@pytest.mark.parametrize("end", ["approve_order", "reject_order"])
async def test_all_that_cost_something_is_cancelled_before_the_seller_speaks(shop: Shop, end: str) -> None:
    """Found by the histories: what is owed is nothing then, and yet money is set aside."""
    await shop.stock("book", 5, 100)
    await shop.stock("flyer", 5, 0)
    await shop.fund(1000)
    uid = await shop.buy(("book", 1), ("flyer", 1), terms=Terms(approve_after_ms=None).model_dump())
    await shop.lead(uid, "cancel_purchase", reason="only the flyer", parts=[{"line": 1, "quantity": 1}])
    assert shop.money() == (1000, 100)
    await shop.lead(uid, end, **({"reason": "closed"} if end == "reject_order" else {}))
    assert shop.money() == (1000, 0)
    assert shop.order(uid).status is (OrderStatus.APPROVED if end == "approve_order" else OrderStatus.REJECTED)


async def test_cash_is_taken_when_the_rest_is_cancelled(shop: Shop) -> None:
    """Found by the histories: what was outstanding will not come, so that what has arrived was all."""
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 3), method="cash_on_delivery")
    await shop.lead(uid, "ship_order", shipment_id="s1", parts=[{"line": 1, "quantity": 1}])
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    await shop.lead(uid, "cancel_purchase", reason="one is enough", parts=[{"line": 1, "quantity": 2}])
    assert (shop.order(uid).status, shop.order(uid).captured_minor) == (OrderStatus.DELIVERED, 100)
    await shop.driver.advance(Terms().return_within_ms + 1)
    assert shop.order(uid).status is OrderStatus.COMPLETED


async def test_what_the_provider_takes_above_what_was_asked_goes_back_once(shop: Shop) -> None:
    """It is authorised for two, one is cancelled, and the provider takes the money for both."""
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 2), method="provider", terms=Terms(approve_after_ms=None).model_dump())
    told = {"order_uid": uid, "source": "callback"}
    await shop.say("payments", "record_authorisation", uid, amount_minor=200, **told)
    await shop.lead(uid, "cancel_purchase", reason="one too many", parts=[{"line": 1, "quantity": 1}])
    await shop.lead(uid, "approve_order")
    await shop.say("payments", "record_capture", uid, amount_minor=200, **told)
    with shop.reading("orders", uid):
        refunds = [refund for _, refund in shop.domains.payments.refunds_of(uid)]
    assert [(refund.refund_id, refund.amount_minor) for refund in refunds] == [("excess", 100)]
    await shop.say("payments", "record_refund", uid, refund_id="excess", amount_minor=100, **told)
    order = shop.order(uid)
    assert (order.captured_minor, order.refund_minor, order.refunded_minor) == (100, 0, 0)


async def test_goods_have_left_and_the_capture_fails_for_good(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 3), method="provider")
    told = {"order_uid": uid, "source": "callback"}
    await shop.say("payments", "record_authorisation", uid, amount_minor=300, **told)
    await shop.lead(uid, "ship_order", shipment_id="s1")
    await shop.say("payments", "record_failure", uid, step="capture", reason="declined", **told)
    assert shop.order(uid).lost_minor == 0, "the void has not come about: it may have been captured all the same"
    for _ in range(2):
        await shop.say("payments", "record_void", uid, **told)
    order = shop.order(uid)
    assert (order.status, order.lost_minor, order.ended) == (OrderStatus.SHIPPED, 300, None)
    assert shop.timeline(uid)[-1] == ("payment_lost", "capture_failed")
    assert PurchaseView.model_validate_json(present(order)).payment.lost_minor == 300, "the seller sees it"
    assert shop.happened(uid).count("payment_lost") == 1
    await shop.lead(uid, "deliver_shipment", shipment_id="s1")
    await shop.lead(uid, "request_return", return_id="r1", parts=[{"line": 1, "quantity": 1}], reason="torn")
    await shop.lead(uid, "approve_return", return_id="r1")
    await shop.lead(uid, "receive_return", return_id="r1")
    order = shop.order(uid)
    assert (order.status, order.refund_minor, order.lost_minor) == (OrderStatus.DELIVERED, 0, 200)
    await shop.say("payments", "record_capture", uid, amount_minor=300, **told)
    with shop.reading("orders", uid):
        (refund,) = [refund for _, refund in shop.domains.payments.refunds_of(uid)]
    order = shop.order(uid)
    assert (order.lost_minor, order.failed_minor, order.captured_minor) == (0, 0, 300), "it came after all"
    assert (refund.refund_id, refund.amount_minor) == (order_refund(shop, uid), 100), "what came back is owed no more"


async def test_a_capture_after_its_void_goes_back_where_the_order_has_ended(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 3), method="provider")
    told = {"order_uid": uid, "source": "callback"}
    await shop.say("payments", "record_authorisation", uid, amount_minor=300, **told)
    await shop.say("payments", "record_failure", uid, step="capture", reason="declined", **told)
    await shop.say("payments", "record_void", uid, **told)
    assert shop.order(uid).ended is EndReason.PAYMENT_FAILED
    await shop.say("payments", "record_capture", uid, amount_minor=300, **told)
    await shop.say("payments", "record_refund", uid, refund_id=order_refund(shop, uid), amount_minor=300, **told)
    order = shop.order(uid)
    assert (order.captured_minor, order.refund_minor, order.refunded_minor, order.lost_minor) == (300, 300, 300, 0)
    assert order.status is OrderStatus.REJECTED and shop.stock_of("book") == (5, 0)


def order_refund(shop: Shop, uid: str) -> str:
    """The refund that the order asked for last."""
    told = [orjson.loads(record.value or b"") for record in shop.driver.read("purchases.events.v1")]
    return [str(each["refund_id"]) for each in told if each["order_uid"] == uid and each.get("refund_minor")][-1]


async def test_money_that_comes_too_late_is_between_the_payment_and_the_provider(shop: Shop) -> None:
    await shop.stock("book", 5, 100)
    uid = await shop.buy(("book", 2), method="provider", terms=Terms(pay_within_ms=60_000).model_dump())
    told = {"order_uid": uid, "source": "callback"}
    await shop.driver.advance(60_001)
    await shop.say("payments", "record_capture", uid, amount_minor=200, **told)
    await shop.say("payments", "record_refund", uid, refund_id="late", amount_minor=200, **told)
    with shop.reading("orders", uid):
        payment = shop.domains.payments.payment(uid)
    assert payment is not None and (payment.captured_minor, payment.refunded_minor) == (200, 200)
    order = shop.order(uid)
    assert (order.captured_minor, order.refunded_minor) == (0, 0), "the order never had it"
