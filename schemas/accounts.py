"""Accounts and the ledger: commands, events, refusals, states. Partition key: account_id. Money: integer minor units.

Balances are what the platform owes: credits less debits. A deposit debits the clearing account of the outside world and
credits the account; so all balances of a currency add up to zero in every partition, always.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self

import orjson
from pydantic import AfterValidator, Field, TypeAdapter

from schemas.base import MAX_TIME_MS, MAX_WHOLE, Command, Event, Model, OrderUid, derived_id, one_of
from schemas.currencies import MINOR_DIGITS

#: The largest amount of one movement, and of one balance: what every reader of JSON numbers holds exactly (RFC 7493).
MAX_AMOUNT_MINOR = 10**13
MAX_BALANCE_MINOR = MAX_WHOLE

ACCOUNT_ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"


def _in_use(code: str) -> str:
    if code not in MINOR_DIGITS:
        raise ValueError("is no ISO 4217 currency in use")
    return code


AccountId = Annotated[
    str,
    Field(
        pattern=ACCOUNT_ID_PATTERN,
        description="Follows from user and currency, so that opening again names the same account; the partition key.",
        examples=["6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d"],
    ),
]
UserId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Whose account it is; the key of the index by user.",
        examples=["test"],
    ),
]
Currency = Annotated[
    str, AfterValidator(_in_use), Field(pattern=r"^[A-Z]{3}$", description="ISO 4217.", examples=["INR"])
]
HoldId = Annotated[
    str, Field(pattern=r"^[!-~]{1,64}$", description="Names the hold within its account; the caller chooses it.")
]
# Any number that every reader holds is understood, so that the rule can refuse it with a reason.
AmountMinor = Annotated[
    int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE, description="In minor units (paise, cents) of the account's currency.")
]
RefundId = Annotated[
    str, Field(pattern=r"^[!-~]{1,64}$", description="Names the refund within its hold; the caller chooses it.")
]
ForOrder = Annotated[
    OrderUid | None, Field(description="The order whose payment hears what becomes of it; null: nobody's.")
]
Expected = Annotated[Currency | None, Field(description="When given, it must be the account's currency.")]


def account_id_of(user_id: str, currency: str) -> str:
    """The one account that a user has in a currency."""
    return derived_id(f"account\0{user_id}\0{currency}")


def clearing_id(side: Literal["external", "sales"], currency: str, partition: int) -> str:
    """The other side of movements: one account per partition, so that both legs of each have the same writer."""
    return f"clearing:{side}:{currency}:{partition}"


# --- commands ---------------------------------------------------------------------------------------------------------


class OpenAccount(Command):
    """Open the user's account in a currency. Its key on the topic is the account_id that follows from both."""

    type: Literal["open_account"] = "open_account"
    user_id: UserId
    currency: Currency

    @property
    def account_id(self) -> str:
        return account_id_of(self.user_id, self.currency)


class Deposit(Command):
    """Put money into an account, from outside."""

    type: Literal["deposit"] = "deposit"
    account_id: AccountId
    amount_minor: AmountMinor
    currency: Expected = None


class Withdraw(Command):
    """Pay money out of an account, to the outside."""

    type: Literal["withdraw"] = "withdraw"
    account_id: AccountId
    amount_minor: AmountMinor
    currency: Expected = None


class HoldFunds(Command):
    """Set money aside, so that nothing but the capture of this hold can spend it."""

    type: Literal["hold_funds"] = "hold_funds"
    account_id: AccountId
    hold_id: HoldId
    amount_minor: AmountMinor
    currency: Expected = None
    expires_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = Field(
        None, description="Unix time in milliseconds at which what was not captured is released; null: never."
    )
    order_uid: ForOrder = None


class CaptureHold(Command):
    """Spend held money, or a part of it; the rest is released. A hold is captured once."""

    type: Literal["capture_hold"] = "capture_hold"
    account_id: AccountId
    hold_id: HoldId
    amount_minor: AmountMinor | None = Field(None, description="In minor units; null: all that is held.")
    currency: Expected = None
    order_uid: ForOrder = None


class ReleaseReason(StrEnum):
    """Why held money is free again."""

    RELEASED = "released"
    EXPIRED = "expired"


