"""letters on a real topic -> `dead-letters list`, `show`, `redrive` -> what a person reads, and a program."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cli.console import Operator
from cli.dead_letters import dead_letters
from schemas.topics import DEAD_LETTERS
from streams.records import Record
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


async def test_an_edited_letter_is_tried_and_then_sent_back_once(
    place: Place, mine: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_, other) = await place.put(2)
    mended, tried = tmp_path / "mended", list[Record]()
    mended.write_bytes(b"mended")
    mine.app.topic(place.intake, partitions=3)
    applied = {"applied": True, "faults": [], "records": [], "not_followed": 0, "events": [], "changes": []}

    async def trial(operator: Operator, record: Record) -> dict[str, Any]:
        """tests/cli/test_tryout.py has what it does."""
        tried.append(record)
        return dict(applied)

    async def unchecked(self: Operator, work: Any) -> Any:
        return await work

    monkeypatch.setattr("cli.dead_letters.try_record", trial)
    monkeypatch.setattr(Operator, "after_check", unchecked)
    assert (await data(mine, "try", id_, "--edit", str(mended))) == {"id": id_, **applied}
    assert (tried[0].topic, tried[0].partition, tried[0].key, tried[0].value) == (place.intake, 0, b"key-0", b"mended")
    assert dict(tried[0].headers) == {"trace": b"t-0", "dead-letter-attempt": b"2"}
    assert await place.read(place.intake) == [], "a trial sends nothing"
    refused = await run(mine, "try", id_, "--edit", str(mended), "--redrive")
    assert refused.exit_code == 2 and "add --yes" in refused.stderr
    assert (await data(mine, "try", id_, "--edit", str(mended), "--redrive", "--yes"))["redriven"] is True
    again = await run(mine, "try", id_, "--edit", str(mended), "--redrive", "--yes")
    assert again.exit_code == 1 and f"{id_} was redriven before; nothing was sent" in again.stderr
    await data(mine, "redrive", "--all")
    back = {(record.key, record.value) for record in await place.read(place.intake)}
    assert back == {(b"key-0", b"mended"), (b"key-1", b"raw \xff 1")}, "each once, and only the one edited"
    assert (await data(mine, "try", other))["applied"], "one that was redriven can still be looked at"
    assert tried[-1].value == b"raw \xff 1"


async def test_a_letter_that_is_not_there_or_of_no_topic_of_ours_is_not_tried(place: Place, mine: Desk) -> None:
    (id_,) = await place.put(1)
    missing, foreign = await run(mine, "try", "orders-0-99"), await run(mine, "try", id_)
    assert (missing.exit_code, foreign.exit_code) == (1, 1)
    assert "There is no dead letter orders-0-99" in missing.stderr
    assert f"{place.intake}, where {id_} came from, is no topic of this application" in foreign.stderr
