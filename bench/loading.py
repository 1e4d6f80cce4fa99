"""records -> a topic, by librdkafka: at once behind a gate, or at a steady rate."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException, Producer

Record = tuple[bytes, bytes]

#: librdkafka tells every lost connection on standard error, also the ones that end because the broker is stopped.
QUIET = {"log_level": 2}
#: As long as a slow machine may need for the largest load; the broker allows 15 minutes.
GATE_TIMEOUT_S = 600


def load(bootstrap: str, topic: str, records: Iterable[Record], at_gate: Callable[[], None] | None = None) -> int:
    """Write all records in one transaction; gives their number.

    Read-committed readers see nothing before its end and everything after it. So workers can be started and settled
    first, and the load is written before any of them begins: `at_gate` is called just before the gate opens.
    """
    transaction: dict[str, str | int] = {
        "transactional.id": f"bench-{uuid.uuid4().hex}",
        "transaction.timeout.ms": GATE_TIMEOUT_S * 1000,
    }
    producer = _producer(bootstrap, linger_ms=20, **transaction)
    producer.init_transactions(30)
    producer.begin_transaction()
    count = _produce_all(producer, topic, records)
    if at_gate is not None:
        at_gate()
    producer.commit_transaction(60)
    return count


def load_openly(
    bootstrap: str, topic: str, records: Iterable[Record], at_gate: Callable[[], None] | None = None
) -> int:
    """Write all records without a transaction, for readers that read uncommitted records anyway."""
    if at_gate is not None:
        at_gate()
    return _produce_all(_producer(bootstrap, linger_ms=20), topic, records)


def _produce_all(producer: Producer, topic: str, records: Iterable[Record]) -> int:
    failed: list[str] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(str(error))

    count = 0
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        count += 1
        if count % 5_000 == 0:
            producer.poll(0)
    producer.flush(GATE_TIMEOUT_S)
    if failed:
        raise KafkaException(f"{len(failed)} of {count} records for {topic} were not taken: {failed[0]}")
    return count


@contextmanager
def steadily(bootstrap: str, topic: str, records: Iterator[Record], per_second: int) -> Iterator[None]:
    """Write records at this rate, from a thread of this process, for as long as the block runs."""
    producer, running = _producer(bootstrap, linger_ms=5), threading.Event()
    running.set()

    def produce() -> None:
        began, count = time.perf_counter(), 0
        while running.is_set():
            due = int((time.perf_counter() - began) * per_second)
            while count < due:
                key, value = next(records)
                producer.produce(topic, value, key)
                count += 1
            producer.poll(0)
            time.sleep(0.002)

    thread = threading.Thread(target=produce, name="steady load")
    thread.start()
    try:
        yield
    finally:
        running.clear()
        thread.join()
        producer.flush(30)


def _producer(bootstrap: str, linger_ms: int, **more: str | int) -> Producer:
    """Java's partitioner, so that every record is on the home partition of its key from the start."""
    return Producer({
        "bootstrap.servers": bootstrap, "linger.ms": linger_ms, "compression.type": "lz4",
        "queue.buffering.max.messages": 100_000, "partitioner": "murmur2_random", **QUIET, **more,
    })  # fmt: skip
