"""The main job on real Kafka, real PostgreSQL and real workers: orders in, state held, looked up, rows in PostgreSQL.

What comes out is judged by tests/oracle, which shares no code with the platform. Each test prints its figures (-rA).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import asyncpg
import orjson
import pytest

from tests.oracle.ask import Poller, judge_whole_list, judge_window
from tests.oracle.broker import Tail, judge_ends, partitions_of, read_log, read_topic, wait_until_read
from tests.oracle.history import Fold
from tests.oracle.inlet import PREFIX, origin_of
from tests.oracle.judge import judge, uncollected
from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, Log
from tests.oracle.postgres import judge_postgres, read_database
from tests.oracle.verdict import Kind, Verdict
from tests.oracle.window import judge_sights
from tests.orders_load import Load, Totals, compact, document
from tests.processes import ROOT, RunningStack, Worker, Workers

#: The peers' own client, when it is there: it shares nothing with this repository, not even the idea of an order.
GENERATOR = ROOT.parent / "shared" / "peers" / "generate.py"
#: Orders of each of two partitioners. The suite is kept short; `ORDERS=100000 make test ARGS=tests/test_main_job.py`.
HALF = int(os.environ.get("ORDERS", "20000")) // 2
#: One per cent.
POISON = HALF // 50
SAMPLED = 500
#: Only a hang takes as long, however busy the machine is; `make faults` judges how fast a recovery is.
LONGEST_OUTAGE_S = 300.0


class Job:
    """The platform at work, a load on it, and the judgement at the end."""

    def __init__(self, stack: RunningStack, workers: Workers, load: Load) -> None:
        self.stack, self.workers, self.load = stack, workers, load
        self.verdict = Verdict()
        self.rest_s = 0.0
        self._chance = random.Random(7)

    def start(self, count: int) -> list[Worker]:
        """Workers at once: they are ready together."""
        began = time.monotonic()
        started = [self.workers.start(wait=False) for _ in range(count)]
        for worker in started:
            worker.wait_ready()
        print(f"{count} workers ready in {time.monotonic() - began:.1f} s")
        return started

    def watched(self) -> str | None:
        """An order to look at: one of a few old ones, so that each is seen often, or one of the newest."""
        placed = self.load.placed
        return self._chance.choice(placed[:40] + placed[-4:]) if placed else None

    def settle(self, timeout_s: float = 600) -> Log:
        """Mark the end, wait until all of it is worked on, read everything."""
        self.load.mark(len(partitions_of(self.stack.kafka, INTAKE)))
        self.rest_s = wait_until_read(self.stack.kafka, timeout_s)
        print(f"the rest was committed in {self.rest_s:.1f} s")
        with uncollected():
            return read_log(self.stack.kafka, sent=self.load.sent_to(COMMANDS))

    async def judge(self, log: Log) -> Fold:
        """Log, changelogs, ends of topics, PostgreSQL. Raises nothing: `conclude` does."""
        began = time.monotonic()
        with uncollected():
            fold = judge(log, self.verdict)
            self._judge_clients(log)
            await self._sunk(len(fold.happened), len(log.of(LETTERS)))
            judge_postgres(fold, log.of(LETTERS), await read_database(self.stack.postgres), self.verdict)
        judge_ends(self.stack.kafka, self.verdict)
        print(f"judged in {time.monotonic() - began:.1f} s")
        return fold

    def conclude(self, **at_least: int) -> None:
        print(self.verdict.summary())
        self.verdict.require(**at_least)

    def judge_totals(self, fold: Fold, log: Log, totals: Totals) -> None:
        """What was planned, by closed forms: no list of what was sent is needed."""
        own = [order for order in fold.orders.values() if order.order_uid.startswith(f"load{self.load.seed}-")]
        events = [each.event["type"] for each in fold.happened]
        refusals, cancellations = events.count("order_refused"), sum("cancel" in event for event in events)
        found = Totals(
            orders=len(own),
            amount_minor=sum(orjson.loads(order.document)["payment"]["amount"] for order in own),
            repetitions=self.verdict.looked_at["repetitions"],
            order_refusals=refusals,
            cancellations=cancellations,
            poison=len(log.of(LETTERS)),
        )
        self.verdict.equal("totals", "of the load", totals._asdict(), found._asdict())

    def _judge_clients(self, log: Log) -> None:
        """What the broker took is in the log; poison of each kind was found at the very path where it was planted."""
        there = {record.position for topic in (INTAKE, COMMANDS) for record in log.of(topic)}
        for position in self.load.positions.keys() - there:
            self.verdict.add(Kind.LOST, "sent", position, "was acknowledged to the client")
        self.verdict.looked("sent", len(self.load.positions))
        for letter in log.of(LETTERS):
            origin = origin_of(letter)
            planned = self.load.positions.get(origin) if origin else None
            if planned is None:
                self.verdict.add(Kind.WRONG, "planted", origin, "nobody planted poison there")
                continue
            told = {fault["path"] for fault in json.loads(dict(letter.headers)[f"{PREFIX}faults"])}
            self.verdict.looked("planted")
            self.verdict.equal("planted", f"{planned.what} at {origin}", sorted(planned.paths), sorted(told))

    async def _sunk(self, events: int, letters: int, timeout_s: float = 60) -> None:
        """Wait for the sink. When it does not come, the comparison of rows will say what is missing."""
        began = time.monotonic()
        count = (
            "SELECT (SELECT count(*) FROM orderstream.order_events), (SELECT count(*) FROM orderstream.dead_letters)"
        )
        connection = await asyncpg.connect(self.stack.postgres)
        try:
            while time.monotonic() - began < timeout_s:
                rows = await connection.fetchrow(count)
                if rows[0] >= events and rows[1] >= letters:
                    break
                await asyncio.sleep(0.2)
        finally:
            await connection.close()
        print(f"PostgreSQL has {rows[0]} events, {time.monotonic() - began:.1f} s after the log was judged")


@pytest.fixture
def job(clean_stack: RunningStack, workers: Workers) -> Iterator[Job]:
    clean_stack.faust("topics", "create")
    with closing(Load(clean_stack.kafka, seed=7)) as load:
        yield Job(clean_stack, workers, load)


def generate(bootstrap: str, partitioner: str, seed: int) -> None:
    command = [sys.executable, str(GENERATOR), bootstrap, INTAKE, str(HALF)]
    options = ["--partitioner", partitioner, "--seed", str(seed)]
    print(subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout.strip())


async def test_tens_of_thousands_of_orders_of_another_client(job: Job) -> None:
    """In the tables, the indexes and PostgreSQL, all equal to the oracle's fold; two workers answer for each order."""
    if GENERATOR.exists():
        generate(job.stack.kafka, "murmur2_random", seed=1)
        generate(job.stack.kafka, "consistent_random", seed=2)
        job.load.poison(POISON)
    else:
        job.load.send(2 * HALF)
    began = time.monotonic()
    workers = job.start(2)
    started_s = time.monotonic() - began
    log = job.settle()
    inputs, took = len(log.of(INTAKE)), started_s + job.rest_s
    print(f"{inputs} records in {took:.1f} s from the start of two cold workers: {inputs / took:.0f} a second")
    fold = await job.judge(log)
    sample = random.Random(7).sample(sorted(fold.orders), SAMPLED)
    began = time.monotonic()
    customers = sorted({fold.orders[uid].customer_id for uid in sample})
    urls = [worker.url for worker in workers]
    await judge_window(urls, fold, job.verdict, orders=sample, customers=customers)
    await judge_whole_list(urls[0], fold, job.verdict)
    print(f"asked over HTTP in {time.monotonic() - began:.1f} s")
    assert len(log.of(LETTERS)) >= POISON
    job.conclude(inputs=2 * HALF + POISON, planted=POISON, **{"orders over HTTP": 2 * SAMPLED})


