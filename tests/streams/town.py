"""Blue and green of the toy, and the command that builds and switches, over one log in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from streams.building import Built, Ground, Piece, find_ground
from streams.clock import ManualClock
from streams.driver import Driver, MemoryLog, MemoryTransactions
from streams.errors import Fenced, NotLive
from streams.fold import Fold
from streams.live import Live, Said, Switch
from streams.log import Offsets
from streams.past import course_of, past_of, reached
from streams.records import Fields, TopicPartition
from streams.store import MemoryStore
from streams.topology import Group, task_name, transactional_id
from tests.streams.toy import make_app

TOPIC = "toy.live"
PARTITIONS = 2
BLUE_LIVE, TO_2 = Said("live", "2", "", 0, "r"), Said("switching", "", "2", 0, "r")
GREEN_LIVE, BACK = Said("live", "", "2", 0, "r"), Said("switching", "2", "", 0, "r")


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
