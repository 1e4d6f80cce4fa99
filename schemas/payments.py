"""Payments: commands, events, refusals, states. Partition key: order_uid, one payment an order. Money: minor units.

A payment asks (…Requested) and hears the answer by a Record… command, whoever gave it: an account, the provider, its
callback. Each status says what the next answer may be; money that comes too late goes back.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self

import orjson
from pydantic import Field, TypeAdapter

from schemas.accounts import AmountMinor, Currency, UserId
from schemas.base import MAX_TIME_MS, Command, Event, OrderUid, one_of
from schemas.reversals import Reversal, ReversalId, ReversalKind, ReversalOutcome

REFUND_ID = re.compile(r"^[!-~]{1,64}$")
RefundId = Annotated[
    str, Field(pattern=REFUND_ID.pattern, description="Names the refund within its payment; the caller chooses it.")
]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Why, in a word of the one who asks.")]
Line = Annotated[int, Field(ge=1, description="The line of the order that it is for, counted from 1.")] | None
Text = Annotated[str, Field(max_length=256)] | None


class PaymentMethod(StrEnum):
    """How an order is paid."""

    ACCOUNT = "account"
    PROVIDER = "provider"
    PREPAID = "prepaid"
    CASH_ON_DELIVERY = "cash_on_delivery"


class Source(StrEnum):
    """Who says what became of a payment: the ledger, the provider's answer to a request, or its callback."""

    ACCOUNT = "account"
    PROVIDER = "provider"
    CALLBACK = "callback"


class Step(StrEnum):
    """What is asked of an account or of the provider."""

    AUTHORISE = "authorise"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


# --- commands ---------------------------------------------------------------------------------------------------------


class AuthorisePayment(Command):
    """Set the order's money aside; prepaid: note that it was paid elsewhere."""

    type: Literal["authorise_payment"] = "authorise_payment"
    order_uid: OrderUid
    user_id: UserId
    method: Annotated[PaymentMethod, Field(strict=False)]
    instrument: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="With the provider: which of its means, such as upi, card, wallet."
    )
    amount_minor: AmountMinor
    currency: Currency
    expires_at_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = Field(
        None, description="Unix time in milliseconds at which what was not captured is voided; null: never."
    )


class CapturePayment(Command):
    """Take authorised money, or a part of it; the rest is free again. A payment is captured once."""

    type: Literal["capture_payment"] = "capture_payment"
    order_uid: OrderUid
    amount_minor: AmountMinor | None = Field(None, description="In minor units; null: all that is authorised.")


class VoidPayment(Command):
    """Let go of what is not captured. The payment's own deadline sends this too, with the reason `expired`."""

    type: Literal["void_payment"] = "void_payment"
    order_uid: OrderUid
    reason: Word


class RefundPayment(Command):
    """Give captured money back, wholly or in part; there may be several, up to what was captured."""

    type: Literal["refund_payment"] = "refund_payment"
    order_uid: OrderUid
    refund_id: RefundId
    amount_minor: AmountMinor
    line: Line = None
    reason: Word


class RetryStep(Command):
    """Ask again for a void or a refund that failed. Its deadline sends this."""

    type: Literal["retry_step"] = "retry_step"
    order_uid: OrderUid
    step: Literal[Step.VOID, Step.REFUND]
    refund_id: RefundId | None = None


class _Answer(Command):
    order_uid: OrderUid
    source: Annotated[Source, Field(strict=False)]
    user_id: UserId | None = Field(None, description="When given, it must be the payment's.")
    currency: Currency | None = Field(
        None, exclude_if=lambda currency: currency is None, description="When given, it must be the payment's."
    )
    reference: Text = Field(None, description="What the one who answers calls it.")


class RecordAuthorisation(_Answer):
    """The money is set aside."""

    type: Literal["record_authorisation"] = "record_authorisation"
    amount_minor: AmountMinor


class DeclineReason(StrEnum):
    """Why a payment was not authorised: the ledger's reasons, then the provider's and those for want of it."""

    NO_SUCH_ACCOUNT = "no_such_account"
    HOLD_EXISTS_WITH_DIFFERENT_CONTENT = "hold_exists_with_different_content"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    DECLINED_BY_PROVIDER = "declined_by_provider"
    PROVIDER_NOT_CONFIGURED = "provider_not_configured"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    REFUSED = "refused"


class RecordDecline(_Answer):
    """The money is not there, or not for this."""

    type: Literal["record_decline"] = "record_decline"
    reason: Annotated[DeclineReason, Field(strict=False)]
    detail: Text = None


