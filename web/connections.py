"""Accepts HTTP connections within bounds, and answers what is not HTTP with problem+json.

aiohttp bounds the time of an idle connection and the size of a header. This module adds bounds on the number of
connections, on the time until a request has its whole header, and on callers that do not read their answers. It relies
on private parts of aiohttp's server, whose version is locked; tests/web/test_connections.py covers each of them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web, web_protocol, web_server

from web import problems
from web.metrics import HttpMetrics
from web.problems import Problem

log = logging.getLogger(__name__)

#: Headers of every answer. For answers that are data: pages set their own Content-Security-Policy.
DEFAULT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "orderstream",  # aiohttp's default names its own version and Python's.
}
REQUEST_ID_HEADER = "X-Request-Id"
#: What a parser error may repeat of the request.
_MOST_DETAIL = 200


@dataclass(frozen=True)
class ConnectionBounds:
    """Bounds of all connections of a worker. Times in seconds, sizes in bytes."""

    #: The most connections. Half of the process's file descriptors at most: stores and brokers need the others.
    connections: int = 1024
    #: From a connection's first byte, or its opening, to the end of a request's header.
    header_s: float = 10.0
    #: A caller that takes less than `read_bytes` of a waiting answer within this time is disconnected.
    stalled_s: float = 10.0
    read_bytes: int = 64 << 10
    #: Answers that wait for their callers, of all connections together.
    unread_bytes: int = 128 << 20
    metrics: HttpMetrics | None = field(default=None, compare=False)

    @property
    def most(self) -> int:
        """The most connections that this process can have."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.connections if files == resource.RLIM_INFINITY else max(1, min(self.connections, files // 2))


#: Where `web.attach` leaves the bounds for the server that is made later.
BOUNDS = web.AppKey("connection_bounds", ConnectionBounds)


class Connection(web_protocol.RequestHandler):
    """One connection of a caller."""

    __slots__ = ("_bounds", "_header_timer", "_stall_timer", "_unread", "since")

    def __init__(self, manager: Server, bounds: ConnectionBounds, **options: Any) -> None:
        super().__init__(manager, **options)
        self._bounds = bounds
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        #: When it last began to wait for a request.
        self.since = self._loop.time()

    @property
    def waits_for_request(self) -> bool:
        """Whether no request of this connection has come that is not answered."""
        return not self._messages and not self._request_in_progress and self._current_request is None

    @property
    def unread(self) -> int:
        """Bytes of answers that the caller has not taken."""
        transport = self.transport
        return transport.get_write_buffer_size() if isinstance(transport, asyncio.Transport) else 0

    # -- a request's header ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_header_timer()
        elif self._header_timer is None and self.waits_for_request:
            self._await_header()

    def _await_header(self) -> None:
        self.since = self._loop.time()
        self._header_timer = self._loop.call_later(self._bounds.header_s, self._header_is_late)

    def _header_is_late(self) -> None:
        self._header_timer = None
        if self.waits_for_request:
            self.force_close()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    # -- a caller that does not read -------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._watch_reader()
            if isinstance(self._manager, Server):
                self._manager.bound_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def _watch_reader(self) -> None:
        self._unread = self.unread
        self._stall_timer = self._loop.call_later(self._bounds.stalled_s, self._check_reader)

    def _check_reader(self) -> None:
        self._stall_timer = None
        if self._unread - self.unread < self._bounds.read_bytes:
            self.abort()
        else:
            self._watch_reader()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def abort(self) -> None:
        """Close at once; what the caller has not read is dropped."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_header_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    # -- answers that no handler gives -----------------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refuses, or a failure outside of all handlers, with problem+json; then hang up."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already, so that no other can be sent")
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
            problem = Problem(problems.INTERNAL, "The service failed on this request; its log has the details.")
        else:
            # One line without the bytes of the request: these may hold a password.
            log.warning("what came from a client is not an HTTP request: %s", type(exc).__name__)
            problem = Problem(problems.BAD_REQUEST, _detail_of(message))
        if self._bounds.metrics is not None:
            self._bounds.metrics.count("other", "unmatched", problem.kind.status, 0.0)
        answer = _answer(problem, request)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. One that aiohttp made outside of the middlewares becomes problem+json first."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = _answer(problems.of_http(resp, request.method, request.path), request)
        if isinstance(resp, web.StreamResponse) and not resp.prepared:
            for name, value in DEFAULT_HEADERS.items():
                resp.headers.setdefault(name, value)
        return await super().finish_response(request, resp, start_time)


def _detail_of(message: str | None) -> str:
    """The first line of a parser's message, as printable ASCII: the rest repeats bytes of the request."""
    line = next(iter((message or "").strip().splitlines()), "").strip(" :")
    return f"{ascii(line)[1:-1][:_MOST_DETAIL] or 'The request is not HTTP/1.1'}."


def _answer(problem: Problem, request: web.BaseRequest) -> web.Response:
    identity = uuid.uuid4().hex
    answer = problems.answer(problem, instance=request.path, request_id=identity)
    answer.headers[REQUEST_ID_HEADER] = identity
    return answer


class Server(web_server.Server):
    """Makes connections, and bounds how many there are and how much they hold."""

    def __init__(self, handler: Any, *, bounds: ConnectionBounds, **options: Any) -> None:
        super().__init__(handler, **options)
        self._bounds, self._most = bounds, bounds.most

    def __call__(self) -> Connection:
        return Connection(self, self._bounds, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web_protocol.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._most:
            self._make_room(handler)

    def _make_room(self, newest: web_protocol.RequestHandler) -> None:
        """Close the connection that has waited longest for a request; without one, the newest."""
        waiting = [
            each
            for each in self._connections
            if isinstance(each, Connection) and each is not newest and each.waits_for_request and each.transport
        ]
        victim = min(waiting, key=lambda each: each.since, default=None)
        if self._bounds.metrics is not None:
            self._bounds.metrics.disconnected.labels("evicted" if victim else "refused").inc()
        (victim or newest).force_close()

    def bound_unread(self) -> None:
        """Disconnect the callers that leave most unread, until all leave no more than `unread_bytes` together."""
        unread = {each: each.unread for each in self._connections if isinstance(each, Connection)}
        total = sum(unread.values())
        for each in sorted(unread, key=lambda each: unread[each], reverse=True):
            if total <= self._bounds.unread_bytes:
                return
            total -= unread[each]
            each.abort()


class Runner(web.AppRunner):
    """Runs an application on a Server. aiohttp decompresses no body: its bound on sizes counts compressed bytes."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, **options, auto_decompress=False)

    async def _make_server(self) -> Server:
        made = await super()._make_server()
        options: Mapping[str, Any] = made._kwargs
        bounds = self.app.get(BOUNDS, ConnectionBounds())
        return Server(made.request_handler, bounds=bounds, request_factory=made.request_factory, **options)
