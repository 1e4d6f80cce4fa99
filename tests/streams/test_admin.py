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
    assert time.monotonic() - started < 60


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


MANAGED = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.3"}


async def test_a_preferred_setting_that_differs_is_a_warning_and_no_reason_to_stop(stack: Any, name: str) -> None:
    """As on Confluent Cloud, where the ratio stays 0.5 whatever is asked for."""
    await admin.create(stack.kafka, [TopicConfig(name, 1, config={"cleanup.policy": "compact"})])
    wanted = [TopicConfig(name, 1, config=MANAGED)]
    (difference,) = await admin.plan(stack.kafka, wanted)
    assert difference.is_preferred and not difference.blocks and "workers run without it" in str(difference)
    await admin.check(stack.kafka, wanted)
    with pytest.raises(TopicsDiffer):
        await admin.check(stack.kafka, [TopicConfig(name, 1, config={"retention.ms": "60000"})])


async def test_a_setting_that_the_broker_does_not_list_blocks_only_if_it_is_required(stack: Any, name: str) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    await admin.check(stack.kafka, [TopicConfig(name, 1, config={"no.such.setting": "1"})])
    required = Difference(name, What.CONFIG, "86400000", None, "delete.retention.ms")
    assert required.blocks and "is not known instead of" in str(required)


@pytest.mark.parametrize(
    ("setting", "wanted", "found", "same"),
    [
        ("max.message.bytes", "4194304", "8388608", True),
        ("max.message.bytes", "4194304", "1048588", False),
        ("delete.retention.ms", "1000", "2000", True),
        ("delete.retention.ms", "1000", "999", False),
        ("max.compaction.lag.ms", "1000", "999", True),
        ("max.compaction.lag.ms", "1000", "9223372036854775807", False),
        ("min.cleanable.dirty.ratio", "0.3", "0.01", True),
        ("retention.ms", "1000", "2000", False),
        ("retention.ms", "-1", "604800000", False),
        ("max.message.bytes", "1000", "many", False),
        ("max.message.bytes", "1000", None, False),
    ],
)
def test_a_number_may_be_better_than_declared(setting: str, wanted: str, found: str | None, same: bool) -> None:
    assert admin._same(setting, wanted, found) is same


async def test_a_topic_is_created_without_a_preferred_setting_that_the_broker_refuses(stack: Any, name: str) -> None:
    wanted = [
        TopicConfig(name, 1, config={"cleanup.policy": "compact", "no.such.setting": "1"}),
        TopicConfig(f"{name}-b", 1),
    ]
    assert sorted(await admin.create(stack.kafka, wanted)) == [name, f"{name}-b"]
    assert await admin.plan(stack.kafka, [TopicConfig(name, 1, config={"cleanup.policy": "compact"})]) == []


async def test_a_broker_that_takes_a_preferred_setting_and_ignores_it_does_not_hang_the_command(
    stack: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    wanted = [TopicConfig(name, 1, config=MANAGED)]
    asked = admin._configs

    async def ignoring(*args: Any) -> Any:
        found = await asked(*args)
        return {topic: {**settings, "min.cleanable.dirty.ratio": "0.5"} for topic, settings in found.items()}

    monkeypatch.setattr(admin, "_configs", ignoring)
    monkeypatch.setattr(admin, "PREFERRED_TIMEOUT_S", 0.1)
    differences = await admin.plan(stack.kafka, wanted)
    done = await admin.alter(stack.kafka, differences)
    assert [change.setting for change in done] == ["cleanup.policy"]
    await admin.check(stack.kafka, wanted)


async def test_a_preferred_setting_that_cannot_be_set_is_left_and_the_required_ones_are_set(
    stack: Any, name: str
) -> None:
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    changes = [
        Difference(name, What.CONFIG, "compact", "delete", "cleanup.policy"),
        Difference(name, What.CONFIG, "1", None, "no.such.setting"),
    ]
    assert await admin.alter(stack.kafka, changes) == changes[:1]


async def test_two_copies_must_have_a_record_and_a_topic_with_fewer_is_not_made_unwritable(
    stack: Any, name: str
) -> None:
    """min.insync.replicas of 2 on a topic with one replica would refuse every record."""
    await admin.create(stack.kafka, [TopicConfig(name, 1)])
    wanted = TopicConfig(name, 1, replication_factor=3, config={"min.insync.replicas": "2"})
    assert [each.what for each in await admin.plan(stack.kafka, [wanted])] == [What.REPLICATION]
    replicated = {"partitions": [{"replicas": [1, 2, 3]}]}
    (difference,) = admin._compare(wanted, replicated, {"min.insync.replicas": "1"})
    assert (difference.setting, difference.is_preferred, difference.mendable) == ("min.insync.replicas", True, True)


class SeveralBrokers:
    """An admin client of a cluster, as far as the risks are asked for."""

    def __init__(self, brokers: int, **replicas: int) -> None:
        self._client = self.cluster = self
        self._brokers, self._replicas = brokers, replicas

    def brokers(self) -> set[int]:
        return set(range(self._brokers))

    async def describe_topics(self) -> list[dict[str, Any]]:
        return [
            {"topic": name, "partitions": [{"replicas": list(range(count))}] * 2}
            for name, count in self._replicas.items()
        ]


async def test_one_replica_is_a_risk_on_several_brokers_only() -> None:
    wanted = [TopicConfig("orders", 2), TopicConfig("events", 2), TopicConfig("missing", 2)]
    topics = {"orders": 1, "events": 3, "__consumer_offsets": 1, "__transaction_state": 3}
    first, second = await admin._risks(SeveralBrokers(3, **topics), wanted)
    assert first.startswith("orders: one replica on a cluster of 3 brokers") and "REPLICATION_FACTOR=3" in first
    assert second.startswith("__consumer_offsets: one replica") and "offsets.topic.replication.factor" in second
    assert await admin._risks(SeveralBrokers(1, **topics), wanted) == []
