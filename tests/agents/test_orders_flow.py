"""Orders through the real task loop: intake, commands, tables, events and dead letters, without a broker."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import orjson
import pytest
from pytest import MonkeyPatch, mark

from schemas.base import command_id_at, event_id_for, rfc3339
from schemas.dead_letters import DeadLetter, read_dead_letter
from schemas.orders import CancelOrder, OrderPlaced, PlaceOrder, read_document
from schemas.orders.samples import SAMPLE_ORDER, document, generate, spoil
from streams.batch import Batch
from streams.driver import Driver
from tests.agents.domain import PARTITIONS, command, elsewhere, events, home, make_app

UID = "b563feb7b2b84b6test"
OTHER_CONTENT = SAMPLE_ORDER.replace(b"Mascaras", b"Lipstick")


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield running


def place(command_id: str = "c-1", raw: bytes = SAMPLE_ORDER) -> PlaceOrder:
    return PlaceOrder.of(read_document(raw), raw, command_id)


def letters(driver: Driver) -> list[DeadLetter]:
    found = [read_dead_letter(record.key, record.value, record.headers) for record in driver.read("dead_letters.v1")]
    return [letter for letter in found if isinstance(letter, DeadLetter)]


async def test_an_order_at_home_is_placed_at_once(driver: Driver) -> None:
    at = driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    await driver.run()
    (event,) = events(driver)
    assert event == OrderPlaced(
        event_id=event_id_for(command_id_at(*at), 0),
        caused_by=command_id_at(*at),
        occurred_at=rfc3339(driver.clock.now_ms()),
        order_uid=UID,
        version=1,
        customer_id="test",
        document=SAMPLE_ORDER,
    )
    assert driver.read("orders.commands.v1") == []
    (record,) = driver.read("orders.events.v1")
    assert (record.key, record.partition) == (UID.encode(), home(UID))
    order = driver.rows("orders")[UID]
    assert (order.version, order.document, order.placed_at) == (1, SAMPLE_ORDER, event.occurred_at)
    (entry,) = driver.rows("order_timeline").values()
    assert (entry.topic, entry.partition, entry.offset, entry.caused_by) == (*at, event.caused_by)


@mark.parametrize("key", [None, UID, "something else"])
async def test_an_order_anywhere_is_brought_home_once(driver: Driver, key: str | None) -> None:
    at = driver.produce("orders", key=key, value=SAMPLE_ORDER, partition=elsewhere(UID), headers=[("trace", b"1")])
    await driver.run()
    (brought,) = driver.read("orders.commands.v1")
    assert (brought.key, brought.partition, list(brought.headers)) == (UID.encode(), home(UID), [("trace", b"1")])
    (event,) = events(driver)
    assert event.caused_by == command_id_at(*at), "the id stays that of the record that the producer sent"
    assert list(driver.rows("orders")) == [UID]
    (entry,) = driver.rows("order_timeline").values()
    assert (entry.topic, entry.partition, entry.offset) == ("orders.commands.v1", home(UID), 0)


@mark.parametrize("kind", ["place", "cancel"])
async def test_a_command_on_the_wrong_partition_is_brought_home(driver: Driver, kind: str) -> None:
    cancel = CancelOrder(command_id="c-2", order_uid=UID, reason="changed my mind")
    command(driver, place() if kind == "place" else cancel, partition=elsewhere(UID))
    await driver.run()
    assert [record.partition for record in driver.read("orders.commands.v1")] == sorted([home(UID), elsewhere(UID)])
    assert [event.type for event in events(driver)] == ["order_placed" if kind == "place" else "cancellation_refused"]


async def test_the_same_document_again_is_nothing_new(driver: Driver) -> None:
    driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    driver.produce("orders", key=None, value=orjson.dumps(orjson.loads(SAMPLE_ORDER), option=orjson.OPT_INDENT_2))
    command(driver, place())
    await driver.run()
    assert [event.type for event in events(driver)] == ["order_placed"]
    assert len(driver.rows("order_timeline")) == 1
    assert driver.rows("orders")[UID].document == SAMPLE_ORDER
    assert letters(driver) == []


async def test_other_content_is_refused_and_the_order_stays(driver: Driver) -> None:
    driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    at = driver.produce("orders", key=UID, value=OTHER_CONTENT)
    await driver.run()
    assert [(event.type, event.version) for event in events(driver)] == [("order_placed", 1), ("order_refused", 1)]
    assert driver.rows("orders")[UID].document == SAMPLE_ORDER
    refusal = list(driver.rows("order_timeline").values())[1]
    assert (refusal.reason, refusal.version, refusal.offset) == ("exists_with_different_content", 1, at.offset)


async def test_cancel_and_cancel_again(driver: Driver) -> None:
    driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    await driver.run()
    await driver.advance(1_000)
    for command_id in ("c-1", "c-1", "c-2"):
        command(driver, CancelOrder(command_id=command_id, order_uid=UID, reason="changed my mind"))
    await driver.run()
    told = [(event.type, event.version) for event in events(driver)]
    assert told == [("order_placed", 1), ("order_cancelled", 2), ("cancellation_refused", 2)]
    order = driver.rows("orders")[UID]
    assert (order.status, order.version, order.cancel_reason) == ("cancelled", 2, "changed my mind")
    assert order.updated_at > order.placed_at
    assert set(driver.rows("orders_by_time").values()) == {"cancelled"}
    assert set(driver.rows("orders_by_customer").values()) == {"cancelled"}


async def test_poison_is_dead_lettered_with_every_fault_and_the_stream_goes_on(driver: Driver) -> None:
    bad = SAMPLE_ORDER.replace(b'"sale":30', b'"sale":130').replace(b'"amount":1817', b'"amount":1818')
    at = driver.produce("orders", key="k", value=bad, partition=home(UID), headers=[("trace", b"1")])
    driver.produce("orders", key=UID, value=None)
    driver.produce("orders", key=UID, value=b"not json")
    driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    await driver.run()
    assert [event.type for event in events(driver)] == ["order_placed"]
    first, second, third = letters(driver)
    assert (first.kind, first.reason, first.id, first.value, first.key) == ("poison", "invalid", str(at), bad, b"k")
    assert [fault.path for fault in first.faults] == ["$.items[0].sale", "$.payment.amount"]
    assert (second.reason, second.value) == ("null_value", None)
    assert third.reason == "not_json"
    assert [fault.path for fault in third.faults] == ["$"]


async def test_a_bad_command_is_dead_lettered(driver: Driver) -> None:
    driver.produce("orders.commands.v1", key="k", value=b'{"type":"pay_order"}', partition=0)
    raw = b'{"type":"place_order","command_id":"c","order_uid":"x","document":%b}' % SAMPLE_ORDER
    driver.produce("orders.commands.v1", key="x", value=raw)
    await driver.run()
    assert events(driver) == []
    assert sorted(fault.path for letter in letters(driver) for fault in letter.faults) == ["$.order_uid", "$.type"]


async def test_a_timestamp_out_of_range_neither_stops_the_stream_nor_breaks_the_order_of_keys(driver: Driver) -> None:
    for timestamp_ms, number in ((-1, 1), (2**62, 2), (1_700_000_000_000, 3)):
        driver.clock.advance(timestamp_ms - driver.clock.now_ms())
        driver.produce("orders", value=generate(number), partition=0)
    await driver.run()
    assert letters(driver) == []
    assert len(driver.rows("orders_by_time")) == 3
    assert {place.index("\0") for place in driver.rows("orders_by_time")} == {13}


async def test_orders_are_one_state_however_they_come(tmp_path: Path) -> None:
    """Partition, key, repetition and poison differ; orders, index and events do not."""
    chance = Random(7)
    wanted = {str(document(number)["order_uid"]): generate(number) for number in range(300)}
    app, _ = make_app(tmp_path)
    async with Driver(app, batch_max_records=50) as driver:
        poison = 0
        for number, (uid, raw) in enumerate(wanted.items()):
            for _ in range(chance.choice([1, 1, 2])):
                key = chance.choice([None, uid, "another"])
                driver.produce("orders", key=key, value=raw, partition=chance.randrange(PARTITIONS))
            if chance.random() < 0.1:
                poison += 1
                driver.produce("orders", value=spoil(document(1_000 + number), chance), partition=0)
        await driver.run()
        assert {uid: order.document for uid, order in driver.rows("orders").items()} == wanted
        assert sorted(event.order_uid for event in events(driver)) == sorted(wanted)
        assert len(letters(driver)) == poison > 10
        by_customer = driver.rows("orders_by_customer")
        assert len(by_customer) == len(driver.rows("orders_by_time")) == len(wanted)
        for record in driver.read("orders.events.v1"):
            assert record.partition == home((record.key or b"").decode())


async def test_a_rebuilt_store_is_equal(tmp_path: Path) -> None:
    app, _ = make_app(tmp_path)
    async with Driver(app) as driver:
        for number in range(50):
            driver.produce("orders", value=generate(number), partition=number % PARTITIONS)
        await driver.run()
        for command_id in ("c", "c-too-late"):
            command(driver, CancelOrder(command_id=command_id, order_uid=str(document(3)["order_uid"]), reason="no"))
        await driver.run()
        tables = ("orders", "order_timeline", "order_refusals", "orders_by_customer", "orders_by_time")
        before = {name: driver.rows(name) for name in tables}
        for partition in range(PARTITIONS):
            await driver.start("orders", partition, lose_store=True)
        assert {name: driver.rows(name) for name in tables} == before
        assert len(before["orders"]) == 50
        assert len(before["order_refusals"]) == 1


async def test_looking_for_an_answer_costs_the_same_however_many_refusals_there_are(
    driver: Driver, monkeypatch: MonkeyPatch
) -> None:
    """Anybody can send the same order number again; to look through all of its refusals would stall the partition."""

    def scan(*_: object) -> None:
        raise AssertionError("a range of rows was read to answer one command")

    monkeypatch.setattr(Batch, "range", scan)
    driver.produce("orders", key=UID, value=SAMPLE_ORDER)
    for number in range(20):
        other = SAMPLE_ORDER.replace(b'"sm_id":99', b'"sm_id":%d' % number)
        driver.produce("orders", key=UID, value=other)
        command(driver, CancelOrder(command_id=f"c-{number % 10}", order_uid=UID, reason="no"))
    await driver.run()
    told = Counter(event.type for event in events(driver))
    assert told == {"order_placed": 1, "order_refused": 20, "order_cancelled": 1, "cancellation_refused": 9}
    assert letters(driver) == []
