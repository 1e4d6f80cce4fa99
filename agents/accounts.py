"""accounts.commands.v1 -> decide -> accounts.events.v1; state in the tables of tables/accounts.py.

An account and the clearing accounts it moves money with have one writer: no interleaving can overdraw or move by half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

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
    clearing_id,
    movement_of,
)
from schemas.base import derived_id, event_id_for, rfc3339
from schemas.webhooks import about
from streams import App, Position, Record, Stream, Topic
from tables.accounts import GROUP, AccountTables


def decide(
    account: Account | None,
    hold: Hold | None,
    command: AccountCommand,
    occurred_at: str,
    *,
    partition: int,
    answered: bool = False,
    refund: HoldRefund | None = None,
) -> tuple[AccountEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say.

    `hold`, `refund`: those that the command names, if they are. `partition`: where the account is at home, and the
    clearing accounts that stand against it. `answered`: this command_id has had its event or its refusal already,
    however long ago: it moves nothing again.
    """
    if answered:
        return ()
    if isinstance(command, OpenAccount):
        return (_opened(command, occurred_at),) if account is None else ()
    reason = _objection(account, hold, command, refund)
    if reason is not None:
        return (_refused(account, command, occurred_at, reason),)
    assert account is not None, "a command without an account was refused"
    match command:
        case Deposit():
            movement = _movement(command, account, partition, MovementReason.DEPOSIT, command.amount_minor)
            return (FundsDeposited(**_changed(account, command, occurred_at, command.amount_minor), movement=movement),)
        case Withdraw():
            movement = _movement(command, account, partition, MovementReason.WITHDRAWAL, command.amount_minor)
            return (
                FundsWithdrawn(**_changed(account, command, occurred_at, -command.amount_minor), movement=movement),
            )
        case HoldFunds():
            return () if hold else (_held(account, command, occurred_at),)
        case CaptureHold():
            assert hold is not None, "a capture without a hold was refused"
            return (_captured(account, hold, command, occurred_at, partition),)
        case ReleaseHold():
            assert hold is not None, "a release without a hold was refused"
            return (_released(account, hold, command, occurred_at),)
        case RefundFunds():
            assert hold is not None, "a refund without a hold was refused"
            return () if refund else (_refunded(account, hold, command, occurred_at, partition),)
    assert_never(command)


def _objection(
    account: Account | None,
    hold: Hold | None,
    command: Deposit | Withdraw | HoldFunds | CaptureHold | ReleaseHold | RefundFunds,
    refund: HoldRefund | None,
) -> AccountRefusal | None:
    """Why the command changes nothing; the first reason in the order of AccountRefusal."""
    if account is None:
        return AccountRefusal.NO_SUCH_ACCOUNT
    if command.is_outdated(account.version):
        return AccountRefusal.WRONG_VERSION
    amount = None if isinstance(command, ReleaseHold) else command.amount_minor
    if amount is not None and amount <= 0:
        return AccountRefusal.NOT_POSITIVE_AMOUNT
    if amount is not None and amount > MAX_AMOUNT_MINOR:
        return AccountRefusal.AMOUNT_ABOVE_LIMIT
    if not isinstance(command, ReleaseHold) and command.currency not in (None, account.currency):
        return AccountRefusal.CURRENCY_MISMATCH
    match command:
        case Deposit():
            if account.balance_minor + command.amount_minor > MAX_BALANCE_MINOR:
                return AccountRefusal.BALANCE_ABOVE_LIMIT
        case HoldFunds() if hold is not None:
            if (hold.amount_minor, hold.expires_at_ms) != (command.amount_minor, command.expires_at_ms):
                return AccountRefusal.HOLD_EXISTS_WITH_DIFFERENT_CONTENT
        case Withdraw() | HoldFunds():
            if command.amount_minor > account.available_minor:
                return AccountRefusal.INSUFFICIENT_FUNDS
        case CaptureHold() | ReleaseHold():
            return _objection_to_settling(hold, amount)
        case RefundFunds():
            return _objection_to_refund(account, hold, refund, command.amount_minor)
        case _:
            assert_never(command)
    return None


def _objection_to_settling(hold: Hold | None, amount_minor: int | None) -> AccountRefusal | None:
    if hold is None:
        return AccountRefusal.NO_SUCH_HOLD
    if hold.state is not HoldState.HELD:
        return AccountRefusal.HOLD_ALREADY_SETTLED
    if amount_minor is not None and amount_minor > hold.amount_minor:
        return AccountRefusal.AMOUNT_ABOVE_HOLD
    return None


def _objection_to_refund(
    account: Account, hold: Hold | None, refund: HoldRefund | None, amount_minor: int
) -> AccountRefusal | None:
    if hold is None:
        return AccountRefusal.NO_SUCH_HOLD
    if hold.state is not HoldState.CAPTURED:
        return AccountRefusal.HOLD_NOT_CAPTURED
    if refund is not None:
        same = refund.amount_minor == amount_minor
        return None if same else AccountRefusal.REFUND_EXISTS_WITH_DIFFERENT_CONTENT
    if hold.refunded_minor + amount_minor > hold.captured_minor:
        return AccountRefusal.AMOUNT_ABOVE_CAPTURED
    if account.balance_minor + amount_minor > MAX_BALANCE_MINOR:
        return AccountRefusal.BALANCE_ABOVE_LIMIT
    return None


