"""POST of carts and of what happens to their orders -> commands on their topic -> the outcome -> the public answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from aiohttp import web
from pydantic import Field, model_validator

from schemas.accounts import UserId
from schemas.base import derived_id
from schemas.inventory import ItemId
from schemas.orders import OrderStatus
from schemas.orders.words import Reason
from schemas.payments import PaymentMethod
from schemas.purchases import (
    MAX_LINES,
    MAX_QUANTITY,
    AnyPurchaseCommand,
    ApproveOrder,
    ApproveReturn,
    CarrierTerms,
    CartLine,
    CartPayment,
    DeliverShipment,
    NewPartId,
    PackOrder,
    Part,
    PlaceCart,
    PurchaseRefusal,
    ReceiveReturn,
    RefuseReturn,
    RejectOrder,
    RequestReturn,
    RequestShipment,
    ReturnShipment,
    SendOut,
    ShipOrder,
    Terms,
    WithdrawShipment,
    order_uid_of,
)
from streams.records import Position
from web import answers, body, problems, reading
from web.accounts.writes import IdempotencyKey
from web.asking import Desk
from web.body import Body
from web.commands import Commands, accepted, dead_lettered, id_of, outcome_of, send
from web.limits import Limits
from web.orders import shapes
from web.problems import Problem
from web.purchases.admission import Admission, Asked
from web.purchases.questions import PurchaseQuestions
from web.requests import KEY, Requests
from web.seals import Seals

HOME = "/api/v1/orders"

#: Members that name a part of the order.
_IDS = ("shipment_id", "return_id")
#: How often an order is looked at while stock and money answer; one step takes 10 to 20 ms.
_LOOK_EVERY_S = 0.015
#: Where the buyer has nothing to wait for: the next step is somebody else's, or there is none.
_UNSETTLED = {OrderStatus.PLACED, OrderStatus.AWAITING_PAYMENT}

_WORDS = {
    PurchaseRefusal.NOT_IN_THIS_STATUS: "An order that is {status} takes no {command}.",
    PurchaseRefusal.NO_SUCH_LINE: "The order has no such line.",
    PurchaseRefusal.NO_SUCH_SHIPMENT: "The order has no such shipment.",
    PurchaseRefusal.SHIPMENT_EXISTS: "The order has a shipment of this id already.",
    PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY: "That shipment is not under way any more.",
    PurchaseRefusal.NO_SUCH_RETURN: "The order has no such return.",
    PurchaseRefusal.RETURN_EXISTS: "The order has a return of this id already.",
    PurchaseRefusal.RETURN_NOT_OPEN: "That return is not in a state that allows this.",
    PurchaseRefusal.MORE_THAN_THERE_IS: "More than there is of a line.",
    PurchaseRefusal.NOTHING_TO_SHIP: "All of the order has left already, or a carrier is to fetch it.",
    PurchaseRefusal.TOO_MANY_LINES: "The order has as many lines as it can have: return it for the money.",
    PurchaseRefusal.NOT_WITH_THE_CARRIER: "No carrier is waited for with that shipment.",
}


AddressName = Annotated[str, Field(max_length=64)]
AddressText = Annotated[str, Field(max_length=512)]


class HowPaid(Body):
    """How the buyer pays."""

    method: Literal["account", "provider", "cash_on_delivery"] = "account"
    instrument: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class CartItem(Body):
    """One line of a cart."""

    item_id: ItemId
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)]


class Cart(Body):
    """The body that buys: `items`, or for one line `item_id` and `quantity` beside the rest."""

    user_id: UserId
    items: Annotated[list[CartItem], Field(min_length=1, max_length=MAX_LINES)] | None = None
    item_id: ItemId | None = None
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] | None = None
    payment: HowPaid = HowPaid()
    address: Annotated[dict[AddressName, AddressText], Field(max_length=32)] | None = None
    split: bool = False
    idempotency_key: IdempotencyKey = None

    @model_validator(mode="after")
    def _lines_once(self) -> Cart:
        one = self.item_id is not None or self.quantity is not None
        if (self.items is None) == (not one) or (one and (self.item_id is None or self.quantity is None)):
            raise ValueError("give `items`, or `item_id` and `quantity`, and not both")
        return self

    @property
    def lines(self) -> list[CartLine]:
        if self.items is not None:
            return [CartLine(item_id=item.item_id, quantity=item.quantity) for item in self.items]
        assert self.item_id is not None and self.quantity is not None, "validated"
        return [CartLine(item_id=self.item_id, quantity=self.quantity)]


class Nothing(Body):
    """A body that says nothing more."""


class WithReason(Body):
    """Why."""

    reason: Reason


class Packing(Body):
    """Whether a carrier shall fetch it: as `ORDERSTREAM_CARRIER` says, when nothing is said."""

    carrier: bool | None = None


class Shipping(Body):
    """What leaves, or is to be fetched by a carrier; all that has not left yet when nothing is said."""

    carrier: bool = False
    shipment_id: NewPartId | None = None
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)] | None = None


class Returning(Body):
    """What comes back, why, and whether for the same again."""

    return_id: NewPartId | None = None
    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_LINES)]
    reason: Reason
    exchange: bool = False


class Action(NamedTuple):
    """Something that can be done to an order: POST /api/v1/orders/{order_uid}/<path>. `operation`: in /openapi.json."""

    path: str
    command: type[Any]
    body: type[Body]
    operation: str


ACTIONS = (
    Action("approve", ApproveOrder, Nothing, "approveOrder"),
    Action("reject", RejectOrder, WithReason, "rejectOrder"),
    Action("pack", PackOrder, Packing, "packOrder"),
    Action("shipments", ShipOrder, Shipping, "shipOrder"),
    Action("shipments/{shipment_id}/cancel", WithdrawShipment, WithReason, "withdrawShipment"),
    Action("shipments/{shipment_id}/out-for-delivery", SendOut, Nothing, "sendOut"),
    Action("shipments/{shipment_id}/delivered", DeliverShipment, Nothing, "deliverShipment"),
    Action("shipments/{shipment_id}/returned-to-origin", ReturnShipment, Nothing, "returnShipment"),
    Action("returns", RequestReturn, Returning, "requestReturn"),
    Action("returns/{return_id}/approve", ApproveReturn, Nothing, "approveReturn"),
    Action("returns/{return_id}/refuse", RefuseReturn, WithReason, "refuseReturn"),
    Action("returns/{return_id}/receive", ReceiveReturn, Nothing, "receiveReturn"),
)


def is_cart(raw: bytes) -> bool:
    """Whether a body means a cart: an order document has its own number, and a cart never has one."""
    if b'"user_id"' not in raw:
        return False
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and "user_id" in told and "order_uid" not in told


class PurchaseWrites:
    """The handlers that put a command on its topic: parse, command, wait, present."""

    def __init__(
        self,
        desk: Desk,
        questions: PurchaseQuestions,
        commands: Commands,
        requests: Requests,
        limits: Limits,
        terms: Terms,
        admission: Admission,
        carrier: Callable[[], CarrierTerms | None],
        seals: Seals,
    ) -> None:
        """`carrier` is asked each time: whether the sandbox runs may be known later than the worker starts."""
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits, self._terms = requests, limits, terms
        self._admission, self._carrier, self._seals = admission, carrier, seals

    async def place(self, request: web.Request, raw: bytes) -> web.Response:
        """POST /api/v1/orders with a cart: answers when stock and money have answered, or after a bounded wait."""
        if len(raw) > self._limits.small_body_bytes:
            raise body.too_large(f"a cart of {len(raw)} bytes", self._limits.small_body_bytes)
        cart = await body.parse(request, raw, Cart, self._limits)
        may_be_placed = cart.idempotency_key is not None or KEY in request.headers

        async def act(command_id: str) -> web.Response:
            id = id_of(f"cart\0{cart.user_id}", cart.idempotency_key, command_id)
            order_uid = order_uid_of(id)
            command = PlaceCart(
                command_id=id,
                order_uid=order_uid,
                user_id=cart.user_id,
                lines=cart.lines,
                payment=CartPayment(method=PaymentMethod(cart.payment.method), instrument=cart.payment.instrument),
                address=await self._seals.address(cart.user_id, order_uid, cart.address),
                split=cart.split,
                terms=self._terms,
            )
            limit = self._admission.limit
            if limit is None or (may_be_placed and await self.is_bought(command.order_uid)):
                return await self._placed(command)
            asked = await self._admission.ask(command, limit, wait_s=self._limits.outcome_wait_s)
            return await self._let_through(command, asked)

        return await self._requests.once(request, await self._seals.repeat(cart.user_id, raw), act)

    async def _let_through(self, command: PlaceCart, asked: Asked) -> web.Response:
        """The answer to a cart that the customer's owner hands on: it is looked for until it is an order."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._limits.outcome_wait_s
        args = {"order_uid": command.order_uid, "command_id": command.command_id}
        while asked.admitted and clock() < until:
            wait_s = self._limits.read_wait_s
            answer = await self._desk.ask_about(self._questions.outcome, command.order_uid, args, wait_s=wait_s)
            order, caused = answer.meta["order"], answer.meta["caused"]
            if order is None and caused is not None:
                raise _taken(command, caused)
            if order is not None:
                at = asked.position if caused is None else Position.parse(caused["position"])
                return await self._answered(command, order, at)
            await asyncio.sleep(_LOOK_EVERY_S)
        named = {"order_id": command.order_uid, "order_uid": command.order_uid}
        # Not with `min_offset`: the attempt stands on the customer's partition, and the order will on its own.
        return accepted(named, f"{HOME}/{command.order_uid}", asked.command_id, asked.position, wait=False)

    async def _placed(self, command: PlaceCart) -> web.Response:
        position, told = await self._command(command)
        if told is None:
            return _accepted(command, position)
        if told["order"] is None:
            raise dead_lettered(position) if told["caused"] is None else _taken(command, told["caused"])
        return await self._answered(command, told["order"], position)

    async def _answered(self, command: PlaceCart, order: dict[str, Any], position: Position) -> web.Response:
        if not _same(command, order):
            raise Problem(problems.KEY_REUSED, "`idempotency_key` was first sent with another cart; use a new key.")
        order = await self._settled(command, order)
        headers = {"Location": f"{HOME}/{command.order_uid}"}
        return _done(201, order, position, headers)

    async def _settled(self, command: PlaceCart, order: dict[str, Any]) -> dict[str, Any]:
        """The order once stock and money have answered. A provider may take minutes: that is not waited for."""
        unsettled = _UNSETTLED
        if command.payment.method is PaymentMethod.PROVIDER:
            unsettled = _UNSETTLED - {OrderStatus.AWAITING_PAYMENT}
        clock = asyncio.get_running_loop().time
        until = clock() + self._limits.outcome_wait_s
        uid = command.order_uid
        while order["status"] in unsettled and clock() < until:
            await asyncio.sleep(_LOOK_EVERY_S)
            wait_s = self._limits.read_wait_s
            answer = await self._desk.ask_about(self._questions.purchase, uid, {"order_uid": uid}, wait_s=wait_s)
            order = answer.meta["order"] or order
        return order

    def handler(self, action: Action) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of an action: its body is the command's members, the address names the shipment or return."""

        async def handle(request: web.Request) -> web.Response:
            reading.only(request)
            uid, expected = shapes.order_uid(request), reading.if_match(request)
            named = {name: shapes.part_id(request, name) for name in request.match_info if name != "order_uid"}
            said, raw = await body.read_model(request, self._limits, action.body, empty=b"{}")
            asked = dict(said)

            async def act(command_id: str) -> web.Response:
                # An id within the order, for a caller who gives none, follows from the command as everything does.
                made = {name: derived_id(command_id)[:8] for name in _IDS if asked.get(name, "") is None}
                kind, said = self._fetched_by(action.command, asked)
                more = {**said, **named, **made, "expected_version": expected}
                return await self.carry_out(kind(command_id=command_id, order_uid=uid, **more))

            return await self._requests.once(request, raw, act)

        return handle

    def _fetched_by(self, command: type[Any], asked: dict[str, Any]) -> tuple[type[Any], dict[str, Any]]:
        """The command and its members once it is clear who fetches. Raises Problem when that is nobody."""
        if command not in (PackOrder, ShipOrder):
            return command, asked
        terms, wanted = self._carrier(), asked["carrier"]
        if wanted and terms is None:
            detail = "There is no carrier: set ORDERSTREAM_CARRIER=topic, or start the sandbox (`make dev`)."
            raise Problem(problems.ORDER_REFUSED, detail, reason="no_carrier")
        if command is PackOrder:
            return command, {"carrier": None if wanted is False else terms}
        rest = {name: value for name, value in asked.items() if name != "carrier"}
        return (RequestShipment, {**rest, "carrier": terms}) if wanted else (ShipOrder, rest)

    async def carry_out(self, command: AnyPurchaseCommand) -> web.Response:
        """What became of a command to an order that exists. Raises Problem: 404, 409, 500."""
        position, told = await self._command(command)
        if told is None:
            return _accepted(command, position)
        order, caused = told["order"], told["caused"]
        if caused is None:
            raise dead_lettered(position)
        if caused["type"] != "purchase_command_refused":
            return _done(200, order, position, {})
        reason = PurchaseRefusal(caused["reason"])
        headers = {answers.POSITION: caused["position"]}
        if reason is PurchaseRefusal.NO_SUCH_ORDER:
            raise Problem(
                problems.NO_SUCH_ORDER,
                f"There is no order {command.order_uid} that was bought here.",
                headers=headers,
                reason=reason,
                position=caused["position"],
            )
        if reason is PurchaseRefusal.WRONG_VERSION:
            raise Problem.outdated(f"order {command.order_uid}", order["version"], caused["position"])
        detail = _WORDS[reason].format(status=order["status"], command=command.type)
        headers["ETag"] = answers.etag(order["version"])
        raise Problem(problems.ORDER_REFUSED, detail, headers=headers, reason=reason, position=caused["position"])

    async def is_bought(self, order_uid: str) -> bool:
        """Whether an order of this number was bought here, rather than come as a document."""
        asked = {"order_uid": order_uid}
        wait_s = self._limits.read_wait_s
        answer = await self._desk.ask_about(self._questions.purchase, order_uid, asked, wait_s=wait_s)
        return answer.meta["order"] is not None

    async def _command(self, command: AnyPurchaseCommand) -> tuple[Position, dict[str, Any] | None]:
        """Put a command on its topic and wait for what becomes of it; None when the wait ran out."""
        uid, wait_s = command.order_uid, self._limits.outcome_wait_s
        position = await send(self._commands, uid, command)
        args = {"order_uid": uid, "command_id": command.command_id}
        outcome = await outcome_of(self._desk, self._questions.outcome, uid, args, after=position, wait_s=wait_s)
        return position, None if outcome is None else outcome.meta


