"""Effects: what is done is committed, what is not is done again, and one key's records never overtake each other."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from random import Random

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from streams import App
from streams.effects import YIELD_S, Effect, EffectMetrics, Runner
from streams.records import Record, StoredRecord
from streams.sink import Backoff
from tests.waiting import until

HERE = TopicPartition("events", 0)


class Log:
    """One partition, its committed position, and whoever has it assigned."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.records = [StoredRecord("events", 0, n, 0, key.encode(), b"%d" % n, ()) for n, key in enumerate(keys)]
        self.kept: int | None = None
        self.generation, self.at, self.assigned = 0, 0, frozenset[TopicPartition]()
        self.refuses, self.rested, self.polled = False, 0, 0

    async def open(self) -> None:
        if not self.assigned:
            self.generation, self.assigned = self.generation + 1, frozenset({HERE})

    async def close(self) -> None:
        self.generation, self.assigned = self.generation + 1, frozenset()

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return {HERE: (0, len(self.records))}

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self.at = positions[HERE]

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        self.polled += 1
        await asyncio.sleep(0.001)
        got = self.records[self.at : self.at + max_records]
        self.at += len(got)
        return got

    async def rest(self, timeout_s: float) -> Sequence[Record]:
        self.rested += 1
        await asyncio.sleep(0.001)
        return ()

    def position(self, partition: TopicPartition) -> int:
        return self.at

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        return {HERE: self.kept}

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        if self.refuses:
            raise RuntimeError("another member has it")
        self.kept = positions[HERE]


def runner(log: Log, act: object, **more: int) -> Runner:
    pause = Backoff(0.001, 0.002)
    return Runner("t", log, act, EffectMetrics(CollectorRegistry()), poll_s=0.002, backoff=pause, **more)  # type: ignore[arg-type]


async def until_committed(running: Runner, log: Log, end: int) -> None:
    async with asyncio.timeout(10):
        while log.kept != end:  # noqa: ASYNC110  # the sleep is the wait that the runner asks for
            await asyncio.sleep(await running.step())


async def test_a_slow_deed_holds_its_position_and_its_key_and_nobody_else() -> None:
    log, gate, done = Log(["a", "b", "a", "b"]), asyncio.Event(), list[int]()

    async def act(record: Record) -> None:
        if record.offset == 0:
            await gate.wait()
        done.append(record.offset)

    running = runner(log, act)
    for _ in range(20):
        await running.step()
    assert (done, log.kept, running.open_records) == ([1, 3], None, 2)
    gate.set()
    await until_committed(running, log, 4)
    assert done == [1, 3, 0, 2]


async def test_a_deed_that_fails_is_done_again_and_nothing_of_its_key_before_it() -> None:
    log, done, chance = Log([str(n % 5) for n in range(100)]), list[int](), Random(7)

    async def act(record: Record) -> None:
        await asyncio.sleep(chance.random() / 1000)
        if chance.random() < 0.05:
            raise OSError("the log is away")
        done.append(record.offset)

    await until_committed(runner(log, act), log, 100)
    assert set(done) == set(range(100))
    for key in range(5):
        firsts = list(dict.fromkeys(offset for offset in done if offset % 5 == key))
        assert firsts == sorted(firsts), "what came later was never done first"


async def test_what_stands_behind_a_failed_deed_of_its_key_waits() -> None:
    log, done, fails = Log(["a", "a"]), list[int](), [True]

    async def act(record: Record) -> None:
        if record.offset == 0 and fails:
            fails.clear()
            raise OSError("the log is away")
        done.append(record.offset)

    await until_committed(runner(log, act), log, 2)
    assert done == [0, 1]


async def test_what_was_not_committed_is_done_again_by_the_next() -> None:
    log, done = Log(["a", "b"]), list[int]()

    async def act(record: Record) -> None:
        done.append(record.offset)

    log.refuses = True
    first = runner(log, act)
    for _ in range(5):
        await first.step()
    log.refuses = False
    await until_committed(runner(log, act), log, 2)
    assert done.count(0) >= 2


