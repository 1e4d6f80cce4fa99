"""Orders: events -> rows -> an order, its timeline, the newest orders. Five tables of the group `orders`.

All rows of an order are written by the task of its order_uid, so the indexes are local: each partition lists its own
orders, and a complete answer asks every partition. The layout of the keys (NUL ends a part, so none may hold it):

    orders               order_uid -> Order
    order_timeline       order_uid NUL version                    the event that made this version
                         order_uid NUL version NUL topic NUL offset   a refusal at this version
    order_refusals       order_uid NUL command_id -> the version that the refused command met
    orders_by_customer   customer_id NUL place -> status
    orders_by_time       place -> status
    place                milliseconds until the end of time, so that the newest comes first, NUL order_uid

A refusal's key is the position of its command: a re-run overwrites its own row, and no counter is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any, NamedTuple, Protocol

from schemas.base import MAX_TIME_MS, time_ms, unix_ms
from schemas.orders import Order, OrderCancelled, OrderCommand, OrderEvent, OrderPlaced, OrderStatus, TimelineEntry
from streams import App, Codec, Position, Table
from tables.versions import AfterRecord, AtTime, AtVersion, Cut, Mark, Undecided, marks_of, version_among

GROUP = "orders"

#: Index rows that one page may look at: a rare status must not turn one request into a scan of the whole partition.
MOST_SCANNED = 1_000

_TIME_DIGITS = len(str(MAX_TIME_MS))


class Happened(Protocol):
    """What a timeline says of an event."""

    @property
    def type(self) -> str: ...
    @property
    def order_uid(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def caused_by(self) -> str: ...
    @property
    def occurred_at(self) -> str: ...


class Newest(NamedTuple):
    """A partition's part of a list: (place, order_uid), and the place up to which it is complete; None: to the end."""

    rows: list[tuple[str, str]]
    frontier: str | None


