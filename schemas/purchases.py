"""Purchases: orders that are bought here, from a cart to the last return: commands, events, refusals, the state.

Partition key: order_uid, as for orders: a purchase is an order whose document we write ourselves. Money: integer minor
units of one currency; prices come from the catalogue, never from the caller. Status follows from facts: quantities per
line and sums of money, each of which only an event changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter

from schemas.accounts import MAX_AMOUNT_MINOR, UserId
from schemas.base import MAX_TIME_MS, Command, Event, Model, derived_id
from schemas.inventory import ItemId
from schemas.orders.document import OrderUid
from schemas.orders.words import OrderStatus, Reason
from schemas.payments import PaymentMethod

#: What one cart may ask for: bounds the commands that follow from it in one transaction.
MAX_LINES = 100
MAX_QUANTITY = 1_000_000

Line = Annotated[int, Field(ge=1, le=MAX_LINES, description="Number of the line, from 1.")]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
Minor = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR, description="Minor units of the order's currency.")]
Span = Annotated[int, Field(ge=0, le=366 * 24 * 60 * 60 * 1000)]
PartId = Annotated[str, Field(pattern=r"^[!-~]{1,64}$", description="Names a shipment or a return within its order.")]


def order_uid_of(command_id: str) -> str:
    """The order that a cart becomes: the same cart sent again is the same order."""
    return derived_id(f"purchase {command_id}")


# --- what commands and events are made of -----------------------------------------------------------------------------


class CartLine(Model):
    """What the buyer asks for."""

    item_id: ItemId
    quantity: Quantity


class CartPayment(Model):
    """How the buyer pays."""

    method: Annotated[PaymentMethod, Field(strict=False)]
    instrument: Annotated[str, Field(max_length=64)] | None = None


class Part(Model):
    """A quantity of a line."""

    line: Line
    quantity: Quantity


class Freed(Model):
    """Stock that is set free. `quantity` null: all that is reserved for the line."""

    line: Line
    item_id: ItemId
    quantity: Quantity | None


class Terms(Model):
    """The seller's settings at the time of the cart: rules read them from the record, so that a replay is exact."""

    pay_within_ms: Span = 15 * 60 * 1000
    approve_after_ms: Span | None = Field(0, description="Approved by itself after this long; null: by hand only.")
    return_within_ms: Span = 14 * 24 * 60 * 60 * 1000


# --- commands ---------------------------------------------------------------------------------------------------------


class _PurchaseCommand(Command):
    order_uid: OrderUid


class PlaceCart(_PurchaseCommand):
    """Buy what is in the cart."""

    type: Literal["place_cart"] = "place_cart"
    user_id: UserId
    lines: Annotated[list[CartLine], Field(min_length=1, max_length=MAX_LINES)]
    payment: CartPayment
    address: Annotated[dict[str, str | int | None], Field(max_length=32)] | None = None
    split: bool = Field(False, description="Take what is there of each line; else all of it or nothing.")
    terms: Terms = Terms()


class RecordReservation(_PurchaseCommand):
    """Stock is set aside for a line; its price is now fixed."""

    type: Literal["record_reservation"] = "record_reservation"
    line: Line
    quantity: Quantity
    price_minor: Minor
    currency: str
    outlet_id: str
    name: str


class RecordShortage(_PurchaseCommand):
    """A line cannot be had."""

    type: Literal["record_shortage"] = "record_shortage"
    line: Line
    reason: str


class RecordPayment(_PurchaseCommand):
    """The money is set aside, or promised on delivery."""

    type: Literal["record_payment"] = "record_payment"
    amount_minor: Minor


class RecordPaymentFailure(_PurchaseCommand):
    """The payment was declined, or is no longer to be had."""

    type: Literal["record_payment_failure"] = "record_payment_failure"
    reason: str


class SettlePayment(_PurchaseCommand):
    """The money is ours."""

    type: Literal["settle_payment"] = "settle_payment"
    amount_minor: Minor


class SettleRefund(_PurchaseCommand):
    """Money went back to the buyer."""

    type: Literal["settle_refund"] = "settle_refund"
    refund_id: PartId
    amount_minor: Minor


class ExpireOrder(_PurchaseCommand):
    """The time to pay is over. Sent by the deadline."""

    type: Literal["expire_order"] = "expire_order"


class ApproveOrder(_PurchaseCommand):
    """The business takes the order. Sent by the deadline too where approval is automatic."""

    type: Literal["approve_order"] = "approve_order"


