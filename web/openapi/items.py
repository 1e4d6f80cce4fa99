"""what the addresses of items take and answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.accounts import Currency
from schemas.base import rfc3339
from schemas.inventory import AdjustReason, Attributes, ItemId, ItemName, LowStockAt, OutletId, PriceMinor, Quantity
from schemas.requests import REQUEST_KEY_PATTERN
from web import problems
from web.openapi.models import Cursor, PositionText, Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, WRITES, Operation, Success

Key = Field(
    None,
    pattern=REQUEST_KEY_PATTERN,
    description="Names this write within its item, for ever: sent again, it gets the first answer and changes nothing;"
    " with another content 422. 1 to 255 printable ASCII characters.",
    examples=["delivery-4711"],
)


class ItemBody(Shape):
    """An item as its outlet sells it."""

    item_id: ItemId
    outlet_id: OutletId
    name: ItemName
    price_minor: PriceMinor
    currency: Currency
    attributes: Attributes = Field(default_factory=dict)
    idempotency_key: str | None = Key


class ItemChangeBody(Shape):
    """What changes; the rest stays."""

    name: ItemName | None = None
    price_minor: PriceMinor | None = None
    attributes: Attributes | None = None
    low_stock_at: LowStockAt | None = None
    idempotency_key: str | None = Key


class StockBody(Shape):
    """By how much the stock changes, and why."""

    delta: Quantity = Field(examples=[10])
    reason: AdjustReason
    idempotency_key: str | None = Key


class ItemView(Shape):
    """An item as it stands, with its stock in pieces."""

    item_id: ItemId
    outlet_id: OutletId
    name: ItemName
    price_minor: PriceMinor
    currency: Currency
    attributes: Attributes
    low_stock_at: LowStockAt
    on_hand: int = Field(ge=0, description="What the outlet has.", examples=[10])
    reserved: int = Field(ge=0, description="The part of it that is set aside for orders.", examples=[2])
    available: int = Field(ge=0, description="What is on hand less what is reserved.", examples=[8])
    version: int = Field(ge=1, description="Grows by one with each change; the ETag.", examples=[4])
    created_at: Rfc3339
    updated_at: Rfc3339


class ItemOutcome(ItemView):
    """What a write came to, and where the record that did it stands."""

    position: PositionText


class StockOutcome(Shape):
    """The stock right after it was adjusted, and where the record that did it stands."""

    item_id: ItemId
    outlet_id: OutletId
    delta: int = Field(examples=[10])
    reason: AdjustReason
    on_hand: int = Field(ge=0, examples=[10])
    reserved: int = Field(ge=0, examples=[2])
    available: int = Field(ge=0, examples=[8])
    version: int = Field(ge=1, examples=[4])
    updated_at: Rfc3339
    position: PositionText


class ItemPage(Shape):
    """Items by item_id. A page may be shorter than `limit` and still have a `next_cursor`."""

    items: list[ItemView]
    next_cursor: Cursor


class AcceptedItem(Shape):
    """The command is written down and will be applied; its outcome was not known in time."""

    item_id: ItemId
    position: PositionText
    command_id: str = Field(description="`caused_by` of the event or refusal that will follow.")
    outcome: str = Field(description="Address that answers once the command is applied.")


MODELS = (
    ItemBody,
    ItemChangeBody,
    StockBody,
    ItemView,
    ItemOutcome,
    StockOutcome,
    ItemPage,
    AcceptedItem,
)

_MARKED = ("ETag", "Orderstream-Position", "Idempotency-Replayed")
_LATER = Success(
    "Written down, and not known to be applied when the wait ran out. It will be: ask `outcome`, or send the same"
    " request with the same key again.",
    AcceptedItem,
    headers=("Location", "Orderstream-Position", "Retry-After"),
)
_REFUSALS = (problems.UNSUPPORTED_MEDIA_TYPE, problems.INVALID_DOCUMENT, *WRITES)
_OF_ONE = (problems.NO_SUCH_ITEM, problems.ITEM_REFUSED, problems.CHANGE_REFUSED, *_REFUSALS)

OPERATIONS = (
    Operation(
        "createItem",
        "items",
        "Create an item",
        "An item belongs to one outlet and begins with nothing in stock. Created again with the same content it is left"
        " as it is; with other content it is refused.",
        {
            200: Success("It was there already with this content: as it stands.", ItemOutcome, headers=_MARKED),
            201: Success("Created.", ItemOutcome, headers=("Location", *_MARKED)),
            202: _LATER,
        },
        (problems.ITEM_REFUSED, *_REFUSALS),
        ("Idempotency-Key",),
        ItemBody,
    ),
    Operation(
        "findItems",
        "items",
        "Find items",
        "By item_id; of one outlet or all, with all words of `query` in name or id. Complete across all partitions and"
        " workers, or 503. A page that looked long for little is short and has a `next_cursor`.",
        {200: Success("A page of items.", ItemPage)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("outlet_id", "query", "list_as_of", "limit", "cursor"),
    ),
    Operation(
        "getItem",
        "items",
        "Look an item up",
        "With what is on hand, reserved and available. With `min_offset` the read waits until that record is part of"
        " the state.",
        {
            200: Success("The item.", ItemView, headers=("ETag",)),
            304: Success("Still the version that If-None-Match names.", headers=("ETag",)),
        },
        (problems.BAD_PARAMETER, problems.NO_SUCH_ITEM, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("item_id", "min_offset", "as_of", "If-None-Match"),
    ),
    Operation(
        "changeItem",
        "items",
        "Change an item",
        "What the body names changes, the rest stays. What is reserved keeps the price that it was reserved at.",
        {200: Success("The item as it stands.", ItemOutcome, headers=_MARKED), 202: _LATER},
        _OF_ONE,
        ("item_id", "If-Match", "Idempotency-Key"),
        ItemChangeBody,
    ),
    Operation(
        "adjustStock",
        "items",
        "Adjust the stock of an item",
        "Adds to what is on hand, or takes from what is available: what is reserved cannot be taken. With"
        " `idempotency_key` it is done once, however often and late it is sent.",
        {
            201: Success("Adjusted: the stock right after it.", StockOutcome, headers=("Location", *_MARKED)),
            202: _LATER,
        },
        _OF_ONE,
        ("item_id", "If-Match", "Idempotency-Key"),
        StockBody,
    ),
)

_ID, _AT = "mascara-9934930", rfc3339(1_795_262_400_000)
_POSITION = "inventory.commands.v1-1-42"
_SOLD_AS = {
    "item_id": _ID,
    "outlet_id": "outlet-1",
    "name": "Mascaras",
    "price_minor": 45300,
    "currency": "INR",
    "attributes": {"brand": "Vivienne Sabo"},
}
_STOCK = {"on_hand": 10, "reserved": 2, "available": 8, "version": 4}
_ITEM = {**_SOLD_AS, "low_stock_at": 5, **_STOCK, "created_at": _AT, "updated_at": _AT}
_DELIVERY = {"delta": 10, "reason": "receive"}
EXAMPLES: dict[str, Any] = {
    "ItemBody": _SOLD_AS,
    "ItemChangeBody": {"price_minor": 39900, "low_stock_at": 5},
    "StockBody": {**_DELIVERY, "idempotency_key": "delivery-4711"},
    "ItemView": _ITEM,
    "ItemOutcome": {**_ITEM, "position": _POSITION},
    "StockOutcome": {
        "item_id": _ID,
        "outlet_id": "outlet-1",
        **_DELIVERY,
        **_STOCK,
        "updated_at": _AT,
        "position": _POSITION,
    },
    "ItemPage": {"items": [_ITEM], "next_cursor": None},
    "AcceptedItem": {
        "item_id": _ID,
        "position": _POSITION,
        "command_id": "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4",
        "outcome": f"/api/v1/items/{_ID}?min_offset={_POSITION}",
    },
}
DETAILS = {
    "no-such-item": f"There is no item {_ID}.",
    "item-refused": "More than is available: what is reserved cannot be taken.",
    "change-refused": "A delta of zero changes nothing.",
}
MEMBERS = {
    "item-refused": {"reason": "insufficient_stock", "available": 8, "position": _POSITION},
    "change-refused": {"reason": "zero_delta", "available": 8, "position": _POSITION},
}
