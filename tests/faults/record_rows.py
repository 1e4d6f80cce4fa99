"""Rows 13, 14, 15, 17, 18, 20: what comes in, and when."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import Any

from confluent_kafka import Producer

from tests.faults.recording import DIRECTORY, as_then, read
from tests.faults.row import row
from tests.faults.trial import BUGGY, Restarts, Trial, memory_mb, metric
from tests.oracle.broker import TABLES, read_topic, wait_until_read
from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, Record
from tests.oracle.verdict import Kind
from tests.orders_load import Planned, compact, document, poison

#: Beside those of the oracle of checkout: what is kept of each step.
BOUGHT_TABLES = (
    *("purchases", "purchases_for_approval", "payments", "payment_refunds", "payment_attempts", "payment_commands"),
    *("accounts", "account_holds", "account_refunds", "account_entries", "account_commands", "ledger_totals"),
    *("items", "items_by_outlet", "stock_reservations", "inventory_commands", "number_series", "order_numbers"),
)


@row(13, "clock jumps", checkout=True)
async def clocks_jump(trial: Trial) -> None:
    """Every worker's wall clock jumps by hours, every two seconds, each at its own time."""
    workers = await trial.up(2, BUGGY, FAULT_CLOCK="1")
    restarts = Restarts(workers)
    async with trial.under_load():
        for _ in range(4):
            trial.struck()
            await asyncio.sleep(2)
            await asyncio.to_thread(_post_twice, trial, workers[0].url)
    await trial.converge(minimum=1_000, exact=False)
    restarts.require_none()


def _post_twice(trial: Trial, url: str) -> None:
    """The same request with the same idempotency key: the same answer, whatever the clock says meanwhile."""
    uid, key = f"posted-{trial.strikes}", f"key-{trial.seed}-{trial.strikes}"
    body = compact({**document(1, 0), "order_uid": uid})
    answers = [trial.load.post(url, body, Idempotency_Key=key) for _ in range(2)]
    assert answers[0] == answers[1], f"one key, two answers: {answers}"
    assert answers[0][0] == 201, answers[0]


@row(14, "poison of every kind")
async def poisoned(trial: Trial) -> None:
    workers = await trial.up(2)
    restarts, pids = Restarts(workers), [worker.pid for worker in workers]
    batches, each = 4, 150
    async with trial.under_load():
        for turn in range(batches):
            trial.struck()
            await asyncio.to_thread(_poison, trial, turn, each)
            await asyncio.sleep(0.5)
    assert trial.totals is not None
    trial.totals = trial.totals._replace(poison=trial.totals.poison + batches * each)
    await trial.converge(minimum=1_000)
    trial.verdict.require(planted=batches * each)
    trial.figures["dead letters"] = trial.verdict.looked_at["planted"]
    restarts.require_none()
    assert pids == [worker.pid for worker in workers if worker.child.running()]


def _poison(trial: Trial, turn: int, count: int) -> None:
    for record in poison(count, trial.seed * 100 + turn):
        trial.load._produce(record)
    trial.load._flush()


@row(15, "duplicates, out of order, late")
async def repeated(trial: Trial) -> None:
    """Beside the generator's own repetitions: all that was sent comes again, late and in another order."""
    await trial.up(2)
    async with trial.under_load():
        for _ in range(2):
            await asyncio.sleep(1.5)
            trial.struck()
            earlier = [record for record in list(trial.load.positions.values()) if not record.paths]
            trial.chance.shuffle(earlier)
            await asyncio.to_thread(_again, trial, earlier[:600])
    await trial.converge(minimum=1_500, exact=False)
    trial.figures["repetitions"] = trial.verdict.looked_at["repetitions"]
    trial.verdict.require(repetitions=300)


def _again(trial: Trial, records: list[Any]) -> None:
    for record in records:
        trial.load._produce(record)
    trial.load._flush()