class RejectOrder(_PurchaseCommand):
    """The business does not take the order."""

    type: Literal["reject_order"] = "reject_order"
    reason: Reason


class PackOrder(_PurchaseCommand):
    """The goods are packed."""

    type: Literal["pack_order"] = "pack_order"


class ShipOrder(_PurchaseCommand):
    """A shipment leaves: these quantities, or all that has not left yet."""

    type: Literal["ship_order"] = "ship_order"
    shipment_id: PartId
    parts: Annotated[list[Part], Field(max_length=MAX_LINES)] | None = None


class SendOut(_PurchaseCommand):
    """A shipment is on its last way."""

    type: Literal["send_out"] = "send_out"
    shipment_id: PartId


class DeliverShipment(_PurchaseCommand):
    """A shipment has arrived."""

    type: Literal["deliver_shipment"] = "deliver_shipment"
    shipment_id: PartId


class ReturnShipment(_PurchaseCommand):
    """A shipment could not be delivered and is back at the seller's: return to origin."""

    type: Literal["return_shipment"] = "return_shipment"
    shipment_id: PartId


class CompleteOrder(_PurchaseCommand):
    """The time for returns is over. Sent by the deadline."""

    type: Literal["complete_order"] = "complete_order"


class CancelPurchase(_PurchaseCommand):
    """Nothing has left yet and nothing shall; `parts`: of these quantities only."""

    type: Literal["cancel_purchase"] = "cancel_purchase"
    reason: Reason
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)] | None = None


class RequestReturn(_PurchaseCommand):
    """The buyer wants to give goods back."""

    type: Literal["request_return"] = "request_return"
    return_id: PartId
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)]
    reason: Reason


class ApproveReturn(_PurchaseCommand):
    """The seller agrees to the return."""

    type: Literal["approve_return"] = "approve_return"
    return_id: PartId


class RefuseReturn(_PurchaseCommand):
    """The seller does not agree to the return."""

    type: Literal["refuse_return"] = "refuse_return"
    return_id: PartId
    reason: Reason


class ReceiveReturn(_PurchaseCommand):
    """The goods are back: their price is refunded."""

    type: Literal["receive_return"] = "receive_return"
    return_id: PartId


AnyPurchaseCommand = (
    PlaceCart
    | RecordReservation
    | RecordShortage
    | RecordPayment
    | RecordPaymentFailure
    | SettlePayment
    | SettleRefund
    | ExpireOrder
    | ApproveOrder
    | RejectOrder
    | PackOrder
    | ShipOrder
    | SendOut
    | DeliverShipment
    | ReturnShipment
    | CompleteOrder
    | CancelPurchase
    | RequestReturn
    | ApproveReturn
    | RefuseReturn
    | ReceiveReturn
)
PurchaseCommand = Annotated[AnyPurchaseCommand, Field(discriminator="type")]

# --- events -----------------------------------------------------------------------------------------------------------


class PurchaseRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    NO_SUCH_ORDER = "no_such_order"
    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"
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
    """The business takes the order. `capture_minor` null: paid on delivery."""

    type: Literal["order_approved"] = "order_approved"
    capture_minor: Minor | None


class PaymentSettled(_PurchaseChanged):
    """Money was captured. `refund_minor`: the part that is not owed any more, because the order changed meanwhile."""

    type: Literal["payment_settled"] = "payment_settled"
    amount_minor: Minor
    refund_minor: Minor
    refund_id: PartId


class RefundSettled(_PurchaseChanged):
    """Money went back to the buyer."""

    type: Literal["refund_settled"] = "refund_settled"
    refund_id: PartId
    amount_minor: Minor


class OrderPacked(_PurchaseChanged):
    """The goods are packed."""

    type: Literal["order_packed"] = "order_packed"


class Shipped(Model):
    """A quantity of a line that leaves or comes back."""

    line: Line
    item_id: ItemId
    quantity: Quantity


class OrderShipped(_PurchaseChanged):
    """A shipment has left."""

    type: Literal["order_shipped"] = "order_shipped"
    shipment_id: PartId
    parts: list[Shipped]


class ShipmentSentOut(_PurchaseChanged):
    """A shipment is on its last way."""

    type: Literal["shipment_sent_out"] = "shipment_sent_out"
    shipment_id: PartId


class ShipmentDelivered(_PurchaseChanged):
    """A shipment has arrived. `capture_minor`: what is paid on delivery, once everything has."""

    type: Literal["shipment_delivered"] = "shipment_delivered"
    shipment_id: PartId
    capture_minor: Minor | None
    complete_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None


