"""Accounts: the rules as a table of outcomes, a row for every refusal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark, param

from agents.accounts import decide, evolve, evolve_hold, expiry_of, post
from schemas.accounts import (
    MAX_AMOUNT_MINOR,
    MAX_BALANCE_MINOR,
    Account,
    AccountCommand,
    AccountCommandRefused,
    AccountEvent,
    AccountOpened,
    AccountRefusal,
    CaptureHold,
    Deposit,
    FundsDeposited,
    FundsHeld,
    FundsRefunded,
    FundsWithdrawn,
    Hold,
    HoldCaptured,
    HoldFunds,
    HoldRefund,
    HoldReleased,
    HoldState,
    Movement,
    MovementReason,
    OpenAccount,
    RefundFunds,
    ReleaseHold,
    ReleaseReason,
    Withdraw,
    account_id_of,
    read_event,
)
from schemas.base import content_of, derived_id, event_id_for

ME = account_id_of("user", "INR")
AT = "2021-11-26T06:22:19.000Z"
P = 3

OPEN = OpenAccount(command_id="o", user_id="user", currency="INR")


def deposit(amount: int, id: str = "d", **more: Any) -> Deposit:
    return Deposit(command_id=id, account_id=ME, amount_minor=amount, **more)


def withdraw(amount: int, id: str = "w", **more: Any) -> Withdraw:
    return Withdraw(command_id=id, account_id=ME, amount_minor=amount, **more)


def hold(amount: int, id: str = "h", **more: Any) -> HoldFunds:
    return HoldFunds(command_id=id, account_id=ME, hold_id="h1", amount_minor=amount, **more)


def capture(amount: int | None = None, id: str = "c", **more: Any) -> CaptureHold:
    return CaptureHold(command_id=id, account_id=ME, hold_id="h1", amount_minor=amount, **more)


def release(id: str = "r", **more: Any) -> ReleaseHold:
    return ReleaseHold(command_id=id, account_id=ME, hold_id="h1", **more)


def refund(amount: int, id: str = "f", refund_id: str = "r1") -> RefundFunds:
    return RefundFunds(
        command_id=id,
        account_id=ME,
        hold_id="h1",
        refund_id=refund_id,
        amount_minor=amount,
        order_uid="order-1",
    )


def said(command: AccountCommand) -> dict[str, Any]:
    id = command.command_id
    return {"event_id": event_id_for(id, 0), "caused_by": id, "occurred_at": AT, "account_id": ME}


def figures(version: int, balance: int, held: int = 0) -> dict[str, int]:
    return {"version": version, "balance_minor": balance, "held_minor": held}


def moved(command: AccountCommand, debit: str, credit: str, amount: int, reason: MovementReason) -> Movement:
    return Movement(
        movement_id=derived_id(f"movement {event_id_for(command.command_id, 0)}"),
        debit=debit,
        credit=credit,
        amount_minor=amount,
        currency="INR",
        reason=reason,
    )


OUTSIDE, SALES = "clearing:external:INR:3", "clearing:sales:INR:3"


def deposited(command: Deposit, version: int, balance: int, held: int = 0) -> FundsDeposited:
    movement = moved(command, OUTSIDE, ME, command.amount_minor, MovementReason.DEPOSIT)
    return FundsDeposited(**said(command), **figures(version, balance, held), movement=movement)


def withdrawn(command: Withdraw, version: int, balance: int, held: int = 0) -> FundsWithdrawn:
    movement = moved(command, ME, OUTSIDE, command.amount_minor, MovementReason.WITHDRAWAL)
    return FundsWithdrawn(**said(command), **figures(version, balance, held), movement=movement)


def held(command: HoldFunds, version: int, balance: int, held: int) -> FundsHeld:
    return FundsHeld(
        **said(command),
        **figures(version, balance, held),
        hold_id="h1",
        amount_minor=command.amount_minor,
        currency="INR",
        expires_at_ms=command.expires_at_ms,
    )


def captured(command: CaptureHold, version: int, balance: int, amount: int, released: int) -> HoldCaptured:
    movement = moved(command, ME, SALES, amount, MovementReason.CAPTURE)
    return HoldCaptured(
        **said(command), **figures(version, balance), hold_id="h1", released_minor=released, movement=movement
    )


def released(command: ReleaseHold, version: int, balance: int, amount: int) -> HoldReleased:
    return HoldReleased(
        **said(command),
        **figures(version, balance),
        hold_id="h1",
        amount_minor=amount,
        currency="INR",
        reason=command.reason,
    )


def refunded(command: RefundFunds, version: int, balance: int, refunded: int) -> FundsRefunded:
    return FundsRefunded(
        **said(command),
        **figures(version, balance),
        hold_id="h1",
        refund_id=command.refund_id,
        refunded_minor=refunded,
        movement=moved(command, SALES, ME, command.amount_minor, MovementReason.REFUND),
    )


def refused(command: AccountCommand, version: int, reason: AccountRefusal) -> AccountCommandRefused:
    """It names the order, the hold and the refund, so that the order's payment hears of it."""
    named = {name: getattr(command, name, None) for name in ("order_uid", "hold_id", "refund_id")}
    return AccountCommandRefused(**said(command), version=version, command=command.type, reason=reason, **named)


