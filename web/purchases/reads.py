"""GET of what only bought orders have -> questions to their owners -> the public answers."""

from __future__ import annotations

import re

from aiohttp import web

from schemas.inventory import ITEM_ID_PATTERN
from web import answers, reading
from web.asking import Desk
from web.limits import Limits
from web.purchases.questions import PurchaseQuestions

_OUTLET_ID = re.compile(ITEM_ID_PATTERN)


class PurchaseReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: PurchaseQuestions, limits: Limits) -> None:
        self._desk, self._questions, self._limits = desk, questions, limits

    async def approvals(self, request: web.Request) -> web.Response:
        """GET /api/v1/outlets/{outlet_id}/approvals: oldest order number first; every partition is asked."""
        reading.only(request, "limit")
        outlet_id = request.match_info["outlet_id"]
        if not _OUTLET_ID.fullmatch(outlet_id):
            raise reading.bad("outlet_id", "must be 1 to 64 letters, digits and . _ ~ -.")
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        args = {"outlet_id": outlet_id, "limit": str(limit)}
        told = await self._desk.ask_every(self._questions.waiting, args, wait_s=self._limits.read_wait_s)
        rows = sorted(
            (row for answer in told for row in answer.meta["orders"]), key=lambda row: row["order"]["placed_at"]
        )
        more = len(rows) > limit or any(answer.meta["more"] for answer in told)
        orders = [row["order"] for row in rows[:limit]]
        return answers.answer(200, {"outlet_id": outlet_id, "orders": orders, "more": more}, answers.FRESH)
