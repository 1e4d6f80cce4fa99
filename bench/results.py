"""samples of every round -> lines with medians, spread, ratios and goals -> results.json and a table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

#: Samples of a quantity and a competitor, in the order of the rounds.
Samples = Mapping[tuple[str, str], Sequence[float]]


class Measured:
    """What the rounds found. A competitor that could not run has no samples, and a reason."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.skipped: dict[str, str] = {}

    def add(self, quantity: str, who: str, value: float) -> None:
        self.samples[quantity, who].append(value)

    def skip(self, who: str, reason: str) -> None:
        self.skipped[who] = reason


@dataclass(frozen=True)
class Goal:
    """What a line must reach: a multiple of a peer's figure, or, without a peer, a figure in the line's unit."""

    limit: float
    of: str | None = None
    at_least: bool = True

    def text(self, unit: str) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g} {unit}" if self.of is None else f"{sign} {self.limit:g} × {self.of}"

    def met(self, ours: float, peers: Mapping[str, float]) -> bool | None:
        """None when the peer could not run."""
        if self.of is not None and self.of not in peers:
            return None
        limit = self.limit if self.of is None else self.limit * peers[self.of]
        return ours >= limit if self.at_least else ours <= limit


@dataclass(frozen=True)
class Line:
    """One line of the table. Where a side has several ways to run (one worker or two), its best median counts."""

    name: str
    what: str
    quantity: str
    unit: str
    ours: tuple[str, ...]
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    more_is_better: bool = True

    def judged(self, samples: Samples) -> dict[str, Any] | None:
        """The line as it stands in results.json; None when ours has no sample."""
        ours = self._best(self.ours, samples)
        if ours is None:
            return None
        found = {label: best for label, ways in self.peers.items() if (best := self._best(ways, samples))}
        peers = {label: median(values) for label, values in found.items()}
        middle = median(ours)
        ratios = {label: round(middle / value, 3) for label, value in peers.items() if value}
        verdicts = [goal.met(middle, peers) for goal in self.goals]
        first = next((goal.of for goal in self.goals if goal.of is not None), next(iter(self.peers), None))
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": round(middle, 4),
            "peers": {label: round(value, 4) for label, value in peers.items()},
            "ratio": ratios.get(first or ""),
            "ratios": ratios,
            "goal": "; ".join(goal.text(self.unit) for goal in self.goals),
            "met": _together(verdicts),
            "spread": {label: [round(min(v), 4), round(max(v), 4)] for label, v in {"ours": ours, **found}.items()},
            "rounds": len(ours),
        }

    def _best(self, ways: Iterable[str], samples: Samples) -> Sequence[float] | None:
        runs = [values for way in ways if (values := samples.get((self.quantity, way)))]
        if not runs:
            return None
        return max(runs, key=median) if self.more_is_better else min(runs, key=median)


def _together(verdicts: Sequence[bool | None]) -> bool | None:
    """Missed when one goal is missed; open when there is none, or when a peer that one needs could not run."""
    if False in verdicts:
        return False
    return None if not verdicts or None in verdicts else True


def write(path: Path, lines: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Lines that were not measured this time stay as they were, with the date and machine of their own run."""
    before = json.loads(path.read_text())["lines"] if path.exists() else {}
    stamp = {name: about[name] for name in ("date", "commit") if name in about}
    whole = {**about, "lines": before | {name: {**line, **stamp} for name, line in lines.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".json.tmp")
    new.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    new.replace(path)
    return whole


HEAD = ("line", "ours", "peers", "ratio", "goal", "")


def rows(lines: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table's cells, the head aside."""
    return [
        (
            line["what"],
            f"{_figure(line['ours'])} {line['unit']}{_spread(line['spread']['ours'])}",
            ", ".join(f"{label} {_figure(value)}" for label, value in line["peers"].items()),
            ", ".join(f"{ratio:.2f} ×" for ratio in line["ratios"].values()),
            line["goal"],
            {True: "met", False: "missed", None: ""}[line["met"]],
        )
        for line in lines.values()
    ]


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _spread(spread: Sequence[float]) -> str:
    low, high = spread
    return "" if low == high else f" ({_figure(low)}–{_figure(high)})"


def as_text(lines: Mapping[str, Mapping[str, Any]]) -> str:
    table = [HEAD, *rows(lines)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    ruled = [table[0], tuple("-" * width for width in widths), *table[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in ruled
    )


def as_markdown(lines: Mapping[str, Mapping[str, Any]]) -> str:
    table = [HEAD, ("---",) * len(HEAD), *rows(lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"
