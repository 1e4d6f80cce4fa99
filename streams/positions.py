"""the broker's own topic of offsets -> what a group's tasks have committed last, also where it was deleted since.

Kafka keeps the offsets of groups in `__consumer_offsets`, a compacted topic: what is deleted, has expired or was set by
hand stays in it until the cleaner comes by, which leaves the newest segment alone. Format: Kafka's OffsetCommitKey
(versions 0 and 1) and OffsetCommitValue (0 to 4), big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from streams import admin
from streams.committed import committed_by
from streams.kafka import KafkaLog, onlooker
from streams.log import Log
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.topology import Group
from streams.transactions import BY_TASK

TOPIC = "__consumer_offsets"


class Committed(NamedTuple):
    """An offset and what its committer wrote beside it."""

    offset: int
    beside: str


class Position(NamedTuple):
    """One input of a task, its journal, or a topic of an effect: what is committed now, and what its task or effect has
    committed last.

    None: nothing is, or the broker does not know it any more. `group`: the consumer group; empty is the application's.
    """

    partition: TopicPartition
    now: int | None
    last: int | None
    group: str = ""

    @property
    def restorable(self) -> bool:
        return self.last is not None and self.now != self.last


def group_partition(group: str, count: int) -> int:
    """Where the broker keeps a group: the absolute value of Java's String.hashCode (Kafka's Utils.abs)."""
    value = 0
    units = group.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return (0 if signed == -(1 << 31) else abs(signed)) % count


def read_key(raw: bytes) -> tuple[str, TopicPartition] | None:
    """Group and partition; None for what is no offset (the members of a group)."""
    (version,) = struct.unpack_from(">h", raw)
    if version > 1:
        return None
    group, at = _text(raw, 2)
    topic, at = _text(raw, at)
    return group, TopicPartition(topic, struct.unpack_from(">i", raw, at)[0])


def read_value(raw: bytes) -> Committed:
    """Raises ValueError for a version that Kafka had not yet when this was written."""
    version, offset = struct.unpack_from(">hq", raw)
    match version:
        case 0 | 1 | 2:
            return Committed(offset, _text(raw, 10)[0])
        case 3:
            return Committed(offset, _text(raw, 14)[0])
        case 4:
            return Committed(offset, _compact(raw, 14))
    raise ValueError(f"{TOPIC} has values of version {version}, which is not known here")


def _text(raw: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", raw, at)
    end = at + 2 + max(0, length)
    return raw[at + 2 : end].decode(), end


def _compact(raw: bytes, at: int) -> str:
    """Kafka's compact string: the length and one, in pieces of seven bits, the lowest first."""
    length = shift = 0
    while True:
        byte = raw[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return raw[at : at + max(0, length - 1)].decode()


async def last_of_tasks(log: Log, group: str, count: int) -> dict[TopicPartition, int]:
    """By partition the last offset that a task has committed. Older versions wrote nothing beside it: the last."""
    place = TopicPartition(TOPIC, group_partition(group, count))
    (begin, end) = (await log.bounds([place]))[place]
    by_task: dict[TopicPartition, int] = {}
    by_any: dict[TopicPartition, int] = {}
    async for _, records, _ in log.read({place: begin}, {place: end}):
        for record in records:
            key = read_key(record.key) if record.key is not None else None
            if key is not None and key[0] == group and record.value is not None:
                found = read_value(record.value)
                (by_task if found.beside == BY_TASK else by_any)[key[1]] = found.offset
    return by_any | by_task


def partitions_of(groups: Collection[Group]) -> list[TopicPartition]:
    """All that tasks commit offsets of. A journal has one only after its task was replayed."""
    tasks = [(group, number) for group in groups for number in range(group.partitions) if group.agents]
    return [tp for group, number in tasks for tp in (*group.inputs(number), group.journal(number))]


async def positions(settings: EngineSettings, groups: Mapping[str, Group]) -> list[Position]:
    """What is committed and what was; those of which neither is known are left out."""
    return await _compare(settings, partitions_of(groups.values()))


async def positions_of_effects(
    settings: EngineSettings, effects: Mapping[str, Sequence[TopicPartition]]
) -> list[Position]:
    """The same for the consumer groups of effects and movers, each with its partitions."""
    found: list[Position] = []
    for group, wanted in effects.items():
        rows = await _compare(replace(settings, app_id=group), wanted)
        found += [each._replace(group=group) for each in rows]
    return found


async def _compare(settings: EngineSettings, wanted: Sequence[TopicPartition]) -> list[Position]:
    async with onlooker(settings) as consumer:
        now = await committed_by(consumer, wanted)
        last = await known_offsets(settings, consumer)
        # What a task has committed and nobody has touched since needs no second witness.
        found = [Position(tp, now[tp][0] if tp in now else None, _last(now.get(tp), last.get(tp))) for tp in wanted]
        return [each for each in found if each.now is not None or each.last is not None]


async def known_offsets(settings: EngineSettings, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """What tasks have committed last, as far as the broker remembers it."""
    count = (await admin.partition_counts(settings.brokers)).get(TOPIC, 0)
    return await last_of_tasks(KafkaLog(settings, consumer), settings.app_id, count) if count else {}


def _last(now: tuple[int, str] | None, last: int | None) -> int | None:
    return now[0] if now is not None and now[1] == BY_TASK else last


async def restore(settings: EngineSettings, wanted: Sequence[Position]) -> None:
    """Commit them, as tasks and effects would. No member may be in the groups: the broker then refuses."""
    for group in sorted({each.group for each in wanted}):
        mine = [each for each in wanted if each.group == group and each.last is not None]
        offsets = {each.partition: (each.last, BY_TASK) for each in mine}
        async with onlooker(replace(settings, app_id=group or settings.app_id)) as consumer:
            consumer.assign(list(offsets))
            await consumer.commit(offsets)
