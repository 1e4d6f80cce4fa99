"""Requests that a foreign page may have caused are refused, and everything that the project itself sends is not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from pytest import mark, param, raises

from schemas.settings import SettingsError
from tests.web.platform import Client, Platform, platform, settings
from tests.web.raw import exchange, request
from web.guard import Hosts, host_name

ORDER = b'{"reason": "r"}'
PATH = "/api/v1/orders/nothing/cancel"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with platform(1) as running:
        yield running.workers[0].client


async def status(client: Client, sent: bytes, slug: str | None = None) -> int:
    answered = await exchange(client, sent)
    assert "aiohttp" not in answered.headers["server"] and "Python" not in answered.headers["server"]
    if slug is not None:
        assert answered.headers["content-type"] == "application/problem+json"
        assert orjson.loads(answered.body)["type"] == f"/problems#{slug}"
    return answered.status


@mark.parametrize(
    "host", ["localhost", "LOCALHOST:6066", "127.0.0.1", "127.0.0.1:8", "127.9.9.9", "[::1]:6066", "localhost."]
)
async def test_loopback_names_are_this_worker(client: Client, host: str) -> None:
    assert await status(client, request("GET", "/health/live", host=host)) == 200


@mark.parametrize(
    "host",
    ["evil.example", "evil.example:6066", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost",
     "10.0.0.1", "0.0.0.0", "[2001:db8::1]", "localhost:x", "", "a b", "localhost/../x", "\x1b[2J"],
)  # fmt: skip
@mark.parametrize("path", ["/health/live", "/api/v1/orders", "/nowhere", "/internal/v1/orders/0/order?order_uid=x"])
async def test_every_other_host_is_refused(client: Client, host: str, path: str) -> None:
    # A control character in a header is refused by the parser already.
    slug, expected = ("bad-request", 400) if "\x1b" in host else ("unknown-host", 421)
    assert await status(client, request("GET", path, host=host), slug) == expected


async def test_two_hosts_or_none_are_refused(client: Client) -> None:
    assert await status(client, request("GET", "/", b"", "Host: localhost", "Host: evil.example"), None) in (400, 421)
    assert await status(client, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n") in (400, 421)
    # HTTP/1.0 has no Host; balancers check health with it, browsers do not speak it.
    assert await status(client, b"GET /health/live HTTP/1.0\r\n\r\n") == 200


def test_names_that_are_allowed_by_settings() -> None:
    hosts = Hosts.of(settings(web_allowed_hosts="shop.example, api.shop.example", web_url="http://worker-1:6066"))
    for name in ("shop.example", "SHOP.example:443", "worker-1:6066", "localhost"):
        assert hosts.allow(name, None), name
    assert not hosts.allow("x.shop.example", None)
    assert hosts.allow("172.17.0.3:6066", "172.17.0.3"), "the address that was connected to"
    assert not hosts.allow("172.17.0.4:6066", "172.17.0.3")
    for bad in ("*", "http://x", "a/b", "a b"):
        with raises(SettingsError, match="WEB_ALLOWED_HOSTS"):
            settings(web_allowed_hosts=bad)
    for bad in ("*", "shop.example", "https://a/b", "null", "https://*.example"):
        with raises(SettingsError, match="WEB_CORS_ORIGINS"):
            settings(web_cors_origins=bad)


@mark.parametrize(
    ("authority", "name"), [("a:1", "a"), ("A.", "a"), ("[::1]:2", "::1"), ("u@a", None), ("a:b", None), ("", None)]
)
def test_names_in_authorities(authority: str, name: str | None) -> None:
    assert host_name(authority) == name


@mark.parametrize(
    "line",
    ["Origin: http://evil.example", "Origin: null", "Origin: http://localhost:1", "Origin: http://localhost.evil.example",
     "Origin: ", "Origin: file://", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: x"],
)  # fmt: skip
@mark.parametrize(
    ("method", "path", "body"),
    [("POST", PATH, ORDER), ("POST", "/api/orders/test", b""), ("POST", "/api/v1/webhooks", b"{}"),
     ("PATCH", "/api/v1/items/pen", b"{}"), ("DELETE", "/api/v1/webhooks/x", b""), ("PUT", "/api/v1/outlets/o", b"{}"),
     ("POST", "/api/v1/orders/payment-callback", b"{}")],
)  # fmt: skip
async def test_pages_of_other_origins_change_nothing(
    client: Client, line: str, method: str, path: str, body: bytes
) -> None:
    assert await status(client, request(method, path, body, line), "foreign-origin") == 403


async def test_two_origins_are_foreign(client: Client) -> None:
    lines = ("Origin: http://localhost", "Origin: http://evil.example")
    assert await status(client, request("POST", PATH, ORDER, *lines), "foreign-origin") == 403


@mark.parametrize(
    "line",
    ["Origin: http://localhost", "Origin: http://LOCALHOST", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"],
)  # fmt: skip
async def test_the_own_page_and_programs_may_write(client: Client, line: str) -> None:
    assert await status(client, request("POST", PATH, ORDER, line), "no-such-order") == 404


async def test_what_changes_nothing_may_come_from_anywhere(client: Client) -> None:
    lines = ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site")
    answered = await exchange(client, request("GET", "/api/v1/orders", b"", *lines))
    assert answered.status == 200 and "access-control-allow-origin" not in answered.headers, "and no page can read it"


PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")


async def test_a_preflight_of_an_unknown_origin_is_refused(client: Client) -> None:
    sent = request("OPTIONS", "/api/v1/orders", b"", "Origin: https://shop.example", *PREFLIGHT)
    assert await status(client, sent, "foreign-origin") == 403


async def test_allowed_origins_may_read_and_write() -> None:
    async with platform(1, web_cors_origins="https://shop.example,http://localhost:3000") as running:
        client, origin = running.workers[0].client, "Origin: https://shop.example"
        asked = await exchange(client, request("OPTIONS", "/api/v1/orders", b"", origin, *PREFLIGHT))
        assert asked.status == 204 and asked.headers["access-control-allow-origin"] == "https://shop.example"
        assert "Content-Type" in asked.headers["access-control-allow-headers"]
        wrote = await exchange(client, request("POST", PATH, ORDER, origin, "Sec-Fetch-Site: cross-site"))
        assert wrote.status == 404 and wrote.headers["access-control-allow-origin"] == "https://shop.example"
        assert "Origin" in wrote.headers["vary"]
        for other in ("https://shop.example.evil", "http://shop.example", "https://shop.example:444", "null"):
            lines = (f"Origin: {other}", "Sec-Fetch-Site: cross-site")
            assert await status(client, request("POST", PATH, ORDER, *lines), "foreign-origin") == 403


@mark.parametrize(
    "line",
    ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data",
     "Content-Type: application/octet-stream", "Content-Type: ", "Content-Type: text/json"],
)  # fmt: skip
@mark.parametrize("path", [PATH, "/api/v1/orders", "/api/orders/test", "/api/v1/orders/payment-callback"])
async def test_a_body_that_a_page_can_send_without_a_preflight_is_refused(client: Client, line: str, path: str) -> None:
    assert await status(client, request("POST", path, ORDER, line), "unsupported-media-type") == 415


async def test_a_body_without_a_type_or_with_two_is_refused(client: Client) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(ORDER)}\r\n".encode()
    assert await status(client, head + b"\r\n" + ORDER, "unsupported-media-type") == 415
    two = b"Content-Type: application/json\r\nContent-Type: text/plain\r\n\r\n"
    assert await status(client, head + two + ORDER, "bad-request") == 400
    fine = b"Content-Type: Application/JSON; charset=utf-8\r\n\r\n"
    assert await status(client, head + fine + ORDER, "no-such-order") == 404


@mark.parametrize("running", [param(1, id="one worker"), param(2, id="forwarded")])
async def test_workers_ask_each_other_under_their_own_names(running: int) -> None:
    platform_: Platform
    async with platform(running) as platform_:
        for worker in platform_.workers:
            for number in range(8):
                assert (await worker.client.get(f"/api/v1/orders/far-{number}")).status == 404
