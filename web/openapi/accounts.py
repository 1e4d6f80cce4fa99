"""what the addresses of accounts take and answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.accounts import AccountId, AmountMinor, Currency, Expected, MovementReason, UserId
from schemas.base import rfc3339
from schemas.requests import REQUEST_KEY_PATTERN
from web import problems
from web.openapi.models import Cursor, PositionText, Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, WRITES, Operation, Success

Key = Field(
    None,
    pattern=REQUEST_KEY_PATTERN,
    description="Names this write within its account, for ever: sent again, it gets the first answer and moves nothing;"
    " with another content 422. 1 to 255 printable ASCII characters.",
    examples=["rent-2026-11"],
)


class OpeningBody(Shape):
    """Whose account, in which currency."""

    user_id: UserId
    currency: Currency
    idempotency_key: str | None = Key


class AmountBody(Shape):
    """How much is moved."""

    amount_minor: AmountMinor = Field(examples=[5000])
    currency: Expected = None
    idempotency_key: str | None = Key


class AccountView(Shape):
    """An account as it stands. Amounts are in minor units of its currency."""

    account_id: AccountId
    user_id: UserId
    currency: Currency
    balance_minor: int = Field(ge=0, examples=[5000])
    held_minor: int = Field(ge=0, description="The part of the balance that holds have set aside.", examples=[0])
    available_minor: int = Field(ge=0, description="The balance less what is held.", examples=[5000])
    version: int = Field(ge=1, description="Grows by one with each change; the ETag.", examples=[2])
    opened_at: Rfc3339
    updated_at: Rfc3339


class AccountOutcome(AccountView):
    """What a write came to: the account right after it, and where the record that did it stands."""

    position: PositionText


class MovementOutcome(AccountOutcome):
    """The account right after money moved."""

    amount_minor: int = Field(ge=1, examples=[5000])


class AccountList(Shape):
    """A user's accounts, by currency."""

    accounts: list[AccountView]


class EntryView(Shape):
    """One line of a statement: the account's leg of a movement."""

    version: int = Field(ge=1, description="Of the account after it. Holds take versions too.", examples=[2])
    movement_id: str = Field(examples=["0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"])
    other_account_id: str = Field(description="The other leg's account.", examples=["clearing:external:INR:3"])
    amount_minor: int = Field(description="Negative: it left the account.", examples=[5000])
    balance_minor: int = Field(ge=0, description="After it.", examples=[5000])
    reason: MovementReason
    occurred_at: Rfc3339
    caused_by: str = Field(description="Id of the command.", examples=["6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d"])


class Statement(Shape):
    """Every movement of an account with its running balance, oldest first."""

    account_id: AccountId
    currency: Currency
    entries: list[EntryView]
    next_cursor: Cursor


class AcceptedMovement(Shape):
    """The command is written down and will be applied; its outcome was not known in time."""

    account_id: AccountId
    position: PositionText
    command_id: str = Field(description="`caused_by` of the event or refusal that will follow.")
    outcome: str = Field(description="Address that answers once the command is applied.")


class TrialBalanceLine(Shape):
    """One currency. Accounts and their clearing accounts add up to zero."""

    currency: Currency
    accounts: int = Field(ge=0, description="How many accounts are open.")
    accounts_minor: int = Field(ge=0, description="What all users have together.")
    held_minor: int = Field(ge=0, description="The part of it that holds have set aside.")
    clearing_minor: int = Field(description="The clearing accounts together.")
    difference_minor: int = Field(description="The sum of both; anything but 0 is a defect.")


class TrialBalance(Shape):
    """The ledger's sums by currency."""

    currencies: list[TrialBalanceLine]


MODELS = (
    OpeningBody,
    AmountBody,
    AccountView,
    AccountOutcome,
    MovementOutcome,
    AccountList,
    Statement,
    AcceptedMovement,
    TrialBalance,
)

_WRITTEN = ("Location", "ETag", "Orderstream-Position", "Idempotency-Replayed")
_LATER = Success(
    "Written down, and not known to be applied when the wait ran out. It will be: ask `outcome`, or send the same"
    " request with the same key again.",
    AcceptedMovement,
    headers=("Location", "Orderstream-Position", "Retry-After"),
)
_REFUSALS = (
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.NO_SUCH_ACCOUNT,
    problems.ACCOUNT_REFUSED,
    problems.AMOUNT_REFUSED,
    problems.INVALID_DOCUMENT,
    *WRITES,
)
_MOVED = {201: Success("Moved: the account right after it.", MovementOutcome, headers=_WRITTEN), 202: _LATER}

