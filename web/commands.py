"""a command -> its topic -> what became of it, as its owner says; and the answers to writes that no domain owns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import structlog
from aiohttp import web

from schemas.base import derived_id
from streams.errors import NotReadable
from streams.records import Headers, Position
from web import answers, problems
from web.asking import Answer, Desk, Question
from web.problems import Problem


class Commands(Protocol):
    """A topic of commands, as far as this room needs it."""

    async def send(self, *, key: str, value: Any, headers: Headers = ()) -> Position | None: ...


def id_of(scope: str, key: str | None, otherwise: str) -> str:
    """The id that follows from the caller's key within `scope`, so that the owner knows the command again."""
    return otherwise if key is None else derived_id(f"{scope}\0{key}")


def position_of(first: Mapping[str, Any]) -> Position:
    """Where the command lies that an owner's answer was first given to."""
    return Position(first["topic"], first["partition"], first["offset"])


async def send(commands: Commands, key: str, value: Any) -> Position:
    """Put a command on its topic, with the request's id beside it. Raises ValueError when it is larger than allowed."""
    identity = str(structlog.contextvars.get_contextvars().get("request_id", ""))
    position = await commands.send(key=key, value=value, headers=(("request-id", identity.encode()),))
    assert position is not None, "handlers send outside of agents, where every record has a position"
    return position


async def outcome_of(
    desk: Desk, question: Question, key: str, args: Mapping[str, str], *, after: Position, wait_s: float
) -> Answer | None:
    """What became of the command at `after`; None when the wait ran out."""
    try:
        return await desk.ask_about(question, key, args, after=after, wait_s=wait_s)
    except NotReadable:
        return None


def accepted(
    named: Mapping[str, str], where: str, command_id: str, position: Position, *, wait: bool = True
) -> web.Response:
    """Written down and not yet applied, or not yet known to be: it will be, and `min_offset` finds out when.

    `named`: the id of what the command is about, as the domain calls it; `where` is its address. `wait` False: the
    command is for somebody else first, so that its position cannot be waited for there.
    """
    at = str(position)
    outcome = f"{where}?min_offset={at}" if wait else where
    told = {**named, "position": at, "command_id": command_id, "outcome": outcome}
    return answers.answer(202, told, {"Location": where, answers.POSITION: at, "Retry-After": "1"})


def dead_lettered(position: Position) -> Problem:
    return Problem(
        problems.DEAD_LETTERED,
        f"The command at {position} could not be applied; `faust -A app dead-letters show {position}` says why.",
        dead_letter=str(position),
    )
