"""An outside payment service: what it is asked, what it answers, what it calls back with, and how both are signed.

Every request has an `Idempotency-Key` that stays the same however often it is sent; the same key gets the same answer,
except that what was refused may be asked again. Requests and callbacks carry `Orderstream-Signature: t=<Unix seconds>,
v1=<hex of HMAC-SHA256 over "<t>.<body>">`, as Stripe's do, and `v2=<the same over
"<t>.<method>.<path>.<Idempotency-Key>.<body>">`, so that a request that somebody caught is good for nothing else.
"""

from __future__ import annotations

import hmac
import re
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field

from schemas.accounts import Currency, UserId
from schemas.base import MAX_WHOLE, Model, OrderUid
from schemas.orders.document import RFC3339_PATTERN
from schemas.payments import RefundId

SIGNATURE = "Orderstream-Signature"
_SECONDS, _HEX = re.compile(r"[0-9]{1,12}"), re.compile(r"[0-9a-f]{64}")
#: Parts of one header: the time, and values of either scheme under a few secrets.
MOST_VALUES = 12

Amount = Annotated[int, Field(ge=0, le=MAX_WHOLE, description="In minor units.", examples=[5000])]


class ProviderStatus(StrEnum):
    """Where a payment, or a refund, stands with the provider."""

    AUTHORISED = "authorised"
    CAPTURED = "captured"
    DECLINED = "declined"
    PENDING = "pending"
    VOIDED = "voided"
    REFUNDED = "refunded"
    CHARGED_BACK = "charged_back"


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
    currency: Currency | None = Field(None, description="When given, it must be the payment's.")
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
    currency: Annotated[Currency | None, Field(description="When given, it must be the payment's.")] = None
    status: Annotated[ProviderStatus, Field(strict=False)]
    idempotency_key: Annotated[
        str | None, Field(max_length=160, description="That of the request it is about, if it is about one.")
    ] = None
    movement_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="The provider's id of a refund or dispute, the same in every callback about it; null: `id`.",
        ),
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


class Signed(NamedTuple):
    """What a signature covers besides time and body: where a request goes, and as which one."""

    method: str
    path: str
    key: str = ""


def secrets_in(text: str) -> tuple[str, ...]:
    """The secrets of a setting, the newest first: several, comma between, while one is exchanged for another."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def sign(secret: str, body: bytes, at_s: int, about: Signed | None = None) -> str:
    """The header for a body at a moment, under each secret in `secret`. With `about` it has `v2` values as well."""
    values = [("v1", _mac(each, body, at_s)) for each in secrets_in(secret)]
    if about is not None:
        values += [("v2", _mac(each, body, at_s, about)) for each in secrets_in(secret)]
    return f"t={at_s}," + ",".join(f"{scheme}={mac}" for scheme, mac in values)


def signature_fault(
    secret: str, body: bytes, header: str | None, now_s: float, window_s: float, about: Signed | None = None
) -> str | None:
    """What is wrong with a signature; None: it is right. Comparisons take the same time wherever values differ.

    One right value under one of the secrets suffices: a sender that exchanges its secret signs with both. `v2` covers
    method, path and key too; when there is one, `v1` does not count.
    """
    parts = [part.strip().partition("=") for part in (header or "").split(",", MOST_VALUES)]
    times = [value for name, _, value in parts if name == "t"]
    known = "v2" if about is not None and any(name == "v2" for name, _, _ in parts) else "v1"
    given = [value for name, _, value in parts if name == known and _HEX.fullmatch(value)]
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]) or not given or len(parts) > MOST_VALUES:
        return f"{SIGNATURE} is missing or is not t=<seconds>,v1=<64 hex digits> (v2 as well, and several of each)."
    at_s = int(times[0])
    covered = about if known == "v2" else None
    right = [hmac.compare_digest(mac, _mac(each, body, at_s, covered)) for each in secrets_in(secret) for mac in given]
    if not any(right):
        what = "the body and the secret" if covered is None else "method, path, key, body and the secret"
        return f"The signature does not fit {what}."
    if abs(now_s - at_s) > window_s:
        return f"It was signed {now_s - at_s:+.0f} s from now; {window_s:.0f} s are allowed."
    return None


def _mac(secret: str, body: bytes, at_s: int, about: Signed | None = None) -> str:
    """Of `<t>.<body>`, or of `<t>.<method>.<path>.<key>.<body>`."""
    head = f"{at_s}." if about is None else f"{at_s}.{about.method}.{about.path}.{about.key}."
    return hmac.new(secret.encode(), head.encode() + body, sha256).hexdigest()


def _http_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise ValueError("must be http://host[:port][/path] or https://…, without user, query and fragment")
    return url.rstrip("/")


ProviderUrl = Annotated[str, AfterValidator(_http_url)]
