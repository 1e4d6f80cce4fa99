"""Transactional ids that the broker has forgotten, on a broker that forgets them after seconds instead of a week."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from local.jars import cache_dir
from local.kafka import Kafka
from local.ports import find_free
from streams import admin
from streams.engine import Engine
from tests.reading import read_all
from tests.streams.running import PARTITIONS, PATIENCE_S, all_run, counted, running
from tests.streams.toy import make_app
from tests.waiting import until

EXPIRES_MS = 2_000
#: Each round idles for longer than an id lives and until the broker has looked once more; a slow machine needs two.
IDLE_S, ROUNDS = 2 * EXPIRES_MS / 1000, 20


class Forgetful(Kafka):
    """A broker that forgets idle transactional ids at once."""

    def properties(self, controller: int) -> dict[str, str]:
        return super().properties(controller) | {
            "transactional.id.expiration.ms": str(EXPIRES_MS),
            "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
        }


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[str]:
    with Forgetful(tmp_path / "kafka", find_free()[0], cache=cache_dir(), log=tmp_path / "kafka.log") as broker:
        yield broker.bootstrap


def expired(engine: Engine) -> float:
    labels = {"reason": "OutcomeUnknown"}
    return engine.metrics.registry.get_sample_value("streams_task_failures_total", labels) or 0.0


async def test_tasks_whose_ids_have_expired_start_again_without_a_rebalance(forgetful: str, tmp_path: Path) -> None:
    """Each registers its id again by itself, and what it was about to do is done once."""
    app = make_app(tmp_path, partitions=PARTITIONS, broker=f"kafka://{forgetful}")
    await admin.create(forgetful, app.required_topics())
    sent = 0
    async with (
        running(forgetful, tmp_path) as engine,
        AIOKafkaProducer(bootstrap_servers=forgetful) as producer,
    ):
        assignments = counted(engine, "streams_rebalances_total")
        for _ in range(ROUNDS):
            for partition in range(PARTITIONS):
                await producer.send_and_wait("words", b"x", key=b"k", partition=partition)
            sent += PARTITIONS

            def done(wanted: int = sent) -> bool:
                offsets = [task.committed.items() for task in engine.tasks.values()]
                return all_run(engine) and wanted == sum(n for each in offsets for tp, n in each if tp.topic == "words")

            await until(done, PATIENCE_S)
            if expired(engine) >= PARTITIONS:
                break
            await asyncio.sleep(IDLE_S)
        assert expired(engine) >= PARTITIONS, "no id expired: nothing was proven"
        assert counted(engine, "streams_fenced_total") == 0, "nobody else has these tasks"
        assert counted(engine, "streams_rebalances_total") == assignments
    assert len(await read_all(forgetful, "counted")) == sent
