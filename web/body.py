"""request body -> bytes that are small enough, arrived in time, are JSON and are not nested too deeply."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.strict_json import location_path
from web import problems
from web.limits import Limits
from web.problems import Problem

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """What the body of a write is made of: members of the very type, and none that nobody reads."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


async def read_json(request: web.Request, limits: Limits) -> bytes:
    """The body as received: declared as JSON, small enough, not too deep. Raises Problem (400, 408, 413, 415).

    Whether it is JSON at all is left to whoever knows what it should hold, and can name the place of a fault.
    """
    if request.body_exists and request.content_type not in {"application/json", "application/octet-stream"}:
        # No Content-Type at all is read as octet-stream by aiohttp, and as JSON by us: the body decides.
        raise Problem(
            problems.UNSUPPORTED_MEDIA_TYPE,
            f"The body is declared as {request.content_type}, not as application/json (curl: --json, not -d).",
        )
    raw = await read(request, limits)
    with contextlib.suppress(orjson.JSONDecodeError):
        if too_deep(orjson.loads(raw), limits.json_depth):
            raise Problem(problems.BAD_JSON, f"The body is nested more than {limits.json_depth} levels deep.")
    return raw


def parse(raw: bytes, model: type[M]) -> M:
    """A small body as a model of ours. Raises Problem: 400 when it is not JSON, else 422 with every fault's path."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if any(fault["type"] == "json_invalid" for fault in found):
            raise Problem(problems.BAD_JSON, f"{found[0]['msg']}.") from None
        faults = [{"path": location_path(fault["loc"]), "message": fault["msg"]} for fault in found]
        raise Problem(problems.INVALID_DOCUMENT, f"{len(faults)} faults, see `faults`.", faults=faults) from None


async def read(request: web.Request, limits: Limits) -> bytes:
    """The whole body. A declared length is refused before a byte is read; a chunked body as soon as it is too long."""
    if (request.content_length or 0) > limits.body_bytes:
        raise _too_large(f"{request.content_length} bytes are declared", limits)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.body_wait_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise _too_large(f"more than {limits.body_bytes} bytes arrived", limits)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            problems.REQUEST_TIMEOUT,
            f"{size} bytes of the body arrived within {limits.body_wait_s:g} s, and not its end.",
            headers={"Connection": "close"},
        ) from None
    return b"".join(chunks)


def _too_large(what: str, limits: Limits) -> Problem:
    return Problem(
        problems.TOO_LARGE,
        f"The body is too large: {what}, the limit is {limits.body_bytes}.",
        headers={"Connection": "close"},  # What was not read would be taken for the next request.
        limit_bytes=limits.body_bytes,
    )


def too_deep(value: Any, most: int) -> bool:
    """Whether arrays and objects are nested more than `most` levels. Walks level by level: no recursion to exhaust."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            break
    return bool(level)
