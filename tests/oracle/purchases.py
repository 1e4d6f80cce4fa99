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
_TO_LEAVE = ("approved", "packed", *_UNDER_WAY)
#: What a shipment may be that a carrier was asked to fetch and has not: it may have it any moment.
PROMISED = ("requested", "withdrawn")
MOST_LINES = 200


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
    "shipment_requested": _stays(*_TO_LEAVE),
    "shipment_withdrawn": _stays(*_TO_LEAVE),
    "tracking_recorded": _stays("approved", "packed", *_UNDER_WAY, *_ARRIVED, *ENDED),
    "shipment_settled": _stays("approved", "packed", *_UNDER_WAY, *_ARRIVED, *ENDED),
    "order_shipped": {"approved": ("shipped",), "packed": ("shipped",), **_stays(*_UNDER_WAY)},
    "shipment_sent_out": dict.fromkeys(_UNDER_WAY, ("out_for_delivery",)),
    "shipment_delivered": dict.fromkeys(_UNDER_WAY, (*_UNDER_WAY, "delivered", "return_requested")),
    "shipment_returned": dict.fromkeys(_UNDER_WAY, (*_UNDER_WAY, "delivered", "return_requested", "returned")),
    "order_completed": {"delivered": ("completed",), **_stays("return_requested")},
    "purchase_ended": dict.fromkeys(_BEFORE_SHIPMENT, ENDED),
    "parts_cancelled": {
        **_stays("paid", "approved", "packed"), "shipped": ("shipped", "delivered", "return_requested", "returned")
    },
    "return_requested": dict.fromkeys(("delivered", "return_requested"), ("return_requested",)),
    # What is sent in place of one return is on its way while the next one is talked about.
    "return_approved": _stays("return_requested", *_UNDER_WAY),
    "return_refused": {"return_requested": ("return_requested", "delivered", "completed"), **_stays(*_UNDER_WAY)},
    "return_received": {
        "return_requested": ("return_requested", "delivered", "completed", "returned"), **_stays(*_UNDER_WAY)
    },
    "replacement_reserved": {"return_requested": ("shipped",), **_stays(*_UNDER_WAY)},
    "replacement_refused": {
        "return_requested": ("return_requested", "delivered", "completed", "returned"), **_stays(*_UNDER_WAY)
    },
}  # fmt: skip
#: command -> statuses in which it may be carried out.
ALLOWED: dict[str, tuple[str, ...]] = {
    "approve_order": ("paid",),
    "reject_order": ("paid",),
    "pack_order": ("approved",),
    "ship_order": _TO_LEAVE,
    "request_shipment": _TO_LEAVE,
    "withdraw_shipment": _TO_LEAVE,
    "send_out": _UNDER_WAY,
    "deliver_shipment": _UNDER_WAY,
    "return_shipment": _UNDER_WAY,
    "cancel_purchase": (*_BEFORE_SHIPMENT, "shipped"),
    "request_return": ("delivered", "return_requested"),
    "approve_return": ("return_requested", *_UNDER_WAY),
    "refuse_return": ("return_requested", *_UNDER_WAY),
    "receive_return": ("return_requested", *_UNDER_WAY),
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
    exchanging: int = 0  # returned, and nobody knows yet whether there is another one
    exchanged: int = 0
    replaces: int | None = None

    @property
    def wanted(self) -> int:
        return self.reserved - self.cancelled


@dataclass(slots=True)
class Shipment:
    """Quantities that travel together: requested, withdrawn, shipped, out, delivered, returned, cancelled or lost."""

    state: str
    parts: list[tuple[int, int]]
    carried: bool = False  # a carrier was asked for it
    tracking: str | None = None


@dataclass(slots=True)
class Back:
    """A return: requested, approved, refused or received."""

    state: str
    parts: list[tuple[int, int]]
    exchange: bool = False


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
    shipments: dict[str, Shipment] = field(default_factory=dict)
    returns: dict[str, Back] = field(default_factory=dict)
    lost_reserved: Counter[str] = field(default_factory=Counter)  # item -> gone, though nobody had shipped it

    @property
    def owed(self) -> int:
        """The price of what was and will be delivered, and is not back."""
        if self.status in ENDED:
            return 0
        return sum((line.wanted - line.returned + line.exchanging) * (line.price or 0) for line in self.lines)

    @property
    def has_left(self) -> bool:
        return any(line.shipped for line in self.lines)

    @property
    def promised(self) -> dict[str, Shipment]:
        return {id: each for id, each in self.shipments.items() if each.state in PROMISED}

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
        if self.promised:
            return f"shipments {sorted(self.promised)} wait for their carrier"
        if any(line.exchanging for line in self.lines):
            return "an exchange waits for what the stock says"
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
        if kind == "carrier_noted":
            verdict.equal("versions of orders", told, order.version if order else 0, event["version"])
            return
        before = order.status if order else ""
        if kind not in MOVES or event["status"] not in MOVES[kind].get(before, ()):
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
            fits(sorted(order.promised), sorted(event.get("withdrawn", [])), "what a carrier is not to fetch")
            for shipment in order.promised.values():
                shipment.state = "withdrawn"
        case _:
            _goods(order, event, fits)


def _goods(order: Order, event: dict[str, Any], fits: Any) -> None:
    """Where the pieces are after an event."""
    kind = event["type"]
    if "shipment_id" in event:
        _shipment(order, event, fits)
    elif kind == "parts_cancelled":
        parts = [(freed["line"], freed["quantity"]) for freed in event["freed"]]
        _add(order, parts, "cancelled")
        fits(sum(_price(order, part) for part in parts), event["amount_minor"], "what the part costs")
        order.total = (order.total or 0) - event["amount_minor"]
        _last(order, event, fits)
    elif kind.startswith("return_"):
        _return(order, event, fits)
    elif kind.startswith("replacement_"):
        _replacement(order, event, fits)


def _shipment(order: Order, event: dict[str, Any], fits: Any) -> None:
    """A carrier fetches what it was asked for, once; nothing travels that is not to be delivered."""
    kind, id = event["type"], event["shipment_id"]
    shipment, parts = order.shipments.get(id), _parts(event.get("parts", ()))
    if kind == "shipment_requested" or (kind == "order_shipped" and shipment is None):
        fits(None, shipment, f"shipment {id}")
        fits([], _too_many(order, parts), "more than there is to ship")
        state = "requested" if kind == "shipment_requested" else "shipped"
        order.shipments[id] = Shipment(state, parts, carried=state == "requested")
        _add(order, parts if state == "shipped" else (), "shipped")
        return
    assert shipment is not None, "what was refused leads to nothing"
    if "parts" in event:
        fits(shipment.parts, parts, f"what is in shipment {id}")
    match kind:
        case "shipment_withdrawn":
            fits("requested", shipment.state, f"shipment {id}")
            shipment.state = "withdrawn"
        case "tracking_recorded":
            shipment.tracking = event["tracking_number"]
        case "shipment_settled":
            _settle(order, shipment, event, fits)
        case "order_shipped":
            fits(True, shipment.state in (*PROMISED, "cancelled"), f"shipment {id}, {shipment.state}, is fetched")
            free = [] if shipment.state in PROMISED else _too_many(order, shipment.parts)
            fits([], free, "more than there is to ship")
            shipment.state = "shipped"
            _add(order, shipment.parts, "shipped")
        case "shipment_sent_out":
            shipment.state = "out"
        case "shipment_delivered" | "shipment_returned":
            fits(True, shipment.state in ("shipped", "out"), f"shipment {id}, {shipment.state}, is at its end")
            shipment.state = kind.removeprefix("shipment_")
            _add(order, shipment.parts, shipment.state)
            _last(order, event, fits)


def _settle(order: Order, shipment: Shipment, event: dict[str, Any], fits: Any) -> None:
    """What never left, or is back, is free or waits; what is gone is gone, and was set aside or not."""
    reserved, lost = shipment.state in PROMISED, event["outcome"] == "lost"
    fits(True, reserved or (lost and shipment.state == "cancelled"), f"{shipment.state}, and settled")
    fits((reserved, order.status in ENDED), (event["reserved"], event["ended"] is not None), "what becomes of it")
    if lost and reserved:
        order.lost_reserved.update({order.lines[line - 1].item_id: quantity for line, quantity in shipment.parts})
    shipment.state = event["outcome"]


def _too_many(order: Order, parts: Iterable[tuple[int, int]]) -> list[int]:
    """Lines of which there is not so much that is paid, not cancelled, not away and not promised to a carrier."""
    asked, there_is = _sums(parts), _not_shipped(order)
    return [line for line, quantity in asked.items() if quantity > there_is.get(line, 0)]


def _return(order: Order, event: dict[str, Any], fits: Any) -> None:
    kind, id = event["type"], event["return_id"]
    if kind == "return_requested":
        order.returns[id] = Back("requested", _parts(event["parts"]), event.get("exchange", False))
        return
    back = order.returns[id]
    back.state = kind.removeprefix("return_")
    if kind != "return_received":
        return
    _add(order, back.parts, "returned")
    expected: list[dict[str, Any]] = [
        {"line": number, "replaces": line, "item_id": order.lines[line - 1].item_id, "quantity": quantity}
        for number, (line, quantity) in enumerate(_sums(back.parts).items(), len(order.lines) + 1)
        if back.exchange
    ]
    fits(expected, event.get("replacements", []), "what takes its place")
    for each in expected:
        before = order.lines[each["replaces"] - 1]
        before.exchanging += each["quantity"]
        order.lines.append(Line(before.item_id, each["quantity"], before.price, replaces=each["replaces"]))
    _last(order, event, fits)


def _replacement(order: Order, event: dict[str, Any], fits: Any) -> None:
    """The same is sent again, or its price goes back."""
    line = order.lines[event["line"] - 1]
    before = order.lines[event["replaces"] - 1]
    fits((event["replaces"], event["quantity"]), (line.replaces, line.asked), "what is replaced")
    before.exchanging -= event["quantity"]
    if event["type"] == "replacement_reserved":
        line.reserved = event["quantity"]
        before.exchanged += event["quantity"]
    else:
        line.refused = True
    _last(order, event, fits)


def _last(order: Order, event: Mapping[str, Any], fits: Any) -> None:
    """What goes back for goods that are not kept, and what is paid in cash once all has come to its end."""
    excess = max(0, order.captured - order.asked_back - order.owed)
    fits(excess, event.get("refund_minor", excess), "what goes back")
    order.asked_back += event.get("refund_minor", 0)
    if event.get("capture_minor"):
        fits(order.owed, event["capture_minor"], "what is paid on delivery")
        order.asked += event["capture_minor"]


def _sums(parts: Iterable[tuple[int, int]]) -> Counter[int]:
    asked: Counter[int] = Counter()
    for number, quantity in parts:
        asked[number] += quantity
    return asked


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
        of_parts = kind == "cancel_purchase" and (order.has_left or said.get("parts"))
        return order.status not in ALLOWED.get(kind, ()) or bool(of_parts)
    parts = _parts(said.get("parts") or ())
    if kind in ("request_return", "approve_return", "refuse_return", "receive_return"):
        return _rightly_kept(order, said, parts, reason)
    shipment = order.shipments.get(said.get("shipment_id", ""))
    if kind == "ship_order" and said.get("carrier"):
        return _rightly_not_fetched(order, shipment, reason)
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
            states = ("shipped",) if kind == "send_out" else ("shipped", "out")
            return shipment is not None and shipment.state not in states
        case "not_with_the_carrier":
            return shipment is not None and shipment.state != "requested"
        case "more_than_there_is":
            return bool(_too_many(order, parts))
        case "nothing_to_ship":
            return not any(_not_shipped(order).values()) or said.get("parts") == []
    return False


def _rightly_not_fetched(order: Order, shipment: Shipment | None, reason: str) -> bool:
    """Whether a carrier could be told so that it has fetched what nobody wants."""
    match reason:
        case "no_such_shipment":
            return shipment is None
        case "shipment_not_under_way":
            return shipment is not None and shipment.state == "lost"
        case "more_than_there_is":
            return shipment is not None and shipment.state == "cancelled" and bool(_too_many(order, shipment.parts))
    return False


def _rightly_kept(order: Order, said: Mapping[str, Any], parts: list[tuple[int, int]], reason: str) -> bool:
    """Whether a command about a return could be refused so."""
    back, kind = order.returns.get(said["return_id"]), said["type"]
    match reason:
        case "no_such_line":
            return any(number > len(order.lines) for number, _ in parts)
        case "no_such_return":
            return back is None
        case "return_exists":
            return back is not None
        case "return_not_open":
            return back is not None and back.state != ("approved" if kind == "receive_return" else "requested")
        case "more_than_there_is":
            there_is = _with_buyer(order)
            return any(quantity > there_is[number] for number, quantity in _sums(parts).items())
        case "too_many_lines":
            open_ones = (each for each in order.returns.values() if each.state in ("requested", "approved"))
            promised = sum(len(_sums(each.parts)) for each in open_ones if each.exchange)
            return bool(said.get("exchange")) and len(order.lines) + promised + len(_sums(parts)) > MOST_LINES
    return False


def _not_shipped(order: Order) -> dict[int, int]:
    """What of each line is to be delivered, has not left, and is promised to no carrier."""
    there_is = {number: line.wanted - line.shipped for number, line in enumerate(order.lines, 1)}
    for shipment in order.promised.values():
        for number, quantity in shipment.parts:
            there_is[number] -= quantity
    return there_is


def _with_buyer(order: Order) -> dict[int, int]:
    there_is = {number: line.delivered for number, line in enumerate(order.lines, 1)}
    for each in order.returns.values():
        for number, quantity in each.parts if each.state != "refused" else ():
            there_is[number] -= quantity
    return there_is


def _must_speak(order: Order | None, said: Mapping[str, Any]) -> str | None:
    """Why a command that led to nothing had something to say; None: it had not."""
    kind = said["type"]
    if order is None:
        return "there is no such order"
    shipment = order.shipments.get(said.get("shipment_id", ""))
    match kind:
        case "place_cart":
            return None if _cart(said) == order.cart else "it is another cart"
        case "record_reservation" | "record_shortage":
            line = order.lines[said["line"] - 1] if said["line"] <= len(order.lines) else None
            waits = line is not None and not line.refused and not line.reserved
            open_yet = order.status == "placed" or (line is not None and line.replaces is not None)
            return "the line waits for it" if open_yet and waits else None
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
        case "ship_order" if said.get("carrier"):
            on_its_way = shipment is not None and shipment.state in ("shipped", "out", "delivered", "returned")
            return None if on_its_way else "nobody knew that it was fetched"
        case "record_tracking":
            return None if shipment is not None and shipment.tracking == said["tracking_number"] else "a new number"
        case "settle_shipment":
            states = (*PROMISED, "cancelled") if said["outcome"] == "lost" else PROMISED
            return "it waits for it" if shipment is None or shipment.state in states else None
        case "complete_order":
            return f"it is {order.status}" if order.status == "delivered" else None
        case _:
            return "it is always answered"
