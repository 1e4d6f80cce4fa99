"""Two versions of the toy over one log in memory: whose turn it is, the switch at any moment, and what is built."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams import faults, standby
from streams.building import Built, Ground, Mirror, Piece, Seen, find_ground
from streams.clock import ManualClock
from streams.driver import Driver, MemoryLog, MemoryTransactions
from streams.errors import Fenced, LogMismatch, NotLive, NotReadable
from streams.fold import Fold
from streams.journal import STEPS
from streams.live import Live, Said, StillThere, Switch, Turn, turn_of
from streams.log import Offsets
from streams.past import Cursor, course_of, past_of, reached
from streams.records import Fields, StoredRecord, TopicPartition
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.task import Task
from streams.topology import Group, task_name, transactional_id
from tests.simulation.mutants import Change, Mutant, broken
from tests.streams.test_journal import live as live_through
from tests.streams.test_journal import outputs
from tests.streams.toy import make_app

TOPIC = "toy.live"
PARTITIONS = 2
#: What `replay --into` may be killed at.
BUILDING = ("build_begun", "build_sent", "build_committed")
SWITCHING = ("switch_said", "switch_left", "switch_fenced", "switch_brought", "switch_done")


class Killed(BaseException):
    """Nothing catches it, so nothing is put in order."""


@pytest.fixture(autouse=True)
def nobody_watches() -> Any:
    yield
    faults.watch(None)


def kill_at(point: str, count: int = 1) -> None:
    left = count

    def strike(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            raise Killed

    faults.watch(strike)


class InterruptedLog(MemoryLog):
    """Has something else happen while a task waits for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self._moment = ""
        self._act: Callable[[], Awaitable[None]] = nothing

    def interrupt(self, moment: str, act: Callable[[], Awaitable[None]]) -> None:
        """`act` happens the next time that this moment is passed."""
        self._moment, self._act = moment, act

    async def passed(self, moment: str) -> None:
        if moment == self._moment:
            self._moment = ""
            await self._act()

    def transactions(self, transactional_id: str) -> MemoryTransactions:
        return InterruptedTransactions(self, transactional_id)

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        found = await super().bounds(partitions)
        if TopicPartition(TOPIC, 0) in partitions:
            await self.passed("looked")
        return found


class InterruptedTransactions(MemoryTransactions):
    """Each answer may come late."""

    def __init__(self, log: InterruptedLog, transactional_id: str) -> None:
        super().__init__(log, transactional_id)
        self._passed = log.passed

    async def start(self) -> None:
        await self._passed("before_start")
        await super().start()
        await self._passed("start")

    async def begin(self) -> None:
        await super().begin()
        await self._passed("begin")

    async def send(self, records: Mapping[TopicPartition, Sequence[Fields]]) -> dict[TopicPartition, int]:
        reached = await super().send(records)
        await self._passed("send")
        return reached

    async def send_offsets(self, offsets: Offsets) -> None:
        await super().send_offsets(offsets)
        await self._passed("send_offsets")

    async def commit(self) -> None:
        await super().commit()
        await self._passed("commit")


async def nothing() -> None:
    return None


