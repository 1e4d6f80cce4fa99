"""Inventory: commands, events, refusals, states of catalogue items and their stock. Partition key: item_id.

An item belongs to one outlet. Of what is on hand, reservations have set a part aside; the rest is available. Quantities
are whole pieces, prices integer minor units.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import AfterValidator, Field, JsonValue, TypeAdapter

from schemas.accounts import MAX_AMOUNT_MINOR, Currency
from schemas.base import MAX_TIME_MS, MAX_WHOLE, Command, Event, one_of
from schemas.orders import ORDER_UID_PATTERN, OrderUid

#: The largest quantity of one command, and of one stock: sums of any number of orders stay exact as JSON numbers.
MAX_QUANTITY = 10**9
MAX_ON_HAND = 10**12
#: As many lines as an order document may have items.
MAX_LINE = 10_000
#: Attributes ride with every read of the item; a description of this size is long, a picture does not belong here.
MAX_ATTRIBUTES_BYTES = 16 << 10

#: What is safe in a path, a key and a log line, as an order's number is.
ITEM_ID_PATTERN = ORDER_UID_PATTERN


def _kept_as_they_are(attributes: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What JSON cannot carry there and back (NaN, integers above 64 bits, endless depth) would come back changed."""
    try:
        raw = orjson.dumps(attributes)
    except TypeError as error:
        raise ValueError(f"cannot be kept as JSON: {error}") from error
    if orjson.loads(raw) != attributes:
        raise ValueError("must be finite numbers, text, true, false, null, lists and objects")
    if len(raw) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"are {len(raw)} bytes of JSON; at most {MAX_ATTRIBUTES_BYTES} are kept")
    return attributes


ItemId = Annotated[
    str,
    Field(
        pattern=ITEM_ID_PATTERN,
        description="Names the item for ever; the partition key of everything about it.",
        examples=["mascara-9934930"],
    ),
]
OutletId = Annotated[
    str, Field(pattern=ITEM_ID_PATTERN, description="The outlet that sells the item.", examples=["outlet-1"])
]
ItemName = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["Mascaras"]),
]
PriceMinor = Annotated[
    int,
    Field(ge=0, le=MAX_AMOUNT_MINOR, description="Of one piece, in minor units (paise, cents).", examples=[45300]),
]
Attributes = Annotated[
    dict[str, JsonValue],
    AfterValidator(_kept_as_they_are),
    Field(description="What else there is to say: any JSON object.", examples=[{"brand": "Vivienne Sabo"}]),
]
LowStockAt = Annotated[
    int,
    Field(ge=0, le=MAX_ON_HAND, description="Less available than this is low stock; 0: never.", examples=[5]),
]
Line = Annotated[int, Field(ge=1, le=MAX_LINE, description="Which line of the order, from 1.")]
# Any number that every reader holds is understood, so that the rule can refuse it with a reason.
Quantity = Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE, description="In pieces.")]
AdjustReason = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Why the stock changes: receive, adjust, return, damage, or the caller's own words.",
        examples=["receive"],
    ),
]
ExpiresAtMs = Annotated[
    Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None,
    Field(description="Unix time in milliseconds at which what is still reserved is released; null: never."),
]


def reservation_id_of(order_uid: str, line: int) -> str:
    """The one reservation that a line of an order can have of an item."""
    return f"{order_uid}:{line}"


# --- commands ---------------------------------------------------------------------------------------------------------


class CreateItem(Command):
    """Put an item into the catalogue of an outlet, with nothing in stock."""

    type: Literal["create_item"] = "create_item"
    item_id: ItemId
    outlet_id: OutletId
    name: ItemName
    price_minor: PriceMinor
    currency: Currency
    attributes: Attributes = Field(default_factory=dict)


class ChangeItem(Command):
    """Change what is given and leave the rest as it is. What is reserved keeps the price that it was reserved at."""

    type: Literal["change_item"] = "change_item"
    item_id: ItemId
    name: ItemName | None = None
    price_minor: PriceMinor | None = None
    attributes: Attributes | None = None
    low_stock_at: LowStockAt | None = None


class AdjustStock(Command):
    """Add to what is on hand, or take from it; what is reserved cannot be taken."""

    type: Literal["adjust_stock"] = "adjust_stock"
    item_id: ItemId
    delta: Quantity
    reason: AdjustReason


