"""inventory.commands.v1 -> decide -> inventory.events.v1; state in the tables of tables/inventory.py.

An item and all that is reserved of it have one writer: between the check and the reservation nobody else can come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import orjson

from schemas.base import derived_id, event_id_for, rfc3339
from schemas.inventory import (
    MAX_ON_HAND,
    MAX_QUANTITY,
    AdjustStock,
    ChangeItem,
    CommitStock,
    CreateItem,
    InventoryChanged,
    InventoryCommand,
    InventoryCommandRefused,
    InventoryEvent,
    InventoryRefusal,
    Item,
    ItemChanged,
    ItemCreated,
    ReleaseStock,
    Reservation,
    ReservationState,
    ReserveStock,
    StockAdjusted,
    StockCommitted,
    StockLow,
    StockOut,
    StockReleased,
    StockReleaseReason,
    StockReserved,
)
from streams import App, Position, Record, Stream, Topic
from tables.inventory import GROUP, InventoryTables

#: Commands that name a reservation.
Reserving = ReserveStock | CommitStock | ReleaseStock


def decide(
    item: Item | None,
    reservation: Reservation | None,
    command: InventoryCommand,
    occurred_at: str,
    *,
    answered: bool = False,
) -> tuple[InventoryEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say.

    `reservation`: the one that the command names, if there is one. `answered`: this command_id has been decided on
    already, however long ago and whatever came of it: it changes nothing again.
    """
    if answered:
        return ()
    reason = _objection(item, reservation, command)
    if reason is not None:
        return (_refused(item, command, occurred_at, reason),)
    if isinstance(command, CreateItem):
        return () if item else (_created(command, occurred_at),)
    assert item is not None, "a command without an item was refused"
    match command:
        case ChangeItem():
            return _told(item, _changed(item, command, occurred_at))
        case AdjustStock():
            return _told(item, _adjusted(item, command, occurred_at))
        case ReserveStock():
            return () if reservation else _told(item, _reserved(item, command, occurred_at))
        case CommitStock():
            assert reservation is not None, "a commit without a reservation was refused"
            return _told(item, _committed(item, reservation, command, occurred_at))
        case ReleaseStock():
            assert reservation is not None, "a release without a reservation was refused"
            return _told(item, _released(item, reservation, command, occurred_at))
    assert_never(command)


def _objection(
    item: Item | None, reservation: Reservation | None, command: InventoryCommand
) -> InventoryRefusal | None:
    """Why the command changes nothing; the first reason in the order of InventoryRefusal."""
    if isinstance(command, CreateItem):
        same = item is None or _content_of(item) == _content_of(command)
        return None if same else InventoryRefusal.EXISTS_WITH_DIFFERENT_CONTENT
    if item is None:
        return InventoryRefusal.NO_SUCH_ITEM
    if command.is_outdated(item.version):
        return InventoryRefusal.WRONG_VERSION
    match command:
        case ChangeItem():
            return None if _given(command) else InventoryRefusal.NOTHING_TO_CHANGE
        case AdjustStock():
            return _objection_to_adjusting(item, command.delta)
        case ReserveStock():
            return _objection_to_quantity(command.quantity) or _objection_to_reserving(item, reservation, command)
        case CommitStock() | ReleaseStock():
            return _objection_to_quantity(command.quantity) or _objection_to_settling(reservation, command.quantity)
    assert_never(command)


def _objection_to_adjusting(item: Item, delta: int) -> InventoryRefusal | None:
    if delta == 0:
        return InventoryRefusal.ZERO_DELTA
    if abs(delta) > MAX_QUANTITY:
        return InventoryRefusal.QUANTITY_ABOVE_LIMIT
    if item.available + delta < 0:
        return InventoryRefusal.INSUFFICIENT_STOCK
    if item.on_hand + delta > MAX_ON_HAND:
        return InventoryRefusal.STOCK_ABOVE_LIMIT
    return None


