"""Purchases: events -> rows -> an order that is bought here. Tables of the group `orders`, and the orders' own lists.

A purchase is an order, written by the task that writes the other orders of its partition: its timeline, its refusals
and its place in the lists stand with theirs (tables/orders.py), so that one question finds both.

    purchases                order_uid -> Purchase
    purchase_history         order_uid NUL version -> the event that made it, for `as_of`
    purchases_for_approval   outlet_id NUL milliseconds NUL order_uid -> b""
                             orders that wait for the outlet's word, and since when
    purchases_outlets        outlet_id -> NotedOutlet
                             how outlets take orders; in every partition the same
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

from schemas.base import MAX_TIME_MS, unix_ms
from schemas.orders import OrderStatus
from schemas.outlets import NotedOutlet, NoteOutlet
from schemas.purchases import OrderNumbered, Purchase, PurchaseCommand, PurchaseEvent, read_event
from streams import App, Codec, Position, Table
from tables.orders import GROUP, OrderTables
from tables.versions import Cut, NotKept


@dataclass(frozen=True)
class PurchaseTables:
    """Purchases, and the lists that they share with orders. Reads work where those of orders do."""

    purchases: Table[Purchase]
    history: Table[PurchaseEvent]
    waiting: Table[bytes]
    outlets: Table[NotedOutlet]
    orders: OrderTables
    #: The rules' own fold (agents/purchases/state.py): what a purchase was follows from its events as what it is did.
    evolve: Callable[[Purchase | None, PurchaseEvent], Purchase | None]

    def purchase(self, order_uid: str) -> Purchase | None:
        """The purchase as it stands."""
        return self.purchases.get(order_uid)

    def purchase_at(self, order_uid: str, cut: Cut) -> Purchase | None:
        """The purchase as it stood at the cut; None when it did not. Raises Undecided, NotKept."""
        purchase = self.purchases.get(order_uid)
        if purchase is None:
            return None
        made = self.orders.made_until(order_uid, purchase.version, cut)
        return reduce(self.evolve, (self._event(order_uid, entry.version) for entry in made), None)

    def _event(self, order_uid: str, version: int) -> PurchaseEvent:
        event = self.history.get(_version_key(order_uid, version))
        if event is None:
            raise NotKept(f"version {version} of order {order_uid}")
        return event

    def answered(self, command: PurchaseCommand, purchase: Purchase | None) -> bool:
        """Whether this command has its event or its refusal already."""
        version = purchase.version if purchase else 0
        return self.orders.has_answer(command.order_uid, command.command_id, version)

    def waiting_for(
        self, outlet_id: str, *, after: str | None = None, limit: int | None = None, newest: bool = False
    ) -> Iterator[tuple[str, Purchase]]:
        """The orders of this partition that an outlet has to approve, by place: who waits longest comes first, or last.

        `after`: a place given before. Places sort as text in every partition alike, in the order that was asked for.
        """
        prefix = f"{outlet_id}\0"
        start = None if after is None else prefix + (_turned(after) if newest else after)
        for key, _ in self.waiting.range(prefix, after=start, limit=limit, reverse=newest):
            place = key[len(prefix) :]
            yield _turned(place) if newest else place, self.purchases[place.partition("\0")[2]]

    def note(self, command: NoteOutlet) -> None:
        """Know how an outlet takes orders, unless something newer is known."""
        known = self.outlets.get(command.outlet_id)
        if known is None or known.version < command.version:
            self.outlets[command.outlet_id] = NotedOutlet(version=command.version, approval=command.approval)

    def keep(self, before: Purchase | None, after: Purchase | None, event: PurchaseEvent, cause: Position) -> None:
        """Write down what an event changed. A refusal changes nothing but the timeline."""
        # A timeline has one column for what an event says beside its type: why, or here which number.
        reason = event.order_number if isinstance(event, OrderNumbered) else getattr(event, "reason", None)
        if after is None or after is before:
            self.orders.keep_refusal(event, reason, cause)
            return
        self.orders.keep_event(event, reason, cause)
        self.purchases[after.order_uid] = after
        self.history[_version_key(after.order_uid, after.version)] = event
        if before is None or before.status is not after.status:
            self.orders.list_order(after.order_uid, after.user_id, after.placed_at, after.status)
            self._queue(before, after)

    def _queue(self, before: Purchase | None, after: Purchase) -> None:
        """Where it waits for its outlet's word, and no longer waits."""
        for purchase in (before, after):
            if purchase is None or purchase.status is not OrderStatus.PAID:
                continue
            since_ms = unix_ms(purchase.paid_at or purchase.placed_at)
            key = f"{purchase.outlet_id}\0{since_ms:013d}\0{purchase.order_uid}"
            if purchase is after:
                self.waiting[key] = b""
            else:
                del self.waiting[key]


def _turned(place: str) -> str:
    """A place in the other order, and back: times count from the end, each sign of the number stands for its opposite.

    What begins a longer number comes before it; to come after it, its end stands for more than any sign.
    """
    since, _, uid = place.partition("\0")
    opposite = "".join(chr(_FIRST + _LAST - ord(sign)) for sign in uid.removesuffix(_END))
    return f"{MAX_TIME_MS - int(since):013d}\0{opposite}" + ("" if uid.endswith(_END) else _END)


#: The signs of an order_uid lie between these; the end is above them.
_FIRST, _LAST, _END = ord("-"), ord("~"), "\x7f"


def _version_key(order_uid: str, version: int) -> str:
    return f"{order_uid}\0{version:010d}"


def _encode_event(event: PurchaseEvent) -> bytes:
    return event.model_dump_json().encode()


def declare(
    app: App, orders: OrderTables, evolve: Callable[[Purchase | None, PurchaseEvent], Purchase | None]
) -> PurchaseTables:
    """Declare the tables on the app. Their changelogs are named after them. `evolve`: the rules' fold."""
    purchases = app.Table(
        "purchases", group=GROUP, codec=Codec(Purchase.to_json, Purchase.from_json), help="Orders bought here."
    )
    orders.others.append(purchases)  # a document of the same number must not take its place
    return PurchaseTables(
        purchases=purchases,
        history=app.Table(
            "purchase_history",
            group=GROUP,
            codec=Codec(_encode_event, read_event),
            help="What made each version of an order that was bought here.",
        ),
        waiting=app.Table(
            "purchases_for_approval", group=GROUP, value_type=bytes, help="Orders that wait for an outlet's approval."
        ),
        outlets=app.Table(
            "purchases_outlets",
            group=GROUP,
            codec=Codec(NotedOutlet.to_json, NotedOutlet.from_json),
            help="How outlets take orders.",
        ),
        orders=orders,
        evolve=evolve,
    )
