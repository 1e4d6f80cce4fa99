"""Purchases: the state, as the table `purchases` keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Self

from pydantic import Field

from schemas.base import Model
from schemas.orders.words import OrderStatus
from schemas.purchases.events import EndReason
from schemas.purchases.parts import (
    CartPayment,
    Part,
    Terms,
)


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
    exchanging: int = Field(0, description="Returned, and to be had again: not known yet whether there is any.")
    exchanged: int = Field(0, description="Returned, and set aside again, as another line.")
    replaces: int | None = Field(None, description="The line that this one takes the place of.")

    @property
    def answered(self) -> bool:
        return self.refused is not None or self.reserved > 0

    @property
    def wanted(self) -> int:
        """What is to be delivered in the end."""
        return self.reserved - self.cancelled


class ShipmentState(StrEnum):
    """Where a shipment is. `withdrawn`: the carrier is asked not to fetch it. From `delivered` on: final."""

    REQUESTED = "requested"
    WITHDRAWN = "withdrawn"
    SHIPPED = "shipped"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    RETURNED_TO_ORIGIN = "returned_to_origin"
    CANCELLED = "cancelled"
    LOST = "lost"


#: A carrier may have it any moment: nobody else can.
PROMISED = (ShipmentState.REQUESTED, ShipmentState.WITHDRAWN)


class Shipment(Model):
    """Quantities that travel together."""

    shipment_id: str
    parts: tuple[Part, ...]
    state: ShipmentState = ShipmentState.SHIPPED
    tracking_number: str | None = None


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
    exchange: bool = False


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
    #: Of what was asked to be captured: what has failed for good after goods had left.
    failed_minor: int = 0
    lost_minor: int = Field(0, description="What of that is still owed, for goods that the buyer keeps.")
    paid: bool = False
    paid_at: str | None = Field(None, description="Since when it waits for its outlet's word, or waited.")
    approved: bool = False
    order_number: str | None = None
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

    @property
    def outlet_id(self) -> str | None:
        """Whose order it is: who approves it, approves the whole, so of several outlets it is the first line's."""
        return next((line.outlet_id for line in self.lines if line.outlet_id is not None), None)

    def line(self, number: int) -> LineState | None:
        return self.lines[number - 1] if number <= len(self.lines) else None

    def shipment(self, shipment_id: str) -> Shipment | None:
        return next((each for each in self.shipments if each.shipment_id == shipment_id), None)

    @property
    def promised(self) -> tuple[Shipment, ...]:
        """Shipments that a carrier may fetch any moment."""
        return tuple(each for each in self.shipments if each.state in PROMISED)

    @property
    def has_left(self) -> bool:
        """Whether anything has left yet."""
        return any(line.shipped for line in self.lines)

    def return_(self, return_id: str) -> Return | None:
        return next((each for each in self.returns if each.return_id == return_id), None)

    def price_of(self, parts: Iterable[Part]) -> int:
        """What these quantities cost."""
        return sum((self.lines[part.line - 1].price_minor or 0) * part.quantity for part in parts)