@dataclass(frozen=True)
class OrderTables:
    """The tables of orders. Reads work in the group's agents and within `app.reading("orders", partition)`."""

    orders: Table[Order]
    entries: Table[TimelineEntry]
    refusals: Table[bytes]
    by_customer: Table[OrderStatus]
    by_time: Table[OrderStatus]
    #: The rules' own fold (agents/orders.py): what an order was follows from its events as what it is did.
    evolve: Callable[[Order | None, OrderEvent], Order | None]
    #: Tables of the same tasks that have orders of other kinds under their order_uids.
    others: list[Table[Any]] = field(default_factory=list)

    def order(self, order_uid: str) -> Order | None:
        """The order as it stands."""
        return self.orders.get(order_uid)

    def order_at(self, order_uid: str, cut: Cut) -> Order | None:
        """The order as it stood at the cut; None when it did not. Raises Undecided."""
        order = self.orders.get(order_uid)
        if order is None:
            return None
        events = (_event_of(entry, order) for entry in self.made_until(order_uid, order.version, cut))
        return reduce(self.evolve, events, None)

    def made_at(self, order_uid: str, version: int) -> str:
        """When a version came to be."""
        return self.entries[_version_key(order_uid, version)].occurred_at

    def made_until(self, order_uid: str, version: int, cut: Cut) -> list[TimelineEntry]:
        """What had made the order as it stood at the cut, of all that made this version. Raises Undecided."""
        entries = [self.entries[_version_key(order_uid, each)] for each in range(1, version + 1)]
        return entries[: version_among(_marks_of(entries), cut)]

    def timeline(
        self, order_uid: str, *, after: str | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[str, TimelineEntry]]:
        """What happened to an order, oldest first, refusals after the version they met. `after`: a key given before."""
        return self.entries.range(f"{order_uid}\0", after=after, limit=limit, reverse=reverse)

    def timeline_at(
        self, order_uid: str, version: int, cut: Cut, *, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, TimelineEntry, bool]]:
        """The same as it stood at a cut, which is the order's `version`: each line, and whether it stood there.

        A refusal did if it met an earlier version, or if the cut says that it came before. A version says no more than
        that it was made: who was refused after that comes later. Raises Undecided.
        """
        for key, entry in self.timeline(order_uid, after=after, limit=limit):
            if entry.version > version:
                return
            made = key == _version_key(order_uid, version)
            yield key, entry, entry.version < version or made or _stood(entry, cut)

    def taken(self, order_uid: str) -> int:
        """The latest version of an order of this order_uid, also of one bought here: they share the timeline. 0: none.

        It looks at one key, and at the end of the timeline only when that is there.
        """
        if self.made(order_uid, 1) is None:
            return 0
        return max(entry.version for _, entry in self.timeline(order_uid, limit=1, reverse=True))

    def elsewhere(self, order_uid: str) -> int:
        """The latest version of an order of this order_uid of another kind; 0: none.

        Asked for every new order, so it is not the timeline that is looked into: that has by far the most rows.
        """
        return next((row.version for table in self.others if (row := table.get(order_uid)) is not None), 0)

    def made(self, order_uid: str, version: int) -> TimelineEntry | None:
        """The event that made this version."""
        return self.entries.get(_version_key(order_uid, version))

    def answered(self, command: OrderCommand, order: Order | None) -> bool:
        """Whether this command has its event or its refusal already."""
        return self.has_answer(command.order_uid, command.command_id, order.version if order is not None else 0)

    def has_answer(self, order_uid: str, command_id: str, version: int) -> bool:
        """Whether an order of this version has an event or a refusal that the command caused.

        Versions of an order are few and refusals may be many (anybody can send the same order number again), so that
        the events are looked at one by one and a refusal is found by its key.
        """
        if self.refusals.get(f"{order_uid}\0{command_id}") is not None:
            return True
        entries = (self.entries.get(_version_key(order_uid, each)) for each in range(1, version + 1))
        return any(entry is not None and entry.caused_by == command_id for entry in entries)

    def newest(
        self,
        customer_id: str | None = None,
        *,
        status: OrderStatus | None = None,
        after: str | None = None,
        limit: int = 50,
        most_scanned: int = MOST_SCANNED,
    ) -> Newest:
        """The newest orders of this partition behind the place `after`: of one customer or all, in one status or any.

        Looks at `most_scanned` index rows at most, so it may give fewer than `limit` and still have a frontier.
        """
        prefix = "" if customer_id is None else f"{customer_id}\0"
        index = self.by_time if customer_id is None else self.by_customer
        start = None if after is None else prefix + after
        rows: list[tuple[str, str]] = []
        place, scanned = "", 0
        for key, found in index.range(prefix, after=start, limit=most_scanned):
            scanned += 1
            place = key[len(prefix) :]
            if status is not None and found != status:
                continue
            if len(rows) == limit:
                return Newest(rows, rows[-1][0])
            rows.append((place, order_uid_at(place)))
        return Newest(rows, place if scanned == most_scanned else None)

    def keep(self, before: Order | None, after: Order | None, event: OrderEvent, cause: Position) -> None:
        """Write down what an event changed. A refusal changes nothing but the timeline."""
        reason = None if isinstance(event, OrderPlaced) else event.reason
        if after is before or after is None:
            self.keep_refusal(event, reason, cause)
            return
        self.keep_event(event, reason, cause)
        self.orders[after.order_uid] = after
        if before is None or before.status is not after.status:
            self.list_order(after.order_uid, after.customer_id, after.placed_at, after.status)

    def keep_event(self, event: Happened, reason: str | None, cause: Position) -> None:
        """A line of the timeline: what made this version."""
        entry = _entry(event, reason, cause)
        self.entries[version_key(entry)] = entry

    def keep_refusal(self, event: Happened, reason: str | None, cause: Position) -> None:
        """A line of the timeline behind the version that it left as it was, and that its command is answered."""
        entry = _entry(event, reason, cause)
        self.entries[refusal_key(entry)] = entry
        self.refusals[f"{entry.order_uid}\0{entry.caused_by}"] = b"%d" % entry.version

    def list_order(self, order_uid: str, customer_id: str, placed_at: str, status: OrderStatus) -> None:
        """Where an order stands in the lists, and in which status."""
        place = _places_of(placed_at) + order_uid
        self.by_time[place] = status
        self.by_customer[f"{customer_id}\0{place}"] = status


