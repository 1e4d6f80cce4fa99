"""Rows 24 and 25: what happens to the payment provider, and a thousand carts for few goods."""

from __future__ import annotations

import asyncio
import time

import orjson

from tests.faults.row import row
from tests.faults.trial import Trial
from tests.oracle.bought import PURCHASES
from tests.oracle.broker import read_topic

#: The provider is away for long enough that requests time out, and back before all six attempts are spent.
LONGEST_AWAY_S = 5.0
#: One order in six is approved that is not paid through it, three carts a second, on a machine that may be starved.
PATIENCE_S = 30.0
CARTS, PER_SECOND = 1_000, 8.0
#: A brief run: each mood of the provider comes up once or twice.
FEW_CARTS, FEW_PER_SECOND = 60, 15.0


@row(24, "provider down, killed, frozen")
async def provider_goes(trial: Trial) -> None:
    """Who does not pay by it does not wait for it; what was asked of it is asked again under the same key."""
    shop = await asyncio.to_thread(trial.with_checkout)
    workers = await trial.up(2)
    pids, provider = [worker.pid for worker in workers], shop.provider
    away = ((provider.stop, provider.start), (provider.kill, provider.start), (provider.pause, provider.resume))
    async with trial.under_load():
        await _until_approved(trial, 3)
        for end, begin in away:
            await asyncio.sleep(3)
            trial.struck()
            await asyncio.to_thread(end)
            seconds = await _until_approved(trial, 1)
            await asyncio.sleep(max(0.0, trial.chance.uniform(3, LONGEST_AWAY_S) - seconds))
            await asyncio.to_thread(begin)
            trial.figures[f"first approval without it ({end.__name__}), s"] = seconds
    assert [worker.pid for worker in workers if worker.child.running()] == pids, "a worker ended with the provider"
    await trial.converge(minimum=1_000)


async def _until_approved(trial: Trial, more: int) -> float:
    """Until so many more orders are approved that are not paid through the provider; gives the seconds."""
    began, before = time.monotonic(), await asyncio.to_thread(_approved, trial)
    while (now := await asyncio.to_thread(_approved, trial)) < before + more:
        waited = time.monotonic() - began
        assert waited < PATIENCE_S, f"{now - before} orders of {more} were approved in {waited:.0f} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def _approved(trial: Trial) -> int:
    """Orders that were approved so far and are not paid through the provider."""
    events = [orjson.loads(record.value or b"") for record in read_topic(trial.stack.kafka, PURCHASES.events)]
    methods = {each["order_uid"]: each["payment"]["method"] for each in events if each["type"] == "cart_placed"}
    return sum(methods[each["order_uid"]] != "provider" for each in events if each["type"] == "order_approved")


@row(25, "a thousand carts over fifty items")
async def a_thousand_carts(trial: Trial) -> None:
    """With callbacks that come again, late and not at all, and one of three workers killed halfway."""
    count, per_second = (FEW_CARTS, FEW_PER_SECOND) if trial.brief else (CARTS, PER_SECOND)
    shop = await asyncio.to_thread(trial.with_checkout)
    shop.per_second, shop.count = per_second, count
    workers = await trial.up(2 if trial.brief else 3)
    async with trial.under_load(per_second=50):
        await shop.carts(count // 2)
        trial.kill(workers[-1])
        await trial.recovered(trial.struck())
        await shop.carts(count)
    await trial.converge(minimum=500)
    trial.verdict.require(**{"orders at rest": count, "bought orders": count, "payments at the provider": count // 10})
    assert trial.figures["carts"] == count
    for what in ("ledger", "items"):  # the platform's own accountants, from the log alone
        await asyncio.to_thread(trial.stack.faust, what, "verify")
