"""The shoppers of the fault runs on a platform in memory, with the real sandbox provider: all of it comes out right.

What `make faults` does to real workers begins here, where it takes seconds: carts over HTTP and onto the topics, a
provider in every mood, and the whole oracle over what stands on the topics at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from agents.effects.provider import Client, Provider, ProviderMetrics, asked_by
from local.carrier import Depot
from local.sandbox import Sandbox
from streams.records import Outgoing, StoredRecord, TopicPartition
from tests.checkout_load import HOME, TERMS, CheckoutLoad
from tests.oracle.bought import CARRIERS, PAYMENTS, TOPICS
from tests.oracle.checkout import TABLES, judge_checkout, judge_provider, judge_rest
from tests.oracle.log import LETTERS, Log, Position, Record, home_of
from tests.oracle.parcels import judge_depot
from tests.oracle.verdict import Verdict
from tests.web.platform import PARTITIONS, SECRET, Platform, platform

CARTS, PER_SECOND, SEED = 60, 40.0, 7
TICK_S = 0.01
#: How much faster time goes while people shop, and when only deadlines are left.
SHOPPING, WAITING = 25, 100
SETTLED_S = 30.0
#: From the last cart to the end of all waiting for approvals.
CLOSING_S = 1.0
SETTINGS: dict[str, Any] = {
    name.removeprefix("ORDERSTREAM_").lower(): int(value) if value.isdecimal() else value
    for name, value in TERMS.items() if "PROVIDER" not in name
}  # fmt: skip
#: While people shop, time goes so fast that nobody could give anything back.
SETTINGS["return_within_ms"] *= SHOPPING


class MemoryWire:
    """The log of a platform in memory."""

    def __init__(self, running: Platform) -> None:
        self.partitions, self.taken, self.failures, self._running = PARTITIONS, set[Position](), list[str](), running

    def put(self, topic: str, key: bytes, value: bytes, partition: int = HOME) -> None:
        at = home_of(key.decode(), PARTITIONS) if partition == HOME else partition
        record = Outgoing(self._running.driver.clock.now_ms(), key, value)
        self.taken.add(Position(*self._running.driver.log.append(TopicPartition(topic, at), record)))

    def flush(self) -> None: ...

    def close(self) -> None: ...


class World:
    """A platform, a provider, and what asks the one for the other, in the order of each payment's events."""

    def __init__(self, running: Platform, sandbox: Sandbox, client: Client) -> None:
        self.running, self.sandbox, self.faster = running, sandbox, SHOPPING
        self._client, self._asked = client, set[Position]()
        self._lines: dict[bytes | None, asyncio.Task[None]] = {}
        self.depot, self._heard = Depot(), 0

    async def go_on(self) -> None:
        """Time passes, and the provider hears of what is asked of it."""
        while True:
            await asyncio.sleep(TICK_S)
            self.running.driver.clock.advance(int(TICK_S * 1000 * self.faster))
            for record in self.running.driver.read(PAYMENTS.events):
                at = Position(record.topic, record.partition, record.offset)
                if at not in self._asked:
                    self._asked.add(at)
                    before = self._lines.get(record.key)
                    self._lines[record.key] = asyncio.create_task(self._ask(record, before))
            await self._carry()

    async def _carry(self) -> None:
        """The carrier hears what it is asked, and says what it has done."""
        events, now = self.running.driver.read(CARRIERS.events), self.running.driver.clock.now_ms() / 1000
        told = [
            said for event in events[self._heard :] for said in self.depot.hear(orjson.loads(event.value or b""), now)
        ]
        self._heard = len(events)
        for said in [*told, *self.depot.work(now)]:
            await self.running.topics[CARRIERS.commands].send(key=said["order_uid"], value=orjson.dumps(said))

    async def _ask(self, record: StoredRecord, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        event = asked_by(record.value)
        command = await self._client.record_for(event, 0) if event is not None else None
        if command is not None:
            await self.running.topics[PAYMENTS.commands].send(key=command.order_uid, value=command)

    def log(self) -> Log:
        def read(topic: str) -> list[Record]:
            return [Record(topic, *each[1:6], tuple(each.headers)) for each in self.running.driver.read(topic)]

        tables = {table: read(f"orderstream-{table}-changelog") for table in TABLES}
        return Log(PARTITIONS, {topic: read(topic) for topic in (*TOPICS, LETTERS)}, tables)

    async def settled(self, load: CheckoutLoad) -> Log:
        """Until nothing is under way any more, or for as long as it may take."""
        self.faster, until = WAITING, time.monotonic() + SETTLED_S
        while True:
            await asyncio.sleep(0.5)
            async with self.running.turn:
                log = self.log()
            idle = all(parcel.at_its_end for parcel in self.depot.parcels.values())
            at_rest = idle and not judge_checkout(log, Verdict(), sent=load.sent()).restless
            if at_rest or time.monotonic() > until:
                return log

    def state(self) -> dict[str, Any]:
        payments = {uid: vars(payment) for uid, payment in self.sandbox.money.payments.items()}
        return {"asked": self.sandbox.asked, "payments": payments}


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    async with platform(2, **SETTINGS) as running:
        callback = f"{running.workers[0].url}/api/v1/orders/payment-callback"
        sandbox = Sandbox(SECRET, callback, directory / "state.json")
        async with TestClient(TestServer(sandbox.application())) as http:
            provider = Provider(str(http.make_url("")).rstrip("/"), SECRET, 0.3, 4, 0.01, 0.05)
            client = Client(lambda: provider, ProviderMetrics(CollectorRegistry()))
            found = World(running, sandbox, client)
            going = asyncio.create_task(found.go_on())
            try:
                yield found
            finally:
                going.cancel()
                await client.close()


async def test_a_load_of_carts_is_as_it_must_be(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        urls = [worker.url for worker in there.running.workers]
        async with aclosing(CheckoutLoad(MemoryWire(there.running), SEED, urls)) as load:
            await load.open()
            load.start(PER_SECOND, CARTS)
            await load.begun()
            await asyncio.sleep(CLOSING_S)
            await load.stop()
            log, verdict = await there.settled(load), Verdict()
        found = judge_checkout(log, verdict, sent=load.sent())
        judge_rest(found, verdict)
        judge_provider(found, there.state(), verdict)
        judge_depot(found.bought.orders, {id: vars(each) for id, each in there.depot.parcels.items()}, verdict)
        assert load.acknowledged <= {record.position for topic in TOPICS for record in log.of(topic)}
    verdict.require(joins=500, **{"bought orders": CARTS, "orders at rest": CARTS, "payments at the provider": 10})
    verdict.require(**{"parcels at the carrier": 3, "parcels at rest": 3})
    assert len({order.status for order in found.bought.orders.values()}) >= 5
    kinds = {orjson.loads(record.value or b"")["type"] for record in log.of(PAYMENTS.events)}
    assert {"payment_declined", "payment_captured", "payment_voided"} <= kinds, kinds
