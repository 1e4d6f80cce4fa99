"""POST of the payment provider's callback -> its signature checked -> a Record… command -> what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from schemas.base import derived_id
from schemas.payments import (
    REFUND_ID,
    DeclineReason,
    PaymentRefusal,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    Recorded,
    RecordRefund,
    RecordReversal,
    RecordVoid,
    Source,
)
from schemas.provider import SIGNATURE, Callback, ProviderStatus, Signed, refund_of, signature_fault
from schemas.reversals import ReversalKind
from web import answers, body, problems, reading
from web.asking import Desk
from web.commands import Commands, accepted, outcome_of, send
from web.limits import Limits
from web.payments import shapes
from web.payments.questions import PaymentQuestions
from web.problems import Problem

#: Reports of money that has left. A refusal is recorded too, so the answer is 200: the provider cannot undo it.
_MOVED_BACK = {ProviderStatus.REFUNDED, ProviderStatus.CHARGED_BACK}


class Callbacks:
    """The handler. What it takes in is on the log before it answers: the provider may forget it then."""

    def __init__(
        self,
        desk: Desk,
        questions: PaymentQuestions,
        commands: Commands,
        secret: Callable[[], str | None],
        limits: Limits,
    ) -> None:
        """`secret` is asked each time: where the provider is may be known later than the worker starts."""
        self._desk, self._questions, self._commands = desk, questions, commands
        self._secret, self._limits = secret, limits

    async def take(self, request: web.Request) -> web.Response:
        """POST /api/v1/orders/payment-callback"""
        reading.only(request)
        raw = await body.read(request, self._limits, self._limits.small_body_bytes)
        self._check(raw, request)
        reported = await body.parse(request, raw, Callback, self._limits)
        command = command_of(reported)
        if command is None:
            return answers.answer(200, {"order_id": reported.order_id, "outcome": "pending"})
        position = await send(self._commands, command.order_uid, command)
        key, wait_s = command.order_uid, self._limits.outcome_wait_s
        args = {"order_uid": key, "command_id": command.command_id}
        told = await outcome_of(self._desk, self._questions.outcome, key, args, after=position, wait_s=wait_s)
        if told is None:
            return accepted({"order_id": key}, f"{shapes.HOME}/{key}", command.command_id, position)
        first = told.meta["answer"]
        refusal = None if first is None else first["reason"]
        if refusal is not None and reported.status not in _MOVED_BACK:
            raise _refused(command, first)
        outcome = "nothing_new" if first is None else first["type"]
        status = told.meta["payment"]["status"] if told.meta["payment"] else None
        told_back = {"order_id": key, "outcome": outcome, "status": status, "position": str(position)}
        return answers.answer(200, told_back if refusal is None else {**told_back, "reason": refusal})

    def _check(self, raw: bytes, request: web.Request) -> None:
        secret = self._secret()
        if secret is None:
            raise Problem(problems.BAD_SIGNATURE, "No payment provider is configured here, so nobody can sign.")
        given = request.headers.getall(SIGNATURE, [])
        header = given[0] if len(given) == 1 else None
        about = Signed(request.method, request.path, request.headers.get("Idempotency-Key", ""))
        fault = signature_fault(secret, raw, header, time.time(), self._limits.callback_window_s, about)
        if fault is not None:
            raise Problem(problems.BAD_SIGNATURE, fault)


def command_of(told: Callback) -> Recorded | None:
    """The command that a callback comes to; its id follows from the callback's. None: nothing is decided yet."""
    said: dict[str, Any] = {
        "command_id": derived_id(f"callback {told.order_id} {told.id} {told.status}"),
        "order_uid": told.order_id,
        "source": Source.CALLBACK,
        "user_id": told.user_id,
        "currency": told.currency,
        "reference": told.id,
    }
    refund_id = _refund_id_of(told)
    match told.status:
        case ProviderStatus.PENDING:
            return None
        case ProviderStatus.AUTHORISED:
            return RecordAuthorisation(**said, amount_minor=told.amount)
        case ProviderStatus.CAPTURED:
            return RecordCapture(**said, amount_minor=told.amount)
        case ProviderStatus.DECLINED if _of_authorisation(told):
            return RecordDecline(**said, reason=DeclineReason.DECLINED_BY_PROVIDER, detail=told.reason)
        case ProviderStatus.DECLINED:
            return None  # of a capture, void or refund: its own answer said so, and is acted on
        case ProviderStatus.VOIDED:
            return RecordVoid(**said, void_number=_void_of(told))
        case ProviderStatus.REFUNDED:
            if refund_id is None:
                return _reversal(told, ReversalKind.REFUND, said)
            return RecordRefund(
                **said, refund_id=refund_id, amount_minor=told.amount, reversal_id=told.movement_id or told.id
            )
        case ProviderStatus.CHARGED_BACK:
            return _reversal(told, ReversalKind.CHARGEBACK, said)


def _reversal(told: Callback, kind: ReversalKind, said: dict[str, Any]) -> RecordReversal:
    reversal_id = told.movement_id or told.id
    return RecordReversal(**said, kind=kind, reversal_id=reversal_id, amount_minor=told.amount, detail=told.reason)


def _refund_id_of(told: Callback) -> str | None:
    """The refund of ours that the callback names; a key that no request of ours can have had names none."""
    refund_id = refund_of(told.idempotency_key, told.order_id)
    return refund_id if refund_id and REFUND_ID.fullmatch(refund_id) else None


def _of_authorisation(told: Callback) -> bool:
    return told.idempotency_key in (None, f"{told.order_id}:authorise")


def _void_of(told: Callback) -> int | None:
    key = told.idempotency_key or ""
    number = key.removeprefix(f"{told.order_id}:void:")
    return int(number) if number != key and number.isascii() and number.isdigit() and len(number) < 10 else None


def _refused(command: Recorded, first: dict[str, Any]) -> Problem:
    reason = PaymentRefusal(first["reason"])
    if reason is PaymentRefusal.NO_SUCH_PAYMENT:
        return shapes.no_such_payment(command.order_uid)
    headers = {"ETag": answers.etag(first["version"])}
    return Problem(problems.PAYMENT_REFUSED, _WORDS.get(reason, _OTHERWISE), headers=headers, reason=reason)


_OTHERWISE = "What the callback says does not fit the payment as it stands."
_WORDS = {
    PaymentRefusal.WRONG_AMOUNT: "The amount is not the payment's. It is among the payment's attempts.",
    PaymentRefusal.WRONG_CURRENCY: "The payment is in another currency.",
    PaymentRefusal.WRONG_USER: "The payment is another user's.",
    PaymentRefusal.WRONG_SOURCE: "The payment is not made through the provider.",
}
