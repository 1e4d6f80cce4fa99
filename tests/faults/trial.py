"""a seed -> the platform under load, struck and healed -> what is amiss, by tests/oracle, and how long it took."""

from __future__ import annotations

import asyncio
import random
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import psutil
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka import admin as kafka_admin

from local.threads import run_async
from streams import admin
from tests.agents.domain import make_app
from tests.faults.row import Outcome, Row
from tests.faults.shop import Shop, documents_only
from tests.oracle.ask import PAUSE_S, Poller, judge_whole_list, judge_window
from tests.oracle.broker import Tail, _consumer, judge_ends
from tests.oracle.history import Fold
from tests.oracle.inlet import PREFIX, origin_of
from tests.oracle.judge import judge, uncollected
from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, Log, Position, Record, home_of
from tests.oracle.postgres import judge_postgres, read_database
from tests.oracle.verdict import Kind
from tests.oracle.window import judge_sights
from tests.orders_load import Load, Planned, Totals, compact, document
from tests.processes import RunningStack, Worker, Workers
from tests.test_main_job import Job

#: A session of 6 s, the rebalance and a recovery, on two cores that run everything else too.
RECOVERED_S = 20.0
CONVERGED_S = 120.0
#: What was committed before a strike may reach the reader this long after it.
ON_ITS_WAY_S = 0.3
#: I8: a strike while nothing is going on proves nothing.
NUMBERS_AFTER_A_STRIKE = 100
SAMPLED = 60
#: Four pollers without a pause take a core, and two cores also have to start what was killed: 150 looks a second.
EAGER_S = 0.02
#: What Kafka 4.2 logs when it has loaded a group twice at once, as it may after a kill -9: it leads a partition,
#: loses it and leads it again while the first load still runs. It then refuses the group until its next start.
LOADED_TWICE = b"is out of sync with the underlying log"
RESTARTED = "Kafka restarted for its own fault"
#: A brief trial waits less for the dead. A full one has the default settings.
BRIEF = {"ORDERSTREAM_SESSION_TIMEOUT_MS": "3000"}
BUGGY = "tests.faults.app"
PLANTED = "planted-bug-"


class PatientLoad(Load):
    """A load that waits for a broker that is away: what was begun is acknowledged in the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.posted: set[Position] = set()

    def sent_to(self, topic: str) -> frozenset[Position]:
        """Where clients wrote, those of HTTP among them."""
        return super().sent_to(topic) | {position for position in self.posted if position.topic == topic}

    def post(self, url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """POST an order; status and body of the answer. Where the command stands is noted."""
        told = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{url}/api/v1/orders", body, told, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                topic, partition, offset = response.headers["Orderstream-Position"].rsplit("-", 2)
                self.posted.add(Position(topic, int(partition), int(offset)))
                return int(response.status), response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _flush(self) -> None:
        for producer in self._producers:
            left = producer.flush(250)
            assert not left, f"{left} records were not taken by the broker within 250 s"
        assert not self.failures, self.failures[:3]

    def produce_at(self, record: Planned, partition: int, timestamp: int) -> None:
        """Into a partition of our choice, with a time of its own."""
        producer = self._producers[0]

        def told(error: Any, message: Any) -> None:
            if error is not None:
                self.failures.append(f"{record.what}: {error}")
            self.positions[Position(message.topic(), message.partition(), message.offset())] = record

        producer.produce(
            record.topic,
            record.value,
            record.key,
            partition,
            on_delivery=told,
            timestamp=timestamp,
            headers=list(record.headers),
        )
        producer.poll(0)

    def plant(self, name: str, uid: str, partitions: int, paths: frozenset[str] = frozenset(), **more: Any) -> Position:
        """An order of its own in its home partition; where it stands."""
        record = Planned(name, INTAKE, uid.encode(), compact({**document(1, self.seed), "order_uid": uid, **more}))
        before = set(self.positions)
        self._produce(record._replace(paths=paths), home_of(uid, partitions))
        self._flush()
        (position,) = (at for at in self.positions.keys() - before if self.positions[at].key == uid.encode())
        return position


class Pulse(Tail):
    """When each partition had something to say, and how old it was then."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(bootstrap, topic)
        self.latencies: list[tuple[float, float]] = []  # (when it was read, seconds since its cause was written)

    def resumed(self, since: float) -> float | None:
        """Seconds from `since` to the first commit of the partition that came back last; None while one is silent."""
        firsts = [next((at for at in heard if at > since + ON_ITS_WAY_S), None) for heard in self._heard.values()]
        return None if None in firsts else max(at for at in firsts if at is not None) - since

    def percentile(self, share: float, since: float, until: float) -> float:
        found = sorted(age for at, age in self.latencies if since <= at <= until)
        assert found, "nothing was committed in that time"
        return found[min(len(found) - 1, int(len(found) * share))]

    def _listen(self) -> None:
        with closing(_consumer(self._bootstrap, "oracle-pulse")) as consumer:
            consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._heard])
            while self._listening.is_set():
                for message in consumer.consume(1_000, timeout=0.05):
                    if message.error() is None:
                        now, (_, written_ms) = time.monotonic(), message.timestamp()
                        self._heard[message.partition() or 0].append(now)
                        self.latencies.append((now, time.time() - written_ms / 1000))


