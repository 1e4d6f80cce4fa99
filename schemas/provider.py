"""An outside payment service: what it is asked, what it answers, what it calls back with, and how both are signed.

Every request has an `Idempotency-Key` that stays the same however often it is sent; the same key gets the same answer,
except that what was refused may be asked again. Requests and callbacks carry `Orderstream-Signature: t=<Unix seconds>,
v1=<hex of HMAC-SHA256 over "<t>.<body>">`, as Stripe's do.
"""

from __future__ import annotations

import hmac
import re
from enum import StrEnum
from hashlib import sha256
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from schemas.accounts import Currency, UserId
from schemas.base import Model, OrderUid
from schemas.orders.document import RFC3339_PATTERN
from schemas.payments import RefundId

SIGNATURE = "Orderstream-Signature"
_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")

Amount = Annotated[int, Field(ge=0, le=2**53 - 1, description="In minor units.", examples=[5000])]


class ProviderStatus(StrEnum):
    """Where a payment, or a refund, stands with the provider."""

    AUTHORISED = "authorised"
    CAPTURED = "captured"
    DECLINED = "declined"
    PENDING = "pending"
    VOIDED = "voided"
    REFUNDED = "refunded"


class AuthorisationAsked(Model):
    """POST /payments"""

    order_id: OrderUid
    user_id: UserId
    amount: Amount
    currency: Currency
    instrument: str | None


class CaptureAsked(Model):
    """POST /payments/{order_id}/capture"""

    amount: Amount


class VoidAsked(Model):
    """POST /payments/{order_id}/void"""


class RefundAsked(Model):
    """POST /payments/{order_id}/refunds"""

    refund_id: RefundId
    amount: Amount


class ProviderAnswer(Model):
    """How it stands after what was asked. `captured`: the money has been taken, whatever was asked for."""

    id: str = Field(min_length=1, max_length=128, description="The provider's own name for it.")
    status: ProviderStatus
    amount: Amount
    reason: Annotated[str, Field(max_length=256)] | None = None


class Callback(Model):
    """What the provider calls back with, whenever it likes, as often as it likes."""

    model_config = ConfigDict(strict=True)

    id: Annotated[
        str, Field(min_length=1, max_length=128, description="Names the callback: the same again is no news.")
    ]
    user_id: UserId
    order_id: OrderUid
    amount: Amount
    status: Annotated[ProviderStatus, Field(strict=False)]
    idempotency_key: Annotated[
        str | None, Field(max_length=160, description="That of the request it is about, if it is about one.")
    ] = None
    created_at: Annotated[str, Field(pattern=RFC3339_PATTERN, max_length=40)]
    reason: Annotated[str, Field(max_length=256)] | None = None


def key_of(order_uid: str, step: str, which: str | int | None = None) -> str:
    """The idempotency key of a request: it follows from what is asked, so that it is the same in every attempt."""
    return f"{order_uid}:{step}" if which is None else f"{order_uid}:{step}:{which}"


def refund_of(key: str | None, order_uid: str) -> str | None:
    """The refund that a request of ours was about, by its key."""
    begins = key_of(order_uid, "refund", "")
    return key[len(begins) :] or None if key and key.startswith(begins) else None


def sign(secret: str, body: bytes, at_s: int) -> str:
    """The header for a body at a moment."""
    return f"t={at_s},v1={_mac(secret, body, at_s)}"


def signature_fault(secret: str, body: bytes, header: str | None, now_s: float, window_s: float) -> str | None:
    """What is wrong with a signature; None: it is right. The comparison takes the same time wherever they differ."""
    found = _SIGNATURE.fullmatch(header or "")
    if found is None:
        return f"{SIGNATURE} is missing or is not t=<seconds>,v1=<64 hex digits>."
    at_s = int(found[1])
    if not hmac.compare_digest(found[2], _mac(secret, body, at_s)):
        return "The signature does not fit the body and the secret."
    if abs(now_s - at_s) > window_s:
        return f"It was signed {now_s - at_s:+.0f} s from now; {window_s:.0f} s are allowed."
    return None


def _mac(secret: str, body: bytes, at_s: int) -> str:
    return hmac.new(secret.encode(), b"%d.%b" % (at_s, body), sha256).hexdigest()


def _http_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise ValueError("must be http://host[:port][/path] or https://…, without user, query and fragment")
    return url.rstrip("/")


ProviderUrl = Annotated[str, AfterValidator(_http_url)]