class ReleaseHold(Command):
    """Free held money. The deadline of a hold sends this too, with the reason `expired`."""

    type: Literal["release_hold"] = "release_hold"
    account_id: AccountId
    hold_id: HoldId
    reason: ReleaseReason = ReleaseReason.RELEASED
    order_uid: ForOrder = None


class RefundFunds(Command):
    """Give back what a hold was captured with, or a part of it. The same refund again moves nothing."""

    type: Literal["refund_funds"] = "refund_funds"
    account_id: AccountId
    hold_id: HoldId
    refund_id: RefundId
    amount_minor: AmountMinor
    currency: Expected = None
    order_uid: ForOrder = None


AccountCommand = Annotated[
    OpenAccount | Deposit | Withdraw | HoldFunds | CaptureHold | ReleaseHold | RefundFunds, Field(discriminator="type")
]
CommandType = Literal[
    "open_account", "deposit", "withdraw", "hold_funds", "capture_hold", "release_hold", "refund_funds"
]


# --- events -----------------------------------------------------------------------------------------------------------


class AccountRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    NO_SUCH_ACCOUNT = "no_such_account"
    WRONG_VERSION = "wrong_version"
    NOT_POSITIVE_AMOUNT = "not_positive_amount"
    AMOUNT_ABOVE_LIMIT = "amount_above_limit"
    CURRENCY_MISMATCH = "currency_mismatch"
    HOLD_EXISTS_WITH_DIFFERENT_CONTENT = "hold_exists_with_different_content"
    NO_SUCH_HOLD = "no_such_hold"
    HOLD_ALREADY_SETTLED = "hold_already_settled"
    AMOUNT_ABOVE_HOLD = "amount_above_hold"
    HOLD_NOT_CAPTURED = "hold_not_captured"
    REFUND_EXISTS_WITH_DIFFERENT_CONTENT = "refund_exists_with_different_content"
    AMOUNT_ABOVE_CAPTURED = "amount_above_captured"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BALANCE_ABOVE_LIMIT = "balance_above_limit"


class MovementReason(StrEnum):
    """What money moved for."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    CAPTURE = "capture"
    REFUND = "refund"


class Movement(Model):
    """Money from one account to another: one fact with both legs, so that it cannot happen by half."""

    movement_id: str = Field(description="uuid5 of the event's id.")
    debit: str = Field(description="The account whose balance falls by the amount.")
    credit: str = Field(description="The account whose balance grows by the amount.")
    amount_minor: int = Field(ge=1)
    currency: str
    reason: MovementReason


class _AccountEvent(Event):
    account_id: AccountId


class _AccountChanged(_AccountEvent):
    """An account after the event. The ledger's check takes none of these figures on trust: it adds the movements up."""

    version: int = Field(ge=1, description="Of the account after this event: one more than before.")
    balance_minor: int = Field(ge=0, description="After this event.")
    held_minor: int = Field(ge=0, description="After this event: the part of the balance that holds have set aside.")


class AccountOpened(_AccountChanged):
    """The account exists from here on, with nothing in it."""

    type: Literal["account_opened"] = "account_opened"
    user_id: UserId
    currency: str


class FundsDeposited(_AccountChanged):
    """Money came in from outside."""

    type: Literal["funds_deposited"] = "funds_deposited"
    movement: Movement


class FundsWithdrawn(_AccountChanged):
    """Money went out."""

    type: Literal["funds_withdrawn"] = "funds_withdrawn"
    movement: Movement


class FundsHeld(_AccountChanged):
    """Money is set aside."""

    type: Literal["funds_held"] = "funds_held"
    hold_id: HoldId
    amount_minor: int = Field(ge=1)
    currency: str
    expires_at_ms: int | None
    order_uid: ForOrder = None


class HoldCaptured(_AccountChanged):
    """Held money was spent, wholly or in part, and the rest of it is free again."""

    type: Literal["hold_captured"] = "hold_captured"
    hold_id: HoldId
    released_minor: int = Field(ge=0, description="The part of the hold that was not captured.")
    movement: Movement
    order_uid: ForOrder = None