def evolve(account: Account | None, event: AccountEvent) -> Account | None:
    """The account after the event. Versions grow by one with each event that is no refusal."""
    match event:
        case AccountOpened():
            return Account(
                account_id=event.account_id,
                user_id=event.user_id,
                currency=event.currency,
                balance_minor=0,
                held_minor=0,
                version=event.version,
                opened_at=event.occurred_at,
                updated_at=event.occurred_at,
            )
        case FundsDeposited() | FundsWithdrawn() | FundsHeld() | HoldCaptured() | HoldReleased() | FundsRefunded():
            assert account is not None, "decide moves only what exists"
            return account._replace(
                balance_minor=event.balance_minor,
                held_minor=event.held_minor,
                version=event.version,
                updated_at=event.occurred_at,
            )
        case AccountCommandRefused():
            return account
    assert_never(event)


def evolve_hold(hold: Hold | None, event: AccountEvent) -> Hold | None:
    """The hold after the event, which may be about none."""
    match event:
        case FundsHeld():
            return Hold(
                hold_id=event.hold_id,
                account_id=event.account_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
                expires_at_ms=event.expires_at_ms,
                state=HoldState.HELD,
                captured_minor=0,
                held_at=event.occurred_at,
                settled_at=None,
                order_uid=event.order_uid,
            )
        case HoldCaptured():
            assert hold is not None, "decide captures only what is held"
            captured = event.movement.amount_minor
            return hold._replace(state=HoldState.CAPTURED, captured_minor=captured, settled_at=event.occurred_at)
        case HoldReleased():
            assert hold is not None, "decide releases only what is held"
            return hold._replace(state=HoldState(event.reason), settled_at=event.occurred_at)
        case FundsRefunded():
            assert hold is not None, "decide refunds only what was captured"
            return hold._replace(refunded_minor=event.refunded_minor)
        case AccountOpened() | FundsDeposited() | FundsWithdrawn() | AccountCommandRefused():
            return hold
    assert_never(event)


def post(clearing: Account | None, movement: Movement, account_id: str, occurred_at: str) -> Account:
    """The clearing account on the other side of a movement, after it; it comes to be with its first one."""
    opened = occurred_at
    before = clearing or Account(account_id, None, movement.currency, 0, 0, 0, opened, opened)
    amount = movement.amount_minor if movement.credit == account_id else -movement.amount_minor
    return before._replace(
        balance_minor=before.balance_minor + amount, version=before.version + 1, updated_at=occurred_at
    )


def expiry_of(event: FundsHeld) -> ReleaseHold:
    """What the deadline of a hold sends. Its id follows from the event, so that a re-run schedules the same bytes.

    It names no order: of a release the hold says whose it was, and that it came too late is nobody's news.
    """
    return ReleaseHold(
        command_id=derived_id(f"expire {event.event_id}"),
        account_id=event.account_id,
        hold_id=event.hold_id,
        reason=ReleaseReason.EXPIRED,
    )


def _said(command: AccountCommand, occurred_at: str) -> dict[str, Any]:
    return {
        "event_id": event_id_for(command.command_id, 0),
        "caused_by": command.command_id,
        "occurred_at": occurred_at,
        "account_id": command.account_id,
    }


def _changed(account: Account, command: AccountCommand, at: str, balance: int = 0, held: int = 0) -> dict[str, Any]:
    """What every change says; `balance` and `held` are by how much they grow."""
    return {
        **_said(command, at),
        "version": account.version + 1,
        "balance_minor": account.balance_minor + balance,
        "held_minor": account.held_minor + held,
    }


def _movement(
    command: AccountCommand, account: Account, partition: int, reason: MovementReason, amount_minor: int
) -> Movement:
    sale = reason in (MovementReason.CAPTURE, MovementReason.REFUND)
    side = clearing_id("sales" if sale else "external", account.currency, partition)
    inwards = reason in (MovementReason.DEPOSIT, MovementReason.REFUND)
    debit, credit = (side, account.account_id) if inwards else (account.account_id, side)
    return Movement(
        movement_id=derived_id(f"movement {event_id_for(command.command_id, 0)}"),
        debit=debit,
        credit=credit,
        amount_minor=amount_minor,
        currency=account.currency,
        reason=reason,
    )


def _opened(command: OpenAccount, occurred_at: str) -> AccountOpened:
    return AccountOpened(
        **_said(command, occurred_at),
        version=1,
        balance_minor=0,
        held_minor=0,
        user_id=command.user_id,
        currency=command.currency,
    )