class RecordCapture(_Answer):
    """The money has been taken. It is believed whenever it comes: too late, it goes back."""

    type: Literal["record_capture"] = "record_capture"
    amount_minor: AmountMinor


class RecordVoid(_Answer):
    """Nothing is set aside any more."""

    type: Literal["record_void"] = "record_void"
    reason: Word = "voided"
    void_number: int | None = Field(None, ge=1, description="Which void this answers; null: whichever is under way.")


class RecordRefund(_Answer):
    """The money has been given back."""

    type: Literal["record_refund"] = "record_refund"
    refund_id: RefundId
    amount_minor: AmountMinor
    reversal_id: ReversalId | None = Field(
        None,
        exclude_if=lambda reversal_id: reversal_id is None,
        description="When given and the payment has no such refund, the money is recorded as a reversal with this id.",
    )


class RecordReversal(_Answer):
    """The provider took captured money back, and this platform did not request it."""

    type: Literal["record_reversal"] = "record_reversal"
    kind: Annotated[ReversalKind, Field(strict=False)]
    reversal_id: ReversalId
    amount_minor: AmountMinor
    detail: Text = None


class ResolveReversal(Command):
    """A person has settled a reversal. `reason` is for people."""

    type: Literal["resolve_reversal"] = "resolve_reversal"
    order_uid: OrderUid
    reversal_id: ReversalId
    outcome: Annotated[ReversalOutcome, Field(strict=False)]
    reason: Annotated[str, Field(min_length=1, max_length=256)]


class RecordFailure(_Answer):
    """A capture, a void or a refund did not come about."""

    type: Literal["record_failure"] = "record_failure"
    step: Literal[Step.CAPTURE, Step.VOID, Step.REFUND]
    refund_id: RefundId | None = None
    reason: Word
    detail: Text = None


Recorded = (
    RecordAuthorisation | RecordDecline | RecordCapture | RecordVoid | RecordRefund | RecordReversal | RecordFailure
)
PaymentCommand = Annotated[
    AuthorisePayment | CapturePayment | VoidPayment | RefundPayment | RetryStep | ResolveReversal | Recorded,
    Field(discriminator="type"),
]
CommandType = Literal[
    "authorise_payment",
    "capture_payment",
    "void_payment",
    "refund_payment",
    "retry_step",
    "resolve_reversal",
    "record_authorisation",
    "record_decline",
    "record_capture",
    "record_void",
    "record_refund",
    "record_reversal",
    "record_failure",
]

# --- events -----------------------------------------------------------------------------------------------------------


class PaymentRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    PAYMENT_EXISTS_WITH_DIFFERENT_CONTENT = "payment_exists_with_different_content"
    NO_SUCH_PAYMENT = "no_such_payment"
    NOT_POSITIVE_AMOUNT = "not_positive_amount"
    AMOUNT_ABOVE_LIMIT = "amount_above_limit"
    WRONG_SOURCE = "wrong_source"
    WRONG_USER = "wrong_user"
    WRONG_CURRENCY = "wrong_currency"
    ALREADY_DECLINED = "already_declined"
    ALREADY_VOIDED = "already_voided"
    ALREADY_CAPTURED = "already_captured"
    ALREADY_AUTHORISED = "already_authorised"
    NOT_AUTHORISED = "not_authorised"
    AMOUNT_ABOVE_AUTHORISED = "amount_above_authorised"
    NOT_CAPTURED = "not_captured"
    NO_SUCH_REFUND = "no_such_refund"
    NO_SUCH_REVERSAL = "no_such_reversal"
    REFUND_EXISTS_WITH_DIFFERENT_CONTENT = "refund_exists_with_different_content"
    REVERSAL_EXISTS_WITH_DIFFERENT_CONTENT = "reversal_exists_with_different_content"
    REVERSAL_ALREADY_RESOLVED = "reversal_already_resolved"
    AMOUNT_ABOVE_CAPTURED = "amount_above_captured"
    TOO_MANY_REVERSALS = "too_many_reversals"
    WRONG_AMOUNT = "wrong_amount"


#: Refunds that no order asked for: of money that came too late, and of what was taken above what was asked.
LATE, EXCESS = "late", "excess"


class PaymentStatus(StrEnum):
    """Where a payment stands. Money that comes when it is declined or voided goes back."""

    REQUESTED = "requested"
    AUTHORISED = "authorised"
    DECLINED = "declined"
    CAPTURING = "capturing"
    CAPTURED = "captured"
    VOIDING = "voiding"
    VOIDED = "voided"


class _PaymentEvent(Event):
    order_uid: OrderUid


