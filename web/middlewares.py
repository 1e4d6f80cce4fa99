"""every request -> an id, a bound on its time, one line in the log, two metrics, and problem+json for what fails."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from streams.errors import NotReadable
from streams.logs import Brief, get_logger, mask_text
from web import problems
from web.asking import INTERNAL_PATH
from web.connections import DEFAULT_HEADERS, REQUEST_ID_HEADER
from web.limits import Limits
from web.metrics import HttpMetrics
from web.problems import Problem

REQUEST_ID = web.RequestKey("request_id", str)

log, requests = get_logger("web.access"), Brief("web.access")

#: An id that a caller sends is written to logs and answers, so it may hold nothing that means something there.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: What only workers of the live version answer.
_OF_THE_LIVE = ("/api/", "/internal/")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Asked every few seconds by machines, or by one worker of another: their lines would hide the requests of callers.
_QUIET = frozenset({"/health", "/health/live", "/health/ready", "/metrics", INTERNAL_PATH})


def request_id(request: web.Request) -> str:
    """The caller's X-Request-Id if it is sane, else a new one."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def route_template(request: web.Request) -> str:
    """`/api/v1/orders/{order_uid}`: an address without its ids. Unknown addresses share one label."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def observe(metrics: HttpMetrics) -> Middleware:
    """Outermost: whatever happens inside, the caller gets an id and the operator a line."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        identity = request[REQUEST_ID] = request_id(request)
        status = 499  # The caller went away: the handler is cancelled and no answer is sent.
        # aiohttp serves all requests of a connection in one asyncio task, so the variable must be taken back.
        with structlog.contextvars.bound_contextvars(request_id=identity):
            try:
                response = await handler(request)
                # A caller that went away while its request was read does not get the answer.
                status = 499 if request.transport is None else response.status
            finally:
                _note(request, metrics, status, time.perf_counter() - began)
        response.headers[REQUEST_ID_HEADER] = identity
        for name, value in DEFAULT_HEADERS.items():
            response.headers.setdefault(name, value)
        if hdrs.CACHE_CONTROL not in response.headers:
            response.headers[hdrs.CACHE_CONTROL] = "no-store"
        return response

    return middleware


def _note(request: web.Request, metrics: HttpMetrics, status: int, seconds: float) -> None:
    route = route_template(request)
    method = request.method if request.method in _METHODS else "other"
    metrics.count(method, route, status, seconds)
    write = log.debug if route in _QUIET and status < 500 else requests.info
    # The query is left out: `customer_id` belongs to a person.
    path = mask_text(request.path)
    write("request", method=method, path=path, route=route, status=status, seconds=round(seconds, 6))


def explain() -> Middleware:
    """Every failure becomes problem+json, and an unexpected one is logged with its traceback."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as error:
            problem = error
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = problems.of_http(error, request.method, request.path)
        except NotReadable as error:
            problem = Problem.unavailable(error.reason, error.retry_after_s)
        except Exception:
            log.exception("request.failed", method=request.method, route=route_template(request))
            problem = Problem(problems.INTERNAL, "The service failed on this request; its log has the details.")
        return problems.answer(problem, instance=request.path, request_id=request[REQUEST_ID])

    return middleware


def stand_by(standing_by: Callable[[], str | None]) -> Middleware:
    """A worker whose version is not the live one takes nothing in and tells nothing: its answers may be old by now."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(_OF_THE_LIVE) and (reason := standing_by()) is not None:
            raise NotReadable(reason)
        return await handler(request)

    return middleware


def bound_time(limits: Limits) -> Middleware:
    """No request holds a connection longer than `request_s`, whatever its handler waits for."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(limits.request_s) as scope:
                return await handler(request)
        except TimeoutError:
            if not scope.expired():
                raise
            raise Problem.unavailable(
                f"The request was not finished within {limits.request_s:g} s.", kind=problems.TIMED_OUT
            ) from None

    return middleware
