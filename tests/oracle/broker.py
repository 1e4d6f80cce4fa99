"""a real broker -> the log as a read-committed reader sees it; when all of it is worked on; whether anything hangs.

Read with librdkafka, not with the platform's own client: a fault of that client must not hide from its judge.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, Log, Position, Record
from tests.oracle.verdict import Kind, Verdict

TABLES = ("orders", "order_timeline", "order_refusals", "orders_by_customer", "orders_by_time")
READ_TIMEOUT_S = 300.0
#: Fewer records than this between the position of the group and the end are looked at one by one.
NEAR_THE_END = 200


def read_log(bootstrap: str, *, app_id: str = "orderstream", sent: Iterable[Position] | None = None) -> Log:
    """All topics and changelogs of the orders, from the beginning to the end of now."""
    topics = {topic: read_topic(bootstrap, topic) for topic in (INTAKE, COMMANDS, EVENTS, LETTERS)}
    changelogs = {table: read_topic(bootstrap, f"{app_id}-{table}-changelog") for table in TABLES}
    partitions = len(partitions_of(bootstrap, INTAKE))
    return Log(partitions, topics, changelogs, None if sent is None else frozenset(sent))


def read_topic(bootstrap: str, topic: str, timeout_s: float = READ_TIMEOUT_S) -> list[Record]:
    """Every committed record, by partition and offset. A transaction left hanging shows as records that never come."""
    starts = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions_of(bootstrap, topic)]
    return read_from(bootstrap, starts, timeout_s)


def read_from(bootstrap: str, starts: Sequence[TopicPartition], timeout_s: float = READ_TIMEOUT_S) -> list[Record]:
    with closing(_consumer(bootstrap, "oracle")) as consumer:
        consumer.assign(list(starts))
        open_ends = {start.partition for start in starts}
        found: dict[int, list[Record]] = {number: [] for number in open_ends}
        deadline = time.monotonic() + timeout_s
        while open_ends:
            assert time.monotonic() < deadline, f"{starts[0].topic} is not read to its end after {timeout_s} s"
            for message in consumer.consume(10_000, timeout=0.2):
                error = message.error()
                if error is None:
                    found[message.partition() or 0].append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(message.partition() or 0)
                else:
                    raise AssertionError(f"reading {starts[0].topic}: {error}")
        return [record for number in sorted(found) for record in found[number]]


def partitions_of(bootstrap: str, topic: str) -> list[int]:
    """The numbers of a topic's partitions. Asking creates nothing: the broker's auto-creation is off."""
    metadata = AdminClient({"bootstrap.servers": bootstrap}).list_topics(topic, timeout=10).topics[topic]
    assert metadata.error is None, f"{topic}: {metadata.error}"
    return sorted(metadata.partitions)


def unread(bootstrap: str, group: str = "orderstream", topics: Sequence[str] = (INTAKE, COMMANDS)) -> list[str]:
    """What of the inputs the platform has not committed yet; empty when all of it is done.

    `orders` first: what a record away from home leads to is written in the transaction that commits its offset.
    """
    for topic in topics:
        partitions = partitions_of(bootstrap, topic)
        with closing(_consumer(bootstrap, group)) as consumer:
            standing = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=10)
        ends = {high: ends_of(bootstrap, [(topic, n) for n in partitions], high) for high in IsolationLevel}
        stable, written = ends[IsolationLevel.READ_COMMITTED], ends[IsolationLevel.READ_UNCOMMITTED]
        for each in standing:
            done = max(each.offset, 0)
            end = stable[topic, each.partition]
            if end != written[topic, each.partition]:
                return [f"{topic}-{each.partition} has an open transaction at {end}"]
            if end - done > NEAR_THE_END:
                return [f"{end - done} of {topic}-{each.partition}"]
            # Markers of transactions take offsets too, so an end that is not reached may hold no record.
            if end > done and (left := read_from(bootstrap, [TopicPartition(topic, each.partition, done)])):
                return [f"{len(left)} of {topic}-{each.partition}"]
    return []


def wait_until_read(bootstrap: str, timeout_s: float, group: str = "orderstream") -> float:
    """Wait until every input is committed; gives the seconds that it took."""
    began = time.monotonic()
    while left := unread(bootstrap, group):
        waited = time.monotonic() - began
        assert waited < timeout_s, f"not worked on after {timeout_s} s: {left}"
        time.sleep(0.5)  # a look is a dozen clients of librdkafka, and takes from those that are waited for
    return time.monotonic() - began


def judge_ends(bootstrap: str, verdict: Verdict, timeout_s: float = 60.0) -> None:
    """No transaction is left hanging: on every topic, readers of committed records can come to the very end."""
    every = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=60).topics
    partitions = [(name, number) for name, topic in every.items() for number in topic.partitions]
    deadline = time.monotonic() + timeout_s
    while True:
        stable = ends_of(bootstrap, partitions, IsolationLevel.READ_COMMITTED)
        written = ends_of(bootstrap, partitions, IsolationLevel.READ_UNCOMMITTED)
        hanging = {at: (stable[at], end) for at, end in written.items() if stable[at] < end}
        if not hanging or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    verdict.looked("ends of partitions", len(partitions))
    for (topic, number), (last, end) in hanging.items():
        detail = f"committed records can be read to {last} of {end}, {timeout_s:.0f} s after the last write"
        verdict.add(Kind.HANGING, "ends of partitions", f"{topic}-{number}", detail)


def ends_of(bootstrap: str, partitions: Sequence[tuple[str, int]], level: IsolationLevel) -> dict[tuple[str, int], int]:
    """The last stable offset (READ_COMMITTED) or the high watermark (READ_UNCOMMITTED) of each."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted: Mapping[TopicPartition, Any] = {TopicPartition(*each): OffsetSpec.latest() for each in partitions}  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(dict(wanted), isolation_level=level, request_timeout=60)
    return {(partition.topic, partition.partition): future.result().offset for partition, future in asked.items()}


class Tail:
    """Reads a topic while it is written, and notes when each partition had something committed to say."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._heard: dict[int, list[float]] = {}
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self.forget()
        self._listening.set()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.clear()
        self._thread.join()

    def forget(self) -> None:
        """Silence counts from now on, for every partition."""
        self._heard = {number: [time.monotonic()] for number in partitions_of(self._bootstrap, self._topic)}

    def longest_silence(self) -> float:
        """Seconds until now without a committed record in one partition, under a load that reaches all of them."""
        times = [[*heard, time.monotonic()] for heard in self._heard.values()]
        return max(later - earlier for heard in times for earlier, later in pairwise(heard))

    def _listen(self) -> None:
        with closing(_consumer(self._bootstrap, "oracle-tail")) as consumer:
            consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in self._heard])
            while self._listening.is_set():
                for message in consumer.consume(1_000, timeout=0.05):
                    if message.error() is None:
                        self._heard[message.partition() or 0].append(time.monotonic())


def _consumer(bootstrap: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 4 << 20,
            # The most that a compressed batch may expand to; row 50 has some of 60 MiB.
            "receive.message.max.bytes": 1_000_000_000,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 256 << 10,
            # Of several brokers one may be frozen: librdkafka would wait a minute for it.
            **({"socket.timeout.ms": 3_000} if "," in bootstrap else {}),
        }
    )


def _record(message: Message) -> Record:
    _, timestamp = message.timestamp()
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None
    key, value = message.key(), message.value()
    headers: Any = message.headers()
    return Record(topic, partition, offset, timestamp, key, value, tuple(headers or ()))
