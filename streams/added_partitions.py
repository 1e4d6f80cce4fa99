"""Finds partitions that were added to an input while workers run, and counts the records in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError

from streams.committed import committed_offsets
from streams.metrics import Metrics
from streams.records import TopicPartition
from streams.topology import Group, task_name

log = logging.getLogger(__name__)

#: A worker asks for the partition counts of its inputs this often. aiokafka refreshes its metadata every five minutes.
EVERY_S = 20.0
#: Bounds one refresh; a broker that is away is asked again by the next one.
PATIENCE_S = 15.0


class AddedPartitions:
    """What a worker knows of partitions beyond the declared count. No task reads them: a table has as many partitions
    as the inputs had, and more of one kind would send keys away from their rows."""

    def __init__(self, groups: Mapping[str, Group], metrics: Metrics) -> None:
        self._groups, self._metrics = groups, metrics
        #: By topic, the declared count and the broker's, where that is larger.
        self.found: dict[str, tuple[int, int]] = {}

    def __str__(self) -> str:
        """For the log and the health report; empty when there are none."""
        return "; ".join(
            f"{topic} has {count} partitions instead of {declared}: no task reads the records in"
            f" {', '.join(f'{topic}-{number}' for number in range(declared, count))}"
            for topic, (declared, count) in sorted(self.found.items())
        )

    async def refresh(self, consumer: Any, owned: Collection[str]) -> None:
        """Compare the counts, and set the lag of added partitions. Errors of the broker change nothing.

        `owned`: names of the tasks here. Each added partition is counted by one worker: the owner of the task that
        its number comes to, modulo the declared count, so that a sum over all workers is the number of records.
        """
        declared = {name: group.topics[name].partitions for group in self._groups.values() for name in group.agents}
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._compare(consumer, declared)
                await self._count(consumer, owned)
        except (KafkaError, TimeoutError) as error:
            log.info("the partition counts of the inputs are not known now: %r", error)

    async def _compare(self, consumer: Any, declared: Mapping[str, int]) -> None:
        cluster = ClusterMetadata()
        if not await consumer._client._metadata_update(cluster, list(declared)):
            return
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in declared}
        found = {topic: (declared[topic], count) for topic, count in counts.items() if count > declared[topic]}
        if found == self.found:
            return
        self.found = found
        for topic, count in declared.items():
            self._metrics.added_partitions.labels(topic).set(max(0, counts[topic] - count))
        if found:
            log.error(
                "%s. Kafka takes no partition away: set the producers to the declared count, and run `faust -A app"
                " topics forward TOPIC`, which brings the records in the added partitions to those that are read, each"
                " once. Workers need not stop for it",
                self,
            )
            await consumer._client.force_metadata_update()

    async def _count(self, consumer: Any, owned: Collection[str]) -> None:
        mine = [
            TopicPartition(topic, number)
            for group in self._groups.values()
            for topic in group.agents
            for number in range(*self.found.get(topic, (0, 0)))
            if task_name(group.name, number % group.partitions) in owned
        ]
        if not mine:
            return
        begins, ends = await consumer.beginning_offsets(mine), await consumer.end_offsets(mine)
        forwarded = await committed_offsets(consumer, mine)
        for tp in mine:
            waiting = ends[tp] - max(begins[tp], forwarded.get(tp, 0))
            self._metrics.lag_records.labels(tp.topic, str(tp.partition)).set(max(0, waiting))
