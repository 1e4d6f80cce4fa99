"""inputs + orders.events.v1 -> each event has its input, each input its outcome, in an order that can have been.

The log does not say in which order one partition of `orders` and of `orders.commands.v1` was worked on, so the events
are taken as the claim of it. The claim is accepted if it is legal: within each input topic the causes follow each other
as they stand there; every event is what its command must lead to in the state that the events before it made; and a
command without an event could say nothing new, at some point between its neighbours that have one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import orjson

from tests.oracle.documents import same_content
from tests.oracle.inputs import Command, Input, keeps
from tests.oracle.log import EVENTS, Log, Record, derived, home_of, moment
from tests.oracle.verdict import Kind, Verdict


@dataclass(frozen=True, slots=True)
class Order:
    """An order after the events so far."""

    order_uid: str
    version: int
    status: str
    customer_id: str
    placed_at: str
    placed_ms: int
    updated_at: str
    updated_by: str
    cancel_reason: str | None
    document: bytes


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that was accepted: its words, where it stands, what caused it, whether it changed the order."""

    event: dict[str, Any]
    at: Record
    cause: Record
    changed: bool


@dataclass
class Fold:
    """What the events come to."""

    orders: dict[str, Order] = field(default_factory=dict)
    happened: list[Happened] = field(default_factory=list)


def judge_history(log: Log, inputs: Iterable[Input], verdict: Verdict) -> Fold:
    """The fold of the events, everything illegal in it named."""
    home: dict[int, list[Input]] = defaultdict(list)
    for each in inputs:
        if each.command is not None and each.at_home:
            home[each.record.partition].append(each)
    events: dict[int, list[Record]] = defaultdict(list)
    for record in log.of(EVENTS):
        events[record.partition].append(record)
    fold = Fold()
    for partition in sorted(home.keys() | events.keys()):
        _Partition(log.partitions, home[partition], fold, verdict).judge(events[partition])
    return fold


