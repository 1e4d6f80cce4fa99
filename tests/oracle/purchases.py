"""purchases.commands.v1 and its events -> each order's moves, quantities and sums; what was refused, and rightly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.bought import Told
from tests.oracle.verdict import Kind, Verdict

CHECK = "bought orders"
REFUSED = "purchase_command_refused"
ENDED = ("rejected", "cancelled", "expired")
#: Where an order may stand when nothing more is said: it has ended, or waits for somebody; no deadline ends its wait.
FINAL = (*ENDED, "completed", "returned")
WAITING = ("paid", "approved", "packed", "shipped", "out_for_delivery", "return_requested")

_BEFORE_SHIPMENT = ("placed", "awaiting_payment", "paid", "approved", "packed")
_UNDER_WAY = ("shipped", "out_for_delivery")
_ARRIVED = ("delivered", "return_requested", "completed", "returned")


def _stays(*statuses: str) -> dict[str, tuple[str, ...]]:
    return {status: (status,) for status in statuses}


#: event -> status before it -> statuses that it may leave the order in; "": there is no order.
MOVES: dict[str, dict[str, tuple[str, ...]]] = {
    "cart_placed": {"": ("placed",)},
    "line_reserved": _stays("placed"),
    "line_refused": _stays("placed"),
    "order_validated": {"placed": ("awaiting_payment",)},
    "order_paid": {"awaiting_payment": ("paid",)},
    "order_approved": {"paid": ("approved",)},
    "order_numbered": _stays("approved", "packed", *_UNDER_WAY, *_ARRIVED, "rejected", "cancelled"),
    "payment_settled": _stays(*_BEFORE_SHIPMENT, *_UNDER_WAY, *_ARRIVED, *ENDED),
    "payment_lost": _stays(*_UNDER_WAY, *_ARRIVED),
    "refund_settled": _stays(*_BEFORE_SHIPMENT, *_UNDER_WAY, *_ARRIVED, *ENDED),
    "order_packed": {"approved": ("packed",)},
    "order_shipped": {"approved": ("shipped",), "packed": ("shipped",), **_stays(*_UNDER_WAY)},
    "shipment_sent_out": dict.fromkeys(_UNDER_WAY, ("out_for_delivery",)),
    "shipment_delivered": dict.fromkeys(_UNDER_WAY, (*_UNDER_WAY, "delivered")),
    "shipment_returned": dict.fromkeys(_UNDER_WAY, (*_UNDER_WAY, "delivered", "returned")),
    "order_completed": {"delivered": ("completed",), **_stays("return_requested")},
    "purchase_ended": dict.fromkeys(_BEFORE_SHIPMENT, ENDED),
    "parts_cancelled": {**_stays("paid", "approved", "packed"), "shipped": ("shipped", "delivered", "returned")},
    "return_requested": dict.fromkeys(("delivered", "return_requested"), ("return_requested",)),
    "return_approved": _stays("return_requested"),
    "return_refused": {"return_requested": ("return_requested", "delivered", "completed")},
    "return_received": {"return_requested": ("return_requested", "delivered", "completed", "returned")},
}
#: command -> statuses in which it may be carried out.
ALLOWED: dict[str, tuple[str, ...]] = {
    "approve_order": ("paid",),
    "reject_order": ("paid",),
    "pack_order": ("approved",),
    "ship_order": ("approved", "packed", *_UNDER_WAY),
    "send_out": _UNDER_WAY,
    "deliver_shipment": _UNDER_WAY,
    "return_shipment": _UNDER_WAY,
    "cancel_purchase": (*_BEFORE_SHIPMENT, "shipped"),
    "request_return": ("delivered", "return_requested"),
    "approve_return": ("return_requested",),
    "refuse_return": ("return_requested",),
    "receive_return": ("return_requested",),
}


@dataclass(slots=True)
class Line:
    item_id: str
    asked: int
    price: int | None = None
    refused: bool = False
    reserved: int = 0
    cancelled: int = 0
    shipped: int = 0
    delivered: int = 0
    returned: int = 0

    @property
    def wanted(self) -> int:
        return self.reserved - self.cancelled


@dataclass(slots=True)
class Order:
    """A bought order after the events so far."""

    order_uid: str
    user_id: str
    cart: tuple[Any, ...]
    method: str
    split: bool
    lines: list[Line]
    status: str = "placed"
    version: int = 1
    currency: str | None = None
    total: int | None = None
    authorised: int = 0
    asked: int = 0  # to be captured
    captured: int = 0
    asked_back: int = 0
    refunded: int = 0
    failed: int = 0  # of what was asked: it will not come
    approved: bool = False
    approves_itself: bool = False
    number: str | None = None
    shipments: dict[str, tuple[str, list[tuple[int, int]]]] = field(default_factory=dict)
    returns: dict[str, tuple[str, list[tuple[int, int]]]] = field(default_factory=dict)

    @property
    def owed(self) -> int:
        """The price of what was and will be delivered, and is not back."""
        if self.status in ENDED:
            return 0
        return sum((line.wanted - line.returned) * (line.price or 0) for line in self.lines)

    @property
    def lost(self) -> int:
        """What of the failed capture is owed for goods that are kept."""
        return min(self.failed, max(0, self.owed - self.captured + self.asked_back))

    @property
    def unfinished(self) -> str | None:
        """What is still to happen, whatever anybody says."""
        if self.status not in (*FINAL, *WAITING) or (self.status == "paid" and self.approves_itself):
            return f"it is {self.status}"
        if self.asked > self.captured + self.failed and self.status not in ENDED:
            return f"{self.asked} is being captured"
        return f"{self.asked_back - self.refunded} is being refunded" if self.asked_back > self.refunded else None


@dataclass
class Bought:
    """All orders that were bought here, by their events."""

    orders: dict[str, Order] = field(default_factory=dict)

    def judge(self, home: list[Told], verdict: Verdict) -> None:
        for told in home:
            order = self.orders.get(told.said["order_uid"])
            if not told.events and not told.again and (why := _must_speak(order, told.said)):
                verdict.add(Kind.LOST, CHECK, told, f"it led to nothing: {why}")
            for event in told.events:
                self._take(event, told, verdict)
        for uid, order in self.orders.items():
            verdict.looked(CHECK)
            for number, line in enumerate(order.lines, 1):
                if not 0 <= line.returned <= line.shipped <= line.wanted <= line.reserved <= line.asked:
                    verdict.add(Kind.WRONG, "quantities", f"{uid}, line {number}", repr(line))

    def _take(self, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
        uid, kind = event["order_uid"], event["type"]
        order = self.orders.get(uid)
        if kind == REFUSED:
            _judge_refusal(order, event, told, verdict)
            return
        before = order.status if order else ""
        if kind in MOVES and event["status"] not in MOVES[kind].get(before, ()):
            verdict.add(
                Kind.WRONG, "moves of orders", told, f"{kind} leads from {before or 'nothing'} to {event['status']}"
            )
            return
        if order is None:
            order = self.orders[uid] = _placed(event)
            verdict.equal(CHECK, told, _cart(told.said), order.cart)
        else:
            order.version += 1
        verdict.equal("versions of orders", told, order.version, event["version"])
        order.status = event["status"]
        _facts(order, event, told, verdict)


def _cart(said: Mapping[str, Any]) -> tuple[Any, ...]:
    lines = tuple((line["item_id"], line["quantity"]) for line in said["lines"])
    payment = (said["payment"]["method"], said["payment"].get("instrument"))
    address = tuple(sorted((said.get("address") or {}).items()))
    return said["user_id"], lines, payment, address, said.get("split", False)


def _placed(event: Mapping[str, Any]) -> Order:
    lines = [Line(line["item_id"], line["quantity"]) for line in event["lines"]]
    method = event["payment"]["method"]
    return Order(event["order_uid"], event["user_id"], _cart(event), method, event["split"], lines)


def _facts(order: Order, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
    """What an event changes, held to what can be."""

    def fits(expected: object, found: object, what: str) -> None:
        verdict.equal("sums of orders", f"{told}, {what}", expected, found)

    cash = order.method in ("cash_on_delivery", "prepaid")
    match event["type"]:
        case "line_reserved":
            line = order.lines[event["line"] - 1]
            line.reserved, line.price = event["quantity"], event["price_minor"]
            order.currency = event["currency"]
        case "line_refused":
            order.lines[event["line"] - 1].refused = True
        case "order_validated":
            order.total = order.owed
            fits(order.owed, event["total_minor"], "the total")
            if any(not line.refused and not line.reserved for line in order.lines):
                verdict.add(Kind.WRONG, CHECK, told, "validated before every line had its answer")
        case "order_paid":
            order.authorised, order.approves_itself = event["amount_minor"], event["approve_at_ms"] is not None
            fits(order.total, event["amount_minor"], "what is paid")
        case "order_approved":
            order.approved = True
            order.asked = event["capture_minor"] or 0
            fits(0 if cash else order.owed, order.asked, "what is captured")
        case "order_numbered":
            if order.number is not None or not order.approved:
                verdict.add(Kind.WRONG, CHECK, told, f"{event['order_number']} is not its first number, or too early")
            order.number = event["order_number"]
        case "payment_lost":
            fits(order.asked - order.captured - order.failed, event["amount_minor"], "what did not come")
            order.failed += event["amount_minor"]
            if not event["amount_minor"] or told.said["type"] != "record_payment_failure":
                verdict.add(Kind.WRONG, CHECK, told, "nothing was lost")
        case "payment_settled":
            order.captured += event["amount_minor"]
            order.failed = max(0, order.failed - event["amount_minor"])
            order.asked_back += event["refund_minor"]
            fits(max(0, order.captured - order.owed - order.asked_back + event["refund_minor"]),
                 event["refund_minor"], "what goes back")  # fmt: skip
        case "refund_settled":
            order.refunded += event["amount_minor"]
        case "purchase_ended":
            fits(order.captured - order.asked_back, event["refund_minor"], "what goes back")
            order.asked_back += event["refund_minor"]
        case _:
            _goods(order, event, fits)


def _goods(order: Order, event: dict[str, Any], fits: Any) -> None:
    """Where the pieces are after an event."""
    match event["type"]:
        case "order_shipped":
            parts = _parts(event["parts"])
            order.shipments[event["shipment_id"]] = ("shipped", parts)
            _add(order, parts, "shipped")
        case "shipment_sent_out":
            order.shipments[event["shipment_id"]] = ("out", order.shipments[event["shipment_id"]][1])
        case "shipment_delivered" | "shipment_returned":
            parts = order.shipments[event["shipment_id"]][1]
            order.shipments[event["shipment_id"]] = ("ended", parts)
            _add(order, parts, "delivered" if event["type"] == "shipment_delivered" else "returned")
            _last(order, event, fits)
        case "parts_cancelled":
            parts = [(freed["line"], freed["quantity"]) for freed in event["freed"]]
            _add(order, parts, "cancelled")
            fits(sum(_price(order, part) for part in parts), event["amount_minor"], "what the part costs")
            order.total = (order.total or 0) - event["amount_minor"]
            _last(order, event, fits)
        case "return_requested":
            order.returns[event["return_id"]] = ("requested", _parts(event["parts"]))
        case "return_approved" | "return_refused" | "return_received":
            parts = order.returns[event["return_id"]][1]
            order.returns[event["return_id"]] = (event["type"].removeprefix("return_"), parts)
            if event["type"] == "return_received":
                _add(order, parts, "returned")
                _last(order, event, fits)


def _last(order: Order, event: Mapping[str, Any], fits: Any) -> None:
    """What goes back for goods that are not kept, and what is paid in cash once all has come to its end."""
    excess = max(0, order.captured - order.asked_back - order.owed)
    fits(excess, event.get("refund_minor", excess), "what goes back")
    order.asked_back += event.get("refund_minor", 0)
    if event.get("capture_minor"):
        fits(order.owed, event["capture_minor"], "what is paid on delivery")
        order.asked += event["capture_minor"]


def _parts(parts: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    return [(part["line"], part["quantity"]) for part in parts]


def _add(order: Order, parts: Iterable[tuple[int, int]], what: str) -> None:
    for number, quantity in parts:
        line = order.lines[number - 1]
        setattr(line, what, getattr(line, what) + quantity)


def _price(order: Order, part: tuple[int, int]) -> int:
    return (order.lines[part[0] - 1].price or 0) * part[1]


def _judge_refusal(order: Order | None, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
    verdict.looked("refusals of orders")
    verdict.equal("versions of orders", told, order.version if order else 0, event["version"])
    if not _rightly(order, told.said, event["reason"]):
        verdict.add(Kind.WRONG, "refusals of orders", told, f"{event['reason']} of {order}")


def _rightly(order: Order | None, said: Mapping[str, Any], reason: str) -> bool:
    """Whether a command could be refused so."""
    kind = said["type"]
    if order is None or reason == "no_such_order":
        return order is None and reason == "no_such_order"
    if reason == "not_in_this_status":
        of_parts = kind == "cancel_purchase" and (order.shipments or said.get("parts"))
        return order.status not in ALLOWED.get(kind, ()) or bool(of_parts)
    shipment, back = order.shipments.get(said.get("shipment_id", "")), order.returns.get(said.get("return_id", ""))
    parts = _parts(said.get("parts") or ())
    there_is = _with_buyer(order) if kind == "request_return" else _not_shipped(order)
    match reason:
        case "exists_with_different_content":
            return kind == "place_cart" and _cart(said) != order.cart
        case "no_such_line":
            return any(number > len(order.lines) for number, _ in parts) or said.get("line", 0) > len(order.lines)
        case "no_such_shipment":
            return shipment is None
        case "shipment_exists":
            return shipment is not None
        case "shipment_not_under_way":
            return shipment is not None and shipment[0] in ("ended", *(("out",) if kind == "send_out" else ()))
        case "no_such_return":
            return back is None
        case "return_exists":
            return back is not None
        case "return_not_open":
            return back is not None and back[0] != ("approved" if kind == "receive_return" else "requested")
        case "more_than_there_is":
            asked: Counter[int] = Counter()
            for number, quantity in parts:
                asked[number] += quantity
            return any(quantity > there_is[number] for number, quantity in asked.items())
        case "nothing_to_ship":
            return not any(there_is.values()) or said.get("parts") == []
    return False


def _not_shipped(order: Order) -> dict[int, int]:
    return {number: line.wanted - line.shipped for number, line in enumerate(order.lines, 1)}


def _with_buyer(order: Order) -> dict[int, int]:
    there_is = {number: line.delivered for number, line in enumerate(order.lines, 1)}
    for state, parts in order.returns.values():
        for number, quantity in parts if state != "refused" else ():
            there_is[number] -= quantity
    return there_is


def _must_speak(order: Order | None, said: Mapping[str, Any]) -> str | None:
    """Why a command that led to nothing had something to say; None: it had not."""
    kind = said["type"]
    if order is None:
        return "there is no such order"
    match kind:
        case "place_cart":
            return None if _cart(said) == order.cart else "it is another cart"
        case "record_reservation" | "record_shortage":
            line = order.lines[said["line"] - 1] if said["line"] <= len(order.lines) else None
            waits = line is not None and not line.refused and not line.reserved
            return "the line waits for it" if order.status == "placed" and waits else None
        case "record_payment":
            return "the order waits for it" if order.status == "awaiting_payment" else None
        case "record_payment_failure":
            if order.status in (*_UNDER_WAY, *_ARRIVED):
                return "money was waited for" if order.asked > order.captured + order.failed else None
            let_go = order.approved and not order.owed
            open_yet = order.status in ("awaiting_payment", "paid", "approved", "packed")
            return f"it is {order.status}" if open_yet and not let_go else None
        case "expire_order":
            return f"it is {order.status}" if order.status in ("placed", "awaiting_payment") else None
        case "complete_order":
            return f"it is {order.status}" if order.status == "delivered" else None
        case _:
            return "it is always answered"