class _PaymentChanged(_PaymentEvent):
    """A payment after the event, with all that those who act on it need to know."""

    version: int = Field(ge=1, description="Of the payment after this event: one more than before.")
    user_id: UserId
    method: PaymentMethod
    currency: str


class PaymentRequested(_PaymentChanged):
    """The payment exists from here on. An account is asked for a hold, the provider for an authorisation."""

    type: Literal["payment_requested"] = "payment_requested"
    instrument: str | None
    amount_minor: int = Field(ge=1)
    expires_at_ms: int | None


class PaymentAuthorised(_PaymentChanged):
    """The money is set aside."""

    type: Literal["payment_authorised"] = "payment_authorised"
    amount_minor: int = Field(ge=1)
    source: Source | None = None
    reference: str | None = None


class PaymentDeclined(_PaymentChanged):
    """There will be no money."""

    type: Literal["payment_declined"] = "payment_declined"
    amount_minor: int = Field(ge=1)
    reason: DeclineReason
    detail: str | None = None
    source: Source | None = None
    reference: str | None = None


class CaptureRequested(_PaymentChanged):
    """The money shall be taken; an account or the provider is asked."""

    type: Literal["capture_requested"] = "capture_requested"
    amount_minor: int = Field(ge=1)


class PaymentCaptured(_PaymentChanged):
    """The money is ours."""

    type: Literal["payment_captured"] = "payment_captured"
    amount_minor: int = Field(ge=1)
    captured_minor: int = Field(ge=1, description="In all, after this event.")
    excess_minor: int = Field(0, ge=0, description="What of it nobody asked for: a refund of it follows at once.")
    source: Source | None = None
    reference: str | None = None


class VoidRequested(_PaymentChanged):
    """What is set aside shall be let go; an account or the provider is asked. It comes again when that failed."""

    type: Literal["void_requested"] = "void_requested"
    amount_minor: int = Field(ge=0, description="What is known to be authorised; 0: nothing, and it may be on its way.")
    reason: str
    void_number: int = Field(ge=1, description="Grows when an authorisation came too late; not when tried again.")


class PaymentVoided(_PaymentChanged):
    """Nothing is set aside any more. A payment that was declined is voided when an authorisation came all the same."""

    type: Literal["payment_voided"] = "payment_voided"
    amount_minor: int = Field(ge=0, description="What had been authorised; 0: nothing.")
    reason: str
    source: Source | None = None
    reference: str | None = None


class RefundRequested(_PaymentChanged):
    """Money shall be given back; an account or the provider is asked. It comes again when that failed."""

    type: Literal["refund_requested"] = "refund_requested"
    refund_id: RefundId
    amount_minor: int = Field(ge=1)
    line: Line = None
    reason: str
    failures: int = Field(0, ge=0, description="How often it has failed before: 0 in the first.")


class PaymentRefunded(_PaymentChanged):
    """Money is given back."""

    type: Literal["payment_refunded"] = "payment_refunded"
    refund_id: RefundId
    amount_minor: int = Field(ge=1)
    refunded_minor: int = Field(ge=1, description="In all, after this event.")
    line: Line = None
    reason: str
    outside: bool = Field(
        False, description="Paid elsewhere or in cash: this movement is to be made outside the platform."
    )
    source: Source | None = None
    reference: str | None = None


class LateMoneyReceived(_PaymentChanged):
    """Money was taken for a payment that was declined or voided. A refund of it follows at once."""

    type: Literal["late_money_received"] = "late_money_received"
    amount_minor: int = Field(ge=1)
    captured_minor: int = Field(ge=1, description="In all, after this event.")
    source: Source | None = None
    reference: str | None = None


class ReversalRecorded(_PaymentChanged):
    """The provider took captured money back without a request of this platform. A person must settle it."""

    type: Literal["reversal_recorded"] = "reversal_recorded"
    reversal_id: str
    kind: ReversalKind
    amount_minor: int = Field(ge=1)
    detail: str | None = None
    source: Source | None = None
    reference: str | None = None


class ReversalResolved(_PaymentChanged):
    """A person has settled a reversal. Reinstated money counts as captured and not reversed again."""

    type: Literal["reversal_resolved"] = "reversal_resolved"
    reversal_id: str
    kind: ReversalKind
    amount_minor: int = Field(ge=1)
    outcome: ReversalOutcome
    reason: str


