"""files of items -> `items` against real rules behind real HTTP servers -> the catalogue, or lines that are bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from click.testing import Result
from structlog.testing import capture_logs

from cli import items as module
from cli.items import items
from tests.cli.running import desk
from tests.cli.test_order import worker
from tests.web.platform import Platform, platform


def line(number: int, **more: Any) -> dict[str, Any]:
    item = {"item_id": f"i{number:03d}", "outlet_id": "o", "name": f"Item {number}", "price_minor": 5}
    return {**item, "currency": "INR", **more}


def text(*lines: dict[str, Any] | str) -> bytes:
    return b"\n".join(each.encode() if isinstance(each, str) else orjson.dumps(each) for each in lines)


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    with capture_logs():  # the workers', which run in this process and would write where the command writes
        async with platform(2) as running:
            yield running


class Shop:
    """Runs `items` as an operator does, against one worker or another."""

    def __init__(self, running: Platform, path: Path) -> None:
        self.running, self.file, self._desk = running, path / "items.jsonl", desk("127.0.0.1:1", path)

    async def run(self, *arguments: str, stdin: bytes | None = None, worker: int = 0) -> Result:
        url = self.running.workers[worker].url
        return await asyncio.to_thread(self._desk.run, items, *arguments, "--url", url, stdin=stdin)

    async def load(self, *lines: dict[str, Any] | str, worker: int = 0) -> Result:
        self.file.write_bytes(text(*lines))
        return await self.run("load", str(self.file), "--json", worker=worker)

    async def item(self, item_id: str) -> dict[str, Any]:
        told: dict[str, Any] = orjson.loads((await self.run("show", item_id, "--json")).stdout)
        return told


@pytest.fixture
def shop(two: Platform, tmp_path: Path) -> Shop:
    return Shop(two, tmp_path)


COUNTS = ("lines", "created", "there_before", "stocked", "low_stock_at")


def counts(result: Result) -> tuple[int, ...]:
    told = orjson.loads(result.stdout)
    return tuple(told[name] for name in COUNTS)


async def test_a_file_loaded_twice_counts_once(shop: Shop) -> None:
    lines = [line(number, stock=number, attributes={"n": number}) for number in range(150)]
    lines[7]["low_stock_at"] = 3
    first = await shop.load(*lines)
    assert (first.exit_code, counts(first)) == (0, (150, 150, 0, 149, 1))
    again = await shop.load(*lines, worker=1)
    assert (again.exit_code, counts(again)) == (0, (150, 0, 150, 0, 0))
    item = await shop.item("i007")
    assert (item["on_hand"], item["low_stock_at"], item["attributes"], item["version"]) == (7, 3, {"n": 7}, 3)
    stocks = {row.item_id: row.on_hand for row in shop.running.driver.rows("items").values()}
    assert stocks == {f"i{number:03d}": number for number in range(150)}


async def test_what_was_sold_since_is_not_received_again(shop: Shop) -> None:
    await shop.load(line(1, stock=10, low_stock_at=3))
    client = shop.running.workers[0].client
    await client.post("/api/v1/items/i001/stock", json={"delta": -4, "reason": "sold"})
    await client.patch("/api/v1/items/i001", json={"low_stock_at": 2})
    assert (await shop.load(line(1, stock=10, low_stock_at=3))).exit_code == 0
    item = await shop.item("i001")
    assert (item["on_hand"], item["low_stock_at"]) == (6, 2)


async def test_bad_lines_are_named_and_the_others_loaded(shop: Shop) -> None:
    wrong = line(3, price_minor=-1, currency="XXX")
    result = await shop.load(line(1, stock=2), "", "{", wrong, line(4, stock=-1), line(5, size=1), line(6))
    assert result.exit_code == 1
    assert counts(result) == (6, 2, 0, 1, 0)
    bad = orjson.loads(result.stdout)["bad"]
    assert [(each["line"], each["path"]) for each in bad] == [
        (3, "$"), (4, "$.currency"), (4, "$.price_minor"), (5, "$.stock"), (6, "$.size")
    ]  # fmt: skip
    assert "4 of 6 lines were not loaded as they are:" in result.stderr
    assert "line 4: $.price_minor: Input should be greater than or equal to 0" in result.stderr
    assert (await shop.item("i006"))["on_hand"] == 0


async def test_what_the_catalogue_refuses_is_told_with_its_line(shop: Shop) -> None:
    await shop.load(line(1, stock=2), line(2))
    result = await shop.load(line(1, stock=3), line(2, price_minor=6, stock=7), line(3), line(3, name="Other"))
    assert (result.exit_code, counts(result)) == (1, (4, 1, 1, 0, 0))
    told = orjson.loads(result.stdout)["bad"]
    bad = {(each["item_id"], each["path"]): each["message"] for each in told}
    assert set(bad) == {("i001", "$.stock"), ("i002", "$"), ("i003", "$")}
    assert [each["line"] for each in told][:2] == [1, 2] and told[2]["line"] in (3, 4), "one of two that contradict"
    assert "POST /api/v1/items/i001/stock" in bad["i001", "$.stock"]
    assert bad["i002", "$"].endswith("(exists_with_different_content)")
    assert (await shop.item("i002"))["on_hand"] == 0, "nothing is received for what is another item"


async def test_a_pipe_and_a_summary_for_people(shop: Shop) -> None:
    result = await shop.run("load", "-", stdin=text(line(1, stock=2), line(2)))
    assert result.exit_code == 0
    assert result.stdout.startswith("2 lines in ")
    assert result.stdout.endswith("2 items created, 0 there before, stock received for 1\n")


async def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(text(line(1), line(2, price_minor="1"), *(f"[{n}]" for n in range(30))))
    mine = desk("127.0.0.1:1", tmp_path)
    result = await asyncio.to_thread(mine.run, items, "load", str(file), "--dry-run", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "32 lines, 31 of them bad; nothing was sent.\n")
    assert "line 2: $.price_minor: Input should be a valid integer" in result.stderr
    assert "and 11 more faults; --json has them all" in result.stderr and "line 22" not in result.stderr
    file.write_bytes(text(line(1)))
    told = await asyncio.to_thread(mine.json, items, "load", str(file), "--dry-run")
    assert (told["dry_run"], told["lines"], told["bad"]) == (True, 1, [])


def test_an_empty_file_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(b"\n \n")
    result = desk("127.0.0.1:1", tmp_path).run(items, "load", str(file), "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (2, "") and "empty" in result.stderr


async def test_without_a_worker_it_is_3_and_says_that_it_can_be_repeated(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path)
    assert (await asyncio.to_thread(mine.run, items, "verify")).exit_code == 3
    for arguments in (["load", "-"], ["show", "x"], ["list"]):
        run = asyncio.to_thread(mine.run, items, *arguments, "--url", "http://127.0.0.1:1", stdin=text(line(1)))
        result = await run
        assert (result.exit_code, result.stdout) == (3, ""), result.output
        assert "No worker answers at http://127.0.0.1:1" in result.stderr
        assert ("what was done is not done twice" in result.stderr) == (arguments[0] == "load")


async def test_what_is_not_known_yet_is_asked_again(tmp_path: Path) -> None:
    """503 while partitions move, 202 when the outcome was slow: both are no answer yet."""
    answers = [(503, {"detail": "moving"}), (202, {"outcome": "/x"}), (201, {})]
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        status, body = answers[min(len(asked), 2)]
        asked.append(request.path)
        return web.json_response(body, status=status, headers={"Retry-After": "0.01"})

    async with worker(answer, "POST") as url:
        mine = desk("127.0.0.1:1", tmp_path)
        run = asyncio.to_thread(mine.run, items, "load", "-", "--json", "--url", url, stdin=text(line(1)))
        result = await run
    assert (result.exit_code, counts(result)) == (0, (1, 1, 0, 0, 0))
    assert asked == ["/api/v1/items"] * 3


@pytest.mark.parametrize(
    ("status", "message"),
    [(503, "cannot answer yet"), (500, "answered 500"), (404, "answered 404")],
)
async def test_a_worker_that_never_can_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setattr(module, "TRIED_S", 0.2)

    def answer(_: web.Request) -> web.Response:
        return web.json_response({"detail": "why"}, status=status, headers={"Retry-After": "0.1"})

    async with worker(answer, "POST") as url:
        mine = desk("127.0.0.1:1", tmp_path)
        result = await asyncio.to_thread(mine.run, items, "load", "-", "--url", url, stdin=text(line(1)))
    assert (result.exit_code, result.stdout) == (3, "")
    assert message in result.stderr and "why" in result.stderr


def test_a_bug_is_not_told_as_a_worker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Any) -> None:
        raise KeyError("a bug of ours")

    monkeypatch.setattr(module, "steps_of", fails)
    with pytest.raises(ExceptionGroup):
        desk("127.0.0.1:1", tmp_path).run(items, "load", "-", "--url", "http://127.0.0.1:1", stdin=text(line(1)))


async def test_the_catalogue_as_a_list(shop: Shop) -> None:
    await shop.load(*(line(number, stock=2, name="Lamp" if number % 2 else "Desk") for number in range(9)))
    shown = await shop.run("list", "--query", "lamp", worker=1)
    assert [row.split()[0] for row in shown.stdout.splitlines()] == ["item_id", "i001", "i003", "i005", "i007"]
    assert "There are more" not in shown.stderr
    some = await shop.run("list", "--limit", "3", "--outlet", "o", "--json")
    told = orjson.loads(some.stdout)
    assert ([item["item_id"] for item in told["items"]], told["more"]) == (["i000", "i001", "i002"], True)
    assert "There are more than 3" in (await shop.run("list", "--limit", "3")).stderr


async def test_one_item(shop: Shop) -> None:
    await shop.load(line(1, stock=2))
    shown = await shop.run("show", "i001", worker=1)
    assert "available:     2" in shown.stdout.splitlines()
    missing = await shop.run("show", "nothing")
    assert (missing.exit_code, missing.stdout) == (1, "") and "There is no item nothing." in missing.stderr