@row(17, "a slow handler")
async def slow(trial: Trial) -> None:
    """Each record takes 20 ms, so that one partition does at most 50 a second, and 250 come in."""
    workers = await trial.up(2, BUGGY, FAULT_SLOW_MS="20")
    before = [metric(worker, "streams_rebalances_total") for worker in workers]
    memory = max(map(memory_mb, workers))
    async with trial.under_load(per_second=250):
        trial.struck()
        lag = 0.0
        for _ in range(12):
            await asyncio.sleep(1)
            lag = max(lag, sum(metric(worker, "streams_lag_records") for worker in workers))
        grown = max(map(memory_mb, workers)) - memory
    after = [metric(worker, "streams_rebalances_total") for worker in workers]
    trial.figures |= {"lag shown": int(lag), "MB grown": grown}
    await trial.converge(minimum=1_000, gap_s=60)
    assert after == before, f"slowness was taken for death: {before} rebalances, then {after}"
    assert lag > 100, f"the lag metric showed {lag:.0f} at most"
    assert grown < 100, f"a worker grew by {grown:.0f} MB"


@row(18, "records of 0.9, 1.1 and 10 MB")
async def large(trial: Trial) -> None:
    worker = (await trial.up(2))[0]
    filler = random.Random(trial.seed).randbytes(5 << 20).hex()
    async with trial.under_load():
        for megabytes in (0.9, 1.1, 10):
            trial.struck()
            raw = {
                **document(1, trial.seed),
                "order_uid": f"large-{megabytes}",
                "filler": filler[: int(megabytes * 2**20)],
            }
            status, _ = await asyncio.to_thread(trial.load.post, worker.url, compact(raw))
            trial.figures[f"HTTP {megabytes} MB"] = status
            await asyncio.sleep(1.0)  # a quick machine is through before a minimum of work is done
        plant = partial(trial.load.plant, "order", "large-by-topic", 4, filler=filler[: int(0.9 * 2**20)])
        await asyncio.to_thread(plant)
        refused = await asyncio.to_thread(_refused_by_broker, trial, filler[: int(1.1 * 2**20)])
    await trial.converge(minimum=500, exact=False)
    assert refused, "the broker took a record above the topic's maximum"
    answers = [trial.figures[f"HTTP {megabytes} MB"] for megabytes in (0.9, 1.1, 10)]
    assert answers == [201, 413, 413], f"the answers were {answers}"


def _refused_by_broker(trial: Trial, filler: str) -> bool:
    failures: list[Any] = []
    producer = Producer({"bootstrap.servers": trial.stack.kafka, "message.max.bytes": 4 << 20})
    producer.produce("orders", compact({"filler": filler}), on_delivery=lambda error, _: failures.append(error))
    producer.flush(10)
    return failures[0] is not None


@row(19, "records of newer and of unknown writers")
async def newer_writers(trial: Trial) -> None:
    """Members that this code does not know are ignored or kept; a type that it does not know is a dead letter.

    First what an older version wrote, on topics that are as empty as they were then: the same comes of it.
    """
    await trial.up(2)
    await asyncio.to_thread(_recorded_again, trial)
    newer = unknown = 0
    async with trial.under_load():
        for turn in range(20):
            trial.struck()
            uid = f"newer-{turn}"
            tree = document(turn, trial.seed) | {"order_uid": uid, "schema": 2, "gift": {"wrapped": True}}
            place: dict[str, Any] = {
                "type": "place_order",
                "command_id": f"place-{uid}",
                "order_uid": uid,
                "document": tree,
            }
            cancel: dict[str, Any] = {
                "type": "cancel_order",
                "command_id": f"cancel-{uid}",
                "order_uid": uid,
                "reason": "newer",
            }
            refund: dict[str, Any] = {"type": "refund_order", "command_id": f"refund-{uid}", "order_uid": uid}
            commands = [(place, frozenset[str]()), (cancel, frozenset[str]()), (refund, frozenset({"$.type"}))]
            for command, paths in commands:
                value = compact(command | {"requested_by": "a newer writer", "major": 2})
                trial.load._produce(Planned("newer", COMMANDS, uid.encode(), value, paths=paths))
            newer, unknown = newer + 2, unknown + 1
            await asyncio.sleep(0.2)
        await asyncio.to_thread(trial.load._flush)
    await trial.converge(minimum=1_000, exact=False)
    trial.figures |= {"newer": newer, "unknown": unknown}