class Town:
    """Blue and green over one log."""

    def __init__(self, folder: Path) -> None:
        self.log, self.clock = InterruptedLog(), ManualClock(1_700_000_000_000)
        self.drivers = {version: self._driver(folder, version) for version in ("", "2")}
        self._folds: list[Fold] = []

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *_: object) -> None:
        for driver in self.drivers.values():
            await driver.__aexit__(None, None, None)
        for fold in self._folds:
            await fold.close()

    def _driver(self, folder: Path, version: str) -> Driver:
        app = make_app(folder, partitions=PARTITIONS, version=version, live_topic=TOPIC)
        driver = Driver(app, log=self.log if version == "" else self.log.for_another_group(), batch_max_records=7)
        driver.clock = self.clock
        return driver

    def groups(self, version: str) -> list[tuple[Group, int]]:
        group = self.drivers[version].app.groups["words"]
        return [(group, number) for number in range(PARTITIONS)]

    async def begin(self, version: str) -> None:
        """Workers of this version start; they stand still when it is not live."""
        for group, number in self.groups(version):
            with suppress(NotLive):
                await self.drivers[version].start(group.name, number)

    # -- the command --------------------------------------------------------------------------------------------------

    async def build(self, source: str, target: str) -> int:
        """One piece of each task, as `replay --into` writes it; gives the number of tasks that had something new."""
        of_source, of_target = self.drivers[source], self.drivers[target]
        until, count = await reached(of_source.log, [self.groups(source)[0][0]]), 0
        for (one, number), (other, _) in zip(self.groups(source), self.groups(target), strict=True):
            ground = await find_ground(of_target.log, other, number, of_source.log, one)
            cursor, steps = await course_of(of_source.log, one, number, until, ground.cursor)
            if ground.cursor is not None and cursor.offsets == ground.cursor.offsets and not steps:
                continue
            fold, before = self._fold(target, ground, number)
            async for act in past_of(of_source.log, one, number, until, ground.cursor):
                await fold.take(act)
            fold.keep()
            rows = changed(before, fold.store)
            built = Built(one.app_id, cursor, "code", self.clock.now_ms())
            producer = of_target.log.transactions(transactional_id(other.app_id, task_name(other.name, number)))
            await producer.start()
            await Piece(other, number, ground.bare, rows, steps, built).write(producer, ground.cursor is None)
            count += 1
        return count

    def _fold(self, target: str, ground: Ground, number: int) -> tuple[Fold, dict[tuple[str, bytes], bytes]]:
        """On the rows that the target's changelogs hold."""
        store, group = MemoryStore(), self.groups(target)[0][0]
        for name, tp in group.changelogs(number).items():
            for record in self.log.topics[tp][1:]:
                assert record.key is not None
                store.apply({name: {record.key: record.value}}, {}, 0)
        fold = Fold(group, number, store, TopicPartition("dead_letters.v1", number))
        self._folds.append(fold)
        return fold, rows_of(group, store)

    async def switch(
        self, source: str, to: str, left: Callable[[], Awaitable[None]] | None = None, run: str = "run"
    ) -> None:
        log = self.drivers[source].log

        async def bring() -> None:
            await self.build(source, to)

        fences = [log.transactions(transactional_id(group.app_id, f"words-{n}")) for group, n in self.groups(source)]
        live, producer = Live(TOPIC, to), log.transactions("toy-live")
        await Switch(live, log, producer, fences, left or nothing, bring, self.clock).carry_out(source, to, run)

    def rows(self, version: str) -> dict[str, dict[str, Any]]:
        return {table: self.drivers[version].rows(table) for table in ("counts", "words_deadlines")}


def rows_of(group: Group, store: MemoryStore) -> dict[tuple[str, bytes], bytes]:
    return {(table, key): value for table in group.tables for key, value in store.range(table, b"\x01", b"\xff", False)}


def changed(before: dict[tuple[str, bytes], bytes], store: Any) -> list[tuple[str, bytes, bytes | None]]:
    tables = {table for table, _ in before} | {"counts", "words_deadlines"}
    after = {(table, key): value for table in tables for key, value in store.range(table, b"\x01", b"\xff", False)}
    gone: list[tuple[str, bytes, bytes | None]] = [(*each, None) for each in before.keys() - after.keys()]
    return [(*each, value) for each, value in after.items() if before.get(each) != value] + gone


async def work(driver: Driver) -> None:
    """As long as it is allowed to: a task that is fenced is at its end."""
    for name, task in list(driver.tasks.items()):
        try:
            while await task.step(0.0):
                pass
        except Fenced:
            del driver.tasks[name]


def say_words(driver: Driver, chance: random.Random, count: int) -> None:
    for _ in range(count):
        driver.produce("words", key=chance.choice("abcdef"), value=chance.choice([b"word", b"remind 5000"]))


def counted(driver: Driver) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for record in driver.read("counted")]


# -- whose turn it is --------------------------------------------------------------------------------------------------

