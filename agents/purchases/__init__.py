"""purchases.commands.v1 -> decide -> purchases.events.v1; state in the tables of tables/purchases.py.

How an outlet takes orders is told to every partition (outlet_notes.commands.v1), so that an order finds it where it is.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.purchases.rules import deadlines_of, decide
from agents.purchases.state import evolve
from schemas.base import rfc3339
from schemas.outlets import NoteOutlet
from schemas.purchases import PlaceCart, PurchaseCommand, PurchaseEvent
from schemas.webhooks import about
from streams import App, Position, Record, Stream, Topic
from tables.orders import GROUP
from tables.purchases import PurchaseTables


def attach(
    app: App,
    *,
    commands: Topic,
    notes: Topic,
    events: Topic,
    tables: PurchaseTables,
    tell: Callable[[PurchaseEvent], None],
) -> None:
    """Wire the rules to their topics. `tell` hands each event to the domains that wait for it."""
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    def set_deadlines(event: PurchaseEvent) -> None:
        for name, due_at_ms, command in deadlines_of(event):
            id = f"{event.order_uid}\0{name}"
            if due_at_ms is None:
                deadlines.cancel(id)
            else:
                deadlines.schedule(due_at_ms, commands, key=event.order_uid, value=command, id=id)

    def carry_out(command: PurchaseCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the order's home; else bring the command home, once."""
        uid = command.order_uid
        if commands.take_home(cause, key=uid, value=command):
            return
        purchase = tables.purchase(uid)
        answered, at = tables.answered(command, purchase), rfc3339(cause.timestamp)
        taken = tables.orders.taken(uid) if purchase is None and isinstance(command, PlaceCart) else 0
        for event in decide(purchase, command, at, answered=answered, outlets=tables.outlets, taken=taken):
            before, purchase = purchase, evolve(purchase, event)
            tables.keep(before, purchase, event, Position(cause.topic, cause.partition, cause.offset))
            set_deadlines(event)
            headers = about(purchase.user_id if purchase else None)
            events.put(key=uid, value=event, partition=cause.partition, headers=headers)
            tell(event)

    @app.agent(commands, name="purchases.commands")
    async def obey(stream: Stream[PurchaseCommand]) -> None:
        """Lead orders through their life."""
        async for command in stream:
            carry_out(command, stream.event)

    @app.agent(notes, name="purchases.outlets")
    async def note(stream: Stream[NoteOutlet]) -> None:
        """Know how outlets take orders."""
        async for command in stream:
            tables.note(command)


__all__ = ["attach", "decide", "evolve"]
