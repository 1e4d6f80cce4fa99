"""Row 50, `make abuse`: hostile records and hostile requests at once, at a bounded rate, beside 500 orders a second."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import asyncpg
import psutil
from confluent_kafka import Producer

from bench.hostile import MARGIN_BYTES, fillers
from schemas.topics import ACCOUNT_EVENTS, PURCHASE_EVENTS, TOPICS
from streams.record_batches import MAX_HEADERS
from tests.faults.row import row
from tests.faults.trial import Restarts, Trial, memory_mb, metric
from tests.oracle.broker import read_topic
from tests.oracle.inlet import origin_of
from tests.oracle.log import LETTERS, Position
from tests.oracle.verdict import Kind
from tests.processes import Worker

PER_SECOND, SECONDS, BRIEF_SECONDS = 500, 300.0, 20.0
#: What docs/operating.md states for a worker under such a load.
MOST_MEMORY_MB = 700
#: Pauses of the two attackers: about one batch of records, and twenty requests, a second.
RECORDS_PAUSE_S, REQUESTS_PAUSE_S = 1.0, 0.05
MIB = 1 << 20
INPUTS = [spec for spec in TOPICS if spec.group is not None]
#: Read by the sink and the effects, and written by our own agents only.
EVENTS_READ = [PURCHASE_EVENTS.name, ACCOUNT_EVENTS.name]
FINISHED_S = 240.0
LIST = b"GET /api/v1/orders?limit=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Attack:
    """A thread that does one hostile thing after another, with a pause, until it is told to end."""

    def __init__(self, deeds: Iterator[Callable[[], None]], pause_s: float) -> None:
        self.done, self.errors = 0, Counter[str]()
        self._deeds, self._pause_s = deeds, pause_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Attack:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(60)

    def _run(self) -> None:
        for deed in self._deeds:
            if self._ending.wait(self._pause_s):
                return
            try:
                deed()
            except (OSError, http.client.HTTPException) as error:  # refused, as it should be
                self.errors[type(error).__name__] += 1
            self.done += 1


class Records:
    """Hostile records on every input; `taken` has the position of each that the broker took."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.taken: set[Position] = set()
        self.junk_events = 0
        self._partitions = itertools.cycle(range(partitions))
        self._producers = {
            codec: Producer(
                {
                    "bootstrap.servers": bootstrap,
                    "compression.type": codec,
                    "message.max.bytes": 900_000_000,
                    "batch.size": 200_000_000,
                    "queue.buffering.max.kbytes": 1_000_000,
                    "linger.ms": 100,
                }
            )
            for codec in ("none", "gzip", "lz4", "zstd", "snappy")
        }

    def deeds(self) -> Iterator[Callable[[], None]]:
        small = [filler for _, filler in fillers(MIB // 2)]
        for number in itertools.count():
            spec = INPUTS[number % len(INPUTS)]
            room = spec.max_message_bytes - MARGIN_BYTES
            filler = small[number % len(small)]
            yield from (
                lambda topic=spec.name: self._send(topic, "gzip", [b"x" * (4 * MIB)]),
                lambda topic=spec.name, size=room: self._send(topic, "none", [b"x" * size]),
                lambda topic=spec.name, value=filler: self._send(topic, "zstd", [b'{"type":"none","x":%s}' % value]),
                lambda topic=spec.name: self._send(topic, "lz4", [b"{}"], [("h", b"")] * (10 * MAX_HEADERS)),
                lambda: self._send("orders", "gzip", [b'{"a":[' + b"1e9," * 250_000 + b"1]}"] * 10),
                lambda topic=EVENTS_READ[number % 2]: self._junk(topic),
            )
            if number % 8 == 0:
                codec = ("gzip", "zstd", "lz4")[number // 8 % 3]
                yield partial(self._send, "orders", codec, [b"x" * (MIB - 1_000)] * 60)

    def _send(self, topic: str, codec: str, values: list[bytes], headers: list[Any] | None = None) -> None:
        def told(error: Any, message: Any) -> None:
            assert error is None, error
            self.taken.add(Position(message.topic(), message.partition(), message.offset()))

        partition, producer = next(self._partitions), self._producers[codec]
        for value in values:
            producer.produce(topic, value, partition=partition, headers=headers, on_delivery=told)
        assert producer.flush(120) == 0, "the broker took no records for two minutes"

    def _junk(self, topic: str) -> None:
        """What only a version error or an intruder writes: no JSON on a topic of events."""
        producer = self._producers["none"]
        producer.produce(topic, b"\xff no event", partition=next(self._partitions))
        assert producer.flush(120) == 0
        self.junk_events += topic == PURCHASE_EVENTS.name  # the only one of the two that goes to PostgreSQL


class Requests:
    """Hostile requests; what they are answered is counted by status."""

    def __init__(self, urls: list[str]) -> None:
        self.statuses: Counter[int] = Counter()
        self._places = [(url.rpartition(":")[0].removeprefix("http://"), int(url.rpartition(":")[2])) for url in urls]
        self._open: list[socket.socket] = []

    def deeds(self) -> Iterator[Callable[[], None]]:
        many = gzip.compress(b'{"a":[' + b"NaN," * 200_000 + b"1]}")
        plain = b'{"a":[' + b"NaN," * 100_000 + b"1]}"
        typed = {"Content-Type": "application/json"}
        for place in itertools.cycle(self._places):
            yield from (
                lambda at=place: self._ask(at, "POST", "/api/v1/orders", many, typed | {"Content-Encoding": "gzip"}),
                lambda at=place: self._ask(at, "POST", "/api/v1/orders", plain, typed),
                lambda at=place: self._ask(at, "POST", "/api/v1/accounts", b'{"user_id":"a","user_id":"b"}', typed),
                lambda at=place: self._ask(at, "POST", "/api/v1/webhooks", b"{}", {"Sec-Fetch-Site": "cross-site"}),
                lambda at=place: self._ask(at, "GET", "/api/v1/orders?as_of=now&status=placed", None, {}),
                lambda at=place: self._ask(at, "GET", "/api/v1/orders", None, {"Host": "evil.example"}),
                lambda at=place: self._ask(at, "GET", "/api/v1/orders?cursor=AAAA", None, {}),
                lambda at=place: self._hold(at, b"GET /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half:"),
                lambda at=place: self._hold(
                    at, b"GET /api/v1/orders?limit=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50
                ),
                lambda at=place: self._cut(at),
            )

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def _ask(self, place: tuple[str, int], method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        with contextlib.closing(http.client.HTTPConnection(*place, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            self.statuses[answer.status] += 1

    def _hold(self, place: tuple[str, int], head: bytes) -> None:
        """A connection that says this and then neither speaks nor reads; 200 at once at most."""
        connection = socket.create_connection(place, timeout=30)
        self._open.append(connection)
        connection.sendall(head)
        if len(self._open) > 200:
            self._open.pop(0).close()

    def _cut(self, place: tuple[str, int]) -> None:
        """A body that ends in the middle."""
        with socket.create_connection(place, timeout=30) as connection:
            head = "POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            connection.sendall(f'{head}Content-Length: 1000\r\n\r\n{{"order_uid"'.encode())


@row(50, "hostile records and requests beside the orders", fresh=True)
async def abused(trial: Trial) -> None:
    """No partition stops, no worker leaves the group, memory stays bounded, each record has its fate."""
    workers = await trial.up(2)
    restarts, pids = Restarts(workers), [worker.pid for worker in workers]
    before = [metric(worker, "streams_rebalances_total") for worker in workers]
    records, requests = Records(trial.stack.kafka, 4), Requests([worker.url for worker in workers])
    memory = 0.0
    async with trial.under_load(per_second=PER_SECOND):
        with (
            contextlib.closing(requests),
            Attack(records.deeds(), RECORDS_PAUSE_S) as by_records,
            Attack(requests.deeds(), REQUESTS_PAUSE_S) as by_requests,
        ):
            until = time.monotonic() + (BRIEF_SECONDS if trial.brief else SECONDS)
            while time.monotonic() < until:
                trial.struck()
                await asyncio.sleep(1)
                memory = max(memory, *map(memory_mb, workers))
    trial.abuse, trial.set_aside = frozenset(records.taken), records.junk_events
    await trial.converge(minimum=1_000, gap_s=60)
    await asyncio.to_thread(_judge_letters, trial)
    await _judge_set_aside(trial, workers, records.junk_events)
    trial.figures |= {
        "hostile records": len(records.taken),
        "hostile requests": by_requests.done,
        "refused": sum(count for status, count in requests.statuses.items() if 400 <= status < 500),
        "answers 5xx": sum(count for status, count in requests.statuses.items() if status >= 500),
        "MB at most": int(memory),
        "set aside": records.junk_events,
    }
    restarts.require_none()
    assert [metric(worker, "streams_rebalances_total") for worker in workers] == before, "a worker left the group"
    assert pids == [worker.pid for worker in workers if worker.child.running()]
    assert memory < MOST_MEMORY_MB, f"a worker had {memory:.0f} MB"
    assert not requests.statuses[500], f"answers: {dict(requests.statuses)}"
    assert by_records.done > 10 and by_requests.done > 50 and records.junk_events, "too little was done"


def _judge_letters(trial: Trial) -> None:
    """I1 for the hostile records: each is one dead letter, and no good one is."""
    came = Counter(origin_of(letter) for letter in read_topic(trial.stack.kafka, LETTERS))
    for position in sorted(trial.abuse):
        trial.verdict.looked("hostile records")
        if came[position] != 1:
            kind = Kind.DOUBLED if came[position] else Kind.LOST
            trial.verdict.add(kind, "hostile records", position, f"{came[position]} dead letters")
    assert trial.verdict.clean, trial.verdict.summary()


async def _judge_set_aside(trial: Trial, workers: list[Worker], junk: int) -> None:
    """What no sink can read is in `refused_rows`, health says so, and what came behind it was written."""
    connection = await asyncpg.connect(trial.stack.postgres)
    try:
        deadline = time.monotonic() + FINISHED_S
        while await connection.fetchval("SELECT count(*) FROM orderstream.refused_rows") < junk:
            assert time.monotonic() < deadline, "the sink did not set every unreadable event aside"
            await asyncio.sleep(1)
        assert await connection.fetchval("SELECT count(*) FROM orderstream.refused_rows") == junk
    finally:
        await connection.close()
    statuses: set[str] = set()
    while not statuses or statuses == {"ok"}:
        assert time.monotonic() < deadline, "no worker is degraded while records are set aside"
        found = [await asyncio.to_thread(worker.get, "/health") for worker in workers]
        statuses = {json.loads(body)["status"] if isinstance(body, str) else body["status"] for _, body in found}
        await asyncio.sleep(1)
    assert "not_ready" not in statuses, statuses
    assert all(psutil.pid_exists(worker.pid) for worker in workers)