BLUE_LIVE, TO_2 = Said("live", "2", "", 0, "r"), Said("switching", "", "2", 0, "r")
GREEN_LIVE, BACK = Said("live", "", "2", 0, "r"), Said("switching", "2", "", 0, "r")


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


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[Town]:
    """Blue has worked, and green was built from some of it."""
    async with Town(folder) as town:
        await town.begin("")
        say_words(town.drivers[""], random.Random(2), 30)
        await work(town.drivers[""])
        await town.build("", "2")
        say_words(town.drivers[""], random.Random(3), 30)
        await work(town.drivers[""])
        yield town


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


# -- what is built -----------------------------------------------------------------------------------------------------


async def compared(town: Town, one: str, other: str) -> list[Seen]:
    """As the command compares what was built with what it was built from, at rest."""
    found = []
    for (group, number), (built, _) in zip(town.groups(one), town.groups(other), strict=True):
        mirror = Mirror(town.drivers[one].log, group, number, MemoryStore())
        await mirror.bring_to(await mirror.ends())
        store = MemoryStore()
        for name, tp in built.changelogs(number).items():
            for record in town.log.topics[tp][1:]:
                assert record.key is not None
                store.apply({name: {record.key: record.value}}, {}, 0)
        found += [mirror.compare(table, store, {}, {}) for table in built.tables]
    return found


@pytest.mark.parametrize("seed", range(12))
async def test_versions_take_turns_and_come_to_the_same(tmp_path: Path, seed: int) -> None:
    """Blue, green, blue, green: tables, outputs and journals are those of one that was never switched."""
    chance, alone = random.Random(seed), random.Random(seed)
    async with Town(tmp_path) as town:
        async with Driver(make_app(tmp_path / "alone", partitions=PARTITIONS), batch_max_records=7) as other:
            await live_through(other, alone)
            await town.begin("")
            live, aside = "", "2"
            await live_through(town.drivers[live], chance)
            for _ in range(3):
                await town.build(live, aside)
                await live_through(town.drivers[live], chance, 20)
                await live_through(other, alone, 20)
                await town.switch(live, aside)
                assert all(seen.equal and seen.before == seen.after for seen in await compared(town, live, aside))
                await town.begin(aside)
                live, aside = aside, live
                await live_through(town.drivers[live], chance, 20)
                await live_through(other, alone, 20)
            assert town.rows(live) == {table: other.rows(table) for table in ("counts", "words_deadlines")}
            assert outputs(town.drivers[live]) == outputs(other)
        await refolded(town, live)


async def refolded(town: Town, version: str) -> None:
    """Its journal is whole: a fold of it comes to its tables."""
    log = town.drivers[version].log
    until = await reached(log, [town.groups(version)[0][0]])
    rows: dict[str, Any] = {}
    for group, number in town.groups(version):
        store = MemoryStore()
        fold = Fold(group, number, store, TopicPartition("dead_letters.v1", number))
        async for act in past_of(log, group, number, until):
            await fold.take(act)
        fold.keep()
        await fold.close()
        rows |= {key.decode(): int(value) for key, value in store.range("counts", b"\x01", b"\xff", False)}
    assert rows == town.rows(version)["counts"]


@pytest.mark.parametrize("point", [*BUILDING, *SWITCHING])
@pytest.mark.parametrize("count", [1, 2])
async def test_killed_anywhere_it_goes_on_to_the_same_end(tmp_path: Path, point: str, count: int) -> None:
    async with Town(tmp_path) as town:
        await town.begin("")
        say_words(town.drivers[""], random.Random(5), 40)
        await work(town.drivers[""])
        kill_at(point, 1 if point in SWITCHING else count)
        with pytest.raises(Killed):
            await town.build("", "2")
            say_words(town.drivers[""], random.Random(6), 40)
            await work(town.drivers[""])
            await town.switch("", "2")
        faults.watch(None)
        await work(town.drivers[""])
        if point != "switch_done":
            await town.switch("", "2")
        with pytest.raises(NotLive, match="version 2 is"):
            await town.switch("", "2")
        assert all(seen.equal for seen in await compared(town, "", "2"))
        await town.begin("2")
        await work(town.drivers["2"])
        once = [value for _, value in counted(town.drivers["2"])]
        assert len(once) == len(set(once)) == sum(town.rows("2")["counts"].values())


