"""Every topic as data."""

from __future__ import annotations

import re

from pydantic import TypeAdapter

from schemas.orders import MAX_DOCUMENT_BYTES
from schemas.topics import (
    CARRIER_MAX_BYTES,
    CUSTOMER_KEYS,
    DAY_MS,
    DEAD_LETTERS,
    EFFECTS,
    FOR_EVER,
    GONE_WITHIN_MS,
    HOUR_MS,
    INTAKE_MAX_BYTES,
    LIVE,
    ORDER_INBOX,
    ORDERS,
    SEALING,
    TOPICS,
    topics,
)


def test_names_follow_the_rule() -> None:
    named = {spec.name for spec in TOPICS}
    assert len(named) == len(TOPICS)
    others = {ORDERS.name, DEAD_LETTERS.name, LIVE.name, EFFECTS.name, "shipping.events", "shipping.responses"}
    for name in named - others:
        assert re.fullmatch(r"[a-z_]+\.(commands|events)\.v[1-9]", name), name


def test_every_topic_is_explained() -> None:
    for spec in TOPICS:
        assert spec.key and spec.writer and spec.description.endswith("."), spec.name


def test_what_a_replay_needs_is_kept_for_ever() -> None:
    kept = {spec.name for spec in TOPICS if spec.retention_ms == FOR_EVER}
    domains = {
        f"{domain}.{kind}.v1"
        for domain in (
            "orders",
            "purchases",
            "payments",
            "accounts",
            "customers",
            "inventory",
            "outlets",
            "webhooks",
        )
        for kind in ("commands", "events")
    }
    assert kept == {
        "orders",
        "shipping.commands.v1",
        "shipping.events",
        "shipping.responses",
        *domains,
        "outlet_notes.commands.v1",
        "deliveries.events.v1",
        "orderstream.effects.v1",
        "orderstream.live.v1",
    }
    assert all(spec.cleanup == "delete" for spec in TOPICS), "compaction would drop history"


def test_idempotency_keys_outlive_their_day_on_the_log() -> None:
    spec = next(spec for spec in TOPICS if spec.name == "requests.commands.v1")
    assert spec.retention_ms > DAY_MS


def test_a_dead_letter_is_kept_from_its_own_arrival() -> None:
    """It has the time of its record otherwise: one of an old record would be gone within minutes (fault row 19)."""
    dated = {spec.name for spec in TOPICS if spec.config().get("message.timestamp.type") == "LogAppendTime"}
    assert dated == {"dead_letters.v1"}


def test_whatever_carries_a_document_has_room_for_the_largest() -> None:
    assert INTAKE_MAX_BYTES == MAX_DOCUMENT_BYTES
    for spec in TOPICS:
        if spec is not ORDERS:
            assert spec.max_message_bytes == CARRIER_MAX_BYTES >= MAX_DOCUMENT_BYTES + 64 * 1024, spec.name


def test_one_installation_has_one_partition_count() -> None:
    specs = topics(12, 3)
    assert {(spec.partitions, spec.replication_factor) for spec in specs if not spec.single} == {(12, 3)}
    assert [(spec.name, spec.partitions) for spec in specs if spec.single] == [(LIVE.name, 1), (EFFECTS.name, 1)]
    assert [spec.name for spec in specs] == [spec.name for spec in TOPICS]


def test_the_brokers_words() -> None:
    assert ORDERS.config() == {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": "1048576"}


def test_every_value_has_a_json_schema() -> None:
    for spec in TOPICS:
        for value in spec.values:
            assert TypeAdapter(value).json_schema()["type"] == "object"


def test_sealing_has_topics_of_its_own_only_where_it_is_on() -> None:
    assert {spec.name for spec in topics(4, 1)} == {spec.name for spec in TOPICS}
    assert {spec.name for spec in topics(4, 1, sealing=True)} == {spec.name for spec in TOPICS + SEALING}


def test_a_key_that_was_destroyed_is_compacted_away_in_a_bounded_time() -> None:
    config = CUSTOMER_KEYS.config()
    assert (config["cleanup.policy"], config["retention.ms"]) == ("compact", "-1")
    assert {config["segment.ms"], config["max.compaction.lag.ms"]} == {str(HOUR_MS)} and GONE_WITHIN_MS >= 2.5 * HOUR_MS
    assert float(config["min.cleanable.dirty.ratio"]) < 0.1


def test_what_is_in_clear_is_deleted_a_week_after_it_came_and_a_file_is_closed_each_day() -> None:
    config = ORDER_INBOX.config()
    assert (config["retention.ms"], config["segment.ms"]) == (str(7 * DAY_MS), str(DAY_MS))
    assert (config["cleanup.policy"], config["message.timestamp.type"]) == ("delete", "LogAppendTime")
