"""Inventory: the rules as a table of outcomes, a row for every refusal; and what is true of every life of an item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pytest import mark, param

from agents.inventory import decide, evolve, evolve_reservation, expiry_of
from schemas.base import content_of, event_id_for
from schemas.inventory import (
    MAX_ATTRIBUTES_BYTES,
    MAX_ON_HAND,
    MAX_QUANTITY,
    AdjustStock,
    ChangeItem,
    CommitStock,
    CreateItem,
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
    read_event,
)

ME, AT = "mascara-1", "2021-11-26T06:22:19.000Z"
R, WHY = InventoryRefusal, StockReleaseReason

CREATE = CreateItem(
    command_id="n",
    item_id=ME,
    outlet_id="outlet-1",
    name="Mascara",
    price_minor=500,
    currency="INR",
    attributes={"n": 1},
)


def change(id: str = "ch", **more: Any) -> ChangeItem:
    return ChangeItem(command_id=id, item_id=ME, **more)


def adjust(delta: int, id: str = "s", reason: str = "receive") -> AdjustStock:
    return AdjustStock(command_id=id, item_id=ME, delta=delta, reason=reason)


def reserve(quantity: int, id: str = "r", **more: Any) -> ReserveStock:
    return ReserveStock(command_id=id, item_id=ME, quantity=quantity, **{"order_uid": "o", "line": 1, **more})


def commit(quantity: int | None = None, id: str = "c") -> CommitStock:
    return CommitStock(command_id=id, item_id=ME, order_uid="o", line=1, quantity=quantity)


def release(quantity: int | None = None, id: str = "x", reason: StockReleaseReason = WHY.CANCELLED) -> ReleaseStock:
    return ReleaseStock(command_id=id, item_id=ME, order_uid="o", line=1, quantity=quantity, reason=reason)


def said(command: InventoryCommand, counter: int = 0) -> dict[str, Any]:
    id = command.command_id
    return {"event_id": event_id_for(id, counter), "caused_by": id, "occurred_at": AT, "item_id": ME}


def figures(version: int, on_hand: int, reserved: int = 0) -> dict[str, Any]:
    return {"outlet_id": "outlet-1", "version": version, "on_hand": on_hand, "reserved": reserved}


SOLD_AS: dict[str, Any] = {"name": "Mascara", "price_minor": 500, "currency": "INR"}
LINE: dict[str, Any] = {"order_uid": "o", "line": 1}


def changed(command: ChangeItem, version: int, on_hand: int = 0, reserved: int = 0, **now: Any) -> ItemChanged:
    whole = {**SOLD_AS, "attributes": {"n": 1}, "low_stock_at": 0, **now}
    return ItemChanged(**said(command), **figures(version, on_hand, reserved), **whole)


def adjusted(command: AdjustStock, version: int, on_hand: int, reserved: int = 0) -> StockAdjusted:
    figured = figures(version, on_hand, reserved)
    return StockAdjusted(**said(command), **figured, delta=command.delta, reason=command.reason)


def kept(
    command: ReserveStock, version: int, on_hand: int, reserved: int, quantity: int | None = None
) -> StockReserved:
    return StockReserved(
        **said(command),
        **figures(version, on_hand, reserved),
        **SOLD_AS,
        order_uid=command.order_uid,
        line=command.line,
        asked=command.quantity,
        quantity=command.quantity if quantity is None else quantity,
        partial=command.partial,
        expires_at_ms=command.expires_at_ms,
    )


def gone(command: CommitStock, version: int, stock: tuple[int, int], quantity: int, remaining: int) -> StockCommitted:
    return StockCommitted(**said(command), **figures(version, *stock), **LINE, quantity=quantity, remaining=remaining)


def freed(command: ReleaseStock, version: int, stock: tuple[int, int], quantity: int, remaining: int) -> StockReleased:
    quantities = {"quantity": quantity, "remaining": remaining}
    return StockReleased(**said(command), **figures(version, *stock), **LINE, **quantities, reason=command.reason)


def low(command: InventoryCommand, version: int, stock: tuple[int, int], low_stock_at: int) -> StockLow:
    return StockLow(**said(command, 1), **figures(version, *stock), low_stock_at=low_stock_at)


def out(command: InventoryCommand, version: int, stock: tuple[int, int], counter: int = 1) -> StockOut:
    return StockOut(**said(command, counter), **figures(version, *stock))


def refused(
    command: InventoryCommand, version: int, available: int, reason: InventoryRefusal
) -> InventoryCommandRefused:
    reserving = isinstance(command, ReserveStock | CommitStock | ReleaseStock)
    line = {"order_uid": command.order_uid, "line": command.line} if reserving else {}  # type: ignore[union-attr]
    told = {"version": version, "available": available, "reason": reason, **line}
    return InventoryCommandRefused(**said(command), command=command.type, **told)


CREATED = ItemCreated(**said(CREATE), **figures(1, 0), **SOLD_AS, attributes={"n": 1})
WITH_10: list[InventoryEvent] = [CREATED, adjusted(adjust(10), 2, 10)]
LOW_AT_5: list[InventoryEvent] = [*WITH_10, changed(change(low_stock_at=5), 3, 10, low_stock_at=5)]
KEPT_4: list[InventoryEvent] = [*WITH_10, kept(reserve(4), 3, 10, 4)]
SHIPPED_1: list[InventoryEvent] = [*KEPT_4, gone(commit(1, "c0"), 4, (9, 3), 1, 3)]
SHIPPED: list[InventoryEvent] = [*KEPT_4, gone(commit(None, "c0"), 4, (6, 0), 4, 0)]
FREED: list[InventoryEvent] = [*KEPT_4, freed(release(None, "x0"), 4, (10, 0), 4, 0)]
FULL: list[InventoryEvent] = [CREATED, adjusted(adjust(MAX_ON_HAND), 2, MAX_ON_HAND)]


def after(events: Sequence[InventoryEvent]) -> tuple[Item | None, Reservation | None]:
    return reduce(evolve, events, None), reduce(evolve_reservation, events, None)


def answer(past: Sequence[InventoryEvent], command: InventoryCommand) -> list[InventoryEvent]:
    item, found = after(past)
    if isinstance(command, ReserveStock) and (command.order_uid, command.line) != ("o", 1):
        found = None
    answered = any(event.caused_by == command.command_id for event in past)
    return list(decide(item, found, command, AT, answered=answered))


def no(past: list[InventoryEvent], command: InventoryCommand, reason: InventoryRefusal, id: str) -> Any:
    """A row of a refusal: the version and the stock that it met are those of the past."""
    item, _ = after(past)
    standing = (item.version, item.available) if item else (0, 0)
    return param(past, command, [refused(command, *standing, reason)], id=id)


TOO_MANY = MAX_QUANTITY + 1
ROWS = [
    param([], CREATE, [CREATED], id="creates"),
    param([CREATED], CREATE, [], id="the same command again"),
    param([CREATED], CREATE.model_copy(update={"command_id": "n2"}), [], id="there already: nothing new"),
    param([CREATED], change(name="M"), [changed(change(name="M"), 2, name="M")], id="changes the name"),
    param([CREATED], change(price_minor=0), [changed(change(price_minor=0), 2, price_minor=0)], id="the price"),
    param([CREATED], change(attributes={}), [changed(change(attributes={}), 2, attributes={})], id="attributes"),
    param(
        [CREATED],
        change(attributes={"n": True}),
        [changed(change(attributes={"n": True}), 2, attributes={"n": True})],
        id="true is not 1",
    ),
    param([CREATED], change(name="Mascara", price_minor=500), [], id="so already: nothing new"),
    param(
        WITH_10, change(low_stock_at=10), [changed(change(low_stock_at=10), 3, 10, low_stock_at=10)], id="just enough"
    ),
    param(
        WITH_10,
        change(low_stock_at=11),
        [changed(change(low_stock_at=11), 3, 10, low_stock_at=11), low(change(), 3, (10, 0), 11)],
        id="low from now on",
    ),
    param([CREATED], adjust(10), [adjusted(adjust(10), 2, 10)], id="receives"),
    param(WITH_10, adjust(10), [], id="receives once"),
    param(WITH_10, adjust(99), [], id="the same id again is the same command again"),
    param(WITH_10, adjust(-9, "t"), [adjusted(adjust(-9, "t"), 3, 1)], id="takes"),
    param(
        WITH_10, adjust(-10, "t"), [adjusted(adjust(-10, "t"), 3, 0), out(adjust(0, "t"), 3, (0, 0))], id="takes all"
    ),
    param(KEPT_4, adjust(-5, "t"), [adjusted(adjust(-5, "t"), 4, 5, 4)], id="takes what is not reserved"),
    param(LOW_AT_5, adjust(-5, "t"), [adjusted(adjust(-5, "t"), 4, 5)], id="not low yet"),
    param(
        LOW_AT_5,
        adjust(-6, "t"),
        [adjusted(adjust(-6, "t"), 4, 4), low(adjust(0, "t"), 4, (4, 0), 5)],
        id="low",
    ),
    param(
        LOW_AT_5,
        reserve(10),
        [kept(reserve(10), 4, 10, 10), low(reserve(1), 4, (10, 10), 5), out(reserve(1), 4, (10, 10), 2)],
        id="low and out at once",
    ),
    param(
        [*LOW_AT_5, adjusted(adjust(-6, "t0"), 4, 4)],
        adjust(-1, "t"),
        [adjusted(adjust(-1, "t"), 5, 3)],
        id="low before: said once",
    ),
    param(WITH_10, reserve(4), [kept(reserve(4), 3, 10, 4)], id="reserves"),
    param(WITH_10, reserve(10), [kept(reserve(10), 3, 10, 10), out(reserve(1), 3, (10, 10))], id="reserves all"),
    param(
        KEPT_4,
        reserve(6, "r2", line=2),
        [kept(reserve(6, "r2", line=2), 4, 10, 10), out(reserve(1, "r2"), 4, (10, 10))],
        id="reserves the rest",
    ),
    param(
        KEPT_4,
        reserve(7, "r2", line=2, partial=True),
        [kept(reserve(7, "r2", line=2, partial=True), 4, 10, 10, 6), out(reserve(1, "r2"), 4, (10, 10))],
        id="reserves what there is",
    ),
    param(WITH_10, reserve(4, partial=True), [kept(reserve(4, partial=True), 3, 10, 4)], id="a part that is all"),
    param(KEPT_4, reserve(4, "r2"), [], id="the same reservation in another command"),
    param(SHIPPED, reserve(4, "r2"), [], id="a reservation that was shipped, again"),
    param(FREED, reserve(4, "r2"), [], id="a reservation that was released, again"),
    param(KEPT_4, commit(), [gone(commit(), 4, (6, 0), 4, 0)], id="ships all"),
    param(KEPT_4, commit(4), [gone(commit(4), 4, (6, 0), 4, 0)], id="ships all, by number"),
    param(KEPT_4, commit(1), [gone(commit(1), 4, (9, 3), 1, 3)], id="ships a part, the rest stays reserved"),
    param(SHIPPED_1, commit(3), [gone(commit(3), 5, (6, 0), 3, 0)], id="ships the rest"),
    param(SHIPPED_1, commit(), [gone(commit(), 5, (6, 0), 3, 0)], id="ships what is left"),
    param(KEPT_4, release(), [freed(release(), 4, (10, 0), 4, 0)], id="releases"),
    param(KEPT_4, release(3), [freed(release(3), 4, (10, 1), 3, 1)], id="releases a part"),
    param(SHIPPED_1, release(), [freed(release(), 5, (9, 0), 3, 0)], id="releases what was not shipped"),
    param(
        KEPT_4,
        release(reason=WHY.EXPIRED),
        [freed(release(reason=WHY.EXPIRED), 4, (10, 0), 4, 0)],
        id="expires",
    ),
    # refusals, in the order in which they are checked
    *(
        no([CREATED], CREATE.model_copy(update={"command_id": "n2", name: value}), R.EXISTS_WITH_DIFFERENT_CONTENT, id)
        for id, name, value in (
            ("there, of another outlet", "outlet_id", "outlet-2"),
            ("there, with another name", "name", "M"),
            ("there, at another price", "price_minor", 501),
            ("there, in another currency", "currency", "EUR"),
            ("there, with other attributes", "attributes", {"n": 1.0}),
        )
    ),
    *(
        no([], command, R.NO_SUCH_ITEM, f"{command.type}, no item")
        for command in (change(), adjust(0), reserve(0), commit(0), release(0))
    ),
    param([refused(adjust(5), 0, 0, R.NO_SUCH_ITEM), CREATED], adjust(5), [], id="refused once, whatever came since"),
    no([CREATED], change(expected_version=2), R.WRONG_VERSION, "for another version, and names nothing"),
    no(WITH_10, change(price_minor=3, expected_version=1), R.WRONG_VERSION, "for an earlier version"),
    no([CREATED], change(expected_version=1), R.NOTHING_TO_CHANGE, "for this version, names nothing"),
    no([CREATED], change(), R.NOTHING_TO_CHANGE, "names nothing"),
    no(WITH_10, adjust(0, "t"), R.ZERO_DELTA, "by nothing"),
    *(
        no(KEPT_4, command, R.NOT_POSITIVE_QUANTITY, f"{command.type} {command.quantity}")
        for quantity in (0, -1)
        for command in (reserve(quantity, "r2"), commit(quantity), release(quantity))
    ),
    *(
        no(KEPT_4, command, R.QUANTITY_ABOVE_LIMIT, f"{command.type}, too many for any")
        for command in (reserve(TOO_MANY, "r2"), commit(TOO_MANY), release(TOO_MANY))
    ),
    no(FULL, adjust(-TOO_MANY, "t"), R.QUANTITY_ABOVE_LIMIT, "takes too many for any"),
    no([CREATED], adjust(TOO_MANY), R.QUANTITY_ABOVE_LIMIT, "receives too many for any"),
    param([CREATED], adjust(MAX_QUANTITY), [adjusted(adjust(MAX_QUANTITY), 2, MAX_QUANTITY)], id="the most at once"),
    *(
        no(KEPT_4, command, R.RESERVATION_EXISTS_WITH_DIFFERENT_CONTENT, id)
        for id, command in {
            "the same line with another quantity": reserve(5, "r2"),
            "the same line, now in part too": reserve(4, "r2", partial=True),
            "the same line with another expiry": reserve(4, "r2", expires_at_ms=1),
        }.items()
    ),
    no(WITH_10, commit(), R.NO_SUCH_RESERVATION, "ships, never reserved"),
    no(WITH_10, release(), R.NO_SUCH_RESERVATION, "releases, never reserved"),
    no(SHIPPED, commit(), R.RESERVATION_ALREADY_SETTLED, "shipped twice"),
    no(SHIPPED, release(), R.RESERVATION_ALREADY_SETTLED, "released after it was shipped"),
    no(FREED, commit(1), R.RESERVATION_ALREADY_SETTLED, "shipped after it was released"),
    no(KEPT_4, commit(5), R.QUANTITY_ABOVE_RESERVATION, "ships more than is reserved"),
    no(SHIPPED_1, release(4), R.QUANTITY_ABOVE_RESERVATION, "releases what was shipped"),
    no([CREATED], reserve(1), R.OUT_OF_STOCK, "nothing there"),
    no([CREATED], reserve(1, partial=True), R.OUT_OF_STOCK, "nothing there, not even in part"),
    no(WITH_10, reserve(11), R.INSUFFICIENT_STOCK, "reserves too much"),
    no(KEPT_4, reserve(7, "r2", line=2), R.INSUFFICIENT_STOCK, "reserves what another has"),
    no(WITH_10, adjust(-11, "t"), R.INSUFFICIENT_STOCK, "takes too much"),
    no(KEPT_4, adjust(-7, "t"), R.INSUFFICIENT_STOCK, "takes what is reserved"),
    no(FULL, adjust(1, "t"), R.STOCK_ABOVE_LIMIT, "the outlet is full"),
]


@mark.parametrize(("past", "command", "expected"), ROWS)
def test_inventory(past: list[InventoryEvent], command: InventoryCommand, expected: list[InventoryEvent]) -> None:
    assert answer(past, command) == expected
    for event in expected:
        assert read_event(event.model_dump_json().encode()) == event


def test_every_refusal_has_its_row() -> None:
    told = [event for row in ROWS for event in row.values[2]]
    assert {event.reason for event in told if isinstance(event, InventoryCommandRefused)} == set(InventoryRefusal)


def test_an_item_after_its_events() -> None:
    item, found = after(SHIPPED_1)
    assert item == Item(ME, "outlet-1", "Mascara", 500, "INR", {"n": 1}, 0, 9, 3, 4, AT, AT)
    assert (item.available, item.low) == (6, False)
    assert found == Reservation("o", 1, ME, 4, False, 4, 1, 0, None, ReservationState.RESERVED, AT, None)
    assert found.remaining == 3
    assert Item.from_json(item.to_json()) == item and Reservation.from_json(found.to_json()) == found


@mark.parametrize(
    ("last", "state"),
    [
        (gone(commit(), 5, (6, 0), 3, 0), ReservationState.COMMITTED),
        (freed(release(), 5, (9, 0), 3, 0), ReservationState.RELEASED),
        (freed(release(reason=WHY.EXPIRED), 5, (9, 0), 3, 0), ReservationState.EXPIRED),
    ],
)
def test_a_reservation_is_settled_by_its_last_piece(last: InventoryEvent, state: ReservationState) -> None:
    _, found = after([*SHIPPED_1, last])
    assert found is not None
    assert (found.state, found.remaining, found.settled_at) == (state, 0, AT)
    assert found.committed + found.released == found.quantity


def test_attributes_have_no_order() -> None:
    both = CREATE.model_copy(update={"attributes": {"a": 1, "b": 2}})
    (made,) = decide(None, None, both, AT)
    again = CREATE.model_copy(update={"command_id": "n2", "attributes": {"b": 2, "a": 1}})
    assert decide(evolve(None, made), None, again, AT) == ()


def test_an_expiry_is_the_same_command_whenever_it_is_scheduled() -> None:
    event = kept(reserve(4, expires_at_ms=5), 3, 10, 4)
    assert expiry_of(event) == expiry_of(event)
    assert (expiry_of(event).reason, expiry_of(event).reservation_id) == (WHY.EXPIRED, "o:1")


# -- properties --------------------------------------------------------------------------------------------------------

COUNTS = st.integers(-1, 6)
LINES = st.sampled_from([("a", 1), ("a", 2), ("b", 1)])


@st.composite
def commands(draw: st.DrawFn) -> InventoryCommand:
    """Any command about one item; ids repeat now and then."""
    id, (order_uid, line) = draw(st.integers(0, 60)), draw(LINES)
    about: dict[str, Any] = {"command_id": f"c{id}", "item_id": ME}
    names: dict[str, Any] = {**about, "order_uid": order_uid, "line": line}
    some = draw(COUNTS | st.none())
    made: list[InventoryCommand] = [
        CREATE.model_copy(update={"command_id": f"c{id}"}),
        ChangeItem(**about, low_stock_at=draw(st.integers(0, 4))),
        AdjustStock(**about, delta=draw(st.integers(-6, 9)), reason="count"),
        ReserveStock(**names, quantity=draw(COUNTS), partial=draw(st.booleans())),
        CommitStock(**names, quantity=some),
        ReleaseStock(**names, quantity=some),
    ]
    return draw(st.sampled_from(made))


def live(said: Sequence[InventoryCommand]) -> tuple[list[InventoryEvent], Item | None, dict[str, Reservation]]:
    """What the agent does with commands in their order, without topics and tables."""
    item: Item | None = None
    kept: dict[str, Reservation] = {}
    told: list[InventoryEvent] = []
    heard: set[str] = set()
    for command in said:
        id = getattr(command, "reservation_id", "")
        answered = command.command_id in heard
        heard.add(command.command_id)
        for event in decide(item, kept.get(id), command, AT, answered=answered):
            item = evolve(item, event)
            if (found := evolve_reservation(kept.get(id), event)) is not None:
                kept[id] = found
            told.append(event)
    return told, item, kept


@settings(max_examples=150, deadline=None)
@given(st.lists(commands(), max_size=40))
def test_nothing_is_lost_or_sold_twice(said: list[InventoryCommand]) -> None:
    """What is on hand is what came in less what was committed; what is reserved is what the reservations have."""
    told, item, kept = live([CREATE, *said])
    assert item is not None
    sums: Counter[str] = Counter()
    for event in told:
        if isinstance(event, StockAdjusted):
            sums["in"] += event.delta
        if isinstance(event, StockCommitted):
            sums["committed"] += event.quantity
        if not isinstance(event, InventoryCommandRefused):
            assert 0 <= event.reserved <= event.on_hand == sums["in"] - sums["committed"]
    assert item.on_hand == sums["in"] - sums["committed"]
    assert item.reserved == sum(found.remaining for found in kept.values())
    assert sums["committed"] == sum(found.committed for found in kept.values())
    assert item.version == sum(not isinstance(e, StockLow | StockOut | InventoryCommandRefused) for e in told)


@settings(max_examples=100, deadline=None)
@given(st.lists(commands(), max_size=25), st.randoms(use_true_random=False))
def test_redelivery_changes_nothing(said: list[InventoryCommand], chance: Any) -> None:
    """Whatever comes again, once or often, at once or late: the events are the same."""
    said = [CREATE, *said]
    again = list(said)
    for _ in range(10):
        first = chance.randrange(len(said))
        copy = again.index(said[first])
        again.insert(chance.randrange(copy + 1, len(again) + 1), said[first])
    assert live(again) == live(said)


# -- the words ---------------------------------------------------------------------------------------------------------

READ: TypeAdapter[InventoryCommand] = TypeAdapter(InventoryCommand)
GOOD = {"type": "create_item", "command_id": "n", "item_id": ME, "outlet_id": "o", "name": "n"}
PRICED = {**GOOD, "price_minor": 1, "currency": "INR"}


@mark.parametrize(
    "wrong",
    [
        {**PRICED, "item_id": ""},
        {**PRICED, "item_id": "a b"},
        {**PRICED, "item_id": "a/b"},
        {**PRICED, "item_id": "a" * 65},
        {**PRICED, "outlet_id": "a\0b"},
        {**PRICED, "name": ""},
        {**PRICED, "name": "a\nb"},
        {**PRICED, "price_minor": -1},
        {**PRICED, "price_minor": 1.0},
        {**PRICED, "price_minor": 10**13 + 1},
        {**PRICED, "currency": "XXX"},
        {**PRICED, "attributes": []},
        {**PRICED, "attributes": {"a": float("nan")}},
        {**PRICED, "attributes": {"a": 2**64}},
        {**PRICED, "attributes": {"a": "x" * MAX_ATTRIBUTES_BYTES}},
        {"type": "adjust_stock", "command_id": "a", "item_id": ME, "delta": "1", "reason": "r"},
        {"type": "adjust_stock", "command_id": "a", "item_id": ME, "delta": 2**63, "reason": "r"},
        {"type": "adjust_stock", "command_id": "a", "item_id": ME, "delta": 1, "reason": ""},
        {"type": "reserve_stock", "command_id": "a", "item_id": ME, "order_uid": "o", "line": 0, "quantity": 1},
        {"type": "reserve_stock", "command_id": "a", "item_id": ME, "order_uid": "o:1", "line": 1, "quantity": 1},
        {"type": "release_stock", "command_id": "a", "item_id": ME, "order_uid": "o", "line": 1, "reason": "because"},
        {"type": "steal_stock", "command_id": "a", "item_id": ME},
    ],
)
def test_what_is_no_command(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(wrong)


def test_the_command_that_the_wrong_ones_are_variants_of() -> None:
    assert READ.validate_python(PRICED).item_id == ME
    deep = {"a": [1, -2.5, None, True, {"b": "ü"}]}
    command = READ.validate_python({**PRICED, "attributes": deep})
    assert READ.validate_json(command.model_dump_json()) == command


def test_content_is_all_but_the_id() -> None:
    assert content_of(adjust(1, "a")) == content_of(adjust(1, "b"))
    others: list[InventoryCommand] = [
        adjust(1),
        adjust(2),
        adjust(1, reason="count"),
        reserve(1),
        reserve(1, partial=True),
        commit(1),
    ]
    assert len({content_of(each) for each in others}) == len(others)
