"""PUT of outlets -> a command on their topic -> the outcome at their owner -> the public answer."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from schemas.outlets import Approval as ApprovalWord
from schemas.outlets import ApprovalMode, ConfigureOutlet, NumberPrefix
from schemas.purchases import Span
from web import answers, body, reading
from web.asking import Desk
from web.body import Body
from web.commands import Commands, accepted, dead_lettered, outcome_of, position_of, send
from web.limits import Limits
from web.outlets import shapes
from web.outlets.questions import OutletQuestions
from web.requests import Requests


class Approval(Body):
    """Who takes paid orders."""

    mode: Annotated[ApprovalMode, Field(strict=False)]
    after_ms: Span = 0


class Configuration(Body):
    """The body that says all of how an outlet works: what is not named, or null, is the platform's again."""

    approval: Approval | None = None
    number_prefix: NumberPrefix | None = None


class OutletWrites:
    """The handler that puts a command on its topic: parse, command, wait, present."""

    def __init__(
        self, desk: Desk, questions: OutletQuestions, commands: Commands, requests: Requests, limits: Limits
    ) -> None:
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits = requests, limits

    async def configure(self, request: web.Request) -> web.Response:
        """PUT /api/v1/outlets/{outlet_id}: the same again changes nothing."""
        reading.only(request)
        outlet_id = shapes.outlet_id(request)
        asked, raw = await body.read_model(request, self._limits, Configuration)
        approval = ApprovalWord(**asked.approval.model_dump()) if asked.approval else None

        async def act(command_id: str) -> web.Response:
            command = ConfigureOutlet(
                command_id=command_id, outlet_id=outlet_id, approval=approval, number_prefix=asked.number_prefix
            )
            return await self._done(command)

        return await self._requests.once(request, raw, act)

    async def _done(self, command: ConfigureOutlet) -> web.Response:
        id, wait_s = command.outlet_id, self._limits.outcome_wait_s
        position = await send(self._commands, id, command)
        about = {"outlet_id": id, "command_id": command.command_id}
        found = await outcome_of(self._desk, self._questions.outcome, id, about, after=position, wait_s=wait_s)
        if found is None:
            return accepted({"outlet_id": id}, f"{shapes.HOME}/{id}", command.command_id, position)
        first = found.meta["answer"]
        if first is None:
            raise dead_lettered(position)
        at = str(position_of(first))
        return answers.answer(200, {**found.meta["outlet"], "position": at}, {answers.POSITION: at})
