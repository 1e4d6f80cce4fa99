"""customers.commands.v1 -> decide -> customers.events.v1; state in the table of tables/customers.py.

A customer has one writer, so that two carts at once cannot both be the last one that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from schemas.base import event_id_for, rfc3339, unix_ms
from schemas.customers import (
    MOST_REFUSED,
    AdmitOrder,
    Admitted,
    Customer,
    CustomerCommand,
    CustomerEvent,
    CustomerRefusal,
    OrderAdmitted,
    OrderLimit,
    OrderNotAdmitted,
    Refused,
)
from streams import App, Record, Stream, Topic
from tables.customers import CustomerTables

Dated = TypeVar("Dated", Admitted, Refused)


def decide(customer: Customer | None, command: CustomerCommand, occurred_at: str) -> tuple[CustomerEvent, ...]:
    """Admitted while fewer than the limit's orders are in the window, else refused with the time of the next.

    `()`: this order was admitted, or this attempt was refused, and the window still shows it.
    """
    match command:
        case AdmitOrder(cart=cart, limit=limit):
            now_ms = unix_ms(occurred_at)
            shown = _shown_at(customer, command.user_id, now_ms, limit)
            if shown.has_admitted(cart.order_uid) or shown.refusal(command.command_id):
                return ()
            version = shown.version + 1
            said = {
                # With the version: an attempt that the window has forgotten is judged anew, and that is another event.
                "event_id": event_id_for(command.command_id, version),
                "caused_by": command.command_id,
                "occurred_at": occurred_at,
                "user_id": command.user_id,
                "order_uid": cart.order_uid,
                "version": version,
                "limit": limit,
            }
            counted = sorted(each.at_ms for each in shown.admitted)
            if len(counted) < limit.most:
                return (OrderAdmitted(**said, cart=cart, counted=len(counted) + 1),)
            next_at_ms = counted[len(counted) - limit.most] + limit.window_ms
            return (OrderNotAdmitted(**said, reason=CustomerRefusal.TOO_MANY_ORDERS, next_at_ms=next_at_ms),)
    assert_never(command)


def evolve(customer: Customer | None, event: CustomerEvent) -> Customer:
    """The customer after the event: what the window shows from there, and the event's order or attempt."""
    now_ms = unix_ms(event.occurred_at)
    after = _shown_at(customer, event.user_id, now_ms, event.limit)._replace(version=event.version)
    match event:
        case OrderAdmitted():
            return after._replace(admitted=(*after.admitted, Admitted(event.order_uid, now_ms)))
        case OrderNotAdmitted():
            attempt = Refused(event.caused_by, now_ms, event.next_at_ms)
            return after._replace(refused=(*after.refused, attempt)[-MOST_REFUSED:])
    assert_never(event)


def _shown_at(customer: Customer | None, user_id: str, now_ms: int, limit: OrderLimit) -> Customer:
    """The customer as the window shows it now."""
    if customer is None:
        return Customer(user_id, 0, (), ())
    inside = (_inside(customer.admitted, now_ms, limit), _inside(customer.refused, now_ms, limit))
    return customer._replace(admitted=inside[0], refused=inside[1])


def _inside(rows: tuple[Dated, ...], now_ms: int, limit: OrderLimit) -> tuple[Dated, ...]:
    """Rows within the window, on either side of now: clocks differ, and one that was wrong must not block for long."""
    return tuple(row for row in rows if abs(now_ms - row.at_ms) < limit.window_ms)


def attach(
    app: App, *, commands: Topic, events: Topic, tables: CustomerTables, tell: Callable[[CustomerEvent], None]
) -> None:
    """Wire the rules to their topics. `tell` hands the admitted cart on to the orders, in the same transaction."""

    def carry_out(command: CustomerCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the customer's home; else bring the command home, once."""
        key = command.user_id
        if commands.take_home(cause, key=key, value=command):
            return
        customer = tables.customer(key)
        for event in decide(customer, command, rfc3339(cause.timestamp)):
            customer = evolve(customer, event)
            tables.keep(customer)
            events.put(key=key, value=event, partition=cause.partition)
            tell(event)

    @app.agent(commands, name="customers.commands")
    async def obey(stream: Stream[CustomerCommand]) -> None:
        """Let carts through, or not yet."""
        async for command in stream:
            carry_out(command, stream.event)
