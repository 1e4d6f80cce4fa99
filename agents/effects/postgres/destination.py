"""batches of records -> rows and positions of PostgreSQL, in one transaction -> how many rows of which table.

A write is: begin; move the positions, which locks them and shows whether this writer is still the right one; copy the
rows into staging tables; merge them into the tables, set by set; commit. After any error the connection is thrown away:
the server rolls back by itself, and no clean-up of ours can hang on a connection that is dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from agents.effects.postgres import bought
from agents.effects.postgres import rows as shapes
from agents.effects.postgres.migrate import SCHEMA, migrate
from agents.effects.postgres.pooling import pooled, require_session
from agents.effects.postgres.rows import Row, Rows, insert, names, set_excluded
from streams import faults
from streams.records import Record, TopicPartition
from streams.sink import Mark, Move, PositionConflict, Standing, Written

log = logging.getLogger(__name__)

Reader = Callable[[Rows, Record], None]

CONNECT_TIMEOUT_S = 10.0
#: The server ends a statement first, and says so; the client's limit is for a server that no longer says anything.
STATEMENT_TIMEOUT_S = 30
CLIENT_TIMEOUT_S = STATEMENT_TIMEOUT_S + 10.0
SETTINGS = {
    "application_name": "orderstream sink",
    "search_path": f"{SCHEMA}, pg_temp",
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "lock_timeout": "10s",
    # A worker that is frozen within a transaction holds locks on positions; its partitions' next owner waits this long.
    "idle_in_transaction_session_timeout": "20s",
    # A crash of the server may forget the last moments, but rows and positions together: they are written once more.
    "synchronous_commit": "off",
    "jit": "off",
}
#: How many records become rows between two turns of the event loop: 250 take about 3 ms.
TURN = 250

#: What PostgreSQL, or asyncpg on its behalf, says of a row that it will never take. All else is an outage or a bug.
REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    OverflowError,
    TypeError,
    ValueError,
)


STAGING = {
    "staged_events": (*shapes.EVENT_COLUMNS, "ordinal"),
    "staged_orders": (*shapes.ORDER_COLUMNS, "event_ordinal"),
    "staged_items": shapes.ITEM_COLUMNS,
    "staged_changes": shapes.Change._fields,
    "staged_letters": shapes.LETTER_COLUMNS,
}
CREATE_STAGING = "".join(
    f"CREATE TEMPORARY TABLE {table} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {source} WITH NO DATA;\n"
    for table, columns, source in (
        ("staged_events", f"{names(shapes.EVENT_COLUMNS)}, 0 AS ordinal", "order_events"),
        ("staged_orders", f"{names(shapes.ORDER_COLUMNS)}, 0 AS event_ordinal", "orders"),
        ("staged_items", names(shapes.ITEM_COLUMNS), "order_items"),
        ("staged_changes", names(shapes.Change._fields), "orders"),
        ("staged_letters", names(shapes.LETTER_COLUMNS), "dead_letters"),
    )
)
MERGE_EVENTS = f"""
    INSERT INTO order_events ({names(shapes.EVENT_COLUMNS)})
    SELECT {names(shapes.EVENT_COLUMNS)} FROM staged_events ON CONFLICT DO NOTHING
"""
MERGE_ORDERS = f"""
    INSERT INTO orders AS o ({names(shapes.ORDER_COLUMNS)}, document)
    SELECT {names(shapes.ORDER_COLUMNS, "s.")}, e.payload -> 'document'
    FROM staged_orders s JOIN staged_events e ON e.ordinal = s.event_ordinal
    ON CONFLICT (order_uid) DO UPDATE SET {set_excluded((*shapes.ORDER_COLUMNS[1:], "document"))}
    WHERE o.version < excluded.version
"""
MERGE_ITEMS = f"""
    INSERT INTO order_items ({names(shapes.ITEM_COLUMNS)})
    SELECT {names(shapes.ITEM_COLUMNS)} FROM staged_items ON CONFLICT DO NOTHING
"""
MERGE_CHANGES = """
    UPDATE orders o
    SET version = s.version, status = s.status, updated_at = s.updated_at, updated_by = s.updated_by,
        cancel_reason = s.cancel_reason
    FROM staged_changes s WHERE o.order_uid = s.order_uid AND o.version < s.version
