"""payments.commands.v1 -> decide -> payments.events.v1; state in the tables of tables/payments.py.

Accounts and the provider are asked by events and answer by commands (Record…), in any order and any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from agents.payment_refusals import ASKED, CLOSED, OPEN, objection_to
from schemas.base import derived_id, event_id_for, rfc3339, unix_ms
from schemas.payments import (
    EXCESS,
    LATE,
    AuthorisePayment,
    CapturePayment,
    CaptureRequested,
    DeclineReason,
    LateMoneyReceived,
    Payment,
    PaymentAuthorised,
    PaymentCaptured,
    PaymentCommand,
    PaymentCommandRefused,
    PaymentDeclined,
    PaymentEvent,
    PaymentMethod,
    PaymentRefunded,
    PaymentRefusal,
    PaymentRequested,
    PaymentStatus,
    PaymentStepFailed,
    PaymentVoided,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    Recorded,
    RecordFailure,
    RecordRefund,
    RecordReversal,
    RecordVoid,
    Refund,
    RefundChanged,
    RefundPayment,
    RefundRequested,
    RefundState,
    ResolveReversal,
    RetryStep,
    ReversalRecorded,
    ReversalResolved,
    Step,
    VoidPayment,
    VoidRequested,
)
from schemas.reversals import Reversal, ReversalKind
from schemas.webhooks import about
from streams import App, Record, Stream, Topic
from tables.payments import GROUP, PaymentTables

#: A void or a refund that failed is asked for again after so long, twice as long each time, for as long as it takes:
#: the money is somebody's.
FIRST_RETRY_MS, LONGEST_RETRY_MS = 60_000, 3_600_000

#: Why a payment is voided whose capture did not come about.
CAPTURE_FAILED = "capture_failed"


def decide(
    payment: Payment | None,
    refund: Refund | None,
    command: PaymentCommand,
    occurred_at: str,
    *,
    answered: bool = False,
) -> tuple[PaymentEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say.

    `refund`: the one that the command names, if there is one. `answered`: this command_id has had its event or its
    refusal already, however long ago.
    """
    if answered:
        return ()
    reason = objection_to(payment, refund, command)
    if reason is not None:
        return (_refused(payment, command, occurred_at, reason),)
    match command:
        case AuthorisePayment():
            return () if payment else _requested(command, occurred_at)
    assert payment is not None, "every other command without a payment was refused"
    match command:
        case CapturePayment():
            return (_capture(payment, command, occurred_at),)
        case VoidPayment():
            return (_void(payment, command, occurred_at, command.reason),)
        case RefundPayment():
            return () if refund else (_refund(payment, command, occurred_at),)
        case RetryStep():
            return _retried(payment, refund, command, occurred_at)
        case RecordAuthorisation():
            return _authorised(payment, command, occurred_at)
        case RecordDecline():
            return _declined(payment, command, occurred_at)
        case RecordCapture():
            return _captured(payment, command, occurred_at)
        case RecordVoid():
            return _voided(payment, command, occurred_at)
        case RecordRefund():
            if refund is None:
                return _refunded_unrequested(payment, command, occurred_at)
            return _refunded(payment, refund, command, occurred_at)
        case RecordReversal():
            return _reversed(payment, command, occurred_at)
        case ResolveReversal():
            return _resolved(payment, command, occurred_at)
        case RecordFailure():
            return _failed(payment, refund, command, occurred_at)
    assert_never(command)


# -- what follows from a command ---------------------------------------------------------------------------------------


def _requested(command: AuthorisePayment, at: str) -> tuple[PaymentEvent, ...]:
    amount = command.amount_minor
    requested = PaymentRequested(
        **_said(command, command, 0, at, 0),
        instrument=command.instrument,
        amount_minor=amount,
        expires_at_ms=command.expires_at_ms,
    )
    if command.method in ASKED:
        return (requested,)
    authorised = PaymentAuthorised(**_said(command, command, 0, at, 1), amount_minor=amount)
    if command.method is PaymentMethod.CASH_ON_DELIVERY:
        return (requested, authorised)
    captured = PaymentCaptured(**_said(command, command, 0, at, 2), amount_minor=amount, captured_minor=amount)
    return (requested, authorised, captured)


def _capture(payment: Payment, command: CapturePayment, at: str) -> PaymentEvent:
    amount = payment.authorised_minor if command.amount_minor is None else command.amount_minor
    said = _changed(payment, command, at)
    if payment.method in ASKED:
        return CaptureRequested(**said, amount_minor=amount)
    return PaymentCaptured(**said, amount_minor=amount, captured_minor=amount)


