"""Webhooks through the real task loop: random histories by the hundred; see webhook_histories.py."""

from __future__ import annotations

from collections import Counter

from schemas.webhooks import WebhookRefusal
from tests.agents.webhook_histories import TOGETHER, play

#: In the suite; two thousand were played by hand before it was written down.
HISTORIES = 100


async def test_histories() -> None:
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES // TOGETHER):
        seen += await play(seed, replay=seed % 5 == 0)
    once = {
        str(WebhookRefusal.NOTHING_TO_CHANGE),
        str(WebhookRefusal.EXISTS_WITH_DIFFERENT_CONTENT),
        str(WebhookRefusal.WRONG_VERSION),
    }
    refusals = {str(reason) for reason in WebhookRefusal} - once  # these have their rows in the table
    assert refusals <= set(seen)
    happened = {"attempt_due", "delivery_succeeded", "attempt_failed", "delivery_given_up", "breaker_opened",
                "breaker_half_opened", "breaker_closed", "delivery_queued"}  # fmt: skip
    assert happened <= set(seen), happened - set(seen)
