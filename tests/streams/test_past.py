"""A fold of a task's past ends in the rows that the task has, at any moment that ever was, and says what it said."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from streams.driver import Driver
from streams.fold import Fold, Said
from streams.journal import STEPS, Step
from streams.past import Cursor, cursor_of, past_of, reached, steps_of
from streams.records import StoredRecord, TopicPartition
from streams.store import MemoryStore
from tests.streams.test_journal import live
from tests.streams.toy import make_app

Rows = dict[str, dict[bytes, bytes]]


def held(driver: Driver, partition: int) -> Rows:
    """What the task has in its store, raw."""
    task = driver.tasks[f"words-{partition}"]
    return {name: dict(task.store.range(name, b"\x01", b"\xff", False)) for name in task.group.tables}


async def folded(driver: Driver, partition: int, until: Mapping[TopicPartition, int]) -> tuple[Rows, list[Said]]:
    """By an app of its own, which has nothing from the driver but the log."""
    group = make_app(Path("unused")).groups["words"]
    fold, said = Fold(group, partition, MemoryStore(), TopicPartition("dead_letters.v1", partition)), list[Said]()
    async for act in past_of(driver.log, group, partition, until):
        said += await fold.take(act)
    rows = {name: dict(fold.rows(name)) for name in group.tables}
    await fold.close()
    return rows, said


@pytest.mark.parametrize("seed", range(30))
async def test_any_moment_is_folded_to_the_rows_of_then(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 2, 7, 100])) as driver:
        moments = []
        for part in range(4):
            if part == 2 and seed % 3 == 0:
                await driver.replay()
                await driver.run()
            await live(driver, chance, 25)
            moments.append(
                (await reached(driver.log, list(driver.app.groups.values())), held(driver, 0), held(driver, 1))
            )
        for until, *rows in moments:  # in hindsight: the journal has gone on
            assert [(await folded(driver, number, until))[0] for number in range(2)] == rows


@pytest.mark.parametrize("seed", range(20))
async def test_a_fold_goes_on_from_where_another_stopped(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 2, 7, 100])) as driver:
        groups, stops = list(driver.app.groups.values()), []
        for _ in range(3):
            await live(driver, chance, 25)
            stops.append(await reached(driver.log, groups))
        for number in range(2):
            group, store, cursor = make_app(Path("unused")).groups["words"], MemoryStore(), None
            for until in stops:
                fold = Fold(group, number, store, TopicPartition("dead_letters.v1", number))
                async for act in past_of(driver.log, group, number, until, cursor):
                    await fold.take(act)
                fold.keep()
                await fold.close()
                cursor = await cursor_of(driver.log, group, number, until)
            assert {name: dict(store.range(name, b"\x01", b"\xff", False)) for name in group.tables} == held(
                driver, number
            )


@pytest.mark.parametrize("seed", range(10))
async def test_what_it_says_is_what_was_said(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 7])) as driver:
        await live(driver, chance)
        until = await reached(driver.log, list(driver.app.groups.values()))
        for number in range(2):
            _, said = await folded(driver, number, until)
            sent = [
                StoredRecord(each.to.topic, each.to.partition, 0, *each.fields) for one in said for each in one.sent
            ]
            for topic in ("counted", "dead_letters.v1"):
                mine = [record._replace(offset=0) for record in driver.read(topic) if record.partition == number]
                assert [record for record in sent if record.topic == topic] == mine, topic
        assert driver.read("counted") and driver.read("dead_letters.v1")


async def test_a_task_that_was_reset_counts_as_far_as_it_had_come(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(5))
        groups = list(driver.app.groups.values())
        before, rows = await reached(driver.log, groups), held(driver, 0)
        await driver.replay()
        await driver.tasks["words-0"].step(0.0)
        after = await reached(driver.log, groups)
        assert [after[tp] for tp in driver.tasks["words-0"].inputs] == [
            before[tp] for tp in driver.tasks["words-0"].inputs
        ]
        assert (await folded(driver, 0, after))[0] == rows


def test_a_fold_that_goes_on_takes_no_step_twice() -> None:
    record = StoredRecord("toy-words-journal", 0, 4, 0, STEPS, b'[["words",2],[null,17],["reminders",1]]')
    tails = {"words": 5, "reminders": 5}
    steps = [(0, Step("words", 2)), (1, Step(None, 17)), (2, Step("reminders", 1))]
    assert steps_of(record, None, tails) == steps_of(record, Cursor({}, 3, 2), tails) == steps
    assert steps_of(record, Cursor({}, 4, 2), tails) == steps[2:]
    assert steps_of(record, Cursor({}, 5, 0), tails) == []
    assert steps_of(record._replace(key=b"replayed"), None, tails) == []
