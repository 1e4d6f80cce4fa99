"""Purchases: events and refusals."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.accounts import UserId
from schemas.base import MAX_TIME_MS, Event, one_of
from schemas.orders.document import OrderUid
from schemas.orders.words import OrderStatus
from schemas.purchases.commands import ShipmentOutcome
from schemas.purchases.parts import (
    CarrierTerms,
    CartLine,
    CartPayment,
    Freed,
    Line,
    Minor,
    OrderNumber,
    Part,
    PartId,
    Quantity,
    Replacement,
    Shipped,
    Terms,
)


class PurchaseRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    NO_SUCH_ORDER = "no_such_order"
    ORDER_UID_TAKEN = "order_uid_taken"
    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"
    WRONG_VERSION = "wrong_version"
    NOT_IN_THIS_STATUS = "not_in_this_status"
    NO_SUCH_LINE = "no_such_line"
    NO_SUCH_SHIPMENT = "no_such_shipment"
    SHIPMENT_EXISTS = "shipment_exists"
    SHIPMENT_NOT_UNDER_WAY = "shipment_not_under_way"
    NO_SUCH_RETURN = "no_such_return"
    RETURN_EXISTS = "return_exists"
    RETURN_NOT_OPEN = "return_not_open"
    MORE_THAN_THERE_IS = "more_than_there_is"
    NOTHING_TO_SHIP = "nothing_to_ship"
    NOT_WITH_THE_CARRIER = "not_with_the_carrier"
    TOO_MANY_LINES = "too_many_lines"


class EndReason(StrEnum):
    """Why a purchase ended before anything left."""

    OUT_OF_STOCK = "out_of_stock"
    MIXED_CURRENCIES = "mixed_currencies"
    AMOUNT_ABOVE_LIMIT = "amount_above_limit"
    PAYMENT_FAILED = "payment_failed"
    REJECTED_BY_SELLER = "rejected_by_seller"
    CANCELLED = "cancelled"
    NOT_PAID_IN_TIME = "not_paid_in_time"


class _PurchaseEvent(Event):
    order_uid: OrderUid


class _PurchaseChanged(_PurchaseEvent):
    """A purchase after the event."""

    version: int = Field(ge=1, description="Of the order after this event: one more than before.")
    status: OrderStatus = Field(description="After this event.")


class CartPlaced(_PurchaseChanged):
    """The order exists from here on; stock is being set aside."""

    type: Literal["cart_placed"] = "cart_placed"
    user_id: UserId
    lines: list[CartLine]
    payment: CartPayment
    address: dict[str, str | int | None] | None
    split: bool
    terms: Terms


class LineReserved(_PurchaseChanged):
    """A line has its stock and its price."""

    type: Literal["line_reserved"] = "line_reserved"
    line: Line
    quantity: Quantity
    price_minor: Minor
    currency: str
    outlet_id: str
    name: str


class LineRefused(_PurchaseChanged):
    """A line cannot be had, and the rest is still wanted."""

    type: Literal["line_refused"] = "line_refused"
    line: Line
    reason: str


class OrderValidated(_PurchaseChanged):
    """All that can be had is set aside; what it costs is known and has to be paid."""

    type: Literal["order_validated"] = "order_validated"
    user_id: UserId
    payment: CartPayment
    total_minor: Minor
    currency: str
    pay_by_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)]


class OrderPaid(_PurchaseChanged):
    """The money is set aside, or promised on delivery."""

    type: Literal["order_paid"] = "order_paid"
    amount_minor: Minor
    approve_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = Field(
        description="When the order approves itself, if nobody has said anything; null: at once, or never."
    )


class OrderApproved(_PurchaseChanged):
    """The business takes the order. `capture_minor` null: paid on delivery, or nothing is owed any more."""

    type: Literal["order_approved"] = "order_approved"
    capture_minor: Minor | None
    void: bool = Field(False, description="What was set aside is to be let go: all that cost something was cancelled.")
    outlet_id: str | None = Field(None, description="Whose number the order gets; null in events of older versions.")


class OrderNumbered(_PurchaseChanged):
    """The order has its number, for ever."""

    type: Literal["order_numbered"] = "order_numbered"
    order_number: OrderNumber


class PaymentSettled(_PurchaseChanged):
    """Money was captured. `refund_minor`: the part that is not owed any more, because the order changed meanwhile."""

    type: Literal["payment_settled"] = "payment_settled"
    amount_minor: Minor
    refund_minor: Minor
    refund_id: PartId


class PaymentLost(_PurchaseChanged):
    """The capture has failed for good, and goods have left: what was asked for and did not come."""

    type: Literal["payment_lost"] = "payment_lost"
    amount_minor: Minor
    reason: str


class RefundSettled(_PurchaseChanged):
    """Money went back to the buyer."""

    type: Literal["refund_settled"] = "refund_settled"
    refund_id: PartId
    amount_minor: Minor


class OrderPacked(_PurchaseChanged):
    """The goods are packed."""

    type: Literal["order_packed"] = "order_packed"


class ShipmentRequested(_PurchaseChanged):
    """A carrier is asked to fetch a shipment; until it has, or will not, nobody else can have these quantities."""

    type: Literal["shipment_requested"] = "shipment_requested"
    shipment_id: PartId
    parts: list[Shipped]
    user_id: UserId
    address: dict[str, str | int | None] | None
    carrier: CarrierTerms


class ShipmentWithdrawn(_PurchaseChanged):
    """The carrier is asked not to fetch it. If it has already, the shipment travels."""

    type: Literal["shipment_withdrawn"] = "shipment_withdrawn"
    shipment_id: PartId
    reason: str


class TrackingRecorded(_PurchaseChanged):
    """The carrier has a number for a shipment."""

    type: Literal["tracking_recorded"] = "tracking_recorded"
    shipment_id: PartId
    tracking_number: str


class ShipmentSettled(_PurchaseChanged):
    """A shipment never left, or is back (`cancelled`); or is gone although it should not have been (`lost`)."""

    type: Literal["shipment_settled"] = "shipment_settled"
    shipment_id: PartId
    outcome: ShipmentOutcome
    reason: str
    parts: list[Shipped]
    reserved: bool = Field(description="Its stock was still set aside for it.")
    ended: EndReason | None = Field(description="Why the order had ended; null: what did not leave can be shipped yet.")


class OrderShipped(_PurchaseChanged):
    """A shipment has left."""

    type: Literal["order_shipped"] = "order_shipped"
    shipment_id: PartId
    parts: list[Shipped]


class ShipmentSentOut(_PurchaseChanged):
    """A shipment is on its last way."""

    type: Literal["shipment_sent_out"] = "shipment_sent_out"
    shipment_id: PartId


class _MayBeTheLast(_PurchaseChanged):
    """After this nothing may be under way or outstanding any more."""

    capture_minor: Minor | None = Field(description="What is paid on delivery, once all has come to its end.")
    complete_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = Field(
        description="When nothing can be returned any more, once all has come to its end."
    )


class ShipmentDelivered(_MayBeTheLast):
    """A shipment has arrived."""

    type: Literal["shipment_delivered"] = "shipment_delivered"
    shipment_id: PartId


class ShipmentReturned(_MayBeTheLast):
    """A shipment is back at the seller's; what was paid for it is refunded."""

    type: Literal["shipment_returned"] = "shipment_returned"
    shipment_id: PartId
    parts: list[Shipped]
    refund_minor: Minor
    refund_id: PartId