class ReserveStock(Command):
    """Set stock aside for a line of an order: all that is asked, or what there is (`partial`), or nothing.

    The expiry holds whatever happens to the order meanwhile. An order that may outlive it (paid, and not shipped yet)
    gives none, and releases by a deadline of its own.
    """

    type: Literal["reserve_stock"] = "reserve_stock"
    item_id: ItemId
    order_uid: OrderUid
    line: Line
    quantity: Quantity
    partial: bool = Field(False, description="Take what there is when it is less than asked.")
    expires_at_ms: ExpiresAtMs = None

    @property
    def reservation_id(self) -> str:
        return reservation_id_of(self.order_uid, self.line)


class CommitStock(Command):
    """Reserved stock leaves the outlet, wholly or in part; what is left stays reserved."""

    type: Literal["commit_stock"] = "commit_stock"
    item_id: ItemId
    order_uid: OrderUid
    line: Line
    quantity: Quantity | None = Field(None, description="In pieces; null: all that is still reserved.")

    @property
    def reservation_id(self) -> str:
        return reservation_id_of(self.order_uid, self.line)


class StockReleaseReason(StrEnum):
    """Why reserved stock is available again."""

    RELEASED = "released"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNPAID = "unpaid"
    INCOMPLETE = "incomplete"  # another line of the order could not be had


class ReleaseStock(Command):
    """Make reserved stock available again. The deadline of a reservation sends this too, with the reason `expired`."""

    type: Literal["release_stock"] = "release_stock"
    item_id: ItemId
    order_uid: OrderUid
    line: Line
    quantity: Quantity | None = Field(None, description="In pieces; null: all that is still reserved.")
    reason: StockReleaseReason = StockReleaseReason.RELEASED

    @property
    def reservation_id(self) -> str:
        return reservation_id_of(self.order_uid, self.line)


InventoryCommand = Annotated[
    CreateItem | ChangeItem | AdjustStock | ReserveStock | CommitStock | ReleaseStock, Field(discriminator="type")
]
InventoryCommandType = Literal[
    "create_item", "change_item", "adjust_stock", "reserve_stock", "commit_stock", "release_stock"
]


# --- events -----------------------------------------------------------------------------------------------------------


class InventoryRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"
    NO_SUCH_ITEM = "no_such_item"
    WRONG_VERSION = "wrong_version"
    NOTHING_TO_CHANGE = "nothing_to_change"
    ZERO_DELTA = "zero_delta"
    NOT_POSITIVE_QUANTITY = "not_positive_quantity"
    QUANTITY_ABOVE_LIMIT = "quantity_above_limit"
    RESERVATION_EXISTS_WITH_DIFFERENT_CONTENT = "reservation_exists_with_different_content"
    NO_SUCH_RESERVATION = "no_such_reservation"
    RESERVATION_ALREADY_SETTLED = "reservation_already_settled"
    QUANTITY_ABOVE_RESERVATION = "quantity_above_reservation"
    OUT_OF_STOCK = "out_of_stock"
    INSUFFICIENT_STOCK = "insufficient_stock"
    STOCK_ABOVE_LIMIT = "stock_above_limit"


class _InventoryEvent(Event):
    item_id: ItemId


class _ItemStands(_InventoryEvent):
    """An item after the event: whoever reads one event knows how the stock stands."""

    outlet_id: OutletId
    version: int = Field(ge=1, description="Of the item after this event: each change makes it one more.")
    on_hand: int = Field(ge=0, description="After this event.")
    reserved: int = Field(ge=0, description="After this event: the part of what is on hand that is set aside.")

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


class ItemCreated(_ItemStands):
    """The item exists from here on, with nothing in stock."""

    type: Literal["item_created"] = "item_created"
    name: ItemName
    price_minor: PriceMinor
    currency: str
    attributes: dict[str, Any]


class ItemChanged(_ItemStands):
    """The item as it is sold from here on."""

    type: Literal["item_changed"] = "item_changed"
    name: ItemName
    price_minor: PriceMinor
    currency: str
    attributes: dict[str, Any]
    low_stock_at: LowStockAt


class StockAdjusted(_ItemStands):
    """Stock came in, or went another way than to an order."""

    type: Literal["stock_adjusted"] = "stock_adjusted"
    delta: int = Field(description="In pieces; never 0.")
    reason: AdjustReason


class _ReservationStands(_ItemStands):
    order_uid: OrderUid
    line: Line
    quantity: int = Field(ge=1, description="How many pieces this event is about.")

    @property
    def reservation_id(self) -> str:
        return reservation_id_of(self.order_uid, self.line)


