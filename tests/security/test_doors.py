"""A running worker -> what its own OpenAPI document allows, and what nobody should send -> documented answers only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from pytest import mark, param

from tests.processes import RunningStack, Worker, Workers

#: What is looked at in every answer. 503 is documented, and honest on a machine that is busy with other tests.
CHECKS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
positive_data_acceptance.enabled = false
# As it comes, and 413: of bodies that break maxItems some are larger than any body may be.
negative_data_rejection.expected-statuses = [
    "400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "503",
]
use_after_free.enabled = false
ensure_resource_availability.enabled = false
ignored_auth.enabled = false
# An order may be called "test": GET of /api/orders/test is answered too, by another operation's address.
allow_header_conformance.enabled = false
"""
IDLE_S = 2.0


@pytest.fixture(scope="module")
def worker(stack: RunningStack) -> Iterator[Worker]:
    stack.wipe()
    stack.faust("topics", "create")
    factory = Workers(stack)
    yield factory.start(env={"ORDERSTREAM_IDLE_CONNECTION_MS": "2000", "ORDERSTREAM_REQUEST_TIMEOUT_MS": "6000"})
    factory.stop_all()


def test_the_openapi_document_is_kept_to_whatever_is_sent(worker: Worker, tmp_path: Path) -> None:
    """schemathesis makes requests from the document, good and bad, from a fixed seed, for 15 s."""
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{worker.url}/openapi.json",
        "--seed", "7", "--max-time", "15", "--max-examples", "30", "--phases", "examples,coverage,fuzzing",
        "--continue-on-failure", "--no-color", "--warnings", "off", "--request-timeout", "10",
        "--generation-database", "none", "--suppress-health-check", "all",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2_000:]
    assert " passed" in ran.stdout and worker.get("/health/live")[0] == 200


async def say(worker: Worker, *parts: bytes, pause_s: float = 0.0, wait_s: float = 30.0) -> tuple[bytes, float]:
    """Bytes as they are, one part after the other, until something comes back; what it is, and after how long.

    Nothing: the worker hung up.
    """
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    answer = asyncio.create_task(reader.read(4096))
    try:
        for part in parts:
            if answer.done() or writer.is_closing():
                break
            writer.write(part)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await asyncio.wait([answer], timeout=pause_s)
        try:
            return await asyncio.wait_for(answer, wait_s), time.monotonic() - began
        except ConnectionError:
            return b"", time.monotonic() - began
    finally:
        answer.cancel()
        writer.close()


JSON = {"Content-Type": "application/json"}
POST = b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@mark.parametrize(
    ("sent", "status"),
    [
        param(b"GARBAGE\r\n\r\n", 400, id="no request"),
        param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), 400, id="TLS to a plain port"),
        param(b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, id="a version of the future"),
        param(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\x00c\r\n\r\n", 400, id="NUL in a header"),
        param(b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n", 400, id="a folded header"),
        param(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 400, id="a long header"),
        param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, id="a long address"),
        param(POST + b"Content-Length: -1\r\n\r\n{}", 400, id="a negative length"),
        param(POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="two lengths"),
        param(POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, id="two other lengths"),
        param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400, id="a chunk without a size"),
        param(POST + b"Content-Length: 99999999999\r\n\r\n{", 413, id="a declared length beyond all bounds"),
        param(POST + b"Content-Length: 5000\r\nConnection: close\r\n\r\n" + b"[" * 5000, 400, id="depth"),
        param(
            b"GET /api/v1/orders/%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            404,
            id="half a letter",
        ),
    ],
)
async def test_what_nobody_should_send(worker: Worker, sent: bytes, status: int) -> None:
    answer, _ = await say(worker, sent)
    assert answer.startswith(b"HTTP/1.") and int(answer[9:12]) == status, answer[:200]
    assert b"Traceback" not in answer


async def test_a_chunked_body_ends_where_the_limit_is(worker: Worker) -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer, _ = await say(worker, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 40)
    assert b" 413 " in answer[:20] or answer == b"", "refused, or hung up on while it was still sending"


@mark.parametrize(
    ("parts", "expected"),
    [
        param([], b"", id="nothing"),
        param([b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 60], b"", id="headers that never end"),
        param([POST + b"Content-Length: 100\r\n\r\n", *[b" "] * 90], b"HTTP/1.1 408", id="a body that never ends"),
    ],
)
async def test_slow_callers_are_let_go(worker: Worker, parts: list[bytes], expected: bytes) -> None:
    answer, seconds = await say(worker, *parts, pause_s=0.2)
    assert answer.startswith(expected) and bool(answer) == bool(expected)
    assert seconds < 120, "bounded by ORDERSTREAM_IDLE_CONNECTION_MS and the body's own time"


async def test_many_at_once_with_bad_neighbours(worker: Worker) -> None:
    """Half-open connections, bodies at the limit and good requests together: all are answered, memory stays bounded."""
    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    half = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(150)]
    for _, writer in half:
        writer.write(POST + b"Content-Length: 1000000\r\n\r\n{")
    seen: list[int] = []
    async with aiohttp.ClientSession(worker.url, timeout=aiohttp.ClientTimeout(60)) as session:

        async def ask(number: int) -> None:
            match number % 4:
                case 0:
                    body = json.dumps({"order_uid": f"x{number}"})
                    answer = await session.post("/api/v1/orders", data=body, headers=JSON)
                case 1:
                    answer = await session.post("/api/v1/orders", data=b" " * 1_000_000, headers=JSON)
                case 2:
                    answer = await session.get("/api/v1/orders/nobody")
                case _:
                    answer = await session.get("/api/v1/orders?limit=200")
            await answer.read()
            seen.append(answer.status)

        await asyncio.gather(*(ask(number) for number in range(120)))
    assert len(seen) == 120 and set(seen) <= {200, 400, 404, 422, 503}, set(seen)
    grown = process.memory_info().rss - before
    assert grown < 200 << 20, f"{grown >> 20} MiB more"
    for _, writer in half:
        writer.close()
    deadline = time.monotonic() + 30
    while worker.get("/health/ready")[0] != 200:
        assert time.monotonic() < deadline, "the worker does not come back"
        await asyncio.sleep(0.2)


def test_what_was_no_request_is_a_short_line_in_the_log(worker: Worker) -> None:
    asyncio.run(say(worker, b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: planted-s3cret\x01\r\n\r\n"))
    log = worker.log()
    assert "is not an HTTP request" in log
    assert "planted-s3cret" not in log and "http_parser" not in log
