"""A replay takes the past in its own order: inputs that race, deadlines, new owners, and replays that are cut short."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from streams.driver import Driver, MemoryLog
from streams.errors import LogMismatch, NotReadable
from streams.journal import REPLAY, REPLAYED, STEPS, Act, Boundary, Due, Run, Writer, last_boundary
from streams.kafka import KafkaReader
from streams.log import Offsets
from streams.producer import PlainProducer
from streams.records import Outgoing, Record, StoredRecord, TopicPartition
from streams.settings import EngineSettings
from streams.task import TaskState
from streams.transactions import KafkaTransactions
from tests.streams.load import Toy
from tests.streams.toy import make_app

SEEDS = range(40)
WORDS, REMINDERS = TopicPartition("words", 0), TopicPartition("reminders", 0)
JOURNAL = "toy-words-journal"


async def live(driver: Driver, chance: random.Random, acts: int = 60) -> None:
    """Words that count, reminders that forget, both for the same few keys, so that their order decides."""
    for _ in range(acts):
        key = chance.choice("abc")
        match chance.randrange(8):
            case 0:
                driver.produce("reminders", key=key, value=b"now")
            case 1:
                driver.produce("words", key=key, value=b"remind %d" % chance.randrange(1, 3_000))
            case 2:
                await driver.advance(chance.randrange(1_500))
            case 3:
                await driver.run()
            case 4:
                await driver.start("words", chance.randrange(2), lose_store=chance.random() < 0.5)
            case 5:
                driver.produce("words", key=key, value=chance.choice([b"bad", b"bug"]))
            case _:
                driver.produce("words", key=key, value=b"word")
    await driver.run()


def sent(driver: Driver, topic: str) -> list[tuple[object, ...]]:
    return [(*record[:2], *record[3:]) for record in driver.read(topic)]


def outputs(driver: Driver) -> list[list[StoredRecord]]:
    return [driver.read(topic) for topic in ("words", "reminders", "counted", "dead_letters.v1")]


@asynccontextmanager
async def lived(tmp_path: Path, seed: int) -> AsyncIterator[tuple[Driver, random.Random]]:
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 2, 7, 100])) as driver:
        await live(driver, chance)
        yield driver, chance


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_rows_and_nothing_sent_again(tmp_path: Path, seed: int) -> None:
    async with lived(tmp_path, seed) as (driver, _):
        rows, deadlines, said = driver.rows("counts"), driver.rows("words_deadlines"), outputs(driver)
        await driver.replay()
        await driver.run()
        assert driver.rows("counts") == rows
        assert driver.rows("words_deadlines") == deadlines
        assert outputs(driver) == said


@pytest.mark.parametrize("seed", SEEDS[:10])
async def test_an_output_that_is_asked_for_is_sent_again_byte_for_byte(tmp_path: Path, seed: int) -> None:
    async with lived(tmp_path, seed) as (driver, _):
        before, letters = sent(driver, "counted"), driver.read("dead_letters.v1")
        await driver.replay(emit=["counted"])
        await driver.run()
        after = sent(driver, "counted")
        for partition in range(2):
            once = [record for record in before if record[1] == partition]
            assert [record for record in after if record[1] == partition] == once + once
        assert driver.read("dead_letters.v1") == letters


@pytest.mark.parametrize("seed", SEEDS)
async def test_life_goes_on_after_a_replay_that_was_cut_short_again_and_again(tmp_path: Path, seed: int) -> None:
    async with lived(tmp_path, seed) as (driver, chance):
        for _ in range(2):
            rows, said = driver.rows("counts"), outputs(driver)
            await driver.replay()
            for _ in range(6):
                number = chance.randrange(2)
                await driver.tasks[f"words-{number}"].step(0.0)
                match chance.randrange(3):
                    case 0:
                        await driver.start("words", number, lose_store=chance.random() < 0.5)
                    case 1 if chance.random() < 0.3:
                        await driver.replay()
                    case _:
                        pass
            await driver.run()
            assert (driver.rows("counts"), outputs(driver)) == (rows, said)
            await live(driver, chance, 20)
        rows = driver.rows("counts")
        await driver.replay()
        await driver.run()
        assert driver.rows("counts") == rows


async def test_a_reset_that_was_killed_when_the_offsets_were_gone_is_run_again(tmp_path: Path) -> None:
    async with lived(tmp_path, 3) as (driver, _):
        rows, said = driver.rows("counts"), outputs(driver)
        await driver.replay()
        driver.log.offsets.clear()
        await driver.replay()
        await driver.run()
        assert (driver.rows("counts"), outputs(driver)) == (rows, said)


async def test_what_arrives_meanwhile_is_taken_after_the_past(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=2) as driver:
        for _ in range(3):
            driver.produce("words", key="a", value=b"word")
        await driver.run()
        await driver.replay()
        driver.produce("words", key="a", value=b"word")
        driver.produce("reminders", key="b", value=b"now")
        await driver.run()
        assert driver.rows("counts") == {"a": 4}
        assert len(driver.read("counted")) == 4


async def test_nothing_is_read_before_the_past_is_repeated(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        for _ in range(3):
            driver.produce("words", key="a", value=b"word")
        await driver.run()
        await driver.replay()
        await driver.tasks["words-0"].step(0.0)
        assert driver.tasks["words-0"].state is TaskState.REPLAYING
        with pytest.raises(NotReadable, match="is replaying, 2 records to go"):
            driver.tasks["words-0"].view()
        await driver.run()
        assert str(driver.tasks["words-0"].state) == "running"


async def test_offsets_that_are_gone_are_not_taken_for_a_beginning(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"word")
        await driver.run()
        driver.log.offsets.clear()
        with pytest.raises(LogMismatch, match=r"no offsets are committed for words-0.*offsets\.retention\.minutes"):
            await driver.start("words", 0)


async def test_a_lost_journal_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.log.topics.pop(TopicPartition(JOURNAL, 0))
        with pytest.raises(LogMismatch, match=f"topics adopt {JOURNAL}"):
            await driver.start("words", 0)


async def test_an_input_that_lost_its_end_cannot_be_replayed(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for _ in range(3):
            driver.produce("words", key="a", value=b"word")
        await driver.run()
        del driver.log.topics[WORDS][2:]
        with pytest.raises(LogMismatch, match="replayed up to words-0-3, but that topic ends at 2"):
            await driver.replay()


def run_of(partition: TopicPartition, *offsets: int) -> Run:
    return Run(
        partition, [StoredRecord(partition.topic, partition.partition, offset, 0, None, b"") for offset in offsets]
    )


def test_one_topic_at_a_time_is_written_down_once() -> None:
    writer, committed = Writer([WORDS, REMINDERS]), {WORDS: 5, REMINDERS: 2}
    assert writer.steps([run_of(WORDS, 5, 6)], committed) == b'[["words",5],["reminders",2]]'
    writer.committed()
    committed[WORDS] = 7
    assert writer.steps([run_of(WORDS, 7)], committed) is None
    writer.committed()
    committed[WORDS] = 8
    acts: list[Act] = [run_of(REMINDERS, 2), run_of(WORDS, 8), Due(17)]
    assert writer.steps(acts, committed) == b'[["words",8],["reminders",3],["words",9],[null,17]]'


def test_a_batch_that_did_not_commit_leaves_the_run_as_it_was() -> None:
    writer, committed = Writer([WORDS, REMINDERS]), {WORDS: 5, REMINDERS: 2}
    first = writer.steps([run_of(WORDS, 5)], committed)
    assert writer.steps([run_of(WORDS, 5)], committed) == first


async def test_the_quiet_case_costs_one_record(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        for _ in range(50):
            driver.produce("words", key="a", value=b"word")
        await driver.run()
        steps = [record for record in driver.read(JOURNAL) if record.key == STEPS]
        assert len(steps) == 1


class Aborted(MemoryLog):
    """The last `hidden` offsets of each journal are of transactions that were aborted."""

    hidden = 0

    async def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        async for tp, records, reached in super().read(starts, ends):
            yield tp, [record for record in records if record.offset < len(self.topics[tp]) - self.hidden], reached


@pytest.mark.parametrize("hidden", [0, 1, 2, 3, 4, 17, 1_000])
@pytest.mark.parametrize("before", [0, 1, 5])
async def test_a_boundary_is_found_behind_aborted_transactions(hidden: int, before: int) -> None:
    log, journal = Aborted(), TopicPartition(JOURNAL, 0)
    log.hidden = hidden
    for _ in range(before):
        log.append(journal, Outgoing(0, STEPS, b"[]"))
    log.append(journal, Outgoing(0, REPLAY, Boundary({"words": 3}).encode()))
    for _ in range(hidden):
        log.append(journal, Outgoing(0, REPLAYED, b"never committed"))
    assert await last_boundary(log, journal, before + 1 + hidden) == (Boundary({"words": 3}), before)
    log.hidden = 0
    if hidden:
        assert await last_boundary(log, journal, before + 1 + hidden) is None, "what came after it has committed"


@pytest.mark.parametrize("hidden", [0, 3])
async def test_a_journal_in_which_nothing_was_committed_has_no_boundary(hidden: int) -> None:
    log, journal = Aborted(), TopicPartition(JOURNAL, 0)
    log.hidden = hidden
    for _ in range(hidden):
        log.append(journal, Outgoing(0, REPLAYED, b"never committed"))
    assert await last_boundary(log, journal, hidden) is None


async def test_a_boundary_behind_a_replay_that_was_killed_on_a_real_broker(toy: Toy) -> None:
    settings = EngineSettings("toy", toy.stack.kafka, Path("unused"))
    journal = TopicPartition(JOURNAL, 0)
    async with PlainProducer(settings) as producer:
        await producer.send(journal.topic, journal.partition, REPLAY, Boundary({"words": 3}).encode(), ())
    for _ in range(3):
        killed = KafkaTransactions(settings, "toy-words-0")
        await killed.start()
        await killed.begin()
        await killed.send({journal: [Outgoing(0, REPLAYED, b"never committed")]})
        await killed.stop()
    fence = KafkaTransactions(settings, "toy-words-0")
    await fence.start()
    await fence.stop()
    async with KafkaReader(settings) as reader:
        _, end = (await reader.bounds([journal]))[journal]
        assert end == 1 + 3 * 2
        assert await last_boundary(cast(Any, reader), journal, end) == (Boundary({"words": 3}), 0)
