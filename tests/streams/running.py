"""Runs the toy's engine inside a test, on a real broker, so that the test can reach into its timing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streams.engine import Engine
from streams.settings import EngineSettings
from streams.task import TaskState
from streams.topology import transactional_id
from streams.transactions import KafkaTransactions
from tests.streams.toy import GROUP, make_app
from tests.waiting import until

PARTITIONS = 4
#: Only a hang reaches it: a busy machine takes seconds for what takes milliseconds here.
PATIENCE_S = 120.0


@asynccontextmanager
async def running(bootstrap: str, directory: Path, **tuning: Any) -> AsyncIterator[Engine]:
    """An engine of the toy that is a member of its group and runs all four tasks; its metrics are its own."""
    app = make_app(directory, partitions=PARTITIONS, broker=f"kafka://{bootstrap}")
    settings = EngineSettings("toy", bootstrap, directory / "state", **tuning)
    app.engine.configure(settings, "http://127.0.0.1:1")
    await app.engine.start()
    try:
        await until(lambda: all_run(app.engine), PATIENCE_S)
        yield app.engine
    finally:
        await app.engine.stop()


def all_run(engine: Engine) -> bool:
    """Whether every task of the toy runs here."""
    return [task.state for task in engine.tasks.values()] == [TaskState.RUNNING] * PARTITIONS


async def fence_all(settings: EngineSettings) -> None:
    """Register every transactional id again, as a newer owner would: the broker then refuses the older ones."""
    for partition in range(PARTITIONS):
        fence = KafkaTransactions(settings, transactional_id("toy", f"{GROUP}-{partition}"))
        await fence.start()
        await fence.stop()


def counted(engine: Engine, name: str) -> float:
    """The value of a counter or gauge without labels, of this engine's registry."""
    value = engine.metrics.registry.get_sample_value(name)
    assert value is not None, f"there is no metric {name}"
    return value
