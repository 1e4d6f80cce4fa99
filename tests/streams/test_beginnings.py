"""An effect whose offsets are lost does nothing; it never takes that for its first start and does everything again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson
import pytest
from prometheus_client import CollectorRegistry

from streams import admin
from streams.beginnings import Beginnings, OffsetsLost, find_starts
from streams.driver import MemoryLog
from streams.effects import CommittedSource, EffectMetrics, Runner
from streams.following import KafkaTail
from streams.moving import Mover
from streams.positions import positions_of_effects, restore
from streams.producer import PlainProducer
from streams.records import Headers, Outgoing, Record, TopicPartition
from streams.reset import forget_offsets
from streams.settings import EngineSettings
from streams.sink import Backoff
from tests.agents.effects.outbound import MemorySource, MemoryTail
from tests.processes import RunningStack

TOPIC = "effects"
EVENTS = TopicPartition("events", 0)


class Place:
    """A log in memory with ten events, the offsets of one group, and the topic of beginnings."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.kept: dict[TopicPartition, int] = {}
        self.done: list[int] = []
        for number in range(10):
            self.log.append(EVENTS, Outgoing(0, b"k", b"%d" % number))

    async def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        self.log.append(TopicPartition(topic, partition), Outgoing(0, key, value))

    def beginnings(self) -> Beginnings:
        """Those of a worker that has just started: nothing is known yet."""
        return Beginnings(MemoryTail(self.log), TOPIC, self.produce)

    def runner(self, group: str = "app-mail") -> Runner:
        async def act(record: Record) -> None:
            self.done.append(record.offset)

        source = MemorySource(self.log, [EVENTS.topic], 1, self.kept)
        runner = Runner("mail", source, act, EffectMetrics(CollectorRegistry()), backoff=Backoff(0.001, 0.001))
        runner.group, runner.beginnings, runner.poll_s = group, self.beginnings(), 0.001
        return runner

    async def run(self, runner: Runner) -> None:
        for _ in range(5):
            await runner.step()
        await runner.finish(1.0)


async def test_an_effect_begins_once_and_goes_on_from_its_offset() -> None:
    place = Place()
    await place.run(place.runner())
    assert place.done == list(range(10)) and place.kept == {EVENTS: 10}
    await place.run(place.runner())
    assert place.done == list(range(10))
    (record,) = place.log.topics[TopicPartition(TOPIC, 0)]
    assert record.value is not None
    assert orjson.loads(record.value).items() > {"group": "app-mail", "topic": "events", "offset": 0}.items()


async def test_lost_offsets_stop_it_and_the_message_names_the_command() -> None:
    place = Place()
    await place.run(place.runner())
    place.done.clear()
    place.kept.clear()  # they expired
    runner = place.runner()
    await runner.step()
    assert place.done == [] and runner.error is not None
    assert "no offset is committed for events-0" in runner.error and "faust -A app offsets restore" in runner.error
    place.kept[EVENTS] = 7  # an operator has put it back
    await place.run(runner)
    assert place.done == [7, 8, 9]


async def test_another_effect_on_the_same_topic_begins_at_the_beginning() -> None:
    place = Place()
    await place.run(place.runner())
    place.done.clear()
    place.kept.clear()
    await place.run(place.runner("app-other"))
    assert place.done == list(range(10))


async def test_an_effect_that_ran_before_there_was_a_proof_gets_one() -> None:
    place = Place()
    place.kept[EVENTS] = 4
    await place.run(place.runner())
    assert place.done == [4, 5, 6, 7, 8, 9]
    assert await place.beginnings().begun("app-mail", [EVENTS]) == {EVENTS}


async def test_a_crash_before_the_first_commit_is_no_loss() -> None:
    """The first offset is committed before the record that it has begun is written."""
    place = Place()
    source = MemorySource(place.log, [EVENTS.topic], 1, place.kept)
    await source.open()
    assert await find_starts("mail", "app-mail", source, [EVENTS], place.beginnings()) == {EVENTS: 0}
    assert place.kept == {EVENTS: 0}
    await place.run(place.runner())
    assert place.done == list(range(10))


async def test_a_mover_stops_for_lost_offsets_too() -> None:
    place = Place()
    beginnings = place.beginnings()
    await beginnings.write("app-inbox", {EVENTS: 0})
    moved: list[int] = []

    async def make(records: object) -> list[tuple[TopicPartition, Outgoing]]:
        moved.append(1)
        return []

    source = MemorySource(place.log, [EVENTS.topic], 1, place.kept)
    metrics = EffectMetrics(CollectorRegistry())
    mover = Mover("inbox", source, place.log.transactions, make, metrics, Backoff(0.001, 0.001))
    mover.group, mover.beginnings = "app-inbox", beginnings
    await mover.step()
    assert moved == [] and mover.error is not None and "OffsetsLost" in mover.error


async def test_on_a_broker_a_deleted_group_is_found_and_restored(clean_stack: RunningStack) -> None:
    """A group is deleted, as when its offsets expire; `offsets restore` finds what its effect committed last."""
    stack = clean_stack
    await admin.create(stack.kafka, [admin.TopicConfig(name, 1) for name in (EVENTS.topic, TOPIC)])
    settings = EngineSettings("app-mail", stack.kafka, stack.data_dir)
    async with PlainProducer(settings) as producer:
        for _ in range(10):
            await producer.send(EVENTS.topic, 0, b"k", b"v", ())

        async def begin() -> Mapping[TopicPartition, int]:
            source = CommittedSource(stack.kafka, "app-mail", [EVENTS.topic])
            beginnings = Beginnings(KafkaTail(lambda: settings.brokers), TOPIC, producer.send)
            try:
                await source.open()
                async with asyncio.timeout(60):
                    while not source.assigned:
                        await source.poll(1, 0.1)
                starts = await find_starts("mail", "app-mail", source, source.assigned, beginnings)
                await source.commit({EVENTS: 6})
                return starts
            finally:
                await source.close()
                await beginnings.close()

        assert await begin() == {EVENTS: 0}
        await forget_offsets(settings)
        with pytest.raises(OffsetsLost):
            await begin()
        rows = await positions_of_effects(settings, {"app-mail": [EVENTS]})
        assert [(row.now, row.last, row.group) for row in rows] == [(None, 6, "app-mail")]
        await restore(settings, rows)
        assert await begin() == {EVENTS: 6}
