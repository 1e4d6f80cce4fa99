"""POST of orders -> commands on their topic -> the outcome at their owner -> the public answers."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from schemas.base import InvalidDocument
from schemas.orders import (
    CancelOrder,
    OrderCommand,
    OrderDocument,
    PlaceOrder,
    encode_command,
    read_document,
    same_document,
    samples,
)
from schemas.orders.first_look import first_look
from schemas.orders.words import Reason
from schemas.purchases import MAX_LINES, CancelPurchase, Part
from streams.records import Position
from web import answers, body, problems, reading
from web.asking import Answer, Desk
from web.commands import Commands, accepted, dead_lettered, outcome_of, send
from web.limits import Limits
from web.orders import shapes
from web.orders.questions import Questions
from web.problems import Problem
from web.purchases.writes import Nothing, PurchaseWrites, is_cart
from web.requests import Requests
from web.seals import Seals

HOME = "/api/v1/orders"
#: Of a reader's own words in a problem's detail.
DETAIL_CHARACTERS = 1_000


class Cancellation(body.Body):
    """The body of a cancellation."""

    reason: Reason
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)] | None = None


class OrderWrites:
    """The handlers that put a command on its topic: parse, command, wait, present."""

    def __init__(
        self,
        desk: Desk,
        questions: Questions,
        commands: Commands,
        requests: Requests,
        limits: Limits,
        purchases: PurchaseWrites,
        seals: Seals,
    ) -> None:
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits, self._purchases, self._seals = requests, limits, purchases, seals

    async def place(self, request: web.Request) -> web.Response:
        """POST /api/v1/orders: an order document, or a cart."""
        reading.only(request)
        raw = await body.read(request, self._limits, self._limits.body_bytes)
        document = first_look(raw) or await body.carefully(request, raw, read_placed, raw, self._limits.json_depth)
        if document is None:
            return await self._purchases.place(request, raw)
        shut = await self._seals.document(document, raw)
        return await self._requests.once(
            request, shut.repeat, lambda command_id: self._place(document, shut.raw, command_id)
        )

    async def place_generated(self, request: web.Request) -> web.Response:
        """POST /api/orders/test: an order made up from the command's id, so that a repetition makes the same one."""
        reading.only(request)
        _, raw = await body.read_model(request, self._limits, Nothing, empty=b"{}")

        async def act(command_id: str) -> web.Response:
            generated = _generated(command_id)
            document = read(generated)
            return await self._place(document, (await self._seals.document(document, generated)).raw, command_id)

        return await self._requests.once(request, raw, act)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /api/v1/orders/{order_uid}/cancel"""
        reading.only(request)
        order_uid = shapes.order_uid(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Cancellation)

        async def act(command_id: str) -> web.Response:
            if await self._purchases.is_bought(order_uid):
                return await self._purchases.carry_out(
                    CancelPurchase(
                        command_id=command_id,
                        order_uid=order_uid,
                        expected_version=expected,
                        reason=asked.reason,
                        parts=asked.parts,
                    )
                )
            if asked.parts is not None:
                detail = "`parts` are for orders that were bought here; an order document is cancelled as a whole."
                raise Problem(problems.INVALID_DOCUMENT, detail, faults=[{"path": "$.parts", "message": detail}])
            command = CancelOrder(
                command_id=command_id, order_uid=order_uid, expected_version=expected, reason=asked.reason
            )
            return await self._cancel(command)

        return await self._requests.once(request, raw, act)

    async def _place(self, document: OrderDocument, raw: bytes, command_id: str) -> web.Response:
        command = PlaceOrder.of(document, raw, command_id)
        position, outcome = await self._command(command, "order_placed")
        if outcome is None:
            return _accepted(command, position)
        order, caused, made = (outcome.meta[name] for name in ("order", "caused", "made"))
        if order is not None and same_document(outcome.parts[0], raw):
            # New, or the same document again: nothing new, and the same answer as the first time.
            return _done(201, order, made["position"] if made else str(position))
        if caused is not None:
            exists = "with other content exists" if order is not None else "was bought here: use another order_uid"
            raise _refused(problems.ORDER_REFUSED, caused, order, f"An order {command.order_uid} {exists}.")
        raise dead_lettered(position)

    async def _cancel(self, command: CancelOrder) -> web.Response:
        position, outcome = await self._command(command, "order_cancelled")
        if outcome is None:
            return _accepted(command, position)
        order, caused = outcome.meta["order"], outcome.meta["caused"]
        match caused:
            case {"type": "order_cancelled", "position": at}:
                return _done(200, order, at)
            case {"reason": "no_such_order"}:
                raise _refused(
                    problems.NO_SUCH_ORDER, caused, order, f"There is no order {command.order_uid} to cancel."
                )
            case {"reason": problems.WRONG_VERSION, "position": at} if order is not None:
                raise Problem.outdated(f"order {command.order_uid}", order["version"], at)
            case {"reason": str(reason)}:
                raise _refused(problems.ORDER_REFUSED, caused, order, f"The order was not cancelled: {reason}.")
            case _:
                raise dead_lettered(position)

    async def _command(self, command: OrderCommand, event: str) -> tuple[Position, Answer | None]:
        """Put a command on its topic and wait for what becomes of it; None when the wait ran out."""
        uid = command.order_uid
        try:
            position = await send(self._commands, uid, encode_command(command))
        except ValueError as error:  # The head that a command adds made the record larger than its topic takes.
            raise Problem(problems.TOO_LARGE, f"The document is too large to be carried: {error}.") from None
        args = {"order_uid": uid, "command_id": command.command_id, "event": event}
        wait_s = self._limits.outcome_wait_s
        return position, await outcome_of(self._desk, self._questions.outcome, uid, args, after=position, wait_s=wait_s)


def read_placed(raw: bytes, most_depth: int) -> OrderDocument | None:
    """A document that can be placed; None when the body is a cart. Raises Problem (400, 422)."""
    body.require_depth(raw, most_depth)
    return None if is_cart(raw) else read(raw)


def read(raw: bytes) -> OrderDocument:
    """A document that can be placed. Raises Problem: 400 for what JSON readers disagree about, 422 with fault paths."""
    try:
        return read_document(raw)
    except InvalidDocument as error:
        found = body.listed(error.faults)
        if error.reason == "not_json" or body.is_ambiguous(error.faults):
            raise Problem(problems.BAD_JSON, f"{error}"[:DETAIL_CHARACTERS], **found) from None
        count = "one fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
        raise Problem(problems.INVALID_DOCUMENT, f"The document has {count}.", **found) from None


def _refused(kind: problems.Kind, caused: dict[str, Any], order: dict[str, Any] | None, detail: str) -> Problem:
    headers = {answers.POSITION: caused["position"]} | ({"ETag": answers.etag(order["version"])} if order else {})
    return Problem(kind, detail, headers=headers, reason=caused["reason"], position=caused["position"])


def _done(status: int, order: dict[str, Any], position: str) -> web.Response:
    """The order without its document: the caller has just sent it, and it stands at Location."""
    headers = {"ETag": answers.etag(order["version"]), answers.POSITION: position}
    if status == 201:
        headers["Location"] = f"{HOME}/{order['order_uid']}"
    return answers.answer(status, {**order, "position": position}, headers)


def _accepted(command: OrderCommand, position: Position) -> web.Response:
    uid = command.order_uid
    return accepted({"order_uid": uid}, f"{HOME}/{uid}", command.command_id, position)


def _generated(command_id: str) -> bytes:
    """A sample order that follows from the command's id: the same command places the same order."""
    seed = int.from_bytes(sha256(command_id.encode()).digest()[:6], "big")
    return samples.generate(seed % 1_000_000, seed)
