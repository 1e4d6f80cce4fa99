"""a topic of events -> rows of PostgreSQL, by the product's sink or by bare COPY -> rows a second, as one line of JSON.

`python -m bench.sink_rows sink|copy BOOTSTRAP TOPIC COUNT DSN`, alone in its process, until COUNT events are written.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from agents.effects.postgres import SCHEMA
from agents.effects.postgres import rows as shapes
from agents.effects.postgres.destination import PostgresDestination, connect
from agents.effects.postgres.migrate import migrate
from agents.orders import decide
from bench import orders
from bench.loading import Record
from bench.offline import messages
from schemas.orders import PlaceOrder, encode_event, read_document
from streams.records import StoredRecord
from streams.records import TopicPartition as Partition
from streams.sink import Move, Pump, SinkMetrics, Written
from streams.sources import KafkaSource

AT = "2026-11-21T12:00:00.000Z"


def events(count: int) -> Iterator[Record]:
    """One `order_placed` for each of the orders 0 to count - 1, as the product writes it."""
    for key, value in orders.plain(count):
        command = PlaceOrder.of(read_document(value), value, f"bench-{key.decode()}")
        yield from ((key, encode_event(event)) for event in decide(None, command, AT))


class Timed(PostgresDestination):
    """The product's destination; it notes what was written, and the time from the first write's beginning."""

    def __init__(self, dsn: str, topic: str) -> None:
        super().__init__(lambda: dsn, {topic: shapes.read_event})
        self.events, self.rows, self.began, self.ended = 0, 0, 0.0, 0.0

    async def write(self, records: Sequence[Any], moves: Mapping[Partition, Move]) -> Written:
        self.began = self.began or time.perf_counter()
        written = await super().write(records, moves)
        self.events += len(records)
        self.rows += sum(written.rows.values())
        self.ended = time.perf_counter()
        return written


async def by_sink(bootstrap: str, topic: str, count: int, dsn: str) -> float:
    destination = Timed(dsn, topic)
    source = KafkaSource(bootstrap, f"{topic}-sink", [topic])
    pump = Pump("bench", source, destination, SinkMetrics(CollectorRegistry()))
    while destination.events < count:  # noqa: ASYNC110  # the sleep is the wait that the pump asks for
        await asyncio.sleep(await pump.step())
    await source.close()
    await destination.close()
    return destination.rows / (destination.ended - destination.began)


async def by_copy(bootstrap: str, topic: str, count: int, dsn: str) -> float:
    """The same rows, made beforehand and held in memory, into tables without keys and indexes."""
    rows = shapes.Rows()
    shapes.add_rows(rows, _read(bootstrap, topic, count), {topic: shapes.read_event})
    documents = {event[2]: event[-1] for event in rows.events}
    tables = {
        "orders": [(*order[:-1], documents[uid]) for uid, order in rows.orders.items()],
        "order_items": rows.items,
        "order_events": rows.events,
    }
    connection = await connect(dsn)
    await migrate(connection)
    columns = {
        "orders": (*shapes.ORDER_COLUMNS, "document"),
        "order_items": shapes.ITEM_COLUMNS,
        "order_events": shapes.EVENT_COLUMNS,
    }
    for table in tables:
        await connection.execute(f"CREATE TABLE {SCHEMA}.bare_{table} AS SELECT * FROM {SCHEMA}.{table} WITH NO DATA")
    began = time.perf_counter()
    for table, values in tables.items():
        await connection.copy_records_to_table(
            f"bare_{table}", schema_name=SCHEMA, columns=columns[table], records=values
        )
    seconds = time.perf_counter() - began
    await connection.close()
    return sum(map(len, tables.values())) / seconds


def _read(bootstrap: str, topic: str, count: int) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    for batch in messages(bootstrap, topic):
        found += (StoredRecord(topic, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value()) for m in batch)
        if len(found) >= count:
            break
    return found


if __name__ == "__main__":
    way, bootstrap, topic, count, dsn = sys.argv[1:6]
    run = {"sink": by_sink, "copy": by_copy}[way]
    print(json.dumps({"rows_per_s": asyncio.run(run(bootstrap, topic, int(count), dsn))}))
