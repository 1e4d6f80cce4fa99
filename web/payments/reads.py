"""GET of a payment -> a question to its owner -> the public answer."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streams.records import Position
from tables.payments import Fold
from web import answers, as_of, listing, reading
from web.asking import Desk
from web.limits import Limits
from web.payments import shapes
from web.payments.past import TOLD_ON, PaymentPast
from web.payments.questions import PaymentQuestions


class PaymentReads:
    """The handler that changes nothing: parse, ask, present."""

    def __init__(
        self, desk: Desk, questions: PaymentQuestions, inputs: frozenset[str], limits: Limits, fold: Fold
    ) -> None:
        """`inputs`: the topics whose positions can be waited for, because payments are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits
        self._past = PaymentPast(desk, limits, fold)

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/payments/{order_uid}: how it stands, its refunds, and a page of its attempts, oldest first."""
        reading.only(request, "min_offset", "as_of", "limit", "cursor")
        uid, cut = shapes.order_uid(request), as_of.cut_of(request, frozenset({TOLD_ON}))
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.timeline_most)
        digest = listing.filters_digest("attempts", uid, *as_of.carried(cut).values())
        args = {"limit": str(limit)}
        if cursor := reading.one(request, "cursor"):
            args["after"] = listing.read_cursor(cursor, digest, self._limits.cursor_keys())
        after = reading.position(request, "min_offset", self._inputs)
        if cut is None:
            told = await self._ask(uid, args, after)
        else:
            now = await self._ask(uid, {"limit": "1"}, after)
            then = await self._past.at(uid, now["payment"], now["count"], cut)
            told = await self._ask(uid, {**args, "until": str(then.payment.attempts)}, None)
            told["payment"] = shapes.present(then.payment)
            told["refunds"] = [shapes.present_refund(refund) for _, refund in sorted(then.refunds.items())]
        keys = self._limits.cursor_keys()
        page = {
            **told["payment"],
            "refunds": told["refunds"],
            "attempts": told["attempts"],
            "next_cursor": listing.write_cursor(told["next"], digest, keys) if told["next"] else None,
        }
        return answers.answer(200, page, answers.FRESH)

    async def _ask(self, uid: str, args: dict[str, str], after: Position | None) -> dict[str, Any]:
        args = {"order_uid": uid, **args}
        answer = await self._desk.ask_about(
            self._questions.payment, uid, args, after=after, wait_s=self._limits.read_wait_s
        )
        if answer.meta["payment"] is None:
            raise shapes.no_such_payment(uid)
        return answer.meta
