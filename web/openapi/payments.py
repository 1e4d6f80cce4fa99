"""what the addresses of payments take and answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.accounts import Currency, UserId
from schemas.base import OrderUid, rfc3339
from schemas.payments import PaymentMethod, PaymentStatus, RefundId, RefundState
from schemas.provider import Callback
from schemas.reversals import ReversalKind, ReversalOutcome
from web import problems
from web.openapi.models import Cursor, PositionText, Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, Operation, Success


class RefundView(Shape):
    """Money that was given back, or is about to be."""

    refund_id: RefundId
    amount_minor: int = Field(ge=1)
    line: int | None = Field(description="The line of the order that it is for, from 1.")
    reason: str
    state: RefundState
    failures: int = Field(ge=0, description="How often it has failed; it is tried again.")
    requested_at: Rfc3339
    refunded_at: Rfc3339 | None


class ReversalView(Shape):
    """Captured money that the provider took back without a request of this platform."""

    reversal_id: str = Field(description="The provider's id of the refund or dispute.")
    kind: ReversalKind
    amount_minor: int = Field(ge=1)
    reference: str | None = Field(description="The id of the callback that reported it.")
    detail: str | None = Field(description="The provider's reason.")
    recorded_at: Rfc3339
    outcome: ReversalOutcome | None = Field(description="Null: a person must settle it.")
    reason: str | None = Field(description="The reason of the person who settled it.")
    resolved_at: Rfc3339 | None


class AttemptView(Shape):
    """What was asked, answered or refused."""

    number: int = Field(ge=1)
    type: str = Field(description="The event; `payment_command_refused` for what changed nothing.")
    status: PaymentStatus = Field(description="Of the payment after it.")
    amount_minor: int | None
    refund_id: str | None
    reason: str | None
    detail: str | None
    source: str | None = Field(description="Who said so: account, provider, callback.")
    reference: str | None = Field(description="What they call it.")
    command: str
    caused_by: str
    occurred_at: Rfc3339


class PaymentDetails(Shape):
    """An order's payment as it stands, its refunds, and a page of its attempts, oldest first."""

    order_uid: OrderUid
    user_id: UserId
    method: PaymentMethod
    instrument: str | None
    amount_minor: int = Field(ge=1, description="In minor units of the currency, as all amounts.")
    currency: Currency
    status: PaymentStatus
    reason: str | None = Field(description="Of a decline or a void.")
    authorised_minor: int = Field(ge=0)
    captured_minor: int = Field(ge=0)
    refunding_minor: int = Field(ge=0, description="Asked to be given back, and not given back yet.")
    refunded_minor: int = Field(ge=0)
    version: int = Field(ge=1)
    requested_at: Rfc3339
    updated_at: Rfc3339
    expires_at_ms: int | None = Field(description="Unix time in milliseconds; what is not captured by then is voided.")
    unrequested_refund_minor: int = Field(
        ge=0, description="Refunded by the provider without a request of this platform; not in `refunded_minor`."
    )
    charged_back_minor: int = Field(ge=0, description="Taken by chargebacks and not reinstated.")
    disputed: bool = Field(description="A chargeback is not settled.")
    unresolved_reversals: int = Field(ge=0, description="How many entries of `reversals` a person must settle.")
    reversals: list[ReversalView] = Field(description="At most 100.")
    refunds: list[RefundView]
    attempts: list[AttemptView]
    next_cursor: Cursor


class CallbackBody(Callback):
    """What the payment provider calls back with. Unknown members are ignored."""


class CallbackOutcome(Shape):
    """What a callback came to."""

    order_id: OrderUid
    outcome: str = Field(description="The event that followed; `nothing_new`; `pending`: nothing is decided.")
    status: PaymentStatus | None = Field(None, description="Of the payment, as it stands now.")
    position: PositionText | None = None
    reason: str | None = Field(None, description="Why a report of refunded or charged back money was refused.")


class AcceptedCallback(Shape):
    """The callback is written down and will be applied; its outcome was not known in time."""

    order_id: OrderUid
    position: PositionText
    command_id: str
    outcome: str = Field(description="Address that answers once it is applied.")


MODELS = (RefundView, ReversalView, AttemptView, PaymentDetails, CallbackBody, CallbackOutcome, AcceptedCallback)