def _taken(command: PlaceCart, caused: dict[str, Any]) -> Problem:
    """The one refusal of a cart: somebody has placed a document under the number that it would have."""
    detail = f"An order document {command.order_uid} was there before: send the cart under another `idempotency_key`."
    headers = {answers.POSITION: caused["position"]}
    return Problem(
        problems.ORDER_REFUSED, detail, headers=headers, reason=caused["reason"], position=caused["position"]
    )


def _same(command: PlaceCart, order: dict[str, Any]) -> bool:
    """Whether the order was placed by the same cart: every field that a caller can give counts."""
    lines = [(line["item_id"], line["asked"]) for line in order["lines"] if line["replaces"] is None]
    payment = order["payment"]
    placed = (
        order["user_id"],
        lines,
        payment["method"],
        payment["instrument"],
        order["address"],
        order.get("split", command.split),
    )
    return placed == (
        command.user_id,
        [(line.item_id, line.quantity) for line in command.lines],
        command.payment.method,
        command.payment.instrument,
        command.address,
        command.split,
    )


def _done(status: int, order: dict[str, Any], position: Position, headers: dict[str, str]) -> web.Response:
    told = {**order, "position": str(position)}
    known = {"ETag": answers.etag(order["version"]), answers.POSITION: str(position)}
    return answers.answer(status, told, {**known, **headers})


def _accepted(command: AnyPurchaseCommand, position: Position) -> web.Response:
    uid = command.order_uid
    named = {"order_id": uid, "order_uid": uid}
    return accepted(named, f"{HOME}/{uid}", command.command_id, position)
