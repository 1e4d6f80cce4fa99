"""What a task proves of its log: that it missed nothing, that nobody else wrote, that nothing of it is left open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from streams.clock import ManualClock
from streams.driver import Driver, MemoryLog
from streams.errors import Fenced, LogMismatch
from streams.log import Extent
from streams.metrics import Metrics
from streams.records import Outgoing, Record, TopicPartition
from streams.restore import MOST_MISSED_MS, Restore
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.transactions import KafkaTransactions
from tests.streams.load import Toy
from tests.streams.running import PATIENCE_S, running
from tests.streams.test_restore import CHANGELOG, make_group
from tests.streams.toy import make_app
from tests.waiting import until

COUNTS, WORDS = TopicPartition("toy-counts-changelog", 0), TopicPartition("words", 0)
HOUR_MS = 3600 * 1000


# -- nothing was missed ------------------------------------------------------------------------------------------------


async def test_an_idle_task_proves_every_hour_that_it_has_missed_nothing(tmp_path: Path) -> None:
    """All of its families, and on disk: what is only in memory is lost with the process."""
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"word")
        await driver.run()
        store, flushed = driver._stores["words-0"], list[int]()
        cast(Any, store).flush = lambda: flushed.append(1)
        driver.log.offsets.clear()
        await driver.advance(HOUR_MS - 1)
        assert not flushed and not driver.log.offsets, "too early"
        for _ in range(30):
            await driver.advance(HOUR_MS)
        assert len(flushed) == 30
        assert driver.log.offsets[WORDS] == 1, "committed again: offsets do not expire"
        now_ms = driver.clock.now_ms()
        assert {store.current_at_ms(name) for name in ("counts", "words_deadlines")} == {now_ms}
        assert store.position("counts") == len(driver.log.topics[COUNTS]), "the position is as it was"


async def test_a_busy_task_proves_it_of_the_families_that_rest(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for _ in range(5):
            driver.produce("words", key="a", value=b"word")  # no deadline in it
            await driver.run()
            driver.clock.advance(HOUR_MS)
        assert driver.clock.now_ms() - driver._stores["words-0"].current_at_ms("words_deadlines") <= HOUR_MS


async def test_a_task_that_was_replaced_proves_nothing(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        older, store = driver.tasks["words-0"], driver._stores["words-0"]
        await driver.start("words", 0)
        before = store.current_at_ms("counts")
        driver.clock.advance(2 * HOUR_MS)
        with pytest.raises(Fenced):
            await older.step(0.0)
        assert store.current_at_ms("counts") == before


class Markers:
    """A changelog with a row at 8, a marker at 9, and perhaps more; it remembers where it was read from."""

    def __init__(self) -> None:
        self.read_from: list[int] = []

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        if starts[CHANGELOG] < ends[CHANGELOG]:
            self.read_from.append(starts[CHANGELOG])
            yield CHANGELOG, [], ends[CHANGELOG]


@pytest.mark.parametrize(("end", "read_from"), [(10, 9), (11, 0), (12, 0)])
async def test_a_table_that_rested_is_not_copied_again(end: int, read_from: int) -> None:
    """However long it was: behind its last row is the marker of its own commit and no more. Any write of another owner
    is a record and a marker."""
    log, clock, store = Markers(), ManualClock(), MemoryStore()
    store.apply({"t": {b"k": b"row"}}, {"t": 9}, clock.now_ms())
    clock.advance(20 * MOST_MISSED_MS)
    await Restore(cast(Any, log), store, make_group(), 0, clock, Metrics()).run({CHANGELOG: Extent(None, end)})
    assert log.read_from == [read_from]
    assert store.get("t", b"k") == (b"row" if read_from else None)


# -- nobody else wrote -------------------------------------------------------------------------------------------------


async def test_records_of_somebody_else_in_a_changelog_stop_the_commit(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for _ in range(2):
            driver.produce("words", key="a", value=b"word")
            await driver.run()
        driver.log.append(COUNTS, Outgoing(0, b"a", b"77"))
        driver.produce("words", key="a", value=b"word")
        end = len(driver.log.topics[COUNTS])
        with pytest.raises(LogMismatch, match=r"toy-counts-changelog-0 at 4 instead of 3: something else has written"):
            await driver.run()
        assert len(driver.log.topics[COUNTS]) == end and driver.log.offsets[WORDS] == 2, "it was committed"


# -- nothing is left open ----------------------------------------------------------------------------------------------


class Hanging(MemoryLog):
    """Of one partition a part cannot be read yet."""

    held: TopicPartition | None = None

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        found = await super().survey(partitions)
        return {tp: Extent(each.first, each.end, each.end + (tp == self.held)) for tp, each in found.items()}


@pytest.mark.parametrize("held", [COUNTS, TopicPartition("toy-words-journal", 0)])
async def test_a_log_that_ends_in_an_open_transaction_is_not_gone_on_from(tmp_path: Path, held: TopicPartition) -> None:
    log = Hanging()
    async with Driver(make_app(tmp_path, partitions=1), log=log) as driver:
        log.held = held
        with pytest.raises(LogMismatch, match=rf"{held.topic}-0 can be read up to .*kafka-transactions.sh.*abort"):
            await driver.start("words", 0)
        log.held = None
        await driver.start("words", 0)


async def test_a_hanging_transaction_on_a_real_broker(toy: Toy, tmp_path: Path) -> None:
    """Found, named, and no reason to stop once it has ended."""
    async with running(toy.stack.kafka, tmp_path) as engine:
        settings = engine.settings
    patient = replace(settings, transaction_timeout_ms=600_000)  # the broker must not end it before it is found
    foreign = KafkaTransactions(patient, "somebody-else")
    await foreign.start()
    await foreign.begin()
    await foreign.send({COUNTS: [(0, b"k", b"1", ())]})
    app = make_app(tmp_path, partitions=4, broker=f"kafka://{toy.stack.kafka}")
    app.engine.configure(EngineSettings("toy", toy.stack.kafka, tmp_path / "other"), "http://127.0.0.1:1")
    await app.engine.start()
    try:
        await until(lambda: app.engine.crashed, PATIENCE_S)
        assert "toy-counts-changelog-0 can be read up to" in str(app.engine.crash_reason)
    finally:
        await app.engine.stop()
        await foreign.stop()
        fence = KafkaTransactions(patient, "somebody-else")
        await fence.start()
        await fence.stop()