class Trial(Job):
    """One row, once: two phases, faults and convergence, and the judgement."""

    load: PatientLoad

    def __init__(self, stack: RunningStack, workers: Workers, seed: int, brief: bool = False) -> None:
        super().__init__(stack, workers, PatientLoad(stack.kafka, seed))
        self.seed, self.brief, self.chance = seed, brief, random.Random(seed)
        self.urls: list[str] = []
        self.figures: dict[str, float | int | str] = {}
        self.recoveries: list[float] = []
        self.strikes = self.kills = self.fenced = 0
        self.totals: Totals | None = None
        self.bugs: set[Position] = set()
        #: Hostile records, which their row judges by itself: the oracle does not read them.
        self.abuse: frozenset[Position] = frozenset()
        #: Records on topics of events that no sink can read.
        self.set_aside = 0
        self._struck_at = 0
        self._broker_said = stack.broker.log.stat().st_size
        self._poller = Poller(self.urls, self.watched, PAUSE_S if brief else EAGER_S)
        self.pulse = Pulse(stack.kafka, EVENTS)
        self.shop: Shop | None = None

    def with_checkout(self) -> Shop:
        """From now on there are shoppers, a payment provider, and workers that know of it."""
        self.shop = Shop(self.stack, self.seed, self.urls)
        return self.shop

    def watched(self) -> str | None:
        """One of two looks is at an order that is bought here, where there are any."""
        if self.shop is not None and self.shop.load.placed and self._chance.random() < 0.5:
            return self._chance.choice(self.shop.load.placed[-40:])
        return super().watched()

    # -- faults -------------------------------------------------------------------------------------------------------

    async def up(self, count: int, app: str = "app", **env: str) -> list[Worker]:
        """Ready workers that answer; the load goes on meanwhile."""
        workers = [await self.begin(None, app, **env) for _ in range(count)]
        for worker in workers:
            await asyncio.to_thread(worker.wait_ready)
            self.urls.append(worker.url)
        return workers

    async def begin(self, port: int | None = None, app: str = "app", **env: str) -> Worker:
        """A worker that is starting; nobody asks it yet."""
        settings = (BRIEF if self.brief else {}) | env
        if self.shop is not None:
            settings = self.shop.env | settings
            port = port or (None if self.workers.started else self.shop.callback_port)
        return await asyncio.to_thread(partial(self.workers.start, port=port, env=settings, app=app, wait=False))

    def gone(self, worker: Worker) -> None:
        """Nobody asks it any more."""
        if worker.url in self.urls:
            self.urls.remove(worker.url)

    @asynccontextmanager
    async def under_load(self, per_second: int = 250) -> AsyncIterator[None]:
        """The generator, the reader of events and the poller at work. At the end all that was begun is acknowledged."""
        with self.pulse:
            self.load.start(per_second)
            if self.shop is not None:
                await self.shop.open()
            try:
                async with self._poller.running():
                    await self.spoken()
                    yield
                    await self.numbers_go_on()
                    self.totals = await asyncio.to_thread(self.load.stop)
                    if self.shop is not None:
                        await self.shop.load.stop()
            finally:
                if self.totals is None:
                    await asyncio.to_thread(self.load.stop)

    async def spoken(self) -> None:
        """Until every partition has committed something: the work is under way."""
        since = time.monotonic()
        while self.pulse.resumed(since) is None:
            assert time.monotonic() - since < 60, "no work was done before the fault"
            await asyncio.sleep(0.05)

    async def numbers_go_on(self) -> None:
        """I8: the work must not be over when the fault comes; the generator goes on for a while after the last one."""
        deadline = time.monotonic() + 60
        while self.load.numbers < self._struck_at + NUMBERS_AFTER_A_STRIKE:
            assert time.monotonic() < deadline, "the work was over before the fault"
            await asyncio.sleep(0.05)

    def struck(self) -> float:
        """A fault happened now."""
        self.strikes += 1
        self._struck_at = self.load.numbers
        return time.monotonic()

    async def recovered(self, since: float, within_s: float = RECOVERED_S) -> float:
        """Until every partition has committed again; gives the seconds since the strike."""
        while (seconds := self.pulse.resumed(since)) is None:
            if await asyncio.to_thread(self._broker_lost_its_way):
                since = time.monotonic()
            waited = time.monotonic() - since
            assert waited < (300 if self.brief else within_s + 30), (
                f"a partition has committed nothing for {waited:.0f} s after the strike"
            )
            await asyncio.sleep(0.05)
        self.recoveries.append(seconds)
        if seconds > within_s and not self.brief:  # in `make test` no limit is one that a slow machine reaches
            self.verdict.add(Kind.WRONG, "recovery", f"strike {self.strikes}", f"{seconds:.1f} s of {within_s:.0f}")
        return seconds

    def _broker_lost_its_way(self) -> bool:
        """Start Kafka once more, as an operator must, when it refuses our group for a fault of its own; and say so."""
        broker = self.stack.broker
        with broker.log.open("rb") as log:
            log.seek(self._broker_said)
            news = log.read()
        self._broker_said += len(news)
        if LOADED_TWICE not in news:
            return False
        broker.stop()
        broker.start()
        self.figures[RESTARTED] = 1 + int(self.figures.get(RESTARTED, 0))
        return True

    def kill(self, worker: Worker) -> None:
        """kill -9; nobody asks it any more."""
        self.gone(worker)
        worker.kill()
        self.kills += 1

    async def configure(self, topics: Sequence[str], values: Mapping[str, str]) -> None:
        """Set topics' configurations, with another client than the platform's."""
        client: Any = kafka_admin
        change = client.AlterConfigOpType.SET
        entries = [client.ConfigEntry(name, value, incremental_operation=change) for name, value in values.items()]
        wanted = [
            client.ConfigResource(client.ResourceType.TOPIC, name, incremental_configs=entries) for name in topics
        ]
        connected = client.AdminClient({"bootstrap.servers": self.stack.kafka})  # kept until the last answer is there
        for future in connected.incremental_alter_configs(wanted).values():
            await asyncio.to_thread(future.result, 10)

    async def ended(self, worker: Worker, timeout_s: float = 40.0) -> int:
        """Its exit code, once it has ended by itself."""
        deadline = time.monotonic() + timeout_s
        while worker.child.running():
            assert time.monotonic() < deadline, f"worker {worker.port} still runs after {timeout_s:.0f} s"
            await asyncio.sleep(0.02)
        self.gone(worker)
        code = worker.child.exit_code
        assert code is not None
        return code

    async def ready_or_ended(self, worker: Worker, timeout_s: float = 60.0) -> bool:
        """True when it is ready, False when it has ended."""
        deadline = time.monotonic() + timeout_s
        while worker.child.running() and (await asyncio.to_thread(worker.get, "/health/ready", 2.0))[0] != 200:
            assert time.monotonic() < deadline, f"worker {worker.port} is neither ready nor at its end"
            await asyncio.sleep(0.1)
        return worker.child.running()

    async def frozen(self, worker: Worker, timeout_s: float = 40.0) -> None:
        """Until it has stopped itself at its point."""
        deadline = time.monotonic() + timeout_s
        while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, f"worker {worker.port} did not freeze"
            await asyncio.sleep(0.02)
        self.gone(worker)

    # -- judgement ----------------------------------------------------------------------------------------------------

    async def converge(self, minimum: int, *, exact: bool = True, gap_s: float = RECOVERED_S) -> Fold:
        """Wait for the end of the work and judge all of it. `exact`: the totals are those of the load alone."""
        log = await asyncio.to_thread(self.settle, 600 if self.brief else CONVERGED_S)
        fold = await self.judge(log)
        if exact:
            assert self.totals is not None
            self.judge_totals(
                fold, self._documents(log), self.totals._replace(poison=self.totals.poison + len(self.bugs))
            )
        judge_sights(self._poller.sights, self.verdict, longest_gap_s=300 if self.brief else gap_s)
        self.figures["looks"] = len(self._poller.sights)
        await self.judge_live(fold)
        if self.shop is not None:
            self.figures |= await self.shop.judge(self.verdict, self.urls)
        assert self.strikes, "nothing was struck"
        self.verdict.require(inputs=minimum)
        return fold

    async def judge(self, log: Log) -> Fold:
        """As the main job is judged; letters of planted bugs apart, of which the oracle knows nothing."""
        with uncollected():
            documents = self._documents(log)
            fold = judge(self._without_bugs(documents), self.verdict)
            self._judge_clients(documents)
            await self._sunk(len(fold.happened), len(log.of(LETTERS)))
            database = await read_database(self.stack.postgres)
            # Those that were planted are counted by their row, which waits for them.
            database = database._replace(refused=max(0, database.refused - self.set_aside))
            judge_postgres(fold, log.of(LETTERS), database, self.verdict)
        judge_ends(self.stack.kafka, self.verdict)
        return fold

    async def _sunk(self, events: int, letters: int, timeout_s: float = 60) -> None:
        """A sink that has not been there yet makes its tables first."""
        connection = await asyncpg.connect(self.stack.postgres)
        try:
            deadline = time.monotonic() + timeout_s
            while await connection.fetchval("SELECT to_regclass('orderstream.order_events')") is None:
                assert time.monotonic() < deadline, f"the sink made no tables in {timeout_s:.0f} s"
                await asyncio.sleep(0.2)
        finally:
            await connection.close()
        await super()._sunk(events, letters, timeout_s)

    async def judge_live(self, fold: Fold) -> None:
        """I6: what the workers hold now, in their own stores, is the fold."""
        urls = list(self.urls)
        if not urls:
            return
        sample = self.chance.sample(sorted(fold.orders), min(SAMPLED, len(fold.orders)))
        customers = sorted({fold.orders[uid].customer_id for uid in sample[:5]})
        await judge_window(urls, fold, self.verdict, orders=sample, customers=customers)
        await judge_whole_list(urls[0], fold, self.verdict)

    def _documents(self, log: Log) -> Log:
        log = self._without_abuse(log)
        return log if self.shop is None else documents_only(log, self.shop.load.placed)

    def _without_abuse(self, log: Log) -> Log:
        """The log without hostile records and their dead letters."""
        if not self.abuse:
            return log
        inputs = {
            topic: [record for record in log.of(topic) if record.position not in self.abuse]
            for topic in (INTAKE, COMMANDS)
        }
        letters = [letter for letter in log.of(LETTERS) if origin_of(letter) not in self.abuse]
        return replace(log, topics={**log.topics, **inputs, LETTERS: letters})

    def _without_bugs(self, log: Log) -> Log:
        """Each planted bug has one dead letter `failed` with its bytes; the rest of the log is judged without them."""
        if not self.bugs:
            return log
        inputs = {record.position: record for record in log.of(INTAKE) if record.position in self.bugs}
        letters: dict[Position, list[Record]] = {position: [] for position in self.bugs}
        others: list[Record] = []
        for letter in log.of(LETTERS):
            origin = origin_of(letter)
            (others if origin is None else letters.get(origin, others)).append(letter)
        for position, found in letters.items():
            self.verdict.looked("planted bugs")
            if len(found) != 1:
                kind = Kind.DOUBLED if found else Kind.LOST
                self.verdict.add(kind, "planted bugs", position, f"{len(found)} dead letters")
            for letter in found:
                source = inputs[position]
                self.verdict.equal("planted bugs", position, (source.key, source.value), (letter.key, letter.value))
                self.verdict.equal("planted bugs", position, b"failed", dict(letter.headers)[f"{PREFIX}kind"])
        intake = [record for record in log.of(INTAKE) if record.position not in self.bugs]
        return replace(log, topics={**log.topics, INTAKE: intake, LETTERS: others})

    def outcome(self, row: Row, took_s: float, why: str | None) -> Outcome:
        counts = self.verdict.counts
        amiss = counts[Kind.REORDERED] + counts[Kind.WRONG] + counts[Kind.HANGING]
        work = self.verdict.looked_at["inputs"]
        slowest = max(self.recoveries, default=None)
        figures = {name: round(value, 2) if isinstance(value, float) else value for name, value in self.figures.items()}
        return Outcome(
            row.number, row.name, self.seed, work, self.strikes, counts[Kind.LOST], counts[Kind.DOUBLED], amiss,
            slowest, took_s, figures, why, self.kills, self.fenced,
        )  # fmt: skip


