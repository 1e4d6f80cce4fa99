"""a failing plan -> a smaller one that still fails: what can be taken out while something stays wrong is taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.network import Weather
from tests.simulation.plan import Action, Plan

#: A shrunk history is another history, so that each smaller plan is tried with this many chances of how it runs.
TRIES = 3


def shrink(plan: Plan, fails: Callable[[Plan], bool], budget: int = 400) -> Plan:
    """The smallest plan found within `budget` runs; `plan` itself when nothing smaller fails."""
    left = [budget]

    def find(smaller: Plan) -> Plan | None:
        for number in range(TRIES):
            if left[0] <= 0:
                return None
            left[0] -= 1
            candidate = replace(smaller, seed=smaller.seed + number * 1_000_003)
            if fails(candidate):
                return candidate
        return None

    for simpler in _simpler(plan):
        plan = find(simpler(plan)) or plan
    size = max(1, len(plan.actions) // 2)
    while left[0] > 0:
        at, smaller = 0, False
        while at < len(plan.actions) and left[0] > 0:
            found = find(_without(plan, plan.actions[at : at + size]))
            if found is None:
                at += size
            else:
                plan, smaller = found, True
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return plan


def _simpler(plan: Plan) -> list[Callable[[Plan], Plan]]:
    """Whole groups of circumstances that may not matter."""
    changes: list[dict[str, object]] = [
        {"weather": Weather()},
        {"fail_batch": 0.0},
        {"batch_most": 1_000},
        {"standbys": 0},
        {"readers": 0},
        {"marker_delay_s": 0.001},
        {"wake_delay_s": 0.001},
    ]
    return [lambda plan, change=change: replace(plan, **change) for change in changes]  # type: ignore[misc]


def _without(plan: Plan, actions: tuple[Action, ...]) -> Plan:
    return replace(plan, actions=tuple(action for action in plan.actions if action not in actions))
