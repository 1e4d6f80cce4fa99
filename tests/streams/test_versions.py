"""Two versions of the toy: whose turn it is, and the switch, at any moment of a task."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams import faults, standby
from streams.driver import MemoryLog
from streams.errors import LogMismatch, NotReadable
from streams.live import Live, Said, Turn, turn_of
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.task import Task
from tests.simulation.mutants import Change, Mutant, broken
from tests.streams.town import (
    BACK,
    BLUE_LIVE,
    GREEN_LIVE,
    TO_2,
    TOPIC,
    Town,
    at_work,
    counted,
    nothing,
    say_words,
    work,
)
from tests.streams.toy import make_app
from tests.waiting import until


@pytest.fixture(autouse=True)
def nobody_watches() -> Any:
    yield
    faults.watch(None)


# -- whose turn it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "blue", "green", "third"),
    [
        (None, Turn.WORKS, Turn.STANDS_BY, Turn.STANDS_BY),
        (TO_2, Turn.LETS_GO, Turn.STANDS_BY, Turn.STANDS_BY),
        (GREEN_LIVE, Turn.STANDS_BY, Turn.WORKS, Turn.STANDS_BY),
        (BACK, Turn.STANDS_BY, Turn.LETS_GO, Turn.STANDS_BY),
        (BLUE_LIVE, Turn.WORKS, Turn.STANDS_BY, Turn.STANDS_BY),
    ],
)
def test_whose_turn_it_is(said: Said | None, blue: Turn, green: Turn, third: Turn) -> None:
    assert [turn_of(version, said) for version in ("", "2", "3")] == [blue, green, third]
    assert said is None or Said.decode(said.encode()) == said


async def test_a_task_of_a_version_that_is_not_live_takes_nothing(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        await town.begin("")
        say_words(town.drivers[""], random.Random(1), 5)
        await town.begin("2")
        assert town.drivers["2"].tasks == {} and town.drivers["2"].log.offsets == {}
        assert not [tp for tp in town.log.topics if tp.topic.startswith("toy-v2") and town.log.topics[tp]]


async def test_a_topic_that_has_lost_its_records_is_no_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    log, live = MemoryLog(), Live(TOPIC, "")

    async def bounds(partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        return dict.fromkeys(partitions, (4, 4))

    monkeypatch.setattr(log, "bounds", bounds)
    with pytest.raises(LogMismatch, match="which version is live is not known"):
        await live.look(log)


async def test_who_stands_by_copies_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker does whose version is not live; its tables are being built, or another one is at work."""
    monkeypatch.setattr(standby, "NOW_AND_THEN_S", 0.001)
    async with Town(tmp_path) as town:
        blue, store = town.drivers[""], MemoryStore()
        group, number = town.groups("")[0]
        waiting = standby.Standby(group, number, blue.log, lambda: store, town.clock, blue.metrics, follow=False)
        copying = asyncio.create_task(waiting.run())
        await asyncio.sleep(0.01)
        await town.begin("")  # only now do the changelogs have an identity
        for count in (1, 2):
            blue.produce("words", key="a", value=b"word", partition=0)
            await work(blue)
            await asyncio.sleep(0.05)
            assert store.get("counts", b"a") == b"%d" % count
        copying.cancel()
        with suppress(asyncio.CancelledError):
            await copying


# -- the switch --------------------------------------------------------------------------------------------------------

#: Looks whose turn it is before it fences: what streams/live.py says must not be.
LOOKED_TOO_EARLY = Mutant(
    "a task looks whose turn it is before it fences",
    "I2",
    [
        Change(
            Task,
            "open",
            'await self._producer.start()\n    faults.point("fenced")\n    if self._live is not None:\n'
            "        await self._live.require(self._log)\n",
            'await self._live.require(self._log)\n    await self._producer.start()\n    faults.point("fenced")\n',
        )
    ],
)


async def open_while_switched(town: Town, moment: str) -> bool:
    """A new owner of each of blue's tasks begins, and the whole switch happens while the first is at this moment.

    Gives whether any of blue's tasks has taken a record after green was live.
    """
    boundary: dict[TopicPartition, int] = {}

    async def switched() -> None:
        await town.switch("", "2")
        boundary.update(town.log.offsets)

    town.log.interrupt(moment, switched)
    await town.begin("")
    assert boundary, f"nobody passed {moment}"
    await town.begin("2")
    say_words(town.drivers[""], random.Random(3), 20)
    await work(town.drivers[""])
    await work(town.drivers["2"])
    return any(town.log.offsets[tp] != end for tp, end in boundary.items())


