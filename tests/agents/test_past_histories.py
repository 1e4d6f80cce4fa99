"""As it was: random cuts of random histories, each held against a fresh engine that was fed no more than the prefix."""

from __future__ import annotations

from collections import Counter

from tests.agents.past_histories import CUTS, KINDS, play

#: `python -m tests.agents.past_histories 20` plays more, and cuts each of them more often.
SEEDS = range(3)


async def test_whatever_is_asked_of_the_past_is_what_a_fresh_engine_has() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, rounds=25, often=0.25)
    assert all(seen[what] >= 100 for what in CUTS), seen
    assert all(seen[kind] >= 50 for kind in KINDS), seen
    assert all(seen[f"lines of {kind}"] >= 50 for kind in ("order", "purchase", "account")), seen
    assert all(seen[f"{kind} not yet"] for kind in ("order", "purchase", "item")), seen