async def test_a_switch_that_was_cut_short_is_given_back(tmp_path: Path) -> None:
    async with at_work(tmp_path) as town:
        log, blue = town.drivers[""].log, town.drivers[""]
        kill_at("switch_fenced")
        with pytest.raises(Killed):
            await town.switch("", "2")
        faults.watch(None)
        with suppress(NotLive):
            await town.begin("")
        say_words(blue, random.Random(7), 20)
        await work(blue)
        assert len(counted(blue)) == 60, "nobody works while a switch is under way"
        switch = Switch(Live(TOPIC, ""), log, log.transactions("toy-live"), (), nothing, nothing, town.clock)
        assert await switch.give_back("other") == ""
        await town.begin("")
        await work(blue)
        assert sum(town.rows("")["counts"].values()) == 80
        with pytest.raises(NotLive, match="no switch is under way"):
            await switch.give_back("other")


async def test_whoever_gave_a_switch_back_has_the_last_word(tmp_path: Path) -> None:
    """The command that was switching sleeps; somebody gives up in its place, blue works on; then it wakes."""
    async with at_work(tmp_path) as town:
        log, blue = town.drivers[""].log, town.drivers[""]

        async def slept() -> None:
            other = Switch(Live(TOPIC, ""), log, log.transactions("toy-live"), (), nothing, nothing, town.clock)
            await other.give_back("other")
            await town.begin("")

        with pytest.raises(Fenced):
            await town.switch("", "2", left=slept)
        say_words(blue, random.Random(7), 20)
        await town.begin("")
        await work(blue)
        assert sum(town.rows("")["counts"].values()) == 80


async def test_workers_that_do_not_let_go_keep_their_turn(tmp_path: Path) -> None:
    async with at_work(tmp_path) as town:

        async def stay() -> None:
            raise StillThere("http://127.0.0.1:6066")

        with pytest.raises(StillThere):
            await town.switch("", "2", left=stay)
        look = Live(TOPIC, "")
        assert await look.look(town.log) is Turn.WORKS
        say_words(town.drivers[""], random.Random(8), 20)
        await work(town.drivers[""])
        assert sum(town.rows("")["counts"].values()) == 80


async def test_a_version_of_another_past_is_not_built_on(tmp_path: Path) -> None:
    async with at_work(tmp_path) as town:
        green = town.drivers["2"]
        for tp in list(green.log.offsets):
            green.log.offsets[tp] += 1
        with pytest.raises(LogMismatch, match="Remove that version"):
            await town.build("", "2")


async def test_what_moves_meanwhile_is_no_difference(tmp_path: Path) -> None:
    """Compared under load: rows that blue writes just then have their older or newer state; others must be equal."""
    async with Town(tmp_path) as town:
        await town.begin("")
        blue = town.drivers[""]
        for key in "aabc":
            blue.produce("words", key=key, value=b"word", partition=0)
        await work(blue)
        group, number = town.groups("")[0]
        mirror = Mirror(blue.log, group, number, MemoryStore())
        await mirror.bring_to(await mirror.ends())
        store = MemoryStore()
        store.apply({"counts": {b"a": b"3", b"b": b"1", b"c": b"7"}}, {}, 0)
        blue.produce("words", key="a", value=b"word", partition=0)
        await work(blue)
        moving = await mirror.moving(await mirror.ends())
        seen = mirror.compare("counts", store, {}, moving["counts"])
        assert (seen.changed, seen.first, seen.moving, seen.equal) == (1, "c", 1, False)
        store.apply({"counts": {b"c": b"1"}}, {}, 0)
        assert mirror.compare("counts", store, {}, moving["counts"]).equal
        assert not mirror.compare("counts", store, {}, {}).equal