def _void(payment: Payment, command: PaymentCommand, at: str, reason: str, n: int = 0, known: int = 0) -> PaymentEvent:
    """`known`: an authorisation that the payment does not know of yet."""
    said, amount = _changed(payment, command, at, n), known or payment.authorised_minor
    if payment.method in ASKED:
        return VoidRequested(**said, amount_minor=amount, reason=reason, void_number=payment.voids + 1)
    return PaymentVoided(**said, amount_minor=amount, reason=reason)


def _refund(payment: Payment, command: RefundPayment, at: str) -> PaymentEvent:
    said = _changed(payment, command, at)
    asked = {name: getattr(command, name) for name in ("refund_id", "amount_minor", "line", "reason")}
    if payment.method in ASKED:
        return RefundRequested(**said, **asked)
    return PaymentRefunded(**said, **asked, refunded_minor=payment.refunded_minor + command.amount_minor, outside=True)


def _retried(payment: Payment, refund: Refund | None, command: RetryStep, at: str) -> tuple[PaymentEvent, ...]:
    said = _changed(payment, command, at)
    if command.step is Step.VOID and payment.status is PaymentStatus.VOIDING:
        amount, reason = payment.authorised_minor, payment.reason or ""
        return (VoidRequested(**said, amount_minor=amount, reason=reason, void_number=payment.voids),)
    if refund is not None and refund.state is RefundState.REQUESTED:
        asked = {name: getattr(refund, name) for name in ("refund_id", "amount_minor", "line", "reason")}
        return (RefundRequested(**said, **asked, failures=refund.failures),)
    return ()


def _authorised(payment: Payment, command: RecordAuthorisation, at: str) -> tuple[PaymentEvent, ...]:
    """Too late, it is let go, unless it was known: the void under way may have been answered before it came to be."""
    if payment.status is PaymentStatus.REQUESTED:
        amount = command.amount_minor
        return (PaymentAuthorised(**_changed(payment, command, at), amount_minor=amount, **_from(command)),)
    if payment.status in (*CLOSED, PaymentStatus.VOIDING) and not payment.authorised_minor:
        reason = payment.reason or "too_late"
        return (_void(payment, command, at, reason, known=command.amount_minor),)
    return ()


def _declined(payment: Payment, command: RecordDecline, at: str) -> tuple[PaymentEvent, ...]:
    if payment.status is PaymentStatus.VOIDING and not payment.authorised_minor:
        reason = payment.reason or ""
        return (PaymentVoided(**_changed(payment, command, at), amount_minor=0, reason=reason, **_from(command)),)
    if payment.status is not PaymentStatus.REQUESTED:
        return ()
    declined = PaymentDeclined(
        **_changed(payment, command, at),
        amount_minor=payment.amount_minor,
        reason=command.reason,
        detail=command.detail,
        **_from(command),
    )
    if command.reason is not DeclineReason.PROVIDER_UNREACHABLE:
        return (declined,)
    # It may have heard the request all the same: what it has set aside must not stay so.
    return (declined, _void(payment, command, at, command.reason, 1))


def _captured(payment: Payment, command: RecordCapture, at: str) -> tuple[PaymentEvent, ...]:
    """Money in time completes the payment; money too late goes back; the same money again is no news.

    A capture that seemed to have failed and comes about all the same is the order's, before the void that followed or
    after it: the goods may be on their way. The order says what of it is owed, and asks back what is not.
    """
    amount, who = command.amount_minor, _from(command)
    voided: tuple[PaymentEvent, ...] = ()
    if payment.captured_minor:
        return ()
    taken = {"amount_minor": amount, "captured_minor": amount}
    failed = payment.status in (PaymentStatus.VOIDING, PaymentStatus.VOIDED) and payment.reason == CAPTURE_FAILED
    in_time = failed and amount >= payment.capturing_minor
    match payment.status:
        case PaymentStatus.REQUESTED:
            authorised = PaymentAuthorised(**_changed(payment, command, at), amount_minor=amount, **who)
            return (authorised, PaymentCaptured(**_changed(payment, command, at, 1), **taken, **who))
        case status if in_time or status in (PaymentStatus.AUTHORISED, PaymentStatus.CAPTURING):
            above = amount - payment.capturing_minor if payment.capturing_minor else 0
            captured = PaymentCaptured(**_changed(payment, command, at), **taken, excess_minor=above, **who)
            return (captured, _give_back(payment, command, at, 1, EXCESS, above)) if above else (captured,)
        case PaymentStatus.VOIDING:
            reason = payment.reason or ""
            voided = (PaymentVoided(**_changed(payment, command, at, 2), amount_minor=0, reason=reason, **who),)
    late = LateMoneyReceived(**_changed(payment, command, at), **taken, **who)
    back = _give_back(payment, command, at, 1, LATE, amount)
    return (late, back, *voided)


