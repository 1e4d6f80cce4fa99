"""what every request meets: ids, problems, limits, time-outs, logs, metrics, headers; and the route between workers."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from pytest import mark, param

from streams import logs
from streams.vitals import Check
from tests.web.platform import Platform, platform, problem, raw
from web import problems
from web.asking import HOP, Answer
from web.body import too_deep
from web.limits import Limits
from web.metrics import HttpMetrics
from web.middlewares import bound_time, explain, observe
from web.problems import KINDS, Problem, whole_seconds


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("json", "INFO", out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


# -- every request -----------------------------------------------------------------------------------------------------


@mark.parametrize(
    ("given", "taken"),
    [
        param("checkout-7f3a", True, id="sane"),
        param("x" * 129, False, id="too long"),
        param("a b", False, id="a space"),
        param('x"y', False, id="a quote"),
        param("", False, id="empty"),
    ],
)
async def test_a_sane_request_id_is_taken_over(two: Platform, given: str, taken: bool) -> None:
    response = await two.workers[0].client.get("/health/live", headers={"X-Request-Id": given})
    assert (response.headers["X-Request-Id"] == given) is taken
    assert response.headers["X-Request-Id"]


async def test_requests_of_one_connection_have_ids_of_their_own(two: Platform) -> None:
    client = two.workers[0].client
    ids = [(await client.get("/nowhere")).headers["X-Request-Id"] for _ in range(3)]
    assert len(set(ids)) == 3


async def test_what_does_not_exist_is_a_problem_too(two: Platform) -> None:
    client = two.workers[0].client
    await problem(await client.get("/api/v1/nowhere"), 404, "no-such-route")
    response = await client.delete("/api/v1/orders")
    await problem(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "GET, HEAD, POST"
    assert (await client.put("/api/orders/test")).headers["Allow"] == "GET, HEAD, POST"
    await problem(await client.get("/static/../../pyproject.toml"), 404, "no-such-route")
    await problem(await client.get("/static/nothing.js"), 404, "no-such-route")


async def test_answers_carry_headers_that_keep_browsers_out(two: Platform) -> None:
    client = two.workers[0].client
    for path in ("/api/v1/orders", "/nowhere", "/metrics", "/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "aiohttp" not in headers["Server"].lower() and "python" not in headers["Server"].lower()
        assert headers["Cache-Control"]


async def test_a_request_is_one_line_in_the_log_without_its_query(two: Platform, lines: io.StringIO) -> None:
    client = two.workers[0].client
    await client.get("/api/v1/orders/nobody?min_offset=orders-0-0", headers={"X-Request-Id": "r-1"})
    await client.get("/api/v1/orders?customer_id=ann%40example.com")
    await client.get("/health/live")
    written = [orjson.loads(line) for line in lines.getvalue().splitlines()]
    first, second = [line for line in written if line["logger"] == "web.access"]
    assert first["request_id"] == "r-1" and second["request_id"] != "r-1"
    assert (first["route"], first["path"]) == ("/api/v1/orders/{order_uid}", "/api/v1/orders/nobody")
    assert (first["method"], first["status"]) == ("GET", 400 if two.home("nobody") else 404)
    assert first["seconds"] >= 0
    assert "ann" not in lines.getvalue()


async def test_a_forwarded_read_has_the_same_id_at_both_workers(two: Platform, lines: io.StringIO) -> None:
    logging.getLogger().setLevel("DEBUG")
    uid = next(uid for number in range(99) if two.home(uid := f"far-{number}") == 1)
    await two.workers[0].client.get(f"/api/v1/orders/{uid}", headers={"X-Request-Id": "r-2"})
    routes = {
        line["route"] for line in map(orjson.loads, lines.getvalue().splitlines()) if line.get("request_id") == "r-2"
    }
    assert routes == {"/api/v1/orders/{order_uid}", "/internal/v1/{group}/{partition}/{question}"}


async def test_requests_are_counted_by_route_without_ids(two: Platform) -> None:
    client = two.workers[0].client
    await two.place(raw("counted"))
    for path in ("/api/v1/orders/counted", "/api/v1/orders/counted-not", "/nowhere/17"):
        await client.get(path)
    metrics = await (await client.get("/metrics")).text()
    route = "/api/v1/orders/{order_uid}"
    assert f'http_requests_total{{method="GET",route="{route}",status="200"}} 1.0' in metrics
    assert f'http_requests_total{{method="GET",route="{route}",status="404"}} 1.0' in metrics
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in metrics
    assert f'http_request_seconds_count{{method="GET",route="{route}"}} 2.0' in metrics
    assert "process_resident_memory_bytes" in metrics
    assert "counted" not in metrics and "17" not in [part for line in metrics.splitlines() for part in line.split('"')]


# -- failures and time -------------------------------------------------------------------------------------------------


@pytest.fixture
async def bare() -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """The middlewares alone, before handlers that misbehave."""

    async def fail(request: web.Request) -> web.Response:
        raise RuntimeError("secret of test@gmail.com")

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    async def fire(request: web.Request) -> web.Response:
        raise TimeoutError("of the handler's own")

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    app = web.Application()
    limits = Limits(request_s=0.2)
    app.middlewares.extend([observe(HttpMetrics(CollectorRegistry())), explain(), bound_time(limits)])
    for handler in (fail, hang, fire, redirect):
        app.router.add_get(f"/{handler.__name__}", handler)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_failure_tells_the_caller_nothing_but_its_id(
    bare: TestClient[web.Request, web.Application], lines: io.StringIO
) -> None:
    told = await problem(await bare.get("/fail"), 500, "internal")
    assert "secret" not in orjson.dumps(told).decode()
    (line,) = [line for line in map(orjson.loads, lines.getvalue().splitlines()) if line["event"] == "request.failed"]
    assert line["request_id"] == told["request_id"]
    assert "RuntimeError: secret of ***" in line["exception"]


async def test_a_request_that_takes_too_long_is_ended(bare: TestClient[web.Request, web.Application]) -> None:
    response = await bare.get("/hang")
    await problem(response, 503, "timed-out")
    assert response.headers["Retry-After"]
    await problem(await bare.get("/fire"), 500, "internal")


async def test_redirects_are_no_problems(bare: TestClient[web.Request, web.Application]) -> None:
    response = await bare.get("/redirect", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, "/elsewhere")


async def test_a_body_that_trickles_in_is_refused() -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async with platform(1, limits={"body_wait_s": 0.2}) as one:
        response = await one.workers[0].client.post("/api/v1/orders", data=trickle())
        await problem(response, 408, "request-timeout")


@mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (30, "30")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    assert whole_seconds(seconds) == header


def test_every_kind_of_problem_is_explained_once() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS)
    assert all(kind.title and kind.advice and 400 <= kind.status <= 599 for kind in KINDS)


@mark.parametrize(
    ("value", "most", "expected"),
    [
        param(1, 0, False, id="a number"),
        param([], 1, False, id="one level"),
        param([[]], 1, True, id="two levels of one"),
        param({"a": {"b": [1]}}, 3, False, id="three of three"),
        param({"a": {"b": [{}]}}, 3, True, id="four of three"),
        param({"a": 1, "b": [[[[]]]]}, 4, True, id="the second member"),
    ],
)
def test_depth(value: Any, most: int, expected: bool) -> None:
    assert too_deep(value, most) is expected


# -- between workers ---------------------------------------------------------------------------------------------------


async def test_the_internal_route_refuses_what_has_not_hopped_once(two: Platform) -> None:
    client = two.workers[0].client
    path = "/internal/v1/orders/0/order?order_uid=x"
    for headers in ({}, {HOP: "0"}, {HOP: "2"}, {HOP: "x"}):
        await problem(await client.get(path, headers=headers), 400, "bad-parameter")
    assert (await client.get(path, headers={HOP: "1"})).status == 200


async def test_the_internal_route_never_forwards(two: Platform) -> None:
    response = await two.workers[0].client.get("/internal/v1/orders/1/order?order_uid=x", headers={HOP: "1"})
    told = await problem(response, 421, "misdirected")
    assert told["owner"] == two.workers[1].url


@mark.parametrize(
    ("path", "status", "slug"),
    [
        param("orders/0/secrets", 404, "no-such-route", id="question"),
        param("nobody/0/order", 404, "no-such-route", id="group"),
        param("orders/x/order", 404, "no-such-route", id="partition"),
        param("orders/0/order?_min_offset=x", 400, "bad-parameter", id="position"),
        param("orders/0/order?_wait_ms=x", 400, "bad-parameter", id="wait"),
    ],
)
async def test_questions_that_nobody_asks(two: Platform, path: str, status: int, slug: str) -> None:
    await problem(await two.workers[0].client.get(f"/internal/v1/{path}", headers={HOP: "1"}), status, slug)


def test_answers_come_back_as_they_were() -> None:
    answer = Answer({"a": [1, None]}, (b"one\ntwo", b"", b"\x00\xff"))
    assert Answer.decode(answer.encode()) == answer
    with pytest.raises(ValueError, match="parts"):
        Answer.decode(answer.encode() + b"x")


async def test_a_worker_that_fails_inside_is_not_a_404(two: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("damaged")

    uid = next(uid for number in range(99) if two.home(uid := f"broken-{number}") == 1)
    monkeypatch.setattr(type(two.orders), "order", broken)
    told = await problem(await two.workers[0].client.get(f"/api/v1/orders/{uid}"), 503, "unavailable")
    assert "answered 500" in told["detail"]


# -- health ------------------------------------------------------------------------------------------------------------


class FakeSink:
    """A sink that says what it is told to."""

    name = "postgres"

    def __init__(self, connected: bool, lag: int | None, set_aside: int = 0) -> None:
        self.connected, self.lag, self.set_aside = connected, lag, set_aside
        self.detail = f"{lag} behind"

    def health(self) -> FakeSink:
        return self


async def test_health_names_every_check() -> None:
    async with platform(1) as one:
        one.workers[0].checks["recovery"] = Check(False, "1 tasks opening, 17 records to restore")
        client = one.workers[0].client
        for path in ("/health", "/health/ready"):
            response = await client.get(path)
            told = await response.json()
            assert (response.status, told["status"]) == (503, "not_ready")
            assert response.headers["Retry-After"]
            assert set(told["checks"]) == {"broker", "assignment", "recovery", "store"}
            assert told["checks"]["recovery"]["detail"].startswith("1 tasks")
        assert (await client.get("/health/live")).status == 200
        one.workers[0].checks["recovery"] = Check(True, "0 tasks opening")
        assert [(await client.get(path)).status for path in ("/health", "/health/ready")] == [200, 200]
        one.workers[0].checks["standby"] = Check(False, "a copy on this worker is behind")
        assert (await client.get("/health/ready")).status == 200
        assert (await (await client.get("/health")).json())["status"] == "degraded"
        one.workers[0].checks.clear()
        assert (await client.get("/health/ready")).status == 503


async def test_a_worker_whose_version_is_not_live_takes_and_tells_nothing() -> None:
    async with platform(1) as one:
        worker = one.workers[0]
        worker.standing_by = "version 2 stands by: the version without a name is live"
        worker.checks["version"] = Check(False, worker.standing_by)
        before = sum(map(len, one.driver.log.topics.values()))
        for method, path in (("GET", "/api/v1/orders/x"), ("POST", "/api/orders/test"), ("GET", "/internal/v1/a/0/b")):
            response = await worker.client.request(method, path)
            assert (response.status, response.headers["Retry-After"]) == (503, "1"), path
            assert worker.standing_by in await response.text()
        assert sum(map(len, one.driver.log.topics.values())) == before, "nothing was written"
        statuses = {
            path: (await worker.client.get(path)).status for path in ("/health/live", "/health/ready", "/metrics")
        }
        assert statuses == {"/health/live": 200, "/health/ready": 503, "/metrics": 200}
        worker.standing_by = None
        assert (await worker.client.get("/api/v1/orders/x")).status == 404


async def test_records_that_a_sink_has_set_aside_degrade_the_worker() -> None:
    async with platform(1, sinks=[FakeSink(True, 0, set_aside=1)]) as one:
        answer = await one.workers[0].client.get("/health")
        assert answer.status == 200 and (await answer.json())["status"] == "degraded"


@mark.parametrize(("connected", "status"), [(True, "ok"), (False, "degraded")])
async def test_a_sink_that_is_down_shows_and_does_not_make_the_worker_unready(connected: bool, status: str) -> None:
    async with platform(1, sinks=[FakeSink(connected, 12)]) as one:
        client = one.workers[0].client
        whole, ready = await client.get("/health"), await client.get("/health/ready")
        assert (whole.status, ready.status) == (200, 200)
        told = await whole.json()
        assert told["status"] == status
        assert told["checks"]["sink_lag"] == {
            "ok": connected,
            "detail": "postgres: 12 behind",
            "needed": False,
            "lag_records": {"postgres": 12},
        }


def test_a_problem_reads_well_in_a_log() -> None:
    assert str(Problem(problems.BAD_JSON, "cut")) == "bad-json: cut"