OPENED = AccountOpened(**said(OPEN), **figures(1, 0), user_id="user", currency="INR")
WITH_100: list[AccountEvent] = [OPENED, deposited(deposit(100), 2, 100)]
HELD_60: list[AccountEvent] = [*WITH_100, held(hold(60), 3, 100, 60)]
CAPTURED: list[AccountEvent] = [*HELD_60, captured(capture(40, "c0"), 4, 60, 40, 20)]
RELEASED: list[AccountEvent] = [*HELD_60, released(release("r0"), 4, 100, 60)]
REFUNDED: list[AccountEvent] = [*CAPTURED, refunded(refund(30, "f0"), 5, 90, 30)]
FULL: list[AccountEvent] = [OPENED, deposited(deposit(MAX_BALANCE_MINOR), 2, MAX_BALANCE_MINOR)]
EXPIRED = ReleaseReason.EXPIRED
R = AccountRefusal


def after(events: Sequence[AccountEvent]) -> tuple[Account | None, Hold | None]:
    return reduce(evolve, events, None), reduce(evolve_hold, events, None)


def answer(past: Sequence[AccountEvent], command: AccountCommand) -> list[AccountEvent]:
    account, found = after(past)
    answered = any(event.caused_by == command.command_id for event in past)
    made = {
        event.refund_id: HoldRefund(event.refund_id, event.hold_id, event.movement.amount_minor, AT)
        for event in past
        if isinstance(event, FundsRefunded)
    }
    refund = made.get(command.refund_id) if isinstance(command, RefundFunds) else None
    return list(decide(account, found, command, AT, partition=P, answered=answered, refund=refund))


