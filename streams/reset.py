"""a stopped application -> its tables and positions forgotten, or a new topic taken in; both on purpose only.

`reset` is replay in its plainest form: the next start folds the input topics from their beginning, and events are
appended a second time. Ids are deterministic and each topic keeps its order; how two topics of a group were interleaved
is not recorded, so the replay may decide a race between them the other way round.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupIdNotFound, NonEmptyGroup, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from streams import admin
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.store import IDENTITY
from streams.topology import Group

#: A worker that was killed counts as a member until its session has passed.
RUNNING = (
    "group {group} has running workers: stop them first (one that was killed counts until its session has passed,"
    " 6 s by default), then run this again"
)


class WorkersRunning(Exception):
    """The group has members; what they are doing must not be pulled from under them."""


async def reset(settings: EngineSettings, changelogs: Sequence[admin.TopicConfig]) -> list[Path]:
    """Forget offsets, then changelogs, then the stores of this machine; gives the store directories removed.

    Killed anywhere in between, it is run again: offsets go first, so no start can take half of it for the whole.
    Stores on other machines are found at their next start, which stops and says so. Raises WorkersRunning.
    """
    await forget_offsets(settings)
    await admin.delete(settings.bootstrap, [topic.name for topic in changelogs])
    await admin.create(settings.bootstrap, changelogs)
    stores = local_stores(settings)
    for store in stores:
        shutil.rmtree(store)
    return stores


def local_stores(settings: EngineSettings) -> list[Path]:
    """The stores of this data directory: one for each web port, or the one that `--datadir` names."""
    mine = settings.state_dir
    found = mine.parent.glob("state-*") if mine.name.startswith("state-") else [mine]
    return sorted(path for path in found if path.is_dir())


async def forget_offsets(settings: EngineSettings) -> None:
    """Delete the group. The broker refuses while it has members, and that is the lock. Raises WorkersRunning."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    try:
        await client.start()
        coordinator = await client.find_coordinator(settings.app_id)
        response = await client._send_request_to_node(coordinator, DeleteGroupsRequest([settings.app_id]))
        for _, code in response.results:
            error = for_code(code)
            if error is NonEmptyGroup:
                raise WorkersRunning(RUNNING.format(group=settings.app_id))
            if code and error is not GroupIdNotFound:
                raise error(f"deleting group {settings.app_id}")
    finally:
        await client.close()


async def adopt(settings: EngineSettings, groups: Mapping[str, Group], topic: str) -> list[TopicPartition]:
    """Take in a topic that is new to a running application, or whose loss is accepted: it begins where it is now.

    An input gets the offset of its beginning, a changelog its identity; partitions that have theirs are left alone.
    Gives the partitions taken in. Raises WorkersRunning, and KeyError for a topic that is neither.
    """
    for group in groups.values():
        changelogs = {table.changelog for table in group.tables.values()}
        if topic in group.agents or topic in changelogs:
            partitions = [TopicPartition(topic, number) for number in range(group.partitions)]
            if topic in group.agents:
                return await _adopt_input(settings, partitions)
            return await _adopt_changelog(settings, partitions)
    raise KeyError(topic)


async def _adopt_input(settings: EngineSettings, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap, group_id=settings.app_id, enable_auto_commit=False
    )
    try:
        await consumer.start()
        consumer.assign(partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        wanted = {}
        for partition in partitions:
            committed = await consumer.committed(partition)
            if committed is None or committed > ends[partition]:
                wanted[partition] = begins[partition]
        if wanted:
            try:
                await consumer.commit(wanted)
            except Exception as error:  # a group with members takes no commit from outside
                raise WorkersRunning(RUNNING.format(group=settings.app_id)) from error
        return sorted(wanted)
    finally:
        await consumer.stop()


async def _adopt_changelog(settings: EngineSettings, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap)
    try:
        await consumer.start()
        await producer.start()
        ends = await consumer.end_offsets(partitions)
        empty = [partition for partition in partitions if ends[partition] == 0]
        for partition in empty:
            await producer.send_and_wait(
                partition.topic,
                uuid.uuid4().hex.encode(),
                key=IDENTITY,
                partition=partition.partition,
                timestamp_ms=0,
            )
        return empty
    finally:
        await producer.stop()
        await consumer.stop()
