"""a question about purchases -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.orders import TimelineEntry
from tables.orders import GROUP
from tables.purchases import PurchaseTables
from web.asking import Answer, Desk, Question
from web.orders.shapes import present, present_entry, present_purchase

#: Lines of a timeline that are looked through for what a command caused: it has only just been applied.
_RECENT = 50

#: Which of the orders that wait come first.
ORDERS = OLDEST, NEWEST = ("oldest", "newest")


class PurchaseQuestions:
    """What the owner of purchases can be asked."""

    def __init__(self, desk: Desk, tables: PurchaseTables) -> None:
        self._tables = tables
        self.purchase = desk.learn(Question("purchase", GROUP, self._purchase))
        self.outcome = desk.learn(Question("purchase_outcome", GROUP, self._outcome))
        self.waiting = desk.learn(Question("purchases_waiting", GROUP, self._waiting, costly=True))

    def _purchase(self, args: Mapping[str, str]) -> Answer:
        purchase = self._tables.purchase(args["order_uid"])
        return Answer({"order": None if purchase is None else present_purchase(purchase)})

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """The order as it stands now, and what the command caused first: its event, or its refusal."""
        caused: TimelineEntry | None = None
        for _, entry in self._tables.orders.timeline(args["order_uid"], limit=_RECENT, reverse=True):
            if entry.caused_by == args["command_id"]:
                caused = entry
        if caused is None and (first := self._tables.orders.made(args["order_uid"], 1)) is not None:
            # A cart of many lines has many events by the time that anybody asks; what it caused first is its order.
            caused = first if first.caused_by == args["command_id"] else None
        answer = self._purchase(args)
        return Answer({**answer.meta, "caused": present_entry(caused) if caused else None})

    def _waiting(self, args: Mapping[str, str]) -> Answer:
        """The next orders of this partition that an outlet has to approve: `limit` of them, or as many as fit into
        `bytes`, but one at least."""
        limit, newest = int(args["limit"]), args["order"] == NEWEST
        rows = list(
            self._tables.waiting_for(args["outlet_id"], after=args.get("after"), limit=limit + 1, newest=newest)
        )
        places: list[str] = []
        orders: list[bytes] = []
        room = int(args["bytes"])
        for place, purchase in rows[:limit]:
            if room <= 0:
                break
            places.append(place)
            orders.append(present(purchase))
            room -= len(orders[-1])
        return Answer({"places": places, "frontier": places[-1] if len(rows) > len(places) else None}, orders)
