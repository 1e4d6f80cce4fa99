"""rows by number -> one trial each -> outcomes -> the table and the result file."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.trial import Trial

Run = Callable[["Trial"], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One fault: its number in docs/faults.md, its name, and what is done to the platform.

    `fresh`: on a Kafka of its own, which has little to load when it starts again. `checkout`: in full, shoppers are at
    work beside the orders. `brokers`: 3 for a cluster with replication factor 3 and min.insync.replicas 2.
    """

    number: int
    name: str
    run: Run
    fresh: bool = False
    checkout: bool = False
    brokers: int = 1


@dataclass
class Outcome:
    """What came of one trial. `recover_s`: the slowest recovery of all strikes; `figures`: what else was measured."""

    fault: int
    name: str
    seed: int
    work: int = 0
    strikes: int = 0
    lost: int = 0
    doubled: int = 0
    amiss: int = 0  # reordered, wrong, hanging
    recover_s: float | None = None
    took_s: float = 0.0
    figures: dict[str, float | int | str] = field(default_factory=dict)
    why: str | None = None  # it did not hold
    kills: int = 0  # kill -9 of workers
    fenced: int = 0  # zombies

    @property
    def held(self) -> bool:
        return self.why is None


ROWS: dict[int, Row] = {}


def row(
    number: int, name: str, *, fresh: bool = False, checkout: bool = False, brokers: int = 1
) -> Callable[[Run], Run]:
    """Enter a row into ROWS."""

    def enter(run: Run) -> Run:
        assert number not in ROWS, f"row {number} is there twice"
        ROWS[number] = Row(number, name, run, fresh, checkout, brokers)
        return run

    return enter


#: What a run of every row in full must have done at least, or its table says that it proves too little.
KILLS, ZOMBIES = 20, 3


def shortcoming(outcomes: Sequence[Outcome]) -> str | None:
    """What is missing from a run of every row in full."""
    kills, fenced = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("kills", "fenced"))
    if kills >= KILLS and fenced >= ZOMBIES:
        return None
    return f"too little was done: {kills} kill -9 of {KILLS}, {fenced} zombies fenced of {ZOMBIES}"


HEAD = ("fault", "", "seed", "work", "strikes", "lost", "doubled", "amiss", "recovered", "took", "verdict")


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in columns; below, why one did not hold, and what was measured."""
    lines = [HEAD, *(_cells(outcome) for outcome in outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for outcome in outcomes:
        told = ", ".join(f"{name} {value}" for name, value in outcome.figures.items())
        rows += [f"{outcome.fault}: {told}"] if told else []
        rows += [f"{outcome.fault} did not hold with SEED={outcome.seed}: {outcome.why}"] if outcome.why else []
    kills, fenced = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("kills", "fenced"))
    rows += [f"{kills} kill -9 of workers, {fenced} zombies fenced"] if kills or fenced else []
    return "\n".join(rows)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    numbers = (outcome.seed, outcome.work, outcome.strikes, outcome.lost, outcome.doubled, outcome.amiss)
    recovered = "-" if outcome.recover_s is None else f"{outcome.recover_s:.1f} s"
    verdict = "held" if outcome.held else "NOT HELD"
    return (str(outcome.fault), outcome.name, *map(str, numbers), recovered, f"{outcome.took_s:.0f} s", verdict)


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """The same for programs."""
    held = sum(outcome.held for outcome in outcomes)
    rows = [asdict(outcome) | {"held": outcome.held} for outcome in outcomes]
    done = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in ("kills", "fenced")}
    path.write_text(json.dumps({"runs": len(outcomes), "held": held, **done, "rows": rows}, indent=1) + "\n")