def _stood(refusal: TimelineEntry, cut: Cut) -> bool:
    """Whether a refusal that met the version of the cut was there."""
    match cut:
        case AtVersion():
            return False
        case AtTime(at):
            return refusal.occurred_at <= at
        case AfterRecord(position):
            if position[:2] != (refusal.topic, refusal.partition):
                raise Undecided(refusal.topic)
            return refusal.offset <= position.offset


def _marks_of(entries: list[TimelineEntry]) -> list[Mark]:
    return marks_of((each.occurred_at, Position(each.topic, each.partition, each.offset)) for each in entries)


def _event_of(entry: TimelineEntry, order: Order) -> OrderEvent:
    """The event behind a line of the timeline. All that it said is there: a document never changes."""
    said = {
        "event_id": entry.event_id,
        "caused_by": entry.caused_by,
        "occurred_at": entry.occurred_at,
        "order_uid": entry.order_uid,
        "version": entry.version,
    }
    if entry.type == "order_placed":
        return OrderPlaced(**said, customer_id=order.customer_id, document=order.document)
    assert entry.type == "order_cancelled", entry
    return OrderCancelled(**said, reason=entry.reason)


def _entry(event: Happened, reason: str | None, cause: Position) -> TimelineEntry:
    return TimelineEntry(
        event.type,
        event.order_uid,
        event.version,
        event.event_id,
        event.caused_by,
        event.occurred_at,
        reason,
        *cause,
    )


def place_of(placed_at_ms: int, order_uid: str) -> str:
    """Where an order stands among all: newest first, then by order_uid. Sorts as text, in every partition alike."""
    return f"{MAX_TIME_MS - time_ms(placed_at_ms):0{_TIME_DIGITS}d}\0{order_uid}"


@lru_cache(maxsize=4096)
def _places_of(placed_at: str) -> str:
    """What the places of all orders of one millisecond begin with; a batch has many of them."""
    return place_of(unix_ms(placed_at), "")


def placed_at_ms_at(place: str) -> int:
    """When the order at this place was placed: Unix time in milliseconds."""
    return MAX_TIME_MS - int(place[:_TIME_DIGITS])


def order_uid_at(place: str) -> str:
    """Which order stands at this place."""
    return place[_TIME_DIGITS + 1 :]


def version_key(entry: TimelineEntry) -> str:
    return _version_key(entry.order_uid, entry.version)


def _version_key(order_uid: str, version: int) -> str:
    return f"{order_uid}\0{version:010d}"


def refusal_key(entry: TimelineEntry) -> str:
    return f"{version_key(entry)}\0{entry.topic}\0{entry.offset:020d}"


def declare(app: App, evolve: Callable[[Order | None, OrderEvent], Order | None]) -> OrderTables:
    """Declare the tables on the app. Their changelogs are named after them. `evolve`: the rules' fold."""
    status = Codec(OrderStatus.encode, _read_status)
    return OrderTables(
        orders=app.Table("orders", group=GROUP, codec=Codec(Order.to_json, Order.from_json), help="Orders by uid."),
        entries=app.Table(
            "order_timeline",
            group=GROUP,
            codec=Codec(TimelineEntry.to_json, TimelineEntry.from_json),
            help="What happened to each order.",
        ),
        refusals=app.Table(
            "order_refusals", group=GROUP, value_type=bytes, help="Refused commands, so that each is answered once."
        ),
        by_customer=app.Table(
            "orders_by_customer", group=GROUP, codec=status, help="Orders of a customer, newest first."
        ),
        by_time=app.Table("orders_by_time", group=GROUP, codec=status, help="All orders, newest first."),
        evolve=evolve,
    )


def _read_status(raw: bytes) -> OrderStatus:
    return OrderStatus(raw.decode())
