"""real agents and tasks over a log in memory, real HTTP servers in front -> several workers in one process.

Only two things are stood in for: the broker (streams.driver's log) and the group's assignment (`Platform.give`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from agents.effects.seals import writing
from agents.effects.webhooks import Router
from agents.wiring import wire
from schemas.orders.samples import SAMPLE_ORDER
from schemas.settings import Settings
from schemas.topics import topics as topic_specs
from streams import App, NotOwner, NotReadable, Owner, Position, partition_for
from streams.batch import using
from streams.driver import Driver
from streams.lookup import LogReader
from streams.records import Headers, Outgoing, TopicPartition
from streams.vitals import Check
from tables.keys import Keyring
from tests.agents.effects.outbound import MemoryTail
from web import Runner, Webhooks, attach, only_when_live
from web.health import Sink
from web.limits import Limits

PARTITIONS = 4
GROUPS = ("orders", "accounts", "inventory", "requests")
#: What the payment provider signs its callbacks with.
SECRET = "the provider's"
Client = TestClient[web.Request, web.Application]


def settings(**overrides: Any) -> Settings:
    return Settings.load({}, partitions=PARTITIONS, **overrides)


class BoundedServer(TestServer):
    """aiohttp's server for tests, with the connections of a worker."""

    async def _make_runner(self, **options: Any) -> Runner:
        return Runner(self.app, **options)


