"""shipping.commands.v1, shipping.responses -> every event that they must have led to -> each parcel, fetched once.

Two topics lead to these events, so their order says what was worked on when; what led to nothing may have been worked
on anywhere between its neighbours on its own topic, and must have had nothing to say somewhere there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tests.oracle.bought import CARRIERS, Told
from tests.oracle.log import derived
from tests.oracle.purchases import Order
from tests.oracle.verdict import Kind, Verdict

CHECK = "parcels"
Key = tuple[str, str]
Event = dict[str, Any]

NOT_FETCHED = ("asked", "registered", "cancelling", "cancelled")
TRAVELS = ("picked_up", "out_for_delivery")
ENDS = ("delivered", "returned_to_origin")
#: What cannot be so any more -> why the carrier is not believed.
TOO_LATE = {
    "delivered": "already_delivered",
    "returned_to_origin": "already_returned",
    "cancelled": "already_cancelled",
}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A shipment as its carrier has it."""

    stage: str = "asked"
    version: int = 0
    asked: str = "book"
    asks: int = 0
    most_asks: int = 1
    tracking: str | None = None
    failed: int = 0
    held: tuple[str, ...] = ()
    content: Any = None


@dataclass
class Parcels:
    """All that carriers were asked for, by what they must have said."""

    parcels: dict[Key, Parcel] = field(default_factory=dict)
    _past: dict[Key, list[tuple[int, Parcel]]] = field(default_factory=lambda: defaultdict(list))

    def judge(self, commands: list[Told], responses: list[Told], verdict: Verdict) -> None:
        spoken = [told for told in (*commands, *responses) if told.events]
        for told in sorted(spoken, key=lambda each: (each.record.partition, each.place)):
            self._take(told, verdict)
        for home in (commands, responses):
            self._judge_silence(home, verdict)

    def _take(self, told: Told, verdict: Verdict) -> None:
        key = key_of(told)
        verdict.looked(CHECK)
        expected, after = follows(self.parcels.get(key), told)
        if told.again:
            verdict.add(Kind.DOUBLED, CHECK, told, f"it had come before, and said {told.events[0]['type']}")
        kinds = [event["type"] for event in told.events]
        if verdict.equal(CHECK, told, [event["type"] for event in expected], kinds):
            for one, event in zip(expected, told.events, strict=True):
                verdict.equal(CHECK, told, one, {name: event.get(name) for name in one})
        if after is not None:
            self.parcels[key] = after
            self._past[key].append((told.place, after))

    def _judge_silence(self, home: list[Told], verdict: Verdict) -> None:
        """Of those that led to nothing, each had nothing to say at some moment at which it may have been read."""
        by_partition: dict[int, list[Told]] = defaultdict(list)
        for told in home:
            by_partition[told.record.partition].append(told)
        for here in by_partition.values():
            before = -1
            bounds = _next_places(here)
            for told, until in zip(here, bounds, strict=True):
                if told.events:
                    before = told.place
                elif not told.again and not any(
                    not follows(one, told)[0] for one in self._between(told, before, until)
                ):
                    verdict.add(Kind.LOST, CHECK, told, f"it led to nothing: {self.parcels.get(key_of(told))}")

    def _between(self, told: Told, after: int, until: float) -> list[Parcel | None]:
        """How the parcel stood at one time or another from one event on and before another one."""
        past: list[tuple[float, Parcel | None]] = [(-1, None), *self._past[key_of(told)]]
        ends = [place for place, _ in past[1:]]
        return [
            parcel for (place, parcel), end in zip(past, [*ends, float("inf")], strict=True)
            if end > after and place < until
        ]  # fmt: skip


def _next_places(here: list[Told]) -> list[float]:
    """For each, where the next one's events begin that has some."""
    found: list[float] = []
    last = float("inf")
    for told in reversed(here):
        found.append(last)
        last = told.place if told.events else last
    return found[::-1]


def key_of(told: Told) -> Key:
    return told.said["order_uid"], told.said["shipment_id"]


def follows(parcel: Parcel | None, told: Told) -> tuple[list[Event], Parcel | None]:
    """What must be said, and how the parcel is then."""
    said = told.said
    if told.domain is CARRIERS:
        if parcel is None:
            return [{"type": "response_refused", "status": said["status"], "reason": "no_such_shipment"}], None
        return _hear(parcel, said["status"], said.get("tracking_number"))
    if (reason := _objection(parcel, said)) is not None:
        refused = {"type": "shipping_command_refused", "command": said["type"], "reason": reason}
        return [{**refused, "version": parcel.version if parcel else 0}], parcel
    if parcel is None:
        content = {name: said.get(name) for name in ("user_id", "address", "parts")}
        new = Parcel(most_asks=said["terms"]["asks"], content=content)
        events, new = _ask(new, "book", "asked")
        booking = {"booking_id": derived(f"booking {said['order_uid']} {said['shipment_id']}"), **content}
        return [{**events[0], **booking}], new
    match said["type"]:
        case "cancel_booking" if parcel.stage not in ("cancelling", "cancelled"):
            return _ask(parcel, "cancel", "cancelling")
        case "recall_shipment" if parcel.stage in TRAVELS:
            return _ask(parcel, "recall", "recalled")
        case "recall_shipment" if parcel.stage in ENDS:
            return _changed(parcel, {"type": "recall_ended", "lost": parcel.stage == "delivered"})
        case "release_held" if parcel.held:
            return _hear(parcel, "picked_up", None, implied=True)
        case "ask_again" if (said["stage"], said["ask"]) == (parcel.stage, parcel.asks):
            return _ask_again(parcel)
    return [], parcel


