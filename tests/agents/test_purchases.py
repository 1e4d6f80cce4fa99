"""Purchases: every command in every status, every refusal, and what is true of every history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from pytest import mark, param

from agents.purchases import decide, evolve
from schemas.base import unix_ms
from schemas.orders import OrderStatus
from schemas.outlets import Approval, ApprovalMode, NotedOutlet
from schemas.purchases import (
    MAX_LINE,
    AnyPurchaseCommand,
    OrderApproved,
    OrderPaid,
    PaymentLost,
    PaymentSettled,
    Purchase,
    PurchaseChanged,
    PurchaseCommand,
    PurchaseCommandRefused,
    PurchaseEnded,
    PurchaseEvent,
    PurchaseRefusal,
    ReplacementRefused,
    ReplacementReserved,
    ReturnReceived,
    ShipmentDelivered,
    ShipmentSettled,
)
from schemas.purchases.lifecycle import ANY_STATUS, DEADLINES, LEGAL, REPORTS

UID, AT = "order-1", "2026-11-21T12:00:00.000Z"
COMMANDS: TypeAdapter[AnyPurchaseCommand] = TypeAdapter(PurchaseCommand)

PART = [{"line": 1, "quantity": 1}]
PLACE: dict[str, Any] = {
    "type": "place_cart",
    "user_id": "buyer",
    "lines": [{"item_id": "book", "quantity": 2}, {"item_id": "pen", "quantity": 1}],
    "payment": {"method": "account"},
    "terms": {"approve_after_ms": None},
}
PRICED = {"currency": "INR", "outlet_id": "o1", "name": "thing"}
RESERVED: list[dict[str, Any]] = [
    {"type": "record_reservation", "line": 1, "quantity": 2, "price_minor": 100, **PRICED},
    {"type": "record_reservation", "line": 2, "quantity": 1, "price_minor": 10, **PRICED},
]
PAY: dict[str, Any] = {"type": "record_payment", "amount_minor": 210}
APPROVE: dict[str, Any] = {"type": "approve_order"}
SETTLE: dict[str, Any] = {"type": "settle_payment", "amount_minor": 210}
SHIP: dict[str, Any] = {"type": "ship_order", "shipment_id": "s1"}
DELIVER: dict[str, Any] = {"type": "deliver_shipment", "shipment_id": "s1"}
RETURN: dict[str, Any] = {"type": "request_return", "return_id": "r1", "parts": PART, "reason": "torn"}
OPEN: dict[str, Any] = {"type": "approve_return", "return_id": "r1"}
APPROVED: list[dict[str, Any]] = [PLACE, *RESERVED, PAY, APPROVE, SETTLE]
DELIVERED: list[dict[str, Any]] = [*APPROVED, SHIP, DELIVER]

#: How an order comes to stand where it stands.
PASTS: dict[OrderStatus, list[dict[str, Any]]] = {
    OrderStatus.PLACED: [PLACE],
    OrderStatus.AWAITING_PAYMENT: [PLACE, *RESERVED],
    OrderStatus.PAID: [PLACE, *RESERVED, PAY],
    OrderStatus.APPROVED: APPROVED,
    OrderStatus.PACKED: [*APPROVED, {"type": "pack_order"}],
    OrderStatus.SHIPPED: [*APPROVED, SHIP],
    OrderStatus.OUT_FOR_DELIVERY: [*APPROVED, SHIP, {"type": "send_out", "shipment_id": "s1"}],
    OrderStatus.DELIVERED: DELIVERED,
    OrderStatus.COMPLETED: [*DELIVERED, {"type": "complete_order"}],
    OrderStatus.RETURN_REQUESTED: [*DELIVERED, RETURN],
    OrderStatus.RETURNED: [*APPROVED, SHIP, {"type": "return_shipment", "shipment_id": "s1"}],
    OrderStatus.CANCELLED: [*APPROVED, {"type": "cancel_purchase", "reason": "no"}],
    OrderStatus.REJECTED: [PLACE, *RESERVED, {"type": "record_payment_failure", "reason": "insufficient_funds"}],
    OrderStatus.EXPIRED: [PLACE, *RESERVED, {"type": "expire_order"}],
}
#: One of each command that no more than the status speaks against.
SENSIBLE: dict[str, dict[str, Any]] = {
    "record_reservation": RESERVED[0],
    "record_shortage": {"type": "record_shortage", "line": 1, "reason": "out_of_stock"},
    "record_payment": PAY,
    "record_payment_failure": {"type": "record_payment_failure", "reason": "declined"},
    "settle_payment": SETTLE,
    "settle_refund": {"type": "settle_refund", "refund_id": "x", "amount_minor": 1},
    "record_number": {"type": "record_number", "order_number": "INV/2026/000001"},
    "expire_order": {"type": "expire_order"},
    "approve_order": APPROVE,
    "reject_order": {"type": "reject_order", "reason": "closed"},
    "pack_order": {"type": "pack_order", "carrier": {}},
    "request_shipment": {"type": "request_shipment", "shipment_id": "c1", "parts": PART, "carrier": {}},
    "withdraw_shipment": {"type": "withdraw_shipment", "shipment_id": "c0", "reason": "too dear"},
    "record_tracking": {"type": "record_tracking", "shipment_id": "c0", "tracking_number": "T-1"},
    "note_carrier": {"type": "note_carrier", "shipment_id": "c0", "reason": "failed: nobody home"},
    "settle_shipment": {"type": "settle_shipment", "shipment_id": "c0", "outcome": "cancelled", "reason": "cancelled"},
    "ship_order": {"type": "ship_order", "shipment_id": "s2"},
    "send_out": {"type": "send_out", "shipment_id": "s1"},
    "deliver_shipment": DELIVER,
    "return_shipment": {"type": "return_shipment", "shipment_id": "s1"},
    "complete_order": {"type": "complete_order"},
    "cancel_purchase": {"type": "cancel_purchase", "reason": "no"},
    "request_return": {"type": "request_return", "return_id": "r2", "parts": PART, "reason": "torn"},
    "approve_return": {"type": "approve_return", "return_id": "r1"},
    "refuse_return": {"type": "refuse_return", "return_id": "r1", "reason": "worn"},
    "receive_return": {"type": "receive_return", "return_id": "r1"},
}
#: A carrier is asked to fetch line 2: of no other order can it say something.
ASK: dict[str, Any] = {
    "type": "request_shipment",
    "shipment_id": "c0",
    "parts": [{"line": 2, "quantity": 1}],
    "carrier": {},
}
WITH_CARRIER: dict[OrderStatus, list[dict[str, Any]]] = {
    OrderStatus.APPROVED: [*APPROVED, ASK],
    OrderStatus.PACKED: [*APPROVED, ASK, {"type": "pack_order"}],
    OrderStatus.SHIPPED: [*APPROVED, ASK, SHIP],
    OrderStatus.OUT_FOR_DELIVERY: [*APPROVED, ASK, SHIP, {"type": "send_out", "shipment_id": "s1"}],
    OrderStatus.CANCELLED: [*APPROVED, ASK, {"type": "cancel_purchase", "reason": "no"}],
}
OF_CARRIERS = {"withdraw_shipment", "record_tracking", "settle_shipment"}
BY_CARRIER: dict[str, Any] = {"type": "ship_order", "shipment_id": "c0", "carrier": True}
CANCELLED: dict[str, Any] = SENSIBLE["settle_shipment"]
#: Both items came back for the same again: lines 3 and 4 wait for the stock; and another book is promised to come back.
EXCHANGE: list[dict[str, Any]] = [
    *DELIVERED,
    {**RETURN, "parts": [*PART, {"line": 2, "quantity": 1}], "exchange": True},
    {**RETURN, "return_id": "r2"},
    OPEN,
    {"type": "receive_return", "return_id": "r1"},
]
AGAIN: dict[str, Any] = {"type": "record_reservation", "line": 3, "quantity": 1, "price_minor": 999, **PRICED}
NONE_LEFT: dict[str, Any] = {"type": "record_shortage", "line": 3, "reason": "out_of_stock"}
SENT: list[dict[str, Any]] = [
    *EXCHANGE,
    {**AGAIN, "line": 4},
    {"type": "ship_order", "shipment_id": "s2"},
    {"type": "send_out", "shipment_id": "s2"},
]
EXCHANGED: dict[OrderStatus, list[dict[str, Any]]] = {
    OrderStatus.RETURN_REQUESTED: EXCHANGE,
    OrderStatus.SHIPPED: [*EXCHANGE, {**AGAIN, "line": 4}],
    OrderStatus.OUT_FOR_DELIVERY: SENT,
}
#: What may be said of an order part of which is exchanged.
OF_EXCHANGES: dict[str, dict[str, Any]] = {
    "record_reservation": AGAIN,
    "record_shortage": NONE_LEFT,
    "approve_return": {"type": "approve_return", "return_id": "r2"},
    "refuse_return": {"type": "refuse_return", "return_id": "r2", "reason": "worn"},
    "receive_return": {"type": "receive_return", "return_id": "r2"},
}
#: Gone, and the money that was asked for has not come yet: of nothing else can it be lost.
UNPAID: dict[OrderStatus, list[dict[str, Any]]] = {
    status: [said for said in past if said is not SETTLE] for status, past in PASTS.items() if SHIP in past
}
#: Legal, and refused for another reason: all has left already, the return has another state, there was no approval.
NOT_BY_STATUS = {
    ("request_shipment", OrderStatus.SHIPPED),
    ("request_shipment", OrderStatus.OUT_FOR_DELIVERY),
    ("ship_order", OrderStatus.SHIPPED),
    ("ship_order", OrderStatus.OUT_FOR_DELIVERY),
    ("send_out", OrderStatus.OUT_FOR_DELIVERY),
    ("record_number", OrderStatus.REJECTED),  # before it was approved
}


def command(said: dict[str, Any], id: str) -> AnyPurchaseCommand:
    return COMMANDS.validate_python({**said, "command_id": id, "order_uid": UID})


def played(said: Sequence[dict[str, Any]]) -> Purchase:
    purchase: Purchase | None = None
    for number, each in enumerate(said):
        for event in decide(purchase, command(each, f"c{number}"), AT):
            purchase = evolve(purchase, event)
    assert purchase is not None
    return purchase


def outcome(past: Sequence[dict[str, Any]], said: dict[str, Any]) -> tuple[tuple[PurchaseEvent, ...], Purchase]:
    purchase = played(past)
    events = decide(purchase, command(said, "now"), AT)
    for event in events:
        after = evolve(purchase, event)
        assert after is not None
        assert after.version == event.version and (after is purchase) != isinstance(event, PurchaseChanged)
        assert not isinstance(event, PurchaseChanged) or event.status is after.status
        purchase = after
    return events, purchase


def test_there_is_a_past_for_every_status_and_a_word_for_every_command() -> None:
    assert {status: played(past).status for status, past in PASTS.items()} == {status: status for status in OrderStatus}
    types = {each.model_fields["type"].default for each in get_args(AnyPurchaseCommand)} - {"place_cart"}
    assert types == set(SENSIBLE) == set(LEGAL) | ANY_STATUS


@mark.parametrize("status", list(OrderStatus))
@mark.parametrize("kind", sorted(SENSIBLE))
def test_every_move_legal_or_not(kind: str, status: OrderStatus) -> None:
    past, said = WITH_CARRIER.get(status, PASTS[status]) if kind in OF_CARRIERS else PASTS[status], SENSIBLE[kind]
    if kind in OF_EXCHANGES and status in EXCHANGED:
        past, said = EXCHANGED[status], OF_EXCHANGES[kind]
        past = [*past, {**OPEN, "return_id": "r2"}] if kind == "receive_return" else past
    past = UNPAID.get(status, past) if kind == "record_payment_failure" else past
    events, after = outcome(past, said)
    legal = kind in ANY_STATUS or status in LEGAL[kind]
    refusals = [event.reason for event in events if isinstance(event, PurchaseCommandRefused)]
    if not legal:
        assert after.status is status
        assert refusals == ([] if kind in REPORTS | DEADLINES else [PurchaseRefusal.NOT_IN_THIS_STATUS])
    elif kind in OF_CARRIERS and status not in WITH_CARRIER:
        assert refusals == [PurchaseRefusal.NO_SUCH_SHIPMENT]
    elif (kind, status) in NOT_BY_STATUS or (kind == "cancel_purchase" and status is OrderStatus.SHIPPED):
        assert refusals
    else:
        assert events and not refusals
        assert kind in ANY_STATUS or after.status in LEGAL[kind][status]


@mark.parametrize(
    ("past", "said", "reason"),
    [
        param([PLACE], {**PLACE, "split": True}, PurchaseRefusal.EXISTS_WITH_DIFFERENT_CONTENT, id="another cart"),
        param(APPROVED, {**SHIP, "parts": [{"line": 3, "quantity": 1}]}, PurchaseRefusal.NO_SUCH_LINE, id="line"),
        param(APPROVED, {**SHIP, "parts": [*PART, *PART, *PART]}, PurchaseRefusal.MORE_THAN_THERE_IS, id="in sum"),
        param(APPROVED, {**SHIP, "parts": []}, PurchaseRefusal.NOTHING_TO_SHIP, id="nothing"),
        param([*APPROVED, SHIP], {**SHIP, "shipment_id": "s2"}, PurchaseRefusal.NOTHING_TO_SHIP, id="all has left"),
        param([*APPROVED, {**SHIP, "parts": PART}], SHIP, PurchaseRefusal.SHIPMENT_EXISTS, id="shipment exists"),
        param([*APPROVED, SHIP], {**DELIVER, "shipment_id": "s9"}, PurchaseRefusal.NO_SUCH_SHIPMENT, id="shipment"),
        param(
            [*APPROVED, {**SHIP, "parts": PART}, DELIVER],
            DELIVER,
            PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY,
            id="delivered twice",
        ),
        param([*APPROVED, ASK], ASK, PurchaseRefusal.SHIPMENT_EXISTS, id="asked already"),
        param(
            [*APPROVED, ASK],
            {**ASK, "shipment_id": "c1"},
            PurchaseRefusal.MORE_THAN_THERE_IS,
            id="a carrier may come for it any moment",
        ),
        param([*APPROVED, SHIP], {**ASK, "parts": None}, PurchaseRefusal.NOTHING_TO_SHIP, id="nothing to fetch"),
        param([*APPROVED, ASK], {**SHIP, "shipment_id": "c0"}, PurchaseRefusal.SHIPMENT_EXISTS, id="the carrier's"),
        param(
            [*APPROVED, ASK, SHIP],
            {**DELIVER, "shipment_id": "c0"},
            PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY,
            id="delivered before it was fetched",
        ),
        param(
            [*APPROVED, ASK, SENSIBLE["withdraw_shipment"]],
            SENSIBLE["withdraw_shipment"],
            PurchaseRefusal.NOT_WITH_THE_CARRIER,
            id="withdrawn twice",
        ),
        param(
            [*APPROVED, ASK],
            {**SENSIBLE["withdraw_shipment"], "shipment_id": "c9"},
            PurchaseRefusal.NO_SUCH_SHIPMENT,
            id="withdrawn, whatever it is",
        ),
        param(
            [*APPROVED, ASK],
            {"type": "cancel_purchase", "reason": "no", "parts": [{"line": 2, "quantity": 1}]},
            PurchaseRefusal.MORE_THAN_THERE_IS,
            id="a part that a carrier may have",
        ),
        param(
            [*APPROVED, ASK, {"type": "cancel_purchase", "reason": "no"}],
            BY_CARRIER,
            PurchaseRefusal.NOT_IN_THIS_STATUS,
            id="fetched, though cancelled",
        ),
        param(
            [*APPROVED, ASK, CANCELLED, {**SHIP, "parts": [{"line": 2, "quantity": 1}]}],
            BY_CARRIER,
            PurchaseRefusal.MORE_THAN_THERE_IS,
            id="fetched, and shipped otherwise",
        ),
        param([*APPROVED, SHIP], BY_CARRIER, PurchaseRefusal.NO_SUCH_SHIPMENT, id="fetched, and never asked for"),
        param(
            [*APPROVED, ASK, {**CANCELLED, "outcome": "lost"}],
            BY_CARRIER,
            PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY,
            id="fetched, and lost before",
        ),
        param([*DELIVERED, RETURN], RETURN, PurchaseRefusal.RETURN_EXISTS, id="return exists"),
        param(
            [*DELIVERED, RETURN],
            {**RETURN, "return_id": "r2", "parts": [{"line": 1, "quantity": 2}]},
            PurchaseRefusal.MORE_THAN_THERE_IS,
            id="one of the two is promised",
        ),
        param(
            [*DELIVERED, RETURN], {"type": "approve_return", "return_id": "x"}, PurchaseRefusal.NO_SUCH_RETURN, id="r"
        ),
        param(
            [*DELIVERED, RETURN], {"type": "receive_return", "return_id": "r1"}, PurchaseRefusal.RETURN_NOT_OPEN, id="o"
        ),
        param(
            [PLACE, *RESERVED],
            {"type": "cancel_purchase", "reason": "no", "parts": PART},
            PurchaseRefusal.NOT_IN_THIS_STATUS,
            id="a part of what is not paid",
        ),
    ],
)
def test_refusals(past: list[dict[str, Any]], said: dict[str, Any], reason: PurchaseRefusal) -> None:
    (event,), after = outcome(past, said)
    assert isinstance(event, PurchaseCommandRefused) and event.reason is reason
    assert after == played(past), "a refusal changes nothing"


def test_no_such_order() -> None:
    (event,) = decide(None, command(APPROVE, "now"), AT)
    assert isinstance(event, PurchaseCommandRefused) and event.reason is PurchaseRefusal.NO_SUCH_ORDER


NUMBER = SENSIBLE["record_number"]


def test_an_order_has_one_number() -> None:
    """Whatever came between the approval and the number; and never another."""
    for past in (APPROVED, DELIVERED, [*APPROVED, {"type": "cancel_purchase", "reason": "no"}]):
        (event,), after = outcome(past, NUMBER)
        assert (event.type, after.order_number) == ("order_numbered", "INV/2026/000001")
        assert outcome([*past, NUMBER], {**NUMBER, "order_number": "INV/2026/000002"})[0] == ()
    cancelled = [PLACE, *RESERVED, PAY, {"type": "cancel_purchase", "reason": "no"}]
    (event,), _ = outcome(cancelled, NUMBER)
    assert isinstance(event, PurchaseCommandRefused) and event.reason is PurchaseRefusal.NOT_IN_THIS_STATUS


FAILED = SENSIBLE["record_payment_failure"]
RECEIVED: list[dict[str, Any]] = [RETURN, OPEN, {"type": "receive_return", "return_id": "r1"}]


@mark.parametrize("status", UNPAID)
def test_what_has_left_unpaid_says_so_once_and_stays_where_it_is(status: OrderStatus) -> None:
    (lost,), after = outcome(UNPAID[status], FAILED)
    assert isinstance(lost, PaymentLost) and (lost.status, lost.amount_minor, lost.reason) == (status, 210, "declined")
    assert after.lost_minor == (0 if status is OrderStatus.RETURNED else 210), "what is back is owed no more"
    assert outcome([*UNPAID[status], FAILED], FAILED)[0] == ()
    assert outcome(PASTS[status], FAILED)[0] == (), "it was captured"


@mark.parametrize(
    ("then", "lost_minor"),
    [
        param([DELIVER, *RECEIVED], 110, id="one book of a return"),
        param([DELIVER, {**RETURN, "exchange": True}, *RECEIVED[1:]], 210, id="one book exchanged, not known yet"),
        param([DELIVER, {**RETURN, "exchange": True}, *RECEIVED[1:], AGAIN], 210, id="one book exchanged"),
        param([DELIVER, {**RETURN, "exchange": True}, *RECEIVED[1:], NONE_LEFT], 110, id="there is none again"),
        param([{"type": "return_shipment", "shipment_id": "s1"}], 0, id="all returned to origin"),
    ],
)
def test_what_was_never_captured_is_not_refunded_and_late_money_completes_it(
    then: list[dict[str, Any]], lost_minor: int
) -> None:
    past = [*UNPAID[OrderStatus.SHIPPED], FAILED, *then]
    after = played(past)
    assert (after.captured_minor, after.refund_minor, after.lost_minor) == (0, 0, lost_minor)
    (settled,), after = outcome(past, SETTLE)
    assert isinstance(settled, PaymentSettled) and settled.refund_minor == 210 - lost_minor
    assert (after.captured_minor, after.refund_minor, after.lost_minor) == (210, 210 - lost_minor, 0)
    assert after.failed_minor == 0
    assert outcome([*past, SETTLE], FAILED)[0] == (), "nothing is waited for"


def test_of_money_that_comes_in_part_the_rest_is_lost() -> None:
    past = [*UNPAID[OrderStatus.DELIVERED], {**SETTLE, "amount_minor": 150}]
    (lost,), after = outcome(past, FAILED)
    assert isinstance(lost, PaymentLost) and (lost.amount_minor, after.lost_minor) == (60, 60)
    assert played([*past, FAILED, *RECEIVED]).refund_minor == 40, "what is kept costs 110"
    assert played([*past, FAILED, *RECEIVED]).lost_minor == 0
    (_, after) = outcome([*past, FAILED], {**SETTLE, "amount_minor": 20})
    assert after.lost_minor == 40


def test_cancelled_before_it_left_it_is_not_lost_but_was_asked_for() -> None:
    pen = {"type": "cancel_purchase", "reason": "no", "parts": [{"line": 2, "quantity": 1}]}
    past = [said for said in APPROVED if said is not SETTLE]
    (lost,), after = outcome([*past, pen, SHIP], FAILED)
    assert isinstance(lost, PaymentLost) and (lost.amount_minor, after.lost_minor) == (210, 200)
    assert outcome([*past, SHIP, FAILED], {**SETTLE, "amount_minor": 210})[1].lost_minor == 0


@mark.parametrize("method", ["cash_on_delivery", "prepaid"])
def test_nothing_is_lost_that_was_not_asked_for(method: str) -> None:
    """Cash is asked for once all has arrived, and what is paid elsewhere never."""
    past = [{**PLACE, "payment": {"method": method}}, *RESERVED, PAY, APPROVE, SHIP]
    assert outcome(past, FAILED)[0] == ()


BY_HAND, LATER = Approval(mode=ApprovalMode.BY_HAND), Approval(mode=ApprovalMode.AUTOMATIC, after_ms=5_000)
AT_ONCE = Approval(mode=ApprovalMode.AUTOMATIC)
AT_MS = unix_ms(AT)


@mark.parametrize(
    ("said", "cart_ms", "status", "approve_at_ms"),
    [
        param({}, None, OrderStatus.PAID, None, id="nothing said: as the cart came, by hand"),
        param({}, 0, OrderStatus.APPROVED, None, id="nothing said: as the cart came, at once"),
        param({"o1": BY_HAND}, 0, OrderStatus.PAID, None, id="by hand"),
        param({"o1": LATER}, 0, OrderStatus.PAID, AT_MS + 5_000, id="later"),
        param({"o1": AT_ONCE}, None, OrderStatus.APPROVED, None, id="at once"),
        param({"o1": None}, 700, OrderStatus.PAID, AT_MS + 700, id="taken back: as the cart came"),
        param({"o2": BY_HAND}, 0, OrderStatus.APPROVED, None, id="another outlet said it"),
    ],
)
def test_an_outlets_word_comes_before_the_carts(
    said: dict[str, Approval | None], cart_ms: int | None, status: OrderStatus, approve_at_ms: int | None
) -> None:
    outlets = {outlet: NotedOutlet(version=1, approval=approval) for outlet, approval in said.items()}
    past = played([{**PLACE, "terms": {"approve_after_ms": cart_ms}}, *RESERVED])
    events = decide(past, command(PAY, "now"), AT, outlets=outlets)
    assert events[-1].status is status  # type: ignore[union-attr]
    (paid,) = [event for event in events if isinstance(event, OrderPaid)]
    assert paid.approve_at_ms == approve_at_ms
    for event in events:
        if isinstance(event, OrderApproved):
            assert event.outlet_id == "o1"


def test_of_several_outlets_the_first_lines_one_speaks() -> None:
    there = [{**RESERVED[0], "outlet_id": "second"}, {**RESERVED[1], "outlet_id": "o1"}]
    for order in (there, there[::-1]):
        assert played([PLACE, *order]).outlet_id == "second"
    outlets = {"second": NotedOutlet(version=1, approval=BY_HAND)}
    (paid,) = decide(played([{**PLACE, "terms": {}}, *there]), command(PAY, "now"), AT, outlets=outlets)
    assert paid.type == "order_paid"


def test_answered_and_repeated_commands_say_nothing() -> None:
    assert decide(played(APPROVED), command(SHIP, "c"), AT, answered=True) == ()
    assert decide(played([PLACE]), command(PLACE, "another"), AT) == ()


@mark.parametrize(
    ("past", "said"),
    [
        param([*APPROVED, ASK, BY_CARRIER], BY_CARRIER, id="fetched"),
        param(DELIVERED, {**BY_CARRIER, "shipment_id": "s1"}, id="somebody else has said more"),
        param([*APPROVED, ASK, SENSIBLE["record_tracking"]], SENSIBLE["record_tracking"], id="the same number"),
        param([*APPROVED, ASK, CANCELLED], CANCELLED, id="settled"),
        param([*APPROVED, ASK, BY_CARRIER], CANCELLED, id="it travels: another will settle it"),
        param([*APPROVED, ASK, BY_CARRIER], {**CANCELLED, "outcome": "lost"}, id="nor is it lost"),
    ],
)
def test_a_carrier_that_says_nothing_new(past: list[dict[str, Any]], said: dict[str, Any]) -> None:
    assert outcome(past, said)[0] == ()


def test_an_exchange_moves_no_money_and_each_line_goes_its_own_way() -> None:
    """There is another book, and no pen: the pen is paid back."""
    (received,), after = outcome(EXCHANGE[:-1], EXCHANGE[-1])
    assert isinstance(received, ReturnReceived) and received.refund_minor == 0
    assert [(again.line, again.replaces, again.quantity) for again in received.replacements] == [(3, 1, 1), (4, 2, 1)]
    assert after.status is OrderStatus.RETURN_REQUESTED and [line.exchanging for line in after.lines] == [1, 1, 0, 0]
    (reserved,), after = outcome(EXCHANGE, AGAIN)
    assert isinstance(reserved, ReplacementReserved) and after.status is OrderStatus.SHIPPED
    assert (after.lines[0].exchanged, after.lines[2].reserved, after.lines[2].price_minor) == (1, 1, 100)
    (refused,), after = outcome([*EXCHANGE, AGAIN], {**NONE_LEFT, "line": 4})
    assert isinstance(refused, ReplacementRefused) and (refused.refund_minor, after.refund_minor) == (10, 10)
    assert after.lines[1].exchanging == after.lines[1].exchanged == 0 and after.lines[3].refused == "out_of_stock"
    assert outcome([*EXCHANGE, AGAIN], AGAIN)[0] == (), "its answer has come"


def test_the_time_for_returns_begins_again_with_what_was_exchanged() -> None:
    past = [*SENT[:-1], {**NONE_LEFT, "line": 3}, {"type": "complete_order"}]
    (delivered,), after = outcome(past, {**DELIVER, "shipment_id": "s2"})
    assert isinstance(delivered, ShipmentDelivered) and delivered.complete_at_ms is not None
    assert after.status is OrderStatus.RETURN_REQUESTED, "another return is open"
    refused = outcome([*past, {**DELIVER, "shipment_id": "s2"}], OF_EXCHANGES["refuse_return"])[1]
    assert refused.status is OrderStatus.DELIVERED


def test_an_order_has_no_more_than_so_many_lines() -> None:
    """An exchange of what was exchanged, again and again."""
    purchase = played(DELIVERED)
    count = 0
    while True:
        line, count = purchase.lines[0 if count == 0 else -1], count + 1
        names = {"return_id": f"x{count}"}
        asked = {"parts": [{"line": line.line, "quantity": 1}], "reason": "torn", "exchange": True, **names}
        again = {**AGAIN, "line": len(purchase.lines) + 1}
        ship = {"shipment_id": f"x{count}"}
        steps: list[dict[str, Any]] = [
            {"type": "request_return", **asked},
            {"type": "approve_return", **names},
            {"type": "receive_return", **names},
            again,
            {"type": "ship_order", **ship},
            {"type": "deliver_shipment", **ship},
        ]
        for number, said in enumerate(steps):
            for event in decide(purchase, command(said, f"c{count}-{number}"), AT):
                if isinstance(event, PurchaseCommandRefused):
                    assert event.reason is PurchaseRefusal.TOO_MANY_LINES and len(purchase.lines) == MAX_LINE
                    assert decide(purchase, command({**said, "exchange": False}, "money"), AT) != ()
                    return
                after = evolve(purchase, event)
                assert after is not None
                purchase = after


def test_what_a_carrier_may_have_is_freed_by_its_word_only() -> None:
    cancel = {"type": "cancel_purchase", "reason": "no"}
    (ended,), _ = outcome([*APPROVED, ASK, {**ASK, "shipment_id": "c1", "parts": PART}], cancel)
    assert isinstance(ended, PurchaseEnded) and ended.withdrawn == ["c0", "c1"]
    assert [(freed.line, freed.quantity) for freed in ended.freed] == [(1, 1)]
    (settled,) = outcome([*APPROVED, ASK, cancel], CANCELLED)[0]
    assert isinstance(settled, ShipmentSettled) and settled.ended == "cancelled" and settled.reserved
    assert outcome([*APPROVED, ASK, cancel, CANCELLED], {**CANCELLED, "outcome": "lost"})[0] != ()


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_said_nothing_is_lost(seed: int) -> None:
    """Random commands in any order: quantities and sums stay within each other, and what is owed is what was taken."""
    chance = Random(seed)
    purchase = played(
        [{**PLACE, "split": chance.random() < 0.5, "terms": {"approve_after_ms": chance.choice([None, 0])}}]
    )
    seen: Counter[str] = Counter()
    for number in range(60):
        carrier = [ASK, BY_CARRIER, {**DELIVER, "shipment_id": "c0"}, {**CANCELLED, "outcome": "lost"}]
        said = dict(chance.choice([*RESERVED, *SENSIBLE.values(), SHIP, RETURN, {**SHIP, "parts": PART}, *carrier]))
        if said["type"] in ("expire_order", "reject_order", "record_shortage", "record_payment_failure"):
            said = said if chance.random() < 0.1 else dict(RESERVED[number % 2])
        if said["type"] in ("request_return", "approve_return", "receive_return"):
            said |= {"return_id": chance.choice(["r1", "r2"])}
            said |= {"exchange": chance.random() < 0.7} if said["type"] == "request_return" else {}
        if waiting := [line for line in purchase.lines if line.replaces and not line.answered]:
            said = chance.choice([said, {**chance.choice([AGAIN, NONE_LEFT]), "line": waiting[0].line}])
        if said["type"] == "settle_payment":
            if purchase.capture_minor == 0 or purchase.captured_minor:
                continue
            said["amount_minor"] = purchase.capture_minor
        if said["type"] in ("cancel_purchase",) and purchase.paid and chance.random() < 0.8:
            said["parts"] = PART
        before = purchase
        for event in decide(purchase, command(said, f"c{number}"), AT):
            assert event.version == purchase.version + isinstance(event, PurchaseChanged), event
            after = evolve(purchase, event)
            assert after is not None
            purchase = after
            seen[event.type] += 1
        _balanced(before, purchase)
    assert seen


def _balanced(before: Purchase, purchase: Purchase) -> None:
    promised = Counter[int]()
    for shipment in purchase.promised:
        promised.update({part.line: part.quantity for part in shipment.parts})
    for line in purchase.lines:
        assert line.shipped + promised[line.line] <= line.wanted, "nobody else can have what a carrier may have"
        assert 0 <= line.delivered <= line.shipped <= line.wanted <= line.reserved <= line.asked
        assert line.returned <= line.shipped and line.cancelled >= 0
        again = [each for each in purchase.lines if each.replaces == line.line]
        assert line.exchanged == sum(each.reserved for each in again)
        assert line.exchanging == sum(each.asked for each in again if not each.answered)
        assert line.exchanging + line.exchanged <= line.returned
    owed = 0
    if purchase.ended is None and purchase.total_minor is not None:
        owed = sum((line.wanted - line.returned + line.exchanging) * (line.price_minor or 0) for line in purchase.lines)
    if purchase.captured_minor:
        assert purchase.captured_minor - purchase.refund_minor == owed, "what is kept is what is owed"
    assert purchase.refund_minor <= purchase.captured_minor
    assert 0 <= purchase.lost_minor <= purchase.failed_minor <= purchase.capture_minor
    if purchase.failed_minor:
        assert purchase.captured_minor - purchase.refund_minor + purchase.lost_minor == owed, "what is kept is unpaid"
