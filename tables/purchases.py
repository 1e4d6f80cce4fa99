"""Purchases: events -> rows -> an order that is bought here. Tables of the group `orders`, and the orders' own lists.

A purchase is an order, written by the task that writes the other orders of its partition: its timeline, its refusals
and its place in the lists stand with theirs (tables/orders.py), so that one question finds both.

    purchases            order_uid -> Purchase
    purchase_history     order_uid NUL version -> the event that made it, for `as_of`
    purchases_waiting    outlet_id NUL order_uid -> b""    orders that wait for the outlet's word
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

from schemas.orders import OrderStatus
from schemas.purchases import Purchase, PurchaseCommand, PurchaseEvent, read_event
from streams import App, Codec, Position, Table
from tables.orders import GROUP, OrderTables
from tables.versions import Cut, NotKept


@dataclass(frozen=True)
class PurchaseTables:
    """Purchases, and the lists that they share with orders. Reads work where those of orders do."""

    purchases: Table[Purchase]
    history: Table[PurchaseEvent]
    waiting: Table[bytes]
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
        self, outlet_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, Purchase]]:
        """The orders of this partition that an outlet has to approve. `after`: a key given before."""
        prefix = f"{outlet_id}\0"
        for key, _ in self.waiting.range(prefix, after=after, limit=limit):
            yield key, self.purchases[key[len(prefix) :]]

    def keep(self, before: Purchase | None, after: Purchase | None, event: PurchaseEvent, cause: Position) -> None:
        """Write down what an event changed. A refusal changes nothing but the timeline."""
        reason = getattr(event, "reason", None)
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
        """An order of several outlets waits for the first of its lines' one: who approves, approves the whole."""
        for purchase in (before, after):
            if purchase is None or purchase.status is not OrderStatus.PAID:
                continue
            outlet = next(line.outlet_id for line in purchase.lines if line.outlet_id is not None)
            key = f"{outlet}\0{purchase.order_uid}"
            if purchase is after:
                self.waiting[key] = b""
            else:
                del self.waiting[key]


def _version_key(order_uid: str, version: int) -> str:
    return f"{order_uid}\0{version:010d}"


def _encode_event(event: PurchaseEvent) -> bytes:
    return event.model_dump_json().encode()


def declare(
    app: App, orders: OrderTables, evolve: Callable[[Purchase | None, PurchaseEvent], Purchase | None]
) -> PurchaseTables:
    """Declare the tables on the app. Their changelogs are named after them. `evolve`: the rules' fold."""
    return PurchaseTables(
        purchases=app.Table(
            "purchases", group=GROUP, codec=Codec(Purchase.to_json, Purchase.from_json), help="Orders bought here."
        ),
        history=app.Table(
            "purchase_history",
            group=GROUP,
            codec=Codec(_encode_event, read_event),
            help="What made each version of an order that was bought here.",
        ),
        waiting=app.Table(
            "purchases_waiting", group=GROUP, value_type=bytes, help="Orders that wait for an outlet's approval."
        ),
        orders=orders,
        evolve=evolve,
    )
