"""The sink's protocol over an in-memory log and a destination that fails where it is told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from streams.records import Record, StoredRecord, TopicPartition
from streams.sink import (
    MAX_YIELD_S,
    SET_ASIDE_EVERY_S,
    Backoff,
    Mark,
    Move,
    PositionConflict,
    Pump,
    Sink,
    SinkMetrics,
    Standing,
    Written,
    masked,
)
from tests.waiting import until

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)


class MemoryTopic:
    """Partitions of records. `None` stands for a commit marker: an offset that no reader ever sees."""

    def __init__(self, *partitions: TopicPartition, now: int = 1_700_000_000_000) -> None:
        self.now = now
        self.first = dict.fromkeys(partitions, 0)
        self.records: dict[TopicPartition, list[StoredRecord | None]] = {partition: [] for partition in partitions}

    def append(self, partition: TopicPartition, *values: bytes | None) -> None:
        log = self.records[partition]
        for value in values:
            record = StoredRecord(partition.topic, partition.partition, len(log), self.now, b"k", value)
            log.append(None if value is None else record)


class MemorySource:
    """A member of a group: reads what it is given. `fault` is raised by the next call that reads."""

    def __init__(self, topic: MemoryTopic) -> None:
        self.topic, self.generation = topic, 0
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.at: dict[TopicPartition, int] = {}
        self.opened = self.sought = False
        self.fault: Exception | None = None
        self.polled = 0

    def assign(self, *partitions: TopicPartition) -> None:
        self.generation, self.assigned = self.generation + 1, frozenset(partitions)
        self.at, self.sought = dict.fromkeys(partitions, 0), False

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        await asyncio.sleep(0)
        return {p: (self.topic.first[p], len(self.topic.records[p])) for p in partitions}

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self.at, self.sought = dict(positions), True

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        await asyncio.sleep(0)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        found: list[Record] = []
        for partition in sorted(self.at) if self.sought else ():
            log = self.topic.records[partition]
            while self.at[partition] < len(log) and len(found) < max_records:
                record = log[self.at[partition]]
                self.at[partition] += 1
                if record is not None:
                    found.append(record)
        self.polled = max(self.polled, len(found))
        return found

    def position(self, partition: TopicPartition) -> int:
        return self.at[partition]


class MemoryDestination:
    """Rows and positions that change together. `before` and `after` it a write raises what it is told to, once each."""

    def __init__(self) -> None:
        self.rows: list[bytes | None] = []
        self.at: dict[TopicPartition, int] = {}
        self.last: dict[TopicPartition, Mark | None] = {}
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.down = False
        self.sizes: list[int] = []
        self.aside = 0

    async def set_aside(self) -> int:
        return self.aside

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Standing]:
        await asyncio.sleep(0)
        if self.down:
            raise ConnectionRefusedError("postgres://writer:hunter2@db:5432/orders refused the connection")
        return {p: Standing(self.at[p], self.last.get(p)) for p in partitions if p in self.at}

    async def write(self, records: Sequence[Record], moves: Mapping[TopicPartition, Move]) -> Written:
        self.sizes.append(len(records))
        await asyncio.sleep(0)
        if self.down:
            raise ConnectionResetError("the connection is gone")
        if self.before:
            raise self.before.pop()
        for partition, move in moves.items():
            if self.at.get(partition) != move.expected:
                raise PositionConflict(f"{partition} is at {self.at.get(partition)}, not at {move.expected}")
        self.rows += [record.value for record in records]
        self.at |= {partition: move.next for partition, move in moves.items()}
        self.last |= {partition: move.last for partition, move in moves.items() if move.last}
        if self.after:
            raise self.after.pop()
        return Written({"rows": len(records)})

    async def close(self) -> None:
        pass


def pump(source: MemorySource, destination: Any, **settings: Any) -> Pump:
    ticks = count()
    metrics, backoff = SinkMetrics(CollectorRegistry()), Backoff(chance=random.Random(1))
    clock: dict[str, Any] = {"poll_s": 0, "backoff": backoff, "now_s": lambda: float(next(ticks))}
    return Pump("test", source, destination, metrics, **clock, **settings)


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic(P0, P1)


@pytest.fixture
def source(topic: MemoryTopic) -> MemorySource:
    member = MemorySource(topic)
    member.assign(P0, P1)
    return member


@pytest.fixture
def destination() -> MemoryDestination:
    return MemoryDestination()


def metric(of: Pump, name: str, **labels: str) -> float | None:
    samples = getattr(of.metrics, name).collect()[0].samples
    return next((sample.value for sample in samples if labels.items() <= sample.labels.items()), None)


async def test_writes_records_and_positions_together(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b", None)
    topic.append(P1, b"c")
    sink = pump(source, destination)
    assert await sink.step() == 0
    assert destination.rows == [b"a", b"b", b"c"]
    assert destination.at == {P0: 3, P1: 1}, "the commit marker at the end is passed, so that the lag is 0"
    assert sink.health().lag == 0
    assert metric(sink, "records", topic="events") == 3
    assert metric(sink, "lag", partition="0") == 0


async def test_while_records_wait_for_the_worker_each_write_is_followed_by_a_pause(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    waiting = True
    sink = pump(source, destination, pressed=lambda: waiting)
    topic.append(P0, b"a")
    assert 0 < await sink.step() <= MAX_YIELD_S
    assert await sink.step() == 0, "nothing was written, so there is nothing to make up for"
    waiting = False
    topic.append(P0, b"b")
    assert await sink.step() == 0
    assert destination.rows == [b"a", b"b"]


async def test_goes_on_where_the_destination_stands(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b", b"c")
    destination.at = {P0: 2}
    await pump(source, destination).step()
    assert destination.rows == [b"c"]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_an_error_before_or_after_the_commit_loses_and_doubles_nothing(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination, where: str
) -> None:
    topic.append(P0, b"a", b"b")
    getattr(destination, where).append(ConnectionResetError("reset"))
    sink = pump(source, destination)
    assert await sink.step() > 0
    topic.append(P0, b"c")
    assert await sink.step() == 0
    assert destination.rows == [b"a", b"b", b"c"]
    assert destination.at[P0] == 3
    assert metric(sink, "errors", reason="ConnectionResetError") == 1


async def test_a_zombie_writes_nothing_and_reads_the_positions_again(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b")
    zombie = pump(source, destination)
    assert await zombie.step() == 0
    topic.append(P0, b"c", b"d")
    other = MemorySource(topic)
    other.assign(P0, P1)
    await pump(other, destination).step()
    assert await zombie.step() > 0, "it stands at 2 and the destination at 4"
    assert destination.rows == [b"a", b"b", b"c", b"d"]
    assert metric(zombie, "conflicts") == 1
    topic.append(P0, b"e")
    assert await zombie.step() == 0
    assert destination.rows[-2:] == [b"d", b"e"]


async def test_a_destination_emptied_under_way_is_filled_again_from_the_start(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b")
    sink = pump(source, destination)
    await sink.step()
    destination.rows, destination.at = [], {}  # what a rebuild does
    topic.append(P0, b"c")
    await sink.step()
    await sink.step()
    assert destination.rows == [b"a", b"b", b"c"]


async def test_down_at_the_start_and_later_is_waited_for_ever_longer(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    destination.down = True
    sink = pump(source, destination)
    waits = [await sink.step() for _ in range(12)]
    assert all(0 < wait <= 15 for wait in waits)
    assert waits[-1] > 5 > waits[3] > waits[0]
    health = sink.health()
    assert not health.connected
    assert "hunter2" not in health.detail and "postgres://writer:***@db" in health.detail
    destination.down = False
    assert await sink.step() == 0
    assert destination.rows == [b"a"]
    assert sink.health().connected and "last error" not in sink.health().detail
    destination.down = True
    topic.append(P0, b"b")
    assert 0 < await sink.step() <= 0.1, "the wait begins small again"


async def test_the_lag_grows_in_sight_while_the_destination_is_away(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    sink = pump(source, destination)
    await sink.step()
    destination.down = True
    topic.append(P0, *[b"x"] * 50)
    for _ in range(5):
        await sink.step()
        topic.append(P0, b"y")
    for _ in range(5):
        await sink.step()
    assert sink.health().lag == 55
    assert metric(sink, "lag", partition="0") == 55


async def test_a_destination_away_from_the_very_start_is_seen_to_fall_behind(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    """How far it had come nobody knows: what has arrived since is the least that it is behind."""
    topic.append(P0, *[b"x"] * 50)
    destination.down = True
    sink = pump(source, destination)
    for _ in range(5):
        await sink.step()
    assert metric(sink, "lag", partition="0") == 0
    topic.append(P0, *[b"y"] * 7)
    for _ in range(5):
        await sink.step()
    assert sink.health().lag == 7 == metric(sink, "lag", partition="0")
    destination.down = False
    await sink.step()
    assert sink.health().lag == 0 and len(destination.rows) == 57


async def test_a_destination_frozen_within_a_write_is_seen_to_fall_behind(
    topic: MemoryTopic, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.sink.LAG_EVERY_S", 0.01)
    thawed = asyncio.Event()

    class Frozen(MemoryDestination):
        async def write(self, records: Sequence[Record], moves: Mapping[TopicPartition, Move]) -> Written:
            await thawed.wait()
            return await super().write(records, moves)

    topic.append(P0, b"a")
    destination = Frozen()
    sink = pump(source, destination)
    step = asyncio.create_task(sink.step())
    await asyncio.sleep(0.05)
    topic.append(P0, b"b", b"c")
    await asyncio.sleep(0.05)
    assert metric(sink, "lag", partition="0") == 3
    thawed.set()
    assert await step == 0
    assert destination.rows == [b"a"]


async def test_a_failed_write_is_tried_again_in_smaller_pieces_and_then_in_larger_ones(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, *[b"%d" % n for n in range(100)])
    destination.before = [TimeoutError(), TimeoutError()]
    sink = pump(source, destination, max_records=32)
    while len(destination.rows) < 100:
        await sink.step()
    assert destination.sizes == [32, 16, 8, 16, 32, 32, 12]
    assert destination.rows == [b"%d" % n for n in range(100)]


async def test_records_polled_for_an_assignment_that_ended_are_not_written(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    topic.append(P1, b"b")

    class Moves(MemorySource):
        async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
            records = await super().poll(max_records, timeout_s)
            if self.generation == 1:
                self.assign(P1)
            elif self.generation == 2:
                self.assign(P1)  # the same again, as a rebalance that changes nothing
            return records

    moving = Moves(topic)
    moving.assign(P0, P1)
    sink = pump(moving, destination)
    for _ in range(2):
        assert await sink.step() == 0
        assert destination.rows == [] and destination.at == {}
    await sink.step()
    assert destination.rows == [b"b"]
    assert metric(sink, "lag", partition="0") is None, "another worker shows that one now"


async def test_a_failed_source_is_left_and_joined_again(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    source.fault = RuntimeError("UnknownError")
    sink = pump(source, destination)
    assert await sink.step() > 0
    assert not source.opened
    assert await sink.step() == 0
    assert source.opened and destination.rows == [b"a"]


async def test_a_log_shorter_than_the_destination_is_named_and_nothing_is_written(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    destination.at = {P0: 700}
    sink = pump(source, destination)
    assert await sink.step() > 0
    assert "events-0 up to 700, but the log ends at 1" in (sink.health().last_error or "")
    assert destination.rows == []


async def test_a_topic_made_anew_and_grown_longer_is_noticed(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b", None)
    await pump(source, destination).step()
    source.topic = anew = MemoryTopic(P0, P1, now=topic.now + 1)
    anew.append(P0, b"c", b"d", b"e", b"f", b"g")
    sink = pump(source, destination)
    assert await sink.step() > 0
    assert "the last record written is not there" in (sink.health().last_error or "")
    assert destination.rows == [b"a", b"b"]
    source.topic = topic
    topic.append(P0, b"c")
    assert await sink.step() == 0
    assert destination.rows == [b"a", b"b", b"c"]


async def test_a_topic_made_anew_with_a_marker_in_that_place_is_noticed(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b")
    await pump(source, destination).step()
    source.topic = anew = MemoryTopic(P0, P1, now=topic.now + 1)
    anew.append(P0, b"c", None, None)
    sink = pump(source, destination)
    assert await sink.step() > 0
    assert "not there" in (sink.health().last_error or "") and destination.rows == [b"a", b"b"]


async def test_offsets_deleted_before_they_were_read_are_counted(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a", b"b", b"c", b"d")
    topic.first[P0] = 3
    destination.at = {P0: 1}
    sink = pump(source, destination)
    await sink.step()
    assert destination.rows == [b"d"] and destination.at[P0] == 4
    assert metric(sink, "skipped") == 2


@pytest.mark.parametrize("seed", range(30))
async def test_two_members_and_faults_at_random_leave_every_record_once_and_in_order(
    topic: MemoryTopic, destination: MemoryDestination, seed: int
) -> None:
    chance = random.Random(seed)
    members = [MemorySource(topic), MemorySource(topic)]
    sinks = [pump(member, destination, max_records=7) for member in members]
    sent: dict[TopicPartition, list[bytes]] = {P0: [], P1: []}
    for n in range(300):
        match chance.randrange(8):
            case 0 | 1 | 2:
                partition, value = chance.choice([P0, P1]), b"%d" % n
                topic.append(partition, value, *[None] * chance.randrange(2))
                sent[partition].append(value)
            case 3:
                chance.choice([destination.before, destination.after]).append(OSError("fault"))
            case 4:  # an assignment; the other member does not hear of it: a zombie, as long as it lasts
                members[chance.randrange(2)].assign(*chance.sample([P0, P1], chance.randrange(3)))
            case _:
                await asyncio.gather(*(sink.step() for sink in chance.choice([sinks, sinks[:1], sinks[1:]])))
    destination.before, destination.after = [], []
    members[0].assign(P0, P1)
    for _ in range(100):
        await sinks[0].step()
    by_value = {value: partition for partition, values in sent.items() for value in values}
    for partition, values in sent.items():
        assert [row for row in destination.rows if row and by_value[row] == partition] == values
    assert len(by_value) > 50 and sinks[0].health().lag == 0


async def test_the_service_outlives_a_broken_pump_and_stops_after_the_write_in_hand(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    sink = Sink(None, "test", ["events"], destination, source=source, metrics=SinkMetrics(CollectorRegistry()))
    await sink.start()
    for _ in range(200):
        if destination.rows:
            break
        await asyncio.sleep(0.01)
    await sink.stop()
    assert destination.rows == [b"a"]
    assert not source.opened


async def test_a_version_that_is_not_live_leaves_the_copy_to_others(
    topic: MemoryTopic, source: MemorySource, destination: MemoryDestination
) -> None:
    topic.append(P0, b"a")
    metrics, live = SinkMetrics(CollectorRegistry()), False
    sink = Sink(None, "test", ["events"], destination, source=source, metrics=metrics, works=lambda: live)
    await sink.start()
    await asyncio.sleep(0.05)
    assert not destination.rows and not source.opened
    live = True
    await until(lambda: bool(destination.rows))
    assert source.opened
    live = False
    await until(lambda: not source.opened)
    await sink.stop()
    assert destination.rows == [b"a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:s3cret@h/db refused", "postgresql://u:***@h/db refused"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        ("sasl_plain_password: 'a b c', x", "sasl_plain_password: ***, x"),
        ("connection refused at 127.0.0.1:5432", "connection refused at 127.0.0.1:5432"),
    ],
)
def test_secrets_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


async def test_what_the_destination_keeps_aside_is_counted_until_somebody_has_dealt_with_it(
    source: MemorySource, destination: MemoryDestination
) -> None:
    sink = pump(source, destination)
    destination.aside = 2
    await sink.step()
    assert sink.health().set_aside == 2 and "2 records set aside" in sink.health().detail
    destination.aside = 0
    for _ in range(int(SET_ASIDE_EVERY_S) + 1):  # the clock of these tests goes on by a second with each look at it
        await sink.step()
    assert sink.health().set_aside == 0 and "set aside" not in sink.health().detail
