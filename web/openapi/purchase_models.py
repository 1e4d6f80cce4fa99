"""the JSON of bought orders -> pydantic models, for /openapi.json and the tests that hold answers against it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from schemas.accounts import Currency, UserId
from schemas.inventory import ItemId, OutletId
from schemas.orders import OrderDocument, OrderStatus, OrderUid
from schemas.payments import PaymentMethod
from schemas.purchases import (
    MAX_LINES,
    MAX_QUANTITY,
    EndReason,
    NewPartId,
    OrderNumber,
    Part,
    PartId,
    ReturnState,
    ShipmentState,
)
from schemas.requests import REQUEST_KEY_PATTERN
from web.openapi.models import Cursor, Erased, OrderOutcome, OrderView, PositionText, Rfc3339, Shape

Quantity = Field(ge=1, le=MAX_QUANTITY, examples=[2])
Count = Field(ge=0, examples=[0])
Reason = Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$", examples=["does not fit"])


class CartPaymentBody(Shape):
    """How the buyer pays; `instrument` is the provider's means, such as upi."""

    method: Literal["account", "provider", "cash_on_delivery"] = "account"
    instrument: str | None = Field(None, min_length=1, max_length=64)


class CartItemBody(Shape):
    """One line of a cart."""

    item_id: ItemId
    quantity: int = Quantity


class CartBody(Shape):
    """What is bought: `items`, or for a single line `item_id` and `quantity`. Prices are the catalogue's."""

    user_id: UserId
    items: list[CartItemBody] | None = Field(None, min_length=1, max_length=MAX_LINES)
    item_id: ItemId | None = None
    quantity: int | None = Field(None, ge=1, le=MAX_QUANTITY)
    payment: CartPaymentBody = CartPaymentBody()
    address: dict[str, str] | None = Field(None, description="Where it goes: any names and texts.", max_length=32)
    split: bool = Field(False, description="Take what is there; else all of it or nothing.")
    idempotency_key: str | None = Field(
        None,
        pattern=REQUEST_KEY_PATTERN,
        description="Names this order among the buyer's, for ever: sent again, it is the same order.",
        examples=["cart-17"],
    )


class PlacementBody(RootModel[OrderDocument | CartBody]):
    """An order document, paid elsewhere; or a cart."""


class LineView(Shape):
    """One line: what was asked, what one piece costs, and where the pieces are."""

    line: int = Field(ge=1, examples=[1])
    item_id: ItemId
    name: str | None = Field(examples=["Mascaras"])
    outlet_id: OutletId | None
    price_minor: int | None = Field(description="Fixed when it was reserved; null until then.", examples=[45300])
    refused: str | None = Field(description="Why the line cannot be had.", examples=[None])
    asked: int = Quantity
    reserved: int = Count
    cancelled: int = Count
    shipped: int = Count
    delivered: int = Count
    returned: int = Count
    exchanged: int = Field(ge=0, description="Returned, and set aside again as another line.", examples=[0])
    replaces: int | None = Field(description="The line that this one takes the place of.", examples=[None])


class PaymentView(Shape):
    """How it is paid, and the sums so far."""

    method: PaymentMethod = Field(examples=["account"])
    instrument: str | None
    authorised_minor: int = Count
    captured_minor: int = Count
    refunded_minor: int = Count
    lost_minor: int = Field(
        ge=0,
        description="Owed for goods that the buyer keeps, and its capture failed for good after they had left.",
        examples=[0],
    )


class ShipmentView(Shape):
    """Quantities that travel together, or are to be fetched by a carrier."""

    shipment_id: PartId
    status: ShipmentState
    parts: list[Part]
    tracking_number: str | None = Field(description="The carrier's number for it.", examples=["T-4711"])


class ReturnView(Shape):
    """Quantities that the buyer gives back."""

    return_id: PartId
    status: ReturnState
    parts: list[Part]
    exchange: bool = Field(description="For the same again.")


class PurchaseView(Shape):
    """An order that was bought here. Sums in minor units of `currency`."""

    order_id: OrderUid
    order_uid: OrderUid = Field(description="The same: orders of both kinds have one name space.")
    version: int = Field(ge=1, description="Grows by one with each event; the ETag.", examples=[7])
    status: OrderStatus = Field(examples=["approved"])
    order_number: OrderNumber | None = Field(
        description="In the series of its outlet, from a moment after the approval on; null before."
    )
    user_id: UserId
    customer_id: UserId
    placed_at: Rfc3339
    updated_at: Rfc3339
    currency: Currency | None = Field(description="Null until a price is known.")
    split: bool = Field(description="Whether it was placed so that what is there of each line is taken.")
    total_minor: int | None = Field(description="What is to be paid; null until all prices are known.")
    lines: list[LineView]
    payment: PaymentView
    address: dict[str, str | int | None] | None
    reason: EndReason | None = Field(description="Why it was rejected, cancelled or expired.", examples=[None])
    detail: str | None = Field(description="The same in words.", examples=[None])
    shipments: list[ShipmentView]
    returns: list[ReturnView]
    erased: Erased


class AnyOrderView(RootModel[OrderView | PurchaseView]):
    """An order, of either kind."""


class OrderPage(Shape):
    """Orders, newest first. A page may be shorter than `limit` and still have a `next_cursor`."""

    orders: list[OrderView | PurchaseView]
    next_cursor: Cursor
    erased: Erased


class PurchaseOutcome(PurchaseView):
    """What a write came to, and where the record that did it stands."""

    position: PositionText


class AnyOrderOutcome(RootModel[OrderOutcome | PurchaseOutcome]):
    """What a write came to, of either kind."""


class NothingBody(Shape):
    """Nothing more to say."""


class ReasonBody(Shape):
    """Why."""

    reason: str = Reason


class PackingBody(Shape):
    """Whether a carrier shall fetch all that has not left; when it is not said, `ORDERSTREAM_CARRIER` says so."""

    carrier: bool | None = None


class ShippingBody(Shape):
    """What leaves, or with `carrier` is to be fetched; all that has not left yet when `parts` is not given."""

    carrier: bool = Field(False, description="A carrier is asked to fetch it; else it has left.")
    shipment_id: NewPartId | None = None
    parts: list[Part] | None = Field(None, min_length=1, max_length=MAX_LINES)


class ReturningBody(Shape):
    """What comes back, and why."""

    return_id: NewPartId | None = None
    parts: list[Part] = Field(min_length=1, max_length=MAX_LINES)
    reason: str = Reason
    exchange: bool = Field(False, description="For the same again; when there is none, for the money.")


MODELS = (
    PlacementBody,
    OrderPage,
    AnyOrderView,
    AnyOrderOutcome,
    PurchaseView,
    PurchaseOutcome,
    NothingBody,
    ReasonBody,
    PackingBody,
    ShippingBody,
    ReturningBody,
)
