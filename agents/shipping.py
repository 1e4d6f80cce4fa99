"""shipping.commands.v1, shipping.responses -> decide -> shipping.events; state in the tables of tables/shipping.py.

A carrier is asked by events and answers on `shipping.responses`: late, early, twice, or not at all. What is believed
when is a table (`HEARINGS` in schemas/shipping.py); what has to happen when nothing is heard, a deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from schemas.base import derived_id, event_id_for, rfc3339, unix_ms
from schemas.shipping import (
    FINAL,
    HEARINGS,
    AnyShippingCommand,
    Ask,
    AskAgain,
    Booking,
    BookingChanged,
    BookingGivenUp,
    BookShipment,
    CancelBooking,
    CarrierAsked,
    CarrierReported,
    CarrierResponse,
    CarrierStatus,
    Held,
    RecallEnded,
    RecallShipment,
    ReleaseHeld,
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
from schemas.webhooks import about
from streams import App, Record, Stream, Topic
from tables.shipping import GROUP, ShippingTables

#: What is known to have been fetched, and to be on its way.
_FETCHED = (Stage.PICKED_UP, Stage.OUT_FOR_DELIVERY)
_AT_ITS_END = (CarrierStatus.DELIVERED, CarrierStatus.RETURNED_TO_ORIGIN)


def decide(
    booking: Booking | None, said: AnyShippingCommand | CarrierResponse, occurred_at: str, *, answered: bool = False
) -> tuple[ShippingEvent, ...]:
    """What a command, or a carrier's response, comes to. `()`: nothing new to say.

    `answered`: it has come before, however long ago.
    """
    if answered:
        return ()
    if isinstance(said, CarrierResponse):
        return _hear(booking, said, occurred_at)
    reason = _objection(booking, said)
    if reason is not None:
        return (_refused(booking, said, occurred_at, reason),)
    if isinstance(said, BookShipment):
        return () if booking else (_booked(said, occurred_at),)
    assert booking is not None, "every other command without a booking was refused"
    story = _Story(booking, said.command_id, occurred_at)
    match said:
        case CancelBooking():
            return story.ask(Ask.CANCEL, said.reason) if booking.stage not in _LET_GO else ()
        case RecallShipment():
            return _recall(story, said.reason)
        case AskAgain():
            return _ask_again(story, said)
        case ReleaseHeld():
            return story.believe(CarrierStatus.PICKED_UP, implied=True) if booking.held else ()
    assert_never(said)


_LET_GO = (Stage.CANCELLING, Stage.CANCELLED)


# -- whether a command may be carried out ------------------------------------------------------------------------------


def _objection(booking: Booking | None, command: AnyShippingCommand) -> ShippingRefusal | None:
    """Why not; the first reason in the order of ShippingRefusal."""
    if isinstance(command, BookShipment):
        same = booking is None or _content_of(booking) == _content_of(command)
        return None if same else ShippingRefusal.BOOKING_EXISTS_WITH_DIFFERENT_CONTENT
    if booking is None:
        return ShippingRefusal.NO_SUCH_SHIPMENT
    fetched = booking.stage not in (Stage.ASKED, Stage.REGISTERED, *_LET_GO)
    if isinstance(command, CancelBooking) and fetched:
        return ShippingRefusal.ALREADY_PICKED_UP
    if isinstance(command, RecallShipment) and not fetched:
        return ShippingRefusal.NOT_PICKED_UP
    return None


def _content_of(booking: Booking | BookShipment) -> tuple[Any, ...]:
    return booking.user_id, booking.address, tuple(booking.parts)


# -- what follows from it ----------------------------------------------------------------------------------------------


class _Story:
    """The events of one command or response, each told of the booking as the one before it left it."""

    def __init__(self, booking: Booking, cause: str, occurred_at: str) -> None:
        self.booking = booking
        self.events: tuple[ShippingEvent, ...] = ()
        self._cause, self._at = cause, occurred_at

    @property
    def now_ms(self) -> int:
        return unix_ms(self._at)

    def tell(self, kind: type[BookingChanged], stage: Stage, **facts: Any) -> tuple[ShippingEvent, ...]:
        told = kind(
            **_head(self.booking, self._cause, self._at, len(self.events)),
            version=self.booking.version + 1,
            stage=stage,
            **facts,
        )
        after = evolve(self.booking, told)
        assert after is not None, "a booking stays"
        self.booking, self.events = after, (*self.events, told)
        return self.events

    def refuse(self, status: CarrierStatus, reason: ResponseRefusal) -> tuple[ShippingEvent, ...]:
        head = _head(self.booking, self._cause, self._at, len(self.events))
        refused = ResponseRefused(**head, version=self.booking.version, status=status, reason=reason)
        self.events = (*self.events, refused)
        return self.events

    def ask(self, what: Ask, reason: str | None = None) -> tuple[ShippingEvent, ...]:
        """Ask for something else than before, or for the same again."""
        booking = self.booking
        stage = {Ask.BOOK: booking.stage, Ask.CANCEL: Stage.CANCELLING, Ask.RECALL: Stage.RECALLED}[what]
        waits = booking.terms.answer_within_ms if stage in _SOON else booking.terms.stale_after_ms
        number = booking.asks + 1 if what is booking.asked else 1
        return self.tell(
            CarrierAsked, stage, what=what, ask=number, reason=reason, **_goods(booking, self.now_ms + waits)
        )

    def believe(
        self, status: CarrierStatus, *, implied: bool = False, reason: str | None = None, number: str | None = None
    ) -> tuple[ShippingEvent, ...]:
        """What the table says of a response in this stage; then of those that have waited for it."""
        before = self.booking
        after = HEARINGS[before.stage][status]
        if after is Unmoved.KNOWN or (status is CarrierStatus.REGISTERED and before.tracking_number == number):
            return self.events
        if after is Unmoved.HELD:
            return self._hold(status, reason)
        if isinstance(after, ResponseRefusal):
            return self.refuse(status, after)
        recalled = before.stage is Stage.RECALLED
        self.tell(
            CarrierReported,
            Stage(after),
            status=status,
            tracking_number=number,
            reason=reason,
            implied=implied,
            recalled=recalled,
            ask_again_at_ms=self._next_ask(Stage(after)),
        )
        if recalled and status in _AT_ITS_END:
            self.tell(RecallEnded, Stage(after), lost=status is CarrierStatus.DELIVERED)
        if status is CarrierStatus.PICKED_UP:
            for held in before.held:
                self.believe(held.status, reason=held.reason)
        return self.events

    def _hold(self, status: CarrierStatus, reason: str | None) -> tuple[ShippingEvent, ...]:
        booking = self.booking
        if any(held.status is status for held in booking.held):
            return self.events
        until = booking.held_until_ms or self.now_ms + booking.terms.hold_ms
        return self.tell(ResponseHeld, booking.stage, status=status, reason=reason, until_ms=until)

    def _next_ask(self, stage: Stage) -> int | None:
        if stage in FINAL:
            return None
        moved = stage is not self.booking.stage
        return self.now_ms + self.booking.terms.stale_after_ms if moved else self.booking.ask_again_at_ms


#: Nothing can go on before the carrier has answered.
_SOON = (Stage.ASKED, Stage.CANCELLING)


def _goods(who: Booking | BookShipment, ask_again_at_ms: int) -> dict[str, Any]:
    """What every question says: a carrier that has missed the others understands this one."""
    return {
        "booking_id": booking_id_of(who.order_uid, who.shipment_id),
        "user_id": who.user_id,
        "address": who.address,
        "parts": list(who.parts),
        "terms": who.terms,
        "ask_again_at_ms": ask_again_at_ms,
    }


def _booked(command: BookShipment, at: str) -> CarrierAsked:
    due = unix_ms(at) + command.terms.answer_within_ms
    head = _head(command, command.command_id, at, 0)
    return CarrierAsked(**head, version=1, stage=Stage.ASKED, what=Ask.BOOK, ask=1, **_goods(command, due))


def _hear(booking: Booking | None, response: CarrierResponse, at: str) -> tuple[ShippingEvent, ...]:
    if booking is None:
        head = _head(response, response.cause, at, 0)
        reason = ResponseRefusal.NO_SUCH_SHIPMENT
        return (ResponseRefused(**head, version=0, status=response.status, reason=reason),)
    number = response.tracking_number if response.status is CarrierStatus.REGISTERED else None
    story = _Story(booking, response.cause, at)
    return story.believe(response.status, reason=response.reason, number=number)


def _recall(story: _Story, reason: str) -> tuple[ShippingEvent, ...]:
    """Nobody wants it any more. It may have come to its end meanwhile."""
    stage = story.booking.stage
    if stage in _FETCHED:
        return story.ask(Ask.RECALL, reason)
    if stage is Stage.RECALLED:
        return ()
    return story.tell(RecallEnded, stage, lost=stage is Stage.DELIVERED)


def _ask_again(story: _Story, command: AskAgain) -> tuple[ShippingEvent, ...]:
    """Nothing was heard. Where the next word is the carrier's, that has an end; later it is asked for ever."""
    booking = story.booking
    if (command.stage, command.ask) != (booking.stage, booking.asks) or booking.stage in FINAL:
        return ()
    if booking.stage not in _SOON or booking.asks < booking.terms.asks:
        what = {Stage.CANCELLING: Ask.CANCEL, Stage.RECALLED: Ask.RECALL}.get(booking.stage, Ask.BOOK)
        return story.ask(what, booking.reason)
    if booking.stage is Stage.CANCELLING:
        return story.believe(CarrierStatus.CANCELLED, implied=True, reason="no answer")
    story.tell(BookingGivenUp, booking.stage, asks=booking.asks)
    return story.ask(Ask.CANCEL, "no answer")