class HoldReleased(_AccountChanged):
    """Held money is free again."""

    type: Literal["hold_released"] = "hold_released"
    hold_id: HoldId
    amount_minor: int = Field(ge=1)
    currency: str
    reason: ReleaseReason
    order_uid: ForOrder = None


class FundsRefunded(_AccountChanged):
    """Captured money came back."""

    type: Literal["funds_refunded"] = "funds_refunded"
    hold_id: HoldId
    refund_id: RefundId
    refunded_minor: int = Field(ge=1, description="Of the hold in all, after this event.")
    movement: Movement
    order_uid: ForOrder = None


class AccountCommandRefused(_AccountEvent):
    """A command changed nothing."""

    type: Literal["account_command_refused"] = "account_command_refused"
    version: int = Field(ge=0, description="Of the account, which a refusal does not change; 0 when there is none.")
    command: CommandType
    reason: AccountRefusal
    order_uid: ForOrder = None
    hold_id: HoldId | None = None
    refund_id: RefundId | None = None


AccountChanged = (
    AccountOpened | FundsDeposited | FundsWithdrawn | FundsHeld | HoldCaptured | HoldReleased | FundsRefunded
)
AccountEvent = AccountChanged | AccountCommandRefused

_events: TypeAdapter[AccountEvent] = one_of(AccountEvent)


def read_event(raw: bytes) -> AccountEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


def movement_of(event: AccountEvent) -> Movement | None:
    """The movement that an event reports, if money moved."""
    return event.movement if isinstance(event, FundsDeposited | FundsWithdrawn | HoldCaptured | FundsRefunded) else None


# --- states -----------------------------------------------------------------------------------------------------------


class Account(NamedTuple):
    """An account as it stands: the value of the table `accounts`. A clearing account belongs to nobody."""

    account_id: str
    user_id: str | None
    currency: str
    balance_minor: int
    held_minor: int
    version: int
    opened_at: str
    updated_at: str

    @property
    def available_minor(self) -> int:
        """What can be withdrawn or held."""
        return self.balance_minor - self.held_minor

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))


class HoldState(StrEnum):
    """Where a hold stands. All but the first are final."""

    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


class Hold(NamedTuple):
    """A hold as it stands: the value of the table `account_holds`."""

    hold_id: str
    account_id: str
    amount_minor: int
    currency: str
    expires_at_ms: int | None
    state: HoldState
    captured_minor: int
    held_at: str
    settled_at: str | None
    order_uid: str | None = None
    refunded_minor: int = 0

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "state": HoldState(row["state"])})


class HoldRefund(NamedTuple):
    """Money of a hold that was given back: the value of the table `account_refunds`."""

    refund_id: str
    hold_id: str
    amount_minor: int
    refunded_at: str

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))


class LedgerEntry(NamedTuple):
    """One leg of a movement, in the account's statement: the value of `account_entries`. A debit is negative."""

    account_id: str
    version: int
    movement_id: str
    other_account_id: str
    amount_minor: int
    balance_minor: int
    reason: MovementReason
    occurred_at: str
    caused_by: str

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "reason": MovementReason(row["reason"])})


class CommandAnswer(NamedTuple):
    """What became of a command, and the record that it came in: the value of `account_commands`.

    It is kept for ever: a command that comes again, however late, gets this and moves nothing.
    """

    content: str
    type: str
    reason: AccountRefusal | None
    version: int
    balance_minor: int
    held_minor: int
    occurred_at: str
    topic: str
    partition: int
    offset: int

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "reason": AccountRefusal(row["reason"]) if row["reason"] else None})


class AccountVersion(NamedTuple):
    """An account's figures as one of its versions had them, and the record that made it: of `account_versions`.

    `latest_at`: the latest `occurred_at` of this version and of those before.
    """

    balance_minor: int
    held_minor: int
    occurred_at: str
    latest_at: str
    topic: str
    partition: int
    offset: int


class LedgerTotals(NamedTuple):
    """The sums of one currency in one partition: the value of `ledger_totals`. Each leg is counted on its own."""

    accounts: int
    balance_minor: int
    held_minor: int
    clearing_minor: int

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))
