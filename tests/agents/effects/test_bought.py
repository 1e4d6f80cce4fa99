"""Purchases and payments in PostgreSQL: whatever a shop lived through, its rows are those of the platform's tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from agents.effects.postgres import READERS
from agents.effects.postgres import bought as under_test
from agents.effects.postgres.bought import KINDS, folded
from agents.effects.postgres.comparing import Difference
from agents.effects.postgres.destination import PostgresDestination, connect
from agents.effects.postgres.rows import Rows, Unreadable, add_rows
from agents.effects.postgres.verify_bought import compare
from agents.payments import evolve as evolve_payment
from agents.purchases import evolve as evolve_purchase
from streams.driver import Driver
from streams.records import StoredRecord, TopicPartition
from streams.sink import Mark, Move, PositionConflict
from tests.agents.checkout_histories import PARTITIONS, Shop
from tests.agents.domain import make_app
from tests.agents.effects.history import fetch

FOLDS: dict[str, Callable[[Any, Any], Any]] = {"purchases": evolve_purchase, "payments": evolve_payment}
TABLES = ("purchases", "purchase_lines", "purchase_events", "payments", "payment_attempts", "refused_rows")


async def lived() -> tuple[list[StoredRecord], dict[str, dict[str, Any]]]:
    """A shop with parcels, exchanges and a provider as it likes: records of both topics, rows of both tables."""
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app) as driver:
        shop = Shop(driver, Random(1))
        await shop.open()
        for _ in range(12):
            for _ in range(6):
                shop.buy()
            for _ in range(30):
                shop.act()
            for _ in range(6):
                shop.exchange()
                shop.hand_over()
            await driver.run()
            shop.provider.answer()
            shop.carrier.answer()
            await driver.advance(1_000)
        await _taken_back(driver, shop)
        records = [record for kind in KINDS.values() for record in driver.read(kind.topic)]
        states = {table: dict(driver.rows(table)) for table in KINDS}
        return records, states


async def _taken_back(driver: Driver, shop: Shop) -> None:
    """The provider takes captured money back by itself; a person settles one of the reversals."""
    asked = {"type": "authorise_payment", "user_id": "u", "method": "provider", "amount_minor": 9, "currency": "INR"}
    for uid, kind in (("back-1", "refund"), ("back-2", "chargeback"), ("back-3", "chargeback")):
        said = {"order_uid": uid, "source": "callback", "reversal_id": "m-1"}
        for command in (
            asked,
            {"type": "record_capture", "amount_minor": 9},
            {"type": "record_reversal", "kind": kind, "amount_minor": 4},
        ):
            shop.say("payments", uid, **said, **command)
            await driver.run()
    settled = {"type": "resolve_reversal", "order_uid": "back-3", "outcome": "reinstated", "reason": "won"}
    shop.say("payments", "back-3", **settled, reversal_id="m-1")
    await driver.run()


@cache
def history() -> tuple[list[StoredRecord], dict[str, dict[str, Any]]]:
    return asyncio.run(lived())


@pytest.fixture(scope="module", autouse=True)
def _once() -> None:
    history()  # before there is a loop: it has one of its own


async def rows_of(table: str) -> AsyncIterator[Mapping[str, Any]]:
    """A table of the platform as its changelog gives it: in key order."""
    for _, state in sorted(history()[1][table].items()):
        yield orjson.loads(state.to_json())


async def written(dsn: str, records: Iterable[StoredRecord], at: dict[TopicPartition, int], sizes: Random) -> int:
    """All of them in batches of any size, partition by partition; how many rows were refused."""
    destination, refused = PostgresDestination(lambda: dsn, READERS, FOLDS), 0
    by_partition: dict[TopicPartition, list[StoredRecord]] = {}
    for record in records:
        by_partition.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
    for partition, mine in by_partition.items():
        while mine:
            batch, mine = mine[: (size := sizes.choice((1, 3, 50, 400)))], mine[size:]
            last = Mark(batch[-1].offset, batch[-1].timestamp)
            done = await destination.write(batch, {partition: Move(at.get(partition), last.offset + 1, last)})
            at[partition], refused = last.offset + 1, refused + done.refused
    await destination.close()
    return refused


async def compared(dsn: str, ends: Mapping[TopicPartition, int] | None = None) -> list[Difference | None]:
    connection = await connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            far = {TopicPartition(kind.topic, number): 10**9 for kind in KINDS.values() for number in range(PARTITIONS)}
            found = [await compare(connection, kind, rows_of(kind.table), ends or far) for kind in KINDS.values()]
    finally:
        await connection.close()
    assert (
        [count for count, _, _ in found] == [len(history()[1][table]) for table in KINDS]
        or ends
        or any(each for _, _, each in found)
    )
    return [difference for _, _, difference in found]


def test_events_alone_give_the_tables_rows() -> None:
    records, states = history()
    rows = Rows()
    add_rows(rows, records, READERS)
    assert not rows.refused and set(rows.told) == set(KINDS)
    for table, told in rows.told.items():
        assert folded({}, (event for event, _ in told), FOLDS[table]) == states[table]
    lines = [line for each in states["purchases"].values() for line in under_test.line_rows(each)]
    assert any(line[-1] for line in lines) and any(line[-2] for line in lines), "something is replaced, and refused"


def test_an_event_that_does_not_fit_is_refused() -> None:
    records, _ = history()
    rows = Rows()
    add_rows(rows, records, READERS)
    events = [event for event, _ in rows.told["purchases"]]
    first = next(event for event in events if event.version == 1)
    later = next(event for event in events if event.version == 3 and event.type != "purchase_command_refused")
    with pytest.raises(Unreadable, match="of version 3 meets version 0; rebuild"):
        folded({}, [later], evolve_purchase)
    with pytest.raises(Unreadable, match="meets version 0, which it cannot"):
        folded({}, [later.model_copy(update={"version": 1})], evolve_purchase)
    assert folded({}, [first, first], evolve_purchase).keys() == {first.order_uid}, "the same is the same again"


async def test_whatever_batches_they_come_in_the_rows_are_the_tables(database: str) -> None:
    records, states = history()
    at: dict[TopicPartition, int] = {}
    half = [record for record in records if record.offset < 200]
    assert await written(database, half, at, Random(1)) == 0
    before = dict(await fetch(database, "SELECT order_uid, version FROM purchases"))
    with pytest.raises(PositionConflict):  # a zombie, with what it has in its hands
        await written(database, half[:50], {}, Random(2))
    assert dict(await fetch(database, "SELECT order_uid, version FROM purchases")) == before
    rest = [record for record in records if record.offset >= 200]
    assert rest and await written(database, rest, at, Random(3)) == 0
    assert await compared(database) == [None, None]
    counts = {table: (await fetch(database, f"SELECT count(*) FROM {table}"))[0][0] for table in TABLES}
    lines = sum(len(each.lines) for each in states["purchases"].values())
    assert counts["purchases"] == len(states["purchases"]) and counts["purchase_lines"] == lines
    assert counts["purchase_events"] + counts["payment_attempts"] == len(records) and counts["refused_rows"] == 0
    ((kept,),) = await fetch(database, "SELECT sum(captured_minor - refunded_minor) FROM purchases")
    assert kept == sum(each.captured_minor - each.refunded_minor for each in states["purchases"].values())
    reversals = "SELECT sum(unrequested_refund_minor), sum(charged_back_minor), sum(unresolved_reversals) FROM payments"
    assert [tuple(row) for row in await fetch(database, reversals)] == [(4, 4, 2)]
    await _planted(database)
    await _set_aside(database, at)


async def _planted(dsn: str) -> None:
    """What is changed by a hand is named."""
    columns = ", ".join(under_test.LINE_COLUMNS[1:])
    for statement, table, column in (
        ("UPDATE purchases SET lost_minor = lost_minor + 1 WHERE order_uid = '{}'", "purchases", "lost_minor"),
        ("DELETE FROM purchases WHERE order_uid = '{}'", "purchases", "row"),
        ("UPDATE purchases SET state = '{{}}' WHERE order_uid = '{}'", "purchases", "state.address"),
        ("UPDATE purchase_lines SET shipped = 99 WHERE order_uid = '{}' AND line_no = 1", "purchase_lines", "shipped"),
        ("DELETE FROM purchase_lines WHERE order_uid = '{}' AND line_no = 1", "purchase_lines", "row"),
        ("UPDATE payments SET status = 'voiding' WHERE order_uid = '{}'", "payments", "status"),
        (
            "UPDATE payments SET charged_back_minor = charged_back_minor + 1 WHERE order_uid = '{}'",
            "payments",
            "charged_back_minor",
        ),
        (f"INSERT INTO purchase_lines SELECT '~', {columns} FROM purchase_lines LIMIT 1", "purchase_lines", "row"),
    ):  # fmt: skip
        uid = min(history()[1]["payments"])
        connection = await connect(dsn)
        try:
            change = connection.transaction()
            await change.start()
            await connection.execute(statement.format(uid))
            kinds = list(KINDS.values())
            far = {TopicPartition(kind.topic, number): 10**9 for kind in kinds for number in range(PARTITIONS)}
            found = [await compare(connection, kind, rows_of(kind.table), far) for kind in kinds]
            (first, *_) = [each for _, _, each in found if each is not None]
            assert (first.table, first.column) == (table, column), f"{statement}: {first}"
            # Had the order an event behind what the tables know, it would be newer, and no difference.
            if column not in ("row", "shipped"):
                ahead = [await compare(connection, kind, rows_of(kind.table), {}) for kind in kinds]
                assert [each for _, _, each in ahead if each] == [] and sum(each for _, each, _ in ahead) == 1
            await change.rollback()
        finally:
            await connection.close()


async def _set_aside(dsn: str, at: dict[TopicPartition, int]) -> None:
    """An event that this version does not know, between two that it does: those are written."""
    records, _ = history()
    record = next(each for each in records if b'"cart_placed"' in (each.value or b""))
    place = TopicPartition(record.topic, record.partition)
    told = orjson.loads(record.value or b"")
    values = []
    changes: list[dict[str, Any]] = [{}, {"type": "of_the_future"}, {"address": {"nul": "a\x00b"}}]
    for number, more in enumerate(changes):
        own = {"order_uid": f"new-{number}", "event_id": f"6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4{number}"}
        values.append(orjson.dumps({**told, **own, **more}))
    batch = [record._replace(offset=at[place] + n, value=value) for n, value in enumerate(values)]
    assert await written(dsn, batch, at, Random(1)) == 1
    found = await fetch(dsn, "SELECT order_uid FROM purchases WHERE order_uid LIKE 'new-%' ORDER BY 1")
    assert [uid for (uid,) in found] == ["new-0", "new-2"], "json keeps what jsonb would not take"
    impossible = {"type": "replacement_reserved", "version": 2, "line": 1, "replaces": 99, "quantity": 1}
    later = [
        {**told, **impossible, "order_uid": "new-0", "event_id": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c49"},
        {**told, "order_uid": "new-9", "event_id": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c48"},
    ]
    values = [orjson.dumps(later[0]), b"\xff not JSON", b"[]", b"null", orjson.dumps(later[1])]
    batch = [record._replace(offset=at[place] + n, value=value) for n, value in enumerate(values)]
    assert await written(dsn, batch, at, Random(1)) == 4, "each is set aside, whatever its reader or the rules raise"
    assert (await fetch(dsn, "SELECT count(*) FROM purchases WHERE order_uid = 'new-9'"))[0][0] == 1
    destination = PostgresDestination(lambda: dsn, READERS, FOLDS)
    assert await destination.set_aside() == 5
    await destination.close()
