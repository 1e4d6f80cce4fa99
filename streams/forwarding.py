"""Brings the records of partitions that were added to an input to the partitions that tasks read, each exactly once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from streams import admin
from streams.committed import committed_offsets
from streams.kafka import KafkaReader, onlooker
from streams.partitioner import partition_for
from streams.records import Fields, Record, TopicPartition
from streams.settings import EngineSettings
from streams.topic import Topic
from streams.topology import task_name, transactional_id
from streams.transactions import KafkaTransactions


async def forward(settings: EngineSettings, topic: Topic, *, dry_run: bool = False) -> dict[TopicPartition, int]:
    """Forward what is there now, while workers run or not; returns the number of records by added partition.

    Each piece is one transaction: the records in their home partitions, and the position behind them as an offset of
    the application's group. So a run that was killed is run again, two runs at once fence each other, and a record is
    forwarded once. Key, value, headers and time stay. The home partition of a key is that of every producer of ours
    (murmur2); a record without a key goes to the partition that its own number comes to, modulo the declared count.
    Records of one key keep their order among themselves; against those that came to the home partition directly, they
    are late. Raises Fenced when another run has begun, and OutcomeUnknown.
    """
    count = (await admin.partition_counts(settings.brokers)).get(topic.name, 0)
    added = [TopicPartition(topic.name, number) for number in range(topic.partitions, count)]
    done = dict.fromkeys(added, 0)
    if not added:
        return done
    async with onlooker(settings) as consumer, KafkaReader(settings) as reader:
        for tp in added:
            fence = transactional_id(settings.app_id, task_name(f"{topic.group}-forward-{topic.name}", tp.partition))
            producer = KafkaTransactions(settings, fence)
            try:
                if not dry_run:  # a count must not fence a run that forwards
                    await producer.start()
                committed = await committed_offsets(consumer, [tp])
                begin, end = (await reader.bounds([tp]))[tp]
                async for _, records, _ in reader.read({tp: max(begin, committed.get(tp, 0))}, {tp: end}):
                    if not dry_run:
                        await producer.begin()
                        await producer.send(_homes(topic, records))
                        await producer.send_offsets({tp: records[-1].offset + 1})
                        await producer.commit()
                    done[tp] += len(records)
            finally:
                await producer.stop()
    return done


def _homes(topic: Topic, records: Sequence[Record]) -> dict[TopicPartition, list[Fields]]:
    of_home: dict[TopicPartition, list[Fields]] = defaultdict(list)
    for record in records:
        if record.key is None:
            home = record.partition % topic.partitions
        else:
            home = partition_for(record.key, topic.partitions)
        fields = record.timestamp, record.key, record.value, tuple(record.headers)
        of_home[TopicPartition(topic.name, home)].append(fields)
    return of_home