class Worker:
    """One worker as its web room sees it: an engine that owns some tasks, and an address."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform, self.name = platform, name
        self.client: Client
        self.url = ""
        self.checks = {name: Check(True, "ok") for name in ("broker", "assignment", "recovery", "store")}
        #: Each worker knows the customers' keys for itself.
        self.keyring = platform.keyring() if platform.settings.seal else None
        self.standing_by: str | None = None

    def owner(self, group: str, key: bytes | str) -> Owner:
        raw = key.encode() if isinstance(key, str) else key
        return self.owners(group)[partition_for(raw, PARTITIONS)]

    def owners(self, group: str) -> list[Owner]:
        found = []
        for partition in range(PARTITIONS):
            worker = self.platform.believed.get((self.name, group, partition)) or self.platform.owner[group, partition]
            if worker is None:
                raise NotReadable("nobody owns the partition")
            found.append(Owner(partition, worker.url, worker is self))
        return found

    def log_reader(self) -> AbstractAsyncContextManager[LogReader]:
        return nullcontext(self.platform.driver.log)

    @asynccontextmanager
    async def reading(
        self, group: str, partition: int, *, min_position: Position | None = None, timeout_s: float = 2.0
    ) -> AsyncIterator[None]:
        owner = self.platform.owner[group, partition]
        if (group, partition) in self.platform.unreadable or owner is None:
            raise NotReadable(f"task {group}-{partition} is restoring", 2.0)
        if owner is not self:
            raise NotOwner(owner.url)
        task = self.platform.driver.tasks[f"{group}-{partition}"]
        if min_position is not None:
            await task.reached(min_position, timeout_s)
        with using(task.view()):
            yield


class Platform:
    """The log, the tasks and the workers. `hold()` stops the tasks, so that a write waits for its outcome in vain."""

    def __init__(self, workers: int, options: Settings, limits: Limits, sinks: Sequence[Sink]) -> None:
        self.limits, self.sinks = limits, sinks
        self.app = App("orderstream", data_dir=Path("/nonexistent"), broker="kafka://127.0.0.1:9")
        domains = wire(self.app, topic_specs(PARTITIONS, 1, sealing=options.seal))
        self.orders, self.purchases = domains.orders, domains.purchases
        self.accounts, self.inventory = domains.accounts, domains.inventory
        self.requests, self.topics, self.settings = domains.requests, domains.topics, options
        self.payments, self.customers, self.shipping = domains.payments, domains.customers, domains.shipping
        self.webhooks, self.outlets = domains.webhooks, domains.outlets
        self.driver = Driver(self.app)
        self.router = Router(self.topics["webhooks.commands.v1"], PARTITIONS, MemoryTail(self.driver.log))
        self.now_s = 0.0
        self.turn = asyncio.Lock()  # held by whoever runs the tasks, or by the test that holds them up
        self.workers = [Worker(self, f"w{number}") for number in range(workers)]
        self.owner: dict[tuple[str, int], Worker | None] = {
            (group, partition): self.workers[partition % workers] for group in GROUPS for partition in range(PARTITIONS)
        }
        #: What a worker believes although it is no longer so: (worker, group, partition) -> worker.
        self.believed: dict[tuple[str, str, int], Worker] = {}
        self.unreadable: set[tuple[str, int]] = set()
        self.app.engine.produce = self.produce  # type: ignore[method-assign]

    def keyring(self) -> Keyring:
        """As a worker or a command has one; the clock is moved by hand."""
        write, masters = writing(self.topics["customers.keys.v1"]), self.settings.masters_of_seals()
        tail = MemoryTail(self.driver.log)
        return Keyring(write, tail, PARTITIONS, masters, os.urandom, lambda: self.now_s)

    async def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Position:
        """As the broker: the record stands in the log when this returns. Time moves by a millisecond a record."""
        self.driver.clock.advance(1)
        record = Outgoing(self.driver.clock.now_ms(), key, value, headers)
        return self.driver.log.append(TopicPartition(topic, partition), record)

    async def work(self) -> None:
        """The tasks of all workers."""
        while True:
            async with self.turn:
                await self.driver.run()
            await asyncio.sleep(0.001)

    async def hold(self) -> None:
        await self.turn.acquire()

    def flow(self) -> None:
        self.turn.release()

    def give(self, partition: int, worker: int | None, group: str = "orders") -> None:
        self.owner[group, partition] = None if worker is None else self.workers[worker]

    def home(self, key: str) -> int:
        return partition_for(key.encode(), PARTITIONS)

    async def place(self, raw: bytes, topic: str = "orders") -> str:
        """An order by way of the topic, applied; gives its uid."""
        uid: str = orjson.loads(raw)["order_uid"]
        await self.produce(topic, self.home(uid), uid.encode(), raw, ())
        async with self.turn:
            await self.driver.run()
        return uid

    async def start(self, worker: Worker) -> None:
        web_app = web.Application()
        attach(
            worker,
            web_app,
            orders=self.orders,
            purchases=self.purchases,
            shipping=self.shipping,
            accounts=self.accounts,
            customers=self.customers,
            inventory=self.inventory,
            outlets=self.outlets,
            payments=self.payments,
            webhooks=Webhooks(self.webhooks, self.settings.keys_of_webhooks, self.router.starts),
            requests=self.requests,
            topics=self.topics,
            settings=self.settings,
            checks=lambda: worker.checks,
            registry=CollectorRegistry(),
            sinks=self.sinks,
            carrier=lambda: self.settings.carrier == "topic",
            callback_secret=lambda: SECRET,
            limits=self.limits,
            keyring=worker.keyring,
        )
        only_when_live(web_app, lambda: worker.standing_by)
        worker.client = TestClient(BoundedServer(web_app), headers={"Content-Type": "application/json"})
        await worker.client.start_server()
        worker.url = str(worker.client.make_url("")).rstrip("/")


@asynccontextmanager
async def platform(
    workers: int = 1, *, limits: Mapping[str, Any] | None = None, sinks: Sequence[Sink] = (), **overrides: Any
) -> AsyncIterator[Platform]:
    """A platform with its workers started; `limits` are bounds that have no setting, short where a test waits."""
    options = settings(**overrides)
    bounds = replace(Limits.of(options), **(limits or {}))
    running = Platform(workers, options, bounds, sinks)
    async with running.driver:
        for worker in running.workers:
            await running.start(worker)
        work = asyncio.create_task(running.work())
        try:
            yield running
        finally:
            work.cancel()
            for worker in running.workers:
                await worker.client.close()


_numbers = itertools.count()


def document(uid: str | None = None, **changes: Any) -> dict[str, Any]:
    """The sample order under a number of its own. `payment__amount=1` changes a field within."""
    made: dict[str, Any] = orjson.loads(SAMPLE_ORDER)
    made["order_uid"] = uid or f"order-{next(_numbers):05d}"
    for name, value in changes.items():
        target, parts = made, name.split("__")
        for part in parts[:-1]:
            target = target[part]
        target[parts[-1]] = value
    return made


def raw(uid: str | None = None, **changes: Any) -> bytes:
    return orjson.dumps(document(uid, **changes))


async def problem(response: ClientResponse, status: int, slug: str) -> Mapping[str, Any]:
    """The problem that was answered, checked for what every problem has."""
    told: dict[str, Any] = await response.json(content_type=None)
    assert (response.status, told.get("type")) == (status, f"/problems#{slug}"), told
    assert response.content_type == "application/problem+json"
    assert told["status"] == status and told["title"] and told["detail"]
    assert told["request_id"] == response.headers["X-Request-Id"]
    assert told["instance"] == response.url.path
    return told