"""
MERGE_LETTERS = f"""
    INSERT INTO dead_letters ({names(shapes.LETTER_COLUMNS)}, redriven_at)
    SELECT {names(shapes.LETTER_COLUMNS, "s.")}, r.redriven_at
    FROM staged_letters s LEFT JOIN dead_letter_redrives r USING (id)
    ON CONFLICT (id) DO UPDATE SET {set_excluded((*shapes.LETTER_COLUMNS[1:], "redriven_at"))}
"""
MERGE_REDRIVES = """
    WITH markers AS (
        INSERT INTO dead_letter_redrives SELECT * FROM unnest($1::text[], $2::timestamptz[])
        ON CONFLICT (id) DO UPDATE SET redriven_at = excluded.redriven_at RETURNING id, redriven_at
    )
    UPDATE dead_letters d SET redriven_at = m.redriven_at FROM markers m WHERE d.id = m.id
"""
REFUSE = f"""
    {insert("refused_rows", shapes.REFUSED_COLUMNS)}
    ON CONFLICT (topic, partition, "offset") DO UPDATE SET error = excluded.error
"""
FIRST_MOVES = """
    INSERT INTO sink_positions (topic, partition, next_offset, last_offset, last_timestamp_ms)
    SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[])
    ON CONFLICT DO NOTHING
"""
LATER_MOVES = """
    UPDATE sink_positions p
    SET next_offset = m.next_offset,
        last_offset = coalesce(m.last_offset, p.last_offset),
        last_timestamp_ms = coalesce(m.last_timestamp_ms, p.last_timestamp_ms)
    FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS m (topic, partition, next_offset, last_offset, last_timestamp_ms, expected)
    WHERE p.topic = m.topic AND p.partition = m.partition AND p.next_offset = m.expected
"""


async def connect(dsn: str, **settings: str) -> Any:
    """A connection with the sink's limits, on which jsonb is bytes. Raises PooledConnection behind a pooler."""
    asked = SETTINGS | settings
    try:
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=CLIENT_TIMEOUT_S, server_settings=asked
        )
    except asyncpg.PostgresError as error:
        if (fault := pooled(error)) is not None:
            raise fault from error
        raise
    try:
        await require_session(connection, asked)
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=bytes, decoder=lambda raw: bytes(raw[1:]), format="binary"
        )
    except BaseException:
        connection.terminate()
        raise
    return connection