def _objection_to_quantity(quantity: int | None) -> InventoryRefusal | None:
    if quantity is not None and quantity <= 0:
        return InventoryRefusal.NOT_POSITIVE_QUANTITY
    if quantity is not None and quantity > MAX_QUANTITY:
        return InventoryRefusal.QUANTITY_ABOVE_LIMIT
    return None


def _objection_to_reserving(
    item: Item, reservation: Reservation | None, command: ReserveStock
) -> InventoryRefusal | None:
    if reservation is not None:
        same = (reservation.asked, reservation.partial, reservation.expires_at_ms) == (
            command.quantity,
            command.partial,
            command.expires_at_ms,
        )
        return None if same else InventoryRefusal.RESERVATION_EXISTS_WITH_DIFFERENT_CONTENT
    if item.available == 0:
        return InventoryRefusal.OUT_OF_STOCK
    if command.quantity > item.available and not command.partial:
        return InventoryRefusal.INSUFFICIENT_STOCK
    return None


def _objection_to_settling(reservation: Reservation | None, quantity: int | None) -> InventoryRefusal | None:
    if reservation is None:
        return InventoryRefusal.NO_SUCH_RESERVATION
    if reservation.state is not ReservationState.RESERVED:
        return InventoryRefusal.RESERVATION_ALREADY_SETTLED
    if quantity is not None and quantity > reservation.remaining:
        return InventoryRefusal.QUANTITY_ABOVE_RESERVATION
    return None


def evolve(item: Item | None, event: InventoryEvent) -> Item | None:
    """The item after the event. Versions grow by one with each change; warnings and refusals are none."""
    match event:
        case ItemCreated():
            return Item(
                item_id=event.item_id,
                outlet_id=event.outlet_id,
                name=event.name,
                price_minor=event.price_minor,
                currency=event.currency,
                attributes=event.attributes,
                low_stock_at=0,
                on_hand=0,
                reserved=0,
                version=event.version,
                created_at=event.occurred_at,
                updated_at=event.occurred_at,
            )
        case ItemChanged():
            assert item is not None, "decide changes only what exists"
            return item._replace(
                name=event.name,
                price_minor=event.price_minor,
                attributes=event.attributes,
                low_stock_at=event.low_stock_at,
                version=event.version,
                updated_at=event.occurred_at,
            )
        case StockAdjusted() | StockReserved() | StockCommitted() | StockReleased():
            assert item is not None, "decide moves only what exists"
            return item._replace(
                on_hand=event.on_hand, reserved=event.reserved, version=event.version, updated_at=event.occurred_at
            )
        case StockLow() | StockOut() | InventoryCommandRefused():
            return item
    assert_never(event)


def evolve_reservation(reservation: Reservation | None, event: InventoryEvent) -> Reservation | None:
    """The reservation after the event, which may be about none."""
    match event:
        case StockReserved():
            return Reservation(
                order_uid=event.order_uid,
                line=event.line,
                item_id=event.item_id,
                asked=event.asked,
                partial=event.partial,
                quantity=event.quantity,
                committed=0,
                released=0,
                expires_at_ms=event.expires_at_ms,
                state=ReservationState.RESERVED,
                reserved_at=event.occurred_at,
                settled_at=None,
            )
        case StockCommitted():
            assert reservation is not None, "decide commits only what is reserved"
            after = reservation._replace(committed=reservation.committed + event.quantity)
            return _settled(after, ReservationState.COMMITTED, event)
        case StockReleased():
            assert reservation is not None, "decide releases only what is reserved"
            after = reservation._replace(released=reservation.released + event.quantity)
            expired = event.reason is StockReleaseReason.EXPIRED
            return _settled(after, ReservationState.EXPIRED if expired else ReservationState.RELEASED, event)
        case ItemCreated() | ItemChanged() | StockAdjusted() | StockLow() | StockOut() | InventoryCommandRefused():
            return reservation
    assert_never(event)