OPERATIONS = (
    Operation(
        "openAccount",
        "accounts",
        "Open an account",
        "A user has one account in each currency, whose id follows from both: opening it again answers with the same.",
        {
            200: Success(
                "It was open already: as it stands.",
                AccountOutcome,
                headers=("ETag", "Orderstream-Position", "Idempotency-Replayed"),
            ),
            201: Success("Opened.", AccountOutcome, headers=_WRITTEN),
            202: _LATER,
        },
        (problems.UNSUPPORTED_MEDIA_TYPE, problems.INVALID_DOCUMENT, *WRITES),
        ("Idempotency-Key",),
        OpeningBody,
    ),
    Operation(
        "listAccounts",
        "accounts",
        "A user's accounts",
        "Complete across all partitions and workers, or 503. No pages: there is one account for each currency at most.",
        {200: Success("The accounts; an unknown user has none.", AccountList)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("user_id", "list_as_of"),
    ),
    Operation(
        "getAccount",
        "accounts",
        "Look an account up",
        "Any worker answers for any account. With `min_offset` the read waits until that record is part of the state.",
        {
            200: Success("The account.", AccountView, headers=("ETag",)),
            304: Success("Still the version that If-None-Match names.", headers=("ETag",)),
        },
        (problems.BAD_PARAMETER, problems.NO_SUCH_ACCOUNT, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("account_id", "min_offset", "as_of", "If-None-Match"),
    ),
    Operation(
        "getEntries",
        "accounts",
        "An account's statement",
        "Every movement with the running balance, oldest first.",
        {200: Success("A page of the statement.", Statement)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_ACCOUNT, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("account_id", "min_offset", "as_of", "timeline_limit", "cursor"),
    ),
    Operation(
        "deposit",
        "accounts",
        "Put money into an account",
        "An amount of zero or less is refused and changes nothing. With `idempotency_key` it is made once, however"
        " often and late it is sent.",
        _MOVED,
        _REFUSALS,
        ("account_id", "If-Match", "Idempotency-Key"),
        AmountBody,
    ),
    Operation(
        "withdraw",
        "accounts",
        "Pay money out of an account",
        "Refused when it is more than is available: an account is never overdrawn.",
        _MOVED,
        _REFUSALS,
        ("account_id", "If-Match", "Idempotency-Key"),
        AmountBody,
    ),
    Operation(
        "trialBalance",
        "accounts",
        "The ledger's trial balance",
        "Sums of all accounts and of all clearing accounts by currency; their difference is 0 at any moment. Complete"
        " across all partitions, or 503.",
        {200: Success("One line for each currency.", TrialBalance)},
        EVERYWHERE,
    ),
)

_ID, _AT = "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d", rfc3339(1_795_262_400_000)
_POSITION = "accounts.commands.v1-3-77"
_ACCOUNT = {
    "account_id": _ID,
    "user_id": "test",
    "currency": "INR",
    "balance_minor": 5000,
    "held_minor": 0,
    "available_minor": 5000,
    "version": 2,
    "opened_at": _AT,
    "updated_at": _AT,
}
_COMMAND = "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"
EXAMPLES: dict[str, Any] = {
    "OpeningBody": {"user_id": "test", "currency": "INR"},
    "AmountBody": {"amount_minor": 5000, "idempotency_key": "rent-2026-11"},
    "AccountView": _ACCOUNT,
    "AccountOutcome": {**_ACCOUNT, "position": _POSITION},
    "MovementOutcome": {**_ACCOUNT, "amount_minor": 5000, "position": _POSITION},
    "AccountList": {"accounts": [_ACCOUNT]},
    "Statement": {
        "account_id": _ID,
        "currency": "INR",
        "entries": [
            {
                "version": 2,
                "movement_id": "5d7c9c0c-6c0f-5d1f-8f0b-0b1c2d3e4f50",
                "other_account_id": "clearing:external:INR:3",
                "amount_minor": 5000,
                "balance_minor": 5000,
                "reason": "deposit",
                "occurred_at": _AT,
                "caused_by": _COMMAND,
            }
        ],
        "next_cursor": None,
    },
    "AcceptedMovement": {
        "account_id": _ID,
        "position": _POSITION,
        "command_id": _COMMAND,
        "outcome": f"/api/v1/accounts/{_ID}?min_offset={_POSITION}",
    },
    "TrialBalance": {
        "currencies": [
            {
                "currency": "INR",
                "accounts": 1,
                "accounts_minor": 5000,
                "held_minor": 0,
                "clearing_minor": -5000,
                "difference_minor": 0,
            }
        ]
    },
}
DETAILS = {
    "no-such-account": f"There is no account {_ID}.",
    "account-refused": "More than is available in the account.",
    "amount-refused": "The amount must be above zero.",
}
MEMBERS = {
    "account-refused": {"reason": "insufficient_funds", "balance_minor": 5000, "position": _POSITION},
    "amount-refused": {"reason": "not_positive_amount", "balance_minor": 5000, "position": _POSITION},
}
