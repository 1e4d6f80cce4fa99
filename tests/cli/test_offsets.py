"""What is committed, and what the tasks had committed -> shown, put back, or said to be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import cli.offsets
from cli.console import Operator
from cli.offsets import offsets
from streams.positions import Position
from streams.records import TopicPartition
from streams.reset import WorkersRunning
from tests.cli.running import Desk, desk

SAME = Position(TopicPartition("words", 0), 5, 5)
SET = Position(TopicPartition("words", 1), 0, 7)
DELETED = Position(TopicPartition("reminders", 0), None, 3)
UNKNOWN = Position(TopicPartition("reminders", 1), 4, None)


@pytest.fixture
def place(tmp_path: Path) -> Desk:
    return desk("127.0.0.1:9", tmp_path, "toy")


def given(monkeypatch: pytest.MonkeyPatch, *found: Position) -> list[Position]:
    """The broker has these; gives the list of what is put back."""
    done: list[Position] = []

    async def told(*_: Any) -> list[Position]:
        return list(found)

    async def restored(_: Operator, wanted: Sequence[Position]) -> None:
        done.extend(wanted)

    monkeypatch.setattr(cli.offsets, "positions", told)
    monkeypatch.setattr(cli.offsets, "_restored", restored)
    return done


def test_what_is_as_it_was_is_a_success(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = given(monkeypatch, SAME)
    assert place.run(offsets, "show").exit_code == 0
    assert place.run(offsets, "restore", "--yes").exit_code == 0
    assert done == []


def test_what_is_not_is_shown_and_put_back(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = given(monkeypatch, SAME, SET, DELETED)
    shown = place.run(offsets, "show")
    assert shown.exit_code == 1 and "2 offsets are not what the tasks have committed" in shown.stderr
    assert [line.split() for line in shown.stdout.splitlines()][2:] == [
        ["words", "1", "0", "7"],
        ["reminders", "0", "-", "3"],
    ]
    assert place.run(offsets, "restore", "--dry-run").exit_code == 0 and done == []
    assert place.run(offsets, "restore").exit_code == 2 and done == []
    told = place.json(offsets, "restore", "--yes")
    assert told["offsets"][0] == {"topic": "words", "partition": 1, "committed": 0, "by_task": 7}
    assert done == [SET, DELETED]


def test_what_the_broker_has_forgotten_is_said(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = given(monkeypatch, SET, UNKNOWN)
    result = place.run(offsets, "restore", "--yes")
    assert result.exit_code == 1 and "what was committed of reminders-1" in result.stderr
    assert done == [SET]


def test_workers_that_run_are_named(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, SET)

    async def running(*_: Any) -> None:
        raise WorkersRunning("group toy has running workers (http://here)")

    monkeypatch.setattr(cli.offsets, "_restored", running)
    result = place.run(offsets, "restore", "--yes")
    assert result.exit_code == 1 and "http://here" in result.stderr


OF_EFFECT = Position(TopicPartition("words", 0), None, 7, "toy-mail")


def test_offsets_of_effects_are_shown_and_put_back_by_their_group(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = given(monkeypatch, SAME, OF_EFFECT)
    shown = place.run(offsets, "show")
    assert shown.stdout.splitlines()[-1].split() == ["words", "0", "-", "7", "toy-mail"]
    told = place.json(offsets, "restore", "--yes")
    assert told["offsets"] == [{"topic": "words", "partition": 0, "committed": None, "by_task": 7, "group": "toy-mail"}]
    assert done == [OF_EFFECT]


def test_an_unknown_effect_is_refused_with_the_names_that_there_are(place: Desk) -> None:
    result = place.run(offsets, "begin", "mail", "--at", "end")
    assert result.exit_code == 2 and "there is no effect mail; effects: none" in result.stderr
