"""Records that try to stop a partition -> a real worker -> each is a dead letter, and the partition goes on."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.orders import samples
from schemas.topics import TOPICS
from streams.partitioner import partition_for
from tests.processes import RunningStack, Worker, Workers

MIB = 1 << 20
PARTITIONS = 4
#: Only a hang takes as long: every record below is judged within a few minutes on a loaded machine.
PATIENCE_S = 500.0

#: What docs/operating.md states for a worker that is sent such batches.
MOST_MEMORY_MIB = 700

INPUTS = [spec for spec in TOPICS if spec.group is not None]
CODECS = ["gzip", "snappy", "lz4", "zstd"]


@pytest.fixture
def worker(clean_stack: RunningStack, workers: Workers) -> Worker:
    clean_stack.faust("topics", "create")
    return workers.start()


class Sender:
    """Sends to one partition, and counts what was taken by the broker."""

    def __init__(self, bootstrap: str, codec: str = "none") -> None:
        self.taken: Counter[str] = Counter()
        self.refused: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "compression.type": codec,
                "message.max.bytes": 900_000_000,
                "batch.size": 400_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "linger.ms": 200,
            }
        )

    def send(self, topic: str, value: bytes | None, partition: int = 0, **options: Any) -> None:
        def done(error: Any, _: Any) -> None:
            if error is None:
                self.taken[topic] += 1
            else:
                self.refused.append(f"{topic}: {error}")

        self._producer.produce(topic, value, partition=partition, on_delivery=done, **options)

    def flush(self) -> None:
        assert self._producer.flush(120) == 0


def letters_of(stack: RunningStack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.faust("--json", "dead-letters", "list").stdout)
    return found


def wait_for_orders(worker: Worker, bootstrap: str, first: int) -> None:
    """One good order for each partition, behind all that was sent before."""
    sender, number = Sender(bootstrap), first
    uids: dict[int, str] = {}
    while len(uids) < PARTITIONS:
        order = samples.generate(number)
        uid = json.loads(order)["order_uid"]
        if (home := partition_for(uid.encode(), PARTITIONS)) not in uids:
            uids[home] = uid
            sender.send("orders", order, home)
        number += 1
    sender.flush()
    deadline = time.monotonic() + PATIENCE_S
    for uid in uids.values():
        while worker.get(f"/api/v1/orders/{uid}")[0] != 200:
            assert time.monotonic() < deadline, worker.log()[-4000:]
            time.sleep(0.2)


def wait_for_letters(stack: RunningStack, worker: Worker, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_S
    while len(found := letters_of(stack)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}: {worker.log()[-4000:]}"
        time.sleep(1)
    return found


def peak_memory_mib(worker: Worker) -> int:
    """The most that the process had in memory at once."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def require_whole(stack: RunningStack, worker: Worker, sent: Counter[str]) -> list[dict[str, Any]]:
    """Each record that was sent is one dead letter; every partition goes on; all copies of the state agree."""
    wait_for_orders(worker, stack.kafka, 3000)
    found = wait_for_letters(stack, worker, sent.total())
    assert Counter(each["topic"] for each in found) == sent
    assert len({each["id"] for each in found}) == len(found)
    assert {each["kind"] for each in found} == {"poison"}
    assert stack.faust("sink", "verify").stdout.startswith("Equal: ")
    assert worker.get("/health")[0] == 200
    assert "starts again" not in worker.log(), "no task was started again"
    return found