def _objection(parcel: Parcel | None, said: Mapping[str, Any]) -> str | None:
    kind = said["type"]
    if kind == "book_shipment":
        content = {name: said.get(name) for name in ("user_id", "address", "parts")}
        same = parcel is None or parcel.content == content
        return None if same else "booking_exists_with_different_content"
    if parcel is None:
        return "no_such_shipment"
    fetched = parcel.stage not in NOT_FETCHED
    if kind == "cancel_booking" and fetched:
        return "already_picked_up"
    return "not_picked_up" if kind == "recall_shipment" and not fetched else None


def _ask_again(parcel: Parcel) -> tuple[list[Event], Parcel]:
    """For ever once it has been registered; before that, and when it is let go, so often as the seller said."""
    if parcel.stage in (*ENDS, "cancelled"):
        return [], parcel
    if parcel.stage not in ("asked", "cancelling") or parcel.asks < parcel.most_asks:
        what = {"cancelling": "cancel", "recalled": "recall"}.get(parcel.stage, "book")
        return _ask(parcel, what, parcel.stage)
    if parcel.stage == "cancelling":
        return _hear(parcel, "cancelled", None, implied=True)
    given_up, after = _changed(parcel, {"type": "booking_given_up", "asks": parcel.asks})
    asked, after = _ask(after, "cancel", "cancelling")
    return [*given_up, *asked], after


def _ask(parcel: Parcel, what: str, stage: str) -> tuple[list[Event], Parcel]:
    asks = parcel.asks + 1 if what == parcel.asked else 1
    said = {"type": "carrier_asked", "what": what, "ask": asks}
    return _changed(replace(parcel, stage=stage, asked=what, asks=asks), said)


def _changed(parcel: Parcel, event: Event) -> tuple[list[Event], Parcel]:
    after = replace(parcel, version=parcel.version + 1)
    return [{**event, "stage": after.stage, "version": after.version}], after


def _hear(parcel: Parcel, status: str, number: str | None, *, implied: bool = False) -> tuple[list[Event], Parcel]:
    """What a carrier's word comes to, with all that has waited for it."""
    stage = parcel.stage
    if status == "registered" and (parcel.tracking == number or stage == "registered"):
        return [], parcel
    if status == stage or (status == "picked_up" and stage not in (*NOT_FETCHED, *ENDS)):
        return [], parcel
    if (reason := _not_believed(stage, status)) is not None:
        return [{"type": "response_refused", "status": status, "reason": reason, "version": parcel.version}], parcel
    if stage in NOT_FETCHED and status in ("out_for_delivery", *ENDS):
        if status in parcel.held:
            return [], parcel
        held = sorted((*parcel.held, status), key=lambda each: each in ENDS)
        return _changed(replace(parcel, held=tuple(held)), {"type": "response_held", "status": status})
    report = {"type": "carrier_reported", "status": status, "implied": implied, "recalled": stage == "recalled"}
    told, after = _changed(_after(parcel, status, number), report)
    if stage == "recalled" and status in ENDS:
        more, after = _changed(after, {"type": "recall_ended", "lost": status == "delivered"})
        told += more
    for waited in parcel.held if status == "picked_up" else ():
        more, after = _hear(after, waited, None)
        told += more
    return told, after


def _not_believed(stage: str, status: str) -> str | None:
    if stage in ENDS:
        return TOO_LATE[stage]
    if stage == "cancelled":
        return TOO_LATE[stage] if status in ("registered", "failed") else None
    if stage in NOT_FETCHED:
        return None
    if status == "cancelled":
        return "already_picked_up"
    return "recalled" if stage == "recalled" and status == "out_for_delivery" else None


def _after(parcel: Parcel, status: str, number: str | None) -> Parcel:
    match status:
        case "registered":
            return replace(parcel, tracking=number, stage="registered" if parcel.stage == "asked" else parcel.stage)
        case "failed":
            return replace(parcel, failed=parcel.failed + 1)
        case "picked_up" | "cancelled":
            return replace(parcel, stage=status, held=())
    return replace(parcel, stage=status)


def judge_depot(orders: Mapping[str, Order], depot: Mapping[str, Mapping[str, Any]], verdict: Verdict) -> None:
    """What a carrier did with each parcel, by its own books, is what the orders say of it; each was one parcel.

    `depot`: booking_id -> order_uid, shipment_id, all that was `done`, in order, and its `switches`.
    """
    ends: dict[str, tuple[str, ...]] = {
        "delivered": ("delivered", "lost"),
        "returned_to_origin": ("returned", "cancelled"),
    }
    carried = {
        (uid, id): shipment for uid, order in orders.items() for id, shipment in order.shipments.items()
        if shipment.carried
    }  # fmt: skip
    for booking_id, parcel in depot.items():
        verdict.looked("parcels at the carrier")
        key = parcel["order_uid"], parcel["shipment_id"]
        shipment = carried.get(key)
        if shipment is None or booking_id != derived(f"booking {key[0]} {key[1]}"):
            verdict.add(Kind.DOUBLED, "parcels at the carrier", key, f"nobody asked for {booking_id}")
            continue
        done: list[str] = parcel["done"]
        if any(one in ends for one, _ in pairwise(done)) or done.count("picked_up") > 1:
            verdict.add(Kind.DOUBLED, "parcels at the carrier", key, f"it was carried twice: {done}")
        may = ends.get(done[-1] if done else "")
        if may is None:
            may = ("shipped", "out") if "picked_up" in done else ("requested", "withdrawn", "cancelled")
        told = parcel["switches"].get("lose") != "all"  # else nobody knows what it did
        if told and shipment.state not in may:
            verdict.add(Kind.WRONG, "parcels at the carrier", key, f"the order has it {shipment.state}, of {done}")
