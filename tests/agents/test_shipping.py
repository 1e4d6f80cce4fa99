"""Shipping: every response in every stage, every command, every refusal, and what is true of every history."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark, param

from agents.shipping import deadlines_of, decide, evolve
from schemas.base import rfc3339, unix_ms
from schemas.shipping import (
    FINAL,
    HEARINGS,
    AnyShippingCommand,
    AskAgain,
    Booking,
    BookingChanged,
    CarrierAsked,
    CarrierReported,
    CarrierResponse,
    CarrierStatus,
    ResponseHeld,
    ResponseRefusal,
    ResponseRefused,
    ShippingCommand,
    ShippingCommandRefused,
    ShippingEvent,
    ShippingRefusal,
    Stage,
    Unmoved,
    booking_id_of,
)

UID, AT = "order-1", "2026-11-21T12:00:00.000Z"
COMMANDS: TypeAdapter[AnyShippingCommand] = TypeAdapter(ShippingCommand)
BOOK: dict[str, Any] = {
    "type": "book_shipment",
    "user_id": "buyer",
    "address": {"city": "Kiryat Mozkin"},
    "parts": [{"line": 1, "item_id": "book", "quantity": 2}],
    "terms": {"asks": 2, "answer_within_ms": 1_000, "stale_after_ms": 60_000, "hold_ms": 5_000},
}
CANCEL: dict[str, Any] = {"type": "cancel_booking", "reason": "cancelled"}
RECALL: dict[str, Any] = {"type": "recall_shipment", "reason": "not_in_this_status"}
RELEASE: dict[str, Any] = {"type": "release_held"}

#: How a booking comes to stand where it stands: commands, and statuses that the carrier reports.
PASTS: dict[Stage, list[dict[str, Any] | str]] = {
    Stage.ASKED: [BOOK],
    Stage.REGISTERED: [BOOK, "registered"],
    Stage.PICKED_UP: [BOOK, "picked_up"],
    Stage.OUT_FOR_DELIVERY: [BOOK, "picked_up", "out_for_delivery"],
    Stage.DELIVERED: [BOOK, "picked_up", "delivered"],
    Stage.RETURNED_TO_ORIGIN: [BOOK, "picked_up", "returned_to_origin"],
    Stage.CANCELLING: [BOOK, CANCEL],
    Stage.CANCELLED: [BOOK, CANCEL, "cancelled"],
    Stage.RECALLED: [BOOK, CANCEL, "picked_up", RECALL],
}


def said(what: dict[str, Any] | str, id: str) -> AnyShippingCommand | CarrierResponse:
    if isinstance(what, str):
        number = {"tracking_number": "T-1"} if what == "registered" else {}
        told = {"response_id": id, "order_uid": UID, "shipment_id": "s1", "status": what, **number}
        return CarrierResponse.model_validate(told)
    return COMMANDS.validate_python({**what, "command_id": id, "order_uid": UID, "shipment_id": "s1"})


def outcome(past: Sequence[dict[str, Any] | str], now: dict[str, Any] | str) -> tuple[list[ShippingEvent], Booking]:
    booking: Booking | None = None
    events: tuple[ShippingEvent, ...] = ()
    for number, each in enumerate([*past, now]):
        events = decide(booking, said(each, f"c{number}"), AT)
        for event in events:
            before, booking = booking, evolve(booking, event)
            version = before.version if before else 0
            assert event.version == version + isinstance(event, BookingChanged)
            assert booking is not None
            assert not isinstance(event, BookingChanged) or event.stage is booking.stage
    assert booking is not None
    return list(events), booking


def test_there_is_a_past_for_every_stage_and_a_hearing_for_every_response() -> None:
    assert {stage: outcome(past[:-1], past[-1])[1].stage for stage, past in PASTS.items()} == {s: s for s in Stage}
    assert all(set(HEARINGS[stage]) == set(CarrierStatus) for stage in Stage)


@mark.parametrize("stage", list(Stage))
@mark.parametrize("status", list(CarrierStatus))
def test_every_response_in_every_stage(stage: Stage, status: CarrierStatus) -> None:
    events, after = outcome(PASTS[stage], str(status))
    expected = HEARINGS[stage][status]
    match expected:
        case Stage():
            assert isinstance(events[0], CarrierReported) and events[0].status is status
            assert after.stage is expected
            assert (after.ask_again_at_ms is None) == (expected in FINAL)
        case ResponseRefusal():
            assert [event.reason for event in events if isinstance(event, ResponseRefused)] == [expected]
            assert after.stage is stage
        case Unmoved.HELD:
            assert isinstance(events[0], ResponseHeld) and [held.status for held in after.held] == [status]
            assert after.stage is stage and after.held_until_ms == unix_ms(AT) + 5_000
        case Unmoved.KNOWN:
            assert not events


@mark.parametrize("stage", list(Stage))
def test_no_refusal_is_left_out_of_the_table(stage: Stage) -> None:
    """A final stage believes nothing but that somebody has fetched what was cancelled."""
    believed = [status for status, heard in HEARINGS[stage].items() if isinstance(heard, Stage)]
    assert stage not in FINAL or believed == ([CarrierStatus.PICKED_UP] if stage is Stage.CANCELLED else [])
    used = {heard for row in HEARINGS.values() for heard in row.values() if isinstance(heard, ResponseRefusal)}
    assert used == set(ResponseRefusal) - {ResponseRefusal.NO_SUCH_SHIPMENT}


@mark.parametrize(
    ("past", "now", "reason"),
    [
        param(
            [BOOK], {**BOOK, "user_id": "x"}, ShippingRefusal.BOOKING_EXISTS_WITH_DIFFERENT_CONTENT, id="another one"
        ),
        param(PASTS[Stage.PICKED_UP], CANCEL, ShippingRefusal.ALREADY_PICKED_UP, id="on its way"),
        param(PASTS[Stage.DELIVERED], CANCEL, ShippingRefusal.ALREADY_PICKED_UP, id="there"),
        param(PASTS[Stage.RECALLED], CANCEL, ShippingRefusal.ALREADY_PICKED_UP, id="coming back"),
        param([BOOK], RECALL, ShippingRefusal.NOT_PICKED_UP, id="not fetched"),
        param(PASTS[Stage.CANCELLED], RECALL, ShippingRefusal.NOT_PICKED_UP, id="cancelled"),
    ],
)
def test_refusals(past: list[dict[str, Any] | str], now: dict[str, Any], reason: ShippingRefusal) -> None:
    (event,), after = outcome(past, now)
    assert isinstance(event, ShippingCommandRefused) and event.reason is reason
    assert after == outcome(past[:-1], past[-1])[1], "a refusal changes nothing"


@mark.parametrize("what", [CANCEL, RECALL, RELEASE, {"type": "ask_again", "stage": "asked", "ask": 1}])
def test_no_such_shipment(what: dict[str, Any]) -> None:
    (event,) = decide(None, said(what, "now"), AT)
    assert isinstance(event, ShippingCommandRefused) and event.reason is ShippingRefusal.NO_SUCH_SHIPMENT


def test_a_response_about_nothing_we_know() -> None:
    (event,) = decide(None, said("delivered", "now"), AT)
    assert isinstance(event, ResponseRefused) and event.reason is ResponseRefusal.NO_SUCH_SHIPMENT


@mark.parametrize(
    ("past", "now"),
    [
        param([BOOK], BOOK, id="booked again"),
        param(PASTS[Stage.CANCELLING], CANCEL, id="cancelled again"),
        param(PASTS[Stage.CANCELLED], CANCEL, id="cancelled, and confirmed"),
        param(PASTS[Stage.RECALLED], RECALL, id="recalled again"),
        param([BOOK], RELEASE, id="nothing is held"),
        param([BOOK, "delivered"], "delivered", id="held already"),
        param(PASTS[Stage.REGISTERED], {"type": "ask_again", "stage": "asked", "ask": 1}, id="answered meanwhile"),
        param([BOOK], {"type": "ask_again", "stage": "asked", "ask": 2}, id="of another ask"),
        param([BOOK, "picked_up", "registered"], "registered", id="the number is known"),
    ],
)
def test_nothing_new(past: list[dict[str, Any] | str], now: dict[str, Any] | str) -> None:
    assert outcome(past, now)[0] == []
    booking = outcome(past[:-1], past[-1])[1]
    assert decide(booking, said("picked_up", "c1"), AT, answered=True) == ()


def test_of_two_ends_that_wait_the_first_is_believed() -> None:
    events, after = outcome([BOOK, "returned_to_origin", "delivered", "out_for_delivery"], RELEASE)
    told = [(type(event).__name__, getattr(event, "status", None)) for event in events]
    assert told == [
        ("CarrierReported", "picked_up"),
        ("CarrierReported", "out_for_delivery"),
        ("CarrierReported", "returned_to_origin"),
        ("ResponseRefused", "delivered"),
    ]
    assert after.stage is Stage.RETURNED_TO_ORIGIN and after.held == () and after.held_until_ms is None
    first = events[0]
    assert isinstance(first, CarrierReported) and first.implied


def test_a_question_is_the_same_however_often_it_is_asked() -> None:
    events, after = outcome([BOOK], {"type": "ask_again", "stage": "asked", "ask": 1})
    (again,) = events
    assert isinstance(again, CarrierAsked) and (again.ask, again.booking_id) == (2, booking_id_of(UID, "s1"))
    assert again.parts and again.address == BOOK["address"], "a carrier that missed the first understands it"
    name, due, command = deadlines_of(after)[0]
    assert (name, due) == ("ask", unix_ms(AT) + 1_000)
    assert isinstance(command, AskAgain) and (command.stage, command.ask) == (Stage.ASKED, 2)


def test_registered_without_a_number_is_no_response() -> None:
    with pytest.raises(ValidationError, match="tracking_number"):
        CarrierResponse.model_validate(
            {"response_id": "r", "order_uid": UID, "shipment_id": "s1", "status": "registered"}
        )


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_said_it_comes_to_an_end(seed: int) -> None:
    """Random responses and commands in any order; then time passes: no question stays open but for what is fetched."""
    chance = Random(seed)
    now_ms = unix_ms(AT)
    booking: Booking | None = None

    def take(what: AnyShippingCommand | CarrierResponse) -> None:
        nonlocal booking
        for event in decide(booking, what, rfc3339(now_ms)):
            before, booking = booking, evolve(booking, event)
            assert booking is not None and event.version == booking.version
            assert (booking is before) != isinstance(event, BookingChanged)
            assert before is None or before.stage not in FINAL - {Stage.CANCELLED} or booking.stage is before.stage

    take(said(BOOK, "book"))
    for number in range(20):
        words: list[dict[str, Any] | str] = [*map(str, CarrierStatus), BOOK, CANCEL, RECALL]
        take(said(chance.choice(words), f"c{number}"))
    for _ in range(12):
        assert booking is not None
        waiting = [(at, command) for _, at, command in deadlines_of(booking) if at is not None]
        if not waiting:
            break
        due_ms, command = min(waiting, key=lambda each: each[0])
        now_ms = max(now_ms, due_ms)
        take(command)
    assert booking is not None and not booking.held
    assert booking.stage not in (Stage.ASKED, Stage.CANCELLING)
    assert (booking.ask_again_at_ms is None) == (booking.stage in FINAL)
