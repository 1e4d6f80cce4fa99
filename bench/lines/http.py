"""The window: POST to 201 at a steady rate, lookups against a bare handler, lookups while orders flow."""

from __future__ import annotations

import itertools
import time

from bench import orders
from bench.folds import Product
from bench.ground import Served
from bench.loading import steadily
from bench.results import Goal, Line
from bench.rounds import Bench
from bench.watching import Stuck, Watch
from local.ports import find_free

ORDERS_PATH, BARE_PATH = "/api/v1/orders", "/orders/"
POSTS_PER_S, BUSY_ORDERS_PER_S, BUSY_LOOKUPS_PER_S = 200, 10_000, 300
SECONDS = 15
STORED = 100_000
#: Numbers of orders that nothing else uses: each way and round posts new ones.
FRESH = 50_000_000


def _drive(bench: Bench, what: str, port: int, path: str, count: int, per_s: float, seconds: float) -> dict[str, float]:
    """Raises Stuck when an answer was not the one that is wanted."""
    found = bench.asks(
        f"http-{what}", "bench.http_load", what, port, path, "--orders", count, "--per-s", per_s,
        "--seconds", seconds, "--warm-s", bench.seconds(3),
    )  # fmt: skip
    if found["bad"]:
        raise Stuck(f"{found['bad']} answers of {path} had another status than the one that is wanted")
    return found


# -- POST -> 201 ------------------------------------------------------------------------------------------------------


def run_posts(bench: Bench) -> None:
    numbers = itertools.count(FRESH, 1_000_000)

    def post() -> None:
        with Product(bench.ground) as product:
            port = product.servers[0].port
            found = _drive(bench, "postings", port, ORDERS_PATH, next(numbers), POSTS_PER_S, bench.seconds(SECONDS))
            bench.add("product", p50_ms=found["p50_ms"], p99_ms=found["p99_ms"])

    bench.in_turn({"product": post})


POST_LINES = (
    Line(
        "post_p50",
        "POST to 201 at 200/s, p50",
        "p50_ms",
        "ms",
        ("product",),
        goals=(Goal(20, at_least=False),),
        more_is_better=False,
    ),
    Line(
        "post_p99",
        "POST to 201 at 200/s, p99",
        "p99_ms",
        "ms",
        ("product",),
        goals=(Goal(60, at_least=False),),
        more_is_better=False,
    ),
)

# -- lookups ----------------------------------------------------------------------------------------------------------


def run_lookups(bench: Bench) -> None:
    count, ground = bench.count(STORED), bench.ground
    with Product(ground, mixed=False, sink=False) as product:
        product.feed(count)
        product.stop()

        def drive(who: str, port: int, path: str) -> None:
            most = _drive(bench, "lookups", port, path, count, 0, bench.seconds(SECONDS / 2))
            half = _drive(bench, "lookups", port, path, count, most["per_s"] / 2, bench.seconds(SECONDS / 2))
            bench.add(who, lookups_per_s=most["per_s"], lookup_p99_ms=half["p99_ms"])

        def ours() -> None:
            product.start()
            drive("worker", product.servers[0].port, f"{ORDERS_PATH}/")
            product.stop()

        def bare() -> None:
            # One core is one core: the worker is not there meanwhile.
            port = find_free()[0]
            store = product.folder / "bare"
            arguments = (ground.bootstrap, "orderstream-orders-changelog", str(store), str(port))
            child = ground.start(ground.name("bare-http"), ground.python("bench.peers.bare_http", *arguments))
            try:
                Served(child, port).wait_ready()
                drive("bare", port, BARE_PATH)
            finally:
                child.stop()

        bench.in_turn({"worker": ours, "bare": bare})


_BARE = {"bare aiohttp handler": ("bare",)}
LOOKUP_LINES = (
    Line(
        "lookups",
        "HTTP lookups of one worker",
        "lookups_per_s",
        "/s",
        ("worker",),
        _BARE,
        (Goal(0.8, "bare aiohttp handler"),),
    ),
    Line(
        "lookups_p99",
        "their p99 at half that rate",
        "lookup_p99_ms",
        "ms",
        ("worker",),
        _BARE,
        more_is_better=False,
    ),
)

# -- lookups while orders flow ----------------------------------------------------------------------------------------


def run_busy(bench: Bench) -> None:
    count = bench.count(STORED)
    numbers = itertools.count(FRESH, 10_000_000)

    def busy(who: str, sink: bool) -> None:
        with Product(bench.ground, mixed=False, sink=sink) as product:
            product.feed(count)
            per_s, first = BUSY_ORDERS_PER_S, next(numbers)
            with steadily(bench.ground.bootstrap, product.source, orders.plain(9_000_000, first), per_s):
                time.sleep(bench.seconds(2))
                watch = Watch(bench.ground.bootstrap, product.group, product.source, product.output)
                began, before = time.monotonic(), watch.committed()
                port, seconds = product.servers[0].port, bench.seconds(SECONDS)
                found = _drive(bench, "lookups", port, f"{ORDERS_PATH}/", count, BUSY_LOOKUPS_PER_S, seconds)
                folded = (watch.committed() - before) / (time.monotonic() - began)
                watch.close()
            bench.add(who, busy_p99_ms=found["p99_ms"], busy_orders_per_s=folded)

    bench.in_turn({"worker": lambda: busy("worker", False), "with_sink": lambda: busy("with_sink", True)})


BUSY_LINES = (
    Line(
        "busy_p99",
        "lookups while 10,000 orders/s come in, p99",
        "busy_p99_ms",
        "ms",
        ("worker",),
        {"with the sink in the same worker": ("with_sink",)},
        (Goal(25, at_least=False),),
        more_is_better=False,
    ),
    Line(
        "busy_orders",
        "orders folded meanwhile",
        "busy_orders_per_s",
        "orders/s",
        ("worker",),
        {"with the sink in the same worker": ("with_sink",)},
        (Goal(0.95 * BUSY_ORDERS_PER_S),),
    ),
)
