"""what went wrong -> one problem+json answer (RFC 9457), each kind named once, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """One kind of problem. `advice` tells the caller what to do; it stands in /problems and in the OpenAPI document."""

    slug: str
    status: int
    title: str
    advice: str

    @property
    def uri(self) -> str:
        """The problem's `type`: a relative reference to the worker's own page that explains it."""
        return f"/problems#{self.slug}"


BAD_PARAMETER = Kind(
    "bad-parameter", 400, "A parameter is not valid", "Mend the parameter or header that `detail` names."
)
BAD_JSON = Kind(
    "bad-json", 400, "The body is not JSON that this service reads", "Send one JSON object, nested less deeply."
)
BAD_REQUEST = Kind(
    "bad-request", 400, "The request is not valid HTTP", "Correct what `detail` names. The connection was closed."
)
INCOMPLETE_BODY = Kind(
    "incomplete-body",
    400,
    "The body did not arrive whole",
    "Send the request again with a correct Content-Length or chunked encoding. Nothing was done.",
)
BAD_SIGNATURE = Kind(
    "bad-signature",
    401,
    "The signature is missing, wrong or too old",
    "Sign `<t>.<body>` with the shared secret at the time of sending, as docs/http.md says. Nothing was taken in.",
)
FOREIGN_ORIGIN = Kind(
    "foreign-origin",
    403,
    "A page of another origin may not do this",
    "Pages of other origins may write when an operator lists their origin in ORDERSTREAM_WEB_CORS_ORIGINS.",
)
NO_SUCH_ROUTE = Kind("no-such-route", 404, "There is nothing at this address", "See /openapi.json for every address.")
NO_SUCH_ORDER = Kind(
    "no-such-order",
    404,
    "There is no such order",
    "The state was readable and has no such order. After a write of your own, read with `min_offset`.",
)
NO_SUCH_ACCOUNT = Kind(
    "no-such-account",
    404,
    "There is no such account",
    "Open it: POST /api/v1/accounts. After a write of your own, read with `min_offset`.",
)
NO_SUCH_ITEM = Kind(
    "no-such-item",
    404,
    "There is no such item",
    "Create it: POST /api/v1/items. After a write of your own, read with `min_offset`.",
)
NO_SUCH_PAYMENT = Kind(
    "no-such-payment",
    404,
    "There is no such payment",
    "An order has a payment once it is to be paid. After a write of your own, read with `min_offset`.",
)
NO_SUCH_PAST = Kind(
    "no-such-past",
    404,
    "There was nothing at that moment",
    "What is asked for is there now: ask without `as_of`. `reason` says why it has no such past: `not_there` yet, or"
    " `not_kept`.",
)
NO_SUCH_WEBHOOK = Kind(
    "no-such-webhook",
    404,
    "There is no such webhook",
    "Create it: POST /api/v1/webhooks. After a write of your own, read with `min_offset`.",
)
NO_SUCH_DELIVERY = Kind(
    "no-such-delivery",
    404,
    "There is no such delivery",
    "A webhook's log has its newest deliveries: GET /api/v1/webhooks/{subscription_id}/deliveries.",
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed", 405, "This address does not answer that method", "Use a method that `Allow` lists."
)
REQUEST_TIMEOUT = Kind("request-timeout", 408, "The request took too long to arrive", "Send it again, faster.")
ORDER_REFUSED = Kind(
    "order-refused",
    409,
    "The order's state does not allow this",
    "`reason` says why. Sending the same request again changes nothing.",
)
ACCOUNT_REFUSED = Kind(
    "account-refused",
    409,
    "The account's state does not allow this",
    "`reason` says why. Nothing was moved. Later, and under a new key, the same may be possible.",
)
ITEM_REFUSED = Kind(
    "item-refused",
    409,
    "The item's state does not allow this",
    "`reason` says why. Nothing was changed. Later, and under a new key, the same may be possible.",
)
PAYMENT_REFUSED = Kind(
    "payment-refused",
    409,
    "The payment as it stands does not allow this",
    "`reason` says why. Sending the same again changes nothing; it is among the payment's attempts.",
)
WEBHOOK_REFUSED = Kind(
    "webhook-refused",
    409,
    "The webhook as it stands does not allow this",
    "`reason` says why. Nothing was changed.",
)
REQUEST_IN_FLIGHT = Kind(
    "request-in-flight",
    409,
    "A request with this Idempotency-Key is still being worked on",
    "Wait for the seconds of Retry-After, then send the same request with the same key again.",
)
TOO_LARGE = Kind("too-large", 413, "The body is too large", "Send less; `detail` has the limit in bytes.")
PRECONDITION_FAILED = Kind(
    "precondition-failed",
    412,
    "The resource has another version",
    "Read it again, decide again, and send the write with the new version in If-Match. Nothing was changed.",
)
UNSUPPORTED_MEDIA_TYPE = Kind(
    "unsupported-media-type",
    415,
    "The body is encoded, or is not declared as JSON",
    "Send Content-Type: application/json and no Content-Encoding.",
)
EXPECTATION_FAILED = Kind(
    "expectation-failed", 417, "The expectation cannot be met", "Send `Expect: 100-continue` or no Expect header."
)
UNKNOWN_HOST = Kind(
    "unknown-host",
    421,
    "This worker does not serve that host",
    "Address the worker by loopback, its listen address or its advertised URL, or add the name to"
    " ORDERSTREAM_WEB_ALLOWED_HOSTS.",
)
MISDIRECTED = Kind(
    "misdirected",
    421,
    "This worker does not own the partition",
    "Between workers only: the asking worker looks the owner up again.",
)
INVALID_DOCUMENT = Kind(
    "invalid-document",
    422,
    "The body is not what is expected here",
    "Mend every entry of `faults`; each has the JSON path and what is wrong there.",
)
AMOUNT_REFUSED = Kind(
    "amount-refused",
    422,
    "An account takes no such amount",
    "`reason` says why. Nothing was moved; the same amount is never taken.",
)
CHANGE_REFUSED = Kind(
    "change-refused",
    422,
    "An item takes no such change",
    "`reason` says why. Nothing was changed; the same is never taken.",
)
KEY_REUSED = Kind(
    "idempotency-key-reused",
    422,
    "This Idempotency-Key belongs to another request",
    "Use a new key for a new request; keep a key only to repeat the very same one.",
)
TOO_MANY_ORDERS = Kind(
    "too-many-orders",
    429,
    "The customer has placed too many orders",
    "Nothing was ordered. Wait for the seconds of Retry-After and send it again; the same key may be used again.",
)
INTERNAL = Kind(
    "internal", 500, "The service failed", "Give the `request_id` to the operators. A retry with the same key is safe."
)
DEAD_LETTERED = Kind(
    "dead-lettered",
    500,
    "The command was put to the dead letters",
    "Nothing was changed. An operator finds the record under `dead_letter` and can redrive it.",
)
UNAVAILABLE = Kind(
    "unavailable",
    503,
    "The state cannot be read right now",
    "A worker recovers or the partitions move. Ask again after Retry-After seconds. Never means `no such order`.",
)
OVERLOADED = Kind(
    "overloaded",
    503,
    "The worker has as many requests as it can serve",
    "Nothing was done. Send the request again after Retry-After seconds.",
)
WEBHOOKS_OFF = Kind(
    "webhooks-off",
    503,
    "Webhooks are not set up here",
    "An operator sets ORDERSTREAM_WEBHOOK_KEYS, the same on every worker; docs/operating.md says how.",
)
TIMED_OUT = Kind(
    "timed-out",
    503,
    "The request was not finished in time",
    "Ask again; a write with an Idempotency-Key is safe to repeat.",
)

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
_BY_STATUS = {
    kind.status: kind
    for kind in (BAD_REQUEST, NO_SUCH_ROUTE, METHOD_NOT_ALLOWED, TOO_LARGE, EXPECTATION_FAILED, INTERNAL)
}


#: The reason that every domain gives when the version that a command was for is not the resource's.
WRONG_VERSION = "wrong_version"


class Problem(Exception):
    """Raised by a handler; the outermost middleware answers with it. `extra` holds the kind's own members."""

    def __init__(self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        self.kind, self.detail, self.headers, self.extra = kind, detail, dict(headers or {}), extra
        super().__init__(f"{kind.slug}: {detail}")

    @classmethod
    def outdated(cls, what: str, version: int, position: str) -> Problem:
        """412: the write was for another version of the resource than it has."""
        headers = {"ETag": f'"{version}"', "Orderstream-Position": position}
        detail = f"If-Match names another version: {what} has version {version}."
        return cls(PRECONDITION_FAILED, detail, headers=headers, version=version, position=position)

    @classmethod
    def unavailable(cls, detail: str, retry_after_s: float = 1.0, kind: Kind = UNAVAILABLE) -> Problem:
        return cls(kind, detail, headers={"Retry-After": whole_seconds(retry_after_s)})


def whole_seconds(seconds: float) -> str:
    """Retry-After takes whole seconds (RFC 9110 §10.2.3); less than one would invite a busy loop."""
    return str(max(1, -int(-seconds // 1)))


def answer(problem: Problem, *, instance: str, request_id: str) -> web.Response:
    """The problem as a response."""
    members = {
        "type": problem.kind.uri,
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
        "instance": instance,
        "request_id": request_id,
        **problem.extra,
    }
    return web.Response(
        status=problem.kind.status,
        body=orjson.dumps(members),
        headers={**problem.headers, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"},
    )


def of_http(error: web.HTTPException, method: str, path: str) -> Problem:
    """aiohttp's own refusals (no such route, wrong method, …) as problems."""
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem(
                METHOD_NOT_ALLOWED, f"{method} is not for {path}; try {allowed}.", headers={"Allow": allowed}
            )
        case web.HTTPNotFound():
            return Problem(NO_SUCH_ROUTE, f"Nothing answers at {path}.")
        case _:
            kind = _BY_STATUS.get(error.status) or Kind("http", error.status, error.reason, "See RFC 9110.")
            return Problem(kind, error.text or error.reason)
