"""The log folded with the pure rules, without engine and broker writes, against reading and decoding it alone."""

from __future__ import annotations

from bench import orders
from bench.loading import load
from bench.results import Goal, Line
from bench.rounds import Bench

ORDERS = 300_000


def run(bench: Bench) -> None:
    ground, count = bench.ground, bench.count(ORDERS)
    topic = ground.name("log")
    ground.create_topics(topic)
    load(ground.bootstrap, topic, orders.plain(count))

    def read(way: str) -> None:
        found = bench.asks(f"offline-{way}", "bench.offline", way, ground.bootstrap, topic, count)
        bench.add(way, offline_per_s=found["per_s"])

    bench.in_turn({"fold": lambda: read("fold"), "decode": lambda: read("decode")})
    ground.delete_topics(topic)


LINES = (
    Line(
        "offline",
        "offline fold with the pure rules",
        "offline_per_s",
        "orders/s",
        ("fold",),
        {"consume and decode": ("decode",)},
        (Goal(0.5, "consume and decode"),),
    ),
)
