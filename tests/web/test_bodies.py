"""Bodies of every route: their encoding, their size, their one meaning, and the time that their reading takes."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import threading
import zlib
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
import structlog
from pytest import mark

from schemas.base import MAX_FAULTS
from streams import logs
from tests.web.platform import Client, platform, problem, raw
from tests.web.raw import exchange, request
from web.body import MOST_VALUES, SMALL_BYTES, CarefulReader
from web.problems import Problem

ACCOUNT = "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d"
#: Every route that takes a body, with one that its model accepts.
ROUTES = {
    "/api/v1/orders/o/cancel": b'{"reason": "r"}',
    "/api/v1/orders/o/approve": b"{}",
    "/api/v1/orders/o/reject": b'{"reason": "r"}',
    "/api/v1/orders/o/pack": b'{"carrier": false}',
    "/api/v1/orders/o/shipments": b'{"shipment_id": "s"}',
    "/api/v1/orders/o/shipments/s/cancel": b'{"reason": "r"}',
    "/api/v1/orders/o/returns": b'{"reason": "r", "parts": [{"line": 1, "quantity": 1}]}',
    f"/api/v1/accounts/{ACCOUNT}/deposits": b'{"amount_minor": 1}',
    "/api/v1/accounts": b'{"user_id": "u", "currency": "INR"}',
    "/api/v1/items": b'{"item_id": "i", "outlet_id": "o", "name": "n", "price_minor": 1, "currency": "INR"}',
    "/api/v1/items/i/stock": b'{"delta": 1, "reason": "r"}',
    "/api/v1/webhooks": b'{"url": "https://shop.example/", "events": ["*"]}',
    "/api/v1/orders/payment-callback": b"{}",
    "/api/v1/orders": b'{"user_id": "u", "item_id": "i", "quantity": 1}',
    "/api/orders/test": b"{}",
}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with platform(1) as running:
        yield running.workers[0].client


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


# -- encodings ---------------------------------------------------------------------------------------------------------

BOMB = gzip.compress(b" " * 10_000_000)


@mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "identity, gzip", "compress", "\xe9", ""])
@mark.parametrize("path", ROUTES)
async def test_encoded_bodies_are_not_read(client: Client, path: str, encoding: str) -> None:
    for sent in (BOMB, ROUTES[path], gzip.compress(ROUTES[path])[:-4] + b"crc!", zlib.compress(ROUTES[path])):
        answered = await exchange(client, request("POST", path, sent, f"Content-Encoding: {encoding}"))
        told = orjson.loads(answered.body)
        assert (answered.status, told["type"]) == (415, "/problems#unsupported-media-type")
        assert answered.headers["accept-encoding"] == "identity"


async def test_identity_is_no_encoding(client: Client) -> None:
    body = ROUTES["/api/v1/orders/o/cancel"]
    answered = await exchange(client, request("POST", "/api/v1/orders/o/cancel", body, "Content-Encoding: Identity"))
    assert answered.status == 404


# -- one meaning -------------------------------------------------------------------------------------------------------


def doubled(body: bytes, name: bytes) -> bytes:
    """The object with a member of this name before its own."""
    return body.replace(b"{", b'{"%b": 7, ' % name, 1)


@mark.parametrize("path", [path for path in ROUTES if path not in ("/api/v1/orders/payment-callback",)])
async def test_a_name_twice_is_refused_everywhere(client: Client, path: str) -> None:
    body = ROUTES[path]
    names = list(orjson.loads(body)) or ["x"]
    twice = body if orjson.loads(body) else b'{"x": 1}'
    for sent in (
        doubled(twice, names[0].encode()),
        doubled(twice, b"\\u00%02x" % ord(names[0][0]) + names[0][1:].encode()),
    ):
        told = await problem(await client.post(path, data=sent), 400, "bad-json")
        assert told["faults"][0]["path"] == f"$.{names[0]}"


async def test_a_name_twice_below_the_top_is_refused_too(client: Client) -> None:
    item = ROUTES["/api/v1/items"][:-1] + b', "attributes": {"a": {"b": 1, "b": 2}}}'
    told = await problem(await client.post("/api/v1/items", data=item), 400, "bad-json")
    assert [each["path"] for each in told["faults"]] == ["$.attributes.a.b"]
    document = raw("twice").replace(b'"sm_id":99', b'"sm_id":98,"sm_id":99')
    told = await problem(await client.post("/api/v1/orders", data=document), 400, "bad-json")
    assert [each["path"] for each in told["faults"]] == ["$.sm_id"]


@mark.parametrize("number", [b"NaN", b"Infinity", b"1e400", b"18446744073709551616", b"1" * 5000])
async def test_numbers_that_readers_disagree_about(client: Client, number: bytes) -> None:
    sent = b'{"amount_minor": ' + number + b"}"
    response = await client.post(f"/api/v1/accounts/{ACCOUNT}/deposits", data=sent)
    assert response.status in (400, 422)
    assert (await response.json())["faults"][0]["path"] == "$.amount_minor"


# -- size and faults ---------------------------------------------------------------------------------------------------


async def test_small_bodies_end_where_the_guide_says(client: Client) -> None:
    for path, body in ROUTES.items():
        if path in ("/api/v1/orders", "/api/v1/items"):
            continue
        sent = body[:-1] + b" " * (64 << 10) + b"}"
        told = await problem(await client.post(path, data=sent), 413, "too-large")
        assert told["limit_bytes"] == 64 << 10
    cart = ROUTES["/api/v1/orders"][:-1] + b" " * (64 << 10) + b"}"
    await problem(await client.post("/api/v1/orders", data=cart), 413, "too-large")


async def test_faults_are_listed_up_to_a_bound(client: Client) -> None:
    many = b"{" + b",".join(b'"%s%d": 1' % (b"n" * 50, number) for number in range(900)) + b"}"
    response = await client.post("/api/v1/orders/o/cancel", data=many)
    told = await problem(response, 422, "invalid-document")
    assert len(told["faults"]) == MAX_FAULTS and told["faults_not_listed"] == 801
    assert len(await response.read()) < 64 << 10
    item = {"chrt_id": "x"}
    document = orjson.dumps({**orjson.loads(raw("many")), "items": [item] * 20_000})
    response = await client.post("/api/v1/orders", data=document)
    await problem(response, 422, "invalid-document")
    assert len(await response.read()) < 64 << 10


async def test_a_body_of_very_many_values_is_not_read_carefully(client: Client) -> None:
    values = b'{"attributes": [' + b"0," * MOST_VALUES + b"0]}"
    told = await problem(await client.patch("/api/v1/items/pen", data=values), 400, "bad-json")
    assert str(MOST_VALUES) in told["detail"]


# -- the careful reader ------------------------------------------------------------------------------------------------


async def test_the_careful_reader_leaves_the_event_loop_alone_and_refuses_what_it_cannot_take() -> None:
    reader, gate, began = CarefulReader(waiting=2), threading.Event(), threading.Event()

    def read(number: int) -> int:
        began.set()
        gate.wait()
        return number

    running = [asyncio.create_task(reader.run(read, number)) for number in range(3)]
    await asyncio.to_thread(began.wait)
    with pytest.raises(Problem) as caught:
        await reader.run(read, 3)
    assert caught.value.kind.slug == "overloaded" and caught.value.headers["Retry-After"]
    gate.set()
    assert await asyncio.gather(*running) == [0, 1, 2]
    assert await reader.run(read, 4) == 4, "there is room again"


async def test_a_caller_that_goes_away_gives_its_place_back_when_its_reading_ends() -> None:
    reader, gate = CarefulReader(waiting=0), threading.Event()
    running = asyncio.create_task(reader.run(gate.wait))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(Problem):
        await reader.run(gate.wait)
    gate.set()
    while True:
        try:
            assert await reader.run(lambda: 7) == 7
            break
        except Problem:
            await asyncio.sleep(0)


async def test_large_faulty_bodies_are_read_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    from web import problems
    from web.orders import writes

    def read_placed(raw: bytes, depth: int) -> None:
        threads.add((len(raw) > SMALL_BYTES, threading.current_thread().name.partition("_")[0]))
        raise Problem(problems.BAD_JSON, "seen")

    monkeypatch.setattr(writes, "read_placed", read_placed)
    async with platform(1) as running:
        client = running.workers[0].client
        for size in (10, SMALL_BYTES + 10):
            await problem(await client.post("/api/v1/orders", data=b"[" * size), 400, "bad-json")
    assert threads == {(False, "MainThread"), (True, "careful-reader")}


# -- bodies that do not arrive -----------------------------------------------------------------------------------------


@mark.parametrize(
    "tail",
    [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", b"Content-Length: 100\r\n\r\n"],
)
async def test_a_caller_that_goes_away_is_not_our_failure(client: Client, lines: io.StringIO, tail: bytes) -> None:
    head = b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    await exchange(client, head + tail, then_close=True)
    metrics = ""
    async with asyncio.timeout(60):
        while 'route="/api/v1/orders",status=' not in metrics:
            metrics = await (await client.get("/metrics")).text()
    assert 'route="/api/v1/orders",status="499"' in metrics and 'status="500"' not in metrics
    assert "Traceback" not in lines.getvalue() and "request.failed" not in lines.getvalue()


async def test_chunks_that_are_none_are_a_bad_request(client: Client) -> None:
    sent = request("POST", "/api/v1/orders", b"", "Transfer-Encoding: chunked", "Content-Type: application/json")
    answered = await exchange(client, sent + b"zz\r\n{}\r\n0\r\n\r\n")
    assert answered.status == 400 and answered.headers["content-type"] == "application/problem+json"