def _recorded_again(trial: Trial) -> None:
    """Ids and causes are positions: each record goes where it was."""
    kafka, paths = trial.stack.kafka, sorted(DIRECTORY.glob("*.jsonl"))
    given, then = read(paths[0])
    for topic in (INTAKE, COMMANDS):
        for line in given:
            if line.topic == topic:
                trial.load.produce_at(line.planned, line.partition, line.timestamp)
        trial.load._flush()
        wait_until_read(kafka, 60)
    now = {topic: [_written(record) for record in read_topic(kafka, topic)] for topic in (EVENTS, LETTERS)}
    for topic, records in now.items():
        before = [(line.partition, *line.raw, as_then(line.planned.headers)) for line in then if line.topic == topic]
        pairs = zip(sorted(before, key=repr), sorted(records, key=repr), strict=False)
        other = next((pair for pair in pairs if pair[0] != pair[1]), None)
        assert other is None and len(records) == len(before), f"{topic}: {paths[0].stem} has other records: {other}"
    rows = {(line.topic, line.raw[0]): line.raw[1] for line in then if line.topic.endswith("-changelog")}
    found = {(f"orderstream-{table}-changelog", key): value for (table, key), value in _tables(kafka).items()}
    assert found == rows, f"{len(found)} rows, of {len(rows)} that {paths[0].stem} has"
    trial.figures["recorded"] = f"{len(given)} inputs, {sum(map(len, now.values()))} records, {len(rows)} rows"


def _written(record: Record) -> tuple[Any, ...]:
    return record.partition, record.key, record.value, as_then(record.headers)


@row(20, "replay by topic reset", checkout=True)
async def replayed(trial: Trial) -> None:
    """Stop, `reset`, start: the same tables from the input topics, though cancellations and strays race in them.

    In full nothing is sent again, and the payment provider is asked for nothing; in brief the events are, and in the
    same bytes.
    """
    workers = await trial.up(2)
    async with trial.under_load():
        await asyncio.sleep(2 if trial.brief else 3)
        trial.struck()
    fold = await trial.converge(minimum=500, exact=True)
    rows = await asyncio.to_thread(_tables, trial.stack.kafka)
    events = await asyncio.to_thread(read_topic, trial.stack.kafka, EVENTS)
    for worker in workers:
        trial.gone(worker)
        assert await asyncio.to_thread(worker.stop) == 0
    asked = trial.shop.asked() if trial.shop else {}
    since = time.monotonic()
    again = ["--emit", EVENTS] if trial.brief else []
    await asyncio.to_thread(trial.stack.faust, "reset", "--yes", *again)
    await trial.up(2)
    await asyncio.to_thread(wait_until_read, trial.stack.kafka, 120)
    if trial.shop is not None:
        await asyncio.to_thread(trial.shop.wait_until_read, 120)
    trial.recoveries.append(time.monotonic() - since)
    twice = await asyncio.to_thread(read_topic, trial.stack.kafka, EVENTS)
    trial.verdict.same_rows("rows of the replay", rows, await asyncio.to_thread(_tables, trial.stack.kafka))
    trial.figures |= {"events": len(events), "events again": len(twice) - len(events)}
    other = _contents(twice) - _contents(events)
    if len(twice) != (2 if trial.brief else 1) * len(events):
        trial.verdict.add(Kind.DOUBLED, "events of the replay", EVENTS, f"{len(events)} became {len(twice)}")
    for key, value in other:
        trial.verdict.add(Kind.WRONG, "events of the replay", key, f"is not what the run said: {value!r}")
    await trial.judge_live(fold)
    if trial.shop is not None:
        await trial.shop.judge(trial.verdict, trial.urls)
        trial.verdict.equal("requests after the replay", "the provider", asked, trial.shop.asked())
    trial.verdict.require()


def _contents(events: list[Record]) -> set[tuple[bytes | None, bytes | None]]:
    return {(event.key, event.value) for event in events}


def _tables(bootstrap: str) -> dict[tuple[str, bytes], bytes | None]:
    """The rows that the changelogs lead to."""
    found: dict[tuple[str, bytes], bytes | None] = {}
    for table in (*TABLES, *BOUGHT_TABLES):
        for record in read_topic(bootstrap, f"orderstream-{table}-changelog"):
            if record.key is not None and not record.key.startswith(b"\0"):
                found[table, record.key] = record.value
    return {key: value for key, value in found.items() if value is not None}
