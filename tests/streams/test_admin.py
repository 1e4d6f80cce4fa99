"""Declared topics against a real broker -> streams.admin -> differences found, mended, or named with their mend."""

import time
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from streams import admin
from streams.admin import BrokerUnreachable, Difference, TopicConfig, TopicsDiffer, TopicsRefused, What

COMPACTED = {"cleanup.policy": "compact", "retention.ms": "-1"}


@pytest.fixture
def name() -> str:
    return f"admin-{uuid4().hex[:12]}"


async def test_plan_names_what_is_missing_and_changes_nothing(stack: Any, name: str) -> None:
    wanted = [TopicConfig(name, 3, config=COMPACTED)]
    for _ in range(2):  # a look must not be what creates it
        assert await admin.plan(stack.kafka, wanted) == [Difference(name, What.MISSING, "3")]


async def test_create_makes_topics_as_declared_with_leaders(stack: Any, name: str) -> None:
    wanted = [TopicConfig(f"{name}-a", 3, config=COMPACTED), TopicConfig(f"{name}-b", 1)]
    assert await admin.create(stack.kafka, wanted) == [f"{name}-a", f"{name}-b"]
    await admin.check(stack.kafka, wanted)
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka)
    await producer.start()
    try:
        for partition in range(3):
            await producer.send_and_wait(f"{name}-a", b"{}", b"k", partition)
    finally:
        await producer.stop()


async def test_create_leaves_an_existing_topic_alone(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 2)])
    assert await admin.create(stack.kafka, [TopicConfig(name, 5, config=COMPACTED)]) == []
    differences = await admin.plan(stack.kafka, [TopicConfig(name, 2)])
    assert differences == []


async def test_another_partition_count_stops_the_start_and_is_never_changed(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 2)])
    wanted = [TopicConfig(name, 4)]
    with pytest.raises(TopicsDiffer) as raised:
        await admin.check(stack.kafka, wanted)
    assert raised.value.differences == (Difference(name, What.PARTITIONS, "4", "2"),)
    assert f"{name}: partitions are 2 instead of 4" in str(raised.value)
    assert "keys to other partitions" in str(raised.value)
    assert admin.MEND not in str(raised.value), "the command would not mend this"
    two = [raised.value.differences[0], Difference("another", What.PARTITIONS, "4", "2")]
    assert str(TopicsDiffer(two)).count("keys to other partitions") == 1, "said once, however many topics"
    assert await admin.alter(stack.kafka, raised.value.differences) == []
    assert await admin.plan(stack.kafka, wanted) == list(raised.value.differences)


async def test_a_missing_topic_stops_the_start_and_names_the_command(stack: Any, name: str) -> None:
    with pytest.raises(TopicsDiffer, match=f"(?s){name}: missing.*`faust -A app topics create`"):
        await admin.check(stack.kafka, [TopicConfig(name, 1)])
    with pytest.raises(TopicsDiffer, match="`make topics`"):
        await admin.check(stack.kafka, [TopicConfig(name, 1)], mend="make topics")


async def test_configuration_is_compared_by_what_is_declared_only(stack: Any, name: str) -> None:
    settings = {"cleanup.policy": "delete", "retention.ms": "60000", "max.message.bytes": "2000", "segment.ms": "90000"}
    await admin.create(stack.kafka, [TopicConfig(name, 1, config=settings)])
    declared = TopicConfig(
        name, 1, config={"cleanup.policy": "compact", "retention.ms": "60000", "max.message.bytes": "9000"}
    )
    assert await admin.plan(stack.kafka, [declared]) == [
        Difference(name, What.CONFIG, "compact", "delete", "cleanup.policy"),
        Difference(name, What.CONFIG, "9000", "2000", "max.message.bytes"),
    ]


async def test_alter_sets_what_differs_and_keeps_every_other_setting(stack: Any, name: str) -> None:
    before = {"cleanup.policy": "delete", "max.message.bytes": "2000", "segment.ms": "90000"}
    await admin.create(stack.kafka, [TopicConfig(name, 1, config=before)])
    after = {**before, "cleanup.policy": "compact", "max.message.bytes": "9000"}
    declared = [TopicConfig(name, 1, config={key: after[key] for key in ("cleanup.policy", "max.message.bytes")})]
    differences = await admin.plan(stack.kafka, declared)
    assert await admin.alter(stack.kafka, differences) == differences
    await admin.check(stack.kafka, declared)
    assert await admin.plan(stack.kafka, [TopicConfig(name, 1, config=after)]) == [], "segment.ms was reset"


async def test_cleanup_policies_compare_as_sets(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1, config={"cleanup.policy": "compact,delete"})])
    assert await admin.plan(stack.kafka, [TopicConfig(name, 1, config={"cleanup.policy": "delete,compact"})]) == []


async def test_too_few_replicas_are_reported_and_do_not_stop_the_start(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    wanted = [TopicConfig(name, 1, replication_factor=3)]
    assert await admin.plan(stack.kafka, wanted) == [Difference(name, What.REPLICATION, "3", "1")]
    await admin.check(stack.kafka, wanted)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (TopicConfig("not a name", 1), "invalid"),
        (TopicConfig("too-many-replicas", 1, replication_factor=99), "replica"),
        (TopicConfig("bad-setting", 1, config={"cleanup.policy": "shred"}), "cleanup.policy"),
    ],
)
async def test_a_refusal_carries_the_topic_and_the_brokers_reason(stack: Any, topic: TopicConfig, reason: str) -> None:
    with pytest.raises(TopicsRefused, match=f"(?si){topic.name}.*{reason}"):
        await admin.create(stack.kafka, [topic])


async def test_a_refused_change_is_an_error(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    bad = Difference(name, What.CONFIG, "shred", "delete", "cleanup.policy")
    with pytest.raises(TopicsRefused, match=f"(?s){name}.*cleanup.policy"):
        await admin.alter(stack.kafka, [bad])


async def test_no_broker_is_said_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:1\b"):
        await admin.plan("127.0.0.1:1", [TopicConfig("any", 1)])
    assert time.monotonic() - started < 3


async def test_a_partition_without_a_leader_is_named(stack: Any, name: str) -> None:
    """The broker has no such topic, which looks like metadata that has not reached it yet."""
    client = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await client.start()
    try:
        with pytest.raises(admin.NoLeader, match=f"{name}-0, {name}-1:"):
            await admin._await_leaders(client, [TopicConfig(name, 2)], timeout_s=0.2)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("setting", "found", "wanted", "expected"),
    [
        ("cleanup.policy", "delete", "compact", True),
        ("retention.ms", "-1", "1000", True),
        ("retention.ms", "2000", "1000", True),
        ("retention.ms", "1000", "2000", False),
        ("retention.ms", "1000", "-1", False),
        ("max.message.bytes", "2000", "1000", False),
    ],
)
def test_which_changes_may_delete_records(setting: str, found: str, wanted: str, expected: bool) -> None:
    assert Difference("t", What.CONFIG, wanted, found, setting).may_delete_records is expected
