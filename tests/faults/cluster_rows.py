"""Rows 41 to 47: what happens to the brokers of a cluster of three, with replication factor 3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient

from local.kafka import Kafka
from streams.topology import task_name, transactional_id
from tests.faults.row import row
from tests.faults.trial import Trial
from tests.oracle.log import EVENTS, INTAKE

#: From a broker's death, or from its freezing, until every partition of every task has committed again.
LIMIT_S = 15.0
#: Reads wait for tasks that come back, and a poller for the worker that it asks.
GAP_S = 35.0
IN_SYNC_S = 180.0
APP = "orderstream"


@row(41, "the leader of a busy partition killed", brokers=3)
async def leader_killed(trial: Trial) -> None:
    await _kill_in_turn(trial, lambda turn: _leader(trial, EVENTS if turn % 2 else INTAKE, 0))


@row(42, "the group's coordinator killed", brokers=3)
async def group_coordinator_killed(trial: Trial) -> None:
    await _kill_in_turn(trial, lambda _: _coordinator(trial, CoordinationType.GROUP, APP))


@row(43, "a transaction's coordinator killed", brokers=3)
async def transaction_coordinator_killed(trial: Trial) -> None:
    def coordinator(turn: int) -> Any:
        name = transactional_id(APP, task_name("orders", turn % 4))
        return _coordinator(trial, CoordinationType.TRANSACTION, name)

    await _kill_in_turn(trial, coordinator)


async def _kill_in_turn(trial: Trial, whom: Any) -> None:
    """kill -9, the recovery, the start and the copies in step again: once in brief, three times in full."""
    await trial.up(2)
    async with trial.under_load():
        for turn in range(1 if trial.brief else 3):
            broker = _broker(trial, await whom(turn))
            await asyncio.to_thread(broker.kill)
            await trial.recovered(trial.struck(), within_s=LIMIT_S)
            await asyncio.to_thread(broker.start)
            await _in_sync(trial)
    await trial.converge(minimum=1_000, gap_s=GAP_S)


@row(44, "a broker frozen", brokers=3)
async def broker_frozen(trial: Trial) -> None:
    """Its connections stay and nothing is answered: as when a host is gone without a word. Woken, it is behind."""
    await trial.up(2)
    async with trial.under_load():
        for turn in range(1 if trial.brief else 3):
            if turn % 2:
                node = await _leader(trial, EVENTS, 0)
            else:
                node = await _coordinator(trial, CoordinationType.GROUP, APP)
            broker = _broker(trial, node)
            broker.pause()
            since = trial.struck()
            try:
                await trial.recovered(since, within_s=LIMIT_S)
                await asyncio.sleep(max(0.0, 20 - (time.monotonic() - since)))
            finally:
                broker.resume()
            await _in_sync(trial)
    await trial.converge(minimum=1_000, gap_s=GAP_S)


@row(45, "all brokers restarted in turn", brokers=3)
async def rolling_restart(trial: Trial) -> None:
    await trial.up(2)
    async with trial.under_load():
        for broker in trial.stack.brokers:
            since = trial.struck()
            await asyncio.to_thread(broker.restart)
            await trial.recovered(since, within_s=LIMIT_S + 10)  # a start takes up to 10 s itself
            await _in_sync(trial)
    await trial.converge(minimum=2_000, gap_s=GAP_S)


@row(46, "fewer copies in step than are wanted", brokers=3)
async def below_min_insync(trial: Trial) -> None:
    """All three must have a record, and one broker is away for 20 s: nothing can be committed, nothing may be lost."""
    await trial.up(2)
    names = sorted(name for name in await _isr(trial) if not name.startswith("__"))
    async with trial.under_load():
        await trial.configure(names, {"min.insync.replicas": "3"})
        broker = _broker(trial, await _leader(trial, EVENTS, 0))
        await asyncio.to_thread(broker.stop)
        trial.struck()
        await asyncio.sleep(20)
        await asyncio.to_thread(broker.start)
        await trial.recovered(trial.struck(), within_s=LIMIT_S)  # from when it answers: until then nothing can commit
        await trial.configure(names, {"min.insync.replicas": "2"})
        await _in_sync(trial)
    await trial.converge(minimum=1_000, gap_s=150)


@row(47, "leadership moved every second", brokers=3)
async def leadership_moves(trial: Trial) -> None:
    await trial.up(2)
    moves, turns = 0, 10 if trial.brief else 30
    client = AIOKafkaAdminClient(bootstrap_servers=trial.stack.kafka)
    await client.start()
    elections = AdminClient({"bootstrap.servers": trial.stack.kafka})
    try:
        topics = {name: len(rows) for name, rows in (await _isr(trial)).items() if not name.startswith("__")}
        async with trial.under_load():
            since = 0.0
            for turn in range(turns):
                replicas = [(turn + shift) % 3 + 1 for shift in range(3)]
                await _prefer(client, topics, replicas)
                moves += await asyncio.to_thread(_elect, elections, topics)
                since = trial.struck()
                await asyncio.sleep(1)
            await trial.recovered(since, within_s=2 * LIMIT_S)  # no broker has died: each move is a small one
    finally:
        await client.close()
    trial.figures["leaders moved"] = moves
    await trial.converge(minimum=1_000, gap_s=GAP_S)
    assert moves >= turns * 10, f"only {moves} leaders moved: nothing was proven"


async def _prefer(client: AIOKafkaAdminClient, topics: Mapping[str, int], replicas: list[int]) -> None:
    """The same copies in another order: the first of them should lead. Nothing is copied."""
    wanted: list[Any] = [
        (name, [(number, replicas, {}) for number in range(count)], {}) for name, count in topics.items()
    ]
    response = await client._send_request_to_node(
        await _controller(client), AlterPartitionReassignmentsRequest(10_000, wanted, {})
    )
    assert response.error_code == 0, response.error_message


async def _controller(client: AIOKafkaAdminClient) -> int:
    return int((await client.describe_cluster())["controller_id"])


def _elect(client: AdminClient, topics: Mapping[str, int]) -> int:
    """How many partitions got another leader."""
    partitions = [TopicPartition(name, number) for name, count in topics.items() for number in range(count)]
    found = client.elect_leaders(ElectionType.PREFERRED, partitions).result(30)
    return sum(error is None for error in found.values())


def _broker(trial: Trial, node: int) -> Kafka:
    return next(broker for broker in trial.stack.brokers if broker.node == node)


async def _isr(trial: Trial) -> dict[str, list[tuple[int, int]]]:
    """By topic: leader and copies in step of each partition."""
    client = AdminClient({"bootstrap.servers": trial.stack.kafka, "socket.timeout.ms": 3_000})
    found = (await asyncio.to_thread(client.list_topics, timeout=30)).topics
    return {
        name: [(row.leader, len(row.isrs)) for _, row in sorted(topic.partitions.items())]
        for name, topic in found.items()
    }


async def _in_sync(trial: Trial) -> None:
    """Until every copy of every partition is in step: the next strike must find two that are."""
    deadline = time.monotonic() + IN_SYNC_S
    while behind := [name for name, rows in (await _isr(trial)).items() if any(count < 3 for _, count in rows)]:
        assert time.monotonic() < deadline, f"copies are behind after {IN_SYNC_S:.0f} s: {behind[:5]}"
        await asyncio.sleep(0.2)


async def _leader(trial: Trial, topic: str, partition: int) -> int:
    return (await _isr(trial))[topic][partition][0]


async def _coordinator(trial: Trial, kind: CoordinationType, key: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=trial.stack.kafka)
    try:
        await client.bootstrap()
        while True:
            try:
                return int(await client.coordinator_lookup(kind, key))
            except KafkaError:
                await asyncio.sleep(0.1)
    finally:
        await client.close()