@mark.parametrize(
    ("past", "command", "expected"),
    [
        param([], OPEN, [OPENED], id="opens"),
        param([OPENED], OPEN, [], id="the same command again"),
        param([OPENED], OPEN.model_copy(update={"command_id": "o2"}), [], id="open already: nothing new"),
        param([OPENED], deposit(100), [deposited(deposit(100), 2, 100)], id="deposits"),
        param(WITH_100, deposit(100), [], id="deposits once"),
        param(WITH_100, deposit(999), [], id="the same id again is the same command again"),
        param(WITH_100, deposit(1, "d2", currency="INR"), [deposited(deposit(1, "d2"), 3, 101)], id="in its currency"),
        param(WITH_100, withdraw(100), [withdrawn(withdraw(100), 3, 0)], id="withdraws all"),
        param(WITH_100, hold(100), [held(hold(100), 3, 100, 100)], id="holds all"),
        param(HELD_60, withdraw(40), [withdrawn(withdraw(40), 4, 60, 60)], id="withdraws what is not held"),
        param(HELD_60, hold(60, "h2"), [], id="the same hold in another command"),
        param(HELD_60, capture(), [captured(capture(), 4, 40, 60, 0)], id="captures all"),
        param(HELD_60, capture(60), [captured(capture(60), 4, 40, 60, 0)], id="captures all, by number"),
        param(HELD_60, capture(1), [captured(capture(1), 4, 99, 1, 59)], id="captures a part, frees the rest"),
        param(HELD_60, release(), [released(release(), 4, 100, 60)], id="releases"),
        param(HELD_60, release(reason=EXPIRED), [released(release(reason=EXPIRED), 4, 100, 60)], id="expires"),
        param(CAPTURED, hold(60, "h2"), [], id="a hold that was captured, again"),
        param(CAPTURED, refund(40), [refunded(refund(40), 5, 100, 40)], id="gives all back"),
        param(REFUNDED, refund(10, refund_id="r2"), [refunded(refund(10, refund_id="r2"), 6, 100, 40)], id="the rest"),
        param(REFUNDED, refund(30), [], id="the same refund in another command"),
        # refusals, in the order in which they are checked
        param([], deposit(1), [refused(deposit(1), 0, R.NO_SUCH_ACCOUNT)], id="deposit, no account"),
        param([], withdraw(-1), [refused(withdraw(-1), 0, R.NO_SUCH_ACCOUNT)], id="withdraw, no account"),
        param([], hold(1), [refused(hold(1), 0, R.NO_SUCH_ACCOUNT)], id="hold, no account"),
        param([], capture(), [refused(capture(), 0, R.NO_SUCH_ACCOUNT)], id="capture, no account"),
        param([], release(), [refused(release(), 0, R.NO_SUCH_ACCOUNT)], id="release, no account"),
        param(
            [OPENED],
            deposit(-1, expected_version=2),
            [refused(deposit(-1), 1, R.WRONG_VERSION)],
            id="for another version, and nothing",
        ),
        param(
            [OPENED],
            withdraw(-1, expected_version=1),
            [refused(withdraw(-1), 1, R.NOT_POSITIVE_AMOUNT)],
            id="for this version",
        ),
        param(
            [refused(deposit(1), 0, R.NO_SUCH_ACCOUNT), OPENED], deposit(1), [], id="refused once, whatever came since"
        ),
        param(WITH_100, deposit(0, "x"), [refused(deposit(0, "x"), 2, R.NOT_POSITIVE_AMOUNT)], id="deposit zero"),
        param(WITH_100, deposit(-5, "x"), [refused(deposit(-5, "x"), 2, R.NOT_POSITIVE_AMOUNT)], id="deposit less"),
        param(WITH_100, withdraw(0), [refused(withdraw(0), 2, R.NOT_POSITIVE_AMOUNT)], id="withdraw zero"),
        param(WITH_100, withdraw(-5), [refused(withdraw(-5), 2, R.NOT_POSITIVE_AMOUNT)], id="withdraw less"),
        param(WITH_100, hold(0), [refused(hold(0), 2, R.NOT_POSITIVE_AMOUNT)], id="hold zero"),
        param(HELD_60, capture(0), [refused(capture(0), 3, R.NOT_POSITIVE_AMOUNT)], id="capture zero"),
        param(
            [OPENED],
            deposit(MAX_AMOUNT_MINOR),
            [deposited(deposit(MAX_AMOUNT_MINOR), 2, MAX_AMOUNT_MINOR)],
            id="the most that one movement may be",
        ),
        param(
            [OPENED],
            deposit(MAX_AMOUNT_MINOR + 1),
            [refused(deposit(MAX_AMOUNT_MINOR + 1), 1, R.AMOUNT_ABOVE_LIMIT)],
            id="more than one movement may be",
        ),
        param(
            FULL,
            withdraw(MAX_AMOUNT_MINOR + 1),
            [refused(withdraw(MAX_AMOUNT_MINOR + 1), 2, R.AMOUNT_ABOVE_LIMIT)],
            id="withdraw more than one movement may be",
        ),
        param(
            WITH_100,
            deposit(1, "x", currency="EUR"),
            [refused(deposit(1, "x", currency="EUR"), 2, R.CURRENCY_MISMATCH)],
            id="deposit, other currency",
        ),
        param(
            WITH_100,
            withdraw(1, currency="EUR"),
            [refused(withdraw(1, currency="EUR"), 2, R.CURRENCY_MISMATCH)],
            id="withdraw, other currency",
        ),
        param(
            WITH_100,
            hold(1, currency="EUR"),
            [refused(hold(1, currency="EUR"), 2, R.CURRENCY_MISMATCH)],
            id="hold, other currency",
        ),
        param(
            HELD_60,
            capture(1, currency="EUR"),
            [refused(capture(1, currency="EUR"), 3, R.CURRENCY_MISMATCH)],
            id="capture, other currency",
        ),
        param(
            HELD_60,
            hold(59, "h2"),
            [refused(hold(59, "h2"), 3, R.HOLD_EXISTS_WITH_DIFFERENT_CONTENT)],
            id="the same hold with another amount",
        ),
        param(
            HELD_60,
            hold(60, "h2", expires_at_ms=1),
            [refused(hold(60, "h2", expires_at_ms=1), 3, R.HOLD_EXISTS_WITH_DIFFERENT_CONTENT)],
            id="the same hold with another expiry",
        ),
        param(WITH_100, capture(), [refused(capture(), 2, R.NO_SUCH_HOLD)], id="capture, no hold"),
        param(WITH_100, release(), [refused(release(), 2, R.NO_SUCH_HOLD)], id="release, no hold"),
        param(CAPTURED, capture(), [refused(capture(), 4, R.HOLD_ALREADY_SETTLED)], id="captured twice"),
        param(CAPTURED, release(), [refused(release(), 4, R.HOLD_ALREADY_SETTLED)], id="released after the capture"),
        param(RELEASED, capture(), [refused(capture(), 4, R.HOLD_ALREADY_SETTLED)], id="captured after the release"),
        param(HELD_60, capture(61), [refused(capture(61), 3, R.AMOUNT_ABOVE_HOLD)], id="captures more than is held"),
        param([], refund(1), [refused(refund(1), 0, R.NO_SUCH_ACCOUNT)], id="refund, no account"),
        param(CAPTURED, refund(0), [refused(refund(0), 4, R.NOT_POSITIVE_AMOUNT)], id="refund zero"),
        param(WITH_100, refund(1), [refused(refund(1), 2, R.NO_SUCH_HOLD)], id="refund, no hold"),
        param(HELD_60, refund(1), [refused(refund(1), 3, R.HOLD_NOT_CAPTURED)], id="refund of what is only held"),
        param(RELEASED, refund(1), [refused(refund(1), 4, R.HOLD_NOT_CAPTURED)], id="refund of what was let go"),
        param(
            REFUNDED,
            refund(29),
            [refused(refund(29), 5, R.REFUND_EXISTS_WITH_DIFFERENT_CONTENT)],
            id="the same refund with another amount",
        ),
        param(
            REFUNDED,
            refund(11, refund_id="r2"),
            [refused(refund(11, refund_id="r2"), 5, R.AMOUNT_ABOVE_CAPTURED)],
            id="gives back more than was captured",
        ),
        param(
            [*CAPTURED, deposited(deposit(MAX_BALANCE_MINOR - 60, "d9"), 5, MAX_BALANCE_MINOR)],
            refund(1),
            [refused(refund(1), 5, R.BALANCE_ABOVE_LIMIT)],
            id="a refund into an account that is full",
        ),
        param(WITH_100, withdraw(101), [refused(withdraw(101), 2, R.INSUFFICIENT_FUNDS)], id="withdraws too much"),
        param(WITH_100, hold(101), [refused(hold(101), 2, R.INSUFFICIENT_FUNDS)], id="holds too much"),
        param(HELD_60, withdraw(41), [refused(withdraw(41), 3, R.INSUFFICIENT_FUNDS)], id="withdraws what is held"),
        param(FULL, deposit(1, "x"), [refused(deposit(1, "x"), 2, R.BALANCE_ABOVE_LIMIT)], id="the account is full"),
    ],
)
def test_accounts(past: list[AccountEvent], command: AccountCommand, expected: list[AccountEvent]) -> None:
    assert answer(past, command) == expected
    for event in expected:
        assert read_event(event.model_dump_json().encode()) == event


