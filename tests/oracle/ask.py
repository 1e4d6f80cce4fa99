"""workers' addresses -> their answers, many at a time; and a poller that writes down everything it sees."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from tests.oracle.history import Fold
from tests.oracle.verdict import Verdict
from tests.oracle.window import Answer, Sight, judge_list, judge_order, judge_timeline, timelines

AT_ONCE = 24
PAGE = 200
#: Between two looks of one poller. Four without a pause take a whole core from what they look at.
PAUSE_S = 0.04
ORDERS = "/api/v1/orders"


@asynccontextmanager
async def client(timeout_s: float = 30.0) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), connector=connector) as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str, **query: str | int) -> Answer:
    async with session.get(url, params=query) as response:
        raw = await response.read()
        return Answer(response.status, orjson.loads(raw), response.headers.get("ETag"))


async def listed(session: aiohttp.ClientSession, url: str, **filters: str) -> list[Any]:
    """All pages of a list."""
    rows: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await get(session, url + ORDERS, limit=PAGE, **filters, **cursor)
        assert answer.status == 200, f"{url} lists {filters} with {answer.status}: {answer.body}"
        rows += answer.body["orders"]
        if answer.body["next_cursor"] is None:
            return rows
        cursor = {"cursor": answer.body["next_cursor"]}


async def judge_window(
    urls: Sequence[str], fold: Fold, verdict: Verdict, *, orders: Sequence[str], customers: Sequence[str]
) -> None:
    """These orders and their timelines at every worker; these customers' lists at the workers in turn."""
    happened = timelines(fold)
    by_customer: dict[str, list[Any]] = {customer: [] for customer in customers}
    for order in fold.orders.values():
        if order.customer_id in by_customer:
            by_customer[order.customer_id].append(order)
    async with client() as session:

        async def one_order(url: str, uid: str) -> None:
            judge_order(fold.orders[uid], await get(session, f"{url}{ORDERS}/{uid}"), url, verdict)
            timeline = await get(session, f"{url}{ORDERS}/{uid}/timeline", limit=PAGE)
            judge_timeline(happened[uid], timeline, url, verdict)

        async def one_list(url: str, customer: str) -> None:
            rows = await listed(session, url, customer_id=customer)
            judge_list(by_customer[customer], rows, f"orders of {customer} at {url}", verdict)

        await each_of(one_order, ((url, uid) for url in urls for uid in orders))
        await each_of(one_list, zip(itertools.cycle(urls), customers))


async def judge_whole_list(url: str, fold: Fold, verdict: Verdict) -> None:
    """Every order that came as a document, page by page, newest first; those that were bought stand among them."""
    async with client() as session:
        rows = [row for row in await listed(session, url) if "lines" not in row]
        judge_list(fold.orders.values(), rows, f"all orders at {url}", verdict)


async def each_of(ask: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> None:
    """`ask` for each, AT_ONCE at a time; the first failure ends it."""
    waiting = iter(arguments)

    async def go_on() -> None:
        for each in waiting:
            await ask(*each)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(go_on())


class Poller:
    """Asks workers for orders all the time and writes down what it sees.

    `choose` gives the next order to look at, or None when there is none yet; `urls` may change while it runs.
    """

    def __init__(self, urls: list[str], choose: Callable[[], str | None], pause_s: float = PAUSE_S) -> None:
        self.urls, self.sights = urls, list[Sight]()
        self._choose, self._pause_s, self._turn = choose, pause_s, 0

    @asynccontextmanager
    async def running(self, pollers: int = 4) -> AsyncIterator[None]:
        async with client(timeout_s=10) as session:
            tasks = [asyncio.create_task(self._look_on(session)) for _ in range(pollers)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for failure in ended:
            if isinstance(failure, Exception):
                raise failure

    async def _look_on(self, session: aiohttp.ClientSession) -> None:
        while True:
            uid = self._choose()
            if uid is not None and self.urls:
                self._turn += 1
                self.sights.append(await self._look(session, self.urls[self._turn % len(self.urls)], uid))
            await asyncio.sleep(self._pause_s)

    async def _look(self, session: aiohttp.ClientSession, url: str, uid: str) -> Sight:
        asked_at = time.monotonic()
        try:
            async with session.get(f"{url}{ORDERS}/{uid}") as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Sight(url, uid, asked_at, time.monotonic(), 0)
        version = orjson.loads(raw)["version"] if response.status == 200 else None
        retry_after = "Retry-After" in response.headers
        return Sight(url, uid, asked_at, time.monotonic(), response.status, version, retry_after)
