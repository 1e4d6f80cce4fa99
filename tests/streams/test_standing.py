"""What somebody did to topics and offsets by hand -> the next start finds it, says what it was, and names the mend."""

from __future__ import annotations

import struct
from pathlib import Path

import orjson
import pytest

from streams.driver import Driver, MemoryLog
from streams.errors import LogMismatch
from streams.journal import ADOPTED, BEGAN
from streams.past import past_of, reached
from streams.positions import TOPIC, Position, group_partition, last_of_tasks, read_key, read_value
from streams.records import TopicPartition
from streams.replay import find_span
from streams.reset import hold_past
from streams.vitals import inputs_of
from tests.streams.toy import make_app

WORDS, REMINDERS, JOURNAL = (TopicPartition(name, 0) for name in ("words", "reminders", "toy-words-journal"))


async def spoken(driver: Driver, count: int = 3) -> None:
    for _ in range(count):
        driver.produce("words", key="a", value=b"word")
        await driver.run()


async def test_offsets_that_were_set_by_hand_are_not_taken(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        await spoken(driver)
        driver.log.offsets[WORDS] = 0
        driver.log.set_by_hand = {WORDS}
        with pytest.raises(LogMismatch, match=r"words-0 were set by somebody else.*count twice.*offsets restore"):
            await driver.start("words", 0)
        with pytest.raises(LogMismatch, match="set by somebody else"):
            await find_span(driver.log, driver.app.groups["words"], 0)
        driver.log.offsets[WORDS] = 3
        driver.log.set_by_hand = set()
        await driver.start("words", 0)
        await driver.run()
        assert driver.rows("counts") == {"a": 3}


async def test_tasks_of_older_versions_marked_nothing(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        await spoken(driver)
        driver.log.topics[JOURNAL][0] = driver.log.topics[JOURNAL][0]._replace(value=b"")
        assert driver.log.topics[JOURNAL][0].key == BEGAN
        driver.log.set_by_hand = {WORDS}
        await driver.start("words", 0)


async def test_an_input_that_is_another_one_now_is_not_replayed(tmp_path: Path) -> None:
    """Deleted, re-created and taken in: what the journal says of the old one is not true of the new one."""
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        for _ in range(2):
            await spoken(driver)
            driver.produce("reminders", key="b", value=b"now")
            await driver.run()
        await hold_past(driver.log, driver.app.groups["words"], 0, len(driver.read(JOURNAL.topic)))
        driver.log.topics[WORDS].clear()
        driver.log.offsets[WORDS] = 0
        group, until = driver.app.groups["words"], await reached(driver.log, list(driver.app.groups.values()))
        for _ in range(2):
            with pytest.raises(LogMismatch, match=r"words-0 was (taken up to 3 once and ends at 0|deleted once)"):
                await find_span(driver.log, group, 0)
            with pytest.raises(LogMismatch, match=r"words-0 was (taken up to 3 once and ends at 0|deleted once)"):
                [act async for act in past_of(driver.log, group, 0, until)]
            with pytest.raises(LogMismatch, match=r"words-0 was .* in the tables and nowhere else"):
                await hold_past(driver.log, group, 0, until[JOURNAL])
            driver.log.append(JOURNAL, (0, ADOPTED, orjson.dumps(["words", 0]), ()))
            until[JOURNAL] += 1
            for _ in range(9):  # it grows past what the old one had
                driver.produce("words", key="c", value=b"word")


async def test_an_input_that_was_deleted_unread_is_not_passed_over(tmp_path: Path) -> None:
    """At the first start after it, and at each one until the loss is accepted."""
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        await spoken(driver)
        driver.log.begins[WORDS] = 3
        await driver.start("words", 0)  # all of it was taken
        for _ in range(4):
            driver.produce("words", key="a", value=b"word")
        driver.log.begins[WORDS] = 5
        match = r"words-0 was deleted from 3 to 4 before words-0 had taken it.*2 offsets.*topics adopt words"
        for _ in range(2):
            with pytest.raises(LogMismatch, match=match):
                await driver.start("words", 0)
        with pytest.raises(LogMismatch, match=match):
            await find_span(driver.log, driver.app.groups["words"], 0)


@pytest.mark.parametrize("setting", ["retention.ms", "retention.bytes"])
async def test_what_a_retention_deleted_unread_is_passed_over_and_counted_once(tmp_path: Path, setting: str) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.app.declared["words"].config[setting] = "1000"
        await spoken(driver)
        for _ in range(4):
            driver.produce("words", key="a", value=b"word")
        driver.log.begins[WORDS] = 5
        for _ in range(2):
            await driver.start("words", 0)
        assert driver.log.offsets[WORDS] == 5, "committed at once: the next owner reports nothing"
        labels = {"topic": "words", "partition": "0"}
        registry = driver.metrics.registry
        assert registry.get_sample_value("streams_skipped_offsets_total", labels) == 2
        driver.app.engine.metrics = driver.metrics
        check = inputs_of(driver.app.engine)
        assert not check.ok and "2 offsets of words-0" in check.detail
        await driver.run()
        assert driver.rows("counts") == {"a": 5}


async def test_the_last_marker_of_a_topic_that_is_empty_now_is_no_loss(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.app.declared["words"].config["retention.ms"] = "1000"
        await spoken(driver)
        driver.produce("words", key="a", value=b"a marker would stand here")
        driver.log.begins[WORDS] = 4
        await driver.start("words", 0)
        assert inputs_of(driver.app.engine).ok


async def test_workers_do_not_wait_for_what_will_never_come(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        await spoken(driver)
        driver.produce("reminders", key="b", value=b"now")
        await driver.run()
        driver.log.topics[WORDS].clear()
        driver.log.offsets[WORDS] = 0
        await driver.replay()
        with pytest.raises(LogMismatch, match=r"words-0 took words-0 up to 3 once, but that topic ends at 0"):
            await driver.run()


def offset_key(group: str, topic: str, partition: int) -> bytes:
    texts = b"".join(struct.pack(">h", len(text)) + text.encode() for text in (group, topic))
    return struct.pack(">h", 1) + texts + struct.pack(">i", partition)


def offset_value(offset: int, beside: str, version: int = 3) -> bytes:
    if version == 4:
        length = len(beside) + 1
        size = bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
        return struct.pack(">hqi", version, offset, -1) + size + beside.encode() + bytes(9)
    epoch = struct.pack(">i", -1) if version == 3 else b""
    return struct.pack(">hq", version, offset) + epoch + struct.pack(">h", len(beside)) + beside.encode() + bytes(8)


async def test_the_last_offset_of_a_task_is_found_behind_what_others_did() -> None:
    log, place = MemoryLog(), TopicPartition(TOPIC, group_partition("toy", 8))
    for key, value in (
        (offset_key("toy", "words", 0), offset_value(3, "task")),
        (offset_key("toy", "words", 0), offset_value(5, "task")),
        (offset_key("other", "words", 0), offset_value(9, "task")),
        (struct.pack(">h", 2) + struct.pack(">h", 3) + b"toy", b"members"),
        (offset_key("toy", "words", 0), offset_value(0, "")),
        (offset_key("toy", "words", 0), None),
        (offset_key("toy", "reminders", 1), offset_value(7, "", 1)),
    ):
        log.append(place, (0, key, value, ()))
    assert await last_of_tasks(log, "toy", 8) == {WORDS: 5, TopicPartition("reminders", 1): 7}


def test_the_format_is_kafkas() -> None:
    assert read_key(offset_key("toy", "words", 3)) == ("toy", TopicPartition("words", 3))
    assert read_key(struct.pack(">h", 2) + b"\0\3toy") is None
    assert [read_value(offset_value(17, "x", version)) for version in (1, 2, 3, 4)] == [(17, "x")] * 4
    assert read_value(offset_value(17, "x" * 200, 4)) == (17, "x" * 200)
    real = "0004000000000000001effffffff05" + b"task".hex() + "000001a200d6892a00"
    assert read_value(bytes.fromhex(real)) == (30, "task"), "as Kafka 4 writes it"
    with pytest.raises(ValueError, match="values of version 5"):
        read_value(struct.pack(">hq", 5, 0))
    assert [group_partition(name, 50) for name in ("toy", "orderstream", "")] == [38, 10, 0]


@pytest.mark.parametrize(
    ("now", "last", "restorable"), [(None, 5, True), (0, 5, True), (5, 5, False), (5, None, False), (None, None, False)]
)
def test_what_can_be_put_back(now: int | None, last: int | None, restorable: bool) -> None:
    assert Position(WORDS, now, last).restorable is restorable
