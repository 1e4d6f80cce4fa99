"""Refusals of payment commands: the payment and the command -> why the command changes nothing. Pure."""

from __future__ import annotations

from schemas.accounts import MAX_AMOUNT_MINOR
from schemas.payments import (
    AuthorisePayment,
    CapturePayment,
    Payment,
    PaymentCommand,
    PaymentMethod,
    PaymentRefusal,
    PaymentStatus,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    Recorded,
    RecordFailure,
    RecordRefund,
    RecordReversal,
    RecordVoid,
    Refund,
    RefundPayment,
    ResolveReversal,
    RetryStep,
    Source,
    Step,
    VoidPayment,
)
from schemas.reversals import MAX_REVERSALS, ReversalKind

#: Methods for which an account or the provider is asked.
ASKED = (PaymentMethod.ACCOUNT, PaymentMethod.PROVIDER)
OPEN = (PaymentStatus.REQUESTED, PaymentStatus.AUTHORISED)
CLOSED = (PaymentStatus.DECLINED, PaymentStatus.VOIDED)


def objection_to(payment: Payment | None, refund: Refund | None, command: PaymentCommand) -> PaymentRefusal | None:
    """Why the command changes nothing; the first reason in the order of PaymentRefusal."""
    if isinstance(command, AuthorisePayment):
        if payment is not None and not _same(payment, command):
            return PaymentRefusal.PAYMENT_EXISTS_WITH_DIFFERENT_CONTENT
    elif payment is None:
        return PaymentRefusal.NO_SUCH_PAYMENT
    amount = getattr(command, "amount_minor", None)
    if amount is not None and amount <= 0:
        return PaymentRefusal.NOT_POSITIVE_AMOUNT
    if amount is not None and amount > MAX_AMOUNT_MINOR:
        return PaymentRefusal.AMOUNT_ABOVE_LIMIT
    if payment is None:
        return None
    match command:
        case AuthorisePayment() | RetryStep():
            return None
        case CapturePayment() | VoidPayment():
            return _objection_to_settling(payment, command)
        case RefundPayment():
            return _objection_to_refund(payment, refund, command)
        case ResolveReversal():
            return _objection_to_resolving(payment, command)
        case _:
            return _objection_to_answer(payment, refund, command)


def _same(payment: Payment, command: AuthorisePayment) -> bool:
    asked = (command.user_id, command.method, command.instrument, command.amount_minor, command.currency)
    known = (payment.user_id, payment.method, payment.instrument, payment.amount_minor, payment.currency)
    return (*asked, command.expires_at_ms) == (*known, payment.expires_at_ms)


def _objection_to_settling(payment: Payment, command: CapturePayment | VoidPayment) -> PaymentRefusal | None:
    match payment.status:
        case PaymentStatus.DECLINED:
            return PaymentRefusal.ALREADY_DECLINED
        case PaymentStatus.VOIDING | PaymentStatus.VOIDED:
            return PaymentRefusal.ALREADY_VOIDED
        case PaymentStatus.CAPTURING | PaymentStatus.CAPTURED:
            return PaymentRefusal.ALREADY_CAPTURED
    if isinstance(command, VoidPayment):
        return None
    if payment.status is PaymentStatus.REQUESTED:
        return PaymentRefusal.NOT_AUTHORISED
    above = command.amount_minor is not None and command.amount_minor > payment.authorised_minor
    return PaymentRefusal.AMOUNT_ABOVE_AUTHORISED if above else None


def _objection_to_refund(payment: Payment, refund: Refund | None, command: RefundPayment) -> PaymentRefusal | None:
    if not payment.captured_minor:
        return PaymentRefusal.NOT_CAPTURED
    if refund is not None:
        same = (refund.amount_minor, refund.line, refund.reason) == (command.amount_minor, command.line, command.reason)
        return None if same else PaymentRefusal.REFUND_EXISTS_WITH_DIFFERENT_CONTENT
    back = payment.refunded_minor + payment.refunding_minor + payment.reversed_minor()
    if back + command.amount_minor > payment.captured_minor:
        return PaymentRefusal.AMOUNT_ABOVE_CAPTURED
    return None


def _objection_to_answer(payment: Payment, refund: Refund | None, command: Recorded) -> PaymentRefusal | None:
    status = payment.status
    if payment.method not in ASKED or (command.source is Source.ACCOUNT) != (payment.method is PaymentMethod.ACCOUNT):
        return PaymentRefusal.WRONG_SOURCE
    if command.user_id not in (None, payment.user_id):
        return PaymentRefusal.WRONG_USER
    if command.currency not in (None, payment.currency):
        return PaymentRefusal.WRONG_CURRENCY
    match command:
        case RecordDecline() | RecordVoid() if status is PaymentStatus.CAPTURED:
            return PaymentRefusal.ALREADY_CAPTURED
        case RecordDecline() if status in (PaymentStatus.AUTHORISED, PaymentStatus.CAPTURING):
            return PaymentRefusal.ALREADY_AUTHORISED
        case RecordReversal():
            return _objection_to_reversal(payment, command.reversal_id, command.kind, command.amount_minor)
        case RecordRefund(reversal_id=str(reversal_id)) if refund is None:
            return _objection_to_reversal(payment, reversal_id, ReversalKind.REFUND, command.amount_minor)
        case RecordRefund() | RecordFailure(step=Step.REFUND) if refund is None:
            return PaymentRefusal.NO_SUCH_REFUND
        case RecordRefund() if refund is not None and refund.amount_minor != command.amount_minor:
            return PaymentRefusal.WRONG_AMOUNT
        case RecordAuthorisation() if status not in (*CLOSED, PaymentStatus.VOIDING):
            return None if command.amount_minor == payment.amount_minor else PaymentRefusal.WRONG_AMOUNT
        case RecordCapture() if not _fits(payment, command.amount_minor):
            return PaymentRefusal.WRONG_AMOUNT
    return None


def _objection_to_reversal(
    payment: Payment, reversal_id: str, kind: ReversalKind, amount_minor: int
) -> PaymentRefusal | None:
    """The refusal of money that cannot have been taken back. Refunds under way may fail, so they do not count."""
    if not payment.captured_minor:
        return PaymentRefusal.NOT_CAPTURED
    known = payment.reversal(reversal_id)
    if known is not None:
        same = (known.kind, known.amount_minor) == (kind, amount_minor)
        return None if same else PaymentRefusal.REVERSAL_EXISTS_WITH_DIFFERENT_CONTENT
    if payment.refunded_minor + payment.reversed_minor() + amount_minor > payment.captured_minor:
        return PaymentRefusal.AMOUNT_ABOVE_CAPTURED
    return PaymentRefusal.TOO_MANY_REVERSALS if len(payment.reversals) >= MAX_REVERSALS else None


def _objection_to_resolving(payment: Payment, command: ResolveReversal) -> PaymentRefusal | None:
    reversal = payment.reversal(command.reversal_id)
    if reversal is None:
        return PaymentRefusal.NO_SUCH_REVERSAL
    if reversal.outcome not in (None, command.outcome):
        return PaymentRefusal.REVERSAL_ALREADY_RESOLVED
    return None


def _fits(payment: Payment, amount_minor: int) -> bool:
    """Whether so much money can have been taken. More than a capture asked for can: what is above it goes back."""
    if payment.captured_minor:
        return amount_minor == payment.captured_minor
    if payment.status is PaymentStatus.CAPTURING:
        return amount_minor >= payment.capturing_minor
    return payment.status not in OPEN or amount_minor == payment.amount_minor
