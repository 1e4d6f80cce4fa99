"""GET of outlets -> questions to their owners -> the public answers."""

from __future__ import annotations

from aiohttp import web

from web import answers, reading
from web.asking import Desk
from web.limits import Limits
from web.outlets import shapes
from web.outlets.questions import OutletQuestions


class OutletReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: OutletQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because outlets are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/outlets/{outlet_id}"""
        reading.only(request, "min_offset")
        outlet_id = shapes.outlet_id(request)
        after = reading.position(request, "min_offset", self._inputs)
        told = await self._desk.ask_about(
            self._questions.outlet, outlet_id, {"outlet_id": outlet_id}, after=after, wait_s=self._limits.read_wait_s
        )
        return answers.answer(200, told.meta["outlet"], answers.FRESH)