@pytest.mark.parametrize("moment", ["before_start", "start", "looked"])
async def test_no_version_takes_anything_once_the_other_is_live(tmp_path: Path, moment: str) -> None:
    async with at_work(tmp_path) as town:
        assert not await open_while_switched(town, moment)
        once = [value for _, value in counted(town.drivers[""])]
        assert len(once) == len(set(once)) == 80, "each word is counted once, by one of the two"


async def test_a_task_that_looks_before_it_fences_is_found_out(tmp_path: Path) -> None:
    async with at_work(tmp_path) as town:
        with broken(LOOKED_TOO_EARLY):
            assert await open_while_switched(town, "looked"), "the judge is blind"
        once = [value for _, value in counted(town.drivers[""])]
        assert len(once) > len(set(once))


@pytest.mark.parametrize("moment", ["begin", "send", "send_offsets", "commit"])
async def test_a_batch_under_way_is_taken_by_one_of_them(tmp_path: Path, moment: str) -> None:
    async with at_work(tmp_path) as town:
        blue, green, switched = town.drivers[""], town.drivers["2"], list[bool]()
        say_words(blue, random.Random(4), 20)

        async def switch() -> None:
            await town.switch("", "2")
            switched.append(True)

        town.log.interrupt(moment, switch)
        await work(blue)
        assert switched
        await town.begin("2")
        await work(green)
        once = [value for _, value in counted(blue)]
        assert len(once) == len(set(once)) == 80


async def test_a_worker_that_stands_by_answers_nothing_and_says_why(tmp_path: Path) -> None:
    """Whatever it holds: it may be old by now."""
    app = make_app(tmp_path, version="2", live_topic=TOPIC)
    log, engine = MemoryLog(), app.engine
    assert engine.standing_by() == "version 2 does not know yet whether it is live"
    engine._settled.set()
    assert app.live is not None
    for said, why in ((None, "the version without a name is live"), (TO_2, "a switch is under way")):
        if said is not None:
            log.append(TopicPartition(TOPIC, 0), (0, b"live", said.encode(), ()))
        await app.live.look(log)
        assert engine.standing_by() == f"version 2 stands by: {why}"
        with pytest.raises(NotReadable, match="stands by"):
            engine.readable_task("words", 0)
        engine.configure(EngineSettings("toy-v2", "", tmp_path), "http://here")
        assert engine.health()["version"] == (False, f"version 2 stands by: {why}")
    log.append(TopicPartition(TOPIC, 0), (0, b"live", GREEN_LIVE.encode(), ()))
    await asyncio.gather(app.live.until_working(), app.live.look(log))
    assert engine.works and engine.health()["version"].ok
    log.append(TopicPartition(TOPIC, 0), (0, b"live", BACK.encode(), ()))
    await app.live.look(log)
    assert "it goes on with `faust -A app replay --into ''`, or ends with" in str(engine.standing_by())


class Member:
    """A consumer as far as the engine's membership needs one."""

    def __init__(self) -> None:
        self.left = False
        self._coordinator = SimpleNamespace(check_errors=lambda: None)
        self._client = SimpleNamespace(add_topic=lambda topic: nothing())

    async def stop(self) -> None:
        self.left = True


async def test_a_worker_leaves_the_group_while_it_is_switched_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is how a switch knows that nobody answers any more. It comes back to stand by, and begins in its place."""
    log, members = MemoryLog(), list[Member]()
    engine = make_app(tmp_path, live_topic=TOPIC).engine
    engine.configure(EngineSettings("toy", "", tmp_path, restart_backoff_s=0.001), "http://here")

    async def join() -> None:
        members.append(Member())
        engine.consumer = members[-1]
        engine._settled.set()

    def say(said: Said) -> None:
        log.append(TopicPartition(TOPIC, 0), (0, b"live", said.encode(), ()))

    monkeypatch.setattr(engine, "_join", join)
    monkeypatch.setattr("streams.engine.KafkaLog", lambda settings, consumer: log)
    monkeypatch.setattr("streams.engine.KafkaReader", lambda settings: nullcontext(log))
    monkeypatch.setattr("streams.engine.LOOK_EVERY_S", 0.001)
    monkeypatch.setattr("streams.engine.LOOK_SOON_S", 0.001)
    membership = asyncio.create_task(engine._membership())
    await until(lambda: engine.works)
    say(TO_2)
    await until(lambda: members[0].left)
    assert not engine._settled.is_set() and not engine.works
    await asyncio.sleep(0.05)
    assert len(members) == 1, "nobody joins while the switch is under way"
    say(GREEN_LIVE)
    await until(lambda: len(members) == 2)
    say(BACK)
    await asyncio.sleep(0.05)
    say(BLUE_LIVE)
    await until(lambda: engine.works)
    assert [member.left for member in members] == [True, False]
    membership.cancel()
    await asyncio.gather(membership, return_exceptions=True)
