"""a machine, good or bad -> `doctor` -> a line for each thing, red where it is broken, and how to mend it."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from cli import doctor as module
from cli.doctor import Finding, State, doctor
from streams import admin
from streams.admin import TopicConfig
from tests.cli.running import Desk, desk


def findings(mine: Desk, exit_code: int) -> dict[str, dict[str, Any]]:
    report = mine.json(doctor, exit_code=exit_code)
    assert report["ok"] is (exit_code == 0)
    return {each["name"]: each for each in report["checks"]}


def test_all_is_well(stack: Any, tmp_path: Path) -> None:
    mine = desk(stack.kafka, tmp_path, postgres=stack.postgres)
    asyncio.run(admin.create(stack.kafka, [TopicConfig("doctors-own", 1)]))
    mine.app.topic("doctors-own", partitions=1)
    found = findings(mine, exit_code=0)
    assert list(found) == [
        "python", "java", "web port", "disk", "memory", "data dir", "broker", "clock", "topics", "postgres"
    ]  # fmt: skip
    assert {each["state"] for each in found.values()} <= {"ok", "warning"}
    assert all((each["mend"] is None) is (each["state"] == "ok") for each in found.values())
    assert "there and back in" in found["broker"]["detail"]
    shown = mine.run(doctor)
    assert shown.exit_code == 0
    assert stack.postgres.split("@")[0] not in shown.stdout, "it shows the database's password"


def test_the_topic_of_the_round_trip_is_gone_afterwards(stack: Any, tmp_path: Path) -> None:
    desk(stack.kafka, tmp_path, "patient", postgres=stack.postgres).run(doctor)
    assert not [name for name in asyncio.run(admin.partition_counts(stack.kafka)) if name.startswith("patient-doctor")]


def test_nothing_is_up(tmp_path: Path) -> None:
    found = findings(desk("127.0.0.1:1", tmp_path), exit_code=1)
    red = {name for name, each in found.items() if each["state"] == "red"}
    assert red == {"broker", "topics", "postgres"}
    assert "ORDERSTREAM_KAFKA" in found["broker"]["mend"]
    assert "python -m local up" in found["postgres"]["mend"]


def test_topics_that_differ_are_red_with_the_command(stack: Any, tmp_path: Path) -> None:
    mine = desk(stack.kafka, tmp_path, postgres=stack.postgres)
    mine.app.topic("nobody-made-this", partitions=1)
    topics = findings(mine, exit_code=1)["topics"]
    assert (topics["state"], "faust -A app topics create" in topics["mend"]) == ("red", True)


def test_a_taken_port_names_its_holder_and_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mine = desk("127.0.0.1:1", tmp_path, postgres_port=port)
        found = findings(mine, exit_code=1)["postgres port"]
    assert found["state"] == "red"
    assert f"{port} is taken by python" in found["detail"]
    assert "ORDERSTREAM_POSTGRES_PORT" in found["mend"]


def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(desk("127.0.0.1:1", tmp_path / "file" / "data"), exit_code=1)["data dir"]
    assert found["state"] == "red"
    assert "ORDERSTREAM_DATA_DIR" in found["mend"]


def test_postgres_that_refuses(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path, postgres="postgresql://me:secret@127.0.0.1:1/orders")
    found = findings(mine, exit_code=1)["postgres"]
    assert found["state"] == "red"
    assert "127.0.0.1:1/orders" in found["detail"]
    assert "secret" not in str(found)


def test_a_check_that_fails_is_red_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> Any:
        raise RuntimeError("no such call here")

    monkeypatch.setattr("cli.doctor.shutil.disk_usage", broken)
    found = findings(desk("127.0.0.1:1", tmp_path), exit_code=1)
    assert found["disk"]["state"] == "red"
    assert "no such call here" in found["disk"]["detail"]
    assert "postgres" in found


@pytest.mark.parametrize(
    ("ahead_ms", "state"),
    [
        (0, State.OK),
        (499, State.OK),
        (-600, State.WARNING),
        (4_999, State.WARNING),
        (5_001, State.RED),
        (-9e9, State.RED),
    ],
)
def test_clock(ahead_ms: float, state: State) -> None:
    found = module._clock(ahead_ms)
    assert found.state is state
    assert (found.mend is None) is (state is State.OK)


@pytest.mark.parametrize(
    ("amount", "state"), [(0.5, State.RED), (1, State.WARNING), (4.9, State.WARNING), (5, State.OK)]
)
def test_grades(amount: float, state: State) -> None:
    assert module._graded("disk", amount, 1, 5, "detail", "mend").state is state


def test_warnings_do_not_fail() -> None:
    assert not module._red([Finding("disk", State.WARNING, "low", "free some")])
