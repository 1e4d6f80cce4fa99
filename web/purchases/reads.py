"""GET of what only bought orders have -> questions to their owners -> the public answers."""

from __future__ import annotations

import orjson
from aiohttp import web

from web import answers, listing, reading
from web.asking import Desk
from web.limits import Limits
from web.outlets import shapes as outlet_shapes
from web.purchases.questions import OLDEST, ORDERS, PurchaseQuestions


class PurchaseReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: PurchaseQuestions, limits: Limits) -> None:
        self._desk, self._questions, self._limits = desk, questions, limits

    async def approvals(self, request: web.Request) -> web.Response:
        """GET /api/v1/outlets/{outlet_id}/approvals: every partition is asked."""
        reading.only(request, "order", "limit", "cursor")
        outlet_id = outlet_shapes.outlet_id(request)
        order = reading.choice(request, "order", ORDERS) or OLDEST
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        digest = listing.filters_digest("approvals", outlet_id, order)
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest, self._limits.cursor_keys()) if cursor else None
        filters = {"outlet_id": outlet_id, "order": order}
        rows, after = await listing.search(self._desk, self._questions.waiting, filters, limit, after, self._limits)
        told = {
            "outlet_id": outlet_id,
            "orders": [orjson.Fragment(row.value) for row in rows],
            "next_cursor": listing.write_cursor(after, digest, self._limits.cursor_keys()) if after else None,
        }
        return answers.answer(200, told, answers.FRESH)
