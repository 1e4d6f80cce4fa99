"""outlets.commands.v1 -> decide -> outlets.events.v1; state in the tables of tables/outlets.py.

A series of numbers has one writer, the task of its outlet: a number is given and written down in one transaction, so
that none is lost and none is given twice, whoever dies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from schemas.base import event_id_for, rfc3339
from schemas.outlets import (
    AnyOutletCommand,
    ConfigureOutlet,
    IssueNumber,
    NumberIssued,
    Outlet,
    OutletCommand,
    OutletConfigured,
    OutletEvent,
    Series,
)
from streams import App, Position, Record, Stream, Topic
from tables.outlets import OutletTables


def series_at(outlet: Outlet | None, outlet_id: str, occurred_at: str) -> Series:
    """The series that a number of this moment belongs to. A record that is late has its own year's number."""
    prefix = outlet.number_prefix if outlet else None
    return Series(prefix or outlet_id, int(occurred_at[:4]))


def decide(
    outlet: Outlet | None, command: AnyOutletCommand, occurred_at: str, *, answered: bool = False, last: int = 0
) -> tuple[OutletEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say; there is nothing to refuse.

    `answered`: the command_id has been decided on, or the order has its number. `last`: of the series of this moment.
    """
    if answered:
        return ()
    said = {
        "event_id": event_id_for(command.command_id, 0),
        "caused_by": command.command_id,
        "occurred_at": occurred_at,
        "outlet_id": command.outlet_id,
    }
    match command:
        case ConfigureOutlet(approval=approval, number_prefix=prefix):
            now = (outlet.approval, outlet.number_prefix) if outlet else (None, None)
            if now == (approval, prefix):
                return ()
            version = outlet.version + 1 if outlet else 1
            return (OutletConfigured(**said, version=version, approval=approval, number_prefix=prefix),)
        case IssueNumber(order_uid=order_uid):
            series = series_at(outlet, command.outlet_id, occurred_at)
            number = series.number(last + 1)
            return (
                NumberIssued(**said, order_uid=order_uid, **series._asdict(), sequence=last + 1, order_number=number),
            )
    assert_never(command)


def evolve(outlet: Outlet | None, event: OutletEvent) -> Outlet | None:
    """The outlet after the event. A number changes nothing of what it has said."""
    match event:
        case OutletConfigured():
            return Outlet(
                outlet_id=event.outlet_id,
                version=event.version,
                approval=event.approval,
                number_prefix=event.number_prefix,
                updated_at=event.occurred_at,
            )
        case NumberIssued():
            return outlet
    assert_never(event)


def attach(
    app: App, *, commands: Topic, events: Topic, tables: OutletTables, tell: Callable[[OutletEvent], None]
) -> None:
    """Wire the rules to their topics. `tell` hands each event to the orders, which go by it."""

    def configure(command: ConfigureOutlet, cause: Record) -> None:
        if tables.answer(command.outlet_id, command.command_id) is not None:
            return
        outlet, configured = tables.outlet(command.outlet_id), None
        for event in decide(outlet, command, rfc3339(cause.timestamp)):
            assert isinstance(event, OutletConfigured), "configuring gives no number"
            outlet, configured = evolve(outlet, event), event
            assert outlet is not None, "an outlet that said something is kept"
            tables.keep_outlet(outlet)
            publish(event, cause)
        tables.keep_answer(command, configured, outlet, Position(cause.topic, cause.partition, cause.offset))

    def issue(command: IssueNumber, cause: Record) -> None:
        at, outlet = rfc3339(cause.timestamp), tables.outlet(command.outlet_id)
        answered = tables.number_of(command.outlet_id, command.order_uid) is not None
        last = tables.last_of(command.outlet_id, series_at(outlet, command.outlet_id, at))
        for event in decide(outlet, command, at, answered=answered, last=last):
            assert isinstance(event, NumberIssued), "asked for a number"
            tables.keep_number(event)
            publish(event, cause)

    def publish(event: OutletEvent, cause: Record) -> None:
        events.put(key=event.outlet_id, value=event, partition=cause.partition)
        tell(event)

    @app.agent(commands, name="outlets.commands")
    async def obey(stream: Stream[OutletCommand]) -> None:
        """Note how outlets take orders, and number the orders that they took."""
        async for command in stream:
            if commands.take_home(stream.event, key=command.outlet_id, value=command):
                continue
            if isinstance(command, ConfigureOutlet):
                configure(command, stream.event)
            else:
                issue(command, stream.event)
