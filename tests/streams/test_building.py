"""A version of the toy built from another one's past: whole, once, compared, wherever it was cut short, and back."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams import faults
from streams.building import Built, Mirror, Seen
from streams.driver import Driver
from streams.errors import Fenced, LogMismatch, NotLive
from streams.fold import Fold
from streams.journal import STEPS
from streams.live import Live, StillThere, Switch, Turn
from streams.log import Offsets
from streams.past import Cursor, course_of, past_of, reached
from streams.records import StoredRecord, TopicPartition
from streams.store import MemoryStore
from tests.streams.killing import Killed, kill_at
from tests.streams.test_journal import live as live_through
from tests.streams.test_journal import outputs
from tests.streams.town import (
    PARTITIONS,
    TOPIC,
    Town,
    at_work,
    counted,
    nothing,
    say_words,
    work,
)
from tests.streams.toy import make_app

#: What `replay --into` may be killed at.
BUILDING = ("build_begun", "build_sent", "build_committed")
SWITCHING = ("switch_said", "switch_left", "switch_fenced", "switch_brought", "switch_done")


@pytest.fixture(autouse=True)
def nobody_watches() -> Any:
    yield
    faults.watch(None)


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
