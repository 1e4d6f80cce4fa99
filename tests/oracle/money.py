"""payments.commands.v1 and its events -> each payment's moves and sums held to what may be; who was silent, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.oracle.bought import Told
from tests.oracle.verdict import Kind, Verdict

CHECK = "payments"
ASKED = ("account", "provider")
CLOSED = ("declined", "voided")
REFUSED = "payment_command_refused"

#: event -> statuses that it may meet -> the status after it; None: as before. A payment that is not there is "".
MOVES: dict[str, dict[str, str | None]] = {
    "payment_requested": {"": "requested"},
    "payment_authorised": {"requested": "authorised"},
    "payment_declined": {"requested": "declined"},
    "capture_requested": {"authorised": "capturing"},
    "payment_captured": {
        "authorised": "captured",
        "capturing": "captured",
        "voiding": "captured",
        "voided": "captured",
    },
    "void_requested": dict.fromkeys(
        ("requested", "authorised", "capturing", "declined", "voiding", "voided"), "voiding"
    ),
    "payment_voided": dict.fromkeys(("requested", "authorised", "capturing", "voiding"), "voided"),
    "late_money_received": dict.fromkeys(("declined", "voiding", "voided")),
    "refund_requested": dict.fromkeys(("captured", "declined", "voiding", "voided")),
    "payment_refunded": dict.fromkeys(("captured", "declined", "voiding", "voided")),
    "reversal_recorded": dict.fromkeys(("captured", "declined", "voiding", "voided")),
    "reversal_resolved": dict.fromkeys(("captured", "declined", "voiding", "voided")),
    "payment_step_failed": dict.fromkeys(("capturing", "captured", "declined", "voiding", "voided")),
}
#: refusal -> whether a payment (None: there is none) can be refused so.
STATUSES: dict[str, tuple[str, ...]] = {
    "already_declined": ("declined",),
    "already_voided": ("voiding", "voided"),
    "already_captured": ("capturing", "captured"),
    "already_authorised": ("authorised", "capturing"),
    "not_authorised": ("requested",),
}


@dataclass(slots=True)
class Refund:
    amount: int
    done: bool = False


@dataclass(slots=True)
class Payment:
    """A payment after the events so far."""

    order_uid: str
    user_id: str
    method: str
    amount: int
    currency: str
    status: str = ""
    version: int = 0
    authorised: int = 0
    capturing: int = 0
    captured: int = 0
    voids: int = 0
    refunds: dict[str, Refund] = field(default_factory=dict)
    #: Why a step was given up, if one was: the provider may never have heard of it then.
    failures: set[str] = field(default_factory=set)

    @property
    def refunded(self) -> int:
        return sum(refund.amount for refund in self.refunds.values() if refund.done)

    @property
    def asked_back(self) -> int:
        return sum(refund.amount for refund in self.refunds.values())

    @property
    def unfinished(self) -> str | None:
        """What is still to happen, whatever anybody says."""
        if self.status in ("requested", "capturing", "voiding"):
            return f"it is {self.status}"
        open_refunds = [id for id, refund in self.refunds.items() if not refund.done]
        return f"refund {open_refunds[0]} is under way" if open_refunds else None


@dataclass
class Money:
    """All payments by their events."""

    payments: dict[str, Payment] = field(default_factory=dict)

    def judge(self, home: list[Told], verdict: Verdict) -> None:
        for told in home:
            payment = self.payments.get(told.said["order_uid"])
            if payment is not None and told.said["type"] in ("record_decline", "record_failure"):
                payment.failures.add(told.said["reason"])
            if not told.events and not told.again and (why := _must_speak(payment, told.said)):
                verdict.add(Kind.LOST, CHECK, told, f"it led to nothing: {why}")
            for event in told.events:
                self._take(event, told, verdict)
        for uid, payment in self.payments.items():
            verdict.looked(CHECK)
            if not 0 <= payment.refunded <= payment.asked_back <= payment.captured:
                sums = f"{payment.captured} captured, {payment.asked_back} asked back, {payment.refunded} refunded"
                verdict.add(Kind.WRONG, "money of payments", uid, sums)

    def _take(self, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
        uid, kind = event["order_uid"], event["type"]
        payment = self.payments.get(uid)
        if kind == REFUSED:
            _judge_refusal(payment, event, told, verdict)
            return
        moves = MOVES.get(kind, {})
        before = payment.status if payment else ""
        if before not in moves:
            verdict.add(Kind.WRONG, "moves of payments", told, f"{kind} meets one that is {before or 'not there'}")
            return
        if payment is None:
            payment = self.payments[uid] = Payment(
                uid, event["user_id"], event["method"], event["amount_minor"], event["currency"]
            )
        payment.status = moves[before] or before
        payment.version += 1
        verdict.equal("versions of payments", told, payment.version, event["version"])
        who = (event["user_id"], event["method"], event["currency"])
        verdict.equal(CHECK, told, (payment.user_id, payment.method, payment.currency), who)
        _sums(payment, before, event, told, verdict)


def _sums(payment: Payment, before: str, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
    """What an event says of money must fit what was said before."""

    def fits(right: bool, what: str) -> None:
        if not right:
            verdict.add(Kind.WRONG, "money of payments", told, f"{event['type']}: {what}, {payment}")

    amount = event.get("amount_minor", 0)
    match event["type"]:
        case "payment_authorised":
            fits(amount == payment.amount, f"{amount} authorised")
            payment.authorised = amount
        case "capture_requested":
            fits(0 < amount <= payment.authorised, f"{amount} to be captured")
            payment.capturing = amount
        case "payment_captured" | "late_money_received":
            fits(payment.captured == 0, "captured a second time")
            fits(event["captured_minor"] == amount, "two figures")
            late = event["type"] == "late_money_received"
            fits(late or amount >= payment.capturing or payment.method not in ASKED, "less than was asked")
            # A capture that seemed to have failed is the order's when it comes about, also after its void.
            fits(late or before != "voided" or payment.capturing > 0, "captured, voided and never asked for")
            given_up = before in ("voiding", "voided") and 0 < payment.capturing <= amount
            fits(not (late and given_up), "given back, and the order has asked for it")
            payment.captured = amount
        case "void_requested":
            fits(event["void_number"] in (payment.voids, payment.voids + 1), "another void")
            payment.voids, payment.authorised = event["void_number"], amount
        case "refund_requested" | "payment_refunded":
            refund = payment.refunds.setdefault(event["refund_id"], Refund(amount))
            fits(refund.amount == amount and not refund.done, f"refund {event['refund_id']} of {amount}")
            refund.done = event["type"] == "payment_refunded"
            fits(not refund.done or event["refunded_minor"] == payment.refunded, "the sum of refunds")


def _judge_refusal(payment: Payment | None, event: dict[str, Any], told: Told, verdict: Verdict) -> None:
    verdict.looked("refusals of payments")
    reason = event["reason"]
    verdict.equal("versions of payments", told, payment.version if payment else 0, event["version"])
    right = (payment is None) == (reason == "no_such_payment")
    if payment is not None and reason in STATUSES:
        right = payment.status in STATUSES[reason]
    if payment is not None and reason == "wrong_amount":
        said = told.said.get("amount_minor")
        known = {payment.amount, payment.capturing, payment.captured}
        refund = payment.refunds.get(told.said.get("refund_id", ""))
        right = said not in ({refund.amount} if refund else known - {0})
    if not right:
        verdict.add(Kind.WRONG, "refusals of payments", told, f"{reason} of {payment}")


def _must_speak(payment: Payment | None, said: dict[str, Any]) -> str | None:
    """Why a command that led to nothing had something to say; None: it had not."""
    kind = said["type"]
    if payment is None:
        return "there is no payment"
    refund = payment.refunds.get(said.get("refund_id") or "")
    match kind:
        case "authorise_payment" | "retry_step":
            return None  # the same again, or the step has come about
        case "capture_payment" | "void_payment":
            return "it is asked for"
        case "refund_payment":
            return None if refund else "it is asked for"
        case "record_authorisation" | "record_decline":
            return "nothing is known yet" if payment.status == "requested" else None
        case "record_capture":
            return None if payment.captured else "no money was known of"
        case "record_refund":
            return None if refund is not None and refund.done else "the refund is open"
        case "record_void":
            other = payment.status == "voiding" and said.get("void_number") not in (None, payment.voids)
            return None if payment.status in CLOSED or other else f"it is {payment.status}"
        case "record_failure":
            step = said["step"]
            open_refund = step == "refund" and refund is not None and not refund.done
            waits = {"capture": "capturing", "void": "voiding"}.get(step) == payment.status
            return f"{step} is under way" if waits or open_refund else None
    return None