class OrderCompleted(_PurchaseChanged):
    """Nothing can be returned any more."""

    type: Literal["order_completed"] = "order_completed"


class PurchaseEnded(_PurchaseChanged):
    """The order ended before anything left: rejected, cancelled or expired, as `status` says."""

    type: Literal["purchase_ended"] = "purchase_ended"
    reason: EndReason
    detail: str
    freed: list[Freed]
    void: bool = Field(description="What was asked of the payment is to be taken back.")
    refund_minor: Minor = Field(description="What was captured and is not owed any more.")
    refund_id: PartId
    withdrawn: list[PartId] = Field(
        default_factory=list, description="Shipments that a carrier is asked to fetch; their stock waits for its word."
    )


class PartsCancelled(_MayBeTheLast):
    """A part of the order will not be delivered."""

    type: Literal["parts_cancelled"] = "parts_cancelled"
    reason: str
    freed: list[Freed]
    amount_minor: Minor = Field(description="What the part costs.")
    refund_minor: Minor = Field(description="What of it was captured and goes back.")
    refund_id: PartId


class ReturnRequested(_PurchaseChanged):
    """The buyer wants to give goods back."""

    type: Literal["return_requested"] = "return_requested"
    return_id: PartId
    parts: list[Part]
    reason: str
    exchange: bool = False