def _head(who: Booking | BookShipment | AnyShippingCommand | CarrierResponse, cause: str, at: str, n: int) -> Any:
    return {
        "event_id": event_id_for(f"shipping {who.order_uid} {cause}", n),
        "caused_by": cause,
        "occurred_at": at,
        "order_uid": who.order_uid,
        "shipment_id": who.shipment_id,
    }


def _refused(
    booking: Booking | None, command: AnyShippingCommand, at: str, reason: ShippingRefusal
) -> ShippingCommandRefused:
    version = booking.version if booking else 0
    head = _head(command, command.command_id, at, 0)
    return ShippingCommandRefused(**head, version=version, command=command.type, reason=reason)


# -- the state after an event ------------------------------------------------------------------------------------------


def evolve(booking: Booking | None, event: ShippingEvent) -> Booking | None:
    """The booking after the event. Versions grow by one with each event that is no refusal."""
    if isinstance(event, ResponseRefused | ShippingCommandRefused):
        return booking
    if booking is None:
        assert isinstance(event, CarrierAsked), "a booking begins by asking"
        return _new(event)
    then = booking.model_copy(update={"version": event.version, "stage": event.stage, "updated_at": event.occurred_at})
    match event:
        case CarrierAsked():
            asked = {"asked": event.what, "asks": event.ask, "ask_again_at_ms": event.ask_again_at_ms}
            return then.model_copy(update={**asked, "reason": event.reason or then.reason})
        case CarrierReported():
            return _reported(then, event)
        case ResponseHeld():
            held = sorted((*then.held, Held(status=event.status, reason=event.reason)), key=_comes_late)
            return then.model_copy(update={"held": tuple(held), "held_until_ms": event.until_ms})
        case BookingGivenUp() | RecallEnded():
            return then
    assert_never(event)


