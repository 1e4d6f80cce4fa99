"""orders at a steady rate -> a fold -> its read-committed events -> how long each order took, in ms."""

from __future__ import annotations

import threading
import time
import uuid
from typing import NamedTuple

from confluent_kafka import Consumer, Producer

from bench import orders
from bench.loading import QUIET
from bench.processes import Processes, Share
from bench.watching import Stuck

#: Orders that have not come back this long after the last one was sent are lost.
LAST_WAIT_S = 30.0


class Latency(NamedTuple):
    """Of the orders that were sent after the warm-up."""

    p50_ms: float
    p99_ms: float
    cpu_percent: float  # of one core, by the fold's processes


def percentile(sorted_values: list[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * percent / 100))]


class _Reader:
    """Takes events as soon as they can be read, in a thread, and notes when it has seen which key."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.seen: dict[bytes, float] = {}
        self._running = True
        self._consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "latest",
            "isolation.level": "read_committed", "fetch.wait.max.ms": 5, "enable.auto.commit": False, **QUIET,
        })  # fmt: skip
        self._consumer.subscribe([topic])
        deadline = time.monotonic() + 30
        while not self._consumer.assignment():
            if time.monotonic() > deadline:
                raise Stuck(f"no assignment for {topic} within 30 s")
            self._consumer.poll(0.1)
        time.sleep(0.5)  # assigned, but not yet positioned at the end
        self._thread = threading.Thread(target=self._read, name="latency reader")
        self._thread.start()

    def _read(self) -> None:
        while self._running:
            # Not consume(): that waits for its whole time-out, and the wait would be measured.
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.seen.setdefault(message.key() or b"", time.perf_counter())

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self._consumer.close()


def measure(
    bootstrap: str,
    source: str,
    output: str,
    processes: Processes,
    *,
    per_s: int,
    warm_s: float,
    seconds: float,
    first: int = 0,
) -> Latency:
    """`warm_s` at the same rate come first and are not counted: a JVM compiles, caches fill. Raises Stuck."""
    warm, total = int(per_s * warm_s), int(per_s * (warm_s + seconds))
    records = list(orders.plain(total, first))
    reader = _Reader(bootstrap, output)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1, "partitioner": "murmur2_random", **QUIET})
    sent: dict[bytes, float] = {}
    share: Share | None = None
    try:
        began, count = time.perf_counter(), 0
        while count < total:
            due = min(total, int((time.perf_counter() - began) * per_s))
            for key, value in records[count:due]:
                sent[key] = time.perf_counter()
                producer.produce(source, value, key)
            if share is None and due >= warm:
                share = Share(processes)
            count = due
            producer.poll(0)
            time.sleep(0.001)
        assert share is not None
        cpu_percent = share.percent()
        producer.flush(30)
        deadline = time.monotonic() + LAST_WAIT_S
        while len(reader.seen) < total and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        reader.close()
    missing = [key for key in sent if key not in reader.seen]
    if missing:
        raise Stuck(f"{len(missing)} of {total} orders had no event on {output} {LAST_WAIT_S:.0f} s after the last one")
    took = sorted((reader.seen[key] - sent[key]) * 1000 for key, _ in records[warm:])
    return Latency(percentile(took, 50), percentile(took, 99), cpu_percent)
