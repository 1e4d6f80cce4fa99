"""a group, its input, its output -> how far it is; and afterwards what it wrote, read back and counted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from bench.loading import QUIET

LOOK_EVERY_S = 0.1
#: No sign of progress for this long is a failure.
PATIENCE_S = 60.0


class Stuck(Exception):
    """A fold that makes no progress."""


class Outputs(NamedTuple):
    """Committed records of an output topic, and when the broker appended the last of them (ms since the epoch)."""

    records: int
    keys: int
    last_ms: int


class Watch:
    """Looks at one group's input and output from outside. It costs the broker about ten small requests a second."""

    def __init__(self, bootstrap: str, group: str, source: str, output: str) -> None:
        self._consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
            # The ends of what was written. Those of what is committed lag: a commit is answered before all partitions
            # have its marker.
            "isolation.level": "read_uncommitted", **QUIET,
        })  # fmt: skip
        self._source, self._output = self._of(source), self._of(output)

    def _of(self, topic: str) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic, 10).topics[topic]
        return [TopicPartition(topic, partition) for partition in sorted(found.partitions)]

    def input_ends(self) -> list[int]:
        return [self._end(partition) for partition in self._source]

    def output_end(self) -> int:
        """Grows while records are appended; commit markers count too, so it is a sign and not a number of records."""
        return sum(self._end(partition) for partition in self._output)

    def committed(self) -> int:
        """Offsets that the group has committed, over all partitions of its input."""
        return sum(max(0, found.offset) for found in self._consumer.committed(self._source, 10))

    def caught_up(self, before: list[int]) -> bool:
        """Whether the group has committed everything that one transaction appended since `before`."""
        committed = [found.offset for found in self._consumer.committed(self._source, 10)]
        ends = self.input_ends()
        # The last offset of a partition that the transaction wrote to is its commit marker, which nobody is handed.
        return all(
            end == start or offset >= end - 1 for start, end, offset in zip(before, ends, committed, strict=True)
        )

    def _end(self, partition: TopicPartition) -> int:
        end: int = self._consumer.get_watermark_offsets(partition, 10, cached=False)[1]
        return end

    def close(self) -> None:
        self._consumer.close()


def until_still(
    watch: Watch, done: Callable[[], bool], sample: Callable[[], float], alive: Callable[[], None]
) -> float:
    """Wait until `done`; gives the sample (CPU seconds) taken when the output had its last record."""
    seen, at, changed = -1, 0.0, time.monotonic()
    while True:
        alive()
        end = watch.output_end()
        if end != seen:
            seen, at, changed = end, sample(), time.monotonic()
        elif done():
            return at
        elif time.monotonic() - changed > PATIENCE_S:
            raise Stuck(f"no output for {PATIENCE_S:.0f} s; the output topics end at {seen}")
        time.sleep(LOOK_EVERY_S)


def read_outputs(bootstrap: str, topic: str, since: dict[int, int] | None = None) -> tuple[Outputs, dict[int, int]]:
    """Every record of a topic that is committed by now, counted; and the offsets to read on from."""
    watch = Watch(bootstrap, uuid.uuid4().hex, topic, topic)
    ends = dict(enumerate(watch.input_ends()))
    watch.close()
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 50, **QUIET,
    })  # fmt: skip
    try:
        starts = since or dict.fromkeys(ends, 0)
        waiting = {partition for partition, end in ends.items() if starts[partition] < end}
        consumer.assign([TopicPartition(topic, partition, starts[partition]) for partition in waiting])
        keys: set[bytes] = set()
        count, last_ms, deadline = 0, 0, time.monotonic() + PATIENCE_S
        while waiting:
            found: list[Any] = consumer.consume(10_000, 0.2)
            records = [message for message in found if message.error() is None]
            # The only "error" that is expected: an end. It is told again when the end of what is committed moves.
            told = [message for message in found if message.error() is not None]
            waiting -= {message.partition() for message in told if message.offset() >= ends[message.partition()]}
            if records:
                count += len(records)
                keys.update(message.key() for message in records)
                last_ms = max(last_ms, max(message.timestamp()[1] for message in records))
                deadline = time.monotonic() + PATIENCE_S
            elif time.monotonic() > deadline:
                raise Stuck(f"{topic} could not be read to its end; partitions {sorted(waiting)} are left")
        return Outputs(count, len(keys), last_ms), ends
    finally:
        consumer.close()