def test_the_largest_records_of_every_input_are_dead_letters(clean_stack: RunningStack, worker: Worker) -> None:
    plain, packed = Sender(clean_stack.kafka), Sender(clean_stack.kafka, "gzip")
    for spec in INPUTS:
        fits = spec.max_message_bytes - 100
        plain.send(spec.name, b"x" * fits, 0)
        plain.send(spec.name, b"x" * (fits - 100_000), 1, key=b"k" * 100_000)
        plain.send(spec.name, b"{}", 2, headers=[("h", b"")] * (fits // 8))
        packed.send(spec.name, b"x" * (20 * MIB), 3, key=b"k", headers=[("h", b"1" * 100_000)])
        packed.send(spec.name, None, 0)
        packed.send(spec.name, b'{"a":' * 200_000, 1)
        for sender in (plain, packed):
            sender.flush()
            assert not sender.refused
    found = require_whole(clean_stack, worker, plain.taken + packed.taken)
    junk = next(each for each in found if (each["topic"], each["partition"]) == ("payments.commands.v1", 0))
    shown = json.loads(clean_stack.faust("--json", "dead-letters", "show", junk["id"]).stdout)
    assert (shown["value_bytes"], shown["value"]) == (2 * MIB - 100, "x" * (2 * MIB - 100)), "read from its own topic"
    tried = clean_stack.faust("dead-letters", "redrive", junk["id"])
    assert tried.stdout.startswith("1 redriven")
    again = wait_for_letters(clean_stack, worker, len(found) + 1)
    assert [each["attempt"] for each in again if each["topic"] == junk["topic"] and each["attempt"] > 1] == [2]
    gone = next(each for each in found if (each["topic"], each["partition"]) == ("orders", 3))
    shown = json.loads(clean_stack.faust("--json", "dead-letters", "show", gone["id"]).stdout)
    assert (shown["value"], shown["value_bytes"]) == (None, 20 * MIB), "too large to be read as a whole"


def test_batches_that_expand_far_are_judged_record_by_record(clean_stack: RunningStack, worker: Worker) -> None:
    sent: Counter[str] = Counter()
    for partition, codec in enumerate(CODECS):
        sender = Sender(clean_stack.kafka, codec)
        for _ in range(20 if codec == "snappy" else 60):  # snappy gains a factor of 21 at most
            sender.send("orders", b"x" * (MIB - 1000), partition)
        sender.flush()
        assert not sender.refused
        sent += sender.taken
    many = b'{"a":[' + b",".join([b"1e9"] * 250_000) + b"]}"
    sender = Sender(clean_stack.kafka, "gzip")
    for _ in range(30):
        sender.send("orders", many, 2)
    sender.flush()
    found = require_whole(clean_stack, worker, sent + sender.taken)
    assert peak_memory_mib(worker) < MOST_MEMORY_MIB
    last = max((each for each in found if each["partition"] == 2), key=lambda each: each["offset"])
    assert "at most 100000 are read" in last["faults"][0]["message"]


def test_a_number_that_not_every_reader_holds_is_refused_with_its_path(
    clean_stack: RunningStack, worker: Worker
) -> None:
    sender, paths = Sender(clean_stack.kafka), []
    for number in ("18446744073709551616", "1" + "0" * 30, "9007199254740992", "-9007199254740992", "1e-20000"):
        for topic, command, member, path in FREE_MEMBERS:
            raw = json.dumps(command)[:-1] + "," + member.replace("%s", number) + "}"
            sender.send(topic, raw.encode(), 0, key=b"big1")
            paths.append((topic, path))
    sender.flush()
    found = require_whole(clean_stack, worker, sender.taken)
    assert sorted((each["topic"], each["faults"][0]["path"]) for each in found) == sorted(paths)
    status, orders = worker.get("/api/v1/orders")
    assert status == 200 and len(orders["orders"]) == PARTITIONS


CART = {
    "type": "place_cart",
    "command_id": "c1",
    "order_uid": "big1",
    "user_id": "u",
    "lines": [{"item_id": "pen", "quantity": 1}],
    "payment": {"method": "account"},
}
ITEM = {
    "type": "create_item",
    "command_id": "c2",
    "item_id": "pen",
    "outlet_id": "o",
    "name": "Pen",
    "price_minor": 1,
    "currency": "INR",
    "low_stock": 0,
}
FREE_MEMBERS = [
    ("purchases.commands.v1", CART, '"address":{"zip":%s}', "$.address.zip"),
    ("inventory.commands.v1", ITEM, '"attributes":{"a":{"b":[%s]}}', "$.attributes.a.b[0]"),
    ("shipping.responses", {"type": "x"}, '"unknown":[%s]', "$.unknown[0]"),
]
