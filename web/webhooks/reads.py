"""GET of webhooks and their deliveries -> questions to their owners -> the public answers."""

from __future__ import annotations

import orjson
from aiohttp import web

from schemas.webhooks import DeliveryState
from web import answers, listing, reading
from web.asking import Desk
from web.limits import Limits
from web.webhooks import shapes
from web.webhooks.questions import WebhookQuestions


class WebhookReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: WebhookQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because subscriptions are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/webhooks/{subscription_id}"""
        reading.only(request, "min_offset")
        id = shapes.subscription_id(request)
        after = reading.position(request, "min_offset", self._inputs)
        told = await self._desk.ask_about(
            self._questions.webhook, id, {"subscription_id": id}, after=after, wait_s=self._limits.read_wait_s
        )
        webhook = told.meta["webhook"]
        if webhook is None:
            raise shapes.no_such_webhook(id)
        # No ETag on a read: what is going on at the target changes without a new version.
        return answers.answer(200, webhook, answers.FRESH)

    async def all(self, request: web.Request) -> web.Response:
        """GET /api/v1/webhooks: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "limit", "cursor")
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        digest = listing.filters_digest("webhooks")
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest, self._limits.cursor_keys()) if cursor else None
        rows, after = await listing.search(self._desk, self._questions.page, {}, limit, after, self._limits)
        body = orjson.dumps(
            {
                "webhooks": [orjson.Fragment(row.value) for row in rows],
                "next_cursor": listing.write_cursor(after, digest, self._limits.cursor_keys()) if after else None,
            }
        )
        return web.Response(body=body, content_type="application/json", headers=answers.FRESH)

    async def deliveries(self, request: web.Request) -> web.Response:
        """GET /api/v1/webhooks/{subscription_id}/deliveries"""
        reading.only(request, "min_offset", "state", "limit", "cursor")
        id = shapes.subscription_id(request)
        after = reading.position(request, "min_offset", self._inputs)
        state = reading.choice(request, "state", tuple(DeliveryState))
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        digest = listing.filters_digest("deliveries", id, state)
        args = {"subscription_id": id, "limit": str(limit)} | ({"state": state} if state else {})
        if cursor := reading.one(request, "cursor"):
            args["before"] = listing.read_cursor(cursor, digest, self._limits.cursor_keys())
        told = (
            await self._desk.ask_about(
                self._questions.deliveries, id, args, after=after, wait_s=self._limits.read_wait_s
            )
        ).meta
        if not told["there"]:
            raise shapes.no_such_webhook(id)
        keys = self._limits.cursor_keys()
        page = {
            "subscription_id": id,
            "deliveries": told["deliveries"],
            "next_cursor": listing.write_cursor(str(told["next"]), digest, keys) if told["next"] else None,
        }
        return answers.answer(200, page, answers.FRESH)
