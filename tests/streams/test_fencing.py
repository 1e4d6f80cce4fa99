"""A task that was fenced starts again while its worker owns it, whatever takes long: on a real broker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from streams.engine import Engine
from streams.task import Task
from tests.streams.load import Toy
from tests.streams.running import PARTITIONS, PATIENCE_S, all_run, counted, fence_all, running
from tests.waiting import until


async def one_record_each(bootstrap: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for partition in range(PARTITIONS):
            await producer.send_and_wait("words", b"x", key=b"k", partition=partition)


def committed(engine: Engine) -> int:
    """How many records of `words` the tasks have committed."""
    return sum(offset for task in engine.tasks.values() for tp, offset in task.committed.items() if tp.topic == "words")


async def done(engine: Engine, records: int) -> None:
    """Until all tasks run and have committed so many records."""
    await until(lambda: all_run(engine) and committed(engine) == records, PATIENCE_S)


async def test_fenced_tasks_start_again_without_a_rebalance(toy: Toy, tmp_path: Path) -> None:
    """Their worker is in the current generation: nobody else has them, and the group is left alone."""
    async with running(toy.stack.kafka, tmp_path) as engine:
        assignments = counted(engine, "streams_rebalances_total")
        for rounds in range(1, 4):
            engine._fenced_at.clear()  # a quick machine would take the second round for a repetition
            await fence_all(engine.settings)
            await one_record_each(toy.stack.kafka)
            await done(engine, rounds * PARTITIONS)
        assert counted(engine, "streams_fenced_total") == 3 * PARTITIONS
        assert counted(engine, "streams_rebalances_total") == assignments
    assert await toy.committed_outputs() == 3 * PARTITIONS


async def test_a_task_that_closes_longer_than_a_rebalance_takes_starts_again(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The assignment that comes while a fenced task closes finds it still there; no later one follows."""
    async with running(toy.stack.kafka, tmp_path) as engine:
        close, closing = Task.close, set[str]()

        async def close_slowly(task: Task) -> None:
            closing.add(task.name)
            if len(closing) == PARTITIONS:
                before = engine._assignments
                assert engine.consumer is not None
                engine.consumer._coordinator.request_rejoin()
                await until(lambda: engine._assignments > before and engine.settled, PATIENCE_S)
                released.set()
            await released.wait()
            await close(task)

        released = asyncio.Event()
        monkeypatch.setattr(Task, "close", close_slowly)
        await fence_all(engine.settings)
        await one_record_each(toy.stack.kafka)
        await until(lambda: len(closing) == PARTITIONS and released.is_set(), PATIENCE_S)
        await done(engine, PARTITIONS)
        monkeypatch.setattr(Task, "close", close)
    assert await toy.committed_outputs() == PARTITIONS


async def test_a_task_that_is_fenced_again_and_again_asks_for_a_rebalance(toy: Toy, tmp_path: Path) -> None:
    async with running(toy.stack.kafka, tmp_path, session_timeout_ms=60_000) as engine:
        assignments = counted(engine, "streams_rebalances_total")
        for rounds in (1, 2):
            await fence_all(engine.settings)
            await one_record_each(toy.stack.kafka)
            await done(engine, rounds * PARTITIONS)
        assert counted(engine, "streams_rebalances_total") > assignments
