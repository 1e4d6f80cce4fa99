"""a trial's stack -> a provider, a carrier and shoppers beside the orders -> their judgement by tests/oracle."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from local.carrier import ENDS
from local.carrier_service import SandboxCarrier
from local.ports import find_free
from local.sandbox_service import SandboxProvider
from tests.checkout_load import TERMS, CheckoutLoad, KafkaWire
from tests.oracle.bought import DOMAINS, PAYMENTS, TOPICS
from tests.oracle.broker import partitions_of, read_topic, unread
from tests.oracle.checkout import TABLES, Checkout, judge_checkout, judge_provider, judge_rest
from tests.oracle.checkout_window import judge_answers
from tests.oracle.inlet import origin_of
from tests.oracle.log import LETTERS, Log, Record
from tests.oracle.parcels import judge_depot
from tests.oracle.verdict import Kind, Verdict
from tests.processes import RunningStack

#: Beside 250 orders a second: so many carts that every step of each meets some.
CARTS_PER_SECOND = 3.0
#: A provider that was away is asked six times, then the step is tried again after a minute.
RESTED_S = 150.0
SAMPLED = 25
#: What of checkout is in PostgreSQL, and how long the sink may take to be there when all is at rest.
SUNK, SUNK_S = ("purchases", "payments"), 60.0
#: Where the workers' clocks jump by an hour, signatures are as far off.
JUMPED_S = 3 * 3600
COMMAND_TOPICS = tuple(domain.commands for domain in DOMAINS)


class Shop:
    """The provider, the carrier and the shoppers of one trial. The provider calls back at `callback_port`.

    That is the first worker's port.
    """

    def __init__(self, stack: RunningStack, seed: int, urls: list[str]) -> None:
        self.stack = stack
        self.callback_port, port = find_free(2)
        directory = stack.data_dir / f"provider-{port}"
        callback = f"http://127.0.0.1:{self.callback_port}/api/v1/orders/payment-callback"
        log = stack.data_dir / "logs" / f"provider-{port}.log"
        window = ["--window", str(JUMPED_S)]
        self.provider = SandboxProvider(directory, port, callback_url=callback, log=log, options=window)
        directory = stack.data_dir / f"carrier-{port}"
        self.carrier = SandboxCarrier(directory, stack.kafka, log=stack.data_dir / "logs" / f"carrier-{port}.log")
        self.load = CheckoutLoad(KafkaWire(stack.kafka), seed, urls)
        self.per_second = CARTS_PER_SECOND
        self.count: int | None = None  # until the strikes are over
        self._chance = random.Random(seed)
        self.provider.start()
        self.carrier.start()

    @property
    def env(self) -> dict[str, str]:
        """What the trial's workers are started with."""
        where = {"ORDERSTREAM_PROVIDER_URL": self.provider.url, "ORDERSTREAM_PROVIDER_SECRET": self.provider.secret}
        return {**TERMS, **where, "ORDERSTREAM_CALLBACK_WINDOW_MS": str(JUMPED_S * 1000)}

    async def close(self) -> None:
        await self.load.aclose()
        self.provider.resume()
        self.carrier.resume()
        for service in (self.provider, self.carrier):
            await asyncio.to_thread(service.stop)

    def asked(self) -> dict[str, int]:
        """Requests to the provider by their keys."""
        return dict(self._state()["asked"])

    def _state(self) -> dict[str, dict[str, int]]:
        file = self.provider.directory / "state.json"
        nothing: dict[str, dict[str, int]] = {"asked": {}, "payments": {}}
        return orjson.loads(file.read_bytes()) if file.exists() else nothing

    def parcels(self) -> dict[str, dict[str, Any]]:
        """What the carrier has written down of each parcel."""
        file = self.carrier.directory / "state.json"
        return dict(orjson.loads(file.read_bytes())["parcels"]) if file.exists() else {}

    def _carried(self) -> list[str]:
        """Parcels that the carrier is not done with."""
        return [id for id, each in self.parcels().items() if not each["done"] or each["done"][-1] not in ENDS]

    async def open(self) -> None:
        """Fill the shelves, and let people in."""
        await self.load.open()
        self.load.start(self.per_second, self.count)

    async def carts(self, count: int, timeout_s: float = 300) -> None:
        """Until so many carts have been begun."""
        deadline = time.monotonic() + timeout_s
        while self.load.carts < count:
            assert time.monotonic() < deadline, f"{self.load.carts} carts of {count} after {timeout_s:.0f} s"
            await asyncio.sleep(0.05)

    async def judge(self, verdict: Verdict, urls: list[str]) -> dict[str, float | int | str]:
        """Wait until nothing is under way any more, and judge all of it; what it came to."""
        log, found = await self._at_rest(verdict)
        judge_rest(found, verdict)
        judge_provider(found, self._state(), verdict)
        judge_depot(found.bought.orders, self.parcels(), verdict)
        there = {record.position for topic in COMMAND_TOPICS for record in log.of(topic)}
        told = self.load.sent() | self.load.acknowledged
        for position in told - there:
            if position.topic in COMMAND_TOPICS:
                verdict.add(Kind.LOST, "acknowledged", position, "was acknowledged to a client")
        verdict.looked("acknowledged", len(told))
        await judge_answers(urls, found, verdict, self._chance, SAMPLED)
        await self._judge_postgres(found, verdict)
        return self._figures(log, found)

    async def _judge_postgres(self, found: Checkout, verdict: Verdict) -> None:
        """I5: the sink's rows are the oracle's, once it is abreast of the log."""
        deadline = time.monotonic() + SUNK_S
        connection = await asyncpg.connect(self.stack.postgres)
        try:
            for table in SUNK:
                expected = found.rows(table)
                columns = ", ".join(next(iter(expected.values()), {"version": 0}))
                while True:
                    rows = await connection.fetch(f"SELECT order_uid, {columns} FROM orderstream.{table}")
                    there = {uid: {**row} for row in map(dict, rows) if (uid := row.pop("order_uid"))}
                    if there == expected or time.monotonic() > deadline:
                        break
                    await asyncio.sleep(0.5)
                verdict.same_rows(f"rows of {table} in postgres", expected, there)
        finally:
            await connection.close()

    def _figures(self, log: Log, found: Checkout) -> dict[str, float | int | str]:
        orders = Counter(order.status for order in found.bought.orders.values())
        commands = sum(len(log.of(topic)) for topic in COMMAND_TOPICS)
        return {
            "carts": len(found.bought.orders),
            "ended as": " ".join(f"{count} {status}" for status, count in orders.most_common()),
            "commands of checkout": commands,
            "parcels": " ".join(f"{count} {end}" for end, count in self._ends().most_common()),
            "exchanged, in pieces": sum(line.exchanged for each in found.bought.orders.values() for line in each.lines),
            "requests to the provider": f"{sum(self.asked().values())} under {len(self.asked())} keys",
            "money kept": sum(order.captured - order.refunded for order in found.bought.orders.values()),
        }

    def _ends(self) -> Counter[str]:
        return Counter(each["done"][-1] if each["done"] else "not heard of" for each in self.parcels().values())

    def wait_until_read(self, timeout_s: float) -> None:
        """Until every command is committed, and every event that may ask something of the provider."""
        deadline = time.monotonic() + timeout_s
        while left := self._unread():
            assert time.monotonic() < deadline, f"not worked on after {timeout_s:.0f} s: {left}"
            time.sleep(0.2)

    async def _at_rest(self, verdict: Verdict) -> tuple[Log, Checkout]:
        """The log once all of it is worked on and nothing is to come. What is never done is judged as it stands."""
        deadline = time.monotonic() + RESTED_S
        while True:
            left = await asyncio.to_thread(self._unread)
            if not left or time.monotonic() > deadline:
                log, trying = await asyncio.to_thread(self.read), Verdict()
                found = judge_checkout(log, trying, sent=self.load.sent())
                if not found.restless or time.monotonic() > deadline:
                    break
            await asyncio.sleep(0.5)
        for what in left:
            verdict.add(Kind.HANGING, "at rest", what, f"is not worked on after {RESTED_S:.0f} s")
        return log, judge_checkout(log, verdict, sent=self.load.sent())

    def _unread(self) -> list[str]:
        if carried := self._carried():
            return [f"{len(carried)} parcels, {carried[0]} first"]
        kafka = self.stack.kafka
        return unread(kafka, topics=COMMAND_TOPICS) or unread(kafka, "orderstream-provider", [PAYMENTS.events])

    def read(self) -> Log:
        """All of checkout, as a read-committed reader sees it."""
        kafka = self.stack.kafka
        topics: dict[str, list[Record]] = {topic: read_topic(kafka, topic) for topic in (*TOPICS, LETTERS)}
        changelogs = {table: read_topic(kafka, f"orderstream-{table}-changelog") for table in TABLES}
        return Log(len(partitions_of(kafka, PAYMENTS.events)), topics, changelogs)


def documents_only(log: Log, placed: Iterable[str]) -> Log:
    """The log of the orders that came as documents: bought ones share their lists, their timeline and dead letters.

    `placed`: the numbers of those that were bought.
    """
    bought = {uid.encode() for uid in placed}
    letters = [each for each in log.of(LETTERS) if (at := origin_of(each)) is None or at.topic not in COMMAND_TOPICS]
    changelogs = {
        table: [record for record in records if bought.isdisjoint((record.key or b"").split(b"\0"))]
        for table, records in log.changelogs.items()
    }
    return replace(log, topics={**log.topics, LETTERS: letters}, changelogs=changelogs)
