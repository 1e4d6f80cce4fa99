"""the topic of orders -> read and decoded, or folded with the pure rules -> records a second, as one line of JSON.

`python -m bench.offline decode|fold BOOTSTRAP TOPIC COUNT`: no broker writes, no tables, no agents.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from agents.orders import decide, evolve
from bench.loading import QUIET
from schemas.base import command_id_at, rfc3339
from schemas.orders import Order, PlaceOrder, read_document


def messages(bootstrap: str, topic: str) -> Iterator[list[Any]]:
    """All records, batch by batch; it ends never: the caller knows how many there are."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed",
        "enable.auto.commit": False, "fetch.wait.max.ms": 20, **QUIET,
    })  # fmt: skip
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    while True:
        yield [message for message in consumer.consume(5_000, 1.0) if message.error() is None]


def decode(batch: list[Any]) -> None:
    """What any reader of the log must do at least."""
    for message in batch:
        orjson.loads(message.value())


class Fold:
    """Every order as the product's rules make it, in a dict."""

    def __init__(self) -> None:
        self.orders: dict[str, Order | None] = {}

    def __call__(self, batch: list[Any]) -> None:
        for message in batch:
            raw = message.value()
            command_id = command_id_at(message.topic(), message.partition(), message.offset())
            command = PlaceOrder.of(read_document(raw), raw, command_id)
            order = self.orders.get(command.order_uid)
            for event in decide(order, command, rfc3339(message.timestamp()[1])):
                self.orders[command.order_uid] = order = evolve(order, event)


def per_second(batches: Iterator[list[Any]], count: int, work: Callable[[list[Any]], None]) -> float:
    """Timed from the first record on, so that connecting does not count."""
    first = next(batch for batch in batches if batch)
    began, seen = time.perf_counter(), len(first)
    work(first)
    while seen < count:
        batch = next(batches)
        work(batch)
        seen += len(batch)
    return seen / (time.perf_counter() - began)


if __name__ == "__main__":
    way, bootstrap, topic, count = sys.argv[1:5]
    work = Fold() if way == "fold" else decode
    print(json.dumps({"per_s": per_second(messages(bootstrap, topic), int(count), work)}))
    if isinstance(work, Fold) and len(work.orders) != int(count):
        sys.exit(f"{count} orders were expected, {len(work.orders)} were folded")