def _give_back(payment: Payment, command: RecordCapture, at: str, n: int, id: str, amount: int) -> RefundRequested:
    return RefundRequested(**_changed(payment, command, at, n), refund_id=id, amount_minor=amount, reason=f"{id}_money")


def _voided(payment: Payment, command: RecordVoid, at: str) -> tuple[PaymentEvent, ...]:
    """Also unasked: a hold or an authorisation has its own expiry."""
    if payment.status in CLOSED:
        return ()
    voiding = payment.status is PaymentStatus.VOIDING
    if voiding and command.void_number not in (None, payment.voids):
        return ()
    reason = (payment.reason if voiding else None) or command.reason
    amount = payment.authorised_minor
    return (PaymentVoided(**_changed(payment, command, at), amount_minor=amount, reason=reason, **_from(command)),)


def _refunded(payment: Payment, refund: Refund, command: RecordRefund, at: str) -> tuple[PaymentEvent, ...]:
    if refund.state is RefundState.REFUNDED:
        return ()
    return (
        PaymentRefunded(
            **_changed(payment, command, at),
            refund_id=refund.refund_id,
            amount_minor=refund.amount_minor,
            refunded_minor=payment.refunded_minor + refund.amount_minor,
            line=refund.line,
            reason=refund.reason,
            **_from(command),
        ),
    )


def _refunded_unrequested(payment: Payment, command: RecordRefund, at: str) -> tuple[PaymentEvent, ...]:
    assert command.reversal_id is not None, "an answer about no refund was refused"
    reversal = RecordReversal(
        **command.model_dump(include=set(RecordReversal.model_fields) - {"type", "kind", "detail"}),
        kind=ReversalKind.REFUND,
    )
    return _reversed(payment, reversal, at)


def _reversed(payment: Payment, command: RecordReversal, at: str) -> tuple[PaymentEvent, ...]:
    """Nothing for a reversal that is recorded: the provider may report it in several callbacks."""
    if payment.reversal(command.reversal_id):
        return ()
    told = {name: getattr(command, name) for name in ("reversal_id", "kind", "amount_minor", "detail")}
    return (ReversalRecorded(**_changed(payment, command, at), **told, **_from(command)),)


def _resolved(payment: Payment, command: ResolveReversal, at: str) -> tuple[PaymentEvent, ...]:
    reversal = payment.reversal(command.reversal_id)
    assert reversal is not None, "a command about no reversal was refused"
    if reversal.outcome is not None:
        return ()
    return (
        ReversalResolved(
            **_changed(payment, command, at),
            reversal_id=reversal.reversal_id,
            kind=reversal.kind,
            amount_minor=reversal.amount_minor,
            outcome=command.outcome,
            reason=command.reason,
        ),
    )


def _failed(payment: Payment, refund: Refund | None, command: RecordFailure, at: str) -> tuple[PaymentEvent, ...]:
    said = {"step": command.step, "reason": command.reason, "detail": command.detail, **_from(command)}
    match command.step:
        case Step.CAPTURE if payment.status is PaymentStatus.CAPTURING:
            failed = PaymentStepFailed(**_changed(payment, command, at), **said, failures=1)
            return (failed, _void(payment, command, at, CAPTURE_FAILED, 1))
        case Step.VOID if payment.status is PaymentStatus.VOIDING:
            again = _retry_at(at, payment.void_failures)
            failures = payment.void_failures + 1
            return (PaymentStepFailed(**_changed(payment, command, at), **said, failures=failures, retry_at_ms=again),)
        case Step.REFUND if refund is not None and refund.state is RefundState.REQUESTED:
            again, failures = _retry_at(at, refund.failures), refund.failures + 1
            return (
                PaymentStepFailed(
                    **_changed(payment, command, at),
                    **said,
                    refund_id=refund.refund_id,
                    failures=failures,
                    retry_at_ms=again,
                ),
            )
        case _:
            return ()


