"""a question about orders -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any

from schemas.base import unix_ms
from schemas.orders import Order, OrderStatus, TimelineEntry
from schemas.purchases import Purchase
from tables.orders import GROUP, OrderTables, place_of
from tables.purchases import PurchaseTables
from tables.versions import AtTime, Cut
from web import as_of
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.orders.shapes import head, present, present_entry

#: Whose records make an order's versions known: of those that came as documents, of those that were bought.
ORDERS_TOLD_ON, PURCHASES_TOLD_ON = "orders.events.v1", "purchases.events.v1"


class Questions:
    """What the owner of orders can be asked."""

    def __init__(self, desk: Desk, tables: OrderTables, purchases: PurchaseTables, limits: Limits) -> None:
        self._tables, self._purchases, self._limits = tables, purchases, limits
        self.order = desk.learn(Question("order", GROUP, self._order))
        self.moment = desk.learn(Question("moment", GROUP, self._moment))
        self.timeline = desk.learn(Question("timeline", GROUP, self._timeline, costly=True))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.page = desk.learn(Question("page", GROUP, self._page, costly=True))

    def _order(self, args: Mapping[str, str]) -> Answer:
        found = self._found(args["order_uid"])
        past: dict[str, Any] = {}
        if found is not None and (cut := as_of.cut_in(args)) is not None:
            found, past = self._found_at(found, cut)
        return Answer(past) if found is None else Answer({"version": found.version}, (present(found),))

    def _found(self, order_uid: str) -> Order | Purchase | None:
        """An order of either kind. Most came as documents, so that is where to look first."""
        return self._tables.order(order_uid) or self._purchases.purchase(order_uid)

    def _found_at(self, now: Order | Purchase, cut: Cut) -> tuple[Order | Purchase | None, dict[str, Any]]:
        """An order as it stood at the cut, or why there is nothing to show."""
        uid = now.order_uid

        def look() -> Order | Purchase | None:
            if isinstance(now, Purchase):
                return self._purchases.purchase_at(uid, cut)
            return self._tables.order_at(uid, cut)

        return as_of.looked_up(look, now.version, now.placed_at)

    def _moment(self, args: Mapping[str, str]) -> Answer:
        """When a version came to be."""
        uid = args["order_uid"]
        found = self._found(uid)
        if found is None:
            return Answer()
        told_on = PURCHASES_TOLD_ON if isinstance(found, Purchase) else ORDERS_TOLD_ON
        made_at = partial(self._tables.made_at, uid)
        return Answer(as_of.moment(args, found.version, found.placed_at, told_on, made_at))

    def _timeline(self, args: Mapping[str, str]) -> Answer:
        uid, limit, after = args["order_uid"], int(args["limit"]), args.get("after")
        if (cut := as_of.cut_in(args)) is not None:
            return self._timeline_at(uid, cut, limit, after)
        rows = list(self._tables.timeline(uid, after=after, limit=limit + 1))
        entries = [present_entry(entry) for _, entry in rows[:limit]]
        return Answer({"entries": entries, "next": rows[limit - 1][0] if len(rows) > limit else None})

    def _timeline_at(self, uid: str, cut: Cut, limit: int, after: str | None) -> Answer:
        """The same as it stood at the cut. A page looks at a bounded number of lines, so it may have few, or none."""
        now = self._found(uid)
        if now is None:
            return Answer({"entries": [], "next": None})
        then, past = self._found_at(now, cut)
        if then is None:
            return Answer({"entries": [], "next": None, **past})
        most = max(limit + 1, self._limits.page_scan_past_rows)

        def look() -> list[tuple[str, TimelineEntry, bool]]:
            return list(self._tables.timeline_at(uid, then.version, cut, after=after, limit=most))

        lines, past = as_of.looked_up(look, now.version, now.placed_at)
        if lines is None:
            return Answer({"entries": [], "next": None, **past})
        stood = [(key, entry) for key, entry, there in lines if there]
        entries = [present_entry(entry) for _, entry in stood[:limit]]
        if len(stood) > limit:
            return Answer({"entries": entries, "next": stood[limit - 1][0]})
        return Answer({"entries": entries, "next": lines[-1][0] if len(lines) == most else None})

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: the order as it stands now, the entry that the command caused, and the entry
        that made the order what such commands make it.

        Read newest first: the command has only just been applied, so its entry is among the first rows.
        """
        order = self._tables.order(args["order_uid"])
        caused: TimelineEntry | None = None
        made: TimelineEntry | None = None
        for _, entry in self._tables.timeline(args["order_uid"], limit=self._limits.timeline_most, reverse=True):
            if caused is None and entry.caused_by == args["command_id"]:
                caused = entry
            if made is None and entry.type == args["event"]:
                made = entry
            if caused and made:
                break
        meta = {
            "order": head(order) if order else None,
            "caused": present_entry(caused) if caused else None,
            "made": present_entry(made) if made else None,
        }
        return Answer(meta, (order.document,) if order else ())

    def _page(self, args: Mapping[str, str]) -> Answer:
        """The next orders of this partition: `limit` of them, or as many as fit into `bytes`, but one at least."""
        cut = as_of.cut_in(args)
        if isinstance(cut, AtTime):
            return self._page_at(args, cut)
        found = self._tables.newest(
            args.get("customer_id"),
            status=OrderStatus(args["status"]) if "status" in args else None,
            after=args.get("after"),
            limit=int(args["limit"]),
            most_scanned=self._limits.page_scan_rows,
        )
        places: list[str] = []
        orders: list[bytes] = []
        room, frontier = int(args["bytes"]), found.frontier
        for place, order_uid in found.rows:
            if room <= 0:
                frontier = places[-1]
                break
            order = self._found(order_uid)
            assert order is not None, "what is listed is kept"
            places.append(place)
            orders.append(present(order))
            room -= len(orders[-1])
        return Answer({"places": places, "frontier": frontier}, orders)

    def _page_at(self, args: Mapping[str, str], cut: AtTime) -> Answer:
        """The same as the orders stood at a time: those that were there, each by its own events, newest first.

        An order's place is the moment when it was placed, which never changes, so the lists of now are those of then.
        In which status it stood they do not say: each order that is looked at is folded.
        """
        places: list[str] = []
        orders: list[bytes] = []
        limit, room = int(args["limit"]), int(args["bytes"])
        after = args.get("after", place_of(unix_ms(cut.at), ""))
        most = self._limits.page_scan_past_rows
        found = self._tables.newest(args.get("customer_id"), after=after, limit=most, most_scanned=most)
        until, seen = monotonic() + self._limits.page_scan_past_s, None
        for place, order_uid in found.rows:
            if len(orders) == limit or room <= 0:
                return Answer({"places": places, "frontier": places[-1]}, orders)
            if seen is not None and monotonic() >= until:
                return Answer({"places": places, "frontier": seen}, orders)
            seen = place
            now = self._found(order_uid)
            assert now is not None, "what is listed is kept"
            then, past = self._found_at(now, cut)
            if as_of.is_lost(past):
                return Answer(past)
            if then is not None and args.get("status", then.status) == then.status:
                places.append(place)
                orders.append(present(then))
                room -= len(orders[-1])
        return Answer({"places": places, "frontier": found.frontier}, orders)
