"""POST and PATCH of items -> commands on their topic -> the outcome at their owner -> the public answers."""

from __future__ import annotations

from typing import Annotated, Any, assert_never

from aiohttp import web
from pydantic import Field

from schemas.accounts import Currency
from schemas.base import content_of
from schemas.inventory import (
    NOTHING_NEW,
    AdjustReason,
    AdjustStock,
    Attributes,
    ChangeItem,
    CreateItem,
    InventoryRefusal,
    ItemId,
    ItemName,
    LowStockAt,
    OutletId,
    PriceMinor,
    Quantity,
)
from schemas.requests import REQUEST_KEY_PATTERN
from web import answers, body, problems, reading
from web.asking import Desk
from web.body import Body
from web.commands import Commands, accepted, dead_lettered, id_of, outcome_of, position_of, send
from web.items import shapes
from web.items.questions import ItemQuestions
from web.limits import Limits
from web.problems import Problem
from web.requests import REPLAYED, Requests

IdempotencyKey = Annotated[
    str | None,
    Field(
        pattern=REQUEST_KEY_PATTERN,
        description="Names this write within its item, for ever: sent again, it gets the first answer and changes"
        " nothing. 1 to 255 printable ASCII characters.",
    ),
]

#: Refusals that no later state of the item would change; the others depend on what is there.
_OF_THE_CHANGE = {
    InventoryRefusal.ZERO_DELTA,
    InventoryRefusal.QUANTITY_ABOVE_LIMIT,
    InventoryRefusal.NOTHING_TO_CHANGE,
}
_WORDS = {
    InventoryRefusal.EXISTS_WITH_DIFFERENT_CONTENT: "An item of this id with other content exists.",
    InventoryRefusal.NOTHING_TO_CHANGE: "The body names nothing that would change.",
    InventoryRefusal.ZERO_DELTA: "A delta of zero changes nothing.",
    InventoryRefusal.QUANTITY_ABOVE_LIMIT: "The delta is larger than one adjustment may be.",
    InventoryRefusal.INSUFFICIENT_STOCK: "More than is available: what is reserved cannot be taken.",
    InventoryRefusal.STOCK_ABOVE_LIMIT: "There would be more on hand than an item may have.",
}

Written = CreateItem | ChangeItem | AdjustStock


class _Body(Body):
    idempotency_key: IdempotencyKey = None


class Creation(_Body):
    """The body that creates an item."""

    item_id: ItemId
    outlet_id: OutletId
    name: ItemName
    price_minor: PriceMinor
    currency: Currency
    attributes: Attributes = Field(default_factory=dict)


class Change(_Body):
    """The body that changes an item: what is not named, or null, stays."""

    name: ItemName | None = None
    price_minor: PriceMinor | None = None
    attributes: Attributes | None = None
    low_stock_at: LowStockAt | None = None


class Adjustment(_Body):
    """The body that adjusts the stock."""

    delta: Quantity
    reason: AdjustReason


