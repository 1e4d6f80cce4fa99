"""Payments: the rules as a table of outcomes, a row for every refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark, param

from agents.checkout import react
from agents.payments import decide, evolve, evolve_refund, expiry_of, retry_of
from schemas.accounts import MAX_AMOUNT_MINOR, HoldFunds
from schemas.base import event_id_for, unix_ms
from schemas.payments import (
    AuthorisePayment,
    CapturePayment,
    DeclineReason,
    Payment,
    PaymentCommand,
    PaymentEvent,
    PaymentMethod,
    PaymentRefusal,
    PaymentRequested,
    PaymentStatus,
    PaymentStepFailed,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    RecordFailure,
    RecordRefund,
    RecordReversal,
    RecordVoid,
    Refund,
    RefundChanged,
    RefundPayment,
    ResolveReversal,
    RetryStep,
    Source,
    Step,
    VoidPayment,
    read_event,
)
from schemas.reversals import ReversalKind, ReversalOutcome

AT = "2021-11-26T06:22:19.000Z"
UID = "order-1"
M, R, S = PaymentMethod, PaymentRefusal, PaymentStatus
P: dict[str, Any] = {"source": Source.PROVIDER, "reference": "p-1"}
CALLBACK: dict[str, Any] = {"source": Source.CALLBACK, "reference": "cb-1"}
Said = tuple[str, dict[str, Any]]


def authorise(method: PaymentMethod = M.PROVIDER, amount: int = 100, id: str = "a", **more: Any) -> AuthorisePayment:
    asked: dict[str, Any] = {"user_id": "user", "method": method, "amount_minor": amount, "currency": "INR", **more}
    return AuthorisePayment(command_id=id, order_uid=UID, **asked)


def capture(amount: int | None = None, id: str = "c") -> CapturePayment:
    return CapturePayment(command_id=id, order_uid=UID, amount_minor=amount)


def void(reason: str = "cancelled", id: str = "v") -> VoidPayment:
    return VoidPayment(command_id=id, order_uid=UID, reason=reason)


def refund(amount: int = 30, refund_id: str = "r1", id: str = "f", line: int | None = 2) -> RefundPayment:
    asked: dict[str, Any] = {"refund_id": refund_id, "amount_minor": amount, "line": line, "reason": "returned"}
    return RefundPayment(command_id=id, order_uid=UID, **asked)


def retry(step: Any, refund_id: str | None = None) -> RetryStep:
    return RetryStep(command_id="y", order_uid=UID, step=step, refund_id=refund_id)


def authorised(amount: int = 100, id: str = "ra", **more: Any) -> RecordAuthorisation:
    return RecordAuthorisation(command_id=id, order_uid=UID, amount_minor=amount, **{**P, **more})


def declined(reason: DeclineReason = DeclineReason.DECLINED_BY_PROVIDER, id: str = "rd") -> RecordDecline:
    return RecordDecline(command_id=id, order_uid=UID, reason=reason, detail="no", **P)


def captured(amount: int = 100, id: str = "rc", **more: Any) -> RecordCapture:
    return RecordCapture(command_id=id, order_uid=UID, amount_minor=amount, **{**P, **more})


def voided(id: str = "rv", **more: Any) -> RecordVoid:
    return RecordVoid(command_id=id, order_uid=UID, reason="expired", **P, **more)


def refunded(amount: int = 30, refund_id: str = "r1", id: str = "rr") -> RecordRefund:
    return RecordRefund(command_id=id, order_uid=UID, refund_id=refund_id, amount_minor=amount, **P)


def reversed_by(amount: int = 40, id: str = "rx", reversal_id: str = "d1", **more: Any) -> RecordReversal:
    said: dict[str, Any] = {"kind": ReversalKind.CHARGEBACK, "detail": "fraud", **CALLBACK, **more}
    return RecordReversal(command_id=id, order_uid=UID, reversal_id=reversal_id, amount_minor=amount, **said)


def reported(amount: int = 30, refund_id: str = "r9", reversal_id: str = "d1", id: str = "rr") -> RecordRefund:
    """A refund that a callback reports under a key that looks like one of ours."""
    said: dict[str, Any] = {"refund_id": refund_id, "reversal_id": reversal_id, **CALLBACK}
    return RecordRefund(command_id=id, order_uid=UID, amount_minor=amount, **said)


def resolved(
    outcome: str = "accepted", id: str = "rs", reversal_id: str = "d1", reason: str = "seen"
) -> ResolveReversal:
    told: dict[str, Any] = {"outcome": ReversalOutcome(outcome), "reversal_id": reversal_id, "reason": reason}
    return ResolveReversal(command_id=id, order_uid=UID, **told)


def failed(step: Any, refund_id: str | None = None, id: str = "rf") -> RecordFailure:
    return RecordFailure(command_id=id, order_uid=UID, step=step, refund_id=refund_id, reason="unreachable", **P)


class Past:
    """A payment after commands, each decided and folded."""

    def __init__(self, commands: Sequence[PaymentCommand]) -> None:
        self.payment: Payment | None = None
        self.refunds: dict[str, Refund] = {}
        self.heard: set[str] = set()
        for command in commands:
            assert self.tell(command), f"the row's past has a command that did nothing: {command}"

    def tell(self, command: PaymentCommand) -> tuple[PaymentEvent, ...]:
        known = self.refunds.get(getattr(command, "refund_id", None) or "")
        events = decide(self.payment, known, command, AT, answered=command.command_id in self.heard)
        for event in events:
            self.payment = evolve(self.payment, event)
            if isinstance(event, RefundChanged) and event.refund_id:
                self.refunds[event.refund_id] = evolve_refund(self.refunds.get(event.refund_id), event)
            self.heard.add(event.caused_by)
        return events


def no(reason: PaymentRefusal) -> list[Said]:
    return [("payment_command_refused", {"reason": reason})]


REQUESTED: list[PaymentCommand] = [authorise()]
AUTHORISED: list[PaymentCommand] = [*REQUESTED, authorised(id="ra0")]
CAPTURING: list[PaymentCommand] = [*AUTHORISED, capture(60, "c0")]
CAPTURED: list[PaymentCommand] = [*AUTHORISED, capture(id="c0"), captured(id="rc0")]
VOIDING: list[PaymentCommand] = [*AUTHORISED, void("cancelled", "v0")]
VOIDED: list[PaymentCommand] = [*VOIDING, voided("rv0")]
UNSURE: list[PaymentCommand] = [*REQUESTED, void("expired", "v0")]  # voided before the provider has answered
DECLINED: list[PaymentCommand] = [*REQUESTED, declined(id="rd0")]
REVERSED: list[PaymentCommand] = [*CAPTURED, reversed_by(id="rx0")]
MANY: list[PaymentCommand] = [
    *(authorise(amount=200), authorised(200, "ra0"), capture(id="c0"), captured(200, "rc0")),
    *(reversed_by(1, f"x{n}", f"x{n}") for n in range(100)),
]
GIVING: list[PaymentCommand] = [*CAPTURED, refund(id="f0")]
GIVEN: list[PaymentCommand] = [*GIVING, refunded(id="rr0")]
UNDONE: list[PaymentCommand] = [*CAPTURING, failed(Step.CAPTURE, id="x1"), voided("rv0")]  # by a failed capture
LATE: list[PaymentCommand] = [*VOIDED, captured(id="rc0")]
BIG = MAX_AMOUNT_MINOR

ROWS: list[Any] = [
    # authorise
    param([], authorise(M.ACCOUNT), [("payment_requested", {"amount_minor": 100, "version": 1})], id="account"),
    param([], authorise(instrument="upi"), [("payment_requested", {"instrument": "upi"})], id="provider"),
    param(
        [],
        authorise(M.CASH_ON_DELIVERY),
        [("payment_requested", {"version": 1}), ("payment_authorised", {"version": 2, "amount_minor": 100})],
        id="cash on delivery is authorised at once",
    ),
    param(
        [],
        authorise(M.PREPAID),
        [("payment_requested", {}), ("payment_authorised", {}), ("payment_captured", {"captured_minor": 100})],
        id="prepaid is captured at once",
    ),
    param(REQUESTED, authorise(), [], id="the same command again"),
    param(REQUESTED, authorise(id="a2"), [], id="the same payment in another command"),
    param([], authorise(amount=BIG), [("payment_requested", {"amount_minor": BIG})], id="the most there may be"),
    # the answers to it
    param(REQUESTED, authorised(), [("payment_authorised", {"amount_minor": 100, "reference": "p-1"})], id="answer"),
    param(REQUESTED, authorised(source=Source.CALLBACK), [("payment_authorised", {})], id="a callback before it"),
    param(AUTHORISED, authorised(), [], id="the answer after the callback"),
    param(CAPTURED, authorised(), [], id="an answer long after"),
    param(REQUESTED, captured(), [("payment_authorised", {}), ("payment_captured", {})], id="paid at once"),
    param(AUTHORISED, captured(), [("payment_captured", {"captured_minor": 100})], id="paid without being asked"),
    param(
        REQUESTED,
        declined(),
        [("payment_declined", {"reason": "declined_by_provider", "detail": "no", "amount_minor": 100})],
        id="declined",
    ),
    param(
        REQUESTED,
        declined(DeclineReason.PROVIDER_UNREACHABLE),
        [
            ("payment_declined", {"reason": "provider_unreachable", "version": 2}),
            ("void_requested", {"version": 3, "void_number": 1}),
        ],
        id="unreachable: what it may have heard is let go",
    ),
    param(DECLINED, declined(), [], id="declined twice"),
    # capture
    param(AUTHORISED, capture(), [("capture_requested", {"amount_minor": 100})], id="captures all"),
    param(AUTHORISED, capture(60), [("capture_requested", {"amount_minor": 60})], id="captures a part"),
    param(
        [authorise(M.CASH_ON_DELIVERY)], capture(), [("payment_captured", {"amount_minor": 100})], id="cash at the door"
    ),
    param(CAPTURING, captured(60), [("payment_captured", {"amount_minor": 60, "captured_minor": 60})], id="captured"),
    param(
        CAPTURING,
        captured(100),
        [
            ("payment_captured", {"captured_minor": 100, "version": 4}),
            ("refund_requested", {"refund_id": "excess", "amount_minor": 40, "version": 5}),
        ],
        id="more was taken than asked: it goes back",
    ),
    param(CAPTURED, captured(), [], id="captured twice"),
    param(
        CAPTURING,
        failed(Step.CAPTURE),
        [("payment_step_failed", {"step": "capture", "retry_at_ms": None}), ("void_requested", {"amount_minor": 100})],
        id="a capture that fails is followed by a void",
    ),
    param(CAPTURED, failed(Step.CAPTURE), [], id="a failure that was none"),
    # void
    param(AUTHORISED, void(), [("void_requested", {"reason": "cancelled", "amount_minor": 100})], id="voids"),
    param(REQUESTED, void(), [("void_requested", {"amount_minor": 0, "void_number": 1})], id="voids what may come"),
    param(
        [authorise(M.CASH_ON_DELIVERY)], void(), [("payment_voided", {"reason": "cancelled"})], id="no cash is asked"
    ),
    param(VOIDING, voided(), [("payment_voided", {"amount_minor": 100, "reason": "cancelled"})], id="voided"),
    param(VOIDED, voided(), [], id="voided twice"),
    param(AUTHORISED, voided(), [("payment_voided", {"reason": "expired"})], id="expired by itself"),
    param(CAPTURING, voided(), [("payment_voided", {"reason": "expired"})], id="expired before its capture"),
    param(UNSURE, declined(), [("payment_voided", {"amount_minor": 0, "reason": "expired"})], id="there was nothing"),
    param(VOIDING, declined(), [], id="a decline cannot end the void of an authorisation"),
    param(
        UNSURE,
        authorised(),
        [("void_requested", {"amount_minor": 100, "void_number": 2})],
        id="an authorisation that the void may not have found",
    ),
    param([*UNSURE, authorised(id="x")], voided(void_number=1), [], id="the answer to the void before it"),
    param([*UNSURE, authorised(id="x")], voided(void_number=2), [("payment_voided", {})], id="the answer to this void"),
    param(VOIDING, authorised(), [], id="the authorisation that is being voided"),
    param([*UNSURE, voided("rv0")], authorised(), [("void_requested", {"void_number": 2})], id="too late after a void"),
    param(DECLINED, authorised(), [("void_requested", {"amount_minor": 100})], id="too late after a decline"),
    param(
        VOIDING,
        failed(Step.VOID),
        [("payment_step_failed", {"failures": 1, "retry_at_ms": unix_ms(AT) + 60_000})],
        id="a void that fails is due again",
    ),
    param(
        [*VOIDING, failed(Step.VOID, id="x1"), failed(Step.VOID, id="x2")],
        failed(Step.VOID),
        [("payment_step_failed", {"failures": 3, "retry_at_ms": unix_ms(AT) + 240_000})],
        id="later each time",
    ),
    param(
        [*VOIDING, *(failed(Step.VOID, id=f"x{n}") for n in range(20))],
        failed(Step.VOID),
        [("payment_step_failed", {"retry_at_ms": unix_ms(AT) + 3_600_000})],
        id="but within the hour",
    ),
    param(VOIDING, retry(Step.VOID), [("void_requested", {"void_number": 1, "amount_minor": 100})], id="void again"),
    param(VOIDED, retry(Step.VOID), [], id="it was voided meanwhile"),
    param(VOIDED, failed(Step.VOID), [], id="a failure of what is done"),
    param(
        [*CAPTURING, failed(Step.CAPTURE, id="x1")],
        captured(60),
        [("payment_captured", {"captured_minor": 60, "excess_minor": 0, "version": 6})],
        id="a capture that seemed to have failed and came about before its void",
    ),
    param(
        [*CAPTURING, failed(Step.CAPTURE, id="x1")],
        captured(100),
        [("payment_captured", {"excess_minor": 40}), ("refund_requested", {"refund_id": "excess", "amount_minor": 40})],
        id="and was more than was asked",
    ),
    param(
        [*CAPTURING, failed(Step.CAPTURE, id="x1"), captured(60, "y1")], failed(Step.VOID), [], id="its void is moot"
    ),
    param(
        UNDONE,
        captured(60),
        [("payment_captured", {"captured_minor": 60, "excess_minor": 0, "version": 7})],
        id="a capture that seemed to have failed and came about after its void",
    ),
    param(
        UNDONE,
        captured(100),
        [("payment_captured", {"excess_minor": 40}), ("refund_requested", {"refund_id": "excess", "amount_minor": 40})],
        id="after its void, and more than was asked",
    ),
    param(
        UNDONE,
        captured(59),
        [("late_money_received", {}), ("refund_requested", {"refund_id": "late", "amount_minor": 59})],
        id="after its void, and less: it is not what was asked",
    ),
    param([*UNDONE, captured(60, "y1")], captured(60, "y2"), [], id="after its void, told twice"),
    param([*UNDONE, captured(60, "y1")], refund(60), [("refund_requested", {"amount_minor": 60})], id="and given back"),
    # money that comes too late
    param(
        VOIDED,
        captured(70),
        [
            ("late_money_received", {"amount_minor": 70, "captured_minor": 70}),
            ("refund_requested", {"refund_id": "late", "amount_minor": 70}),
        ],
        id="money after the void goes back",
    ),
    param(DECLINED, captured(), [("late_money_received", {}), ("refund_requested", {})], id="money after a decline"),
    param(
        UNSURE,
        captured(),
        [
            ("late_money_received", {"version": 3}),
            ("refund_requested", {"version": 4}),
            ("payment_voided", {"version": 5}),
        ],
        id="money during the void",
    ),
    param(LATE, captured(70, "again"), no(R.WRONG_AMOUNT), id="late money, another sum"),
    param(LATE, captured(100, "again"), [], id="late money, told twice"),
    # refund
    param(CAPTURED, refund(100), [("refund_requested", {"amount_minor": 100, "line": 2})], id="gives all back"),
    param(GIVING, refund(id="f2"), [], id="the same refund in another command"),
    param(GIVING, refunded(), [("payment_refunded", {"refunded_minor": 30, "line": 2, "outside": False})], id="given"),
    param(GIVEN, refunded(), [], id="given twice"),
    param(GIVEN, refund(70, "r2"), [("refund_requested", {"amount_minor": 70})], id="the rest"),
    param(
        [authorise(M.PREPAID)],
        refund(),
        [("payment_refunded", {"refunded_minor": 30, "outside": True})],
        id="paid elsewhere: a movement to be made outside",
    ),
    param(
        GIVING,
        failed(Step.REFUND, "r1"),
        [("payment_step_failed", {"refund_id": "r1", "retry_at_ms": unix_ms(AT) + 60_000})],
        id="a refund that fails is due again",
    ),
    param(
        [*GIVING, failed(Step.REFUND, "r1", "x1")],
        retry(Step.REFUND, "r1"),
        [("refund_requested", {"failures": 1, "amount_minor": 30})],
        id="refund again",
    ),
    param(GIVEN, retry(Step.REFUND, "r1"), [], id="it was given meanwhile"),
    param(GIVEN, failed(Step.REFUND, "r1"), [], id="a failure of what is given"),
    # money that the provider took back without a request
    param(
        CAPTURED,
        reversed_by(),
        [("reversal_recorded", {"kind": "chargeback", "amount_minor": 40, "reversal_id": "d1", "detail": "fraud"})],
        id="a chargeback",
    ),
    param(
        CAPTURED,
        reversed_by(100, kind=ReversalKind.REFUND),
        [("reversal_recorded", {"kind": "refund", "amount_minor": 100})],
        id="a refund of all in the dashboard",
    ),
    param(
        CAPTURED,
        reported(),
        [("reversal_recorded", {"kind": "refund", "amount_minor": 30, "reference": "cb-1"})],
        id="a refund under a key of ours that was not requested",
    ),
    param(GIVING, reported(refund_id="r1"), [("payment_refunded", {"refunded_minor": 30})], id="a requested refund"),
    param(GIVING, reversed_by(100), [("reversal_recorded", {})], id="a refund under way may fail"),
    param(LATE, reversed_by(100), [("reversal_recorded", {})], id="a chargeback of late money"),
    param(REVERSED, reversed_by(id="again"), [], id="the same reversal in another callback"),
    param(REVERSED, reversed_by(60, "rx2", "d2"), [("reversal_recorded", {})], id="a second reversal, of the rest"),
    param(
        REVERSED,
        resolved("reinstated"),
        [("reversal_resolved", {"outcome": "reinstated", "amount_minor": 40, "reason": "seen"})],
        id="a dispute that was won",
    ),
    param([*REVERSED, resolved(id="s0")], resolved(reason="twice"), [], id="settled twice in the same way"),
    param(
        [*REVERSED, resolved("reinstated", "s0")],
        reversed_by(100, "rx2", "d2"),
        [("reversal_recorded", {})],
        id="reinstated money can be taken again",
    ),
    # refusals, in the order in which they are checked
    param([], reversed_by(), no(R.NO_SUCH_PAYMENT), id="a chargeback of nothing"),
    param(CAPTURED, reversed_by(0), no(R.NOT_POSITIVE_AMOUNT), id="a chargeback of no money"),
    param(CAPTURED, reversed_by(BIG + 1), no(R.AMOUNT_ABOVE_LIMIT), id="a chargeback of more than there may be"),
    param([authorise(M.PREPAID)], reversed_by(), no(R.WRONG_SOURCE), id="a chargeback of what was paid elsewhere"),
    param(CAPTURED, reversed_by(user_id="u2"), no(R.WRONG_USER), id="a chargeback of somebody else"),
    param(CAPTURED, reversed_by(currency="USD"), no(R.WRONG_CURRENCY), id="a chargeback in another currency"),
    param(AUTHORISED, reversed_by(), no(R.NOT_CAPTURED), id="a chargeback before the capture"),
    param(CAPTURED, resolved(), no(R.NO_SUCH_REVERSAL), id="settles no reversal"),
    param(REVERSED, reversed_by(41, "y"), no(R.REVERSAL_EXISTS_WITH_DIFFERENT_CONTENT), id="the id, another amount"),
    param(
        REVERSED,
        reversed_by(id="y", kind=ReversalKind.REFUND),
        no(R.REVERSAL_EXISTS_WITH_DIFFERENT_CONTENT),
        id="the id, another kind",
    ),
    param(
        [*REVERSED, resolved(id="s0")],
        resolved("reinstated"),
        no(R.REVERSAL_ALREADY_RESOLVED),
        id="settled in another way",
    ),
    param(CAPTURED, reversed_by(101), no(R.AMOUNT_ABOVE_CAPTURED), id="a chargeback of more than was captured"),
    param(GIVEN, reversed_by(71), no(R.AMOUNT_ABOVE_CAPTURED), id="a chargeback of what was refunded"),
    param(REVERSED, reversed_by(61, "y", "d2"), no(R.AMOUNT_ABOVE_CAPTURED), id="what was reversed counts"),
    param(REVERSED, refund(61), no(R.AMOUNT_ABOVE_CAPTURED), id="no refund of what was charged back"),
    param(MANY, reversed_by(1), no(R.TOO_MANY_REVERSALS), id="more reversals than a payment may have"),
    param(REQUESTED, authorise(amount=0, id="x"), no(R.PAYMENT_EXISTS_WITH_DIFFERENT_CONTENT), id="another amount"),
    param(REQUESTED, authorise(id="x", user_id="u2"), no(R.PAYMENT_EXISTS_WITH_DIFFERENT_CONTENT), id="another user"),
    param(REQUESTED, authorise(id="x", expires_at_ms=1), no(R.PAYMENT_EXISTS_WITH_DIFFERENT_CONTENT), id="expiry"),
    param([], capture(0), no(R.NO_SUCH_PAYMENT), id="capture of nothing"),
    param([], authorised(), no(R.NO_SUCH_PAYMENT), id="an answer about nothing"),
    param([], authorise(amount=0), no(R.NOT_POSITIVE_AMOUNT), id="nothing to pay"),
    param([], authorise(amount=-1), no(R.NOT_POSITIVE_AMOUNT), id="less than nothing"),
    param(AUTHORISED, capture(0), no(R.NOT_POSITIVE_AMOUNT), id="captures nothing"),
    param(CAPTURED, refund(-1), no(R.NOT_POSITIVE_AMOUNT), id="refunds less than nothing"),
    param([], authorise(amount=BIG + 1), no(R.AMOUNT_ABOVE_LIMIT), id="more than there may be"),
    param(REQUESTED, authorised(BIG + 1), no(R.AMOUNT_ABOVE_LIMIT), id="an answer of more"),
    param(REQUESTED, authorised(source=Source.ACCOUNT), no(R.WRONG_SOURCE), id="not from an account"),
    param([authorise(M.ACCOUNT)], authorised(), no(R.WRONG_SOURCE), id="not from the provider"),
    param([authorise(M.PREPAID)], captured(), no(R.WRONG_SOURCE), id="from nobody"),
    param(REQUESTED, authorised(user_id="u2"), no(R.WRONG_USER), id="an answer about somebody else"),
    param(REQUESTED, authorised(currency="USD"), no(R.WRONG_CURRENCY), id="an answer in another currency"),
    param(DECLINED, capture(), no(R.ALREADY_DECLINED), id="capture of what was declined"),
    param(DECLINED, void(), no(R.ALREADY_DECLINED), id="void of what was declined"),
    param(VOIDING, capture(), no(R.ALREADY_VOIDED), id="capture during the void"),
    param(VOIDED, capture(), no(R.ALREADY_VOIDED), id="capture after the void"),
    param(VOIDED, void(), no(R.ALREADY_VOIDED), id="void after the void"),
    param(CAPTURING, capture(), no(R.ALREADY_CAPTURED), id="capture during the capture"),
    param(CAPTURED, void(), no(R.ALREADY_CAPTURED), id="void after the capture"),
    param(CAPTURED, declined(), no(R.ALREADY_CAPTURED), id="a decline after the money"),
    param(CAPTURED, voided(), no(R.ALREADY_CAPTURED), id="voided after the money"),
    param(AUTHORISED, declined(), no(R.ALREADY_AUTHORISED), id="an older decline"),
    param(CAPTURING, declined(), no(R.ALREADY_AUTHORISED), id="an older decline during the capture"),
    param(REQUESTED, capture(), no(R.NOT_AUTHORISED), id="capture before the answer"),
    param(AUTHORISED, capture(101), no(R.AMOUNT_ABOVE_AUTHORISED), id="captures more than authorised"),
    param(AUTHORISED, refund(), no(R.NOT_CAPTURED), id="refund of what was not captured"),
    param(CAPTURED, refunded(), no(R.NO_SUCH_REFUND), id="the answer to no refund"),
    param(CAPTURED, failed(Step.REFUND, "r1"), no(R.NO_SUCH_REFUND), id="the failure of no refund"),
    param(GIVING, refund(31), no(R.REFUND_EXISTS_WITH_DIFFERENT_CONTENT), id="the same refund, another amount"),
    param(GIVING, refund(line=1), no(R.REFUND_EXISTS_WITH_DIFFERENT_CONTENT), id="the same refund, another line"),
    param(CAPTURED, refund(101), no(R.AMOUNT_ABOVE_CAPTURED), id="refunds more than captured"),
    param(GIVING, refund(71, "r2"), no(R.AMOUNT_ABOVE_CAPTURED), id="what is being given back counts"),
    param(GIVEN, refund(71, "r2"), no(R.AMOUNT_ABOVE_CAPTURED), id="what was given back counts"),
    param(LATE, refund(1, "r2"), no(R.AMOUNT_ABOVE_CAPTURED), id="late money goes back by itself"),
    param(REQUESTED, authorised(99), no(R.WRONG_AMOUNT), id="less was authorised"),
    param(REQUESTED, authorised(101), no(R.WRONG_AMOUNT), id="more was authorised"),
    param(REQUESTED, captured(99), no(R.WRONG_AMOUNT), id="less was paid"),
    param(AUTHORISED, captured(101), no(R.WRONG_AMOUNT), id="more was paid"),
    param(CAPTURING, captured(59), no(R.WRONG_AMOUNT), id="less was taken than asked"),
    param(CAPTURED, captured(99), no(R.WRONG_AMOUNT), id="another sum later"),
    param(GIVING, refunded(29), no(R.WRONG_AMOUNT), id="another sum was given back"),
    param([], void(), no(R.NO_SUCH_PAYMENT), id="void of nothing"),
]


@mark.parametrize(("past", "command", "expected"), ROWS)
def test_payments(past: list[PaymentCommand], command: PaymentCommand, expected: list[Said]) -> None:
    history = Past(past)
    before = history.payment
    said = history.tell(command)
    assert [event.type for event in said] == [kind for kind, _ in expected]
    for n, (event, (_, told)) in enumerate(zip(said, expected, strict=True)):
        seen = event.model_dump(mode="json")
        assert {name: seen[name] for name in told} == told
        assert (event.event_id, event.caused_by) == (event_id_for(command.command_id, n), command.command_id)
        assert read_event(event.model_dump_json().encode()) == event
    versions = [event.version for event in said if event.type != "payment_command_refused"]
    first = (before.version if before else 0) + 1
    assert versions == list(range(first, first + len(versions)))
    assert history.tell(command) == (), "the same command again says nothing"
    if said and history.payment:
        assert Payment.from_json(history.payment.to_json()) == history.payment
        assert history.payment.attempts == (before.attempts if before else 0) + len(said)


def test_every_refusal_every_event_and_every_command_has_its_row() -> None:
    said = [told for row in ROWS for told in row.values[2]]
    assert {told["reason"] for kind, told in said if kind == "payment_command_refused"} == set(PaymentRefusal)
    assert {kind for kind, _ in said} == {event.model_fields["type"].default for event in get_args(PaymentEvent)}
    commands = {type(row.values[1]) for row in ROWS}
    assert commands == set(get_args(get_args(PaymentCommand)[0]))


def test_a_payment_after_its_events() -> None:
    history = Past([*GIVING, refund(20, "r2", "f2"), refunded(id="rr0")])
    payment = history.payment
    assert payment is not None and payment.status is S.CAPTURED
    figures = (payment.captured_minor, payment.refunding_minor, payment.refunded_minor)
    assert figures == (100, 20, 30)
    assert {id: each.state for id, each in history.refunds.items()} == {"r1": "refunded", "r2": "requested"}
    late = Past([*LATE]).payment
    assert late is not None and (late.status, late.captured_minor, late.refunding_minor) == (S.VOIDED, 100, 100)


def test_reversals_are_kept_apart_from_requested_refunds() -> None:
    history = Past([*GIVEN, reversed_by(id="rx0"), reversed_by(10, "rx1", "d2", kind=ReversalKind.REFUND)])
    payment = history.payment
    assert payment is not None
    assert (payment.captured_minor, payment.refunding_minor, payment.refunded_minor) == (100, 0, 30)
    sums = (payment.reversed_minor(ReversalKind.CHARGEBACK), payment.reversed_minor(ReversalKind.REFUND))
    assert sums == (40, 10) and [each.reversal_id for each in payment.unresolved()] == ["d1", "d2"]
    assert all(not react(event) for event in history.tell(resolved("reinstated")))
    assert history.payment is not None and history.payment.reversed_minor() == 10
    assert [each.reversal_id for each in history.payment.unresolved()] == ["d2"]


def test_a_row_without_reversals_is_as_it_was_before_there_were_any() -> None:
    payment = Past(CAPTURED).payment
    assert payment is not None and b"reversals" not in payment.to_json()


def test_a_record_of_a_refund_is_as_it_was_and_reads_as_it_did() -> None:
    assert b"reversal_id" not in refunded().model_dump_json().encode()
    (event,) = Past(CAPTURED).tell(refunded())
    assert event.type == "payment_command_refused", "a replay of old records decides as it did"


def test_a_retry_does_not_count_the_money_twice() -> None:
    history = Past([*GIVING, failed(Step.REFUND, "r1", "x1"), retry(Step.REFUND, "r1")])
    assert history.payment is not None and history.payment.refunding_minor == 30


def test_what_time_sends_follows_from_the_event() -> None:
    (asked,) = Past([]).tell(authorise(expires_at_ms=5))
    assert isinstance(asked, PaymentRequested) and expiry_of(asked) == expiry_of(asked)
    assert (expiry_of(asked).order_uid, expiry_of(asked).reason) == (UID, "expired")
    (failure,) = Past(GIVING).tell(failed(Step.REFUND, "r1"))
    assert isinstance(failure, PaymentStepFailed)
    assert (retry_of(failure).step, retry_of(failure).refund_id) == (Step.REFUND, "r1")
    assert retry_of(failure).command_id != expiry_of(asked).command_id


@mark.parametrize("method", [M.PROVIDER, M.PREPAID, M.CASH_ON_DELIVERY])
def test_no_account_is_asked_for_what_is_not_paid_from_one(method: PaymentMethod) -> None:
    asked = [command for event in Past([]).tell(authorise(method)) for command in react(event)]
    assert not any(isinstance(command, HoldFunds) for command in asked)


READ: TypeAdapter[PaymentCommand] = TypeAdapter(PaymentCommand)


@mark.parametrize(
    "wrong",
    [
        {"type": "authorise_payment", "method": "barter"},
        {"type": "authorise_payment", "order_uid": "a b"},
        {"type": "authorise_payment", "amount_minor": 1.0},
        {"type": "authorise_payment", "currency": "XXX"},
        {"type": "authorise_payment", "user_id": "a\0b"},
        {"type": "refund_payment", "refund_id": "", "reason": "x"},
        {"type": "refund_payment", "refund_id": "r", "reason": "x", "line": 0},
        {"type": "void_payment", "reason": "Because of you"},
        {"type": "retry_step", "step": "capture"},
        {"type": "record_authorisation", "source": "rumour"},
        {"type": "record_failure", "source": "provider", "step": "authorise", "reason": "x"},
        {"type": "mint"},
    ],
)
def test_what_is_no_command(wrong: dict[str, Any]) -> None:
    whole = {"command_id": "x", "order_uid": UID, "amount_minor": 1, "user_id": "u", "currency": "INR"}
    with pytest.raises(ValidationError):
        READ.validate_python({**whole, "method": "account", **wrong})
