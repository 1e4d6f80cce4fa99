"""Hostile requests beside good ones, on a real worker: it keeps its session, and every good order is applied.

Judged by counts: nothing here has a time that a slow machine could miss; waits have limits that only a hang reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from datetime import UTC, datetime

import aiohttp

from schemas.orders import samples
from tests.processes import RunningStack, Worker, Workers

JSON = {"Content-Type": "application/json"}
PATIENCE = aiohttp.ClientTimeout(300)
GOOD = 60
LIST = b"GET /api/v1/orders?limit=200 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def rebalances(worker: Worker) -> float:
    found = re.search(r"^streams_rebalances_total (\S+)", str(worker.get("/metrics", 60.0)[1]), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def place(session: aiohttp.ClientSession, number: int) -> str:
    """A good order, sent again while the worker says that it is busy."""
    raw = samples.generate(700_000 + number)
    async with asyncio.timeout(300):
        while True:
            async with session.post("/api/v1/orders", data=raw, headers=JSON) as answer:
                if answer.status in (201, 202):
                    return str(json.loads(raw)["order_uid"])
                assert answer.status == 503, await answer.text()
            await asyncio.sleep(0.05)


async def abuse(worker: Worker, seen: Counter[int]) -> None:
    """H10 and H12 at once, in a reduced form."""
    faults = b"{" + b",".join(b'"f%d":[]' % number for number in range(7_000)) + b"}"
    items = json.dumps({**json.loads(samples.generate(1)), "items": [{}] * 50_000}).encode()
    past = f"/api/v1/orders?as_of={datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}&status=cancelled"
    async with aiohttp.ClientSession(worker.url, timeout=PATIENCE, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(number: int) -> None:
            with contextlib.suppress(aiohttp.ClientError):
                if number % 3 == 0:
                    request = session.get(past)
                else:
                    path = "/api/v1/orders" if number % 3 == 1 else "/api/v1/orders/x/cancel"
                    request = session.post(path, data=items if number % 3 == 1 else faults, headers=JSON)
                async with request as answer:
                    await answer.read()
                    seen[answer.status] += 1

        await asyncio.gather(*(ask(number) for number in range(90)))


async def test_under_abuse_the_session_is_kept_and_good_orders_are_applied(
    clean_stack: RunningStack, workers: Workers
) -> None:
    clean_stack.faust("topics", "create")
    worker = workers.start(env={"ORDERSTREAM_MAX_CONNECTIONS": "300"})
    before = await asyncio.to_thread(rebalances, worker)
    seen: Counter[int] = Counter()
    opened = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(60)]
    for number, (_, writer) in enumerate(opened):
        # A third never reads its answers; the others never end their header.
        writer.write(LIST * 50 if number % 3 == 0 else b"GET / HTTP/1.1\r\nHost: loc")
    async with aiohttp.ClientSession(worker.url, timeout=PATIENCE) as session:
        async with asyncio.TaskGroup() as group:
            group.create_task(abuse(worker, seen))
            good = [group.create_task(place(session, number)) for number in range(GOOD)]
        for uid in [task.result() for task in good]:
            async with asyncio.timeout(300):
                while True:
                    async with session.get(f"/api/v1/orders/{uid}") as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(0.05)
    for _, writer in opened:
        writer.close()
    assert set(seen) <= {200, 400, 413, 422, 503} and sum(seen.values()) > 0, seen
    assert await asyncio.to_thread(rebalances, worker) == before, "the worker has kept its session"
    assert '"status":500' not in worker.log()
