"""Rows 6, 7, 8, 12, 23: what happens to Kafka and PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import Any

import asyncpg
from confluent_kafka import admin as kafka_admin

from streams import admin
from tests.faults.row import row
from tests.faults.trial import Trial, memory_mb, metric
from tests.oracle.broker import TABLES, read_topic

#: While PostgreSQL is away orders are as fast as before, on a machine that is never quiet.
CALM_S = 0.5


@row(6, "broker stopped, and killed")
async def broker_goes(trial: Trial) -> None:
    workers = await trial.up(2)
    pids = [worker.pid for worker in workers]
    broker = trial.stack.broker
    async with trial.under_load():
        for end in (broker.stop, broker.kill):
            await asyncio.sleep(2)
            since = trial.struck()
            await asyncio.to_thread(end)
            await asyncio.sleep(trial.chance.uniform(1, 4))
            await asyncio.to_thread(broker.start)
            back = time.monotonic()
            trial.figures[f"away after {end.__name__}"] = back - since
            await trial.recovered(back)
    assert [worker.pid for worker in workers if worker.child.running()] == pids, "a worker ended with the broker"
    await trial.converge(minimum=1_000, gap_s=60)


@row(7, "broker frozen")
async def broker_freezes(trial: Trial) -> None:
    workers = await trial.up(2)
    broker, most = trial.stack.broker, 0.0
    async with trial.under_load():
        for frozen_s in (5,) if trial.brief else (5, 30, 120):
            await asyncio.sleep(2)
            before = max(map(memory_mb, workers))
            trial.struck()
            broker.pause()
            try:
                await asyncio.sleep(frozen_s)
            finally:
                broker.resume()
            most = max(most, *(memory_mb(worker) - before for worker in workers))
            await trial.recovered(time.monotonic(), within_s=30)
    trial.figures["MB grown"] = most
    assert most < 100, f"a worker grew by {most:.0f} MB while the broker was frozen"
    await trial.converge(minimum=1_000, gap_s=200)


@row(8, "topic or changelog lost or re-created")
async def topics_vanish(trial: Trial) -> None:
    """The workers stop and name the command that mends it; nothing is rebuilt from nothing."""
    (worker,) = await trial.up(1)
    async with trial.under_load():
        await asyncio.sleep(2)
        trial.struck()
    await trial.converge(minimum=500)
    assert await asyncio.to_thread(worker.stop) == 0
    for topic in ("orderstream-orders-changelog", "orders"):
        await admin.delete(trial.stack.kafka, [topic])
        await _refused(trial, worker.port, topic, "topics create")
        await asyncio.to_thread(trial.stack.faust, "topics", "create")
        await _refused(trial, worker.port, topic, "reset")
        await asyncio.to_thread(trial.stack.faust, "topics", "adopt", topic)
        shutil.rmtree(worker.state_dir)
        again = await trial.begin(worker.port)
        await asyncio.to_thread(again.wait_ready)
        assert await asyncio.to_thread(again.stop) == 0


async def _refused(trial: Trial, port: int, topic: str, command: str) -> None:
    worker = await trial.begin(port)
    trial.strikes += 1
    code = await trial.ended(worker)
    said = worker.log()[-4_000:]
    assert code == 1, f"{topic} lost: the worker ended with {code}"
    assert topic in said and command in said, f"{topic} lost: the worker did not name it and {command!r}"


@row(12, "PostgreSQL down, frozen, killed, refusing")
async def postgres_goes(trial: Trial) -> None:
    database = trial.stack.database
    await asyncio.to_thread(database.stop)
    workers = await trial.up(2)
    async with trial.under_load(per_second=400):
        began = time.monotonic()
        trial.struck()
        await asyncio.sleep(4)
        trial.figures["p99 down"] = trial.pulse.percentile(0.99, began, time.monotonic())
        await asyncio.to_thread(database.start)
        trial.figures["drained in"] = await _drained(trial)
        calm = time.monotonic()
        await asyncio.sleep(3)
        trial.figures["p99 calm"] = trial.pulse.percentile(0.99, calm, time.monotonic())
        frozen = time.monotonic()
        trial.struck()
        database.pause()
        await asyncio.sleep(4 if trial.brief else 15)
        trial.figures["p99 frozen"] = trial.pulse.percentile(0.99, frozen, time.monotonic())
        database.resume()
        trial.struck()
        await asyncio.to_thread(database.kill)
        await asyncio.sleep(4)
        lag = sum(metric(worker, "streams_sink_lag_records") for worker in workers)
        trial.figures["lag when killed"] = int(lag)
        await asyncio.to_thread(database.start)
        trial.figures["drained again in"] = await _drained(trial)
    await trial.converge(minimum=2_000)
    allowed = max(CALM_S, 3 * float(trial.figures["p99 calm"]))
    assert float(trial.figures["p99 down"]) < allowed, "orders waited for PostgreSQL, which was down"
    assert float(trial.figures["p99 frozen"]) < allowed, "orders waited for PostgreSQL, which was frozen"
    assert lag, "the lag did not show that PostgreSQL was away"
    await _refuses_a_row(trial)


async def _drained(trial: Trial, timeout_s: float = 60) -> float:
    """Seconds until the sink was abreast of the log: what was committed when it began is in the tables."""
    began = time.monotonic()
    events = await asyncio.to_thread(read_topic, trial.stack.kafka, "orders.events.v1")
    connection = await asyncpg.connect(trial.stack.postgres)
    try:
        while time.monotonic() - began < timeout_s:
            try:
                if await connection.fetchval("SELECT count(*) FROM orderstream.order_events") >= len(events):
                    return time.monotonic() - began
            except asyncpg.UndefinedTableError:
                pass  # the sink has not been there yet
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    raise AssertionError(f"the sink did not drain in {timeout_s:.0f} s")


async def _refuses_a_row(trial: Trial) -> None:
    """A row that PostgreSQL will never take is set aside; those around it are written."""
    connection = await asyncpg.connect(trial.stack.postgres)
    try:
        await connection.execute("ALTER TABLE orderstream.orders ADD CHECK (order_uid <> 'refuse-me')")
        uids = ["before-it", "refuse-me", "after-it"]
        for uid in uids:
            await asyncio.to_thread(trial.load.plant, "order", uid, 4)
        deadline = time.monotonic() + 30
        refused = stored = 0
        while time.monotonic() < deadline and (refused, stored) != (1, 2):
            refused = await connection.fetchval("SELECT count(*) FROM orderstream.refused_rows")
            found = "SELECT count(*) FROM orderstream.orders WHERE order_uid = ANY($1)"
            stored = await connection.fetchval(found, uids)
            await asyncio.sleep(0.2)
        assert (refused, stored) == (1, 2), f"{refused} rows set aside, {stored} of the two others stored"
    finally:
        await connection.close()


@row(23, "compaction while workers are down")
async def compacted(trial: Trial) -> None:
    workers = await trial.up(2)
    async with trial.under_load(per_second=400):
        await asyncio.sleep(3)
        for worker in workers:
            trial.gone(worker)
            assert await asyncio.to_thread(worker.stop) == 0
        trial.struck()
        short = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "2000"}
        before = await _changelogs(trial)
        await asyncio.to_thread(_configure, trial.stack.kafka, short)
        await asyncio.sleep(40)
        after = await _changelogs(trial)
        trial.figures |= {"changelog records before": before, "after": after}
        for worker in workers:
            shutil.rmtree(worker.state_dir)
        since = time.monotonic()
        plain = {"segment.ms": "604800000", "min.cleanable.dirty.ratio": "0.3", "max.compaction.lag.ms": str(2**63 - 1)}
        await asyncio.to_thread(_configure, trial.stack.kafka, plain)
        again = [await trial.begin(worker.port) for worker in workers]
        for worker in again:
            await asyncio.to_thread(worker.wait_ready)
            trial.urls.append(worker.url)
        await trial.recovered(since, within_s=30)
    await trial.converge(minimum=2_000, gap_s=120)
    assert after < before, f"nothing was compacted: {before} records before, {after} after"


async def _changelogs(trial: Trial) -> int:
    topics = [f"orderstream-{table}-changelog" for table in TABLES]
    return sum([len(await asyncio.to_thread(read_topic, trial.stack.kafka, topic)) for topic in topics])


def _configure(bootstrap: str, values: dict[str, str]) -> None:
    client: Any = kafka_admin
    change = client.AlterConfigOpType.SET
    entries = [client.ConfigEntry(name, value, incremental_operation=change) for name, value in values.items()]
    topics = [f"orderstream-{table}-changelog" for table in TABLES]
    resources = [
        client.ConfigResource(client.ResourceType.TOPIC, topic, incremental_configs=entries) for topic in topics
    ]
    connected = client.AdminClient({"bootstrap.servers": bootstrap})  # kept until the last answer is there
    for future in connected.incremental_alter_configs(resources).values():
        future.result(10)
