"""What the simulation is made of: time, processes, the cluster, the disk, and a judge that sees what was planted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from aiokafka.errors import ConcurrentTransactions, InvalidProducerEpoch, InvalidTxnState

from streams.records import Outgoing, TopicPartition
from tests.simulation.cluster import Cluster, Partition, Txn
from tests.simulation.disk import Disk
from tests.simulation.history import History
from tests.simulation.loop import Process, SimLoop, Stuck
from tests.simulation.plan import make_plan

TP = TopicPartition("t", 0)
ROW = Outgoing(1, b"k", b"v")
HOUR_MS = 3600 * 1000


def new_loop() -> SimLoop:
    return SimLoop()  # type: ignore[abstract]  # it has what this needs of a loop


def new_cluster(loop: SimLoop) -> Cluster:
    return Cluster(loop, Random(1), lambda: 0, transaction_timeout_s=10.0, marker_delay_s=1.0, wake_delay_s=0.0)


async def begin(cluster: Cluster, id: str = "a") -> tuple[int, int]:
    while True:
        try:
            return cluster.init_producer_id(id)
        except ConcurrentTransactions:
            await asyncio.sleep(0.1)


def played(test: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    loop = new_loop()
    loop.run(test(new_cluster(loop)))


# -- time and processes ------------------------------------------------------------------------------------------------


def test_an_hour_takes_no_time_and_the_end_of_all_steps_is_told() -> None:
    loop = new_loop()
    loop.run(asyncio.sleep(3600))
    assert loop.now == 3600
    with pytest.raises(Stuck):
        new_loop().run(asyncio.Event().wait())


def test_a_dead_process_takes_no_further_step_and_a_frozen_one_takes_them_later() -> None:
    loop = new_loop()
    took: list[tuple[str, float]] = []

    async def walk(name: str) -> None:
        try:
            for _ in range(4):
                await asyncio.sleep(1)
                took.append((name, loop.now))
        finally:
            took.append((name, -1))

    async def main() -> None:
        dead, frozen = Process("dead"), Process("frozen")
        for process in (dead, frozen):
            loop.create_task(walk(process.name), context=process.context.copy())
        await asyncio.sleep(1.5)
        dead.kill()
        loop.freeze(frozen)
        await asyncio.sleep(10)
        loop.thaw(frozen)
        await asyncio.sleep(1.5)
        took.append(("main", loop.now))

    loop.run(main())
    before_the_end = took[: took.index(("main", 13.0))]
    assert before_the_end == [("dead", 1.0), ("frozen", 1.0), ("frozen", 11.5), ("frozen", 12.5)]


# -- the cluster -------------------------------------------------------------------------------------------------------


def test_a_committed_record_is_seen_when_its_marker_is_there_and_an_aborted_one_never() -> None:
    async def test(cluster: Cluster) -> None:
        for commit in (True, False):
            producer, epoch = await begin(cluster)
            cluster.add_partitions("a", epoch, [TP])
            start = cluster.at(TP).end
            cluster.produce("a", producer, epoch, TP, 0, [ROW])
            cluster.append(TP, ROW)
            assert cluster.at(TP).stable == start, "what stands behind an open transaction waits for it"
            cluster.end("a", epoch, commit)
            assert cluster.at(TP).stable == start
            await asyncio.sleep(1.1)
            assert cluster.at(TP).stable == cluster.at(TP).end == start + 3
        assert [record.offset for record in cluster.at(TP).visible()] == [0, 1, 4]

    played(test)


def test_a_new_owner_aborts_what_the_old_one_has_open_and_fences_it() -> None:
    async def test(cluster: Cluster) -> None:
        producer, old = await begin(cluster)
        cluster.add_partitions("a", old, [TP])
        cluster.produce("a", producer, old, TP, 0, [ROW])
        _, new = await begin(cluster)
        assert new > old
        for late in (
            lambda: cluster.end("a", old, True),
            lambda: cluster.add_offsets("a", old),
            lambda: cluster.produce("a", producer, old, TP, 1, [ROW]),
        ):
            with pytest.raises(InvalidProducerEpoch):
                late()
        assert cluster.at(TP).visible() == []

    played(test)


def test_a_repeated_batch_is_taken_once_and_one_without_a_transaction_not_at_all() -> None:
    async def test(cluster: Cluster) -> None:
        producer, epoch = await begin(cluster)
        with pytest.raises(InvalidTxnState):
            cluster.produce("a", producer, epoch, TP, 0, [ROW])
        cluster.add_partitions("a", epoch, [TP])
        assert [cluster.produce("a", producer, epoch, TP, 0, [ROW]) for _ in range(2)] == [0, 0]
        assert cluster.at(TP).end == 1

    played(test)


def test_offsets_are_committed_by_their_transaction_and_a_lazy_one_is_timed_out() -> None:
    async def test(cluster: Cluster) -> None:
        producer, epoch = await begin(cluster)
        cluster.add_offsets("a", epoch)
        cluster.commit_offsets("a", producer, epoch, {TP: 5})
        assert cluster.committed == {}
        cluster.end("a", epoch, True)
        await asyncio.sleep(1.1)
        assert cluster.committed == {TP: 5}
        cluster.add_offsets("a", epoch)
        cluster.commit_offsets("a", producer, epoch, {TP: 9})
        await asyncio.sleep(12)
        assert cluster.committed == {TP: 5}
        with pytest.raises(InvalidProducerEpoch):
            cluster.end("a", epoch, True)

    played(test)


def test_compaction_keeps_the_newest_and_deletions_for_a_day() -> None:
    partition = Partition(TP)
    txn = Txn("a", 1, 0, committed=False)
    for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)):
        partition.append(Outgoing(0, key, value), None)
    partition.append(ROW, txn)
    partition.compact(99, 0, 24 * HOUR_MS)
    assert [(record.key, record.value) for record in partition.visible()] == [(b"a", b"2"), (b"b", None)]
    partition.compact(99, 23 * HOUR_MS, 24 * HOUR_MS)
    assert partition.offsets == [2, 3]
    partition.compact(99, 24 * HOUR_MS, 24 * HOUR_MS)
    assert (partition.offsets, partition.end, partition.stable) == ([2], 5, 5)
    assert partition.read(0, None) == (partition.visible(), 5)


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_a_crash_tears_each_family_by_itself_and_a_close_tears_none() -> None:
    torn: set[tuple[int, int]] = set()
    for seed in range(60):
        disk = Disk(Random(seed))
        store = disk.open("t-0")
        store.identify("x", b"i")
        for number in range(1, 4):
            store.apply({"x": {b"k": b"%d" % number}, "y": {b"k": b"%d" % number}}, {"x": number, "y": number}, 0)
        disk.crash()
        after = disk.open("t-0")
        for family in ("x", "y"):
            held = after.get(family, b"k")
            assert (held or b"0") == b"%d" % after.position(family), "a row and its position are torn together"
        torn.add((after.position("x"), after.position("y")))
        kept = after.position("x")
        disk.crash()
        assert disk.open("t-0").position("x") == kept, "what one crash left, no later one takes"
    assert len(torn) > 8
    disk = Disk(Random(1))
    store = disk.open("t-0")
    store.apply({"x": {b"k": b"1"}}, {"x": 1}, 0)
    store.close()
    disk.crash()
    assert disk.open("t-0").get("x", b"k") == b"1"


# -- the judge ---------------------------------------------------------------------------------------------------------


def _lose(history: History) -> None:
    """An output that readers do not see."""
    txn = next(txn for txn in history.world.cluster.trail if any(tp.topic == "counted" for tp in txn.sent))
    for tp, records in txn.sent.items():
        if tp.topic == "counted":
            records.clear()


def _double(history: History) -> None:
    """An output that stands there twice."""
    partition = next(p for p in history.world.cluster.topic("counted") if p.visible())
    partition.append(partition.visible()[0][3:], None)


def _spoil_row(history: History) -> None:
    """A table that is not what the log comes to."""
    for machine in history.world.machines:
        for store in machine.disk.stores.values():
            store._rows.setdefault("counts", {})[b"zz"] = b"7"


def _lose_row(history: History) -> None:
    """A record that the sink has not."""
    history.world.database.rows.pop()


def _swap_rows(history: History) -> None:
    """Records that the sink has in another order."""
    history.world.database.rows.reverse()


def _go_back(history: History) -> None:
    """A reader that is told an older version than it had been told."""
    told = [answer for reader in history.readers for answer in reader.told if isinstance(answer.value, int)]
    last = max(told, key=lambda answer: answer.value)
    history.readers[0].told.append(last._replace(value=last.value - 1, asked_at=900.0, told_at=901.0))


@pytest.mark.parametrize("plant", [_lose, _double, _spoil_row, _lose_row, _swap_rows, _go_back])
def test_what_is_planted_is_found(plant: Callable[[History], None]) -> None:
    """I9: a history that held, with one thing changed before it is judged."""
    seed = next(seed for seed in range(100) if (plan := make_plan(seed, "toy")).readers and not plan.faults)
    assert History(make_plan(seed, "toy")).run().held
    history = History(make_plan(seed, "toy"))
    verdict = history._verdict

    async def spoiled() -> None:
        plant(history)
        await verdict()

    history._verdict = spoiled  # type: ignore[method-assign]
    assert not history.run().held