async def test_workers_join_leave_and_are_killed_under_load(job: Job) -> None:
    """Nothing lost, nothing doubled, no false 404, no version that goes back, and nobody waits for long."""
    workers = job.start(2)
    urls = [worker.url for worker in workers]
    poller = Poller(urls, job.watched)
    with Tail(job.stack.kafka, EVENTS) as tail:
        job.load.start(per_second=400)
        async with poller.running():
            await asyncio.sleep(2)
            await _third_comes_and_goes(job, urls)
            await asyncio.sleep(2)
            silence = tail.longest_silence()
            print(f"longest silence of a partition {silence:.1f} s")
            assert silence < LONGEST_OUTAGE_S
            for victim, wiped in zip(workers, (False, True), strict=True):
                await _killed_and_back(job, urls, victim, wiped, tail)
        totals = await asyncio.to_thread(job.load.stop)
        log = await asyncio.to_thread(job.settle)
    fold = await job.judge(log)
    job.judge_totals(fold, log, totals)
    # One outage may begin where another ends.
    gap = judge_sights(poller.sights, job.verdict, longest_gap_s=2 * LONGEST_OUTAGE_S)
    refused = sum(sight.status == 503 for sight in poller.sights)
    print(f"{refused} of {len(poller.sights)} looks were answered 503; longest without an answer {gap:.1f} s")
    job.conclude(inputs=4_000, **{"looks at orders": 500})


