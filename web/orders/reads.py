"""GET of orders -> questions to their owners -> the public answers."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from schemas.orders import OrderStatus
from tables.versions import Cut
from web import answers, as_of, listing, reading
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.orders import shapes
from web.orders.questions import ORDERS_TOLD_ON, PURCHASES_TOLD_ON, Questions
from web.told import About, Told

STATUSES = tuple(str(status) for status in OrderStatus)


TELLERS = frozenset({ORDERS_TOLD_ON, PURCHASES_TOLD_ON})


class OrderReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: Questions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because orders are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits
        self._told = Told(desk, limits)

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders/{order_uid}"""
        reading.only(request, "min_offset", "as_of")
        order_uid = shapes.order_uid(request)
        about, cut = await self._cut(request, order_uid)
        answer = await self._ask(request, self._questions.order, order_uid, {}, cut)
        as_of.require(answer.meta, about.what, cut)
        if not answer.parts:
            raise shapes.no_such_order(order_uid)
        headers = {"ETag": answers.etag(answer.meta["version"]), **answers.FRESH}
        if reading.matches_etag(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return web.Response(body=answer.parts[0], content_type="application/json", headers=headers)

    async def timeline(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders/{order_uid}/timeline"""
        reading.only(request, "min_offset", "as_of", "limit", "cursor")
        order_uid = shapes.order_uid(request)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.timeline_most)
        about, cut = await self._cut(request, order_uid)
        digest = listing.filters_digest("timeline", order_uid, *as_of.carried(cut).values())
        args = {"limit": str(limit)}
        if cursor := reading.one(request, "cursor"):
            args["after"] = listing.read_cursor(cursor, digest, self._limits.cursor_keys())
        answer = await self._ask(request, self._questions.timeline, order_uid, args, cut)
        as_of.require(answer.meta, about.what, cut)
        entries, after = answer.meta["entries"], answer.meta["next"]
        if not entries and "after" not in args and after is None:
            raise shapes.no_such_order(order_uid)
        following = listing.write_cursor(after, digest, self._limits.cursor_keys()) if after else None
        return answers.answer(200, {"order_uid": order_uid, "entries": entries, "next_cursor": following})

    async def _cut(self, request: web.Request, order_uid: str) -> tuple[About, Cut | None]:
        """The moment that is asked for, and of what."""
        cut = as_of.cut_of(request, self._inputs | TELLERS)
        about = About(f"order {order_uid}", "order_uid", order_uid, TELLERS, self._questions.moment)
        return about, await self._told.settle(cut, about)

    async def newest(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "customer_id", "user_id", "status", "as_of", "limit", "cursor")
        customer_id, user_id = reading.one(request, "customer_id"), reading.one(request, "user_id")
        if customer_id is not None and user_id is not None:
            raise reading.bad("user_id", "is another name for `customer_id`: give one of them.")
        customer_id = customer_id if user_id is None else user_id
        if customer_id is not None and (len(customer_id) > 64 or "\0" in customer_id):
            raise reading.bad("customer_id", "must have 1 to 64 characters and no NUL.")
        status = reading.choice(request, "status", STATUSES)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        then = as_of.carried(as_of.time_of(request))
        digest = listing.filters_digest("orders", customer_id, status, *then.values())
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest, self._limits.cursor_keys()) if cursor else None
        filters = {name: value for name, value in (("customer_id", customer_id), ("status", status)) if value}
        filters |= then
        rows, after = await listing.search(self._desk, self._questions.page, filters, limit, after, self._limits)
        body = orjson.dumps(
            {
                "orders": [orjson.Fragment(row.value) for row in rows],
                "next_cursor": listing.write_cursor(after, digest, self._limits.cursor_keys()) if after else None,
            }
        )
        return web.Response(body=body, content_type="application/json", headers=answers.FRESH)

    async def _ask(
        self,
        request: web.Request,
        question: Question,
        order_uid: str,
        args: dict[str, Any],
        cut: Cut | None = None,
    ) -> Answer:
        after, then = as_of.waited_for(request, self._inputs, cut)
        args = {"order_uid": order_uid, **args, **then}
        return await self._desk.ask_about(question, order_uid, args, after=after, wait_s=self._limits.read_wait_s)