def test_every_refusal_has_its_row() -> None:
    (table,) = test_accounts.pytestmark  # type: ignore[attr-defined]
    said = [event for row in table.args[1] for event in row.values[2]]
    seen = {event.reason for event in said if isinstance(event, AccountCommandRefused)}
    assert seen == set(AccountRefusal)


def test_an_account_after_its_events() -> None:
    account, found = after(CAPTURED)
    assert account == Account(ME, "user", "INR", 60, 0, 4, AT, AT)
    assert account.available_minor == 60
    assert found == Hold("h1", ME, 60, "INR", None, HoldState.CAPTURED, 40, AT, AT)
    assert Account.from_json(account.to_json()) == account and Hold.from_json(found.to_json()) == found
    _, found = after([*HELD_60, released(release(reason=EXPIRED), 4, 100, 60)])
    assert found is not None and (found.state, found.captured_minor) == (HoldState.EXPIRED, 0)
    account, _ = after(HELD_60)
    assert account is not None and account.available_minor == 40


def test_the_clearing_account_stands_against_it() -> None:
    into = deposited(deposit(100), 2, 100).movement
    out = withdrawn(withdraw(30), 3, 70).movement
    first = post(None, into, OUTSIDE, AT)
    assert first == Account(OUTSIDE, None, "INR", -100, 0, 1, AT, AT)
    assert post(first, out, OUTSIDE, AT)._replace(updated_at=AT) == first._replace(balance_minor=-70, version=2)