class ItemWrites:
    """The handlers that put a command on its topic: parse, command, wait, present."""

    def __init__(
        self, desk: Desk, questions: ItemQuestions, commands: Commands, requests: Requests, limits: Limits
    ) -> None:
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits = requests, limits

    async def create(self, request: web.Request) -> web.Response:
        """POST /api/v1/items: 201 when this request created it, 200 when the same was there."""
        reading.only(request)
        asked, raw = await body.read_model(request, self._limits, Creation, most_bytes=self._limits.body_bytes)
        said = asked.model_dump(exclude={"idempotency_key"})

        async def act(command_id: str) -> web.Response:
            command = CreateItem(command_id=id_of(asked.item_id, asked.idempotency_key, command_id), **said)
            return await self._done(command)

        return await self._requests.once(request, raw, act)

    async def change(self, request: web.Request) -> web.Response:
        """PATCH /api/v1/items/{item_id}"""
        reading.only(request)
        item_id = shapes.item_id(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Change, most_bytes=self._limits.body_bytes)
        said = asked.model_dump(exclude={"idempotency_key"})

        async def act(command_id: str) -> web.Response:
            id = id_of(item_id, asked.idempotency_key, command_id)
            return await self._done(ChangeItem(command_id=id, item_id=item_id, expected_version=expected, **said))

        return await self._requests.once(request, raw, act)

    async def adjust(self, request: web.Request) -> web.Response:
        """POST /api/v1/items/{item_id}/stock"""
        reading.only(request)
        item_id = shapes.item_id(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Adjustment)

        async def act(command_id: str) -> web.Response:
            id = id_of(item_id, asked.idempotency_key, command_id)
            command = AdjustStock(
                command_id=id, item_id=item_id, expected_version=expected, delta=asked.delta, reason=asked.reason
            )
            return await self._done(command)

        return await self._requests.once(request, raw, act)

    async def _done(self, command: Written) -> web.Response:
        """Send the command and answer as it was answered first: a repetition says the same, whatever happened since."""
        position = await send(self._commands, command.item_id, command)
        about = {"item_id": command.item_id, "command_id": command.command_id}
        found = await outcome_of(
            self._desk,
            self._questions.outcome,
            command.item_id,
            about,
            after=position,
            wait_s=self._limits.outcome_wait_s,
        )
        if found is None:
            where = f"{shapes.HOME}/{command.item_id}"
            return accepted({"item_id": command.item_id}, where, command.command_id, position)
        item, first = found.meta["item"], found.meta["answer"]
        if first is None:
            raise dead_lettered(position)
        if first["content"] != content_of(command):
            raise Problem(problems.KEY_REUSED, "`idempotency_key` was first sent with another content; use a new key.")
        if first["reason"] is not None:
            raise _refused(command, first)
        status, told = _present(command, item, first)
        at = position_of(first)
        headers = {"ETag": answers.etag(told["version"]), answers.POSITION: str(at)}
        if status == 201:
            headers["Location"] = f"{shapes.HOME}/{command.item_id}"
        if at != position:
            headers[REPLAYED] = "true"
        return answers.answer(status, {**told, "position": str(at)}, headers)


def _present(command: Written, item: dict[str, Any], first: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What the write came to, with its status: from the command and its first answer where both have it all."""
    at = first["occurred_at"]
    match command:
        case CreateItem() if first["type"] != NOTHING_NEW:
            said = command.model_dump(mode="json", exclude={"command_id", "type"})
            return 201, {**said, "low_stock_at": 0, **_stock(first), "created_at": at, "updated_at": at}
        case CreateItem() | ChangeItem():
            return 200, item  # as it stands, with all that has changed since
        case AdjustStock():
            names = {"item_id": command.item_id, "outlet_id": item["outlet_id"]}
            return 201, {**names, **_stock(first), "delta": command.delta, "reason": command.reason, "updated_at": at}
    assert_never(command)


def _stock(first: dict[str, Any]) -> dict[str, int]:
    figures = {name: first[name] for name in ("on_hand", "reserved", "version")}
    return {**figures, "available": first["on_hand"] - first["reserved"]}


def _refused(command: Written, first: dict[str, Any]) -> Problem:
    reason, at = InventoryRefusal(first["reason"]), position_of(first)
    told: dict[str, Any] = {"reason": reason, "position": str(at)}
    if reason is InventoryRefusal.NO_SUCH_ITEM:
        detail = f"There is no item {command.item_id}."
        return Problem(problems.NO_SUCH_ITEM, detail, headers={answers.POSITION: str(at)}, **told)
    if reason is InventoryRefusal.WRONG_VERSION:
        return Problem.outdated(f"item {command.item_id}", first["version"], str(at))
    kind = problems.CHANGE_REFUSED if reason in _OF_THE_CHANGE else problems.ITEM_REFUSED
    headers = {"ETag": answers.etag(first["version"]), answers.POSITION: str(at)}
    return Problem(kind, _WORDS[reason], headers=headers, available=_stock(first)["available"], **told)
