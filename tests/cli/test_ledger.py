"""a worker's sums, and no broker -> `ledger` -> a table, JSON, or an exit code that says what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from cli.ledger import ledger
from tests.cli.running import desk
from tests.cli.test_order import worker

LINE = {"currency": "INR", "accounts": 2, "accounts_minor": 5_000, "held_minor": 70, "clearing_minor": -5_000}
RIGHT = {**LINE, "difference_minor": 0}
WRONG = {**LINE, "currency": "EUR", "clearing_minor": -4_999, "difference_minor": 1}


async def test_the_trial_balance_of_a_worker(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path)
    async with worker(lambda request: web.json_response({"currencies": [RIGHT]})) as url:
        shown = await asyncio.to_thread(mine.run, ledger, "trial-balance", "--url", url)
        told = await asyncio.to_thread(mine.json, ledger, "trial-balance", "--url", url)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[1].split() == ["INR", "2", "5,000", "70", "-5,000", "0"]
    assert told == {"currencies": [RIGHT]}


async def test_a_difference_is_exit_code_1(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path)
    async with worker(lambda request: web.json_response({"currencies": [RIGHT, WRONG]})) as url:
        shown = await asyncio.to_thread(mine.run, ledger, "trial-balance", "--url", url)
    assert shown.exit_code == 1
    assert "EUR do not add up to 0" in shown.stderr and "ledger verify" in shown.stderr


def test_without_a_worker_or_a_broker_it_is_3(tmp_path: Path) -> None:
    mine = desk("127.0.0.1:1", tmp_path)
    for arguments in (["trial-balance", "--url", "http://127.0.0.1:1"], ["verify"]):
        result = mine.run(ledger, *arguments)
        assert (result.exit_code, result.stdout) == (3, ""), result.output