class ShipmentReturned(_PurchaseChanged):
    """A shipment is back at the seller's; what was paid for it is refunded."""

    type: Literal["shipment_returned"] = "shipment_returned"
    shipment_id: PartId
    parts: list[Shipped]
    capture_minor: Minor | None = Field(description="What is paid on delivery, once everything has come to its end.")
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


class PartsCancelled(_PurchaseChanged):
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
    """The goods are back, and their price is refunded."""

    type: Literal["return_received"] = "return_received"
    return_id: PartId
    parts: list[Shipped]
    refund_minor: Minor
    refund_id: PartId


class PurchaseCommandRefused(_PurchaseEvent):
    """A command changed nothing."""

    type: Literal["purchase_command_refused"] = "purchase_command_refused"
    version: int = Field(ge=0, description="Of the order, which a refusal does not change; 0 when there is none.")
    command: str
    reason: PurchaseRefusal


PurchaseChanged = (
    CartPlaced
    | LineReserved
    | LineRefused
    | OrderValidated
    | OrderPaid
    | OrderApproved
    | PaymentSettled
    | RefundSettled
    | OrderPacked
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
)
PurchaseEvent = PurchaseChanged | PurchaseCommandRefused

_events: TypeAdapter[PurchaseEvent] = TypeAdapter(Annotated[PurchaseEvent, Field(discriminator="type")])


def read_event(raw: bytes) -> PurchaseEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


# --- the state --------------------------------------------------------------------------------------------------------


class LineState(Model):
    """One line: what was asked, what it costs, and where each piece of it is."""

    line: int
    item_id: str
    asked: int
    name: str | None = None
    outlet_id: str | None = None
    price_minor: int | None = None
    refused: str | None = None
    reserved: int = Field(0, description="All that was ever set aside; the other quantities are parts of it.")
    cancelled: int = 0
    shipped: int = 0
    delivered: int = 0
    returned: int = 0

    @property
    def answered(self) -> bool:
        return self.refused is not None or self.reserved > 0

    @property
    def wanted(self) -> int:
        """What is to be delivered in the end."""
        return self.reserved - self.cancelled


class ShipmentState(StrEnum):
    """Where a shipment is. The last two are final."""

    SHIPPED = "shipped"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    RETURNED_TO_ORIGIN = "returned_to_origin"


class Shipment(Model):
    """Quantities that travel together."""

    shipment_id: str
    parts: tuple[Part, ...]
    state: ShipmentState = ShipmentState.SHIPPED


class ReturnState(StrEnum):
    """Where a return stands. The last two are final."""

    REQUESTED = "requested"
    APPROVED = "approved"
    REFUSED = "refused"
    RECEIVED = "received"


class Return(Model):
    """Quantities that the buyer gives back."""

    return_id: str
    parts: tuple[Part, ...]
    reason: str
    state: ReturnState = ReturnState.REQUESTED


class Purchase(Model):
    """A purchase as it stands: the value of the table `purchases`. Sums in minor units of `currency`."""

    order_uid: str
    version: int
    status: OrderStatus
    user_id: str
    lines: tuple[LineState, ...]
    payment: CartPayment
    address: dict[str, str | int | None] | None
    split: bool
    terms: Terms
    placed_at: str
    updated_at: str
    updated_by: str
    currency: str | None = None
    total_minor: int | None = Field(None, description="What is to be paid; null until all prices are known.")
    authorised_minor: int = 0
    #: What was asked of the payment to capture, what came, what was asked back, what went back.
    capture_minor: int = 0
    captured_minor: int = 0
    refund_minor: int = 0
    refunded_minor: int = 0
    paid: bool = False
    approved: bool = False
    packed: bool = False
    completed: bool = False
    ended: EndReason | None = None
    end_detail: str | None = None
    shipments: tuple[Shipment, ...] = ()
    returns: tuple[Return, ...] = ()

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls.model_validate_json(raw)

    def line(self, number: int) -> LineState | None:
        return self.lines[number - 1] if number <= len(self.lines) else None

    def shipment(self, shipment_id: str) -> Shipment | None:
        return next((each for each in self.shipments if each.shipment_id == shipment_id), None)

    def return_(self, return_id: str) -> Return | None:
        return next((each for each in self.returns if each.return_id == return_id), None)

    def price_of(self, parts: Iterable[Part]) -> int:
        """What these quantities cost."""
        return sum((self.lines[part.line - 1].price_minor or 0) * part.quantity for part in parts)
