"""Purchases: what their commands and events are made of, every member bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.accounts import MAX_AMOUNT_MINOR
from schemas.base import PATH_ID_PATTERN, Model, derived_id
from schemas.inventory import ItemId
from schemas.payments import PaymentMethod

#: What one cart may ask for: bounds the commands that follow from it in one transaction.
MAX_LINES = 100
#: What an order may have in all: each line that is exchanged gets another one.
MAX_LINE = 2 * MAX_LINES
MAX_QUANTITY = 1_000_000

Line = Annotated[int, Field(ge=1, le=MAX_LINE, description="Number of the line, from 1.")]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
Minor = Annotated[int, Field(ge=0, le=MAX_AMOUNT_MINOR, description="Minor units of the order's currency.")]
Span = Annotated[int, Field(ge=0, le=366 * 24 * 60 * 60 * 1000)]
PartId = Annotated[
    str,
    Field(
        pattern=r"^[!-~]{1,64}$",
        description="Refers to a shipment, a return or a refund within its order. Wider than NewPartId: older records"
        " have such ids.",
    ),
]
#: Required of each command that can create a shipment or a return, because its id becomes a segment of a URL's path.
NewPartId = Annotated[
    str, Field(pattern=PATH_ID_PATTERN, description="Names a new shipment or return within its order.", examples=["s1"])
]
#: As long as the longest prefix, a year and a sequence make it.
OrderNumber = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,63}/[0-9]{4}/[0-9]{6,12}$",
        description="The order's number in the series of its outlet: prefix, year, sequence.",
        examples=["INV/2026/000123"],
    ),
]


def order_uid_of(command_id: str) -> str:
    """The order that a cart becomes: the same cart sent again is the same order."""
    return derived_id(f"purchase {command_id}")


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


class CarrierTerms(Model):
    """How long a carrier may take, by the seller's settings when it is asked: with the record, for an exact replay."""

    answer_within_ms: Span = Field(60_000, description="Asked again when nothing is heard for so long.")
    asks: int = Field(5, ge=1, le=100, description="How often, before it is given up.")
    stale_after_ms: Span = Field(24 * 60 * 60 * 1000, description="Once it has answered: asked how it stands.")
    hold_ms: Span = Field(60_000, description="How long what came too early waits for what has to come before it.")


class Replacement(Model):
    """A line of the order that shall take the place of what came back of another one: the same item and price."""

    line: Line
    replaces: Line
    item_id: ItemId
    quantity: Quantity


class Shipped(Model):
    """A quantity of a line that leaves or comes back."""

    line: Line
    item_id: ItemId
    quantity: Quantity