def _retry_at(at: str, failures: int) -> int:
    return unix_ms(at) + min(LONGEST_RETRY_MS, FIRST_RETRY_MS << min(failures, 10))


def _said(who: Payment | AuthorisePayment, command: PaymentCommand, version: int, at: str, n: int) -> dict[str, Any]:
    return {
        "event_id": event_id_for(command.command_id, n),
        "caused_by": command.command_id,
        "occurred_at": at,
        "order_uid": who.order_uid,
        "version": version + 1 + n,
        "user_id": who.user_id,
        "method": who.method,
        "currency": who.currency,
    }


def _changed(payment: Payment, command: PaymentCommand, at: str, n: int = 0) -> dict[str, Any]:
    """What every change says; `n`: the place of the event among those of this command, from 0."""
    return _said(payment, command, payment.version, at, n)


def _from(command: Recorded) -> dict[str, Any]:
    return {"source": command.source, "reference": command.reference}


def _refused(
    payment: Payment | None, command: PaymentCommand, at: str, reason: PaymentRefusal
) -> PaymentCommandRefused:
    return PaymentCommandRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=at,
        order_uid=command.order_uid,
        version=payment.version if payment else 0,
        command=command.type,
        reason=reason,
        refund_id=getattr(command, "refund_id", None),
        amount_minor=getattr(command, "amount_minor", None),
        source=getattr(command, "source", None),
        reference=getattr(command, "reference", None),
    )


# -- the state after an event ------------------------------------------------------------------------------------------


def evolve(payment: Payment | None, event: PaymentEvent) -> Payment | None:
    """The payment after the event. Versions grow by one with each event that is no refusal, attempts with each."""
    if isinstance(event, PaymentRequested):
        return _new(event)
    if isinstance(event, PaymentCommandRefused):
        return payment._replace(attempts=payment.attempts + 1) if payment else None
    assert payment is not None, "decide changes only what exists"
    then = payment._replace(version=event.version, attempts=payment.attempts + 1, updated_at=event.occurred_at)
    match event:
        case PaymentAuthorised():
            return then._replace(status=PaymentStatus.AUTHORISED, authorised_minor=event.amount_minor)
        case PaymentDeclined():
            return then._replace(status=PaymentStatus.DECLINED, reason=event.reason)
        case CaptureRequested():
            return then._replace(status=PaymentStatus.CAPTURING, capturing_minor=event.amount_minor)
        case PaymentCaptured():
            return then._replace(status=PaymentStatus.CAPTURED, captured_minor=event.captured_minor, reason=None)
        case VoidRequested():
            failures = then.void_failures if event.void_number == then.voids else 0
            return then._replace(
                status=PaymentStatus.VOIDING,
                authorised_minor=event.amount_minor,
                reason=event.reason,
                voids=event.void_number,
                void_failures=failures,
            )
        case PaymentVoided():
            return then._replace(status=PaymentStatus.VOIDED, reason=event.reason)
        case LateMoneyReceived():
            return then._replace(captured_minor=event.captured_minor)
        case ReversalRecorded():
            return then._replace(reversals=(*then.reversals, _reversal(event)))
        case ReversalResolved():
            said: dict[str, Any] = {"outcome": event.outcome, "reason": event.reason, "resolved_at": event.occurred_at}
            return then._replace(
                reversals=tuple(
                    each._replace(**said) if each.reversal_id == event.reversal_id else each for each in then.reversals
                )
            )
        case RefundRequested():
            asked = 0 if event.failures else event.amount_minor
            return then._replace(refunding_minor=then.refunding_minor + asked)
        case PaymentRefunded():
            asked = 0 if event.outside else event.amount_minor
            return then._replace(refunding_minor=then.refunding_minor - asked, refunded_minor=event.refunded_minor)
        case PaymentStepFailed():
            return then._replace(void_failures=event.failures) if event.step is Step.VOID else then
    assert_never(event)


def _reversal(event: ReversalRecorded) -> Reversal:
    return Reversal(event.reversal_id, event.kind, event.amount_minor, event.reference, event.detail, event.occurred_at)


