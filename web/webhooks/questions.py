"""a question about webhooks -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from schemas.webhooks import Delivery
from tables.webhooks import GROUP, WebhookTables
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.webhooks.shapes import present, present_delivery


class WebhookQuestions:
    """What the owner of subscriptions can be asked."""

    def __init__(self, desk: Desk, tables: WebhookTables, limits: Limits) -> None:
        self._tables, self._limits = tables, limits
        self.webhook = desk.learn(Question("webhook", GROUP, self._webhook))
        self.outcome = desk.learn(Question("webhook_outcome", GROUP, self._outcome))
        self.deliveries = desk.learn(Question("webhook_deliveries", GROUP, self._deliveries, costly=True))
        self.page = desk.learn(Question("webhook_page", GROUP, self._page, costly=True))
        self.count = desk.learn(Question("webhook_count", GROUP, self._count, costly=True))

    def _present(self, subscription_id: str) -> dict[str, Any] | None:
        subscription = self._tables.subscription(subscription_id)
        return present(subscription, self._tables.target(subscription_id)) if subscription else None

    def _webhook(self, args: Mapping[str, str]) -> Answer:
        return Answer({"webhook": self._present(args["subscription_id"])})

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it has come, and subscription and delivery as they stand now."""
        id = args["subscription_id"]
        answer = self._tables.answer(id, args["command_id"])
        delivery = self._tables.delivery(id, args["delivery_id"]) if "delivery_id" in args else None
        return Answer(
            {
                "webhook": self._present(id),
                "delivery": present_delivery(delivery) if delivery else None,
                "answer": answer._asdict() if answer else None,
            }
        )

    def _deliveries(self, args: Mapping[str, str]) -> Answer:
        """The newest deliveries behind `before`: `limit` of them, or as many as few enough rows have."""
        id, state, limit = args["subscription_id"], args.get("state"), int(args["limit"])
        before = int(args["before"]) if "before" in args else None
        found: list[Delivery] = []
        behind: int | None = None
        more = False
        for scanned, delivery in enumerate(self._tables.log(id, before=before)):
            more = len(found) == limit or scanned == self._limits.page_scan_rows
            if more:
                break
            behind = delivery.sequence
            if state in (None, delivery.state):
                found.append(delivery)
        return Answer(
            {
                "there": self._tables.subscription(id) is not None,
                "deliveries": [present_delivery(each) for each in found],
                "next": behind if more else None,
            }
        )

    def _page(self, args: Mapping[str, str]) -> Answer:
        """The next subscriptions of this partition."""
        limit = int(args["limit"])
        rows = list(self._tables.all(after=args.get("after"), limit=limit + 1))
        shown = [present(row, self._tables.target(row.subscription_id)) for row in rows[:limit]]
        frontier = rows[limit - 1].subscription_id if len(rows) > limit else None
        places = [row["subscription_id"] for row in shown]
        return Answer({"places": places, "frontier": frontier}, [orjson.dumps(row) for row in shown])

    def _count(self, args: Mapping[str, str]) -> Answer:
        return Answer({"count": sum(1 for _ in self._tables.all(limit=self._limits.webhooks_most))})
