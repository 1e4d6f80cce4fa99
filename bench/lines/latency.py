"""1,000 orders a second: produce -> read-committed event, of our engine, the product, and Kafka Streams' two modes."""

from __future__ import annotations

from collections.abc import Callable

from bench.folds import Fold, KafkaStreams, OurFold, Product
from bench.latency import measure
from bench.results import Goal, Line
from bench.rounds import Bench

PER_S, WARM_S, SECONDS = 1_000, 10, 20
#: Kafka Streams' commit interval with exactly-once: what the product costs at the same one.
PACED_MS = 100


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
        "paced": way("paced", lambda: Product(ground, 1, more={"ORDERSTREAM_COMMIT_INTERVAL_MS": str(PACED_MS)})),
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


def _paced(name: str, what: str, quantity: str, unit: str, *goals: Goal) -> Line:
    title = f"{what} at 1,000/s, product that commits every {PACED_MS} ms"
    peers = {"at once": ("product",), "Kafka Streams exactly-once": ("exactly_once",)}
    return Line(f"latency_paced_{name}", title, quantity, unit, ("paced",), peers, goals, more_is_better=False)


LINES = (
    *_lines("latency", "bare fold", "ours"),
    *_lines("latency_product", "product", "product"),
    _paced("p50", "latency, p50", "p50_ms", "ms"),
    _paced("p99", "latency, p99", "p99_ms", "ms"),
    _paced("cpu", "the worker's CPU", "cpu_percent", "% of a core", Goal(0.7, of="at once", at_least=False)),
)
