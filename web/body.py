"""Reads request bodies: bounded in size, time and depth, with one meaning for every reader of JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import orjson
from aiohttp import ClientPayloadError, web
from aiohttp.client_exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.base import MAX_FAULTS, Fault
from schemas.strict_json import REPEATED_NAME, location_path, read_tree
from web import problems
from web.limits import Limits
from web.problems import Problem

M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")

#: A body up to this size is read on the event loop: at the worst it takes about 3 ms.
SMALL_BYTES = 4096
#: Names, elements and objects of a small body: the careful reading of as many takes about 30 ms.
MOST_VALUES = 20_000
#: Of each path and message in a list of faults. Names and values of the body are repeated there.
_MOST_TEXT = 300


class Body(BaseModel):
    """What the body of a write is made of: members of the very type, and none that nobody reads."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class CarefulReader:
    """Reads large or faulty bodies in a thread of its own, so that the event loop goes on.

    One body at a time: readers in Python share one interpreter, so that more threads would not be faster and would take
    more from the event loop. Requests beyond `waiting` are answered 503 (`overloaded`).
    """

    def __init__(self, waiting: int) -> None:
        self._most, self._open = waiting + 1, 0
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="careful-reader")

    async def run(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `read`, or what it raises. Raises Problem (503) when too many wait."""
        if self._open >= self._most:
            raise Problem.unavailable(
                f"{self._most - 1} bodies that need a careful reading wait already.", kind=problems.OVERLOADED
            )
        self._open += 1
        # Counted until the thread is done with it: a caller that goes away does not end the reading.
        reading = self._threads.submit(read, *args, **kwargs)
        reading.add_done_callback(lambda _: self._done())
        return await asyncio.wrap_future(reading)

    def _done(self) -> None:
        self._open -= 1

    async def closing(self, _: web.Application) -> Any:
        """End the thread when the server ends: aiohttp's clean-up context."""
        yield
        self._threads.shutdown(wait=False, cancel_futures=True)


CAREFUL = web.AppKey("careful_reader", CarefulReader)


async def carefully(request: web.Request, raw: bytes, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`read` on the event loop when the body is small, else in the CarefulReader. Raises what it raises, or 503."""
    if len(raw) <= SMALL_BYTES:
        return read(*args, **kwargs)
    return await request.app[CAREFUL].run(read, *args, **kwargs)


async def read_model(
    request: web.Request, limits: Limits, model: type[M], *, empty: bytes = b"", most_bytes: int | None = None
) -> tuple[M, bytes]:
    """The body as a model of ours, and as it came. `empty`: what no body at all stands for.

    `most_bytes`: its largest size; None: `small_body_bytes`. Raises Problem: 400, 408, 413, 503; 422 with the paths of
    faults.
    """
    raw = await read(request, limits, limits.small_body_bytes if most_bytes is None else most_bytes)
    return await parse(request, raw or empty, model, limits), raw


async def parse(request: web.Request, raw: bytes, model: type[M], limits: Limits) -> M:
    """As `read_model`, of a body that was read already."""
    return await carefully(request, raw, parse_json, raw, model, limits.json_depth)


def parse_json(raw: bytes, model: type[M], most_depth: int) -> M:
    """JSON as a model. Raises Problem: 400 when readers of JSON would disagree about it, 422 when it does not fit."""
    require_few_values(raw)
    tree, found, _ = read_tree(raw)
    if (tree is None and found) or is_ambiguous(found):
        raise Problem(problems.BAD_JSON, _said_of(found), **listed(found))
    if found:
        raise Problem(problems.INVALID_DOCUMENT, f"{len(found)} faults, see `faults`.", **listed(found))
    if too_deep(tree, most_depth):
        raise Problem(problems.BAD_JSON, f"The body is nested more than {most_depth} levels deep.")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
    faults = [Fault(path=location_path(each["loc"]), message=each["msg"]) for each in details[:MAX_FAULTS]]
    rest = len(details) - len(faults)
    count = "One fault" if len(details) == 1 else f"{len(details)} faults"
    raise Problem(problems.INVALID_DOCUMENT, f"{count}, see `faults`.", **listed(faults, rest))


def is_ambiguous(faults: Iterable[Fault]) -> bool:
    """Whether readers of JSON would take different documents from these bytes: a name is there twice."""
    return any(fault.message.startswith(REPEATED_NAME) for fault in faults)


def _said_of(faults: Iterable[Fault]) -> str:
    first = next(iter(faults))
    return f"{first.path[:_MOST_TEXT]}: {first.message[:_MOST_TEXT]}."


def listed(faults: Iterable[Fault], rest: int = 0) -> dict[str, Any]:
    """Faults as members of a problem: MAX_FAULTS at most, and how many `rest` are not listed."""
    every = list(faults)
    shown = [{"path": each.path[:_MOST_TEXT], "message": each.message[:_MOST_TEXT]} for each in every[:MAX_FAULTS]]
    rest += len(every) - len(shown)
    return {"faults": shown} | ({"faults_not_listed": rest} if rest else {})


async def read(request: web.Request, limits: Limits, most_bytes: int) -> bytes:
    """The whole body. A declared length is refused before a byte is read; a chunked body as soon as it is too long.

    Raises Problem: 400 when it does not arrive whole, 408, 413.
    """
    most = min(most_bytes, limits.body_bytes)
    if (request.content_length or 0) > most:
        raise too_large(f"{request.content_length} bytes are declared", most)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.body_wait_s):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > most:
                    raise too_large(f"more than {most} bytes arrived", most)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            problems.REQUEST_TIMEOUT,
            f"{size} bytes of the body arrived within {limits.body_wait_s:g} s, and not its end.",
            headers={"Connection": "close"},
        ) from None
    except (web.RequestPayloadError, ClientPayloadError, ClientError, ConnectionError) as error:
        # The caller has gone, or its chunks are not what they say. Either is the caller's fault, not a failure here.
        raise Problem(
            problems.INCOMPLETE_BODY,
            f"{size} bytes of the body arrived, and not its end ({type(error).__name__}).",
            headers={"Connection": "close"},
        ) from None
    return b"".join(chunks)


def too_large(what: str, most_bytes: int) -> Problem:
    """The problem of a body that is larger than its address takes."""
    return Problem(
        problems.TOO_LARGE,
        f"The body is too large: {what}, the limit is {most_bytes}.",
        headers={"Connection": "close"},  # What was not read would be taken for the next request.
        limit_bytes=most_bytes,
    )


def require_few_values(raw: bytes) -> None:
    """Raise Problem (400) for JSON that may have more than MOST_VALUES values, counted by its punctuation.

    Punctuation within texts counts too, so that the bound is far above what any body of ours needs.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
        raise Problem(problems.BAD_JSON, f"The body has more than {MOST_VALUES} values.")


def require_depth(raw: bytes, most: int) -> None:
    """Raise Problem (400) for JSON that is nested deeper. What is not JSON passes: its reader says why."""
    if raw.count(b"{") + raw.count(b"[") <= most:
        return
    with contextlib.suppress(orjson.JSONDecodeError):
        if too_deep(orjson.loads(raw), most):
            raise Problem(problems.BAD_JSON, f"The body is nested more than {most} levels deep.")


def too_deep(value: Any, most: int) -> bool:
    """Whether arrays and objects are nested more than `most` levels. Walks level by level: no recursion to exhaust."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, Mapping) else parent)
            if isinstance(item, dict | list)
        ]
        if not level:
            break
    return bool(level)
