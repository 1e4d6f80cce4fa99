"""The load: the same for the same seed, with the totals that its closed forms give, on every partition of a broker."""

from __future__ import annotations

import json

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.oracle.broker import read_topic
from tests.oracle.log import COMMANDS, INTAKE, home_of
from tests.orders_load import Load, markers, order_uid, plan, totals
from tests.processes import RunningStack

SEED = 11


def test_the_load_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    assert list(plan(200, 1)) == list(plan(200, 1))
    assert list(plan(200, 1)) != list(plan(200, 2))
    whats = [record.what for record in plan(2_000, 5)]
    planned = totals(2_000, 5)
    assert (whats.count("order"), whats.count("repetition")) == (planned.orders, planned.repetitions)
    assert (whats.count("rival"), whats.count("cancellation")) == (planned.order_refusals, planned.cancellations)
    assert len(whats) == sum(planned) - planned.amount_minor
    orders = [json.loads(record.value or b"")["order_uid"] for record in plan(500, 5) if record.what == "order"]
    strays = [uid != order_uid(number, 5) for number, uid in enumerate(orders)]
    assert sum(strays) > 100, "records do not come in the order of their numbers"


def test_the_load_reaches_every_partition_and_says_where(clean_stack: RunningStack) -> None:
    admin = AdminClient({"bootstrap.servers": clean_stack.kafka})
    for created in admin.create_topics([NewTopic(topic, 4, 1) for topic in (INTAKE, COMMANDS)]).values():
        created.result()
    load = Load(clean_stack.kafka, SEED)
    planned = load.send(300)
    load.mark(4)
    load.close()
    records = [*read_topic(clean_stack.kafka, INTAKE), *read_topic(clean_stack.kafka, COMMANDS)]
    assert {record.position: record.value for record in records} == {
        at: sent.value for at, sent in load.positions.items()
    }
    assert len(records) == sum(planned) - planned.amount_minor + 4
    intake = [record for record in records if record.topic == INTAKE]
    assert {record.partition for record in intake} == {0, 1, 2, 3}
    assert any(record.key is None for record in intake)
    away = [record for record in intake if record.key and home_of(record.key.decode(), 4) != record.partition]
    assert len(intake) / 5 < len(away) < len(intake) / 2, "half of the records go by another partitioner"
    for partition, record in markers(4, SEED):
        assert any(each.partition == partition and each.value == record.value for each in intake)
