"""A fixed number of simulated histories: each holds, enough goes wrong in them, and each is the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.history import Outcome, run
from tests.simulation.mutants import MUTANTS, broken
from tests.simulation.plan import FAULTS, POINTS, TOPOLOGIES, make_plan
from tests.simulation.shrink import shrink

#: About a quarter of a minute on one idle core. `make simulate HISTORIES=100000` is the long run.
HISTORIES = 500


def test_every_history_holds_and_enough_goes_wrong() -> None:
    """In one test, for which they are played once: the processes of `make test` share nothing."""
    played = _played(HISTORIES)
    _all_held(played)
    _enough_was_done(played)
    _every_fault_happened(played)


def _played(count: int) -> list[Outcome]:
    return [run(make_plan(seed)) for seed in range(count)]


def _all_held(played: list[Outcome]) -> None:
    failed = [outcome for outcome in played if not outcome.held]
    shown = [f"make simulate SEED={outcome.plan.seed}: {outcome.wrong[0]}" for outcome in failed]
    assert not failed, "\n".join(shown)


def _enough_was_done(played: list[Outcome]) -> None:
    """I8: a simulation in which nothing happens proves nothing."""
    total: Counter[str] = Counter()
    for outcome in played:
        total.update(outcome.counts)
    least = {
        "transactions": 5_000,
        "aborted": 300,
        "fenced": 300,
        "sessions_ended": 300,
        "generations": 1_000,
        "reads": 5_000,
        "sink_conflicts": 5,
        "calls_lost": 1_000,
        "calls_late": 300,
    }
    assert {name: total[name] for name, count in least.items() if total[name] < count} == {}


def _every_fault_happened(played: list[Outcome]) -> None:
    """On every topology."""
    seen = {(outcome.plan.topology, action.kind) for outcome in played for action in outcome.plan.actions}
    assert {(name, kind) for name in TOPOLOGIES for kind in [*FAULTS, "send", "foreign"]} <= seen
    died_at = {line.split(" dies at ")[1] for outcome in played for line in outcome.trace if " dies at " in line}
    assert died_at == set(POINTS)


def test_the_same_seed_is_the_same_history() -> None:
    for first in _played(20):
        again = run(make_plan(first.plan.seed))
        assert (again.digest, again.trace) == (first.digest, first.trace)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_no_history_hangs_on_the_order_of_a_set(hash_seed: str) -> None:
    """Another process, another order of everything that Python orders by hash: the same steps."""
    code = (
        "import logging; logging.disable(50)\n"
        "from tests.simulation.history import run\nfrom tests.simulation.plan import make_plan\n"
        "print(*(run(make_plan(seed)).digest for seed in range(20)))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert printed.stdout.split() == [outcome.digest for outcome in _played(20)]


def test_a_failing_history_is_shrunk_to_what_it_needs() -> None:
    with broken(MUTANTS["rollback_undone_not"]):
        failing = next(plan for plan in map(make_plan, range(100)) if not run(plan).held)
        smaller = shrink(failing, lambda plan: not run(plan).held, budget=150)
        assert not run(smaller).held
    assert len(smaller.actions) <= 3 < len(failing.actions)
