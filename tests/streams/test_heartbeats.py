"""A worker whose event loop is busy: it stays a member for a while, and loses its partitions after it."""

from __future__ import annotations

import asyncio
import time

from tests.processes import Worker
from tests.streams.load import Toy

#: Longer than the toy's session of 3 s, as the product's 6 s stand to 10.
STALL_S = 10.0


def joins(worker: Worker) -> int:
    """How many assignments the worker has got: one for each rebalance."""
    status, body = worker.get("/assignments", 120.0)
    assert status == 200, body
    return int(body["assignments"])


async def stall(worker: Worker, seconds: float) -> int:
    """Keep its event loop busy for so long; gives how many heartbeats its thread has sent."""
    status, body = await asyncio.to_thread(worker.get, f"/stall/{seconds}", 120.0)
    assert status == 200, body
    return int(body["heartbeats"])


async def test_a_busy_event_loop_costs_no_partition(toy: Toy) -> None:
    """Two sessions and more without a turn for anything else: no rebalance, and the work goes on afterwards."""
    busy, other = await toy.start(), await toy.start()
    tasks, before = busy.get("/state")[1]["tasks"], joins(other)
    async with toy.load(per_second=200):
        assert await stall(busy, STALL_S) >= 3, "nothing was proven"
        assert busy.get("/state")[1]["tasks"].keys() == tasks.keys() != set()
    await toy.converge()
    await toy.judge(minimum=1_000)
    assert joins(other) == before, "the other worker had to join again"


async def test_a_member_with_an_id_of_its_own_stays_too(toy: Toy) -> None:
    """Its heartbeats name its instance, in the thread as well."""
    busy = await toy.start(TOY_INSTANCE="busy")
    before = joins(busy)
    async with toy.load(per_second=200):
        assert await stall(busy, STALL_S) >= 3, "nothing was proven"
    await toy.converge()
    assert joins(busy) == before


async def test_an_event_loop_that_stands_still_for_too_long_is_replaced(toy: Toy) -> None:
    """Past its bound the others take over; what the worker then still tries to write is fenced."""
    stalled, other = await toy.start(TOY_STALL_MS="4000"), await toy.start(TOY_STALL_MS="4000")
    before = joins(other)
    async with toy.load(per_second=200):
        stalling = asyncio.create_task(stall(stalled, 25))
        deadline = time.monotonic() + 60
        while other.get("/health/ready")[0] != 200 or joins(other) == before:
            assert time.monotonic() < deadline, "nobody took over"
            await asyncio.sleep(0.1)
        assert len(other.get("/state")[1]["tasks"]) == 4
        taken_over_early = not stalling.done()
        await stalling
    await toy.converge()
    await toy.judge(minimum=2_000)
    assert taken_over_early, "the machine was so slow that the stall was over first: nothing was proven"
    assert "which is more than max_stall_ms" in stalled.log()
