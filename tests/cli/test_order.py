"""a worker's answers, good and bad -> `order` -> the order, its timeline, or an exit code that tells them apart."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from cli import order as module
from cli.console import Found, Unreachable
from cli.order import _as_it_was, _look_up, order
from cli.past import Folds
from tests.agents.domain import make_app
from tests.cli.running import desk

ORDER = {"order_uid": "a b/c", "version": 2, "status": "cancelled", "document": {"payment": {"amount": 1817}}}
NO_SUCH_ORDER = {"type": "/problems#no-such-order", "status": 404, "detail": "There is no order x."}
DOMAINS = make_app(Path("unused"))[1]
FOLDS = Folds(DOMAINS.orders, DOMAINS.purchases, DOMAINS.payments)
Answer = Callable[[web.Request], web.Response]


@asynccontextmanager
async def worker(answer: Answer, method: str = "GET") -> AsyncIterator[str]:
    """Something that answers HTTP on loopback as a worker would, or would not."""

    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    application = web.Application()
    application.router.add_route(method, "/{path:.*}", handle)
    async with TestServer(application) as server:
        yield f"http://127.0.0.1:{server.port}"


async def test_the_order_under_its_escaped_id() -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response(ORDER)

    async with worker(answer) as url:
        assert await _look_up(url, "a b/c", timeline=False) == {"order": ORDER}
    assert asked == ["/api/v1/orders/a%20b%2Fc"]


async def test_every_page_of_the_timeline() -> None:
    pages = {None: ([1, 2], "c+1"), "c+1": ([3], "c2"), "c2": ([4], None)}

    def answer(request: web.Request) -> web.Response:
        if not request.path.endswith("/timeline"):
            return web.json_response(ORDER)
        entries, following = pages[request.query.get("cursor")]
        return web.json_response({"order_uid": "x", "entries": entries, "next_cursor": following})

    async with worker(answer) as url:
        assert await _look_up(url, "x", timeline=True) == {"order": ORDER, "timeline": [1, 2, 3, 4]}


async def test_a_refusal_has_a_timeline_without_an_order() -> None:
    def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/timeline"):
            return web.json_response({"order_uid": "x", "entries": ["refused"], "next_cursor": None})
        return web.json_response(NO_SUCH_ORDER, status=404)

    async with worker(answer) as url:
        assert await _look_up(url, "x", timeline=True) == {"order": None, "timeline": ["refused"]}
        with pytest.raises(Found, match="no order x"):
            await _look_up(url, "x", timeline=False)


async def test_the_order_as_it_was() -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if request.query["as_of"] == "9":
            told = {"type": "/problems#no-such-past", "detail": "There was no order a b/c at version 9."}
            return web.json_response(told, status=404)
        return web.json_response(ORDER)

    async with worker(answer) as url:
        assert await _as_it_was(url, "a b/c", "2026-11-21T10:00:00+02:00") == ORDER
        with pytest.raises(Found, match="no order a b/c at version 9"):
            await _as_it_was(url, "a b/c", "9")
    assert asked[0] == "/api/v1/orders/a%20b%2Fc?as_of=2026-11-21T10:00:00%2B02:00"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--timeline", "--as-of", "1"], "--timeline has all moments"),
        (["--timeline", "--from-log"], "--timeline has all moments"),
        (["--from-log", "--as-of", "yesterday"], "is no moment"),
        (["--from-log", "--as-of", "orders.commands.v1-0-1"], "orders.events.v1 or purchases.events.v1"),
    ],
)
def test_what_is_no_moment_is_a_wrong_use(tmp_path: Path, options: list[str], says: str) -> None:
    place = desk("127.0.0.1:1", tmp_path)
    result = CliRunner().invoke(order, ["x", *options], obj=replace(place.operator, folds=FOLDS))
    assert result.exit_code == 2 and says in result.output


async def test_503_is_asked_again() -> None:
    answers = [web.json_response({"title": "recovering"}, status=503, headers={"Retry-After": "0"}) for _ in range(3)]
    answers.append(web.json_response(ORDER))
    async with worker(lambda request: answers.pop(0)) as url:
        assert await _look_up(url, "x", timeline=False) == {"order": ORDER}
    assert answers == []


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        pytest.param(503, {"detail": "task orders-1 is restoring"}, "cannot answer yet .task orders-1", id="not yet"),
        pytest.param(500, {"title": "The service failed"}, "answered 500 .*The service failed", id="failed"),
        pytest.param(404, {"type": "/problems#no-such-route"}, "answered 404", id="another 404 is not a missing order"),
        pytest.param(404, "404: Not Found", "no worker of Orderstream", id="not JSON"),
        pytest.param(200, [], "no worker of Orderstream", id="not an object"),
    ],
)
async def test_what_is_no_answer(monkeypatch: pytest.MonkeyPatch, status: int, body: Any, message: str) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)

    def answer(request: web.Request) -> web.Response:
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status, headers={"Retry-After": "1"})

    async with worker(answer) as url:
        with pytest.raises(Unreachable, match=message):
            await _look_up(url, "x", timeline=False)


def test_no_worker_is_told_with_its_mend(tmp_path: Path) -> None:
    result = desk("127.0.0.1:1", tmp_path).run(order, "x", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "No worker answers at http://127.0.0.1:1: Connection refused." in result.stderr
    assert "faust -A app worker" in result.stderr


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:6066"),
        ({"web_host": "0.0.0.0", "web_port": 7000}, "http://127.0.0.1:7000"),
        ({"web_url": "http://worker-1:6066"}, "http://worker-1:6066"),
    ],
)
def test_which_worker_is_asked(tmp_path: Path, settings: dict[str, Any], url: str) -> None:
    assert desk("127.0.0.1:1", tmp_path, **settings).operator.web_url == url


def test_help_needs_nothing() -> None:
    assert CliRunner().invoke(order, ["--help"]).exit_code == 0
