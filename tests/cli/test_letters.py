"""dead letters on a real broker -> cli.letters -> read as they are, and redriven once, whatever else runs."""

import asyncio
import gc
import logging
import random
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from cli import letters
from cli.letters import Letter, Outcome
from schemas.dead_letters import REDRIVEN, DeadLetter, read_dead_letter
from streams.dead_letters import ATTEMPT, dead_letter
from streams.records import Position, StoredRecord, TopicPartition
from tests.cli.conftest import Place


async def test_letters_are_read_whole(place: Place) -> None:
    ids = await place.put(2)
    contents = await letters.letters_now(place.bootstrap, place.topic)
    assert [letter.id for letter in contents.letters] == ids
    assert contents.letters[1].row() == {
        "id": f"{place.intake}-1-1",
        "topic": place.intake,
        "partition": 1,
        "offset": 1,
        "kind": "poison",
        "reason": "invalid",
        "faults": [{"path": "$.payment.amount", "message": "not a number"}],
        "attempt": 1,
        "redriven": False,
        "agent": "intake",
        "timestamp": 1_700_000_000_001,
    }
    whole = await letters.whole(place.bootstrap, contents.letters[1])
    assert (whole.key, whole.value, whole.headers) == (b"key-1", b"raw \xff 1", (("trace", b"t-1"),))


async def test_the_order_of_letters_does_not_depend_on_how_they_were_read(place: Place) -> None:
    """Same time and same offset, from several partitions: they are listed in one order, always."""
    ids = await place.put(6, same=True)
    for _ in range(3):
        contents = await letters.letters_now(place.bootstrap, place.topic)
        assert [letter.id for letter in contents.letters] == sorted(ids)


async def test_an_empty_topic_and_a_missing_one(place: Place) -> None:
    assert (await letters.letters_now(place.bootstrap, place.topic)).letters == []
    assert await place.redrive() == Outcome()
    with pytest.raises(letters.Gone, match=r"no topic nowhere .*topics create"):
        await letters.letters_now(place.bootstrap, "nowhere")


async def test_redrive_sends_the_original_bytes_home_with_the_next_attempt(place: Place) -> None:
    ids = await place.put(5)
    outcome = await place.redrive(lambda letter: letter.id == ids[4])
    assert outcome.redriven == [ids[4]]
    (back,) = await place.read(place.intake)
    assert (back.partition, back.key, back.value) == (1, b"key-4", b"raw \xff 4")
    assert back.headers == (("trace", b"t-4"), (ATTEMPT, b"2"))
    redriven = {
        letter.id: letter.redriven for letter in (await letters.letters_now(place.bootstrap, place.topic)).letters
    }
    assert redriven == {id_: id_ == ids[4] for id_ in ids}


async def test_each_is_redriven_once(place: Place) -> None:
    ids = await place.put(7)
    assert sorted((await place.redrive()).redriven) == sorted(ids)
    again = await place.redrive()
    assert (again.redriven, again.already) == ([], sorted(ids))
    more = await place.put(2, start=7)
    assert sorted((await place.redrive()).redriven) == sorted(more)
    assert len(await place.read(place.intake)) == 9


async def test_two_redrives_at_once_send_each_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many small transactions, so that each redrive is overtaken while it works."""
    caplog.set_level(logging.CRITICAL, logger="asyncio")
    monkeypatch.setattr(letters, "MAX_RECORDS", 7)
    monkeypatch.setattr(letters, "ATTEMPTS", 40)
    overtaken: list[int] = []

    async def soon(attempt: int) -> None:
        overtaken.append(attempt)
        await asyncio.sleep(random.uniform(0.05, 0.3))

    monkeypatch.setattr(letters, "_give_way", soon)
    ids = await place.put(150)
    outcomes = await asyncio.gather(place.redrive(), place.redrive())
    assert overtaken, "neither was overtaken: this run has tested nothing"
    keys = Counter(record.key for record in await place.read(place.intake))
    assert keys == Counter(b"key-%d" % number for number in range(150))
    markers = Counter(
        dict(record.headers)[REDRIVEN].decode() for record in await place.read(place.topic) if not_letter(record)
    )
    assert markers == Counter(ids)
    assert set(outcomes[0].redriven) | set(outcomes[1].redriven) == set(ids)
    gc.collect()  # asyncio tells of what a fenced producer left behind when it is collected: let that be here


def not_letter(record: Any) -> bool:
    return any(name == REDRIVEN for name, _ in record.headers)


async def test_a_marker_behind_an_open_transaction_is_waited_for(place: Place) -> None:
    """A worker's transaction is open on the topic: the marker after it is committed but cannot be read yet."""
    (id_,) = await place.put(1)
    worker = AIOKafkaProducer(bootstrap_servers=place.bootstrap, transactional_id=f"worker-{place.topic}")
    marker = AIOKafkaProducer(bootstrap_servers=place.bootstrap, transactional_id=f"{place.app_id}-redrive")
    await worker.start()
    await marker.start()
    await worker.begin_transaction()
    for partition in (0, 1):
        await worker.send_and_wait(place.topic, b"open", partition=partition)
    async with marker.transaction():
        await marker.send_and_wait(place.topic, b"{}", id_.encode(), 1, headers=[(REDRIVEN, id_.encode())])
    redrive = asyncio.create_task(place.redrive())
    await asyncio.sleep(1.0)
    assert not redrive.done(), "it decided before it could know"
    await worker.abort_transaction()
    assert (await redrive).already == [id_]
    assert await place.read(place.intake) == []
    await worker.stop()
    await marker.stop()


async def test_a_transaction_that_never_ends_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "OPEN_TRANSACTION_S", 0.5)
    await place.put(1)
    worker = AIOKafkaProducer(bootstrap_servers=place.bootstrap, transactional_id=f"worker-{place.topic}")
    await worker.start()
    await worker.begin_transaction()
    await worker.send_and_wait(place.topic, b"open", partition=0)
    with pytest.raises(letters.HiddenByTransaction, match=place.topic):
        await place.redrive()
    assert (await letters.letters_now(place.bootstrap, place.topic)).letters, (
        "a look does not wait for open transactions"
    )
    await worker.abort_transaction()
    await worker.stop()


async def test_a_topic_that_is_gone_sends_nothing(place: Place) -> None:
    await place.put(1)
    other = Place(place.bootstrap, "gone-for-good", place.topic, place.app_id)
    await other.put(1)
    with pytest.raises(letters.Gone, match="gone-for-good"):
        await place.redrive()
    assert await place.read(place.intake) == []


async def test_records_of_others_are_counted_not_shown(place: Place) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=place.bootstrap)
    await producer.start()
    await producer.send_and_wait(place.topic, b"what is this")
    await producer.stop()
    assert (await letters.letters_now(place.bootstrap, place.topic)).foreign == 1


def test_home_is_the_partition_it_came_from_unless_that_is_gone() -> None:
    lost = dead_letter(StoredRecord("orders", 2, 9, 0, None, None), "intake", ValueError("ours"))
    says = read_dead_letter(lost.key, lost.value, lost.headers)
    assert isinstance(says, DeadLetter)
    found = Letter(says, Position("dead", 0, 0))
    assert letters.home_of(found.says, 3) == TopicPartition("orders", 2)
    assert letters.home_of(found.says, 2) == TopicPartition("orders", 0)
