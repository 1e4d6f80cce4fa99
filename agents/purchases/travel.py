"""a command about a shipment -> what speaks against it, or its events: handed to a carrier, on its way, at its end."""

from __future__ import annotations

from typing import assert_never

from agents.purchases.state import UNDER_WAY, add, arrived, excess_minor, owed_minor, parts_of, shipment_in
from agents.purchases.story import Story, free_to_ship, goods, objection_to_parts
from schemas.payments import PaymentMethod
from schemas.purchases import (
    CarrierNoted,
    CarrierTerms,
    DeliverShipment,
    NoteCarrier,
    OrderPacked,
    OrderShipped,
    PackOrder,
    Part,
    Purchase,
    PurchaseEvent,
    PurchaseRefusal,
    RecordTracking,
    RequestShipment,
    ReturnShipment,
    SendOut,
    SettleShipment,
    Shipment,
    ShipmentDelivered,
    ShipmentOutcome,
    ShipmentRequested,
    ShipmentReturned,
    ShipmentSentOut,
    ShipmentSettled,
    ShipmentState,
    ShipmentWithdrawn,
    ShipOrder,
    TrackingRecorded,
    WithdrawShipment,
)
from schemas.purchases.state import PROMISED

ShipmentCommand = (
    RequestShipment
    | WithdrawShipment
    | RecordTracking
    | SettleShipment
    | ShipOrder
    | SendOut
    | DeliverShipment
    | ReturnShipment
)
#: A carrier that takes what it had let go of is believed, if the goods are still there to be taken.
_MAY_BE_FETCHED = (*PROMISED, ShipmentState.CANCELLED)


def objection_to_travel(purchase: Purchase, command: ShipmentCommand) -> PurchaseRefusal | None:
    """Why not, in the order of the enum."""
    shipment = purchase.shipment(command.shipment_id)
    match command:
        case RequestShipment() | ShipOrder(carrier=False):
            return _objection_to_leaving(purchase, command, shipment)
    if shipment is None:
        return PurchaseRefusal.NO_SUCH_SHIPMENT
    match command:
        case ShipOrder():
            there_is = free_to_ship(purchase)
            if shipment.state is ShipmentState.CANCELLED:
                return objection_to_parts(purchase, shipment.parts, there_is)
            return None if shipment.state in _MAY_BE_FETCHED else PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY
        case WithdrawShipment():
            requested = shipment.state is ShipmentState.REQUESTED
            return None if requested else PurchaseRefusal.NOT_WITH_THE_CARRIER
        case SendOut():
            return None if shipment.state is ShipmentState.SHIPPED else PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY
        case DeliverShipment() | ReturnShipment():
            return None if shipment.state in UNDER_WAY else PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY
        case RecordTracking() | SettleShipment():
            return None
    assert_never(command)


def _objection_to_leaving(
    purchase: Purchase, command: RequestShipment | ShipOrder, shipment: Shipment | None
) -> PurchaseRefusal | None:
    if shipment is not None:
        return PurchaseRefusal.SHIPMENT_EXISTS
    there_is = free_to_ship(purchase)
    if command.parts is not None and (reason := objection_to_parts(purchase, command.parts, there_is)) is not None:
        return reason
    return None if any(there_is.values()) and command.parts != [] else PurchaseRefusal.NOTHING_TO_SHIP


def has_come_to_pass(purchase: Purchase, command: object) -> bool:
    """Whether a carrier says what somebody else has said before it: that a shipment has left."""
    if not (isinstance(command, ShipOrder) and command.carrier):
        return False
    shipment = purchase.shipment(command.shipment_id)
    return shipment is not None and shipment.state not in (*_MAY_BE_FETCHED, ShipmentState.LOST)


def pack(story: Story, command: PackOrder) -> tuple[PurchaseEvent, ...]:
    """All that nobody has been asked to fetch is handed to the carrier, if there is one."""
    story.tell(OrderPacked)
    left = _all_left(story.purchase)
    if command.carrier is None or not left:
        return story.events
    known = {shipment.shipment_id for shipment in story.purchase.shipments}
    id = next(name for number in range(1, len(known) + 2) if (name := f"s{number}") not in known)
    return _request(story, id, left, command.carrier)


