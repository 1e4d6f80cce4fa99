"""a question about orders -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.orders import Order, OrderStatus, TimelineEntry
from schemas.purchases import Purchase
from tables.orders import GROUP, OrderTables
from tables.purchases import PurchaseTables
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.orders.shapes import head, present, present_entry


class Questions:
    """What the owner of orders can be asked."""

    def __init__(self, desk: Desk, tables: OrderTables, purchases: PurchaseTables, limits: Limits) -> None:
        self._tables, self._purchases, self._limits = tables, purchases, limits
        self.order = desk.learn(Question("order", GROUP, self._order))
        self.timeline = desk.learn(Question("timeline", GROUP, self._timeline))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.page = desk.learn(Question("page", GROUP, self._page))

    def _order(self, args: Mapping[str, str]) -> Answer:
        found = self._found(args["order_uid"])
        return Answer() if found is None else Answer({"version": found.version}, (present(found),))

    def _found(self, order_uid: str) -> Order | Purchase | None:
        """An order of either kind. Most came as documents, so that is where to look first."""
        return self._tables.order(order_uid) or self._purchases.purchase(order_uid)

    def _timeline(self, args: Mapping[str, str]) -> Answer:
        limit = int(args["limit"])
        rows = list(self._tables.timeline(args["order_uid"], after=args.get("after"), limit=limit + 1))
        entries = [present_entry(entry) for _, entry in rows[:limit]]
        return Answer({"entries": entries, "next": rows[limit - 1][0] if len(rows) > limit else None})

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
