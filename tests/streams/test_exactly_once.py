"""Workers of the toy topology on real Kafka, killed, frozen, added and removed: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import time

from tests.reading import read_all
from tests.streams.load import Toy, ended

POINTS = ["fenced", "restored", "agents_ran", "begun", "sent", "offsets_sent", "committed", "applied"]


async def test_kill_at_every_step_of_the_commit(toy: Toy) -> None:
    """One worker dies at each point in turn, beside one that survives; the next start has its store or an empty one."""
    await toy.start()
    async with toy.load():
        for number, point in enumerate(POINTS):
            count = 2 if point in ("fenced", "restored") else 20
            victim = await toy.start(wait=False, STREAMS_FAULT=f"{point}:{count}")
            await ended(victim, 30)
            assert not victim.child.running(), f"the fault at {point} never came (round {number})"
            assert victim.child.exit_code in (-9, 137)  # 137: as its guard reports it
    await toy.converge()
    await toy.judge(minimum=10_000)
    assert sum(toy.rows().values()) == toy.sent - len(await read_all(toy.stack.kafka, "dead_letters.v1"))


async def test_a_frozen_worker_is_fenced_and_answers_nothing_old(toy: Toy) -> None:
    frozen, other = await toy.start(), await toy.start()
    async with toy.load():
        await asyncio.sleep(3)
        frozen.pause()
        await asyncio.sleep(6)  # past the session of 3 s: the other one has taken over and gone on
        frozen.resume()
        statuses = {frozen.get(f"/count/k{number}")[0] for number in range(20)}
        assert 200 not in statuses or all(frozen.child.running() for _ in statuses)
        await asyncio.sleep(3)
    await toy.converge()
    await toy.judge(minimum=5_000)
    assert other.child.running()
    assert len(toy.rows()) == 500


async def test_workers_come_and_go_under_load(toy: Toy) -> None:
    """A third joins and leaves cleanly: exit code 0, in seconds, and no record twice."""
    await toy.start()
    await toy.start()
    async with toy.load():
        await asyncio.sleep(2)
        third = await toy.start()
        await asyncio.sleep(3)
        begun = time.monotonic()
        assert await asyncio.to_thread(third.stop) == 0
        assert time.monotonic() - begun < 120
        await asyncio.sleep(3)
    await toy.converge()
    await toy.judge(minimum=4_000)
    assert len(toy.rows()) == 500
