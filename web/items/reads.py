"""GET of items -> questions to their owners -> the public answers."""

from __future__ import annotations

import orjson
from aiohttp import web

from web import answers, listing, reading
from web.asking import Desk
from web.items import shapes
from web.items.questions import ItemQuestions
from web.limits import Limits


class ItemReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: ItemQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because items are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/items/{item_id}"""
        reading.only(request, "min_offset")
        item_id = shapes.item_id(request)
        after = reading.position(request, "min_offset", self._inputs)
        told = await self._desk.ask_about(
            self._questions.item, item_id, {"item_id": item_id}, after=after, wait_s=self._limits.read_wait_s
        )
        item = told.meta["item"]
        if item is None:
            raise shapes.no_such_item(item_id)
        headers = {"ETag": answers.etag(item["version"]), **answers.FRESH}
        if reading.matches_etag(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return answers.answer(200, item, headers)

    async def find(self, request: web.Request) -> web.Response:
        """GET /api/v1/items: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "outlet_id", "query", "limit", "cursor")
        outlet_id, query = shapes.outlet_id(request), " ".join(shapes.words(request))
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        digest = listing.filters_digest("items", outlet_id, query)
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest) if cursor else None
        filters = {name: value for name, value in (("outlet_id", outlet_id), ("query", query)) if value}
        rows, after = await listing.search(self._desk, self._questions.page, filters, limit, after, self._limits)
        body = orjson.dumps(
            {
                "items": [orjson.Fragment(row.value) for row in rows],
                "next_cursor": listing.write_cursor(after, digest) if after else None,
            }
        )
        return web.Response(body=body, content_type="application/json", headers=answers.FRESH)
