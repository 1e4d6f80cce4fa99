"""Rows 1 to 5, 16, 21: what happens to workers."""

from __future__ import annotations

import asyncio
import shutil
import time

from tests.faults.row import row
from tests.faults.trial import BUGGY, PLANTED, RECOVERED_S, Restarts, Trial, metric
from tests.oracle.broker import partitions_of
from tests.oracle.log import INTAKE
from tests.oracle.verdict import Kind
from tests.processes import Worker

COMMIT = ("agents_ran", "begun", "sent", "offsets_sent", "committed", "applied")
RECOVERY = ("fenced", "restored")
REBALANCE = ("revoked", "assigned")
SINK = ("sink_moved", "sink_applied", "sink_committed")
#: Of the payment provider's effect: an event is taken, answered by the provider, written down, committed.
EFFECT = ("effect_taken", "effect_answered", "effect_acted", "effect_committed")
KILLED = 128 + 9
#: From kill -9 until every partition commits again: a session of 6 s (3 in brief), the rebalance, and what was to redo.
SURVIVOR_S = 10.0
#: From kill -9 to the first record newly committed by the same member, back in its place.
STATIC_S = 5.0
#: An answer that took this long has waited for a task to come back.
WAITED_S = 0.5


@row(1, "an agent raises on a record")
async def an_agent_raises(trial: Trial) -> None:
    planted = 10 if trial.brief else 20
    restarts = Restarts(await trial.up(2, BUGGY, FAULT_BUG="1"))
    partitions = len(partitions_of(trial.stack.kafka, INTAKE))
    async with trial.under_load():
        for number in range(planted):
            trial.struck()
            plant = trial.load.plant
            uid = f"{PLANTED}{number}"
            trial.bugs.add(await asyncio.to_thread(plant, "bug", uid, partitions, frozenset("$")))
            await asyncio.sleep(0.1)
    await trial.converge(minimum=500 if trial.brief else 1_000)
    trial.verdict.require(**{"planted bugs": planted})
    trial.figures["planted"] = planted
    restarts.require_none()


@row(2, "kill -9 at each step", checkout=True)
async def killed_at_each_step(trial: Trial) -> None:
    """In brief: a step of each kind, by the seed."""
    points = [*COMMIT, *RECOVERY, *REBALANCE, *SINK, *EFFECT]
    if trial.brief:
        points = [trial.chance.choice(kind) for kind in (COMMIT, RECOVERY + REBALANCE, SINK)]
    trial.chance.shuffle(points)
    workers = await trial.up(1 if trial.brief else 2)
    port = None
    async with trial.under_load():
        for point in points:
            port = await _kill_at(trial, point, port)
        if not trial.brief:
            await _restart_in_its_place(trial, workers)
    trial.figures["killed at"] = " ".join(points)
    await trial.converge(minimum=200 * len(points))


async def _restart_in_its_place(trial: Trial, others: list[Worker]) -> None:
    """A member with an id of its own is killed and started again: it goes on with what it had, and nobody else moves.

    Three times; the quickest is judged, since a process that starts beside other work is late for reasons of its own.
    """
    static = {"ORDERSTREAM_GROUP_INSTANCE_ID": "static"}
    (worker,) = await trial.up(1, **static)
    in_place: list[float] = []
    for _ in range(3):
        before = [metric(other, "streams_rebalances_total") for other in others]
        trial.kill(worker)
        since = trial.struck()
        worker = await trial.begin(worker.port, **static)
        seconds = await trial.recovered(since)
        if before == [metric(other, "streams_rebalances_total") for other in others]:
            in_place.append(round(seconds, 1))
        await asyncio.to_thread(worker.wait_ready)
        trial.urls.append(worker.url)
    trial.figures["restarts in place, s"] = " / ".join(map(str, in_place))
    if not in_place or min(in_place) >= STATIC_S:
        said = f"{in_place} s of {STATIC_S:.0f}" if in_place else "three times others had to move"
        trial.verdict.add(Kind.WRONG, "recovery", "restarts in place", said)


async def _kill_at(trial: Trial, point: str, port: int | None) -> int:
    """A victim that dies at its point, with the store that the one before left behind or with none."""
    often = {"fenced": 1, "restored": 1, "revoked": 2, "assigned": 2}
    count = often.get(point) or trial.chance.randrange(2, 30 if point in COMMIT else 6)
    victim = await trial.begin(port, STREAMS_FAULT=f"{point}:{count}")
    third = None
    if point in REBALANCE and await trial.ready_or_ended(victim):
        third = await trial.begin()
    code = await trial.ended(victim)
    assert code == KILLED, f"the victim ended with {code} before it came to {point}"
    trial.kills += 1
    seconds = await trial.recovered(trial.struck(), within_s=SURVIVOR_S)
    print(f"killed at {point}:{count}, recovered in {seconds:.1f} s")
    if third is not None:
        await trial.ready_or_ended(third)
        assert await asyncio.to_thread(third.stop) == 0
    if trial.chance.random() < 0.5:
        shutil.rmtree(victim.state_dir, ignore_errors=True)
    return victim.port


