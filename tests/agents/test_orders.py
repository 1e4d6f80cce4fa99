"""Orders: the rules as tables of outcomes, and what is true of every history."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, param

from agents.orders import decide, evolve
from schemas.base import event_id_for
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
)

UID = "b563feb7b2b84b6test"
EARLY, LATE = "2021-11-26T06:22:19.000Z", "2021-11-26T06:22:20.000Z"
DOCUMENT = b'{"order_uid":"b563feb7b2b84b6test","n":1}'
SAME_IN_OTHER_BYTES = b'{ "n": 1, "order_uid": "b563feb7b2b84b6test" }'
OTHER_DOCUMENT = b'{"order_uid":"b563feb7b2b84b6test","n":2}'


def place(command_id: str, document: bytes = DOCUMENT) -> PlaceOrder:
    return PlaceOrder(command_id=command_id, order_uid=UID, customer_id="test", document=document)


def cancel(command_id: str) -> CancelOrder:
    return CancelOrder(command_id=command_id, order_uid=UID, reason="changed my mind")


def placed(command: PlaceOrder, at: str = EARLY) -> OrderPlaced:
    return OrderPlaced(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=at,
        order_uid=UID,
        version=1,
        customer_id="test",
        document=command.document,
    )


def cancelled(command: CancelOrder, version: int, at: str = LATE) -> OrderCancelled:
    return OrderCancelled(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=at,
        order_uid=UID,
        version=version,
        reason=command.reason,
    )


def refused(command: PlaceOrder, version: int) -> OrderRefused:
    return OrderRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=LATE,
        order_uid=UID,
        version=version,
        reason=PlacementRefusal.EXISTS_WITH_DIFFERENT_CONTENT,
    )


def not_cancelled(command: CancelOrder, version: int, reason: CancellationRefusal) -> CancellationRefused:
    return CancellationRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=LATE,
        order_uid=UID,
        version=version,
        reason=reason,
    )


def known(events: Sequence[OrderEvent], command: OrderCommand) -> bool:
    return any(event.caused_by == command.command_id for event in events)


def after(events: Sequence[OrderEvent]) -> Order | None:
    return reduce(evolve, events, None)


PLACED = placed(place("p-1"))
CANCELLED = cancelled(cancel("c-1"), 2)
NO_SUCH_ORDER, ALREADY_CANCELLED = CancellationRefusal.NO_SUCH_ORDER, CancellationRefusal.ALREADY_CANCELLED


@mark.parametrize(
    ("past", "command", "expected"),
    [
        param([], place("p-1"), [placed(place("p-1"), LATE)], id="a new order"),
        param([PLACED], place("p-1"), [], id="the same record again"),
        param([PLACED], place("p-2"), [], id="the same document in another record"),
        param([PLACED], place("p-2", SAME_IN_OTHER_BYTES), [], id="the same document in other bytes"),
        param([PLACED], place("p-2", OTHER_DOCUMENT), [refused(place("p-2"), 1)], id="other content"),
        param([PLACED], place("p-1", OTHER_DOCUMENT), [], id="the same id again is the same command again"),
        param([PLACED, refused(place("p-2"), 1)], place("p-2", OTHER_DOCUMENT), [], id="refused once"),
        param(
            [not_cancelled(cancel("c-1"), 0, NO_SUCH_ORDER), PLACED],
            cancel("c-1"),
            [],
            id="refused before it came",
        ),
        param([PLACED, CANCELLED], place("p-1"), [], id="the same document after the cancellation"),
        param([PLACED, CANCELLED], place("p-3", OTHER_DOCUMENT), [refused(place("p-3"), 2)], id="other, cancelled"),
        param([], cancel("c-1"), [not_cancelled(cancel("c-1"), 0, NO_SUCH_ORDER)], id="nothing to cancel"),
        param([PLACED], cancel("c-1"), [CANCELLED], id="cancels"),
        param([PLACED, CANCELLED], cancel("c-1"), [], id="cancels once"),
        param(
            [PLACED, CANCELLED],
            cancel("c-2"),
            [not_cancelled(cancel("c-2"), 2, ALREADY_CANCELLED)],
            id="cancelled by somebody else",
        ),
        param([PLACED, refused(place("p-2"), 1)], cancel("c-1"), [CANCELLED], id="a refusal before takes no version"),
    ],
)
def test_orders(past: list[OrderEvent], command: OrderCommand, expected: list[OrderEvent]) -> None:
    assert list(decide(after(past), command, LATE, answered=known(past, command))) == expected


def test_an_order_uid_that_was_bought_is_taken() -> None:
    (event,) = decide(None, place("p-1"), LATE, taken=3)
    assert isinstance(event, OrderRefused) and (event.reason, event.version) == ("order_uid_taken", 3)
    assert decide(None, place("p-1"), LATE, answered=True, taken=3) == ()


def test_a_placed_order() -> None:
    assert evolve(None, PLACED) == Order(
        order_uid=UID,
        version=1,
        status=OrderStatus.PLACED,
        customer_id="test",
        placed_at=EARLY,
        updated_at=EARLY,
        updated_by="p-1",
        cancel_reason=None,
        document=DOCUMENT,
    )


def test_a_cancelled_order_keeps_what_it_was() -> None:
    assert after([PLACED, CANCELLED]) == Order(
        order_uid=UID,
        version=2,
        status=OrderStatus.CANCELLED,
        customer_id="test",
        placed_at=EARLY,
        updated_at=LATE,
        updated_by="c-1",
        cancel_reason="changed my mind",
        document=DOCUMENT,
    )


# --- every history ----------------------------------------------------------------------------------------------------

DOCUMENTS = st.integers(0, 2).map(lambda n: orjson.dumps({"order_uid": UID, "n": n}))
IDS = st.integers(0, 4).map(lambda n: f"id-{n}")
COMMANDS = st.one_of(st.builds(place, IDS, DOCUMENTS), st.builds(cancel, IDS))


def live(commands: list[OrderCommand]) -> tuple[list[Order | None], list[OrderEvent]]:
    """The state after each command, and all events."""
    states: list[Order | None] = [None]
    events: list[OrderEvent] = []
    for number, command in enumerate(commands):
        order = states[-1]
        for event in decide(order, command, f"2021-11-26T06:22:19.{number:03d}Z", answered=known(events, command)):
            order = evolve(order, event)
            events.append(event)
        states.append(order)
    return states, events


@given(st.lists(COMMANDS, max_size=30))
def test_a_redelivery_changes_nothing(commands: list[OrderCommand]) -> None:
    states, events = live(commands)
    for command in commands:
        assert decide(states[-1], command, LATE, answered=known(events, command)) == ()
    assert len({event.event_id for event in events}) == len(events)


@given(st.lists(COMMANDS, max_size=30))
def test_versions_grow_by_one_and_refusals_take_none(commands: list[OrderCommand]) -> None:
    states, events = live(commands)
    version = 0
    for event in events:
        if isinstance(event, OrderPlaced | OrderCancelled):
            version += 1
        assert event.version == version
    assert (states[-1].version if states[-1] else 0) == version


@given(st.lists(COMMANDS, max_size=30))
def test_the_events_alone_give_the_state(commands: list[OrderCommand]) -> None:
    states, events = live(commands)
    assert after(events) == states[-1]
    assert live(commands) == (states, events), "the same commands say the same in the same bytes"


@given(st.lists(COMMANDS, max_size=30))
def test_an_accepted_document_never_changes(commands: list[OrderCommand]) -> None:
    states, _ = live(commands)
    documents = {order.document for order in states if order}
    assert len(documents) <= 1