class PaymentStepFailed(_PaymentChanged):
    """A capture, a void or a refund did not come about. A capture is followed by a void; the others are tried again."""

    type: Literal["payment_step_failed"] = "payment_step_failed"
    step: Step
    refund_id: RefundId | None = None
    reason: str
    detail: str | None = None
    failures: int = Field(ge=1, description="How often this step has failed.")
    retry_at_ms: int | None = Field(None, description="When it is tried again; null: not.")
    source: Source | None = None
    reference: str | None = None


class PaymentCommandRefused(_PaymentEvent):
    """A command changed nothing."""

    type: Literal["payment_command_refused"] = "payment_command_refused"
    version: int = Field(ge=0, description="Of the payment, which a refusal does not change; 0 when there is none.")
    command: CommandType
    reason: PaymentRefusal
    refund_id: RefundId | None = None
    amount_minor: int | None = Field(None, description="What the command said, such as a wrong amount.")
    source: Source | None = None
    reference: str | None = None


ReversalChanged = ReversalRecorded | ReversalResolved
RefundChanged = RefundRequested | PaymentRefunded | PaymentStepFailed
PaymentChanged = (
    PaymentRequested
    | PaymentAuthorised
    | PaymentDeclined
    | CaptureRequested
    | PaymentCaptured
    | VoidRequested
    | PaymentVoided
    | LateMoneyReceived
    | ReversalChanged
    | RefundChanged
)
PaymentEvent = PaymentChanged | PaymentCommandRefused

_events: TypeAdapter[PaymentEvent] = one_of(PaymentEvent)


def read_event(raw: bytes) -> PaymentEvent:
    """An event as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _events.validate_json(raw)


# --- states -----------------------------------------------------------------------------------------------------------


class Payment(NamedTuple):
    """A payment as it stands: the value of the table `payments`."""

    order_uid: str
    user_id: str
    method: PaymentMethod
    instrument: str | None
    amount_minor: int
    currency: str
    expires_at_ms: int | None
    status: PaymentStatus
    #: What is, or was, set aside; what a capture asks for; what was taken, is being given back, was given back.
    authorised_minor: int
    capturing_minor: int
    captured_minor: int
    refunding_minor: int
    refunded_minor: int
    #: Of a decline or a void.
    reason: str | None
    voids: int
    void_failures: int
    attempts: int
    version: int
    requested_at: str
    updated_at: str
    #: In the order in which they were recorded, at most MAX_REVERSALS.
    reversals: tuple[Reversal, ...] = ()

    def reversed_minor(self, kind: ReversalKind | None = None) -> int:
        """Minor units that the provider took back and did not pay again, of one kind or of all."""
        gone = (each for each in self.reversals if each.outcome is not ReversalOutcome.REINSTATED)
        return sum(each.amount_minor for each in gone if kind in (None, each.kind))

    def unresolved(self) -> list[Reversal]:
        """The reversals that a person must settle."""
        return [each for each in self.reversals if each.outcome is None]

    def reversal(self, reversal_id: str) -> Reversal | None:
        """The reversal with this id."""
        return next((each for each in self.reversals if each.reversal_id == reversal_id), None)

    def to_json(self) -> bytes:
        """The row; without reversals in the form that it had before there were any, so that old rows stay equal."""
        row = self._asdict()
        if self.reversals:
            row["reversals"] = [each._asdict() for each in self.reversals]
        else:
            del row["reversals"]
        return orjson.dumps(row)

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        row |= {"method": PaymentMethod(row["method"]), "status": PaymentStatus(row["status"])}
        row["reversals"] = tuple(Reversal.from_row(each) for each in row.get("reversals", ()))
        return cls(**row)


class RefundState(StrEnum):
    """Where a refund stands."""

    REQUESTED = "requested"
    REFUNDED = "refunded"


class Refund(NamedTuple):
    """A refund as it stands: the value of the table `payment_refunds`."""

    refund_id: str
    amount_minor: int
    line: int | None
    reason: str
    state: RefundState
    failures: int
    requested_at: str
    refunded_at: str | None

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "state": RefundState(row["state"])})


class Attempt(NamedTuple):
    """What was asked, answered or refused, in order: the value of the table `payment_attempts`."""

    number: int
    type: str
    status: PaymentStatus
    amount_minor: int | None
    refund_id: str | None
    reason: str | None
    detail: str | None
    source: str | None
    reference: str | None
    command: str
    caused_by: str
    occurred_at: str

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "status": PaymentStatus(row["status"])})


class CommandAnswer(NamedTuple):
    """What became of a command: the value of `payment_commands`, kept for ever, so that none counts twice."""

    type: str
    reason: str | None
    version: int
    occurred_at: str

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        return cls(**orjson.loads(raw))
