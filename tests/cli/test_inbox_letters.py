"""Dead letters of the inbox, which leave their record there: shown and redriven with it, over a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from agents.effects.seals.inbox import Inbox
from cli import letters
from cli.dead_letters import dead_letters
from cli.letters import Outcome
from schemas.topics import DEAD_LETTERS, ORDER_INBOX
from streams.driver import MemoryLog
from streams.records import Outgoing, Record, TopicPartition
from tests.cli.running import Desk, desk
from tests.tables.test_keys import World

COUNTS = {ORDER_INBOX.name: 2, DEAD_LETTERS.name: 2}
RECORDS = {0: b"Anna, third floor", 1: b"{}"}
IDS = [f"{ORDER_INBOX.name}-{partition}-0" for partition in RECORDS]


class MemoryReader:
    """As cli.letters' Reader, over a log in memory."""

    brokers = "nowhere"

    def __init__(self, log: MemoryLog, topic: str) -> None:
        self._log = log
        self.partitions = [TopicPartition(topic, number) for number in range(COUNTS[topic])]

    async def ends(self, _: str) -> dict[TopicPartition, int]:
        return {partition: len(self._log.topics[partition]) for partition in self.partitions}

    async def read(
        self, ends: Mapping[TopicPartition, int], starts: Mapping[TopicPartition, int]
    ) -> AsyncIterator[Record]:
        for partition in self.partitions:
            while len(self._log.topics[partition]) < ends[partition]:
                raise AssertionError("what is not there is waited for in vain")
            for record in self._log.topics[partition][starts.get(partition, 0) : ends[partition]]:
                yield record


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    """Two records that were no orders, and their letters."""
    log = MemoryLog()
    for partition, value in RECORDS.items():
        log.append(TopicPartition(ORDER_INBOX.name, partition), Outgoing(5, b"anna", value, [("trace", b"t1")]))
    intake = Inbox(World().worker(), 2)
    for partition in RECORDS:
        [(place, fields)] = asyncio.run(intake.seal(log.topics[TopicPartition(ORDER_INBOX.name, partition)]))
        log.append(place, fields)

    async def reader_of(_: object, topic: str) -> tuple[MemoryReader, dict[str, int]]:
        return MemoryReader(log, topic), COUNTS

    monkeypatch.setattr(letters, "reader_of", reader_of)
    return log


@pytest.fixture
def place(log: MemoryLog, tmp_path: Path) -> Desk:
    return desk("127.0.0.1:9", tmp_path)


async def send_back(log: MemoryLog, edited: Mapping[str, bytes]) -> Outcome:
    """What `redrive` does once it has fenced the others."""
    outcome, producer = Outcome(), log.transactions("redrive")
    await producer.start()
    contents = await letters.letters_now("nowhere", DEAD_LETTERS.name)
    reader = MemoryReader(log, DEAD_LETTERS.name)
    await letters._send_back(
        producer,  # type: ignore[arg-type]
        reader,  # type: ignore[arg-type]
        COUNTS,
        contents.letters,
        outcome,
        lambda done, total: None,
        edited,
    )
    return outcome


def test_a_letter_holds_nothing_in_clear_and_is_shown_with_its_record(place: Desk, log: MemoryLog) -> None:
    kept = [record for number in (0, 1) for record in log.topics[TopicPartition(DEAD_LETTERS.name, number)]]
    assert [(record.key, record.value) for record in kept] == [(None, None)] * 2
    shown = place.json(dead_letters, "show", IDS[0])
    assert (shown["key"], shown["value"], shown["reason"]) == ("anna", "Anna, third floor", "not_json")


def test_once_its_record_is_gone_it_still_says_why(place: Desk, log: MemoryLog) -> None:
    log.topics[TopicPartition(ORDER_INBOX.name, 1)].clear()
    shown = place.run(dead_letters, "show", IDS[1])
    assert shown.exit_code == 0 and "fault:     $.order_uid: is required" in shown.stdout
    assert f"(the record of the dead letter {IDS[1]} is gone: {ORDER_INBOX.name} keeps records" in shown.stdout
    place.app.topic(ORDER_INBOX.name, partitions=2)
    tried = place.run(dead_letters, "try", IDS[1])
    assert tried.exit_code == 1 and f"{IDS[1]} is gone" in tried.stderr


async def test_it_goes_back_with_its_record_or_with_what_was_written_instead(log: MemoryLog) -> None:
    assert sorted((await send_back(log, {IDS[1]: b"mended"})).redriven) == IDS
    back = [log.topics[TopicPartition(ORDER_INBOX.name, number)][1] for number in (0, 1)]
    assert [(record.key, record.value) for record in back] == [(b"anna", RECORDS[0]), (None, b"mended")]
    assert list(back[0].headers) == [("trace", b"t1"), ("dead-letter-attempt", b"2")]
    assert (await send_back(log, {})).already == IDS


async def test_what_is_gone_is_not_sent_back_empty(log: MemoryLog) -> None:
    log.topics[TopicPartition(ORDER_INBOX.name, 0)].clear()
    with pytest.raises(letters.Gone, match=rf"{IDS[0]} is gone: .* in clear for 7 days"):
        await send_back(log, {})
    assert len(log.topics[TopicPartition(ORDER_INBOX.name, 1)]) == 1
    assert sorted((await send_back(log, {IDS[0]: b"mended"})).redriven) == IDS