def metric(worker: Worker, name: str) -> float:
    """The sum over all labels of one family of a worker's metrics."""
    _, text = worker.get("/metrics")
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", str(text), re.MULTILINE)
    return sum(map(float, found))


class Restarts:
    """Tasks that failed and were started again, from now on."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers, self._before = workers, _failures(workers)

    def require_none(self) -> None:
        found = _failures(self._workers) - self._before
        told = "\n".join(troubles(worker) for worker in self._workers)
        assert not found, f"tasks were started again: {dict(found)}\n{told}"


def _failures(workers: Sequence[Worker]) -> Counter[str]:
    found: Counter[str] = Counter()
    for worker in workers:
        text = str(worker.get("/metrics")[1])
        for reason, count in re.findall(r'^streams_task_failures_total{reason="(\w+)"} (\S+)$', text, re.MULTILINE):
            found[reason] += int(float(count))
    return found


def memory_mb(worker: Worker) -> float:
    return float(psutil.Process(worker.pid).memory_info().rss) / 2**20


def troubles(worker: Worker, most: int = 12) -> str:
    """What a worker's log says above the level of information, or its end where it says nothing of the kind."""
    lines = [line for line in worker.log().splitlines() if '"web.access"' not in line and line[:1] not in "|+"]
    told = [line for line in lines if '"level":"info"' not in line] or lines
    return "\n".join([f"--- {worker.child.name}", *(line[:600] for line in told[-most:])])


