"""letters on a real topic -> `dead-letters list`, `show`, `redrive` -> what a person reads, and a program."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cli.dead_letters import dead_letters
from schemas.topics import DEAD_LETTERS
from tests.cli.conftest import Place
from tests.cli.running import Desk, desk


@pytest.fixture
def mine(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("cli.dead_letters.DEAD_LETTERS", replace(DEAD_LETTERS, name=place.topic))
    return desk(place.bootstrap, tmp_path, place.app_id)


async def run(mine: Desk, *arguments: str) -> Result:
    """In a thread: a command runs an event loop of its own."""
    return await asyncio.to_thread(mine.run, dead_letters, *arguments)


async def data(mine: Desk, *arguments: str) -> Any:
    return await asyncio.to_thread(mine.json, dead_letters, *arguments)


async def test_list_in_text_and_json(place: Place, mine: Desk) -> None:
    first, second = await place.put(2)
    (other,) = await place.put(1, reason="not_json", start=2)
    shown = await run(mine, "list")
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["id", "kind", "reason", "attempt", "redriven", "first", "fault"]
    assert [line.split()[:5] for line in lines[1:]] == [
        [first, "poison", "invalid", "1", "no"],
        [second, "poison", "invalid", "1", "no"],
        [other, "poison", "not_json", "1", "no"],
    ]
    assert lines[1].endswith("$.payment.amount: not a number")
    assert shown.stderr == "3 of 3 dead letters.\n"
    assert [row["id"] for row in await data(mine, "list", "--reason", "not_json")] == [other]
    assert [row["id"] for row in await data(mine, "list", "--reason", "not")] == [], "a reason is a word, not a pattern"
    assert await data(mine, "list", "--kind", "failed") == []
    await data(mine, "redrive", first)
    assert [row["id"] for row in await data(mine, "list", "--pending")] == [second, other]


async def test_an_empty_list(mine: Desk) -> None:
    assert await data(mine, "list") == []
    assert (await run(mine, "list")).stdout == ""


async def test_show(place: Place, mine: Desk) -> None:
    (id_,) = await place.put(1)
    shown = await run(mine, "show", id_)
    assert f"id:        {id_}\n" in shown.stdout
    assert "fault:     $.payment.amount: not a number\n" in shown.stdout
    assert "header:    trace: t-0\n" in shown.stdout
    assert shown.stdout_bytes.endswith(b"\n\nraw \xff 0\n"), "the original bytes, as they are"
    details = await data(mine, "show", id_)
    assert details["value"] == {"base64": "cmF3IP8gMA=="}
    assert (details["key"], details["redriven"]) == ("key-0", False)
    missing = await run(mine, "show", "orders-0-0")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "dead-letters list" in missing.stderr


async def test_redrive_in_text(place: Place, mine: Desk) -> None:
    ids = await place.put(25)
    dry = await run(mine, "redrive", "--all", "--dry-run")
    assert dry.stdout.startswith("25 would be redriven, 0 were before.\n")
    assert dry.stdout.endswith("  and 5 more (--json has all)\n")
    assert await place.read(place.intake) == [], "a dry run has sent something"
    assert (await run(mine, "redrive", ids[3])).stdout == f"1 redriven, 0 were before.\n  {ids[3]}\n"
    assert (await run(mine, "redrive", "--all")).stdout.startswith("24 redriven, 1 were before.\n")
    assert len(await place.read(place.intake)) == 25


async def test_one_unknown_id_sends_nothing(place: Place, mine: Desk) -> None:
    (id_,) = await place.put(1)
    result = await run(mine, "redrive", id_, "orders-7-7")
    assert result.exit_code == 1
    assert "orders-7-7; nothing was sent" in result.stderr
    assert await place.read(place.intake) == []


@pytest.mark.parametrize("arguments", [[], ["--all", "--reason", "x"], ["orders-0-1", "--all"]], ids=" ".join)
def test_a_redrive_names_exactly_one_choice(tmp_path: Path, arguments: list[str]) -> None:
    result = desk("127.0.0.1:1", tmp_path).run(dead_letters, "redrive", *arguments)
    assert result.exit_code == 2
    assert "ids, or --reason, or --all" in result.stderr
