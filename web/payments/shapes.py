"""states of payments -> what callers see of them."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from schemas.base import ORDER_UID_PATTERN
from schemas.payments import Attempt, Payment, Refund
from schemas.reversals import ReversalKind
from web import problems
from web.problems import Problem

HOME = "/api/v1/payments"

_ORDER_UID = re.compile(ORDER_UID_PATTERN)
_SHOWN = (
    *("order_uid", "user_id", "method", "instrument", "amount_minor", "currency", "status", "reason"),
    *("authorised_minor", "captured_minor", "refunding_minor", "refunded_minor"),
    *("version", "requested_at", "updated_at"),
)


def present(payment: Payment) -> dict[str, Any]:
    """A payment as callers see it."""
    unresolved = payment.unresolved()
    return {
        **{name: getattr(payment, name) for name in _SHOWN},
        "expires_at_ms": payment.expires_at_ms,
        "unrequested_refund_minor": payment.reversed_minor(ReversalKind.REFUND),
        "charged_back_minor": payment.reversed_minor(ReversalKind.CHARGEBACK),
        "disputed": any(each.kind is ReversalKind.CHARGEBACK for each in unresolved),
        "unresolved_reversals": len(unresolved),
        "reversals": [each._asdict() for each in payment.reversals],
    }


def present_refund(refund: Refund) -> dict[str, Any]:
    return refund._asdict()


def present_attempt(attempt: Attempt) -> dict[str, Any]:
    return attempt._asdict()


def order_uid(request: web.Request) -> str:
    """The order that the address names. What cannot be an order_uid has no payment."""
    given = request.match_info["order_uid"]
    if not _ORDER_UID.fullmatch(given):
        raise no_such_payment(given[:64])
    return given


def no_such_payment(order_uid: str) -> Problem:
    return Problem(problems.NO_SUCH_PAYMENT, f"The order {order_uid} has no payment.")
