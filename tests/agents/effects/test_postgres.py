"""The destination on a real PostgreSQL: all or nothing, once, and never stopped by a row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest

from agents.effects.postgres import destination as under_test
from agents.effects.postgres import migrate as migrations
from agents.effects.postgres.destination import PostgresDestination, connect
from agents.effects.postgres.migrate import SchemaMismatch, migrate
from agents.effects.postgres.verify import verify
from schemas.orders import samples
from streams.dead_letters import dead_letter
from streams.errors import FaultAt, Poison
from streams.records import StoredRecord, TopicPartition
from streams.sink import Mark, Move, PositionConflict, Standing
from tests.agents.effects.history import (
    EVENTS,
    LETTERS,
    START_MS,
    History,
    fetch,
    new_destination,
    records,
    rows_of,
    write,
)

P0 = TopicPartition(EVENTS, 0)


async def states(history: History) -> Any:
    for uid in sorted(history.states):
        yield history.states[uid]


async def test_events_become_the_rows_that_the_tables_would_have(database: str) -> None:
    history, destination = History(), new_destination(database)
    at = None
    for size in (1, 50, 3, 200):
        batch = records(history.run(size), first=at or 0)
        written = await write(destination, batch, at)
        assert written.rows["order_events"] == size and written.refused == 0
        at = batch[-1].offset + 1
    verified = await verify(database, states(history))
    assert verified.difference is None and verified.rows == len(history.states)
    kinds = dict(await fetch(database, "SELECT type, count(*) FROM order_events GROUP BY type"))
    assert set(kinds) == {"order_placed", "order_cancelled", "cancellation_refused"} and sum(kinds.values()) == 254
    assert await destination.positions([P0]) == {P0: Standing(254, Mark(253, START_MS + 253))}
    await destination.close()


async def test_the_document_is_kept_with_what_is_unknown_to_us(database: str) -> None:
    document = orjson.loads(samples.generate(1))
    document["gift"] = {"text": "für dich ❤", "wrap": [True, None, 1.5]}
    raw = orjson.dumps(document).replace(b'"wrap"', b'"exact": 12345678901234567890.123456789, "wrap"')
    history = History()
    history.place(raw)
    await write(new_destination(database), records(history.events))
    ((text,),) = await fetch(database, "SELECT document::text FROM orders")
    assert '"exact": 12345678901234567890.123456789' in text and "❤" in text


@pytest.mark.parametrize("step", ["moved", "staged", "merged", "before the commit"])
async def test_an_error_at_any_step_leaves_nothing(database: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    history, destination = History(), new_destination(database)
    first = records(history.run(20))
    await write(destination, first)
    before = await rows_of(database)
    real: Callable[..., Any] = asyncpg.Connection.execute
    marker = {"moved": "SAVEPOINT", "staged": "INSERT INTO orders", "merged": "RELEASE", "before the commit": "COMMIT"}

    async def fails(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        if marker[step] in query:
            raise ConnectionResetError("the test pulled the plug")
        return await real(self, query, *arguments, **options)

    batch = records(history.run(20), first=20)
    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", fails)
        with pytest.raises(ConnectionResetError):
            await write(destination, batch, 20)
    assert await rows_of(database) == before
    await write(destination, batch, 20)
    assert (await verify(database, states(history))).difference is None


async def test_a_write_cut_off_leaves_nothing_and_no_lock(database: str) -> None:
    history, destination = History(), new_destination(database)
    await write(destination, records(history.run(5)))
    holder = await connect(database)
    await holder.execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    batch = records(history.run(5), first=5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await write(destination, batch, 5)
    await holder.execute("ROLLBACK")
    await holder.close()
    assert await write(destination, batch, 5)
    assert (await verify(database, states(history))).difference is None


async def test_a_zombie_writes_nothing(database: str) -> None:
    history = History()
    one, other = new_destination(database), new_destination(database)
    await write(one, records(history.run(5)))
    second = records(history.run(5), first=5)
    await write(other, second, 5)
    before = await rows_of(database)
    with pytest.raises(PositionConflict):
        await write(one, second, 5)
    with pytest.raises(PositionConflict):
        await write(one, records(history.events[:5]))
    assert await rows_of(database) == before


async def test_two_writers_of_the_same_records_at_once_write_them_once(database: str) -> None:
    history = History()
    writers = [new_destination(database) for _ in range(4)]
    await asyncio.gather(*(writer.positions([P0]) for writer in writers))
    at: int | None = None
    for _ in range(5):
        batch = records(history.run(20), first=at or 0)
        results = await asyncio.gather(*(write(writer, batch, at) for writer in writers), return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert all(isinstance(result, PositionConflict) for result in results if isinstance(result, BaseException))
        at = batch[-1].offset + 1
    assert (await verify(database, states(history))).difference is None
    ((events,),) = await fetch(database, "SELECT count(*) FROM order_events")
    assert events == 100


async def test_a_write_moves_all_partitions_or_none(database: str) -> None:
    destination, p1 = new_destination(database), TopicPartition(EVENTS, 1)
    await destination.write([], {P0: Move(None, 10), p1: Move(None, 20)})
    with pytest.raises(PositionConflict):
        await destination.write([], {P0: Move(10, 11), p1: Move(21, 22)})
    assert await destination.positions([P0, p1]) == {P0: Standing(10), p1: Standing(20)}


@pytest.mark.parametrize("place", [0, 13, 29], ids=["first", "in the middle", "last"])
async def test_a_refused_row_is_set_aside_and_the_others_are_written(database: str, place: int) -> None:
    history, destination = History(), new_destination(database)
    history.run(30)
    batch = records(history.events)
    value = batch[place].value or b""
    batch[place] = batch[place]._replace(value=value[:-1] + b',"weight":1e-20000}')  # valid JSON, too fine for numeric
    written = await write(destination, batch)
    assert written.refused == 1 and written.rows["order_events"] == 29
    ((offset, error, kept),) = await fetch(database, 'SELECT "offset", error, value FROM refused_rows')
    assert offset == place and kept == batch[place].value
    assert "NumericValueOutOfRange" in error
    assert (await destination.positions([P0]))[P0].next == 30


async def test_many_refused_rows_do_not_stop_the_rest(database: str) -> None:
    destination = new_destination(database)
    history = History()
    batch = records([history.place() for _ in range(40)])
    spoiled = {3, 4, 5, 17, 39}
    for number in spoiled:
        batch[number] = batch[number]._replace(value=(batch[number].value or b"").replace(b'"meest', b'"\\u0000'))
        batch[number] = batch[number]._replace(value=(batch[number].value or b"")[:-1] + b',"x":"\\u0000"}')
    written = await write(destination, batch)
    assert written.refused == 5 and written.rows["orders"] == 35
    refused = await fetch(database, 'SELECT "offset" FROM refused_rows')
    assert {row[0] for row in refused} == spoiled


async def test_an_unreadable_record_is_set_aside(database: str) -> None:
    history, destination = History(), new_destination(database)
    good = records([history.place()], first=1)
    written = await write(destination, [StoredRecord(EVENTS, 0, 0, START_MS, None, b"\xff{"), *good])
    assert written.refused == 1 and written.rows["orders"] == 1


async def test_an_event_that_comes_twice_is_one_row(database: str) -> None:
    history, destination = History(), new_destination(database)
    uid = history.place().order_uid
    history.cancel(uid)
    await write(destination, records(history.events))
    written = await write(destination, records(history.events, first=2), 2)
    assert not written.rows and not written.refused
    written = await write(destination, records(history.events[1:], first=4), 4)  # the cancellation, alone in its batch
    assert not written.rows and not written.refused
    assert (await verify(database, states(history))).difference is None


def letter(offset: int) -> StoredRecord:
    origin = StoredRecord("orders", 2, 40 + offset, START_MS, None, b"\xff\x00not json", [("trace", b"\x01\xfe")])
    faults = [FaultAt("$.items[0].price", "is \x00 not a number"), FaultAt("$.payment", "is missing")]
    dead = dead_letter(origin, "orders.intake", Poison(faults, "invalid"))
    return StoredRecord(LETTERS, 2, offset, START_MS + 1, dead.key, dead.value, dead.headers)


def marker(partition: int, offset: int, letter_id: str) -> StoredRecord:
    headers = [("dead-letter-redriven", letter_id.encode())]
    return StoredRecord(LETTERS, partition, offset, START_MS + 5000, letter_id.encode(), b"{}", headers)


@pytest.mark.parametrize("marker_first", [True, False])
async def test_dead_letters_keep_the_original_bytes_and_know_of_their_redrive(
    database: str, marker_first: bool
) -> None:
    destination = new_destination(database)
    steps = [[letter(0), letter(1)], [marker(0, 0, "orders-2-41")]]
    for batch in reversed(steps) if marker_first else steps:
        await write(destination, batch)
    first, second = await fetch(database, "SELECT * FROM dead_letters ORDER BY id")
    assert first["id"] == "orders-2-40" and first["redriven_at"] is None
    assert second["redriven_at"] == datetime.fromtimestamp((START_MS + 5000) / 1000, UTC)
    assert first["value"] == b"\xff\x00not json" and first["key"] is None and first["kind"] == "poison"
    faults = orjson.loads(first["faults"])
    assert [fault["path"] for fault in faults] == ["$.items[0].price", "$.payment"]
    assert orjson.loads(first["headers"]) == [{"name": "trace", "base64": "Af4="}]
    assert (first["topic"], first["partition"], first["offset"]) == (LETTERS, 2, 0)


async def test_processes_that_start_at_once_migrate_once(database: str) -> None:
    async def start() -> int:
        connection = await connect(database)
        try:
            return await migrate(connection)
        finally:
            await connection.close()

    applied = await asyncio.gather(*(start() for _ in range(6)))
    assert sorted(applied) == [0] * 5 + [len(migrations.migrations())]
    rows = await fetch(database, "SELECT number FROM schema_migrations ORDER BY number")
    assert [row[0] for row in rows] == [each.number for each in migrations.migrations()]


async def test_an_edited_migration_is_refused_and_a_newer_database_is_not(database: str) -> None:
    destination = new_destination(database)
    await destination.positions([P0])
    await fetch(database, "INSERT INTO schema_migrations VALUES (99, '0099_future.sql', 'x')")
    connection = await connect(database)
    assert await migrate(connection) == 0
    await fetch(database, "UPDATE schema_migrations SET digest = 'x' WHERE number = 2")
    with pytest.raises(SchemaMismatch, match=r"0002_orders\.sql is not the one"):
        await migrate(connection)
    await connection.close()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [
        *migrations.migrations(),
        migrations.Migration(4, "0004_broken.sql", "CREATE TABLE a (b int); SELECT 1/0"),
    ]
    monkeypatch.setattr(migrations, "migrations", lambda: broken)
    connection = await connect(database)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection)
    assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'orderstream'") == 0
    await connection.close()


async def test_a_schema_dropped_under_way_is_made_again(database: str) -> None:
    history, destination = History(), new_destination(database)
    await write(destination, records(history.run(5)))
    await fetch(database, "DROP SCHEMA orderstream CASCADE")
    with pytest.raises(asyncpg.UndefinedTableError):
        await write(destination, records(history.run(5), first=5), 5)
    assert await destination.positions([P0]) == {}
    await write(destination, records(history.events))
    assert (await verify(database, states(history))).difference is None


async def test_a_database_that_is_not_known_yet_is_asked_for_again(database: str) -> None:
    dsns = [database]

    def dsn() -> str:
        if not dsns:
            raise LookupError("no PostgreSQL runs in .data; start one with `make dev`")
        return dsns[0]

    destination = PostgresDestination(dsn, {})
    dsns.clear()
    with pytest.raises(LookupError):
        await destination.positions([P0])
    dsns.append(database)
    assert await destination.positions([P0]) == {}
    await destination.close()


def test_every_staged_column_is_one_of_the_migrations() -> None:
    sql = "".join(migration.sql for migration in migrations.migrations())
    for columns in under_test.STAGING.values():
        assert all(column in sql for column in columns if not column.endswith("ordinal"))
