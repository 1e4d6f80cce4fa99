"""300,000 orders in the changelog, no store: from starting the process to ready, and the copying alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench.folds import KafkaStreams, OurFold, Product
from bench.peers.install import Missing
from bench.results import Goal, Line
from bench.rounds import Bench
from bench.watching import Stuck

ORDERS = 300_000
#: The product keeps four rows for an order.
PRODUCT_ROWS = 4


def run(bench: Bench) -> None:
    count = bench.count(ORDERS)
    ways: dict[str, Callable[[], None]] = {}
    with ExitStack() as running:
        # The product first: it clears its own topics when it starts.
        for who, fold, rows in (
            ("product", Product(bench.ground, mixed=False, sink=False), PRODUCT_ROWS),
            ("ours", OurFold(bench.ground), 1),
        ):
            running.enter_context(fold).feed(count)
            fold.stop()
            ways[who] = partial(_restore_ours, bench, who, fold, count * rows)
        if bench.peers:
            try:
                streams = KafkaStreams(bench.ground)
            except Missing as reason:
                bench.measured.skip("kstreams", str(reason))
            else:
                running.enter_context(streams).feed(count)
                streams.stop()
                ways["kstreams"] = partial(_restore_streams, bench, streams, count)
        bench.in_turn(ways)


def _restore_ours(bench: Bench, who: str, fold: OurFold | Product, rows: int) -> None:
    fold.lose_stores()
    began = time.time()
    fold.launch()
    fold.servers[0].wait_ready()
    ready_s = time.time() - began
    told = re.findall(r"restored \S+: (\d+) records in ([0-9.]+) s", fold.children[0].log.read_text(errors="replace"))
    fold.stop()
    _check(who, sum(int(records) for records, _ in told), rows)
    # The tasks restore side by side, so the longest one's time is the whole's.
    bench.add(who, ready_s=ready_s, restore_s=max(float(seconds) for _, seconds in told))


def _restore_streams(bench: Bench, fold: KafkaStreams, rows: int) -> None:
    fold.lose_stores()
    began = time.time()
    fold.launch()
    ready_s = fold.running_at() / 1000 - began
    records, restore_s = fold.restored()
    fold.stop()
    _check("kstreams", records, rows)
    bench.add("kstreams", ready_s=ready_s, restore_s=restore_s)


def _check(who: str, restored: int, rows: int) -> None:
    if restored < rows:
        raise Stuck(f"{who} restored {restored} records where there are {rows} rows: it did not begin with nothing")


_PEERS = {"Kafka Streams": ("kstreams",)}
_GOAL = (Goal(0.7, "Kafka Streams", at_least=False),)

LINES = (
    Line("restore", "restore, start to ready", "ready_s", "s", ("ours",), _PEERS, _GOAL, more_is_better=False),
    Line("restore_alone", "restore alone", "restore_s", "s", ("ours",), _PEERS, _GOAL, more_is_better=False),
    Line(
        "restore_product",
        "restore of the product's four tables, start to ready",
        "ready_s",
        "s",
        ("product",),
        _PEERS,
        more_is_better=False,
    ),
)
