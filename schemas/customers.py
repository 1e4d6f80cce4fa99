"""Customers: how many orders one may place in a span of time: command, events, the state. Partition key: user_id.

The limit comes in with the record and its time is the record's, so that a replay admits and refuses what was then
admitted and refused. An order counts as long as its time is less than the window away from the one that is judged.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self

import orjson
from pydantic import Field, TypeAdapter

from schemas.accounts import UserId
from schemas.base import Command, Event, Model, OrderUid, one_of
from schemas.purchases import PlaceCart

#: What is remembered of a customer is one row, written anew with each order: this bounds it (60 KB at the most).
MOST_ORDERS = 1_000
MIN_WINDOW_MS, MAX_WINDOW_MS = 1_000, 31 * 24 * 60 * 60 * 1000
#: Refused attempts that are known again, the latest: whoever sends more within the window is judged again, and refused.
MOST_REFUSED = 16


class OrderLimit(Model):
    """The limit in force: at most `most` orders in any window. Rules read it from the record."""

    most: Annotated[int, Field(ge=1, le=MOST_ORDERS)]
    window_ms: Annotated[int, Field(ge=MIN_WINDOW_MS, le=MAX_WINDOW_MS)]


class AdmitOrder(Command):
    """Let the cart through to the orders, if its buyer may place one. Its key on the topic is the cart's user_id.

    `command_id` names the attempt, the cart's order_uid the order: a refused order may be tried again, by a command of
    its own; one that was admitted is not admitted twice, whatever the command.
    """

    type: Literal["admit_order"] = "admit_order"
    cart: PlaceCart
    limit: OrderLimit

    @property
    def user_id(self) -> str:
        return self.cart.user_id


CustomerCommand = AdmitOrder


class CustomerRefusal(StrEnum):
    """Why a cart was not let through."""

    TOO_MANY_ORDERS = "too_many_orders"


class _CustomerEvent(Event):
    user_id: UserId
    order_uid: OrderUid
    version: int = Field(ge=1, description="Of the customer: one more with each attempt that was judged.")
    limit: OrderLimit


class OrderAdmitted(_CustomerEvent):
    """The cart goes on to the orders, as it came, in the same transaction."""

    type: Literal["order_admitted"] = "order_admitted"
    cart: PlaceCart
    counted: int = Field(ge=1, description="Orders of this customer in the window, this one included.")


class OrderNotAdmitted(_CustomerEvent):
    """The cart goes nowhere."""

    type: Literal["order_not_admitted"] = "order_not_admitted"
    reason: CustomerRefusal
    next_at_ms: int = Field(ge=0, description="From when on the next order is admitted: Unix time in milliseconds.")


CustomerEvent = OrderAdmitted | OrderNotAdmitted

_events: TypeAdapter[CustomerEvent] = one_of(CustomerEvent)


def read_event(raw: bytes) -> CustomerEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


class Admitted(NamedTuple):
    """An order that counts as long as the window is open over it."""

    order_uid: str
    at_ms: int


class Refused(NamedTuple):
    """An attempt that was refused, so that its answer is known."""

    command_id: str
    at_ms: int
    next_at_ms: int


class Customer(NamedTuple):
    """A customer as the window shows it: the value of the table `customers`. What has left the window is not kept."""

    user_id: str
    version: int
    admitted: tuple[Admitted, ...]
    refused: tuple[Refused, ...]

    def has_admitted(self, order_uid: str) -> bool:
        return any(each.order_uid == order_uid for each in self.admitted)

    def refusal(self, command_id: str) -> Refused | None:
        return next((each for each in self.refused if each.command_id == command_id), None)

    def to_json(self) -> bytes:
        return orjson.dumps([self.user_id, self.version, [*map(list, self.admitted)], [*map(list, self.refused)]])

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        user_id, version, admitted, refused = orjson.loads(raw)
        known = tuple(Refused(*each) for each in refused)
        return cls(user_id, version, tuple(Admitted(*each) for each in admitted), known)
