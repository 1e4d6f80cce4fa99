"""Deadlines of a group: the next one is found without a pass over those that are gone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from streams import App, Event, Stream
from streams.batch import CommittedView, using
from streams.driver import Driver
from streams.errors import Misdeclared
from streams.task import Task

ROWS = "plans_deadlines"


def make_app(directory: Path) -> App:
    """`plans`: each record schedules deadlines and cancels some; what falls due goes to `fired`."""
    app = App("plan", data_dir=directory, broker="kafka://127.0.0.1:9")
    plans = app.topic("plans", group="plans", partitions=1)
    fired = app.topic("fired", partitions=1)
    app.topic("dead_letters.v1", partitions=1, config={})
    deadlines = app.deadlines("plans")
    deadlines.target(fired)

    @app.agent(plans)
    async def plan(stream: Stream[bytes]) -> None:
        """Do what the record says."""
        async for value in stream:
            event: Event = stream.event
            for id, due_at_ms in orjson.loads(value):
                if due_at_ms is None:
                    deadlines.cancel(id)
                else:
                    deadlines.schedule(due_at_ms, fired, key=id, value=event.offset, id=id)

    return app


def first_due(task: Task) -> int | None:
    """By a pass over everything."""
    assert task.group.deadlines is not None
    with using(CommittedView(task.store, 0, lambda error: None)):
        return task.group.deadlines.next_due_ms()


@pytest.mark.parametrize("seed", range(30))
async def test_the_next_deadline_is_the_first_of_all(tmp_path: Path, seed: int) -> None:
    """Whatever was scheduled, moved, cancelled and fired before, in the same batch too, in any order, late or early."""
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 3, 50])) as driver:
        task = driver.tasks["plans-0"]
        for _ in range(40):
            for _ in range(chance.randint(0, 4)):
                orders = []
                for _ in range(chance.randint(1, 3)):
                    due_at_ms = driver.clock.now_ms() + chance.choice([-5_000, 0, 10, 5_000, 60_000])
                    orders.append((chance.choice("abcdef"), chance.choice([due_at_ms, due_at_ms, None])))
                driver.produce("plans", key="k", value=orjson.dumps(orders))
            await driver.run()
            assert task._next_due_ms == first_due(task)
            assert task._next_due_ms is None or task._next_due_ms > driver.clock.now_ms(), "due and not fired"
            await driver.advance(chance.choice([0, 10, 4_000, 30_000]))
            assert task._next_due_ms == first_due(task)


async def test_what_is_gone_is_not_read_again(tmp_path: Path) -> None:
    """Each look begins where the first deadline was, or is: before it there are only deletions."""
    async with Driver(make_app(tmp_path)) as driver:
        task, now_ms = driver.tasks["plans-0"], driver.clock.now_ms()
        looks: list[bytes] = []
        read = task.store.range

        def noted(family: str, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
            looks.append(start)
            return read(family, start, end, reverse)

        cast(Any, task.store).range = noted
        for number in range(1, 50):
            orders = [("a", now_ms + 1_000 * number)]
            driver.produce("plans", key="k", value=orjson.dumps(orders))
            await driver.run()
        assert len(looks) >= 49 and all(start >= b"t%013d" % (now_ms + 1_000) for start in looks)
        assert looks[-1] >= b"t%013d" % (now_ms + 48_000)
        await driver.advance(60_000)
        looks.clear()
        driver.produce("plans", key="k", value=orjson.dumps([("b", None)]))
        await driver.run()
        assert looks == [], "there is none, and that is known"


async def test_a_deadline_to_a_topic_that_is_no_target_any_more_names_the_topic(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        driver.produce("plans", key="k", value=orjson.dumps([("a", driver.clock.now_ms() + 10)]))
        await driver.run()
        deadlines = driver.app.groups["plans"].deadlines
        assert deadlines is not None
        fired = deadlines._topics.pop("fired")
        with pytest.raises(Misdeclared, match=r"'a' of table plans_deadlines is due and goes to topic fired"):
            await driver.advance(20)
        deadlines.target(fired)
        await driver.start("plans", 0)
        await driver.run()
        assert [record.key for record in driver.read("fired")] == [b"a"], "it was not lost"