async def test_a_partition_that_moves_away_takes_its_deeds_with_it() -> None:
    log, cut = Log(["a"]), list[int]()

    async def act(record: Record) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cut.append(record.offset)
            raise

    running = runner(log, act)
    for _ in range(5):
        await running.step()
    assert running.open_records == 1
    log.generation, log.assigned = log.generation + 1, frozenset({HERE})
    log.kept = 1  # the other one did it
    await running.step()
    assert (cut, running.open_records, log.kept) == ([0], 0, 1)


async def test_there_is_a_bound_on_what_is_open() -> None:
    log, most = Log([str(n) for n in range(50)]), 0
    at_work = 0

    async def act(record: Record) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1

    running = runner(log, act, at_once=3, most_open=10)
    async with asyncio.timeout(10):
        while log.kept != 50:
            await running.step()
            assert running.open_records <= 10
    assert most == 3


@pytest.mark.parametrize("timeout_s", [0.0, 1.0])
async def test_the_end_waits_for_deeds_as_long_as_it_may(timeout_s: float) -> None:
    log = Log(["a", "b"])

    async def act(record: Record) -> None:
        await asyncio.sleep(0.05)

    running = runner(log, act)
    await running.step()
    await running.finish(timeout_s)
    assert log.kept == (2 if timeout_s else None)


async def test_what_nobody_wants_is_passed_over_unread_and_what_somebody_wants_is_not() -> None:
    log, done, wanted = Log(["a"] * 100), list[int](), [False]

    async def act(record: Record) -> None:
        done.append(record.offset)

    async def unwanted() -> bool:
        return not wanted[0]

    running = runner(log, act)
    running.unwanted = unwanted
    await until_committed(running, log, 100)
    await running.step()
    assert (done, log.polled) == ([], 0) and log.rested >= 1
    wanted[0] = True
    log.records += [log.records[0]._replace(offset=n) for n in range(100, 103)]
    await until_committed(running, log, 103)
    assert done == [100, 101, 102]
    wanted[0] = False
    log.records += [log.records[0]._replace(offset=103)]
    await until_committed(running, log, 104)
    assert done == [100, 101, 102]


async def test_a_wish_that_comes_while_the_end_is_looked_up_loses_nothing() -> None:
    """What was committed before the wish may be passed over; what comes after it may not."""
    log, done, wishes = Log(["a"] * 5), list[int](), list[int]()
    looked_up, looks = log.bounds, list[int]()

    async def act(record: Record) -> None:
        done.append(record.offset)

    async def unwanted() -> bool:
        return not wishes

    async def bounds(partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        looks.append(1)
        if len(looks) == 2:  # the first look is that of the assignment
            wishes.append(1)
            log.records.append(log.records[0]._replace(offset=5))
        return await looked_up(partitions)

    running = runner(log, act)
    running.unwanted = unwanted
    log.bounds = bounds  # type: ignore[method-assign]
    await until_committed(running, log, 6)
    assert 5 in done


async def test_under_pressure_it_looks_less_often() -> None:
    log = Log(["a"] * 3)

    async def act(record: Record) -> None:
        return None

    running = runner(log, act)
    running.pressed = lambda: True
    assert await running.step() == YIELD_S
    assert await running.step() == 0.0, "nothing came: nothing to make up for"


async def test_a_version_that_is_not_live_does_nothing_outside_and_loses_nothing() -> None:
    """It finishes and commits what is under way, leaves the partitions to others, and goes on when it is its turn."""
    log, done, live = Log("abcdef"), list[bytes | None](), False

    async def act(record: Record) -> None:
        await asyncio.sleep(0.005)
        done.append(record.key)

    app = App("test", data_dir=Path("unused"), broker="kafka://127.0.0.1:9")
    effect = Effect(app, "test", ["events"], act, source=log, works=lambda: live)
    await effect.start()
    await asyncio.sleep(0.05)
    assert (done, log.polled, effect.health().connected) == ([], 0, True)
    live = True
    await until(lambda: len(done) == 6)
    live = False
    await until(lambda: not log.assigned)
    assert log.kept == 6, "what was done is committed"
    assert "stands by" in effect.health().detail
    await effect.stop()
    assert len(done) == 6