async def _third_comes_and_goes(job: Job, urls: list[str]) -> None:
    third = await asyncio.to_thread(job.workers.start)
    urls.append(third.url)
    await asyncio.sleep(4)
    began = time.monotonic()
    assert await asyncio.to_thread(third.stop) == 0
    print(f"the third left in {time.monotonic() - began:.1f} s")
    said = third.log()
    assert said.rindex("the requests under way are answered") < said.rindex("LeaveGroup"), (
        "requests under way were left behind"
    )
    urls.remove(third.url)


async def _killed_and_back(job: Job, urls: list[str], victim: Worker, wiped: bool, tail: Tail) -> None:
    """Started again with the store that it left behind, or with none."""
    tail.forget()
    urls.remove(victim.url)
    victim.kill()
    if wiped:
        shutil.rmtree(victim.state_dir)
    again = await asyncio.to_thread(partial(job.workers.start, port=victim.port))
    urls.append(again.url)
    await asyncio.sleep(2)
    silence = tail.longest_silence()
    print(f"kill -9, {'empty' if wiped else 'same'} store: longest silence of a partition {silence:.1f} s")
    assert silence < LONGEST_OUTAGE_S


async def test_kafkas_own_console_tools(job: Job) -> None:
    """An order that Kafka's console producer placed; its event, read committed, by Kafka's console consumer."""
    order = document(1, seed=99)
    where = ("--bootstrap-server", job.stack.kafka, "--topic")
    tool = partial(subprocess.run, capture_output=True, timeout=60, cwd=job.stack.broker.directory)
    # By itself it tries three times in a third of a second, while a new topic finds its leader, and ends with 0.
    patient = ("--request-timeout-ms", "20000", "--message-send-max-retries", "20")
    producer = job.stack.broker.tool("org.apache.kafka.tools.ConsoleProducer", *where, INTAKE, *patient)
    placed = tool(producer, input=compact(order) + b"\n")
    assert len(read_topic(job.stack.kafka, INTAKE)) == 1, placed.stderr
    job.start(1)
    wait_until_read(job.stack.kafka, 60)
    options = ("--isolation-level", "read_committed", "--from-beginning", "--max-messages", "1")
    consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    read = tool(job.stack.broker.tool(consumer, *where, EVENTS, *options, "--timeout-ms", "30000"))
    assert read.returncode == 0 and read.stdout, read.stderr
    event = orjson.loads(read.stdout)
    assert event["type"] == "order_placed"
    assert event["document"] == order
    (same,) = read_topic(job.stack.kafka, EVENTS)
    assert orjson.loads(same.value or b"") == event