def _comes_late(held: Held) -> bool:
    """The last way comes before the end; of two ends, the one that came first."""
    return held.status in _AT_ITS_END


def _reported(then: Booking, event: CarrierReported) -> Booking:
    facts: dict[str, Any] = {"ask_again_at_ms": event.ask_again_at_ms, "reason": event.reason or then.reason}
    match event.status:
        case CarrierStatus.REGISTERED:
            facts["tracking_number"] = event.tracking_number
        case CarrierStatus.FAILED:
            facts["failed_attempts"] = then.failed_attempts + 1
        case CarrierStatus.PICKED_UP | CarrierStatus.CANCELLED:
            facts |= {"held": (), "held_until_ms": None}
    return then.model_copy(update=facts)


def _new(event: CarrierAsked) -> Booking:
    return Booking(
        order_uid=event.order_uid,
        shipment_id=event.shipment_id,
        user_id=event.user_id,
        address=event.address,
        parts=tuple(event.parts),
        terms=event.terms,
        version=event.version,
        stage=event.stage,
        asked=event.what,
        asks=event.ask,
        ask_again_at_ms=event.ask_again_at_ms,
        booked_at=event.occurred_at,
        updated_at=event.occurred_at,
    )


# -- deadlines: what time brings about, as records ---------------------------------------------------------------------


