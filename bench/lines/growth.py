"""One worker of the product with 10,000 and then 1,000,000 orders in its tables: memory, and CPU per order."""

from __future__ import annotations

import time

from bench.folds import Product
from bench.results import Goal, Line
from bench.rounds import Bench

SMALL, LARGE, MEASURED = 10_000, 1_000_000, 30_000


def run(bench: Bench) -> None:
    def grow() -> None:
        # Without the sink: its backlog would be work of the past in the figures of the present.
        with Product(bench.ground, mixed=False, sink=False) as product:
            done = 0
            for who, size in (("small", bench.count(SMALL)), ("large", bench.count(LARGE, least=2_000))):
                product.feed(size - done, first=done)
                time.sleep(1)  # what the last batches left behind is freed
                memory_mb = product.processes.rss_mb()
                measured = bench.count(MEASURED)
                fed = product.feed(measured, first=size)
                bench.add(who, memory_mb=memory_mb, grown_cpu_s_per_1000=fed.cpu_ms)
                done = size + measured

    bench.in_turn({"product": grow})


_SMALL = {"with 10,000": ("small",)}
LINES = (
    Line(
        "memory",
        "memory of a worker, 1,000,000 orders",
        "memory_mb",
        "MB",
        ("large",),
        _SMALL,
        (Goal(400, at_least=False), Goal(1.5, "with 10,000", at_least=False)),
        more_is_better=False,
    ),
    Line(
        "cost",
        "CPU per 1,000 orders, 1,000,000 in the tables",
        "grown_cpu_s_per_1000",
        "s",
        ("large",),
        _SMALL,
        (Goal(1.2, "with 10,000", at_least=False),),
        more_is_better=False,
    ),
)
