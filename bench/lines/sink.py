"""Rows a second: the PostgreSQL sink against asyncpg's COPY of the same rows."""

from __future__ import annotations

from bench.loading import load
from bench.results import Goal, Line
from bench.rounds import Bench
from bench.sink_rows import events

ORDERS = 100_000


def run(bench: Bench) -> None:
    ground, count = bench.ground, bench.count(ORDERS)
    topic = ground.name("sink")
    ground.create_topics(topic)
    load(ground.bootstrap, topic, events(count))

    def write(way: str) -> None:
        ground.empty_database()
        found = bench.asks(f"rows-{way}", "bench.sink_rows", way, ground.bootstrap, topic, count, ground.dsn)
        bench.add(way, rows_per_s=found["rows_per_s"])

    bench.in_turn({"sink": lambda: write("sink"), "copy": lambda: write("copy")})
    ground.empty_database()
    ground.delete_topics(topic)


LINES = (
    Line(
        "sink",
        "sink, rows of orders, items and events",
        "rows_per_s",
        "rows/s",
        ("sink",),
        {"COPY": ("copy",)},
        (Goal(0.5, "COPY"),),
    ),
)