class _Partition:
    """One partition's claim, event by event."""

    def __init__(self, partitions: int, inputs: list[Input], fold: Fold, verdict: Verdict) -> None:
        self._partitions, self._inputs, self._fold, self._verdict = partitions, inputs, fold, verdict
        self._deliveries: dict[str, list[Input]] = defaultdict(list)
        for each in inputs:
            assert each.command is not None
            self._deliveries[each.command.command_id].append(each)
        self._told: dict[str, int] = {}  # command_id -> number of its event in this partition
        self._placed: dict[str, int] = {}  # order_uid -> number of the event that placed it
        self._causes: dict[str, list[tuple[int, int]]] = defaultdict(list)  # topic -> (offset of cause, event number)

    def judge(self, events: list[Record]) -> None:
        self._verdict.looked("events", len(events))
        self._verdict.looked("commands", len(self._inputs))
        for number, record in enumerate(events):
            self._judge_event(number, record)
        for each in self._inputs:
            assert each.command is not None
            if self._told.get(each.command.command_id) is None or not self._is_first(each):
                self._judge_silence(each, each.command)

    def _is_first(self, each: Input) -> bool:
        """A command that came more than once is answered at its first coming."""
        assert each.command is not None
        return self._deliveries[each.command.command_id][0] is each

    def _judge_event(self, number: int, record: Record) -> None:
        try:
            event = orjson.loads(record.value or b"")
            uid, caused_by = event["order_uid"], event["caused_by"]
        except (ValueError, KeyError, TypeError):
            self._verdict.add(Kind.WRONG, "events", record.position, f"cannot be read: {record.value!r:.80}")
            return
        deliveries = self._deliveries.get(caused_by)
        if not deliveries:
            self._verdict.add(Kind.WRONG, "events", record.position, f"no input at home caused it: {caused_by}")
            return
        if caused_by in self._told:
            self._verdict.add(Kind.DOUBLED, "events", record.position, f"{caused_by} of {uid} was answered before")
            return
        self._told[caused_by] = number
        cause, command = deliveries[0].record, deliveries[0].command
        assert command is not None
        self._judge_order(number, record, cause)
        self._verdict.equal("events", record.position, self._frame(command, cause), _frame_of(event, record))
        self._apply(number, record, event, command, cause)

    def _judge_order(self, number: int, record: Record, cause: Record) -> None:
        causes = self._causes[cause.topic]
        if causes and causes[-1][0] > cause.offset:
            detail = f"caused by {cause.position}, the one before it by offset {causes[-1][0]}"
            self._verdict.add(Kind.REORDERED, "events", record.position, detail)
            return
        causes.append((cause.offset, number))

    def _frame(self, command: Command, cause: Record) -> dict[str, Any]:
        """What every event says of its cause."""
        return {
            "event_id": derived(f"{command.command_id}-0"),
            "order_uid": command.order_uid,
            "occurred_at": moment(cause.timestamp),
            "key": command.order_uid.encode(),
            "partition": home_of(command.order_uid, self._partitions),
        }

    def _apply(self, number: int, record: Record, event: dict[str, Any], command: Command, cause: Record) -> None:
        """Hold the event to what the command must lead to now. One that is not so changes nothing here."""
        order = self._fold.orders.get(command.order_uid)
        told = {name: event.get(name) for name in ("type", "version", "reason") if name in event}
        if not self._verdict.equal("events", record.position, outcome(order, command), told):
            return
        after = order
        if event["type"] == "order_placed":
            after = self._place(record, event, command, cause)
            self._placed[command.order_uid] = number
        elif event["type"] == "order_cancelled":
            assert order is not None, "only what exists is cancelled"
            after = replace(
                order,
                version=event["version"],
                status="cancelled",
                updated_at=event["occurred_at"],
                updated_by=event["caused_by"],
                cancel_reason=event["reason"],
            )
        if after is not None and after is not order:
            self._fold.orders[command.order_uid] = after
        event.pop("document", None)  # its bytes are with the order; parsed, a hundred thousand would fill the memory
        self._fold.happened.append(Happened(event, record, cause, after is not order))

    def _place(self, record: Record, event: dict[str, Any], command: Command, cause: Record) -> Order:
        assert command.document is not None and record.value is not None
        if not keeps(record.value, command.document):
            self._verdict.add(Kind.WRONG, "events", record.position, "its document is not the bytes received")
        self._verdict.equal("events", record.position, command.customer_id, event.get("customer_id"))
        at = event["occurred_at"]
        return Order(
            command.order_uid, event["version"], "placed", command.customer_id, at, cause.timestamp, at,
            command.command_id, None, command.document,
        )  # fmt: skip

    def _judge_silence(self, each: Input, command: Command) -> None:
        """No event: legal only if the command could say nothing new before the next one of its topic spoke."""
        causes = self._causes[each.record.topic]
        later = bisect_right(causes, each.record.offset, key=lambda cause: cause[0])
        until = causes[later][1] if later < len(causes) else inf
        self._verdict.looked("repetitions")
        answered = self._told.get(command.command_id)
        if answered is not None and answered < until:
            return
        placed = self._placed.get(command.order_uid)
        if command.document is not None and placed is not None and placed < until:
            if same_content(self._fold.orders[command.order_uid].document, command.document):
                return
            self._lost(each, command, "other content for an order that exists, and no refusal")
            return
        self._lost(each, command, "no event, and it was nothing that had been said before")

    def _lost(self, each: Input, command: Command, why: str) -> None:
        self._verdict.add(Kind.LOST, "commands", each.record.position, f"order {command.order_uid}: {why}")


def outcome(order: Order | None, command: Command) -> dict[str, Any]:
    """What a command must lead to: the type, version and reason of its event; {} when it says nothing new."""
    if command.document is not None:
        if order is None:
            return {"type": "order_placed", "version": 1}
        if same_content(order.document, command.document):
            return {}
        return {"type": "order_refused", "version": order.version, "reason": "exists_with_different_content"}
    if order is None:
        return {"type": "cancellation_refused", "version": 0, "reason": "no_such_order"}
    if order.status == "cancelled":
        return {"type": "cancellation_refused", "version": order.version, "reason": "already_cancelled"}
    return {"type": "order_cancelled", "version": order.version + 1, "reason": command.reason}


def _frame_of(event: dict[str, Any], record: Record) -> dict[str, Any]:
    said = {name: event.get(name) for name in ("event_id", "order_uid", "occurred_at")}
    return {**said, "key": record.key, "partition": record.partition}
