"""300,000 orders at once: rate and CPU of the bare fold on our engine, of the product, and of the peers."""

from __future__ import annotations

from collections.abc import Callable

from bench.folds import Fold, KafkaStreams, OurFold, Product, Quix, StockFaust
from bench.results import Goal, Line
from bench.rounds import Bench

ORDERS = 300_000
#: Stock Faust does a tenth of the others' work in the same time.
FAUST_ORDERS = 40_000
#: The same again for whoever is warm by then: a JVM has compiled, stores have files.
AGAIN = 100_000

STREAMS, QUIX, FAUST = "Kafka Streams", "Quix", "Faust"


def run(bench: Bench) -> None:
    ground, count = bench.ground, bench.count(ORDERS)

    def way(who: str, make: Callable[[], Fold], orders: int = count) -> Callable[[], None]:
        def fold_once() -> None:
            with make() as fold:
                fed = fold.feed(orders)
                bench.add(who, orders_per_s=fed.per_s, cpu_s_per_1000=fed.cpu_ms, peak_mb=fed.peak_mb)
                bench.add(who, broker_cpu_s_per_1000=fed.broker_cpu_ms, database_cpu_s_per_1000=fed.database_cpu_ms)
                if fold.gated:
                    again = fold.feed(bench.count(AGAIN), first=orders)
                    bench.add(who, warm_orders_per_s=again.per_s, warm_cpu_s_per_1000=again.cpu_ms)

        return fold_once

    ways = {
        "ours_1": way("ours_1", lambda: OurFold(ground, 1)),
        "ours_2": way("ours_2", lambda: OurFold(ground, 2)),
        "whole_2": way("whole_2", lambda: OurFold(ground, 2, "whole")),
        "product_1": way("product_1", lambda: Product(ground, 1)),
        "product_2": way("product_2", lambda: Product(ground, 2)),
    }
    if bench.peers:
        faust_count = bench.count(FAUST_ORDERS)
        ways |= {
            "kstreams": way("kstreams", lambda: KafkaStreams(ground)),
            "quix_1": way("quix_1", lambda: Quix(ground, 1)),
            "quix_2": way("quix_2", lambda: Quix(ground, 2)),
            "faust_1": way("faust_1", lambda: StockFaust(ground, 1), faust_count),
            "faust_2": way("faust_2", lambda: StockFaust(ground, 2), faust_count),
        }
    bench.in_turn(ways)


_OURS, _PRODUCT = ("ours_1", "ours_2"), ("product_1", "product_2")
_STREAMS = {STREAMS: ("kstreams",)}
_ALL = {**_STREAMS, QUIX: ("quix_1", "quix_2"), FAUST: ("faust_1",), "Faust on two workers": ("faust_2",)}

LINES = (
    Line(
        "throughput",
        "throughput, bare fold",
        "orders_per_s",
        "orders/s",
        _OURS,
        _ALL,
        (Goal(3.5, STREAMS), Goal(4, QUIX), Goal(15, FAUST)),
    ),
    Line("throughput_whole", "the same, all JSON decoded and encoded", "orders_per_s", "orders/s", ("whole_2",), _ALL),
    Line("throughput_warm", "the next 100,000, all warm", "warm_orders_per_s", "orders/s", _OURS, _ALL),
    Line(
        "product",
        "throughput, full product, sink beside it",
        "orders_per_s",
        "orders/s",
        _PRODUCT,
        _ALL,
        (Goal(1.5, STREAMS),),
    ),
    Line(
        "cpu",
        "CPU per 1,000 orders, bare fold",
        "cpu_s_per_1000",
        "s",
        _OURS,
        _ALL,
        (Goal(0.30, STREAMS, at_least=False),),
        more_is_better=False,
    ),
    Line("cpu_warm", "the same, all warm", "warm_cpu_s_per_1000", "s", _OURS, _ALL, more_is_better=False),
    Line("cpu_product", "CPU per 1,000 orders, product", "cpu_s_per_1000", "s", _PRODUCT, _ALL, more_is_better=False),
    Line(
        "cpu_broker",
        "the broker's CPU per 1,000 orders",
        "broker_cpu_s_per_1000",
        "s",
        _OURS,
        _ALL,
        more_is_better=False,
    ),
    Line(
        "cpu_database",
        "PostgreSQL's CPU per 1,000 orders meanwhile, product",
        "database_cpu_s_per_1000",
        "s",
        _PRODUCT,
        more_is_better=False,
    ),
    Line(
        "workers",
        "two workers, bare fold",
        "orders_per_s",
        "orders/s",
        ("ours_2",),
        {"one worker": ("ours_1",)},
        (Goal(1.6, "one worker"),),
    ),
    Line(
        "workers_product",
        "two workers, product",
        "orders_per_s",
        "orders/s",
        ("product_2",),
        {"one worker": ("product_1",)},
        (Goal(1.6, "one worker"),),
    ),
)
