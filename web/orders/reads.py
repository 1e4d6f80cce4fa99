"""GET of orders -> questions to their owners -> the public answers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from schemas.orders import OrderStatus
from tables.orders import GROUP
from web import answers, listing, reading
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.listing import Page, Row
from web.orders import shapes
from web.orders.questions import Questions, page_of

STATUSES = tuple(str(status) for status in OrderStatus)


class OrderReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: Questions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because orders are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders/{order_uid}"""
        reading.only(request, "min_offset")
        order_uid = shapes.order_uid(request)
        answer = await self._ask(request, self._questions.order, order_uid, {})
        if not answer.parts:
            raise shapes.no_such_order(order_uid)
        headers = {"ETag": answers.etag(answer.meta["version"]), **answers.FRESH}
        if reading.matches_etag(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return web.Response(body=answer.parts[0], content_type="application/json", headers=headers)

    async def timeline(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders/{order_uid}/timeline"""
        reading.only(request, "min_offset", "limit", "cursor")
        order_uid = shapes.order_uid(request)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.timeline_most)
        digest = listing.filters_digest("timeline", order_uid)
        args = {"limit": str(limit)}
        if cursor := reading.one(request, "cursor"):
            args["after"] = listing.read_cursor(cursor, digest)
        answer = await self._ask(request, self._questions.timeline, order_uid, args)
        entries, after = answer.meta["entries"], answer.meta["next"]
        if not entries and "after" not in args:
            raise shapes.no_such_order(order_uid)
        following = listing.write_cursor(after, digest) if after else None
        return answers.answer(200, {"order_uid": order_uid, "entries": entries, "next_cursor": following})

    async def newest(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "customer_id", "status", "limit", "cursor")
        customer_id = reading.one(request, "customer_id")
        if customer_id is not None and (len(customer_id) > 64 or "\0" in customer_id):
            raise reading.bad("customer_id", "must have 1 to 64 characters and no NUL.")
        status = reading.choice(request, "status", STATUSES)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        digest = listing.filters_digest("orders", customer_id, status)
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest) if cursor else None
        filters = {name: value for name, value in (("customer_id", customer_id), ("status", status)) if value}
        rows, after = await self._search(filters, limit, after)
        body = orjson.dumps(
            {
                "orders": [orjson.Fragment(row.order) for row in rows],
                "next_cursor": listing.write_cursor(after, digest) if after else None,
            }
        )
        return web.Response(body=body, content_type="application/json", headers=answers.FRESH)

    async def _search(self, filters: dict[str, str], limit: int, after: str | None) -> tuple[list[Row], str | None]:
        """Rows until the page is full, there are no more, or looking takes too long; and where the next page begins."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._limits.page_search_s
        rows: list[Row] = []
        room = self._limits.page_bytes
        while True:
            found, after = listing.merge(await self._pages(filters, limit - len(rows), room, after), limit - len(rows))
            rows += found
            room -= sum(len(row.order) for row in found)
            if after is None or len(rows) >= limit or room <= 0 or clock() >= until:
                return rows, after

    async def _pages(self, filters: dict[str, str], limit: int, room: int, after: str | None) -> list[Page]:
        """The next rows of every partition, asked at the same time. Raises NotReadable when one cannot answer."""
        partitions = self._desk.partitions(GROUP)
        args = {**filters, "limit": str(limit), "bytes": str(max(1, room // len(partitions)))}
        if after is not None:
            args["after"] = after
        told = await self._desk.ask_every(self._questions.page, args, wait_s=self._limits.read_wait_s)
        return [page_of(answer) for answer in told]

    async def _ask(self, request: web.Request, question: Question, order_uid: str, args: dict[str, Any]) -> Answer:
        after = reading.position(request, "min_offset", self._inputs)
        return await self._desk.ask_about(
            question, order_uid, {"order_uid": order_uid, **args}, after=after, wait_s=self._limits.read_wait_s
        )
