"""1,000 orders a second: produce -> read-committed event, of our engine, the product, and Kafka Streams' two modes."""

from __future__ import annotations

from collections.abc import Callable

from bench.folds import Fold, KafkaStreams, OurFold, Product
from bench.latency import measure
from bench.results import Goal, Line
from bench.rounds import Bench

PER_S, WARM_S, SECONDS = 1_000, 10, 20


def run(bench: Bench) -> None:
    ground = bench.ground

    def way(who: str, make: Callable[[], Fold]) -> Callable[[], None]:
        def once() -> None:
            with make() as fold:
                found = measure(
                    ground.bootstrap,
                    fold.source,
                    fold.output,
                    fold.processes,
                    per_s=PER_S,
                    warm_s=bench.seconds(WARM_S),
                    seconds=bench.seconds(SECONDS),
                )
                bench.add(who, p50_ms=found.p50_ms, p99_ms=found.p99_ms, cpu_percent=found.cpu_percent)

        return once

    ways = {
        "ours": way("ours", lambda: OurFold(ground, 1)),
        "product": way("product", lambda: Product(ground, 1)),
    }
    if bench.peers:
        ways |= {
            "exactly_once": way("exactly_once", lambda: KafkaStreams(ground)),
            "at_least_once": way("at_least_once", lambda: KafkaStreams(ground, guarantee="at_least_once")),
        }
    bench.in_turn(ways)


_PEERS = {"Kafka Streams exactly-once": ("exactly_once",), "at-least-once": ("at_least_once",)}


def _lines(prefix: str, title: str, who: str) -> tuple[Line, ...]:
    def at_most(name: str, what: str, quantity: str, unit: str, limit: float) -> Line:
        goal = Goal(limit, at_least=False)
        return Line(f"{prefix}_{name}", what, quantity, unit, (who,), _PEERS, (goal,), more_is_better=False)

    return (
        at_most("p50", f"latency at 1,000/s, {title}, p50", "p50_ms", "ms", 10),
        at_most("p99", f"latency at 1,000/s, {title}, p99", "p99_ms", "ms", 30),
        at_most("cpu", f"the worker's CPU meanwhile, {title}", "cpu_percent", "% of a core", 60),
    )


LINES = (*_lines("latency", "bare fold", "ours"), *_lines("latency_product", "product", "product"))
