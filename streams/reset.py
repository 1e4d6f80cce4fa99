"""a stopped application -> its tables and positions forgotten, or a new topic taken in; both on purpose only.

`reset` is replay in its plainest form: the next start takes the input topics from their beginning once more, in the
order that the journals hold (streams/journal.py), and sends nothing that was sent before unless it is told to.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import GroupIdNotFound, NonEmptyGroup, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from streams import admin
from streams.assignment import Member
from streams.committed import committed_offsets
from streams.errors import Misdeclared
from streams.journal import ADOPTED, BEGAN, REPLAY, boundary_now
from streams.kafka import KafkaLog, onlooker
from streams.log import Log
from streams.past import steps_of, tails_of
from streams.positions import known_offsets
from streams.producer import PlainProducer
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.store import IDENTITY
from streams.topology import Group, task_name, transactional_id
from streams.transactions import BY_TASK

#: A worker that was killed counts as a member until its session has passed.
RUNNING = (
    "group {group} has running workers{which}: stop them first (one that was killed counts until its session has"
    " passed, 6 s by default), then run this again"
)
#: The states of a group that nobody is in: never used, or all have left.
NO_MEMBERS = ("", "Dead", "Empty")


class WorkersRunning(Exception):
    """The group has members; what they are doing must not be pulled from under them."""


class OffsetGone(Exception):
    """What is missing is an offset, and not the topic."""


async def reset(
    settings: EngineSettings,
    groups: Mapping[str, Group],
    changelogs: Sequence[admin.TopicConfig],
    emit: Collection[str] = (),
) -> list[Path]:
    """Write down how far each task has come, then forget offsets, changelogs and the stores of this machine.

    Gives the store directories removed. Killed anywhere in between, it is run again: offsets go before anything else
    goes, so no start can take half of it for the whole. Stores on other machines are found at their next start, which
    stops and says so. `emit`: the output topics that get their records again. Raises WorkersRunning, LogMismatch for a
    past that is not there any more, and Misdeclared for a topic in `emit` that the replay itself reads.
    """
    inputs = {topic for group in groups.values() for topic in group.agents}
    if again := sorted(inputs & set(emit)):
        raise Misdeclared(f"{', '.join(again)} is read by this application: sent again, its records would count twice")
    await require_no_members(settings)
    await mark(settings, groups, frozenset(emit))
    await forget_offsets(settings)
    await admin.delete(settings.brokers, [topic.name for topic in changelogs])
    await admin.create(settings.brokers, changelogs)
    stores = local_stores(settings)
    for store in stores:
        shutil.rmtree(store)
    return stores


async def mark(settings: EngineSettings, groups: Mapping[str, Group], emit: frozenset[str]) -> None:
    """End each journal with a boundary. Older owners are fenced first: what they left open is settled then."""
    async with onlooker(settings) as consumer, PlainProducer(settings) as producer:
        log = KafkaLog(settings, consumer)
        tasks = [(group, number) for group in groups.values() if group.agents for number in range(group.partitions)]
        for group, number in tasks:
            fence = log.transactions(transactional_id(settings.app_id, task_name(group.name, number)))
            await fence.start()
            await fence.stop()
        extents = await log.survey([group.journal(number) for group, number in tasks])
        for group, number in tasks:
            await hold_past(log, group, number, extents[group.journal(number)].end)
        for group, number in tasks:
            journal = group.journal(number)
            if extents[journal].first is not None:
                boundary = await boundary_now(log, group.inputs(number), journal, extents[journal].end, emit)
                await producer.send(journal.topic, journal.partition, REPLAY, boundary.encode(), ())


async def hold_past(log: Log, group: Group, number: int, end: int) -> None:
    """Raise LogMismatch for a task whose tables hold what no input holds any more: they would be gone for ever."""
    journal, tails = group.journal(number), tails_of(await log.bounds(group.inputs(number)))
    async for _, records, _ in log.read({journal: 0}, {journal: end}):
        for record in records:
            steps_of(record, None, tails)


def local_stores(settings: EngineSettings) -> list[Path]:
    """The stores of this data directory: one for each web port, or the one that `--datadir` names."""
    mine = settings.state_dir
    found = mine.parent.glob("state-*") if mine.name.startswith("state-") else [mine]
    return sorted(path for path in found if path.is_dir())


def stores_of(settings: EngineSettings, tasks: Collection[str]) -> list[Path]:
    """Those of these tasks, in every directory that holds stores."""
    found = (parent / task for parent in local_stores(settings) for task in sorted(tasks))
    return [path for path in found if path.is_dir()]


async def members(settings: EngineSettings) -> list[str]:
    """Where the running workers answer; where one does not say so, the host that it runs on."""
    client = AIOKafkaAdminClient(**settings.client_options)
    try:
        await client.start()
        found = []
        for response in await client.describe_consumer_groups([settings.app_id]):
            for _, _, state, _, _, in_it in (group[:6] for group in response.groups):
                told = [_url(metadata) or f"on {host}" for _, _, host, metadata, _ in in_it]
                found += told or ([] if state in NO_MEMBERS else [f"the group is {state}"])
        return sorted(found)
    finally:
        await client.close()


def _url(metadata: bytes) -> str | None:
    try:
        return Member.from_json(ConsumerProtocolMemberMetadata.decode(metadata).user_data).url
    except (ValueError, KeyError, TypeError):  # it is joining, or is no worker of ours
        return None


async def require_no_members(settings: EngineSettings) -> None:
    """Raise WorkersRunning before anything is touched; `forget_offsets` is the one that cannot be raced."""
    if found := await members(settings):
        raise WorkersRunning(RUNNING.format(group=settings.app_id, which=f" ({', '.join(found)})"))


async def forget_offsets(settings: EngineSettings) -> None:
    """Delete the group. The broker refuses while it has members, and that is the lock. Raises WorkersRunning."""
    client = AIOKafkaAdminClient(**settings.client_options)
    try:
        await client.start()
        coordinator = await client.find_coordinator(settings.app_id)
        response = await client._send_request_to_node(coordinator, DeleteGroupsRequest([settings.app_id]))
        for _, code in response.results:
            error = for_code(code)
            if error is NonEmptyGroup:
                raise WorkersRunning(RUNNING.format(group=settings.app_id, which=""))
            if code and error is not GroupIdNotFound:
                raise error(f"deleting group {settings.app_id}")
    finally:
        await client.close()


async def adopt(settings: EngineSettings, groups: Mapping[str, Group], topic: str) -> list[TopicPartition]:
    """Take in a topic that is new to a running application, or whose loss is accepted: it begins where it is now.

    An input gets the offset of its beginning, a changelog its identity, a journal its first record; partitions that
    have theirs are left alone. Gives the partitions taken in. Raises WorkersRunning, and KeyError for any other topic.
    """
    for group in groups.values():
        changelogs = {table.changelog for table in group.tables.values()}
        partitions = [TopicPartition(topic, number) for number in range(group.partitions)]
        if topic in group.agents:
            return await _adopt_input(settings, group, partitions)
        if topic in changelogs:
            return await _adopt_log(settings, partitions, IDENTITY)
        if topic == group.journal_topic:
            return await _adopt_log(settings, partitions, BEGAN)
    raise KeyError(topic)


async def _adopt_input(
    settings: EngineSettings, group: Group, partitions: Sequence[TopicPartition]
) -> list[TopicPartition]:
    """Begin where the topic begins now. Where records of it were taken before, their past is gone: the journal says so,
    and no replay takes the new ones for the old. Raises OffsetGone."""
    async with onlooker(settings) as consumer, PlainProducer(settings) as producer:
        consumer.assign(partitions)
        bounds = await KafkaLog(settings, consumer).bounds(partitions)
        committed = await committed_offsets(consumer, partitions)
        # Behind what is left of it, a topic was re-created; before it, records were deleted that no task had taken.
        wanted = {p: begin for p, (begin, end) in bounds.items() if not begin <= committed.get(p, -1) <= end}
        if wanted:
            await require_no_members(settings)
            last = await known_offsets(settings, consumer) | committed
            for p in sorted(wanted.keys() & last.keys()):
                await _say_adopted(producer, group, p, last[p], *bounds[p])
            try:
                await consumer.commit({p: (offset, BY_TASK) for p, offset in wanted.items()})
            except Exception as error:  # a group with members takes no commit from outside
                raise WorkersRunning(RUNNING.format(group=settings.app_id, which="")) from error
        return sorted(wanted)


async def _say_adopted(
    producer: PlainProducer, group: Group, partition: TopicPartition, last: int, begin: int, end: int
) -> None:
    name = f"{partition.topic}-{partition.partition}"
    if begin < last <= end:
        raise OffsetGone(
            f"{name} was taken up to {last}, and it has records until {end}: it is there, and its offset was deleted."
            " Taken in from its beginning, what it holds would count twice. Run `faust -A app offsets restore`"
        )
    if last > 0:
        said = orjson.dumps([partition.topic, begin])
        await producer.send(group.journal_topic, partition.partition, ADOPTED, said, ())


async def _adopt_log(
    settings: EngineSettings, partitions: Sequence[TopicPartition], key: bytes
) -> list[TopicPartition]:
    """Give each empty partition its first record; a changelog's value is its identity."""
    producer = AIOKafkaProducer(**settings.client_options, acks="all")
    consumer = AIOKafkaConsumer(**settings.client_options)
    try:
        await consumer.start()
        await producer.start()
        ends = await consumer.end_offsets(partitions)
        empty = [partition for partition in partitions if ends[partition] == 0]
        for partition in empty:
            await producer.send_and_wait(
                partition.topic,
                uuid.uuid4().hex.encode(),
                key=key,
                partition=partition.partition,
                timestamp_ms=0,
            )
        return empty
    finally:
        await producer.stop()
        await consumer.stop()