class StockReserved(_ReservationStands):
    """Stock is set aside for a line of an order, at the price of this moment."""

    type: Literal["stock_reserved"] = "stock_reserved"
    asked: int = Field(ge=1, description="More than `quantity` when only a part could be had.")
    partial: bool = Field(description="Whether a part was asked for too.")
    name: ItemName
    price_minor: PriceMinor
    currency: str
    expires_at_ms: int | None


class StockCommitted(_ReservationStands):
    """Reserved stock left the outlet."""

    type: Literal["stock_committed"] = "stock_committed"
    remaining: int = Field(ge=0, description="What is still reserved for the line after this event.")


class StockReleased(_ReservationStands):
    """Reserved stock is available again."""

    type: Literal["stock_released"] = "stock_released"
    remaining: int = Field(ge=0, description="What is still reserved for the line after this event.")
    reason: StockReleaseReason


class StockLow(_ItemStands):
    """Less is available than `low_stock_at`, which was not so before the change that this stands beside."""

    type: Literal["stock_low"] = "stock_low"
    low_stock_at: LowStockAt


class StockOut(_ItemStands):
    """Nothing is available any more."""

    type: Literal["stock_out"] = "stock_out"


class InventoryCommandRefused(_InventoryEvent):
    """A command changed nothing."""

    type: Literal["inventory_command_refused"] = "inventory_command_refused"
    version: int = Field(ge=0, description="Of the item, which a refusal does not change; 0 when there is none.")
    command: InventoryCommandType
    reason: InventoryRefusal
    available: int = Field(ge=0, description="What there was; 0 when there is no such item.")
    order_uid: OrderUid | None = None
    line: Line | None = None


InventoryChanged = ItemCreated | ItemChanged | StockAdjusted | StockReserved | StockCommitted | StockReleased
InventoryEvent = InventoryChanged | StockLow | StockOut | InventoryCommandRefused

_events: TypeAdapter[InventoryEvent] = one_of(InventoryEvent)


def read_event(raw: bytes) -> InventoryEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


# --- states -----------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """An item as it stands: the value of the table `items`."""

    item_id: str
    outlet_id: str
    name: str
    price_minor: int
    currency: str
    attributes: dict[str, Any]
    low_stock_at: int
    on_hand: int
    reserved: int
    version: int
    created_at: str
    updated_at: str

    @property
    def available(self) -> int:
        """What can be reserved, or taken away."""
        return self.on_hand - self.reserved

    @property
    def low(self) -> bool:
        """Whether less is available than the outlet wants to have."""
        return self.available < self.low_stock_at

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))


class ItemVersion(NamedTuple):
    """An item's stock as one of its versions had it, and the record that made it: of `item_versions`.

    Stock moves often and what an item is changes seldom, so that stands in the version that changed it (`content`), and
    `content_version` says in which. `latest_at`: the latest `occurred_at` of this version and of those before.
    """

    on_hand: int
    reserved: int
    occurred_at: str
    latest_at: str
    content_version: int
    content: dict[str, Any] | None
    topic: str
    partition: int
    offset: int


class ReservationState(StrEnum):
    """Where a reservation stands. All but the first are final, and say what became of the last piece of it."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


class Reservation(NamedTuple):
    """A reservation as it stands: the value of the table `stock_reservations`. It is kept when it is settled."""

    order_uid: str
    line: int
    item_id: str
    asked: int
    partial: bool
    quantity: int
    committed: int
    released: int
    expires_at_ms: int | None
    state: ReservationState
    reserved_at: str
    settled_at: str | None

    @property
    def remaining(self) -> int:
        """What is still reserved."""
        return self.quantity - self.committed - self.released

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "state": ReservationState(row["state"])})


NOTHING_NEW = "nothing_new"


class StockAnswer(NamedTuple):
    """What became of a command, and the record that it came in: the value of `inventory_commands`.

    It is kept for ever: a command that comes again, however late, gets this and changes nothing. That holds for one
    that had nothing new to say as well (`type` NOTHING_NEW): later it would have.
    """

    content: str
    type: str
    reason: InventoryRefusal | None
    version: int
    on_hand: int
    reserved: int
    occurred_at: str
    topic: str
    partition: int
    offset: int

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "reason": InventoryRefusal(row["reason"]) if row["reason"] else None})
