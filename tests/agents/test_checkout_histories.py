"""Carts by the thousand through the real task loop: see checkout_histories.py; and a broken saga is seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import agents.checkout
import agents.purchases.rules
import agents.purchases.state
import agents.purchases.story
import agents.purchases.travel
import agents.shipping
from schemas.orders import OrderStatus
from tests.agents.checkout_histories import TOGETHER, play

#: `python -m tests.agents.checkout_histories 20000` plays more.
SEEDS = range(2_000 // TOGETHER)


async def test_two_thousand_orders() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, replay=seed % 10 == 0)
    ends = {str(status) for status in OrderStatus} - {"placed", "awaiting_payment", "delivered"}
    others = {"parcel delivered", "parcel returned_to_origin", "parcel cancelled", "line exchanged", "line paid back"}
    assert set(seen) - {"parcel lost"} == ends | others | {"payment lost", "loss made good"}, "each end was reached"


def _nothing(*_: Any) -> tuple[()]:
    return ()


@pytest.mark.parametrize(
    ("where", "what", "broken"),
    [
        (agents.checkout, "_free", _nothing),
        (agents.checkout, "_refund", _nothing),
        (agents.checkout, "_take_back", _nothing),
        (agents.checkout, "_settle", _nothing),
        (agents.checkout, "_replace", _nothing),
        (agents.checkout, "_number", _nothing),
        (agents.purchases.story, "excess_minor", lambda *_: 0),
        (agents.purchases.rules, "_lose", _nothing),
        (agents.purchases.state, "_lost_minor", lambda purchase: purchase.failed_minor),
        (agents.shipping, "_ask_again", _nothing),
        (agents.purchases.travel, "if_last", lambda *_: {"capture_minor": None, "complete_at_ms": None}),
    ],
)
async def test_a_saga_that_forgets_something_is_caught(
    monkeypatch: pytest.MonkeyPatch, where: Any, what: str, broken: Any
) -> None:
    monkeypatch.setattr(where, what, broken)
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            await play(seed)
