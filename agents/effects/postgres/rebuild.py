"""PostgreSQL emptied under running sinks -> filled again from the log -> the same rows."""

from __future__ import annotations

from collections.abc import Callable, Collection

from agents.effects.postgres.changelog import bounds
from agents.effects.postgres.destination import connect
from agents.effects.postgres.migrate import SCHEMA, migrate
from agents.effects.postgres.verify import caught_up
from streams.brokers import Brokers
from streams.sink import Sink

#: Positions first: every writer locks them first, so that this waits for the write in hand instead of deadlocking.
TABLES = (
    "sink_positions", "orders", "order_items", "order_events", "dead_letters", "dead_letter_redrives", "refused_rows",
    "purchases", "purchase_lines", "purchase_events", "payments", "payment_attempts",
)  # fmt: skip


async def empty(dsn: str) -> None:
    """Rows and positions away, in one transaction. Running sinks notice by their positions and begin anew."""
    connection = await connect(dsn, lock_timeout="30s", statement_timeout="120s")
    try:
        await migrate(connection)
        await connection.execute(f"TRUNCATE {', '.join(f'{SCHEMA}.{table}' for table in TABLES)}")
    finally:
        await connection.close()


async def rebuild(
    dsn: str,
    brokers: Brokers | str,
    topics: Collection[str],
    sink: Sink,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Empty the tables and return when they stand where the topics ended at the start; gives the offsets gone through.

    `sink` is started here and stopped at the end: it shares the work with those of running workers, and does all of it
    when none runs. Safe at any time, and again after a rebuild that was cut off. Raises Stalled when nothing moves.
    """
    spans = await bounds(brokers, topics, committed=False)
    await empty(dsn)
    await sink.start()
    try:
        await caught_up(
            dsn,
            {partition: end for partition, (_, end) in spans.items()},
            firsts={partition: first for partition, (first, _) in spans.items()},
            progress=progress,
            why=lambda: sink.health().last_error,
        )
    finally:
        await sink.stop()
    return sum(end - first for first, end in spans.values())
