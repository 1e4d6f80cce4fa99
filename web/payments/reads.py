"""GET of a payment -> a question to its owner -> the public answer."""

from __future__ import annotations

from aiohttp import web

from web import answers, listing, reading
from web.asking import Desk
from web.limits import Limits
from web.payments import shapes
from web.payments.questions import PaymentQuestions


class PaymentReads:
    """The handler that changes nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: PaymentQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because payments are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/payments/{order_uid}: how it stands, its refunds, and a page of its attempts, oldest first."""
        reading.only(request, "min_offset", "limit", "cursor")
        uid = shapes.order_uid(request)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.timeline_most)
        digest = listing.filters_digest("attempts", uid)
        args = {"order_uid": uid, "limit": str(limit)}
        if cursor := reading.one(request, "cursor"):
            args["after"] = listing.read_cursor(cursor, digest)
        after = reading.position(request, "min_offset", self._inputs)
        answer = await self._desk.ask_about(
            self._questions.payment, uid, args, after=after, wait_s=self._limits.read_wait_s
        )
        told = answer.meta
        if told["payment"] is None:
            raise shapes.no_such_payment(uid)
        page = {
            **told["payment"],
            "refunds": told["refunds"],
            "attempts": told["attempts"],
            "next_cursor": listing.write_cursor(told["next"], digest) if told["next"] else None,
        }
        return answers.answer(200, page, answers.FRESH)
