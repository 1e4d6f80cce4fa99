"""orders, orders.commands.v1 -> decide -> orders.events.v1; state in the tables of tables/orders.py."""

from __future__ import annotations

from typing import assert_never

from schemas.base import InvalidDocument, command_id_at, event_id_for, rfc3339
from schemas.orders import (
    CancellationRefusal,
    CancellationRefused,
    CancelOrder,
    Order,
    OrderCancelled,
    OrderCommand,
    OrderEvent,
    OrderPlaced,
    OrderRefused,
    OrderStatus,
    PlacementRefusal,
    PlaceOrder,
    check_document,
    encode_command,
    encode_event,
    read_command,
    same_document,
)
from schemas.webhooks import about
from streams import App, FaultAt, Poison, Position, Record, Stream, Topic, partition_for
from tables.orders import OrderTables


def decide(
    order: Order | None, command: OrderCommand, occurred_at: str, *, answered: bool = False, taken: int = 0
) -> tuple[OrderEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say.

    `answered`: an event or a refusal of this command_id is in the order's timeline. A producer that did not hear the
    answer sends the command again; it must not get a second one under the same event_id. `taken`: the version of an
    order of this order_uid that is none of these: it was bought here.
    """
    if answered:
        return ()
    match command:
        case PlaceOrder():
            if order is None and taken:
                return (_refused(command, occurred_at, PlacementRefusal.ORDER_UID_TAKEN, taken),)
            if order is None:
                return (_placed(command, occurred_at),)
            if same_document(order.document, command.document):
                return ()
            return (_refused(command, occurred_at, PlacementRefusal.EXISTS_WITH_DIFFERENT_CONTENT, order.version),)
        case CancelOrder():
            if order is None:
                return (_not_cancelled(order, command, occurred_at, CancellationRefusal.NO_SUCH_ORDER),)
            if command.is_outdated(order.version):
                return (_not_cancelled(order, command, occurred_at, CancellationRefusal.WRONG_VERSION),)
            if order.status is OrderStatus.CANCELLED:
                return (_not_cancelled(order, command, occurred_at, CancellationRefusal.ALREADY_CANCELLED),)
            return (_cancelled(order, command, occurred_at),)
    assert_never(command)


def evolve(order: Order | None, event: OrderEvent) -> Order | None:
    """The order after the event. Versions grow by one with each event that is no refusal."""
    match event:
        case OrderPlaced():
            return Order(
                order_uid=event.order_uid,
                version=event.version,
                status=OrderStatus.PLACED,
                customer_id=event.customer_id,
                placed_at=event.occurred_at,
                updated_at=event.occurred_at,
                updated_by=event.caused_by,
                cancel_reason=None,
                document=event.document,
            )
        case OrderCancelled():
            assert order is not None, "decide cancels only what exists"
            return order._replace(
                version=event.version,
                status=OrderStatus.CANCELLED,
                updated_at=event.occurred_at,
                updated_by=event.caused_by,
                cancel_reason=event.reason,
            )
        case OrderRefused() | CancellationRefused():
            return order
    assert_never(event)


def _placed(command: PlaceOrder, occurred_at: str) -> OrderPlaced:
    return OrderPlaced(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=1,
        customer_id=command.customer_id,
        document=command.document,
    )


def _refused(command: PlaceOrder, occurred_at: str, reason: PlacementRefusal, version: int) -> OrderRefused:
    return OrderRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=version,
        reason=reason,
    )


def _cancelled(order: Order, command: CancelOrder, occurred_at: str) -> OrderCancelled:
    return OrderCancelled(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=order.version + 1,
        reason=command.reason,
    )


def _not_cancelled(
    order: Order | None, command: CancelOrder, occurred_at: str, reason: CancellationRefusal
) -> CancellationRefused:
    return CancellationRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=order.version if order else 0,
        reason=reason,
    )


def attach(app: App, *, intake: Topic, commands: Topic, events: Topic, tables: OrderTables) -> None:
    """Wire the rules to their topics: `intake` takes bare documents, `commands` says what shall happen."""

    def carry_out(command: OrderCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the order's home; else bring the command home, once.

        A producer may use another partitioner or no key. Home is where every worker looks for the order.
        """
        uid = command.order_uid
        home = partition_for(uid.encode(), commands.partitions)
        if home != cause.partition:
            commands.put(key=uid, value=encode_command(command), partition=home, headers=cause.headers)
            return
        order = tables.order(uid)
        # A placement of what does not exist cannot have been answered: the common case pays for no look back.
        taken = tables.elsewhere(uid) if order is None else 0
        new = order is None and not taken and isinstance(command, PlaceOrder)
        answered = not new and tables.answered(command, order)
        for event in decide(order, command, rfc3339(cause.timestamp), answered=answered, taken=taken):
            before, order = order, evolve(order, event)
            tables.keep(before, order, event, Position(cause.topic, cause.partition, cause.offset))
            # A placement names its customer itself, and is what there is most of.
            headers = () if order is None or isinstance(event, OrderPlaced) else about(order.customer_id)
            events.put(key=uid, value=encode_event(event), partition=home, headers=headers)

    @app.agent(intake, name="orders.intake")
    async def take_in(stream: Stream[bytes]) -> None:
        """Check each order document and place it."""
        async for raw in stream:
            carry_out(placement(raw, stream.event), stream.event)

    @app.agent(commands, name="orders.commands")
    async def obey(stream: Stream[bytes]) -> None:
        """Place and cancel orders."""
        async for raw in stream:
            carry_out(checked_command(raw), stream.event)


def placement(raw: bytes, record: Record) -> PlaceOrder:
    """The command that a bare document stands for. Its id is the record's place, so that a re-run says the same."""
    try:
        document = check_document(raw)
    except InvalidDocument as error:
        raise poison(error) from None
    return PlaceOrder.of(document, raw, command_id_at(record.topic, record.partition, record.offset))


def checked_command(raw: bytes) -> OrderCommand:
    """A command with its document checked again: any producer may write to the topic of commands."""
    try:
        return read_command(raw)
    except InvalidDocument as error:
        raise poison(error) from None


def poison(error: InvalidDocument) -> Poison:
    """The dead letter's words for a bad document: every fault with its path."""
    return Poison((FaultAt(fault.path, fault.message) for fault in error.faults), error.reason)
