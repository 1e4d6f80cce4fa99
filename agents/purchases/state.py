"""a purchase, an event -> the purchase after it; its status follows from its facts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

from schemas.orders import OrderStatus
from schemas.purchases import (
    CarrierNoted,
    CartPlaced,
    EndReason,
    LineRefused,
    LineReserved,
    LineState,
    OrderApproved,
    OrderCompleted,
    OrderNumbered,
    OrderPacked,
    OrderPaid,
    OrderShipped,
    OrderValidated,
    Part,
    PartsCancelled,
    PaymentLost,
    PaymentSettled,
    Purchase,
    PurchaseChanged,
    PurchaseCommandRefused,
    PurchaseEnded,
    PurchaseEvent,
    RefundSettled,
    Replacement,
    ReplacementRefused,
    ReplacementReserved,
    Return,
    ReturnApproved,
    ReturnReceived,
    ReturnRefused,
    ReturnRequested,
    ReturnState,
    Shipment,
    ShipmentDelivered,
    ShipmentRequested,
    ShipmentReturned,
    ShipmentSentOut,
    ShipmentSettled,
    ShipmentState,
    ShipmentWithdrawn,
    TrackingRecorded,
)

_ENDED = {EndReason.CANCELLED: OrderStatus.CANCELLED, EndReason.NOT_PAID_IN_TIME: OrderStatus.EXPIRED}
_OPEN_RETURNS = (ReturnState.REQUESTED, ReturnState.APPROVED)
UNDER_WAY = (ShipmentState.SHIPPED, ShipmentState.OUT_FOR_DELIVERY)


def status_of(purchase: Purchase) -> OrderStatus:
    """Where an order stands, from what has happened to its lines and its money."""
    if purchase.ended is not None:
        return _ENDED.get(purchase.ended, OrderStatus.REJECTED)
    if purchase.total_minor is None:
        return OrderStatus.PLACED
    if not purchase.paid:
        return OrderStatus.AWAITING_PAYMENT
    if not purchase.approved:
        return OrderStatus.PAID
    if not purchase.has_left:
        return OrderStatus.PACKED if purchase.packed else OrderStatus.APPROVED
    return _travelling(purchase) if not arrived(purchase) else _arrived(purchase)


def arrived(purchase: Purchase) -> bool:
    """Whether all that is to be delivered has left, and every shipment has come to its end."""
    left = all(line.shipped == line.wanted for line in purchase.lines)
    return left and not any(shipment.state in UNDER_WAY for shipment in purchase.shipments)


def _travelling(purchase: Purchase) -> OrderStatus:
    out = any(shipment.state is ShipmentState.OUT_FOR_DELIVERY for shipment in purchase.shipments)
    return OrderStatus.OUT_FOR_DELIVERY if out else OrderStatus.SHIPPED


def _arrived(purchase: Purchase) -> OrderStatus:
    if any(line.exchanging for line in purchase.lines):
        return OrderStatus.RETURN_REQUESTED
    if all(line.returned == line.wanted for line in purchase.lines):
        return OrderStatus.RETURNED
    if any(each.state in _OPEN_RETURNS for each in purchase.returns):
        return OrderStatus.RETURN_REQUESTED
    return OrderStatus.COMPLETED if purchase.completed else OrderStatus.DELIVERED


def owed_minor(purchase: Purchase) -> int:
    """What the buyer has to pay for what was and will be delivered, and is not back."""
    if purchase.ended is not None:
        return 0
    kept = ((line.wanted - line.returned + line.exchanging) * (line.price_minor or 0) for line in purchase.lines)
    return sum(kept)


def excess_minor(purchase: Purchase, less_minor: int) -> int:
    """What is captured, was not asked back yet, and is owed no more when the buyer owes less by this much."""
    return max(0, purchase.captured_minor - purchase.refund_minor - owed_minor(purchase) + less_minor)


def _lost_minor(purchase: Purchase) -> int:
    """What has failed for good and is owed all the same; what comes back is owed no more."""
    return min(purchase.failed_minor, max(0, owed_minor(purchase) - purchase.captured_minor + purchase.refund_minor))


def evolve(purchase: Purchase | None, event: PurchaseEvent) -> Purchase | None:
    """The purchase after the event. Versions grow by one with each event that is no refusal."""
    if isinstance(event, CartPlaced):
        return _placed(event)
    if not isinstance(event, PurchaseCommandRefused | CarrierNoted):
        assert purchase is not None, "decide changes only what exists"
        return stamped(changed_by(purchase, event), event)
    if isinstance(event, PurchaseCommandRefused | CarrierNoted):
        return purchase
    assert_never(event)


def stamped(changed: Purchase, event: PurchaseChanged) -> Purchase:
    """The facts after an event with what every event changes: the version, the status and who did it last."""
    head = {"version": event.version, "updated_at": event.occurred_at, "updated_by": event.caused_by}
    return _with(changed, status=status_of(changed), lost_minor=_lost_minor(changed), **head)


def changed_by(purchase: Purchase, event: PurchaseChanged) -> Purchase:
    """The facts after the event; `stamped` adds the rest."""
    match event:
        case CartPlaced():
            return _placed(event)
        case LineReserved():
            line = {"name": event.name, "outlet_id": event.outlet_id, "price_minor": event.price_minor}
            return _with(_line(purchase, event.line, reserved=event.quantity, **line), currency=event.currency)
        case LineRefused():
            return _line(purchase, event.line, refused=event.reason)
        case OrderValidated():
            return _with(purchase, total_minor=event.total_minor)
        case OrderPaid():
            return _with(purchase, paid=True, paid_at=event.occurred_at, authorised_minor=event.amount_minor)
        case OrderApproved():
            return _with(purchase, approved=True, capture_minor=event.capture_minor or 0)
        case OrderNumbered():
            return _with(purchase, order_number=event.order_number)
        case OrderPacked():
            return _with(purchase, packed=True)
        case OrderCompleted():
            return _with(purchase, completed=True)
        case PurchaseEnded():
            refund = purchase.refund_minor + event.refund_minor
            for shipment_id in event.withdrawn:
                purchase = shipment_in(purchase, shipment_id, ShipmentState.WITHDRAWN)
            return _with(purchase, ended=event.reason, end_detail=event.detail, refund_minor=refund)
        case PartsCancelled():
            parts = [Part(line=each.line, quantity=each.quantity) for each in event.freed if each.quantity]
            less = (purchase.total_minor or 0) - event.amount_minor
            refund = purchase.refund_minor + event.refund_minor
            capture = purchase.capture_minor + (event.capture_minor or 0)
            after = add(purchase, parts, "cancelled")
            return _with(after, total_minor=less, refund_minor=refund, capture_minor=capture)
        case PaymentSettled() | PaymentLost() | RefundSettled():
            return _money(purchase, event)
        case ShipmentRequested() | ShipmentWithdrawn() | TrackingRecorded() | ShipmentSettled():
            return _handed_over(purchase, event)
        case OrderShipped() | ShipmentSentOut() | ShipmentDelivered() | ShipmentReturned():
            return _shipment(purchase, event)
        case ReturnRequested() | ReturnApproved() | ReturnRefused() | ReturnReceived():
            return _return(purchase, event)
        case ReplacementReserved() | ReplacementRefused():
            return _replaced(purchase, event)
    assert_never(event)


def _placed(event: CartPlaced) -> Purchase:
    lines = (
        LineState(line=number, item_id=line.item_id, asked=line.quantity) for number, line in enumerate(event.lines, 1)
    )
    return Purchase(
        order_uid=event.order_uid,
        version=event.version,
        status=OrderStatus.PLACED,
        user_id=event.user_id,
        lines=tuple(lines),
        payment=event.payment,
        address=event.address,
        split=event.split,
        terms=event.terms,
        placed_at=event.occurred_at,
        updated_at=event.occurred_at,
        updated_by=event.caused_by,
    )


def _money(purchase: Purchase, event: PaymentSettled | PaymentLost | RefundSettled) -> Purchase:
    match event:
        case PaymentSettled():
            return _with(
                purchase,
                captured_minor=purchase.captured_minor + event.amount_minor,
                refund_minor=purchase.refund_minor + event.refund_minor,
                failed_minor=max(0, purchase.failed_minor - event.amount_minor),
            )
        case PaymentLost():
            return _with(purchase, failed_minor=purchase.failed_minor + event.amount_minor)
        case RefundSettled():
            return _with(purchase, refunded_minor=purchase.refunded_minor + event.amount_minor)
    assert_never(event)


def _handed_over(
    purchase: Purchase, event: ShipmentRequested | ShipmentWithdrawn | TrackingRecorded | ShipmentSettled
) -> Purchase:
    match event:
        case ShipmentRequested():
            parts = tuple(Part(line=each.line, quantity=each.quantity) for each in event.parts)
            shipment = Shipment(shipment_id=event.shipment_id, parts=parts, state=ShipmentState.REQUESTED)
            return _with(purchase, shipments=(*purchase.shipments, shipment))
        case ShipmentWithdrawn():
            return shipment_in(purchase, event.shipment_id, ShipmentState.WITHDRAWN)
        case TrackingRecorded():
            return _shipment_with(purchase, event.shipment_id, tracking_number=event.tracking_number)
        case ShipmentSettled():
            return shipment_in(purchase, event.shipment_id, ShipmentState(event.outcome))
    assert_never(event)


def _shipment(
    purchase: Purchase, event: OrderShipped | ShipmentSentOut | ShipmentDelivered | ShipmentReturned
) -> Purchase:
    match event:
        case OrderShipped():
            parts = tuple(Part(line=each.line, quantity=each.quantity) for each in event.parts)
            if purchase.shipment(event.shipment_id) is not None:  # a carrier was asked to fetch it
                return add(shipment_in(purchase, event.shipment_id, ShipmentState.SHIPPED), parts, "shipped")
            shipment = Shipment(shipment_id=event.shipment_id, parts=parts)
            return _with(add(purchase, parts, "shipped"), shipments=(*purchase.shipments, shipment))
        case ShipmentSentOut():
            return shipment_in(purchase, event.shipment_id, ShipmentState.OUT_FOR_DELIVERY)
        case ShipmentDelivered():
            after = shipment_in(purchase, event.shipment_id, ShipmentState.DELIVERED)
            capture = after.capture_minor + (event.capture_minor or 0)
            return _with(add(after, parts_of(purchase, event.shipment_id), "delivered"), capture_minor=capture)
        case ShipmentReturned():
            after = shipment_in(purchase, event.shipment_id, ShipmentState.RETURNED_TO_ORIGIN)
            refund = after.refund_minor + event.refund_minor
            capture = after.capture_minor + (event.capture_minor or 0)
            back = add(after, parts_of(purchase, event.shipment_id), "returned")
            return _with(back, refund_minor=refund, capture_minor=capture)
    assert_never(event)


def _return(purchase: Purchase, event: ReturnRequested | ReturnApproved | ReturnRefused | ReturnReceived) -> Purchase:
    match event:
        case ReturnRequested():
            asked = Return(
                return_id=event.return_id, parts=tuple(event.parts), reason=event.reason, exchange=event.exchange
            )
            return _with(purchase, returns=(*purchase.returns, asked))
        case ReturnApproved():
            return _return_in(purchase, event.return_id, ReturnState.APPROVED)
        case ReturnRefused():
            return _return_in(purchase, event.return_id, ReturnState.REFUSED)
        case ReturnReceived():
            after = _return_in(purchase, event.return_id, ReturnState.RECEIVED)
            refund = after.refund_minor + event.refund_minor
            after = _with(add(after, event.parts, "returned"), refund_minor=refund)
            for replacement in event.replacements:
                after = _to_be_replaced(after, replacement)
            return after
    assert_never(event)


def _to_be_replaced(purchase: Purchase, replacement: Replacement) -> Purchase:
    """The order with one more line, for the same item at the same price."""
    before = purchase.lines[replacement.replaces - 1]
    again = LineState(
        line=replacement.line,
        item_id=before.item_id,
        asked=replacement.quantity,
        name=before.name,
        outlet_id=before.outlet_id,
        price_minor=before.price_minor,
        replaces=before.line,
    )
    waiting = _line(purchase, before.line, exchanging=before.exchanging + replacement.quantity)
    return _with(waiting, lines=(*waiting.lines, again))


def _replaced(purchase: Purchase, event: ReplacementReserved | ReplacementRefused) -> Purchase:
    before, quantity = purchase.lines[event.replaces - 1], event.quantity
    exchanging = before.exchanging - quantity
    if isinstance(event, ReplacementRefused):
        refund = purchase.refund_minor + event.refund_minor
        after = _line(_line(purchase, event.line, refused=event.reason), event.replaces, exchanging=exchanging)
        return _with(after, refund_minor=refund)
    after = _line(purchase, event.line, reserved=quantity)
    after = _line(after, event.replaces, exchanging=exchanging, exchanged=before.exchanged + quantity)
    return _with(after, completed=False)  # the time for returns begins again when it has arrived


def _with(purchase: Purchase, **facts: Any) -> Purchase:
    return purchase.model_copy(update=facts)


def _line(purchase: Purchase, number: int, **facts: Any) -> Purchase:
    lines = (line.model_copy(update=facts) if line.line == number else line for line in purchase.lines)
    return _with(purchase, lines=tuple(lines))


def add(purchase: Purchase, parts: Iterable[Any], quantity: str) -> Purchase:
    """More of each part's line is `quantity` (shipped, delivered, …)."""
    for part in parts:
        before = getattr(purchase.lines[part.line - 1], quantity)
        purchase = _line(purchase, part.line, **{quantity: before + part.quantity})
    return purchase


def parts_of(purchase: Purchase, shipment_id: str) -> tuple[Part, ...]:
    """What travels in a shipment."""
    shipment = purchase.shipment(shipment_id)
    assert shipment is not None, "decide moves only shipments that exist"
    return shipment.parts


def shipment_in(purchase: Purchase, shipment_id: str, state: ShipmentState) -> Purchase:
    """The order with a shipment in another state."""
    return _shipment_with(purchase, shipment_id, state=state)


def _shipment_with(purchase: Purchase, shipment_id: str, **facts: Any) -> Purchase:
    shipments = (
        each.model_copy(update=facts) if each.shipment_id == shipment_id else each for each in purchase.shipments
    )
    return _with(purchase, shipments=tuple(shipments))


def _return_in(purchase: Purchase, return_id: str, state: ReturnState) -> Purchase:
    returns = (
        each.model_copy(update={"state": state}) if each.return_id == return_id else each for each in purchase.returns
    )
    return _with(purchase, returns=tuple(returns))
