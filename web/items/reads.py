"""GET of items -> questions to their owners -> the public answers."""

from __future__ import annotations

import orjson
from aiohttp import web

from web import answers, as_of, listing, reading
from web.asking import Desk
from web.items import shapes
from web.items.questions import TOLD_ON, ItemQuestions
from web.limits import Limits
from web.told import About, Told


class ItemReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: ItemQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because items are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits
        self._told = Told(desk, limits)

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/items/{item_id}"""
        reading.only(request, "min_offset", "as_of")
        item_id = shapes.item_id(request)
        cut = as_of.cut_of(request, self._inputs | {TOLD_ON})
        about = About(f"item {item_id}", "item_id", item_id, {TOLD_ON}, self._questions.moment)
        cut = await self._told.settle(cut, about)
        after, then = as_of.waited_for(request, self._inputs, cut)
        told = await self._desk.ask_about(
            self._questions.item, item_id, {"item_id": item_id, **then}, after=after, wait_s=self._limits.read_wait_s
        )
        as_of.require(told.meta, about.what, cut)
        item = told.meta["item"]
        if item is None:
            raise shapes.no_such_item(item_id)
        headers = {"ETag": answers.etag(item["version"]), **answers.FRESH}
        if reading.matches_etag(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return answers.answer(200, item, headers)

    async def find(self, request: web.Request) -> web.Response:
        """GET /api/v1/items: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "outlet_id", "query", "as_of", "limit", "cursor")
        outlet_id, query = shapes.outlet_id(request), " ".join(shapes.words(request))
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.page_most)
        then = as_of.carried(as_of.time_of(request))
        digest = listing.filters_digest("items", outlet_id, query, *then.values())
        cursor = reading.one(request, "cursor")
        after = listing.read_cursor(cursor, digest, self._limits.cursor_keys()) if cursor else None
        filters = {name: value for name, value in (("outlet_id", outlet_id), ("query", query)) if value} | then
        rows, after = await listing.search(self._desk, self._questions.page, filters, limit, after, self._limits)
        body = orjson.dumps(
            {
                "items": [orjson.Fragment(row.value) for row in rows],
                "next_cursor": listing.write_cursor(after, digest, self._limits.cursor_keys()) if after else None,
            }
        )
        return web.Response(body=body, content_type="application/json", headers=answers.FRESH)
