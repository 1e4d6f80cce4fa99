"""The whole sink on real Kafka and PostgreSQL: each event once, whatever is killed, stopped or emptied on the way."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry

from agents.effects.postgres import rebuild, verify_against_changelog
from agents.effects.postgres.changelog import bounds, folded
from agents.effects.postgres.destination import PostgresDestination
from agents.effects.postgres.rows import read_event
from agents.effects.postgres.verify import caught_up, verify
from local.threads import run_async
from schemas.orders.words import OrderEvent, encode_event
from streams.sink import Sink, SinkMetrics
from streams.sources import KafkaSource
from tests.agents.effects.history import History, fetch, rows_of
from tests.processes import RunningStack
from tests.waiting import until

SESSION = {"session_timeout_ms": 6_000}
PATIENCE_S = 30.0


class Platform:
    """Stands for the orders agents: events and changelog rows in transactions, a few of them aborted."""

    def __init__(self, bootstrap: str, dsn: str, topic: str) -> None:
        self.bootstrap, self.dsn, self.topic, self.changelog = bootstrap, dsn, topic, f"{topic}-changelog"
        self.history = History()
        self._producer: Any = None
        self._sinks: list[Sink] = []

    async def start(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(name, 3, 1) for name in (self.topic, self.changelog)])
        await admin.close()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=f"{self.topic}-tx", linger_ms=0
        )
        await self._producer.start()

    async def stop(self) -> None:
        await asyncio.gather(*(sink.stop() for sink in self._sinks))
        await self._producer.stop()

    async def flow(self, count: int) -> None:
        """`count` more events, in transactions of up to twenty. Aborted ones hold the same, as after a failed batch."""
        events, chance = self.history.run(count), random.Random(count)
        said = list(zip(events, self.history.after[-count:], strict=True))
        for batch in (said[start : start + 20] for start in range(0, count, 20)):
            if chance.random() < 0.2:
                await self._transaction(batch, abort=True)
            await self._transaction(batch, abort=False)

    async def _transaction(self, said: Sequence[tuple[OrderEvent, dict[str, Any]]], abort: bool) -> None:
        await self._producer.begin_transaction()
        for event, state in said:
            key, partition = event.order_uid.encode(), sum(event.order_uid.encode()) % 3
            await self._producer.send(self.topic, encode_event(event), key=key, partition=partition)
            await self._producer.send(self.changelog, orjson.dumps(state), key=key, partition=partition)
        if abort:
            await self._producer.flush()
            await self._producer.abort_transaction()
        else:
            await self._producer.commit_transaction()

    def new_sink(self) -> Sink:
        source = KafkaSource(self.bootstrap, f"group-of-{self.topic}", [self.topic], SESSION)
        destination = PostgresDestination(lambda: self.dsn, {self.topic: read_event})
        sink = Sink(None, "test", [self.topic], destination, source=source, metrics=SinkMetrics(CollectorRegistry()))
        self._sinks.append(sink)
        return sink

    async def started_sink(self) -> Sink:
        sink = self.new_sink()
        await sink.start()
        return sink

    async def check(self) -> None:
        """PostgreSQL = the fold, row by row, and every event once."""
        spans = await bounds(self.bootstrap, [self.topic], committed=False)
        ends = {partition: end for partition, (_, end) in spans.items()}
        async with asyncio.timeout(60):
            while True:
                try:
                    await caught_up(self.dsn, ends)
                    break
                except (asyncpg.UndefinedTableError, asyncpg.PostgresConnectionError, OSError):
                    await asyncio.sleep(0.1)  # PostgreSQL, or the sink's first connection, is not there yet

        async def states() -> AsyncIterator[dict[str, Any]]:
            for uid in sorted(self.history.states):
                yield self.history.states[uid]

        verified = await verify(self.dsn, states())
        assert verified.difference is None, str(verified.difference)
        ((count, distinct),) = await fetch(self.dsn, "SELECT count(*), count(DISTINCT event_id) FROM order_events")
        assert count == distinct == len(self.history.events)
        assert not await fetch(self.dsn, "SELECT * FROM refused_rows")


@pytest.fixture
async def platform(stack: RunningStack, database: str) -> AsyncIterator[Platform]:
    platform = Platform(stack.kafka, database, f"events-{uuid.uuid4().hex[:8]}")
    await platform.start()
    yield platform
    if not stack.database.running():
        await asyncio.to_thread(stack.database.start)
    await platform.stop()


async def test_events_arrive_once_and_the_lag_ends_at_nothing(platform: Platform) -> None:
    sink = await platform.started_sink()
    await platform.flow(500)
    await platform.check()
    await until(lambda: sink.health().lag == 0 and sink.health().connected, PATIENCE_S)
    await platform.flow(100)
    await platform.check()


async def test_postgres_down_at_the_start_is_waited_for(platform: Platform, stack: RunningStack) -> None:
    await asyncio.to_thread(stack.database.stop)
    sink = await platform.started_sink()
    await platform.flow(100)
    await until(lambda: sink.health().last_error is not None, PATIENCE_S)
    assert not sink.health().connected
    await asyncio.to_thread(stack.database.start)
    await platform.check()
    await until(lambda: sink.health().connected, PATIENCE_S)


async def test_postgres_killed_stopped_and_frozen_under_load(platform: Platform, stack: RunningStack) -> None:
    sink = await platform.started_sink()
    for fault in ("kill", "pause", "restart"):
        flowing = asyncio.create_task(platform.flow(400))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(getattr(stack.database, fault))
        await asyncio.sleep(0.5)
        await platform.flow(100) if flowing.done() else await flowing  # the flow never waits for the sink
        if fault == "kill":
            await asyncio.to_thread(stack.database.start)
        if fault == "pause":
            await asyncio.to_thread(stack.database.resume)
        await platform.check()
    assert sink.health().last_error is not None, "no fault was felt"


async def test_sinks_join_and_leave_and_share_the_work(platform: Platform) -> None:
    first = await platform.started_sink()
    await platform.flow(200)
    second = await platform.started_sink()
    await until(
        lambda: first.health().assigned + second.health().assigned == 3 and second.health().assigned > 0, PATIENCE_S
    )
    flowing = asyncio.create_task(platform.flow(400))
    await asyncio.sleep(0.2)
    await first.stop()
    await flowing
    await platform.check()
    assert second.health().assigned == 3


async def test_a_sink_killed_under_load_loses_and_doubles_nothing(platform: Platform) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.agents.effects.sink_process",
        platform.bootstrap,
        platform.topic,
        platform.dsn,
    ]
    written = "SELECT count(*) FROM order_events"
    seen = 0
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        flowing = asyncio.create_task(platform.flow(1500))
        async with asyncio.timeout(40):
            while True:  # killed while it is at work: some are written since the last time, more are to come
                await asyncio.sleep(0.05)
                now = await _count(platform.dsn, written)
                if now > seen + 100:
                    break
        process.kill()
        await process.wait()
        seen = now
        await flowing
    assert await _count(platform.dsn, written) < len(platform.history.events), "it was done before the kill"
    await platform.started_sink()
    await platform.check()


async def _count(dsn: str, query: str) -> int:
    try:
        return int((await fetch(dsn, query))[0][0])
    except Exception:
        return 0


async def test_a_rebuild_under_load_ends_in_equal_rows(platform: Platform) -> None:
    running = await platform.started_sink()
    await platform.flow(300)
    await platform.check()
    before = await rows_of(platform.dsn)
    seen: list[tuple[int, int]] = []
    gone = await rebuild(
        platform.dsn, platform.bootstrap, [platform.topic], platform.new_sink(), progress=lambda *at: seen.append(at)
    )
    assert seen[0][0] < seen[-1][0] == seen[-1][1] == gone
    assert await rows_of(platform.dsn) == before
    flowing = asyncio.create_task(platform.flow(300))
    await rebuild(platform.dsn, platform.bootstrap, [platform.topic], platform.new_sink())
    await flowing
    await platform.check()
    assert running.health().connected


async def test_a_rebuild_needs_no_running_worker(platform: Platform) -> None:
    await platform.flow(100)
    await rebuild(platform.dsn, platform.bootstrap, [platform.topic], platform.new_sink())
    await platform.check()


async def test_verify_reads_the_changelog_while_orders_flow(platform: Platform) -> None:
    await platform.started_sink()
    await platform.flow(300)
    steps: list[str] = []

    async def check() -> Any:
        return await verify_against_changelog(
            platform.dsn,
            platform.bootstrap,
            platform.changelog,
            [platform.topic],
            progress=lambda what, done, total: steps.append(what),
        )

    flowing = asyncio.create_task(platform.flow(600))
    while not flowing.done():
        verified = await check()
        assert verified.difference is None, str(verified.difference)
    verified = await check()
    assert verified.rows == len(platform.history.states) and verified.ahead == 0
    assert list(dict.fromkeys(steps)) == ["read", "wait", "compare"]
    uid = sorted(platform.history.states)[3]
    await fetch(platform.dsn, "UPDATE orders SET amount_minor = 1 WHERE order_uid = $1", uid)
    verified = await check()
    assert verified.difference is not None
    assert (verified.difference.key, verified.difference.column, verified.difference.found) == (uid, "amount_minor", 1)


async def test_the_fold_has_the_newest_row_of_each_key_in_key_order(platform: Platform) -> None:
    await platform.flow(200)
    async with folded(platform.bootstrap, platform.changelog) as tables:
        states = [state async for state in tables]
    assert states == [platform.history.states[uid] for uid in sorted(platform.history.states)]


async def test_a_topic_made_anew_is_noticed(platform: Platform) -> None:
    sink = await platform.started_sink()
    await platform.flow(60)
    await platform.check()
    await sink.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=platform.bootstrap)
    await admin.start()
    await admin.delete_topics([platform.topic])
    await asyncio.sleep(1)
    await admin.create_topics([NewTopic(platform.topic, 3, 1)])
    await admin.close()
    again = Platform(platform.bootstrap, platform.dsn, platform.topic)
    again._producer = platform._producer
    await again.flow(600)  # longer than before in every partition: no offset is out of range
    sink = await platform.started_sink()
    await until(lambda: "made anew" in (sink.health().last_error or ""), PATIENCE_S)
    assert await fetch(platform.dsn, "SELECT count(*) FROM order_events") == [(60,)]


def test_the_helpers_run_outside_a_loop(stack: RunningStack) -> None:
    """The commands call them through `run_async`."""
    assert run_async(lambda: bounds(stack.kafka, [], committed=True)) == {}