@row(3, "kill -9 all workers at once", checkout=True)
async def all_killed(trial: Trial) -> None:
    workers = await trial.up(2 if trial.brief else 3)
    async with trial.under_load(per_second=400):
        for fresh in (False, True):
            await asyncio.sleep(4)
            for worker in workers:
                trial.kill(worker)
            since = trial.struck()
            if fresh:
                for worker in workers:
                    shutil.rmtree(worker.state_dir)
            workers = [await trial.begin(worker.port) for worker in workers]
            for worker in workers:
                await asyncio.to_thread(worker.wait_ready)
                trial.urls.append(worker.url)
            await trial.recovered(since, within_s=30)
    records = sum(metric(worker, "streams_restore_records_total") for worker in workers)
    seconds = sum(metric(worker, "streams_restore_seconds_sum") for worker in workers)
    trial.figures |= {"restored": int(records), "restored/s per task": int(records / max(seconds, 0.001))}
    await trial.converge(minimum=2_000, gap_s=40)


@row(4, "SIGTERM under load")
async def asked_to_end(trial: Trial) -> None:
    await trial.up(2)
    slowest = 0.0
    async with trial.under_load(per_second=400):
        for _ in range(2 if trial.brief else 4):
            (worker,) = await trial.up(1)
            await asyncio.sleep(trial.chance.uniform(1, 3))
            trial.gone(worker)
            since = trial.struck()
            code = await asyncio.to_thread(worker.stop)
            slowest = max(slowest, time.monotonic() - since)
            assert code == 0, f"it ended with {code}"
            await trial.recovered(since)
    trial.figures["slowest end"] = slowest
    assert slowest < 6, f"a worker took {slowest:.1f} s to end"
    await trial.converge(minimum=2_000)


@row(5, "frozen past its session, then woken", checkout=True)
async def zombies(trial: Trial) -> None:
    """Frozen at a step of the commit, so that it wakes with a transaction in its hands, or with a provider's answer."""
    points = ["sent", "offsets_sent"]
    if not trial.brief:
        points = ["agents_ran", "begun", *points, "committed", "effect_answered"]
    await trial.up(1 if trial.brief else 2)
    async with trial.under_load():
        for point in points:
            count = trial.chance.randrange(1, 5) if point in EFFECT else trial.chance.randrange(5, 40)
            zombie = await trial.begin(STREAMS_FAULT=f"{point}:{count}:stop")
            await trial.frozen(zombie)
            await trial.recovered(trial.struck())
            trial.urls.append(zombie.url)
            zombie.resume()
            await asyncio.sleep(2)
            assert await trial.ready_or_ended(zombie), f"the zombie ended with {zombie.child.exit_code}"
            fences = int(metric(zombie, "streams_fenced_total"))
            print(f"frozen at {point}, fenced {fences} times")
            trial.fenced += bool(fences)
            trial.gone(zombie)
            assert await asyncio.to_thread(zombie.stop) == 0
    trial.figures["zombies fenced"] = f"{trial.fenced} of {len(points)}"
    # Who looks at a worker that is frozen that very moment waits out a patience of 10 s, besides the session of 6.
    await trial.converge(minimum=1_000, gap_s=RECOVERED_S + 10)
    assert trial.fenced, "no zombie came back with something to write, so nothing was proven"


@row(16, "workers come and go", checkout=True)
async def come_and_go(trial: Trial) -> None:
    await trial.up(2)
    pauses = []
    async with trial.under_load():
        for _ in range(2 if trial.brief else 5):
            since = trial.struck()
            trial.pulse.forget()
            (worker,) = await trial.up(1)
            await asyncio.sleep(max(0.0, 10 - (time.monotonic() - since)))
            pauses.append(trial.pulse.longest_silence())
            since = trial.struck()
            trial.pulse.forget()
            trial.gone(worker)
            assert await asyncio.to_thread(worker.stop) == 0
            await asyncio.sleep(max(0.0, 10 - (time.monotonic() - since)))
            pauses.append(trial.pulse.longest_silence())
    trial.recoveries += pauses
    await trial.converge(minimum=2_000)
    assert max(pauses) < 10, f"a partition paused for {max(pauses):.1f} s"


@row(21, "reads while workers recover and hand over")
async def reads_go_on(trial: Trial) -> None:
    workers = await trial.up(2)
    async with trial.under_load():
        for victim in workers:
            trial.kill(victim)
            since = trial.struck()
            shutil.rmtree(victim.state_dir)
            again = await trial.begin(victim.port)
            trial.urls.append(again.url)  # asked from its first breath
            await asyncio.to_thread(again.wait_ready)
            await trial.recovered(since)
            await asyncio.sleep(1 if trial.brief else 3)
    sights = trial._poller.sights
    await trial.converge(minimum=1_000, gap_s=20 if trial.brief else 40)
    waited = [sight for sight in sights if sight.status == 200 and sight.answered_at - sight.asked_at > WAITED_S]
    refused = sum(sight.status == 503 for sight in sights)
    trial.figures |= {"answered 503": refused, "waited": len(waited)}
    trial.verdict.require(**{"looks at orders": 150})
    assert refused or waited, "no read met a recovery: nothing was proven"