OPERATIONS = (
    Operation(
        "getPayment",
        "payments",
        "Look an order's payment up",
        "How it stands, what was captured and given back, and every attempt. Any worker answers for any payment.",
        {200: Success("The payment.", PaymentDetails)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_PAYMENT, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("order_uid", "min_offset", "as_of", "timeline_limit", "cursor"),
    ),
    Operation(
        "paymentCallback",
        "payments",
        "The payment provider's callback",
        "Signed with the secret shared with the provider: Orderstream-Signature is `t=<Unix seconds>,v1=<hex>`, the"
        " HMAC-SHA256 of `<t>.<body>`. It may come again, late, out of order, and before the answer to the request.",
        {
            200: Success("Taken in.", CallbackOutcome),
            202: Success(
                "Written down, and not known to be applied when the wait ran out. It need not be sent again.",
                AcceptedCallback,
                headers=("Location", "Orderstream-Position", "Retry-After"),
            ),
        },
        (
            problems.BAD_SIGNATURE,
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.NO_SUCH_PAYMENT,
            problems.PAYMENT_REFUSED,
            problems.INVALID_DOCUMENT,
            problems.BAD_JSON,
            problems.BAD_PARAMETER,
            problems.REQUEST_TIMEOUT,
            problems.TOO_LARGE,
            *EVERYWHERE,
        ),
        ("Orderstream-Signature",),
        CallbackBody,
    ),
)

_UID, _AT = "b563feb7b2b84b6test", rfc3339(1_795_262_400_000)
_POSITION, _COMMAND = "payments.commands.v1-2-17", "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"
_REFUND = {
    "refund_id": "return-1",
    "amount_minor": 1200,
    "line": 2,
    "reason": "returned",
    "state": "refunded",
    "failures": 0,
    "requested_at": _AT,
    "refunded_at": _AT,
}
_REVERSAL = {
    "reversal_id": "dispute-3",
    "kind": "chargeback",
    "amount_minor": 800,
    "reference": "cb-91",
    "detail": "fraudulent",
    "recorded_at": _AT,
    "outcome": None,
    "reason": None,
    "resolved_at": None,
}
_ATTEMPT = {
    "number": 2,
    "type": "payment_authorised",
    "status": "authorised",
    "amount_minor": 5000,
    "refund_id": None,
    "reason": None,
    "detail": None,
    "source": "provider",
    "reference": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d",
    "command": "record_authorisation",
    "caused_by": _COMMAND,
    "occurred_at": _AT,
}
EXAMPLES: dict[str, Any] = {
    "RefundView": _REFUND,
    "ReversalView": _REVERSAL,
    "AttemptView": _ATTEMPT,
    "PaymentDetails": {
        "order_uid": _UID,
        "user_id": "test",
        "method": "provider",
        "instrument": "upi",
        "amount_minor": 5000,
        "currency": "INR",
        "status": "captured",
        "reason": None,
        "authorised_minor": 5000,
        "captured_minor": 5000,
        "refunding_minor": 0,
        "refunded_minor": 1200,
        "version": 6,
        "requested_at": _AT,
        "updated_at": _AT,
        "expires_at_ms": None,
        "unrequested_refund_minor": 0,
        "charged_back_minor": 800,
        "disputed": True,
        "unresolved_reversals": 1,
        "reversals": [_REVERSAL],
        "refunds": [_REFUND],
        "attempts": [_ATTEMPT],
        "next_cursor": None,
    },
    "CallbackBody": {
        "id": "cb-77",
        "user_id": "test",
        "order_id": _UID,
        "amount": 5000,
        "status": "authorised",
        "idempotency_key": f"{_UID}:authorise",
        "created_at": _AT,
    },
    "CallbackOutcome": {
        "order_id": _UID,
        "outcome": "payment_authorised",
        "status": "authorised",
        "position": _POSITION,
    },
    "AcceptedCallback": {
        "order_id": _UID,
        "position": _POSITION,
        "command_id": _COMMAND,
        "outcome": f"/api/v1/payments/{_UID}?min_offset={_POSITION}",
    },
}
DETAILS = {
    "bad-signature": "The signature does not fit the body and the secret.",
    "no-such-payment": f"The order {_UID} has no payment.",
    "payment-refused": "The amount is not the payment's. It is among the payment's attempts.",
}
MEMBERS = {"payment-refused": {"reason": "wrong_amount"}}
