"""GET of an order's shipments -> a question to its owner -> the public answer."""

from __future__ import annotations

from aiohttp import web

from web import answers, reading
from web.asking import Desk
from web.limits import Limits
from web.orders import shapes
from web.shipping.questions import ShippingQuestions


class ShippingReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: ShippingQuestions, inputs: frozenset[str], limits: Limits) -> None:
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def shipments(self, request: web.Request) -> web.Response:
        """GET /api/v1/orders/{order_uid}/shipments"""
        reading.only(request, "min_offset")
        uid = shapes.order_uid(request)
        after = reading.position(request, "min_offset", self._inputs)
        answer = await self._desk.ask_about(
            self._questions.shipments, uid, {"order_uid": uid}, after=after, wait_s=self._limits.read_wait_s
        )
        version = answer.meta["version"]
        if version is None:
            raise shapes.no_such_order(uid)
        told = {"order_uid": uid, "shipments": answer.meta["shipments"]}
        return answers.answer(200, told, {"ETag": answers.etag(version), **answers.FRESH})
