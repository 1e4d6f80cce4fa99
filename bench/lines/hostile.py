"""The most CPU that one record of the hostile corpus takes: reading, the rules, its dead letter and the commit."""

from __future__ import annotations

from bench.results import Goal, Line
from bench.rounds import Bench


def run(bench: Bench) -> None:
    bench.in_turn({"ours": lambda: bench.add("ours", worst_ms=bench.asks("hostile", "bench.hostile")["worst_ms"])})


LINES = (
    Line(
        "hostile",
        "CPU of the worst hostile record",
        "worst_ms",
        "ms",
        ("ours",),
        goals=(Goal(50, None, at_least=False),),
        more_is_better=False,
    ),
)
