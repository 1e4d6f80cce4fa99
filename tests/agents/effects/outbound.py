"""the test driver's log, a receiver over HTTP -> the effects of webhooks at work, without a broker, time by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from agents.effects.webhooks import Router, Sender
from agents.effects.webhooks.sending import Opened, SenderMetrics, Settled, line_of
from schemas import signatures
from schemas.base import derived_id
from schemas.topics import DELIVERY_EVENTS, TOLD
from streams.driver import Driver, MemoryLog
from streams.effects import EffectMetrics, Runner
from streams.records import Record, TopicPartition
from streams.sink import Backoff
from streams.topic import Topic

KEY = b"k" * 32


class MemoryTail:
    """As KafkaTail, over the log of a Driver. `reads` counts the records that were handed out."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._at: dict[TopicPartition, int] = {}
        self.reads, self.fails = 0, False

    async def open(self, partitions: Collection[TopicPartition]) -> None:
        self._at = dict.fromkeys(partitions, 0)

    async def close(self) -> None:
        self._at = {}

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(0)
        if self.fails:
            raise ConnectionError("no broker answers")
        return {partition: len(self._log.topics[partition]) for partition in partitions}

    async def position(self, partition: TopicPartition) -> int:
        return self._at[partition]

    async def read(self) -> Sequence[Record]:
        got = [record for partition, at in self._at.items() for record in self._log.topics[partition][at:]]
        self._at = {partition: len(self._log.topics[partition]) for partition in self._at}
        self.reads += len(got)
        await asyncio.sleep(0)
        return got


class MemorySource:
    """Topics of a Driver's log as one member of an effect's group reads them; `kept` is the group's, in the log."""

    def __init__(self, log: MemoryLog, topics: Sequence[str], partitions: int, kept: dict[TopicPartition, int]) -> None:
        self._log, self.kept = log, kept
        self._all = frozenset(TopicPartition(topic, number) for topic in topics for number in range(partitions))
        self._at: dict[TopicPartition, int] = {}
        self.generation, self.assigned = 0, frozenset[TopicPartition]()

    async def open(self) -> None:
        if not self.assigned:
            self.generation, self.assigned = self.generation + 1, self._all

    async def close(self) -> None:
        self.generation, self.assigned = self.generation + 1, frozenset()

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return {partition: (0, len(self._log.topics[partition])) for partition in partitions}

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self._at = dict(positions)

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        await asyncio.sleep(0)
        got: list[Record] = []
        for partition, at in self._at.items():
            records = self._log.topics[partition][at : at + max_records - len(got)]
            self._at[partition] = at + len(records)
            got += records
        return got

    async def rest(self, timeout_s: float) -> Sequence[Record]:
        await asyncio.sleep(0)
        return ()

    def position(self, partition: TopicPartition) -> int:
        return self._at[partition]

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return {partition: self.kept.get(partition) for partition in partitions}

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self.kept |= positions


class Receiver:
    """A target that answers what it is told to, and keeps what it got: headers and body."""

    def __init__(self) -> None:
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.answers: list[int] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._take)
        self._server = TestServer(app)
        await self._server.start_server()

    @property
    def port(self) -> int:
        assert self._server.port is not None
        return self._server.port

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.got.append((request.headers.copy(), await request.read()))
        if self.answer is not None:
            return await self.answer(request)
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    async def stop(self) -> None:
        await self._server.close()

    @property
    def ids(self) -> list[str]:
        return [headers[signatures.ID] for headers, _ in self.got]


class Outbound:
    """A worker's two effects over a Driver: `work()` until there is nothing left to do now."""

    def __init__(self, driver: Driver, partitions: int, **rules: Any) -> None:
        self.driver, self._partitions = driver, partitions
        self.kept: dict[TopicPartition, int] = {}
        self.keys: list[bytes] = [KEY]
        self.rules = Settled(**{"timeout_s": 10.0, "loopback": True, **rules})
        self.opened: Opened | None = None
        self.lookup: Callable[..., Sequence[Any]] = socket.getaddrinfo
        self.start()

    def start(self) -> None:
        """A worker that starts: it knows what the log has, and nothing else."""
        commands: Topic = self.driver.app.declared["webhooks.commands.v1"]
        self.tail = MemoryTail(self.driver.log)
        self.router = Router(commands, self._partitions, self.tail)
        self.registry = CollectorRegistry()
        self.sender = Sender(
            commands,
            lambda: self.keys,
            self.rules,
            SenderMetrics(self.registry),
            lambda *args, **more: self.lookup(*args, **more),
            now=lambda: self.driver.clock.now_ms() / 1000,
            opened=self.opened,
        )
        told = [spec.name for spec in TOLD]
        self.routes = self._runner("routes", told, self.router.act, at_once=256, unwanted=self.router.nobody_listens)
        self.sends = self._runner("sends", [DELIVERY_EVENTS.name], self.sender.act, at_once=256, line=line_of)

    def _runner(self, name: str, topics: Sequence[str], act: Any, **more: Any) -> Runner:
        source = MemorySource(self.driver.log, topics, self._partitions, self.kept)
        pause = Backoff(0.001, 0.002)
        return Runner(name, source, act, EffectMetrics(CollectorRegistry()), poll_s=0.002, backoff=pause, **more)

    async def step(self) -> None:
        for runner in (self.routes, self.sends):
            await asyncio.sleep(await runner.step())
        await self.driver.run()

    async def work(self, until: Callable[[], bool] | None = None) -> None:
        """Step until nothing is open and nothing new has come, or until the moment that is waited for."""
        async with asyncio.timeout(60):
            quiet = 0
            while (quiet < 3) if until is None else not until():
                before = self._size()
                await self.step()
                open_records = self.routes.open_records + self.sends.open_records
                quiet = quiet + 1 if self._size() == before and not open_records else 0
                await asyncio.sleep(0.001)

    def _size(self) -> int:
        return sum(map(len, self.driver.log.topics.values()))

    async def kill(self) -> None:
        """As `kill -9`: nothing under way is finished, nothing is committed."""
        for runner in (self.routes, self.sends):
            await runner.drop()
        await self.sender.close()

    async def close(self) -> None:
        await self.kill()


def subscription(receiver_url: str, number: int = 1, **more: Any) -> tuple[str, bytes]:
    """A subscription's id and the command that creates it, with a secret of KEY."""
    id = derived_id(f"subscription {number}")
    secret = signatures.secret_of(KEY, id, "s1")
    said = {
        "type": "create_subscription",
        "command_id": f"create-{number}",
        "subscription_id": id,
        "url": receiver_url,
        "events": ["*"],
        "secret": {"secret_id": "s1", "fingerprint": signatures.fingerprint(secret)},
        **more,
    }
    return id, orjson.dumps(said)
