"""Refuses requests that a foreign web page may have caused, and requests beyond what the worker can serve.

A browser sends requests to loopback for any page. Three rules keep pages out: the Host header must be a name of this
worker (DNS rebinding), requests that change something must not come from a foreign origin, and a body must be declared
as JSON, which a page can send to another origin only after a CORS preflight.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from schemas.settings import Settings
from web import problems
from web.limits import Limits
from web.problems import Problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Answered however busy the worker is: a balancer that hears nothing would take it out, and operators need figures.
_ALWAYS = ("/health", "/metrics")
#: Asked by other workers, whose own callers are counted there. Counted apart: workers must not wait for each other.
_INTERNAL = "/internal/"
#: Of an answer to an allowed origin: the headers that its scripts may read, and how long a preflight is good for.
_EXPOSED = (
    "ETag, Location, Retry-After, X-Request-Id, Orderstream-Position, Idempotency-Replayed, Allow, Content-Language"
)
_ALLOWED_HEADERS = "Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Request-Id"
_PREFLIGHT_S = "600"


def host_name(authority: str) -> str | None:
    """The name or address in a Host header or an origin's authority, without its port; None when it is not valid."""
    try:
        parts = urlsplit(f"//{authority}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return name.rstrip(".")


class Hosts:
    """The names and addresses under which this worker may be addressed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower() for name in names)

    @classmethod
    def of(cls, settings: Settings) -> Hosts:
        """Loopback names, the listen address, the advertised URL's host, and ORDERSTREAM_WEB_ALLOWED_HOSTS."""
        advertised = urlsplit(settings.url).hostname
        return cls({"localhost", settings.web_host, *settings.allowed_hosts(), *([advertised] if advertised else [])})

    def allow(self, authority: str, local: str | None) -> bool:
        """Whether a Host header names this worker. `local`: the address at which the connection arrived."""
        name = host_name(authority)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # A DNS name that was rebound arrives as a name. An address can only be the one that was connected to.
        return address.is_loopback or name == (local or "").removeprefix("::ffff:")


def check_host(hosts: Hosts) -> Middleware:
    """Answer 421 to a request for another host."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall(hdrs.HOST, [])
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        if not given and request.version < HttpVersion11:
            return await handler(request)  # HTTP/1.0 has no Host: balancers' checks use it, and no browser does.
        if len(given) != 1 or not hosts.allow(given[0], str(local[0]) if local else None):
            raise Problem(
                problems.UNKNOWN_HOST,
                f"This worker is not known as {(given or ['(none)'])[0][:80]!a}. If it should be, add the name to"
                " ORDERSTREAM_WEB_ALLOWED_HOSTS.",
            )
        return await handler(request)

    return middleware


def check_origin(origins: frozenset[str]) -> Middleware:
    """Answer 403 to what another origin's page sends and could change something; answer CORS for `origins`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall(hdrs.ORIGIN, [])
        origin = ", ".join(given) if given else None
        allowed = origin is not None and origin.lower() in origins
        if request.method == "OPTIONS" and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            return _preflight(origin, allowed)
        if request.method not in SAFE_METHODS and not allowed:
            _require_same_origin(request, origin)
        response = await handler(request)
        if origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if allowed and origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response

    return middleware


def _require_same_origin(request: web.Request, origin: str | None) -> None:
    site = request.headers.get("Sec-Fetch-Site", "none").strip().lower()
    if site not in ("same-origin", "none"):
        raise _foreign(f"A page of another origin sent it (Sec-Fetch-Site: {site[:32]!a}).")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get(hdrs.HOST, "").lower():
        raise _foreign(f"A page of the origin {origin[:80]!a} sent it.")


def _foreign(why: str) -> Problem:
    return Problem(problems.FOREIGN_ORIGIN, f"{why} Origins that may write are those of ORDERSTREAM_WEB_CORS_ORIGINS.")


def _preflight(origin: str | None, allowed: bool) -> web.Response:
    if origin is None or not allowed:
        raise _foreign(f"A page of the origin {(origin or '(none)')[:80]!a} asked whether it may send a request.")
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PATCH, PUT, DELETE",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _ALLOWED_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_S,
            hdrs.VARY: hdrs.ORIGIN,
        },
    )


def check_body() -> Middleware:
    """Answer 415 to a body that is encoded or not declared as JSON, before a byte of it is read."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        encodings = [
            part.strip().lower()
            for value in request.headers.getall(hdrs.CONTENT_ENCODING, [])
            for part in value.split(",")
        ]
        if any(encoding != "identity" for encoding in encodings):
            raise Problem(
                problems.UNSUPPORTED_MEDIA_TYPE,
                f"The body is encoded ({', '.join(encodings)[:80]!a}). Send it without Content-Encoding.",
                headers={"Accept-Encoding": "identity", "Connection": "close"},
            )
        if request.body_exists and request.method not in SAFE_METHODS:
            _require_json(request)
        return await handler(request)

    return middleware


def _require_json(request: web.Request) -> None:
    given = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if len(given) != 1 or request.content_type != "application/json":
        declared = f"declared as {', '.join(given)[:80]!a}" if given else "not declared"
        raise Problem(
            problems.UNSUPPORTED_MEDIA_TYPE,
            f"The body is {declared}, not as application/json (curl: --json, not -d).",
            headers={"Connection": "close"},
        )


def bound_requests(limits: Limits) -> Middleware:
    """Answer 503 to requests beyond `requests_most` at the same time: waiting ones would hold memory and time out."""
    under_way = {False: 0, True: 0}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(_ALWAYS):
            return await handler(request)
        internal = request.path.startswith(_INTERNAL)
        if under_way[internal] >= limits.requests_most:
            raise Problem.unavailable(
                f"{limits.requests_most} requests are under way already (ORDERSTREAM_MAX_REQUESTS).",
                kind=problems.OVERLOADED,
            )
        under_way[internal] += 1
        try:
            return await handler(request)
        finally:
            under_way[internal] -= 1

    return middleware
