"""Payments through the real task loop, with accounts attached: what is held is captured, let go or given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from pytest import mark

from schemas.accounts import HoldState, account_id_of
from schemas.payments import PaymentEvent, PaymentStatus, RefundState, read_event
from streams.driver import Driver
from tests.agents.account_histories import audit
from tests.agents.domain import elsewhere, home, make_app
from tests.agents.payment_histories import TOGETHER, play

COMMANDS, EVENTS = "payments.commands.v1", "payments.events.v1"
ME, UID = account_id_of("user", "INR"), "order-1"


async def test_two_thousand_histories() -> None:
    """Redelivery, conservation, nothing held for ever, a bad network to the provider: see payment_histories.py."""
    seen: Counter[str] = Counter()
    for seed in range(2_000 // TOGETHER):
        seen += await play(seed, replay=seed % 10 == 0)
    changes = {event.model_fields["type"].default for event in get_args(PaymentEvent)} - {"payment_command_refused"}
    assert changes <= set(seen)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield running


async def account(driver: Driver, kind: str, **more: Any) -> None:
    said = {"type": kind, "command_id": kind, "account_id": ME, **more}
    driver.produce("accounts.commands.v1", key=ME, value=orjson.dumps(said))
    await driver.run()


async def funded(driver: Driver, amount: int = 100) -> None:
    await account(driver, "open_account", user_id="user", currency="INR")
    await account(driver, "deposit", amount_minor=amount)


def put(driver: Driver, kind: str, id: str | None = None, partition: int | None = None, **more: Any) -> None:
    said = {"type": kind, "command_id": id or kind, "order_uid": UID, **more}
    driver.produce(COMMANDS, key=UID, value=orjson.dumps(said), partition=partition)


async def tell(driver: Driver, kind: str, id: str | None = None, partition: int | None = None, **more: Any) -> None:
    put(driver, kind, id, partition, **more)
    await driver.run()


async def pay(driver: Driver, amount: int = 60, method: str = "account", **more: Any) -> None:
    asked: dict[str, Any] = {"user_id": "user", "method": method, "amount_minor": amount, "currency": "INR"}
    await tell(driver, "authorise_payment", **asked, **more)


def told(driver: Driver) -> list[str]:
    """Events, refusals by their reason."""
    events = [read_event(record.value or b"") for record in driver.read(EVENTS)]
    return [event.reason if event.type == "payment_command_refused" else event.type for event in events]


def standing(driver: Driver) -> tuple[int, int]:
    row = driver.rows("accounts")[ME]
    return row.balance_minor, row.held_minor


def sales(driver: Driver) -> int:
    return sum(row.balance_minor for id, row in driver.rows("accounts").items() if id.startswith("clearing:sales"))


async def test_from_an_account_captured_and_given_back_by_line(driver: Driver) -> None:
    await funded(driver)
    await pay(driver, expires_at_ms=driver.clock.now_ms() + 1_000)
    assert standing(driver) == (100, 60)
    await tell(driver, "capture_payment", amount_minor=50)
    assert driver.rows("orders_deadlines") == {}, "what is captured does not expire"
    assert (standing(driver), sales(driver)) == ((50, 0), 50)
    await tell(driver, "refund_payment", "f1", refund_id="r1", amount_minor=20, line=1, reason="returned")
    await tell(driver, "refund_payment", "f2", refund_id="r2", amount_minor=30, line=2, reason="returned")
    await tell(driver, "refund_payment", "f3", refund_id="r3", amount_minor=1, reason="returned")
    assert told(driver) == [
        "payment_requested",
        "payment_authorised",
        "capture_requested",
        "payment_captured",
        "refund_requested",
        "payment_refunded",
        "refund_requested",
        "payment_refunded",
        "amount_above_captured",
    ]
    assert (standing(driver), sales(driver)) == ((100, 0), 0)
    (payment,) = driver.rows("payments").values()
    assert (payment.status, payment.captured_minor, payment.refunded_minor) == (PaymentStatus.CAPTURED, 50, 50)
    assert [(refund.line, refund.state) for refund in driver.rows("payment_refunds").values()] == [
        (1, RefundState.REFUNDED),
        (2, RefundState.REFUNDED),
    ]
    attempts = driver.rows("payment_attempts")
    assert [(row.number, row.type) for row in attempts.values()][-1] == (9, "payment_command_refused")
    assert list(attempts) == [f"{UID}\0{number:010d}" for number in range(1, 10)]
    finding, books = audit(driver)
    assert finding is None and books.movements == 4


@mark.parametrize(("open_it", "reason"), [(False, "no_such_account"), (True, "insufficient_funds")])
async def test_declined_with_the_ledgers_reason(driver: Driver, open_it: bool, reason: str) -> None:
    if open_it:
        await funded(driver, 59)
    await pay(driver)
    assert told(driver) == ["payment_requested", "payment_declined"]
    (payment,) = driver.rows("payments").values()
    assert (payment.status, payment.reason) == (PaymentStatus.DECLINED, reason)


async def test_a_void_lets_the_hold_go(driver: Driver) -> None:
    await funded(driver)
    await pay(driver)
    await tell(driver, "void_payment", reason="cancelled")
    assert told(driver)[-2:] == ["void_requested", "payment_voided"]
    assert standing(driver) == (100, 0)


@mark.parametrize("amount", [60, 101])
async def test_a_void_before_the_ledger_has_answered(driver: Driver, amount: int) -> None:
    """Both commands are there before the account hears of either; with and without the money."""
    await funded(driver)
    asked: dict[str, Any] = {"user_id": "user", "method": "account", "amount_minor": amount, "currency": "INR"}
    put(driver, "authorise_payment", **asked)
    await tell(driver, "void_payment", reason="cancelled")
    assert told(driver)[-1] == "payment_voided" and "payment_authorised" not in told(driver)
    assert standing(driver) == (100, 0)


async def test_a_hold_that_expires_voids_the_payment(driver: Driver) -> None:
    await funded(driver)
    await pay(driver, expires_at_ms=driver.clock.now_ms() + 1_000)
    await driver.advance(999)
    assert told(driver)[-1] == "payment_authorised"
    await driver.advance(1)
    await driver.run()
    (payment,) = driver.rows("payments").values()
    assert (payment.status, payment.reason, standing(driver)) == (PaymentStatus.VOIDED, "expired", (100, 0))
    assert driver.rows("orders_deadlines") == {} == driver.rows("accounts_deadlines")
    await tell(driver, "capture_payment")
    assert told(driver)[-1] == "already_voided"


async def test_a_hold_that_expires_before_its_capture_reaches_the_ledger(driver: Driver) -> None:
    """The capture is asked for; in the account's log the expiry stands before it."""
    await funded(driver)
    await pay(driver)
    release = {"type": "release_hold", "account_id": ME, "hold_id": UID, "order_uid": UID, "reason": "expired"}
    driver.produce("accounts.commands.v1", key=ME, value=orjson.dumps({**release, "command_id": "e"}))
    await tell(driver, "capture_payment")
    (payment,) = driver.rows("payments").values()
    assert (payment.status, payment.reason, standing(driver)) == (PaymentStatus.VOIDED, "expired", (100, 0))
    assert told(driver)[-1] == "payment_voided"