class ReturnApproved(_PurchaseChanged):
    """The goods may come back."""

    type: Literal["return_approved"] = "return_approved"
    return_id: PartId


class ReturnRefused(_PurchaseChanged):
    """The goods stay with the buyer."""

    type: Literal["return_refused"] = "return_refused"
    return_id: PartId
    reason: str


class ReturnReceived(_PurchaseChanged):
    """The goods are back, and their price is refunded; or, of an exchange, the same is to be set aside again."""

    type: Literal["return_received"] = "return_received"
    return_id: PartId
    parts: list[Shipped]
    refund_minor: Minor
    refund_id: PartId
    replacements: list[Replacement] = Field(default_factory=list, description="Of an exchange: what takes its place.")


class ReplacementReserved(_PurchaseChanged):
    """The same is set aside again, and waits to be shipped. No money moves."""

    type: Literal["replacement_reserved"] = "replacement_reserved"
    line: Line
    replaces: Line
    quantity: Quantity


class ReplacementRefused(_PurchaseChanged):
    """There is none to be had again: the price of what came back is refunded."""

    type: Literal["replacement_refused"] = "replacement_refused"
    line: Line
    replaces: Line
    quantity: Quantity
    reason: str
    refund_minor: Minor
    refund_id: PartId


class PurchaseCommandRefused(_PurchaseEvent):
    """A command changed nothing."""

    type: Literal["purchase_command_refused"] = "purchase_command_refused"
    version: int = Field(ge=0, description="Of the order, which a refusal does not change; 0 when there is none.")
    command: str
    reason: PurchaseRefusal
    shipment_id: PartId | None = Field(None, description="The one that a carrier spoke of.")


class CarrierNoted(_PurchaseEvent):
    """Something about a carrier that moved nothing: what failed, came too early, was refused, was given up."""

    type: Literal["carrier_noted"] = "carrier_noted"
    version: int = Field(ge=1, description="Of the order, which this does not change.")
    shipment_id: PartId
    reason: str


PurchaseChanged = (
    CartPlaced
    | LineReserved
    | LineRefused
    | OrderValidated
    | OrderPaid
    | OrderApproved
    | OrderNumbered
    | PaymentSettled
    | PaymentLost
    | RefundSettled
    | OrderPacked
    | ShipmentRequested
    | ShipmentWithdrawn
    | TrackingRecorded
    | ShipmentSettled
    | OrderShipped
    | ShipmentSentOut
    | ShipmentDelivered
    | ShipmentReturned
    | OrderCompleted
    | PurchaseEnded
    | PartsCancelled
    | ReturnRequested
    | ReturnApproved
    | ReturnRefused
    | ReturnReceived
    | ReplacementReserved
    | ReplacementRefused
)
PurchaseEvent = PurchaseChanged | PurchaseCommandRefused | CarrierNoted

_events: TypeAdapter[PurchaseEvent] = one_of(PurchaseEvent)


def read_event(raw: bytes) -> PurchaseEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)