def _held(account: Account, command: HoldFunds, occurred_at: str) -> FundsHeld:
    return FundsHeld(
        **_changed(account, command, occurred_at, held=command.amount_minor),
        hold_id=command.hold_id,
        amount_minor=command.amount_minor,
        currency=account.currency,
        expires_at_ms=command.expires_at_ms,
        order_uid=command.order_uid,
    )


def _captured(account: Account, hold: Hold, command: CaptureHold, occurred_at: str, partition: int) -> HoldCaptured:
    amount = hold.amount_minor if command.amount_minor is None else command.amount_minor
    return HoldCaptured(
        **_changed(account, command, occurred_at, -amount, -hold.amount_minor),
        hold_id=hold.hold_id,
        released_minor=hold.amount_minor - amount,
        movement=_movement(command, account, partition, MovementReason.CAPTURE, amount),
        order_uid=hold.order_uid,
    )


def _released(account: Account, hold: Hold, command: ReleaseHold, occurred_at: str) -> HoldReleased:
    return HoldReleased(
        **_changed(account, command, occurred_at, held=-hold.amount_minor),
        hold_id=hold.hold_id,
        amount_minor=hold.amount_minor,
        currency=hold.currency,
        reason=command.reason,
        order_uid=hold.order_uid,
    )


def _refunded(account: Account, hold: Hold, command: RefundFunds, occurred_at: str, partition: int) -> FundsRefunded:
    return FundsRefunded(
        **_changed(account, command, occurred_at, command.amount_minor),
        hold_id=hold.hold_id,
        refund_id=command.refund_id,
        refunded_minor=hold.refunded_minor + command.amount_minor,
        movement=_movement(command, account, partition, MovementReason.REFUND, command.amount_minor),
        order_uid=hold.order_uid,
    )


def _refused(
    account: Account | None, command: AccountCommand, occurred_at: str, reason: AccountRefusal
) -> AccountCommandRefused:
    about = command if isinstance(command, Holding) else None
    return AccountCommandRefused(
        **_said(command, occurred_at),
        version=account.version if account else 0,
        command=command.type,
        reason=reason,
        order_uid=about.order_uid if about else None,
        hold_id=about.hold_id if about else None,
        refund_id=command.refund_id if isinstance(command, RefundFunds) else None,
    )


def attach(
    app: App, *, commands: Topic, events: Topic, tables: AccountTables, tell: Callable[[AccountEvent], None]
) -> None:
    """Wire the rules to their topics. A hold that expires is released by a record, which its deadline sends.

    `tell` hands each event to the domains that wait for it.
    """
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    def settle_deadline(event: AccountEvent) -> None:
        if isinstance(event, FundsHeld) and event.expires_at_ms is not None:
            id = f"{event.account_id}\0{event.hold_id}"
            deadlines.schedule(event.expires_at_ms, commands, key=event.account_id, value=expiry_of(event), id=id)
        elif isinstance(event, HoldCaptured | HoldReleased):
            deadlines.cancel(f"{event.account_id}\0{event.hold_id}")

    def keep(account: Account, event: AccountEvent, movement: Movement) -> None:
        """Both legs, in the one transaction of this partition."""
        side = movement.debit if movement.credit == account.account_id else movement.credit
        before = tables.account(side)
        clearing = post(before, movement, side, event.occurred_at)
        tables.keep_movement(account, before, clearing, movement, event)

    def carry_out(command: AccountCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the account's home; else bring the command home, once."""
        key = command.account_id
        if commands.take_home(cause, key=key, value=command):
            return
        account = tables.account(key)
        hold = tables.hold(key, command.hold_id) if isinstance(command, Holding) else None
        refund = tables.refund(key, command.hold_id, command.refund_id) if isinstance(command, RefundFunds) else None
        answered = tables.answer(key, command.command_id) is not None
        at = rfc3339(cause.timestamp)
        for event in decide(account, hold, command, at, partition=cause.partition, answered=answered, refund=refund):
            before, account = account, evolve(account, event)
            tables.keep(before, account, event, command, Position(cause.topic, cause.partition, cause.offset))
            if isinstance(event, FundsHeld | HoldCaptured | HoldReleased | FundsRefunded):
                hold = evolve_hold(hold, event)
                assert hold is not None, "such an event leaves a hold"
                tables.keep_hold(hold)
                settle_deadline(event)
            if isinstance(event, FundsRefunded):
                tables.keep_refund(event)
            if (movement := movement_of(event)) is not None:
                assert account is not None, "money moves in accounts that exist"
                keep(account, event, movement)
            events.put(
                key=key, value=event, partition=cause.partition, headers=about(account.user_id if account else None)
            )
            tell(event)

    @app.agent(commands, name="accounts.commands")
    async def obey(stream: Stream[AccountCommand]) -> None:
        """Open accounts, move and hold money."""
        async for command in stream:
            carry_out(command, stream.event)


#: Commands that name a hold.
Holding = HoldFunds | CaptureHold | ReleaseHold | RefundFunds