async def run(row: Row, stack: RunningStack, seed: int, brief: bool) -> Outcome:
    """From nothing, whatever the row before left behind. Whatever goes wrong, it is said and the next row can run."""
    workers, began, why = Workers(stack), time.monotonic(), None
    trial = Trial(stack, workers, seed, brief)
    try:
        with closing(trial.load):
            await asyncio.to_thread(_begin_anew, stack)
            if row.checkout and not brief:
                await asyncio.to_thread(trial.with_checkout)
            await row.run(trial)
    except (Exception, BaseExceptionGroup) as error:
        why = f"{type(error).__name__}: {error}"
        print(*map(troubles, workers.started), sep="\n")
    finally:
        await asyncio.to_thread(workers.stop_all)
        if trial.shop is not None:
            await trial.shop.close()
    return trial.outcome(row, time.monotonic() - began, why)


def _begin_anew(stack: RunningStack) -> None:
    for service in (*stack.brokers, stack.database):
        service.resume()
        if not service.running():
            service.start()
    stack.wipe()
    copies = len(stack.brokers)
    durable = {"min.insync.replicas": "2"} if copies > 1 else {}
    topics = [replace(topic, replication_factor=copies, config={**topic.config, **durable}) for topic in _topics()]
    run_async(lambda: admin.create(stack.kafka, topics))


@cache
def _topics() -> list[admin.TopicConfig]:
    """The product's. What is not as it must be is found by the workers themselves, when they start."""
    with TemporaryDirectory() as directory:
        app, _ = make_app(Path(directory), partitions=4)
    return app.required_topics()