def _request(story: Story, id: str, parts: list[Part], terms: CarrierTerms) -> tuple[PurchaseEvent, ...]:
    purchase = story.purchase
    return story.tell(
        ShipmentRequested,
        shipment_id=id,
        parts=goods(purchase, parts),
        user_id=purchase.user_id,
        address=purchase.address,
        carrier=terms,
    )


def _all_left(purchase: Purchase) -> list[Part]:
    return [Part(line=line, quantity=left) for line, left in free_to_ship(purchase).items() if left]


def travel(story: Story, command: ShipmentCommand) -> tuple[PurchaseEvent, ...]:
    """What a command about a shipment comes to."""
    purchase, id = story.purchase, command.shipment_id
    match command:
        case RequestShipment():
            parts = _all_left(purchase) if command.parts is None else command.parts
            return _request(story, id, parts, command.carrier)
        case WithdrawShipment():
            return story.tell(ShipmentWithdrawn, shipment_id=id, reason=command.reason)
        case RecordTracking():
            return _track(story, command)
        case SettleShipment():
            return _settle(story, command)
        case ShipOrder(carrier=True):
            return story.tell(OrderShipped, shipment_id=id, parts=goods(purchase, parts_of(purchase, id)))
        case ShipOrder():
            parts = _all_left(purchase) if command.parts is None else command.parts
            return story.tell(OrderShipped, shipment_id=id, parts=goods(purchase, parts))
        case SendOut():
            return story.tell(ShipmentSentOut, shipment_id=id)
        case DeliverShipment():
            after = add(shipment_in(purchase, id, ShipmentState.DELIVERED), parts_of(purchase, id), "delivered")
            return story.tell(ShipmentDelivered, shipment_id=id, **if_last(story, after))
        case ReturnShipment():
            back = parts_of(purchase, id)
            after = add(shipment_in(purchase, id, ShipmentState.RETURNED_TO_ORIGIN), back, "returned")
            return story.tell(
                ShipmentReturned,
                shipment_id=id,
                parts=goods(purchase, back),
                refund_minor=excess_minor(after, 0),
                refund_id=story.refund_id(),
                **if_last(story, after),
            )
    assert_never(command)


def note(story: Story, command: NoteCarrier) -> tuple[PurchaseEvent, ...]:
    """A line of the timeline, behind the version that it leaves as it was."""
    return story.note(CarrierNoted, shipment_id=command.shipment_id, reason=command.reason)


def _track(story: Story, command: RecordTracking) -> tuple[PurchaseEvent, ...]:
    shipment = story.purchase.shipment(command.shipment_id)
    if shipment is not None and shipment.tracking_number == command.tracking_number:
        return ()
    return story.tell(TrackingRecorded, shipment_id=command.shipment_id, tracking_number=command.tracking_number)


def _settle(story: Story, command: SettleShipment) -> tuple[PurchaseEvent, ...]:
    """A shipment that travels, or is settled in the same way, says nothing new."""
    purchase, id = story.purchase, command.shipment_id
    shipment = purchase.shipment(id)
    assert shipment is not None, "the objection came first"
    gone = command.outcome is ShipmentOutcome.LOST
    if shipment.state not in (_MAY_BE_FETCHED if gone else PROMISED):
        return ()
    return story.tell(
        ShipmentSettled,
        shipment_id=id,
        outcome=command.outcome,
        reason=command.reason,
        parts=goods(purchase, shipment.parts),
        reserved=shipment.state in PROMISED,
        ended=purchase.ended,
    )


def if_last(story: Story, after: Purchase) -> dict[str, int | None]:
    """What follows when nothing is under way or outstanding any more: cash is paid, the time for returns begins."""
    if not after.has_left or not arrived(after):
        return {"capture_minor": None, "complete_at_ms": None}
    cash = after.payment.method is PaymentMethod.CASH_ON_DELIVERY and not after.capture_minor
    return {
        "capture_minor": (owed_minor(after) or None) if cash else None,
        "complete_at_ms": story.now_ms + after.terms.return_within_ms,
    }
