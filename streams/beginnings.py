"""Proves that an effect has begun a partition, so that a lost offset is never taken for a first start.

An effect's positions are its consumer group's offsets. They can be lost: they expire when no member has been in the
group for the broker's `offsets.retention.minutes` (7 days by default), and Kafka's tools delete them. An effect that
then began at the beginning would do again all that it ever did. So before its first record of a partition it commits
where it begins, and writes a record that is kept for ever; without an offset but with that record it does not begin.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

import orjson

from streams.following import Follower, Tail
from streams.records import Headers, Record, TopicPartition

log = logging.getLogger(__name__)

#: Writes one record: topic, partition, key, value, headers. Raises NotReadable.
Produce = Callable[[str, int, bytes | None, bytes | None, Headers], Awaitable[object]]


class OffsetsLost(Exception):
    """An effect has run before, and no offset is committed for it. It does nothing until an operator has decided."""


class Committing(Protocol):
    """What is asked of an effect's source (streams/effects.py)."""

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]: ...
    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int | None]: ...
    async def commit(self, positions: Mapping[TopicPartition, int]) -> None: ...


class Beginnings:
    """The records of a topic with one partition: group and partition that have begun. Shared by a worker's effects."""

    def __init__(self, tail: Tail, topic: str, produce: Produce) -> None:
        self.partition = TopicPartition(topic, 0)
        self._produce = produce
        self._known: set[tuple[str, TopicPartition]] = set()
        self._follower = Follower(tail, [self.partition], self._take, self._known.clear)

    async def begun(self, group: str, partitions: Collection[TopicPartition]) -> set[TopicPartition]:
        """Those that the group has begun. Reads the topic unless it knows that of all. Raises KafkaError."""
        if any((group, tp) not in self._known for tp in partitions):
            await self._follower.catch_up()
        return {tp for tp in partitions if (group, tp) in self._known}

    async def write(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Returns when all replicas have the records. Raises NotReadable; written twice they say the same."""
        for tp, offset in positions.items():
            content = {"group": group, "topic": tp.topic, "partition": tp.partition, "offset": offset}
            value = orjson.dumps(content | {"at_ms": int(time.time() * 1000)})
            await self._produce(self.partition.topic, 0, group.encode(), value, ())

    async def close(self) -> None:
        await self._follower.close()

    def _take(self, record: Record) -> None:
        if record.value is not None:
            content = orjson.loads(record.value)
            self._known.add((content["group"], TopicPartition(content["topic"], content["partition"])))


async def find_starts(
    name: str, group: str, source: Committing, partitions: Collection[TopicPartition], beginnings: Beginnings | None
) -> dict[TopicPartition, int]:
    """Where an effect goes on in each partition: after its last commit, or at the beginning if it never began it.

    When it returns, every one of them has an offset and a record that it has begun. Raises OffsetsLost. Without
    `beginnings` (an application that declares no topic for them) nothing is proven and nothing is written.
    """
    committed, bounds = await source.committed(partitions), await source.bounds(partitions)
    new = [tp for tp in partitions if committed[tp] is None]
    begun = await beginnings.begun(group, partitions) if beginnings is not None else set()
    if lost := sorted(begun.intersection(new)):
        names = ", ".join(f"{topic}-{partition}" for topic, partition in lost)
        raise OffsetsLost(
            f"no offset is committed for {names}, though {name} has run before: it expired while no worker ran it (the"
            " broker's offsets.retention.minutes) or was deleted. From the beginning it would do again all that it"
            " ever did, so it does nothing. Stop all workers and run `faust -A app offsets restore`, which puts back"
            " what was committed last. Where the broker does not know that any more, `faust -A app offsets begin"
            f" {name} --at end` (or `--at beginning`) says where it goes on."
        )
    starts = {}
    for tp, (first, _) in bounds.items():
        at = committed[tp]
        if at is not None and at < first:
            log.error("%s: offsets %d to %d of %s-%d were deleted unread", name, at, first - 1, *tp)
        starts[tp] = first if at is None else max(at, first)
    if beginnings is not None:
        if new:
            await source.commit({tp: starts[tp] for tp in new})
        await beginnings.write(group, {tp: at for tp, at in starts.items() if tp not in begun})
    return starts
