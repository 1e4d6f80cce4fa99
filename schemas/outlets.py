"""Outlets: who sells. How they take orders, and the series of their order numbers. Partition key: outlet_id.

An outlet exists with its first item; what it has not said of itself is the platform's setting. A series of numbers is
an outlet's, for one prefix and one year: it begins with 1, has no gap and no number twice, and an order has one number.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self

import orjson
from pydantic import Field, TypeAdapter

from schemas.base import Command, Event, Model, OrderUid, one_of
from schemas.inventory import NOTHING_NEW, OutletId
from schemas.purchases import OrderNumber, Span

#: An outlet_id is one, too. No slash: it ends the prefix in the number.
NumberPrefix = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,63}$",
        description="What the numbers of the outlet's orders begin with.",
        examples=["INV"],
    ),
]
Year = Annotated[int, Field(ge=1970, le=2286, description="Of the approval, UTC.")]

#: Digits of a number, at least: a millionth order in a year has one more.
WIDTH = 6


class ApprovalMode(StrEnum):
    """Who takes a paid order."""

    AUTOMATIC = "automatic"
    BY_HAND = "by_hand"


class Approval(Model):
    """How an outlet takes paid orders."""

    mode: Annotated[ApprovalMode, Field(strict=False)]
    after_ms: Span = Field(0, description="Automatic: after this, unless somebody was faster; 0: at once.")


class Series(NamedTuple):
    """One series of an outlet."""

    prefix: str
    year: int

    def number(self, sequence: int) -> str:
        """The order number, as people write it."""
        return f"{self.prefix}/{self.year}/{sequence:0{WIDTH}d}"


# --- commands ---------------------------------------------------------------------------------------------------------


class _OutletCommand(Command):
    outlet_id: OutletId


class ConfigureOutlet(_OutletCommand):
    """Say all of how the outlet works; what is null is the platform's again."""

    type: Literal["configure_outlet"] = "configure_outlet"
    approval: Approval | None = Field(None, description="null: as ORDERSTREAM_APPROVE_AFTER_MS says.")
    number_prefix: NumberPrefix | None = Field(None, description="null: the outlet_id.")


class IssueNumber(_OutletCommand):
    """Give an order the next number of the series of this moment. Asked again it has its number already."""

    type: Literal["issue_number"] = "issue_number"
    order_uid: OrderUid


AnyOutletCommand = ConfigureOutlet | IssueNumber
OutletCommand = Annotated[AnyOutletCommand, Field(discriminator="type")]


class NoteOutlet(_OutletCommand):
    """For the orders of every partition: how this outlet takes orders from here on."""

    type: Literal["note_outlet"] = "note_outlet"
    version: int = Field(ge=1, description="Of the outlet: what is older than what is known changes nothing.")
    approval: Approval | None


# --- events -----------------------------------------------------------------------------------------------------------


class OutletConfigured(Event):
    """The outlet works so from here on."""

    type: Literal["outlet_configured"] = "outlet_configured"
    outlet_id: OutletId
    version: int = Field(ge=1, description="Of the outlet after this event: one more than before.")
    approval: Approval | None
    number_prefix: NumberPrefix | None


class NumberIssued(Event):
    """An order has its number."""

    type: Literal["number_issued"] = "number_issued"
    outlet_id: OutletId
    order_uid: OrderUid
    prefix: NumberPrefix
    year: Year
    sequence: int = Field(ge=1, description="Within prefix and year: one more than the one before.")
    order_number: OrderNumber


OutletEvent = OutletConfigured | NumberIssued

_events: TypeAdapter[OutletEvent] = one_of(OutletEvent)


def read_event(raw: bytes) -> OutletEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


# --- states -----------------------------------------------------------------------------------------------------------


class Outlet(Model):
    """What an outlet has said of itself: the value of the table `outlets`."""

    outlet_id: str
    version: int
    approval: Approval | None
    number_prefix: str | None
    updated_at: str

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls.model_validate_json(raw)


class OutletAnswer(NamedTuple):
    """What became of a command, and the record that it came in: the value of `outlet_commands`. Kept for ever."""

    content: str
    type: str
    version: int
    topic: str
    partition: int
    offset: int

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))


class NotedOutlet(Model):
    """What the orders of a partition know of an outlet: the value of `purchases_outlets`."""

    version: int
    approval: Approval | None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls.model_validate_json(raw)


__all__ = [
    "NOTHING_NEW",
    "WIDTH",
    "AnyOutletCommand",
    "Approval",
    "ApprovalMode",
    "ConfigureOutlet",
    "IssueNumber",
    "NoteOutlet",
    "NotedOutlet",
    "NumberIssued",
    "NumberPrefix",
    "Outlet",
    "OutletAnswer",
    "OutletCommand",
    "OutletConfigured",
    "OutletEvent",
    "Series",
    "read_event",
]
