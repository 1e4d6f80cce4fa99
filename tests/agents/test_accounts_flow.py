"""Accounts through the real task loop: histories by the thousand, and what single ones show."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark

from schemas.accounts import AccountRefusal, HoldState, account_id_of, read_event
from streams.driver import Driver
from tests.agents.account_histories import CHANGES, COMMANDS, EVENTS, TOGETHER, play
from tests.agents.domain import elsewhere, home, make_app

ME = account_id_of("user", "INR")
#: Together 8,000 histories; `python -m tests.agents.account_histories 10000` plays more.
SEEDS = range(8_000 // TOGETHER)


async def test_eight_thousand_histories() -> None:
    """Redelivery, conservation, no overdraft, versions by one, expiries against captures: see account_histories.py."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, replay=seed % 10 == 0)
    # The one takes nine hundred deposits, the other a caller with If-Match; the table has both.
    rare = {str(AccountRefusal.BALANCE_ABOVE_LIMIT), str(AccountRefusal.WRONG_VERSION)}
    assert set(seen) == CHANGES | {str(reason) for reason in AccountRefusal} - rare


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield running


async def tell(driver: Driver, kind: str, id: str, partition: int | None = None, **more: Any) -> None:
    said = {"type": kind, "command_id": id, "account_id": ME, **more}
    driver.produce(COMMANDS, key=ME, value=orjson.dumps(said), partition=partition, headers=[("trace", b"1")])
    await driver.run()


async def funded(driver: Driver, amount: int = 100) -> None:
    await tell(driver, "open_account", "o", user_id="user", currency="INR")
    await tell(driver, "deposit", "d", amount_minor=amount)


def outcomes(driver: Driver) -> list[str]:
    events = [read_event(record.value or b"") for record in driver.read(EVENTS)]
    return [getattr(event, "reason", event.type) if "refused" in event.type else event.type for event in events]


async def test_both_legs_are_one_fact_in_one_partition(driver: Driver) -> None:
    await funded(driver)
    (_, deposit) = driver.read(EVENTS)
    movement = orjson.loads(deposit.value or b"")["movement"]
    outside = f"clearing:external:INR:{home(ME)}"
    assert (movement["debit"], movement["credit"], movement["amount_minor"]) == (outside, ME, 100)
    rows = driver.rows("accounts")
    assert {id: row.balance_minor for id, row in rows.items()} == {ME: 100, outside: -100}
    entries = driver.rows("account_entries")
    assert {key: (row.amount_minor, row.balance_minor, row.other_account_id) for key, row in entries.items()} == {
        f"{ME}\0{2:010d}": (100, 100, outside),
        f"{outside}\0{1:010d}": (-100, -100, ME),
    }
    assert driver.rows("accounts_by_user") == {f"user\0{ME}": b"INR"}
    assert driver.rows("ledger_totals")["INR"]._asdict() == {
        "accounts": 1,
        "balance_minor": 100,
        "held_minor": 0,
        "clearing_minor": -100,
    }


async def test_a_command_on_the_wrong_partition_is_brought_home_once(driver: Driver) -> None:
    await funded(driver)
    await tell(driver, "deposit", "d2", partition=elsewhere(ME), amount_minor=1)
    brought = driver.read(COMMANDS)[-1] if home(ME) > elsewhere(ME) else driver.read(COMMANDS)[2]
    assert (brought.key, brought.partition, list(brought.headers)) == (ME.encode(), home(ME), [("trace", b"1")])
    assert driver.rows("accounts")[ME].balance_minor == 101


@mark.parametrize("later_ms", [0, 400 * 24 * 3600 * 1000])
async def test_a_command_that_comes_again_moves_nothing_however_late(driver: Driver, later_ms: int) -> None:
    await funded(driver)
    await tell(driver, "withdraw", "w", amount_minor=200)
    await driver.advance(later_ms)
    for _ in range(2):
        await tell(driver, "deposit", "d", amount_minor=100)
        await tell(driver, "withdraw", "w", amount_minor=50)
    assert outcomes(driver) == ["account_opened", "funds_deposited", "insufficient_funds"]
    assert driver.rows("accounts")[ME].balance_minor == 100


async def test_a_hold_expires_by_a_record(driver: Driver) -> None:
    await funded(driver)
    due = driver.clock.now_ms() + 1_000
    await tell(driver, "hold_funds", "h", hold_id="h1", amount_minor=60, expires_at_ms=due)
    assert driver.rows("accounts")[ME].available_minor == 40
    await driver.advance(999)
    assert driver.rows("accounts")[ME].available_minor == 40
    await driver.advance(1)
    assert driver.rows("accounts")[ME].available_minor == 100
    (hold,) = driver.rows("account_holds").values()
    assert (hold.state, hold.captured_minor) == (HoldState.EXPIRED, 0)
    assert driver.rows("accounts_deadlines") == {}
    await tell(driver, "capture_hold", "c", hold_id="h1")
    assert outcomes(driver)[-2:] == ["hold_released", "hold_already_settled"]
    assert driver.rows("accounts")[ME].balance_minor == 100


async def test_a_capture_before_the_expiry_wins_and_forgets_it(driver: Driver) -> None:
    await funded(driver)
    due = driver.clock.now_ms() + 1_000
    await tell(driver, "hold_funds", "h", hold_id="h1", amount_minor=60, expires_at_ms=due)
    await tell(driver, "capture_hold", "c", hold_id="h1", amount_minor=50)
    await driver.advance(5_000)
    assert outcomes(driver)[-1] == "hold_captured"
    row = driver.rows("accounts")[ME]
    assert (row.balance_minor, row.held_minor) == (50, 0)
    assert driver.rows("accounts")[f"clearing:sales:INR:{home(ME)}"].balance_minor == 50


async def test_an_expiry_that_lies_behind_a_capture_in_the_log_is_refused(driver: Driver) -> None:
    """The deadline has sent its command; a capture stood before it."""
    await funded(driver)
    await tell(driver, "hold_funds", "h", hold_id="h1", amount_minor=60)
    driver.produce(COMMANDS, key=ME, value=orjson.dumps(settle("capture_hold", "c")))
    driver.produce(COMMANDS, key=ME, value=orjson.dumps(settle("release_hold", "e", reason="expired")))
    await driver.run()
    assert outcomes(driver)[-2:] == ["hold_captured", "hold_already_settled"]
    assert driver.rows("accounts")[ME].balance_minor == 40


def settle(kind: str, id: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "command_id": id, "account_id": ME, "hold_id": "h1", **more}


async def test_a_bad_command_is_poison_and_changes_nothing(driver: Driver) -> None:
    await funded(driver)
    await tell(driver, "deposit", "x", amount_minor=1.5)
    (letter,) = driver.read("dead_letters.v1")
    assert dict(letter.headers)["dead-letter-kind"] == b"poison"
    assert b"amount_minor" in dict(letter.headers)["dead-letter-faults"]
    assert driver.rows("accounts")[ME].balance_minor == 100