def deadlines_of(booking: Booking) -> tuple[tuple[str, int | None, AnyShippingCommand], ...]:
    """What a booking waits for: name, Unix time in ms (None: for nothing), what is sent then."""
    named: dict[str, Any] = {"order_uid": booking.order_uid, "shipment_id": booking.shipment_id}
    base = f"{booking.order_uid} {booking.shipment_id} {booking.version}"
    again = AskAgain(command_id=derived_id(f"ask again {base}"), stage=booking.stage, ask=booking.asks, **named)
    return (
        ("ask", booking.ask_again_at_ms, again),
        ("held", booking.held_until_ms, ReleaseHeld(command_id=derived_id(f"release {base}"), **named)),
    )


def attach(
    app: App,
    *,
    commands: Topic,
    responses: Topic,
    events: Topic,
    tables: ShippingTables,
    tell: Callable[[ShippingEvent], None],
) -> None:
    """Wire the rules to their topics. `tell` hands each event to the domains that wait for it."""
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    def set_deadlines(booking: Booking) -> None:
        for name, due_at_ms, command in deadlines_of(booking):
            id = f"shipping\0{booking.order_uid}\0{booking.shipment_id}\0{name}"
            if due_at_ms is None:
                deadlines.cancel(id)
            else:
                deadlines.schedule(due_at_ms, commands, key=booking.order_uid, value=command, id=id)

    def carry_out(said: AnyShippingCommand | CarrierResponse, topic: Topic, id: str, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the order's home; else bring it home, once.

        A carrier may use any key and any partitioner: its responses come home as commands do.
        """
        uid = said.order_uid
        if topic.take_home(cause, key=uid, value=said):
            return
        before = booking = tables.booking(uid, said.shipment_id)
        for event in decide(booking, said, rfc3339(cause.timestamp), answered=tables.answered(uid, id)):
            booking = evolve(booking, event)
            headers = about(booking.user_id if booking else None)
            events.put(key=uid, value=event, partition=cause.partition, headers=headers)
            tell(event)
        tables.keep_answer(uid, id)
        if booking is not None and booking is not before:
            tables.keep(booking)
            set_deadlines(booking)

    @app.agent(commands, name="shipping.commands")
    async def obey(stream: Stream[ShippingCommand]) -> None:
        """Ask carriers."""
        async for command in stream:
            carry_out(command, commands, command.command_id, stream.event)

    @app.agent(responses, name="shipping.responses")
    async def hear(stream: Stream[CarrierResponse]) -> None:
        """Hear what carriers answer."""
        async for response in stream:
            carry_out(response, responses, response.cause, stream.event)
