"""Shipping: what a carrier is asked for, what it answers, and when it is believed. Partition key: order_uid.

A booking is a shipment as its carrier has it: asked to fetch it, fetched, on its way, at its end. It is joined with the
order that it belongs to by events alone: quantities and money are the order's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from schemas.accounts import UserId
from schemas.base import MAX_TIME_MS, Command, CommandId, Event, Model, OrderUid, derived_id, one_of
from schemas.orders.words import Reason
from schemas.purchases.parts import MAX_LINE, CarrierTerms, PartId, Shipped

Address = Annotated[dict[str, str | int | None], Field(max_length=32)] | None
TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None


class CarrierStatus(StrEnum):
    """What a carrier can say of a shipment. `failed`: an attempt did not come about; it tries again, or returns it."""

    REGISTERED = "registered"
    PICKED_UP = "picked_up"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    FAILED = "failed"
    RETURNED_TO_ORIGIN = "returned_to_origin"
    CANCELLED = "cancelled"


class Stage(StrEnum):
    """Where a booking stands. `cancelling` and `recalled`: the carrier is asked not to fetch it, to bring it back."""

    ASKED = "asked"
    REGISTERED = "registered"
    PICKED_UP = "picked_up"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    RETURNED_TO_ORIGIN = "returned_to_origin"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    RECALLED = "recalled"


FINAL = frozenset({Stage.DELIVERED, Stage.RETURNED_TO_ORIGIN, Stage.CANCELLED})


class ResponseRefusal(StrEnum):
    """Why a carrier is not believed."""

    NO_SUCH_SHIPMENT = "no_such_shipment"
    ALREADY_PICKED_UP = "already_picked_up"
    ALREADY_DELIVERED = "already_delivered"
    ALREADY_RETURNED = "already_returned"
    ALREADY_CANCELLED = "already_cancelled"
    RECALLED = "recalled"


class Unmoved(StrEnum):
    """What else a response can come to: it waits for what has to come before it, or says nothing new."""

    HELD = "held"
    KNOWN = "known"


Hearing = Stage | Unmoved | ResponseRefusal

_S, _C, _R = Stage, CarrierStatus, ResponseRefusal
_HELD, _KNOWN = Unmoved.HELD, Unmoved.KNOWN
#: Nobody has fetched it yet: what presupposes that waits for it, and is believed when that does not come in time.
_NOT_FETCHED: Mapping[CarrierStatus, Hearing] = {
    _C.PICKED_UP: _S.PICKED_UP,
    _C.OUT_FOR_DELIVERY: _HELD,
    _C.DELIVERED: _HELD,
    _C.RETURNED_TO_ORIGIN: _HELD,
    _C.CANCELLED: _S.CANCELLED,
}
#: stage -> what the carrier says -> the stage after it, or why there is none. The rules go by it, a test walks it all.
HEARINGS: Mapping[Stage, Mapping[CarrierStatus, Hearing]] = {
    _S.ASKED: {**_NOT_FETCHED, _C.REGISTERED: _S.REGISTERED, _C.FAILED: _S.ASKED},
    _S.REGISTERED: {**_NOT_FETCHED, _C.REGISTERED: _KNOWN, _C.FAILED: _S.REGISTERED},
    _S.CANCELLING: {**_NOT_FETCHED, _C.REGISTERED: _S.CANCELLING, _C.FAILED: _S.CANCELLING},
    # A carrier that has let go of it and fetches it all the same: the order says whether it still wants that.
    _S.CANCELLED: {
        **_NOT_FETCHED,
        _C.REGISTERED: _R.ALREADY_CANCELLED,
        _C.FAILED: _R.ALREADY_CANCELLED,
        _C.CANCELLED: _KNOWN,
    },
    _S.PICKED_UP: {
        _C.REGISTERED: _S.PICKED_UP,  # late, and still good for its number
        _C.PICKED_UP: _KNOWN,
        _C.OUT_FOR_DELIVERY: _S.OUT_FOR_DELIVERY,
        _C.DELIVERED: _S.DELIVERED,
        _C.FAILED: _S.PICKED_UP,
        _C.RETURNED_TO_ORIGIN: _S.RETURNED_TO_ORIGIN,
        _C.CANCELLED: _R.ALREADY_PICKED_UP,
    },
    _S.OUT_FOR_DELIVERY: {
        _C.REGISTERED: _S.OUT_FOR_DELIVERY,
        _C.PICKED_UP: _KNOWN,
        _C.OUT_FOR_DELIVERY: _KNOWN,
        _C.DELIVERED: _S.DELIVERED,
        _C.FAILED: _S.OUT_FOR_DELIVERY,
        _C.RETURNED_TO_ORIGIN: _S.RETURNED_TO_ORIGIN,
        _C.CANCELLED: _R.ALREADY_PICKED_UP,
    },
    _S.RECALLED: {
        _C.REGISTERED: _S.RECALLED,
        _C.PICKED_UP: _KNOWN,
        _C.OUT_FOR_DELIVERY: _R.RECALLED,
        _C.DELIVERED: _S.DELIVERED,
        _C.FAILED: _S.RECALLED,
        _C.RETURNED_TO_ORIGIN: _S.RETURNED_TO_ORIGIN,
        _C.CANCELLED: _R.ALREADY_PICKED_UP,
    },
    _S.DELIVERED: {**dict.fromkeys(_C, _R.ALREADY_DELIVERED), _C.DELIVERED: _KNOWN},
    _S.RETURNED_TO_ORIGIN: {**dict.fromkeys(_C, _R.ALREADY_RETURNED), _C.RETURNED_TO_ORIGIN: _KNOWN},
}


def booking_id_of(order_uid: str, shipment_id: str) -> str:
    """What a shipment is called with the carrier: the same however often it is asked."""
    return derived_id(f"booking {order_uid} {shipment_id}")


# --- what the carrier answers -----------------------------------------------------------------------------------------


class CarrierResponse(Model):
    """What a carrier says of a shipment, on `shipping.responses`, with any key: whenever, and as often as it likes."""

    model_config = ConfigDict(strict=True)

    response_id: Annotated[CommandId, Field(description="The same again is the same response again: no news.")]
    order_uid: OrderUid
    shipment_id: PartId
    status: Annotated[CarrierStatus, Field(strict=False)]
    tracking_number: Annotated[
        str | None, Field(pattern=r"^[!-~]{1,64}$", description="The carrier's own name for it; with `registered`.")
    ] = None
    reason: Reason | None = Field(None, description="Why an attempt failed, or it was not taken, in words.")

    @property
    def cause(self) -> str:
        """Names it among all that events are caused by: no command_id has a space."""
        return f"response {self.response_id}"

    @model_validator(mode="after")
    def _registered_has_a_number(self) -> Self:
        if self.status is CarrierStatus.REGISTERED and self.tracking_number is None:
            raise ValueError("`registered` needs a `tracking_number`")
        return self


# --- commands ---------------------------------------------------------------------------------------------------------


class _ShippingCommand(Command):
    order_uid: OrderUid
    shipment_id: PartId


class BookShipment(_ShippingCommand):
    """Ask the carrier to fetch a shipment."""

    type: Literal["book_shipment"] = "book_shipment"
    user_id: UserId
    address: Address
    parts: Annotated[list[Shipped], Field(min_length=1, max_length=MAX_LINE)]
    terms: CarrierTerms


class CancelBooking(_ShippingCommand):
    """Ask the carrier not to fetch it."""

    type: Literal["cancel_booking"] = "cancel_booking"
    reason: str


class RecallShipment(_ShippingCommand):
    """Ask the carrier to bring back what it has fetched: nobody wants it any more."""

    type: Literal["recall_shipment"] = "recall_shipment"
    reason: str


class AskAgain(_ShippingCommand):
    """Nothing was heard for so long. Sent by the deadline; it is for the stage and the ask that it was set in."""

    type: Literal["ask_again"] = "ask_again"
    stage: Annotated[Stage, Field(strict=False)]
    ask: int


class ReleaseHeld(_ShippingCommand):
    """What has to come before it did not come in time. Sent by the deadline."""

    type: Literal["release_held"] = "release_held"


AnyShippingCommand = BookShipment | CancelBooking | RecallShipment | AskAgain | ReleaseHeld
ShippingCommand = Annotated[AnyShippingCommand, Field(discriminator="type")]

# --- events -----------------------------------------------------------------------------------------------------------


class ShippingRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    BOOKING_EXISTS_WITH_DIFFERENT_CONTENT = "booking_exists_with_different_content"
    NO_SUCH_SHIPMENT = "no_such_shipment"
    ALREADY_PICKED_UP = "already_picked_up"
    NOT_PICKED_UP = "not_picked_up"


class Ask(StrEnum):
    """What a carrier is asked: to fetch (and, asked again, how it stands), not to fetch, to bring back."""

    BOOK = "book"
    CANCEL = "cancel"
    RECALL = "recall"


class _ShippingEvent(Event):
    order_uid: OrderUid
    shipment_id: PartId


class _BookingChanged(_ShippingEvent):
    """A booking after the event."""

    version: int = Field(ge=1, description="Of the booking after this event: one more than before.")
    stage: Stage = Field(description="After this event.")


class CarrierAsked(_BookingChanged):
    """The carrier is asked. What it knows under this `booking_id` it does not do twice: it says how it stands."""

    type: Literal["carrier_asked"] = "carrier_asked"
    booking_id: str = Field(description="Names what is to be carried: the same whatever is asked, however often.")
    what: Ask
    ask: int = Field(ge=1, description="How often this was asked.")
    reason: str | None = None
    user_id: UserId
    address: Address
    parts: list[Shipped]
    terms: CarrierTerms
    ask_again_at_ms: TimeMs


class CarrierReported(_BookingChanged):
    """The carrier said so, and it is believed."""

    type: Literal["carrier_reported"] = "carrier_reported"
    status: CarrierStatus
    tracking_number: str | None = None
    reason: str | None = None
    implied: bool = Field(False, description="It did not say so; it follows from what it did, or did not, say.")
    recalled: bool = Field(False, description="It had been asked to bring it back.")
    ask_again_at_ms: TimeMs


class ResponseHeld(_BookingChanged):
    """It came too early, and waits for what has to come before it."""

    type: Literal["response_held"] = "response_held"
    status: CarrierStatus
    reason: str | None = None
    until_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS, description="Believed then, with all that it implies.")]


class BookingGivenUp(_BookingChanged):
    """The carrier has answered nothing, however often it was asked. It is asked to cancel, in case it heard."""

    type: Literal["booking_given_up"] = "booking_given_up"
    asks: int


class RecallEnded(_BookingChanged):
    """What was to be brought back is back, or was delivered all the same."""

    type: Literal["recall_ended"] = "recall_ended"
    lost: bool


class ResponseRefused(_ShippingEvent):
    """The carrier is not believed, and nothing changed."""

    type: Literal["response_refused"] = "response_refused"
    version: int = Field(ge=0, description="Of the booking, which a refusal does not change; 0 when there is none.")
    status: CarrierStatus
    reason: ResponseRefusal


class ShippingCommandRefused(_ShippingEvent):
    """A command changed nothing."""

    type: Literal["shipping_command_refused"] = "shipping_command_refused"
    version: int = Field(ge=0, description="Of the booking, which a refusal does not change; 0 when there is none.")
    command: str
    reason: ShippingRefusal


BookingChanged = CarrierAsked | CarrierReported | ResponseHeld | BookingGivenUp | RecallEnded
ShippingEvent = BookingChanged | ResponseRefused | ShippingCommandRefused

_events: TypeAdapter[ShippingEvent] = one_of(ShippingEvent)


def read_event(raw: bytes) -> ShippingEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


# --- the state --------------------------------------------------------------------------------------------------------


class Held(Model):
    """A response that waits."""

    status: CarrierStatus
    reason: str | None


class Booking(Model):
    """A shipment as its carrier has it: the value of the table `bookings`."""

    order_uid: str
    shipment_id: str
    user_id: str
    address: dict[str, str | int | None] | None
    parts: tuple[Shipped, ...]
    terms: CarrierTerms
    version: int
    stage: Stage
    asked: Ask
    asks: int
    ask_again_at_ms: int | None
    booked_at: str
    updated_at: str
    tracking_number: str | None = None
    failed_attempts: int = 0
    reason: str | None = Field(None, description="The last one that was given.")
    #: At most one of each status that can be held, in the order in which they are to be believed.
    held: tuple[Held, ...] = ()
    held_until_ms: int | None = None

    def to_json(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls.model_validate_json(raw)
