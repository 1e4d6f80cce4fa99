"""Inputs that a running worker does not read, on a real broker: deleted beneath it, or in added partitions."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete

from streams import added_partitions
from streams.batch import using
from streams.forwarding import forward
from streams.partitioner import partition_for
from streams.records import TopicPartition
from streams.reset import adopt
from streams.vitals import inputs_of
from tests.streams.load import Toy
from tests.streams.running import PATIENCE_S, all_run, running
from tests.waiting import until

WORDS = TopicPartition("words", 0)


async def produce(bootstrap: str, count: int, partition: int = 0) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(count):
            await producer.send("words", b"x%d" % number, key=b"k", partition=partition)
        await producer.flush()


async def delete_before(bootstrap: str, offset: int) -> None:
    """As kafka-delete-records does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({WORDS: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


@pytest.mark.parametrize("retention", ["-1", "604800000"])
async def test_records_deleted_beneath_a_running_task(toy: Toy, tmp_path: Path, retention: str) -> None:
    """Kept for ever: the worker stops and names the command that accepts it. With a retention: it goes on, and says
    so."""
    async with running(toy.stack.kafka, tmp_path) as engine:
        engine.groups["words"].topics["words"].config["retention.ms"] = retention
        task = engine.tasks["words-0"]
        await produce(toy.stack.kafka, 10)
        await until(lambda: task.committed[WORDS] == 10, PATIENCE_S)
        task.pause()
        assert await task.quiet(PATIENCE_S)
        await produce(toy.stack.kafka, 10)
        await delete_before(toy.stack.kafka, 15)
        task.flow()
        if retention == "-1":
            await until(lambda: engine.crashed, PATIENCE_S)
            reason = str(engine.crash_reason)
            assert "words-0 was deleted from 10 to 14" in reason and "topics adopt words" in reason
        else:
            await until(lambda: all_run(engine) and engine.tasks["words-0"].committed[WORDS] == 20, PATIENCE_S)
            assert "5 offsets of words-0" in inputs_of(engine).detail
            assert engine.metrics.registry.get_sample_value(
                "streams_skipped_offsets_total", {"topic": "words", "partition": "0"}
            ) == 5  # fmt: skip
        settings, groups = engine.settings, engine.groups
    if retention == "-1":
        assert await adopt(settings, groups, "words") == [WORDS]
        async with running(toy.stack.kafka, tmp_path) as again:
            await until(lambda: again.tasks["words-0"].committed[WORDS] == 20, PATIENCE_S)
    assert await toy.committed_outputs() == 15


async def test_an_added_partition_is_reported_and_its_records_are_counted(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streams.engine.EVERY_S", 0.2)
    async with running(toy.stack.kafka, tmp_path) as engine:
        assert inputs_of(engine).ok
        admin = AIOKafkaAdminClient(bootstrap_servers=toy.stack.kafka)
        await admin.start()
        try:
            await admin.create_partitions({"words": NewPartitions(6)})
        finally:
            await admin.close()
        await until(lambda: not inputs_of(engine).ok, PATIENCE_S)
        assert "words has 6 partitions instead of 4" in inputs_of(engine).detail
        assert "topics forward" in caplog.text
        await produce(toy.stack.kafka, 7, partition=5)

        def lag(partition: int) -> float | None:
            labels = {"topic": "words", "partition": str(partition)}
            return engine.metrics.registry.get_sample_value("streams_lag_records", labels)

        await until(lambda: lag(5) == 7 and lag(4) == 0, PATIENCE_S)
        assert engine.metrics.registry.get_sample_value("streams_added_partitions", {"topic": "words"}) == 2
        words, settings = engine.groups["words"].topics["words"], engine.settings
        added = TopicPartition("words", 4), TopicPartition("words", 5)
        assert await forward(settings, words, dry_run=True) == dict(zip(added, (0, 7), strict=True))
        assert await forward(settings, words) == dict(zip(added, (0, 7), strict=True))
        assert await forward(settings, words) == dict.fromkeys(added, 0), "each once"
        home = partition_for(b"k", 4)
        task = engine.tasks[f"words-{home}"]
        with using(task.view()):
            await until(lambda: engine.groups["words"].tables["counts"].get("k") == 7, PATIENCE_S)
        await until(lambda: lag(5) == 0, PATIENCE_S)
        assert not inputs_of(engine).ok, "producers may still write there"
    async with running(toy.stack.kafka, tmp_path) as again:  # an added partition keeps no worker from starting
        await until(lambda: not inputs_of(again).ok, PATIENCE_S)
    assert added_partitions.EVERY_S <= 30, "within a minute"
