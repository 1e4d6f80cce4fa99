"""declared topics and a real broker -> `topics plan`, `create`, `check` -> exit codes, rows, and what is left alone."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cli.topics import topics
from streams import admin
from streams.admin import TopicConfig
from tests.cli.running import Desk, desk


@pytest.fixture
def name() -> str:
    return f"topics-{uuid4().hex[:10]}"


@pytest.fixture
def declare(stack: Any, tmp_path: Path, name: str) -> Any:
    def declared(partitions: int = 2, **config: str) -> Desk:
        """One topic, declared so."""
        found = desk(stack.kafka, tmp_path)
        found.app.topic(
            name, partitions=partitions, config={key.replace("_", "."): each for key, each in config.items()}
        )
        return found

    return declared


def test_from_missing_to_checked(declare: Any, name: str) -> None:
    mine = declare(cleanup_policy="compact")
    plan = mine.json(topics, "plan", exit_code=1)
    assert plan["differences"] == 1
    assert plan["topics"] == [
        {
            "name": name,
            "partitions": 2,
            "replication_factor": 1,
            "config": {"cleanup.policy": "compact"},
            "differences": [
                {"topic": name, "what": "missing", "setting": None, "wanted": "2", "found": None, "mendable": True}
            ],
        }
    ]
    checked = mine.run(topics, "check")
    assert (checked.exit_code, checked.stdout) == (1, "")
    assert f"{name}: missing" in checked.stderr
    assert "faust -A app topics create" in checked.stderr
    assert mine.json(topics, "create", "--dry-run")["created"] == [name]
    assert mine.json(topics, "plan", exit_code=1)["differences"] == 1, "a dry run has created it"
    created = mine.json(topics, "create")
    assert created == {"created": [name], "altered": [], "left": [], "dry_run": False}
    assert mine.json(topics, "check") == {"ok": True, "topics": 1, "detail": None}
    assert mine.json(topics, "plan")["differences"] == 0
    assert mine.run(topics, "create").stdout == "Every topic is as declared; nothing to do.\n"


def test_alone_it_plans(declare: Any, name: str) -> None:
    shown = declare().run(topics)
    assert shown.exit_code == 1
    assert f"{name}  2           -        missing (declared partitions: 2)" in shown.stdout


async def existing(stack: Any, name: str, partitions: int, **config: str) -> None:
    settings = {key.replace("_", "."): each for key, each in config.items()}
    await admin.create(stack.kafka, [TopicConfig(name, partitions, config=settings)])


def test_another_partition_count_is_told_and_left_alone(stack: Any, declare: Any, name: str) -> None:
    declare(partitions=3).json(topics, "create")
    mine = declare(partitions=5)
    left = mine.json(topics, "create", "--yes", exit_code=1)["left"]
    assert [(each["what"], each["wanted"], each["found"], each["mendable"]) for each in left] == [
        ("partitions", "5", "3", False)
    ]
    checked = mine.run(topics, "check")
    assert checked.exit_code == 1
    assert "sends keys to other partitions" in checked.stderr


def test_a_change_that_may_delete_records_is_asked_for(declare: Any, name: str) -> None:
    declare(retention_ms="-1").json(topics, "create")
    mine = declare(retention_ms="60000")
    refused = mine.run(topics, "create")
    assert refused.exit_code == 2
    assert "lets the broker delete records" in refused.stderr
    assert "--yes" in refused.stderr
    assert mine.json(topics, "plan", exit_code=1)["differences"] == 1, "it was set without a yes"
    altered = mine.json(topics, "create", "--yes")["altered"]
    assert [(each["setting"], each["wanted"], each["found"]) for each in altered] == [("retention.ms", "60000", "-1")]
    mine.json(topics, "check")


def test_a_harmless_change_is_made_without_asking(declare: Any, name: str) -> None:
    declare(max_message_bytes="1000").json(topics, "create")
    mine = declare(max_message_bytes="9000")
    assert mine.run(topics, "create").stdout == f"{name}: max.message.bytes set to 9000 (was 1000)\n"
    mine.json(topics, "check")