async def test_a_hold_of_the_same_name_is_no_payment(driver: Driver) -> None:
    """Someone else's hold neither authorises the payment nor keeps it waiting for ever."""
    await funded(driver)
    due = driver.clock.now_ms() + 1_000
    await account(driver, "hold_funds", hold_id=UID, amount_minor=60, expires_at_ms=due)
    assert driver.read(COMMANDS) == []
    await pay(driver, expires_at_ms=due)
    assert told(driver) == ["payment_requested"]
    await driver.advance(1_000)
    await driver.run()
    assert told(driver)[-1] == "payment_voided"
    (hold,) = driver.rows("account_holds").values()
    assert hold.state is HoldState.EXPIRED


async def test_a_hold_of_the_same_name_that_its_owner_captured(driver: Driver) -> None:
    """There is nothing to let go: that ends the void, too."""
    await funded(driver)
    await account(driver, "hold_funds", hold_id=UID, amount_minor=60)
    await account(driver, "capture_hold", hold_id=UID)
    await pay(driver)
    await tell(driver, "void_payment", reason="cancelled")
    assert told(driver) == ["payment_requested", "void_requested", "payment_voided"]
    assert (standing(driver), driver.rows("orders_deadlines")) == ((40, 0), {})


async def test_cash_on_delivery_and_prepaid(driver: Driver) -> None:
    await pay(driver, method="cash_on_delivery")
    await tell(driver, "capture_payment")
    assert told(driver) == ["payment_requested", "payment_authorised", "payment_captured"]
    await tell(driver, "refund_payment", refund_id="r", amount_minor=60, reason="returned")
    event = orjson.loads(driver.read(EVENTS)[-1].value or b"")
    assert (event["type"], event["outside"], event["refunded_minor"]) == ("payment_refunded", True, 60)
    assert driver.read("accounts.commands.v1") == []


async def test_a_failed_refund_is_tried_again_until_it_is_given(driver: Driver) -> None:
    """The account is full when the money shall come back."""
    await funded(driver)
    await pay(driver)
    await tell(driver, "capture_payment")
    most = 2**53 - 1 - 40
    for n in range(0, most, 10**13):
        said = {"type": "deposit", "command_id": f"d{n}", "account_id": ME, "amount_minor": min(10**13, most - n)}
        driver.produce("accounts.commands.v1", key=ME, value=orjson.dumps(said))
    await driver.run()
    await tell(driver, "refund_payment", refund_id="r", amount_minor=60, reason="returned")
    assert told(driver)[-1] == "payment_step_failed"
    await driver.advance(60_000)
    await driver.run()
    assert told(driver)[-2:] == ["refund_requested", "payment_step_failed"]
    await account(driver, "withdraw", amount_minor=1000)
    await driver.advance(120_000)
    await driver.run()
    assert told(driver)[-2:] == ["refund_requested", "payment_refunded"]
    assert (sales(driver), driver.rows("orders_deadlines")) == (0, {})


async def test_a_command_on_the_wrong_partition_is_brought_home_once(driver: Driver) -> None:
    await funded(driver)
    asked: dict[str, Any] = {"user_id": "user", "method": "account", "amount_minor": 60, "currency": "INR"}
    await tell(driver, "authorise_payment", partition=elsewhere(UID), **asked)
    assert told(driver) == ["payment_requested", "payment_authorised"]
    assert {record.partition for record in driver.read(EVENTS)} == {home(UID)}


async def test_a_command_that_comes_again_does_nothing_however_late(driver: Driver) -> None:
    await funded(driver)
    await pay(driver)
    await tell(driver, "capture_payment")
    before = told(driver)
    await driver.advance(400 * 24 * 3600 * 1000)
    await pay(driver)
    await tell(driver, "capture_payment")
    assert told(driver) == before
    assert driver.rows("payment_commands")[f"{UID}\0capture_payment"].type == "capture_requested"