def _settled(after: Reservation, state: ReservationState, event: StockCommitted | StockReleased) -> Reservation:
    """Once nothing remains; until then it stands as it did."""
    return after if after.remaining else after._replace(state=state, settled_at=event.occurred_at)


def expiry_of(event: StockReserved) -> ReleaseStock:
    """What the deadline of a reservation sends. Its id follows from the event: a re-run schedules the same bytes."""
    return ReleaseStock(
        command_id=derived_id(f"expire {event.event_id}"),
        item_id=event.item_id,
        order_uid=event.order_uid,
        line=event.line,
        reason=StockReleaseReason.EXPIRED,
    )


def _content_of(item: Item | CreateItem) -> tuple[Any, ...]:
    """What an item is, but for its stock. Attributes as JSON: to Python 1, 1.0 and true would be the same."""
    attributes = orjson.dumps(item.attributes, option=orjson.OPT_SORT_KEYS)
    return item.outlet_id, item.name, item.price_minor, item.currency, attributes


def _given(command: ChangeItem) -> dict[str, Any]:
    """What a change names."""
    asked = {
        "name": command.name,
        "price_minor": command.price_minor,
        "attributes": command.attributes,
        "low_stock_at": command.low_stock_at,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _said(command: InventoryCommand, occurred_at: str, counter: int = 0) -> dict[str, Any]:
    return {
        "event_id": event_id_for(command.command_id, counter),
        "caused_by": command.command_id,
        "occurred_at": occurred_at,
        "item_id": command.item_id,
    }


def _stands(item: Item, command: InventoryCommand, at: str, on_hand: int = 0, reserved: int = 0) -> dict[str, Any]:
    """What every change says; `on_hand` and `reserved` are by how much they grow."""
    return {
        **_said(command, at),
        "outlet_id": item.outlet_id,
        "version": item.version + 1,
        "on_hand": item.on_hand + on_hand,
        "reserved": item.reserved + reserved,
    }


def _created(command: CreateItem, occurred_at: str) -> ItemCreated:
    return ItemCreated(
        **_said(command, occurred_at),
        outlet_id=command.outlet_id,
        version=1,
        on_hand=0,
        reserved=0,
        name=command.name,
        price_minor=command.price_minor,
        currency=command.currency,
        attributes=command.attributes,
    )


def _changed(item: Item, command: ChangeItem, occurred_at: str) -> ItemChanged | None:
    """None when the item is so already."""
    after = item._replace(**_given(command))
    if (_content_of(after), after.low_stock_at) == (_content_of(item), item.low_stock_at):
        return None
    return ItemChanged(
        **_stands(item, command, occurred_at),
        name=after.name,
        price_minor=after.price_minor,
        currency=after.currency,
        attributes=after.attributes,
        low_stock_at=after.low_stock_at,
    )


def _adjusted(item: Item, command: AdjustStock, occurred_at: str) -> StockAdjusted:
    return StockAdjusted(
        **_stands(item, command, occurred_at, on_hand=command.delta), delta=command.delta, reason=command.reason
    )


def _reserved(item: Item, command: ReserveStock, occurred_at: str) -> StockReserved:
    quantity = min(command.quantity, item.available)
    return StockReserved(
        **_stands(item, command, occurred_at, reserved=quantity),
        order_uid=command.order_uid,
        line=command.line,
        asked=command.quantity,
        quantity=quantity,
        partial=command.partial,
        name=item.name,
        price_minor=item.price_minor,
        currency=item.currency,
        expires_at_ms=command.expires_at_ms,
    )


def _committed(item: Item, reservation: Reservation, command: CommitStock, occurred_at: str) -> StockCommitted:
    quantity = reservation.remaining if command.quantity is None else command.quantity
    return StockCommitted(
        **_stands(item, command, occurred_at, on_hand=-quantity, reserved=-quantity),
        order_uid=command.order_uid,
        line=command.line,
        quantity=quantity,
        remaining=reservation.remaining - quantity,
    )


def _released(item: Item, reservation: Reservation, command: ReleaseStock, occurred_at: str) -> StockReleased:
    quantity = reservation.remaining if command.quantity is None else command.quantity
    return StockReleased(
        **_stands(item, command, occurred_at, reserved=-quantity),
        order_uid=command.order_uid,
        line=command.line,
        quantity=quantity,
        remaining=reservation.remaining - quantity,
        reason=command.reason,
    )


def _told(before: Item, change: InventoryChanged | None) -> tuple[InventoryEvent, ...]:
    """A change, and beside it the warnings when it brings the stock down to where somebody has to know of it."""
    if change is None:
        return ()
    after = evolve(before, change)
    assert after is not None, "an item that changes stays"
    standing = {**change.model_dump(include=_STANDS), "caused_by": change.caused_by, "occurred_at": change.occurred_at}
    told: list[InventoryEvent] = [change]
    if after.low and not before.low:
        id = event_id_for(change.caused_by, len(told))
        told.append(StockLow(**standing, event_id=id, low_stock_at=after.low_stock_at))
    if after.available == 0 and before.available > 0:
        told.append(StockOut(**standing, event_id=event_id_for(change.caused_by, len(told))))
    return tuple(told)


_STANDS = {"item_id", "outlet_id", "version", "on_hand", "reserved"}


def _refused(
    item: Item | None, command: InventoryCommand, occurred_at: str, reason: InventoryRefusal
) -> InventoryCommandRefused:
    return InventoryCommandRefused(
        **_said(command, occurred_at),
        version=item.version if item else 0,
        command=command.type,
        reason=reason,
        available=item.available if item else 0,
        order_uid=command.order_uid if isinstance(command, Reserving) else None,
        line=command.line if isinstance(command, Reserving) else None,
    )


def attach(
    app: App, *, commands: Topic, events: Topic, tables: InventoryTables, tell: Callable[[InventoryEvent], None]
) -> None:
    """Wire the rules to their topics. A reservation that expires is released by a record, which its deadline sends.

    `tell` hands each event to the domains that wait for it.
    """
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    def settle_deadline(event: StockReserved | StockCommitted | StockReleased) -> None:
        id = f"{event.item_id}\0{event.reservation_id}"
        if isinstance(event, StockReserved):
            if event.expires_at_ms is not None:
                deadlines.schedule(event.expires_at_ms, commands, key=event.item_id, value=expiry_of(event), id=id)
        elif event.remaining == 0:
            deadlines.cancel(id)

    def carry_out(command: InventoryCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the item's home; else bring the command home, once."""
        key = command.item_id
        if commands.take_home(cause, key=key, value=command):
            return
        item, at = tables.item(key), rfc3339(cause.timestamp)
        reservation = tables.reservation(key, command.reservation_id) if isinstance(command, Reserving) else None
        answered = tables.answer(key, command.command_id) is not None
        said = decide(item, reservation, command, at, answered=answered)
        for event in said:
            before, item = item, evolve(item, event)
            tables.keep_item(before, item, Position(cause.topic, cause.partition, cause.offset))
            if isinstance(event, StockReserved | StockCommitted | StockReleased):
                reservation = evolve_reservation(reservation, event)
                assert reservation is not None, "such an event leaves a reservation"
                tables.keep_reservation(reservation)
                settle_deadline(event)
            events.put(key=key, value=event, partition=cause.partition)
            tell(event)
        if not answered:
            position = Position(cause.topic, cause.partition, cause.offset)
            tables.keep_answer(item, command, said[0] if said else None, at, position)

    @app.agent(commands, name="inventory.commands")
    async def obey(stream: Stream[InventoryCommand]) -> None:
        """Keep the catalogue and its stock."""
        async for command in stream:
            carry_out(command, stream.event)