async def test_steps_are_in_the_new_journal_once(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        await town.begin("")
        blue = town.drivers[""]
        for round_ in range(4):
            for topic in ("words", "reminders"):
                blue.produce(topic, key="a", value=b"word", partition=0)
                await work(blue)
            await town.build("", "2")
            assert await town.build("", "2") == 0, f"round {round_}"
        of_blue, of_green = (town.log.topics[TopicPartition(f"toy{v}-words-journal", 0)] for v in ("", "-v2"))
        steps = [[step for r in of for step in steps_in(r)] for of in (of_blue, of_green)]
        assert steps[0] == steps[1]
        assert Built.decode(of_green[-1].value or b"").cursor == Cursor({"words": 4, "reminders": 4}, len(of_blue), 0)


def steps_in(record: StoredRecord) -> list[list[Any]]:
    return list(orjson.loads(record.value)) if record.key == STEPS and record.value else []


def whole_journal(town: Town, version: str) -> list[list[Any]]:
    app_id = town.groups(version)[0][0].app_id
    return [
        step for record in town.log.topics[TopicPartition(f"{app_id}-words-journal", 0)] for step in steps_in(record)
    ]


async def in_turns(driver: Driver, rounds: int) -> None:
    """Both inputs by turns, so that each is a step."""
    for _ in range(rounds):
        for topic in ("words", "reminders"):
            driver.produce(topic, key="a", value=b"word", partition=0)
            await work(driver)


async def test_the_way_back_takes_what_followed_and_no_more(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        await town.begin("")
        await in_turns(town.drivers[""], 3)
        await town.switch("", "2")
        await town.begin("2")
        assert await town.build("2", "") == 0, "nothing has happened since"
        await in_turns(town.drivers["2"], 3)
        await town.switch("2", "")
        assert whole_journal(town, "") == whole_journal(town, "2") and len(whole_journal(town, "")) >= 11


async def test_offsets_of_a_built_version_are_marked_too(tmp_path: Path) -> None:
    """What Kafka's own tools do to them is found, as with any other."""
    async with Town(tmp_path) as town:
        await town.begin("")
        await in_turns(town.drivers[""], 1)
        await town.switch("", "2")
        town.drivers["2"].log.set_by_hand.add(TopicPartition("words", 0))
        with pytest.raises(LogMismatch, match="were set by somebody else"):
            await town.begin("2")


async def test_a_journal_that_knows_more_than_the_offsets_is_taken_as_far_as_these(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        await town.begin("")
        blue, (group, number) = town.drivers[""], town.groups("")[0]
        await in_turns(blue, 2)
        early = await reached(blue.log, [group])
        await in_turns(blue, 2)
        late = await reached(blue.log, [group])
        journal = group.journal(number)
        cursor, steps = await course_of(blue.log, group, number, {**early, journal: late[journal]})
        assert all(step.end <= cursor.offsets[step.topic] for step in steps if step.topic is not None)
        _, rest = await course_of(blue.log, group, number, late, cursor)
        _, whole = await course_of(blue.log, group, number, late)
        assert [*steps, *rest] == whole


async def test_a_mirror_holds_what_was_there_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read comes in pieces, and a piece may hold what was written later."""
    async with Town(tmp_path) as town:
        await town.begin("")
        blue, store, (group, number) = town.drivers[""], MemoryStore(), town.groups("")[0]
        mirror, read = Mirror(blue.log, group, number, store), blue.log.read
        await in_turns(blue, 1)
        blue.produce("words", key="a", value=b"word", partition=0)
        await work(blue)
        then = await mirror.ends()
        blue.produce("words", key="a", value=b"word", partition=0)
        await work(blue)

        async def pieces(starts: Offsets, ends: Offsets | None) -> AsyncIterator[Any]:
            assert ends is not None
            async for tp, records, _ in read(starts, None):
                yield tp, records, ends[tp]

        monkeypatch.setattr(blue.log, "read", pieces)
        await mirror.bring_to(then)
        assert store.get("counts", b"a") == b"1"


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