def test_an_expiry_is_the_same_command_whenever_it_is_scheduled() -> None:
    event = held(hold(60, expires_at_ms=5), 3, 100, 60)
    assert expiry_of(event) == expiry_of(event)
    assert (expiry_of(event).reason, expiry_of(event).hold_id) == (ReleaseReason.EXPIRED, "h1")


# -- the words ---------------------------------------------------------------------------------------------------------

READ: TypeAdapter[AccountCommand] = TypeAdapter(AccountCommand)


@mark.parametrize(
    "wrong",
    [
        {"type": "deposit", "command_id": "d", "account_id": "clearing:external:INR:0", "amount_minor": 1},
        {"type": "deposit", "command_id": "d", "account_id": ME, "amount_minor": 1.5},
        {"type": "deposit", "command_id": "d", "account_id": ME, "amount_minor": "1"},
        {"type": "deposit", "command_id": "d", "account_id": ME, "amount_minor": True},
        {"type": "deposit", "command_id": "d", "account_id": ME, "amount_minor": 2**63},
        {"type": "deposit", "command_id": "d", "account_id": ME, "amount_minor": 1, "currency": "XXX"},
        {"type": "deposit", "command_id": "a b", "account_id": ME, "amount_minor": 1},
        {"type": "open_account", "command_id": "o", "user_id": "user", "currency": "inr"},
        {"type": "open_account", "command_id": "o", "user_id": "a\0b", "currency": "INR"},
        {"type": "open_account", "command_id": "o", "user_id": "", "currency": "INR"},
        {"type": "hold_funds", "command_id": "h", "account_id": ME, "hold_id": "", "amount_minor": 1},
        {"type": "release_hold", "command_id": "h", "account_id": ME, "hold_id": "h", "reason": "because"},
        {"type": "mint", "command_id": "h", "account_id": ME},
    ],
)
def test_what_is_no_command(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(wrong)


def test_an_account_is_one_for_user_and_currency() -> None:
    ids = {account_id_of(user, currency) for user in ("a", "b", "ab") for currency in ("INR", "EUR")}
    assert len(ids) == 6
    assert OPEN.account_id == ME == account_id_of("user", "INR") == "8819638d-ea0f-5af0-8263-01f4a7e45634"


def test_content_is_all_but_the_id() -> None:
    assert content_of(deposit(1, "a")) == content_of(deposit(1, "b"))
    others: list[AccountCommand] = [
        deposit(1),
        deposit(2),
        withdraw(1),
        deposit(1, currency="INR"),
        hold(1),
        hold(1, expires_at_ms=1),
    ]
    assert len({content_of(each) for each in others}) == len(others)
