"""a topic -> every record that a read-committed reader of its own sees, from the beginning to the end of now."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition


async def high_watermarks(bootstrap: str, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Where each partition ends, transactions that are being finished included: their markers come after the answer."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return ends
    finally:
        await consumer.stop()


async def read_all(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[ConsumerRecord]:
    """All records up to the end that the topic has now; a transaction left hanging shows as a time-out."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            await consumer._client.set_topics([topic])
            await consumer._client.force_metadata_update()
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await high_watermarks(bootstrap, partitions)
        found: dict[TopicPartition, list[ConsumerRecord]] = defaultdict(list)
        async with asyncio.timeout(60):
            while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for tp, records in (await consumer.getmany(timeout_ms=200, max_records=10_000)).items():
                    found[tp] += records
        return [record for tp in sorted(found) for record in found[tp]]
    finally:
        await consumer.stop()