class PostgresDestination:
    """The tables of `migrations/`; `readers` say, topic by topic, what a record becomes. It is called by one task."""

    def __init__(
        self, dsn: Callable[[], str], readers: Mapping[str, Reader], folds: bought.Folds | None = None
    ) -> None:
        """`dsn` is asked at each connection: a database that was not there at the start may be there later.

        `folds`: the rules', for readers of events that are folded.
        """
        self._dsn, self._readers, self._folds = dsn, readers, folds or {}
        self._connection: Any = None

    async def positions(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Standing]:
        """Where the sink stands; brings the schema up to date first."""
        try:
            found = await read_positions(await self._ready())
        except BaseException as error:
            self._drop()
            if (fault := pooled(error)) is not None:
                raise fault from error
            raise
        return {partition: found[partition] for partition in partitions if partition in found}

    async def write(self, records: Sequence[Record], moves: Mapping[TopicPartition, Move]) -> Written:
        """Rows and positions, or neither."""
        counts: Counter[str] = Counter()
        try:
            connection = await self._ready()
            await connection.execute("BEGIN")
            await _move(connection, moves)
            faults.point("sink_moved")
            await self._apply(connection, records, counts)
            faults.point("sink_applied")
            await connection.execute("COMMIT")
            faults.point("sink_committed")
        except BaseException as error:
            self._drop()
            if (fault := pooled(error)) is not None:
                raise fault from error
            raise
        return Written(dict(counts), counts["refused_rows"])

    async def set_aside(self) -> int:
        """The number of records in `refused_rows`."""
        try:
            connection = await self._ready()
            return int(await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.refused_rows"))
        except BaseException as error:
            self._drop()
            if (fault := pooled(error)) is not None:
                raise fault from error
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(timeout=5)

    async def _ready(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn())
            await migrate(self._connection)
            await self._connection.execute(CREATE_STAGING)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _apply(self, connection: Any, records: Sequence[Record], counts: Counter[str]) -> None:
        """Rows of all records; one that PostgreSQL refuses is found by halving and set aside: it must not block."""
        if not records:
            return
        rows = Rows()
        for start in range(0, len(records), TURN):
            shapes.add_rows(rows, records[start : start + TURN], self._readers)
            await asyncio.sleep(0)
        await connection.execute("SAVEPOINT batch")
        try:
            written = await _insert(connection, rows) + await bought.keep(connection, rows, self._folds)
        except REFUSALS as error:
            await connection.execute("ROLLBACK TO SAVEPOINT batch; RELEASE SAVEPOINT batch")
            if len(records) > 1:
                half = len(records) // 2
                await self._apply(connection, records[:half], counts)
                await self._apply(connection, records[half:], counts)
                return
            refused = shapes.refused_row(records[0], f"{type(error).__name__}: {error}")
            await connection.execute(REFUSE, *refused)
            written = Counter({"refused_rows": 1})
            # Not the error's text, which may quote a value of the order; the table has it.
            log.error(
                "PostgreSQL refused the rows of %s-%d-%d: %s; the table refused_rows has the reason",
                *refused[:3],
                type(error).__name__,
            )
        else:
            await connection.execute("RELEASE SAVEPOINT batch")
        counts += written


async def read_positions(connection: Any) -> dict[TopicPartition, Standing]:
    """Every position that the database has."""
    rows = await connection.fetch(
        f"SELECT topic, partition, next_offset, last_offset, last_timestamp_ms FROM {SCHEMA}.sink_positions"
    )
    return {
        TopicPartition(topic, partition): Standing(after, Mark(last, at) if last is not None else None)
        for topic, partition, after, last, at in rows
    }


async def _move(connection: Any, moves: Mapping[TopicPartition, Move]) -> None:
    first, later = [], []
    for partition, move in sorted(moves.items()):
        row = (partition.topic, partition.partition, move.next, *(move.last or (None, None)))
        if move.expected is None:
            first.append(row)
        else:
            later.append((*row, move.expected))
    for statement, changes in ((FIRST_MOVES, first), (LATER_MOVES, later)):
        if changes and _count(await connection.execute(statement, *zip(*changes, strict=True))) != len(changes):
            raise PositionConflict(f"the positions of {len(changes)} partitions are no longer those read before")


async def _insert(connection: Any, rows: Rows) -> Counter[str]:
    """The rows of a batch into the tables, by way of the staging tables."""
    staged = {
        "staged_events": [(*event, ordinal) for ordinal, event in enumerate(rows.events)],
        "staged_orders": rows.orders.values(),
        "staged_items": rows.items,
        "staged_changes": rows.changes.values(),
        "staged_letters": rows.letters.values(),
    }
    for table, values in staged.items():
        if values:
            await _stage(connection, table, values)
    counts: Counter[str] = Counter()
    for table, staging, statement in (
        ("orders", "staged_orders", MERGE_ORDERS),
        ("orders", "staged_changes", MERGE_CHANGES),
        ("order_items", "staged_items", MERGE_ITEMS),
        ("order_events", "staged_events", MERGE_EVENTS),
        ("dead_letters", "staged_letters", MERGE_LETTERS),
    ):
        if staged[staging]:
            counts[table] += _count(await connection.execute(statement))
    if counts["order_events"] < len(rows.events):
        log.error("PostgreSQL had %d of %d events already", len(rows.events) - counts["order_events"], len(rows.events))
    if rows.redrives:
        await connection.execute(MERGE_REDRIVES, list(rows.redrives), list(rows.redrives.values()))
        counts["dead_letter_redrives"] += len(rows.redrives)
    for refused in rows.refused:
        await connection.execute(REFUSE, *refused)
        counts["refused_rows"] += 1
    return counts


async def _stage(connection: Any, table: str, values: Iterable[Row]) -> None:
    await connection.execute(f"TRUNCATE {table}")
    await connection.copy_records_to_table(table, columns=STAGING[table], records=values)


def _count(tag: str) -> int:
    """`INSERT 0 17` or `UPDATE 17` -> 17"""
    return int(tag.rsplit(" ", 1)[-1])