def _new(event: PaymentRequested) -> Payment:
    return Payment(
        order_uid=event.order_uid,
        user_id=event.user_id,
        method=event.method,
        instrument=event.instrument,
        amount_minor=event.amount_minor,
        currency=event.currency,
        expires_at_ms=event.expires_at_ms,
        status=PaymentStatus.REQUESTED,
        authorised_minor=0,
        capturing_minor=0,
        captured_minor=0,
        refunding_minor=0,
        refunded_minor=0,
        reason=None,
        voids=0,
        void_failures=0,
        attempts=1,
        version=event.version,
        requested_at=event.occurred_at,
        updated_at=event.occurred_at,
    )


def evolve_refund(refund: Refund | None, event: RefundChanged) -> Refund:
    """The refund after an event about it."""
    match event:
        case PaymentStepFailed():
            assert refund is not None, "what was never asked cannot fail"
            return refund._replace(failures=event.failures)
        case RefundRequested() | PaymentRefunded():
            done = isinstance(event, PaymentRefunded)
            asked = refund or Refund(
                event.refund_id,
                event.amount_minor,
                event.line,
                event.reason,
                RefundState.REQUESTED,
                0,
                event.occurred_at,
                None,
            )
            return asked._replace(state=RefundState.REFUNDED, refunded_at=event.occurred_at) if done else asked
    assert_never(event)


def fold(
    payment: Payment | None, refunds: Mapping[str, Refund], event: PaymentEvent
) -> tuple[Payment | None, Mapping[str, Refund]]:
    """The payment and its refunds, by their ids, after the event."""
    if isinstance(event, RefundChanged) and event.refund_id:
        refunds = {**refunds, event.refund_id: evolve_refund(refunds.get(event.refund_id), event)}
    return evolve(payment, event), refunds


# -- deadlines: what time brings about, as records ---------------------------------------------------------------------


def expiry_of(event: PaymentRequested) -> VoidPayment:
    """What the deadline of a payment sends. Its id follows from the event, so that a re-run schedules the same."""
    return VoidPayment(command_id=derived_id(f"expire {event.event_id}"), order_uid=event.order_uid, reason="expired")


def retry_of(event: PaymentStepFailed) -> RetryStep:
    """What is sent when a failed void or refund is due again."""
    step: Any = event.step
    return RetryStep(
        command_id=derived_id(f"retry {event.event_id}"),
        order_uid=event.order_uid,
        step=step,
        refund_id=event.refund_id,
    )


def attach(
    app: App, *, commands: Topic, events: Topic, tables: PaymentTables, tell: Callable[[PaymentEvent], None]
) -> None:
    """Wire the rules to their topics. What is not captured in time is voided by a record, which its deadline sends.

    `tell` hands each event to the domains that wait for it.
    """
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    def keep_time(payment: Payment, event: PaymentEvent) -> None:
        uid = payment.order_uid
        if isinstance(event, PaymentRequested) and payment.expires_at_ms is not None:
            due, id = payment.expires_at_ms, f"payment\0{uid}\0expiry"
            deadlines.schedule(due, commands, key=uid, value=expiry_of(event), id=id)
        elif isinstance(event, PaymentStepFailed) and event.retry_at_ms is not None:
            id = f"payment\0{uid}\0retry\0{event.refund_id or ''}"
            deadlines.schedule(event.retry_at_ms, commands, key=uid, value=retry_of(event), id=id)
        elif payment.expires_at_ms is not None and payment.status not in OPEN:
            deadlines.cancel(f"payment\0{uid}\0expiry")

    def carry_out(command: PaymentCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the order's home; else bring the command home, once."""
        uid = command.order_uid
        if commands.take_home(cause, key=uid, value=command):
            return
        payment, refund_id = tables.payment(uid), getattr(command, "refund_id", None)
        refund = tables.refund(uid, refund_id) if refund_id else None
        answered = tables.answer(uid, command.command_id) is not None
        for event in decide(payment, refund, command, rfc3339(cause.timestamp), answered=answered):
            payment = evolve(payment, event)
            tables.keep(payment, event, command)
            if isinstance(event, RefundChanged) and event.refund_id:
                tables.keep_refund(uid, evolve_refund(tables.refund(uid, event.refund_id), event))
            if payment is not None:
                keep_time(payment, event)
            events.put(
                key=uid, value=event, partition=cause.partition, headers=about(payment.user_id if payment else None)
            )
            tell(event)

    @app.agent(commands, name="payments.commands")
    async def obey(stream: Stream[PaymentCommand]) -> None:
        """Authorise, capture, void and refund, and record what accounts and the provider answer."""
        async for command in stream:
            carry_out(command, stream.event)
