"""Connections: what is not HTTP, how many there are, how long a header may take, and callers that do not read."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from prometheus_client import CollectorRegistry
from pytest import mark, param

from tests.web.platform import BoundedServer, Client, platform
from tests.web.raw import PATIENCE_S, exchange, request
from web.connections import BOUNDS, ConnectionBounds
from web.metrics import HttpMetrics


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with platform(1) as running:
        yield running.workers[0].client


@mark.parametrize(
    ("sent", "status", "slug"),
    [
        param(b"GARBAGE\r\n\r\n", 400, "bad-request", id="no request"),
        param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), 400, "bad-request", id="TLS"),
        param(request("FOO", "/api/v1/orders"), 400, "bad-request", id="an unknown method"),
        param(request("PROPFIND", "/api/v1/orders"), 405, "method-not-allowed", id="a method that is not ours"),
        param(request("TRACE", "/"), 405, "method-not-allowed", id="TRACE"),
        param(request("CONNECT", "localhost:80"), 415, "unsupported-media-type", id="CONNECT"),
        param(b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "bad-request", id="a version of the future"),
        param(request("GET", "/", b"", "A: b\x00c"), 400, "bad-request", id="NUL in a header"),
        param(request("GET", "/", b"", "A: " + "a" * 70_000), 400, "bad-request", id="a long header"),
        param(request("GET", "/", b"", *(f"A{n}: b" for n in range(5_000))), 400, "bad-request", id="many headers"),
        param(request("GET", "/" + "a" * 70_000), 400, "bad-request", id="a long address"),
        param(request("POST", "/api/v1/orders", b"", "Content-Length: -1"), 400, "bad-request", id="negative length"),
        param(request("POST", "/api/v1/orders", b"{}", "Expect: x"), 417, "expectation-failed", id="Expect"),
        param(request("GET", "/nowhere", b"", "Expect: x"), 417, "expectation-failed", id="Expect at no address"),
        param(request("POST", "/nowhere", b"{}", "Content-Encoding: br"), 415, "unsupported-media-type", id="br"),
    ],
)
async def test_what_is_not_for_a_handler_is_a_problem_without_versions(
    client: Client, sent: bytes, status: int, slug: str
) -> None:
    answered = await exchange(client, sent)
    told = orjson.loads(answered.body)
    assert (answered.status, told["type"], told["status"]) == (status, f"/problems#{slug}", status)
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.headers["server"] == "orderstream"
    assert told["request_id"] == answered.headers["x-request-id"]
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert "Traceback" not in answered.body.decode() and len(told["detail"]) < 300 and told["detail"].isprintable()


#: More than the kernel buffers for one connection.
LARGE = 32 << 20


async def large(request_: web.Request) -> web.Response:
    return web.Response(body=b"x" * LARGE)


async def small(request_: web.Request) -> web.Response:
    return web.Response(body=b"ok")


async def broken(request_: web.Request) -> web.Response:
    raise RuntimeError("secret")


@asynccontextmanager
async def serving(**bounds: Any) -> AsyncIterator[tuple[Client, HttpMetrics]]:
    """A server without middlewares, whose connections are bounded so."""
    app, metrics = web.Application(), HttpMetrics(CollectorRegistry())
    app[BOUNDS] = ConnectionBounds(**bounds, metrics=metrics)
    for handler in (large, small, broken):
        app.router.add_get(f"/{handler.__name__}", handler)
    async with TestClient(BoundedServer(app)) as client:
        yield client, metrics


async def connect(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = client.make_url("")
    return await asyncio.open_connection(url.host, url.port)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that still comes until the server closes. Only a hang reaches the limit."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_a_failure_outside_of_all_middlewares_tells_nothing() -> None:
    async with serving() as (client, _):
        answered = await exchange(client, request("GET", "/broken"))
        assert answered.status == 500 and b"secret" not in answered.body
        assert answered.headers["server"] == "orderstream"


@mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local"])
async def test_a_header_that_does_not_arrive_ends_the_connection(begun: bytes) -> None:
    async with serving(header_s=0.1) as (client, _):
        reader, writer = await connect(client)
        writer.write(begun)
        assert await ended(reader) == b""
        writer.close()


async def test_the_second_header_of_a_connection_has_the_same_time() -> None:
    async with serving(header_s=0.1) as (client, _):
        reader, writer = await connect(client)
        writer.write(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await reader.readuntil(b"ok")
        writer.write(b"GET /small HT")
        assert await ended(reader) == b""
        writer.close()


async def test_a_caller_that_does_not_read_is_disconnected_and_others_are_served() -> None:
    async with serving(stalled_s=0.2) as (client, _):
        _, writer = await connect(client)
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        assert (await exchange(client, request("GET", "/small"))).body == b"ok"
        # Nothing is read from the socket beyond the reader's own buffer, which pauses it at 128 KiB.
        async with asyncio.timeout(PATIENCE_S):
            while not writer.is_closing():
                writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await asyncio.sleep(0.05)
        writer.close()


async def test_a_caller_that_reads_slowly_gets_its_answer() -> None:
    async with serving(stalled_s=0.2, read_bytes=1) as (client, _):
        reader, writer = await connect(client)
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = 0
        async with asyncio.timeout(PATIENCE_S):
            while chunk := await reader.read(4 << 20):
                got += len(chunk)
                await asyncio.sleep(0.02)
        assert got > LARGE
        writer.close()


async def test_unread_answers_of_all_callers_are_bounded_together() -> None:
    async with serving(unread_bytes=1 << 20) as (client, _):
        reader, writer = await connect(client)
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert len(await ended(reader)) < LARGE
        writer.close()


async def test_the_longest_idle_connection_makes_room_for_a_new_one() -> None:
    async with serving(connections=2) as (client, metrics):
        first, second = await connect(client), await connect(client)
        answered = [await exchange(client, request("GET", "/small")) for _ in range(2)]
        assert [each.body for each in answered] == [b"ok", b"ok"]
        assert await ended(first[0]) == b""
        for _, writer in (first, second):
            writer.close()
        assert metrics.disconnected.labels("evicted")._value.get() >= 1


async def test_far_more_connections_than_allowed_leave_the_good_ones_served() -> None:
    async with serving(connections=20) as (client, _):
        half = [await connect(client) for _ in range(200)]
        for _, writer in half:
            writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        answered = [await exchange(client, request("GET", "/small")) for _ in range(30)]
        assert {each.body for each in answered} == {b"ok"}
        for _, writer in half:
            writer.close()


def test_connections_stay_below_the_files_that_the_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    assert ConnectionBounds(connections=10_000).most == 512
    assert ConnectionBounds(connections=100).most == 100
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert ConnectionBounds(connections=10_000).most == 10_000


async def test_requests_beyond_the_bound_are_refused_and_health_is_not() -> None:
    async with platform(1, limits={"requests_most": 2}) as running:
        client = running.workers[0].client
        await running.hold()  # nothing is applied, so that writes wait for their outcome
        waiting = [asyncio.create_task(client.post("/api/orders/test")) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            while (refused := await client.get("/api/v1/orders/x")).status != 503:
                pass
        assert (await refused.json())["type"] == "/problems#overloaded" and refused.headers["Retry-After"]
        assert (await client.get("/health/live")).status == 200 and (await client.get("/metrics")).status == 200
        running.flow()
        assert {each.status for each in await asyncio.gather(*waiting)} <= {201, 202}
        assert (await client.get("/api/v1/orders/x")).status == 404
