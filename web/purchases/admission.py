"""a cart under a limit -> customers.commands.v1 -> let through to the orders, or 429 with the time of the next."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import NamedTuple

from schemas.base import rfc3339
from schemas.customers import AdmitOrder, CustomerRefusal, OrderLimit
from schemas.purchases import PlaceCart
from streams.records import Position
from tables.accounts import GROUP
from tables.customers import CustomerTables
from web import answers, problems
from web.asking import Answer, Desk, Question
from web.commands import Commands, dead_lettered, outcome_of, send
from web.problems import Problem, whole_seconds


class Asked(NamedTuple):
    """The attempt that was made, where it stands, and whether it was let through; None: not known in time."""

    command_id: str
    position: Position
    admitted: bool | None


class Admission:
    """The first hop of a cart, where there is a limit. `limit` None: there is none, and nobody is asked."""

    def __init__(self, desk: Desk, tables: CustomerTables, commands: Commands, limit: OrderLimit | None) -> None:
        self._desk, self._tables, self._commands, self.limit = desk, tables, commands, limit
        self._question = desk.learn(Question("admission", GROUP, self._admission))

    def _admission(self, args: Mapping[str, str]) -> Answer:
        """What became of an attempt, while the window shows it."""
        customer = self._tables.customer(args["user_id"])
        if customer is None:
            return Answer()
        refused = customer.refusal(args["command_id"])
        return Answer(
            {
                "admitted": customer.has_admitted(args["order_uid"]),
                "refused": None if refused is None else refused._asdict(),
            }
        )

    async def ask(self, cart: PlaceCart, limit: OrderLimit, *, wait_s: float) -> Asked:
        """Whether the buyer may place one more. Raises Problem: 429, 500.

        Each attempt has an id of its own, because a refused cart may come again under the same key; an order that was
        admitted is known by its order_uid.
        """
        command = AdmitOrder(command_id=str(uuid.uuid4()), cart=cart, limit=limit)
        position = await send(self._commands, command.user_id, command)
        args = {"user_id": command.user_id, "order_uid": cart.order_uid, "command_id": command.command_id}
        told = await outcome_of(self._desk, self._question, command.user_id, args, after=position, wait_s=wait_s)
        if told is None:
            return Asked(command.command_id, position, None)
        if refused := told.meta.get("refused"):
            raise _too_many(limit, refused["at_ms"], refused["next_at_ms"], position)
        if not told.meta.get("admitted"):
            raise dead_lettered(position)
        return Asked(command.command_id, position, True)


def _too_many(limit: OrderLimit, at_ms: int, next_at_ms: int, position: Position) -> Problem:
    """The wait is between two times of the log, so that it is right whatever the caller's clock says."""
    seconds = limit.window_ms / 1000
    return Problem(
        problems.TOO_MANY_ORDERS,
        f"A customer may place {limit.most} orders in {seconds:g} s; the next one from {rfc3339(next_at_ms)} on.",
        headers={"Retry-After": whole_seconds((next_at_ms - at_ms) / 1000), answers.POSITION: str(position)},
        reason=CustomerRefusal.TOO_MANY_ORDERS,
        next_at=rfc3339(next_at_ms),
        position=str(position),
    )
