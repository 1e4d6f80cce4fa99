"""Purchases: commands. A report (Record…, Settle…) is what another domain says; the rest may be refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from schemas.accounts import UserId
from schemas.base import Command
from schemas.orders.document import OrderUid
from schemas.orders.words import Reason
from schemas.purchases.parts import (
    MAX_LINES,
    CarrierTerms,
    CartLine,
    CartPayment,
    Line,
    Minor,
    NewPartId,
    OrderNumber,
    Part,
    PartId,
    Quantity,
    Terms,
)


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


class RecordNumber(_PurchaseCommand):
    """The outlet has given the order its number."""

    type: Literal["record_number"] = "record_number"
    order_number: OrderNumber


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
    """The goods are packed. A carrier is asked to fetch all that has not left."""

    type: Literal["pack_order"] = "pack_order"
    carrier: CarrierTerms | None = Field(None, description="On these terms; null: no carrier is asked.")


class RequestShipment(_PurchaseCommand):
    """A carrier shall fetch these quantities, or all that nobody has been asked to fetch yet."""

    type: Literal["request_shipment"] = "request_shipment"
    shipment_id: NewPartId
    parts: Annotated[list[Part], Field(max_length=MAX_LINES)] | None = None
    carrier: CarrierTerms


class WithdrawShipment(_PurchaseCommand):
    """The carrier shall not fetch a shipment after all."""

    type: Literal["withdraw_shipment"] = "withdraw_shipment"
    shipment_id: PartId
    reason: Reason


class RecordTracking(_PurchaseCommand):
    """The carrier has a number for a shipment."""

    type: Literal["record_tracking"] = "record_tracking"
    shipment_id: PartId
    tracking_number: str


class NoteCarrier(_PurchaseCommand):
    """Something about a carrier that moves nothing and belongs into the timeline."""

    type: Literal["note_carrier"] = "note_carrier"
    shipment_id: PartId
    reason: str


class ShipmentOutcome(StrEnum):
    """What became of a shipment that is not to reach the buyer: it never left or is back; or it is gone."""

    CANCELLED = "cancelled"
    LOST = "lost"


class SettleShipment(_PurchaseCommand):
    """A shipment that a carrier was asked to fetch has come to nothing."""

    type: Literal["settle_shipment"] = "settle_shipment"
    shipment_id: PartId
    outcome: Annotated[ShipmentOutcome, Field(strict=False)]
    reason: str


class ShipOrder(_PurchaseCommand):
    """A shipment leaves: these quantities, or all that has not left yet; with a carrier, what it was asked to fetch."""

    type: Literal["ship_order"] = "ship_order"
    shipment_id: NewPartId
    parts: Annotated[list[Part], Field(max_length=MAX_LINES)] | None = None
    carrier: bool = Field(False, description="The carrier says so of a shipment that it was asked to fetch.")


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
    return_id: NewPartId
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)]
    reason: Reason
    exchange: bool = Field(False, description="For the same again, or, when there is none, for the money.")


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
    """The goods are back: their price is refunded, or the same is set aside again."""

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
    | RecordNumber
    | ExpireOrder
    | ApproveOrder
    | RejectOrder
    | PackOrder
    | RequestShipment
    | WithdrawShipment
    | RecordTracking
    | NoteCarrier
    | SettleShipment
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
