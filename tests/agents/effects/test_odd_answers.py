"""Whatever a target answers, it is one recorded attempt, and what another target has got it does not get again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pytest import mark

from streams.driver import Driver
from tests.agents.domain import PARTITIONS, make_app
from tests.agents.effects.outbound import Receiver
from tests.agents.effects.test_webhooks import World, produce_to

H, END = b"HTTP/1.1 ", b"\r\n\r\n"
LATER = H + b"503 Later\r\nContent-Length: 0\r\nRetry-After: "
REDIRECTS = (b"/caf\xe9", b"", b"//", b"http://", b"http://[", b"http://a:99999/", b"gopher://x/", b"javascript:x",
             b"http://169.254.169.254/", b"\xff\xfe", b"a" * 8_000, b"http://\xe9.example/")  # fmt: skip
WISHES = (b"Fri, 31 Dec 99999 23:59:59 GMT", b"Fri, 31 Dec 9999 23:59:59 -2359", b"Thu, 01 Jan 0001 00:00:00 +2359",
          b"-1", b"NaN", b"inf", b"1e400", b"9" * 400, b"999999999", b"", b"Fri", b"\xe9", 
          b"Fri, 99 Foo 2026 99:99:99 GMT", b"Mon, 1 Jan 2300 00:00:00 GMT", b"1.5")  # fmt: skip
ANSWERS: dict[str, bytes] = {
    **{f"redirect {n}": H + b"301 Moved\r\nLocation: " + where + END for n, where in enumerate(REDIRECTS)},
    **{f"wish {n}": LATER + wish + END for n, wish in enumerate(WISHES)},
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a header": b"HTTP/1.1 500 X\r\nContent-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a version of the future": b"HTTP/9.9 200 OK\r\n\r\n",
    "HTTP/0.9": b"hello",
    "status 0": b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n",
    "a long reason": b"HTTP/1.1 500 " + b"x" * 100_000 + END,
    "odd reason": b"HTTP/1.1 500 \xff\xfe\x1b[2J\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "a flood of headers": b"HTTP/1.1 500 X\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "a large header": b"HTTP/1.1 500 X\r\nA: " + b"a" * 200_000 + END,
    "NUL in a header": b"HTTP/1.1 500 X\r\nA: \x00\r\n\r\n",
    "odd header names": b"HTTP/1.1 500 X\r\n\xe9\xff: b\r\nA b: c\r\n\r\n",
    "two lengths": b"HTTP/1.1 500 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"HTTP/1.1 500 X\r\nContent-Length: -1\r\n\r\n",
    "a huge length": b"HTTP/1.1 500 X\r\nContent-Length: 99999999999999999999\r\n\r\nab",
    "a length that lies": b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nab",
    "bad chunks": b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no gzip": b"HTTP/1.1 500 X\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
    "odd cookies": b"HTTP/1.1 500 X\r\nSet-Cookie: \xe9=\x01; Expires=x; Domain=..\r\nContent-Length: 0\r\n\r\n",
    "odd type": b"HTTP/1.1 500 X\r\nContent-Type: \xff/\xfe; charset=\xe9\r\nContent-Length: 0\r\n\r\n",
    "a 100 before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
}
#: Answers that never end: each is repeated until the sender hangs up.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "an endless body": (b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
    "a flood of 1xx": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "endless headers": (b"HTTP/1.1 500 X\r\n", b"A: b\r\n"),
    "silence": (b"", b""),
}


class RawTarget:
    """Takes one request at a time per connection, and answers bytes."""

    def __init__(self, head: bytes, then: bytes | None) -> None:
        self._head, self._then, self.requests = head, then, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(END)
            self.requests += 1
            writer.write(self._head)
            while self._then is not None and not reader.at_eof():
                writer.write(self._then)
                await writer.drain()
                await (asyncio.sleep(0) if self._then else reader.read())
        writer.close()


@asynccontextmanager
async def target(head: bytes, then: bytes | None = None) -> AsyncIterator[tuple[RawTarget, str]]:
    made = RawTarget(head, then)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    try:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Callable[[float], World]]:
    """Makes a world with a time-out for an attempt."""
    app, _ = make_app(tmp_path)
    async with Driver(app, now_ms=1_795_262_400_000) as driver:
        app.engine.produce = produce_to(driver)  # type: ignore[method-assign]
        receiver, worlds = Receiver(), list[World]()
        await receiver.start()

        def make(timeout_s: float) -> World:
            made = World(driver, PARTITIONS, timeout_s=timeout_s)
            made.receiver = receiver
            worlds.append(made)
            return made

        yield make
        for made in worlds:
            await made.close()
        await receiver.stop()


async def check(world: World, bad: RawTarget, url: str) -> None:
    healthy, odd = await world.subscribe(1), await world.subscribe(2, url)
    for number in range(5):
        world.happen(number)
    await world.work()
    assert sorted(world.receiver.ids) == sorted(set(world.receiver.ids)), "no delivery was made twice"
    assert {row.state for row in world.deliveries(healthy).values()} == {"delivered"}
    rows = world.deliveries(odd).values()
    assert len(rows) == 5 and sum(row.attempts for row in rows) >= bad.requests >= 1
    for row in rows:
        assert row.state in ("pausing", "waiting", "given_up"), row
        assert row.last_error is None or (row.last_error.isprintable() and len(row.last_error) <= 256)
    assert all(row.last_error for row in rows if row.state == "pausing")
    for runner in (world.routes, world.sends):
        assert runner.trouble() is None and runner.metrics.errors.labels(runner.name)._value.get() == 0


@mark.parametrize("name", ANSWERS)
async def test_an_odd_answer_is_one_failed_attempt(world: Callable[[float], World], name: str) -> None:
    async with target(ANSWERS[name]) as (bad, url):
        await check(world(20.0), bad, url)


@mark.parametrize("name", ENDLESS)
async def test_an_endless_answer_ends_with_the_time_of_an_attempt(world: Callable[[float], World], name: str) -> None:
    async with target(*ENDLESS[name]) as (bad, url):
        await check(world(0.5), bad, url)


async def test_a_target_without_TLS_or_without_a_name(world: Callable[[float], World]) -> None:
    async with target(b"no TLS") as (bad, url):
        made = world(20.0)
        bad.requests = 1  # what comes is a TLS hello, which this target does not understand
        await check(made, bad, url.replace("http://", "https://"))
