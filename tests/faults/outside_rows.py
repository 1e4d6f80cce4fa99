"""Rows 6, 7, 8, 12, 23: what happens to Kafka and PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence

import asyncpg

from streams import admin
from tests.faults.row import row
from tests.faults.trial import Trial, memory_mb, metric
from tests.oracle.broker import TABLES, read_topic
from tests.oracle.log import COMMANDS
from tests.orders_load import Planned, compact
from tests.processes import Worker

#: While PostgreSQL is away orders are as fast as before, on a machine that is never quiet.
CALM_S = 1.0
#: The cleaner looks around every 15 s, and waits for a second look at what has just become dirty.
COMPACTED_S = 90.0
CHANGELOGS = tuple(f"orderstream-{table}-changelog" for table in TABLES)


@row(6, "broker stopped, and killed", fresh=True, checkout=True)
async def broker_goes(trial: Trial) -> None:
    """In brief it is killed, which is the harder of the two."""
    workers = await trial.up(2)
    pids = [worker.pid for worker in workers]
    broker, away = trial.stack.broker, 0.0
    async with trial.under_load():
        for end in (broker.kill,) if trial.brief else (broker.stop, broker.kill):
            await asyncio.sleep(1 if trial.brief else 2)
            since = trial.struck()
            await asyncio.to_thread(end)
            await asyncio.sleep(trial.chance.uniform(1, 4))
            await asyncio.to_thread(broker.start)
            back = time.monotonic()
            trial.figures[f"away after {end.__name__}"] = back - since
            away += back - since
            await trial.recovered(back)
    assert [worker.pid for worker in workers if worker.child.running()] == pids, "a worker ended with the broker"
    await trial.converge(minimum=1_000, gap_s=away + 60)


@row(7, "broker frozen", fresh=True)
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
    assert all(worker.child.running() for worker in workers), "a worker ended while the broker was frozen"
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
    for topic, mend in (("orderstream-orders-changelog", "replay"), ("orders", "topics adopt")):
        await admin.delete(trial.stack.kafka, [topic])
        await _refused(trial, worker.port, topic, "topics create")
        await asyncio.to_thread(trial.stack.faust, "topics", "create")
        await _refused(trial, worker.port, topic, mend)
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
        await _calm(trial)
        began = time.monotonic()
        trial.struck()
        await asyncio.sleep(3 if trial.brief else 6)
        trial.figures["p99 down"] = trial.pulse.percentile(0.99, began, time.monotonic())
        trial.figures["lag down"] = await _sink_lag(workers)
        await asyncio.to_thread(database.start)
        trial.figures["drained in"] = await _drained(trial)
        calm = time.monotonic()
        await asyncio.sleep(2 if trial.brief else 5)
        trial.figures["p99 calm"] = trial.pulse.percentile(0.99, calm, time.monotonic())
        frozen = time.monotonic()
        trial.struck()
        database.pause()
        await asyncio.sleep(4 if trial.brief else 15)
        trial.figures["p99 frozen"] = trial.pulse.percentile(0.99, frozen, time.monotonic())
        trial.figures["lag frozen"] = await _sink_lag(workers)
        database.resume()
        trial.struck()
        await asyncio.to_thread(database.kill)
        await asyncio.sleep(3)
        trial.figures["lag killed"] = await _sink_lag(workers)
        await asyncio.to_thread(database.start)
        trial.figures["drained again in"] = await _drained(trial)
    await trial.converge(minimum=2_000)
    # In brief it has four seconds, the start's backlog among them, on a machine that runs other tests too.
    allowed = max(CALM_S * (2 if trial.brief else 1), 3 * float(trial.figures["p99 calm"]))
    assert float(trial.figures["p99 down"]) < allowed, "orders waited for PostgreSQL, which was down"
    assert float(trial.figures["p99 frozen"]) < allowed, "orders waited for PostgreSQL, which was frozen"
    for how in ("down", "frozen", "killed"):
        assert trial.figures[f"lag {how}"], f"the lag did not show that PostgreSQL was {how}"
    await _refuses_a_row(trial)


async def _calm(trial: Trial, timeout_s: float = 20) -> None:
    """Until what piled up while the workers began is done, or for as long as it takes to see that it never is."""
    began = now = time.monotonic()
    while now - began < timeout_s:
        await asyncio.sleep(1)
        since, now = now, time.monotonic()
        if trial.pulse.percentile(0.99, since, now) < CALM_S:
            return


async def _sink_lag(workers: Sequence[Worker], patience_s: float = 8) -> int:
    """What the workers show, once they show something: a metric is as old as the last look at what is waiting."""
    until = time.monotonic() + patience_s
    while True:
        found = [await asyncio.to_thread(metric, worker, "streams_sink_lag_records") for worker in workers]
        if sum(found) > 0 or time.monotonic() > until:
            return int(sum(found))
        await asyncio.sleep(0.5)


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
    """Most orders are cancelled, so that their rows are written twice; the cleaner has half of that at least."""
    await trial.configure(CHANGELOGS, {"segment.ms": "500", "min.compaction.lag.ms": "3600000"})
    workers = await trial.up(2)
    async with trial.under_load(per_second=400):
        await asyncio.sleep(4)
        await asyncio.to_thread(_cancel_all, trial)
        await asyncio.sleep(4)
        for worker in workers:
            trial.gone(worker)
            assert await asyncio.to_thread(worker.stop) == 0
        trial.struck()
        before, keys = await _changelogs(trial)
        await trial.configure(CHANGELOGS, {"min.compaction.lag.ms": "0", "min.cleanable.dirty.ratio": "0.01"})
        overwritten, since = before - keys, time.monotonic()
        while before - (after := (await _changelogs(trial))[0]) < overwritten / 2:
            assert time.monotonic() - since < COMPACTED_S, f"of {before} records {after} are left, of {keys} keys"
            await asyncio.sleep(2)
        trial.figures |= {"records": before, "overwritten": overwritten, "compacted away": before - after}
        for worker in workers:
            shutil.rmtree(worker.state_dir)
        since = time.monotonic()
        await trial.configure(CHANGELOGS, {"segment.ms": "604800000", "min.cleanable.dirty.ratio": "0.3"})
        again = [await trial.begin(worker.port) for worker in workers]
        for worker in again:
            await asyncio.to_thread(worker.wait_ready)
            trial.urls.append(worker.url)
        await trial.recovered(since, within_s=30)
    await trial.converge(minimum=2_000, exact=False, gap_s=150)
    assert overwritten > 500, f"{overwritten} records were there to be compacted away"


def _cancel_all(trial: Trial) -> None:
    for uid in list(trial.load.placed):
        command = {"type": "cancel_order", "command_id": f"call-off-{uid}", "order_uid": uid, "reason": "compaction"}
        trial.load._produce(Planned("cancellation", COMMANDS, uid.encode(), compact(command)))
    trial.load._flush()


async def _changelogs(trial: Trial) -> tuple[int, int]:
    """Records in the changelogs, and keys among them."""
    records = keys = 0
    for table in CHANGELOGS:
        found = await asyncio.to_thread(read_topic, trial.stack.kafka, table)
        records, keys = records + len(found), keys + len({(record.partition, record.key) for record in found})
    return records, keys
