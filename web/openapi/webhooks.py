"""what the addresses of webhooks take and answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.base import rfc3339
from schemas.webhooks import (
    DAY_MS,
    Breaker,
    CustomerOnly,
    DeliveryId,
    DeliveryState,
    EventPatterns,
    GiveUpReason,
    KeepPreviousMs,
    PauseReason,
    SubscriptionId,
    TargetUrl,
)
from web import problems
from web.openapi.models import Cursor, PositionText, Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, WRITES, Operation, Success

Secret = Field(
    None,
    description="What requests are signed with, as Standard Webhooks writes it. It is shown here and never again; a"
    " repeated answer has none. Whoever lost it rotates.",
    examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3YpWzPvoj3k="],
)


class WebhookBody(Shape):
    """A target, and what it is told of."""

    url: TargetUrl
    events: EventPatterns
    customer_id: CustomerOnly = None


class WebhookChangeBody(Shape):
    """What changes; the rest stays."""

    url: TargetUrl | None = None
    events: EventPatterns | None = None
    paused: bool | None = Field(None, description="While it is paused deliveries wait. To go on closes the breaker.")


class RotationBody(Shape):
    """How long requests carry a signature of the secret before, too."""

    keep_previous_ms: KeepPreviousMs = Field(DAY_MS, description="In ms, a week at most; 0: it ends at once.")


class SecretView(Shape):
    """A secret in use, without the secret."""

    fingerprint: str = Field(description="The same secret, the same fingerprint.", examples=["0f3a5c7e9b1d2f48"])
    retires_at: Rfc3339 | None = Field(description="Until when requests are signed with it; null: no end is set.")


class TargetView(Shape):
    """What is going on at the target."""

    breaker: Breaker = Field(description="`open`: it is left alone until `open_until`; then one attempt is made.")
    open_until: Rfc3339 | None
    failures: int = Field(ge=0, description="Failed attempts in a row.")
    under_way: int = Field(ge=0, description="Attempts under way.")
    unsettled: int = Field(ge=0, description="Deliveries neither delivered nor given up.")


class WebhookView(Shape):
    """A webhook as it stands."""

    subscription_id: SubscriptionId
    url: TargetUrl
    events: EventPatterns
    customer_id: CustomerOnly
    paused: PauseReason | None = Field(description="`gone`: the target answered 410. null: it is not paused.")
    secrets: list[SecretView] = Field(description="The newest first.")
    target: TargetView
    version: int = Field(ge=1, description="Grows by one with each change.", examples=[1])
    created_at: Rfc3339
    updated_at: Rfc3339


class WebhookOutcome(WebhookView):
    """What a write came to, and where the record that did it stands."""

    position: PositionText


class WebhookWithSecret(WebhookOutcome):
    """The same, with the secret that it made."""

    secret: str | None = Secret


class DeletedWebhook(Shape):
    """The webhook is no more."""

    subscription_id: SubscriptionId
    deleted: bool
    position: PositionText


class WebhookPage(Shape):
    """Webhooks by subscription_id."""

    webhooks: list[WebhookView]
    next_cursor: Cursor


class DeliveryView(Shape):
    """A delivery as it stands."""

    delivery_id: DeliveryId
    event_type: str = Field(examples=["purchases.order_paid"])
    event_id: str
    position: PositionText = Field(description="Where the event stands.")
    state: DeliveryState
    attempts: int = Field(ge=0, description="Made so far, all under this delivery_id.")
    last_status: int | None = Field(description="Of the last answer; null: none came.")
    last_error: str | None
    last_took_ms: int | None
    next_attempt_at: Rfc3339 | None
    given_up: GiveUpReason | None
    queued_at: Rfc3339
    updated_at: Rfc3339


class ResentDelivery(DeliveryView):
    """The delivery, queued again."""

    subscription_id: SubscriptionId


class ResendOutcome(ResentDelivery):
    """The same, and where the command stands."""

    # Of the write, not of the event.
    position: PositionText


class DeliveryPage(Shape):
    """The log of a webhook, newest first. A page may be shorter than `limit` and still have a `next_cursor`."""

    subscription_id: SubscriptionId
    deliveries: list[DeliveryView]
    next_cursor: Cursor


class AcceptedWebhook(Shape):
    """The command is written down and will be applied; its outcome was not known in time."""

    subscription_id: SubscriptionId
    position: PositionText
    command_id: str = Field(description="`caused_by` of the event or refusal that will follow.")
    outcome: str = Field(description="Address that answers once the command is applied.")
    secret: str | None = Secret


MODELS = (
    WebhookBody,
    WebhookChangeBody,
    RotationBody,
    WebhookView,
    WebhookOutcome,
    WebhookWithSecret,
    DeletedWebhook,
    WebhookPage,
    DeliveryView,
    ResendOutcome,
    DeliveryPage,
    AcceptedWebhook,
)

_MARKED = ("ETag", "Orderstream-Position", "Idempotency-Replayed")
_LATER = Success(
    "Written down, and not known to be applied when the wait ran out. It will be: ask `outcome`, or send the same"
    " request with the same key again.",
    AcceptedWebhook,
    headers=("Location", "Orderstream-Position", "Retry-After"),
)
_BODIES = (problems.UNSUPPORTED_MEDIA_TYPE, problems.INVALID_DOCUMENT, *WRITES)
_OF_ONE = (problems.NO_SUCH_WEBHOOK, problems.WEBHOOK_REFUSED)

OPERATIONS = (
    Operation(
        "createWebhook",
        "webhooks",
        "Create a webhook",
        "From here on the target is told of each event that it wants, under one `webhook-id`, again and again until it"
        " answers 2xx or the attempts are used up. Private addresses and redirects are refused.",
        {201: Success("Created.", WebhookWithSecret, headers=("Location", *_MARKED)), 202: _LATER},
        (problems.WEBHOOK_REFUSED, problems.WEBHOOKS_OFF, *_BODIES),
        ("Idempotency-Key",),
        WebhookBody,
    ),
    Operation(
        "listWebhooks",
        "webhooks",
        "List webhooks",
        "By subscription_id. Complete across all partitions and workers, or 503.",
        {200: Success("A page of webhooks.", WebhookPage)},
        (problems.BAD_PARAMETER, *EVERYWHERE),
        ("limit", "cursor"),
    ),
    Operation(
        "getWebhook",
        "webhooks",
        "Look a webhook up",
        "With what is going on at its target. Never with a secret.",
        {200: Success("The webhook.", WebhookView)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_WEBHOOK, *EVERYWHERE),
        ("subscription_id", "min_offset"),
    ),
    Operation(
        "changeWebhook",
        "webhooks",
        "Change, pause or resume a webhook",
        "What the body names changes, the rest stays. While it is paused, deliveries are kept and wait.",
        {200: Success("The webhook as it stands.", WebhookOutcome, headers=_MARKED), 202: _LATER},
        (*_OF_ONE, *_BODIES),
        ("subscription_id", "If-Match", "Idempotency-Key"),
        WebhookChangeBody,
    ),
    Operation(
        "deleteWebhook",
        "webhooks",
        "Delete a webhook",
        "With its log and whatever waits in it. An attempt that is under way may still arrive.",
        {200: Success("Deleted.", DeletedWebhook, headers=_MARKED), 202: _LATER},
        (problems.NO_SUCH_WEBHOOK, *WRITES),
        ("subscription_id", "If-Match", "Idempotency-Key"),
    ),
    Operation(
        "rotateSecret",
        "webhooks",
        "Rotate the secret",
        "Requests are signed with the new secret and, for `keep_previous_ms`, with those before it as well: a receiver"
        " takes them all the while.",
        {200: Success("Rotated.", WebhookWithSecret, headers=_MARKED), 202: _LATER},
        (*_OF_ONE, problems.WEBHOOKS_OFF, *_BODIES),
        ("subscription_id", "If-Match", "Idempotency-Key"),
        RotationBody,
    ),
    Operation(
        "listDeliveries",
        "webhooks",
        "The log of a webhook",
        "Newest first: what is not settled, and the newest 2,000 of what is.",
        {200: Success("A page of the log.", DeliveryPage)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_WEBHOOK, *EVERYWHERE),
        ("subscription_id", "state", "limit", "cursor", "min_offset"),
    ),
    Operation(
        "resendDelivery",
        "webhooks",
        "Send a settled delivery again",
        "Under the same `webhook-id`, with all its attempts anew.",
        {200: Success("Queued again.", ResendOutcome, headers=_MARKED), 202: _LATER},
        (*_OF_ONE, problems.NO_SUCH_DELIVERY, *WRITES),
        ("subscription_id", "delivery_id", "Idempotency-Key"),
    ),
)

_ID, _AT = "0b7e6f6e-6c8e-5b0a-9f64-0d5f3a2b1c4d", rfc3339(1_795_262_400_000)
_DELIVERY_ID = "5f0e1d2c-1a2b-5c3d-8e4f-5a6b7c8d9e0f"
_POSITION, _EVENT = "webhooks.commands.v1-1-42", "purchases.events.v1-2-1234"
_URL = "https://example.com/hooks/orders"
_WANTED = {"url": _URL, "events": ["purchases.order_paid", "payments.*"], "customer_id": None}
_TARGET = {"breaker": "closed", "open_until": None, "failures": 0, "under_way": 0, "unsettled": 0}
_WEBHOOK = {
    "subscription_id": _ID,
    **_WANTED,
    "paused": None,
    "secrets": [{"fingerprint": "0f3a5c7e9b1d2f48", "retires_at": None}],
    "target": _TARGET,
    "version": 1,
    "created_at": _AT,
    "updated_at": _AT,
}
_DONE = {**_WEBHOOK, "position": _POSITION}
_DELIVERY = {
    "delivery_id": _DELIVERY_ID,
    "event_type": "purchases.order_paid",
    "event_id": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d",
    "position": _EVENT,
    "state": "delivered",
    "attempts": 1,
    "last_status": 200,
    "last_error": None,
    "last_took_ms": 37,
    "next_attempt_at": None,
    "given_up": None,
    "queued_at": _AT,
    "updated_at": _AT,
}
EXAMPLES: dict[str, Any] = {
    "WebhookBody": _WANTED,
    "WebhookChangeBody": {"paused": True},
    "RotationBody": {"keep_previous_ms": 3_600_000},
    "WebhookView": _WEBHOOK,
    "WebhookOutcome": _DONE,
    "WebhookWithSecret": {**_DONE, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3YpWzPvoj3k="},
    "DeletedWebhook": {"subscription_id": _ID, "deleted": True, "position": _POSITION},
    "WebhookPage": {"webhooks": [_WEBHOOK], "next_cursor": None},
    "ResendOutcome": {"subscription_id": _ID, **_DELIVERY, "state": "waiting", "position": _POSITION},
    "DeliveryPage": {"subscription_id": _ID, "deliveries": [_DELIVERY], "next_cursor": None},
    "AcceptedWebhook": {
        "subscription_id": _ID,
        "position": _POSITION,
        "command_id": "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4",
        "outcome": f"/api/v1/webhooks/{_ID}?min_offset={_POSITION}",
    },
}
DETAILS = {
    "no-such-webhook": f"There is no webhook {_ID}.",
    "no-such-delivery": f"There is no delivery {_DELIVERY_ID} in the log of this webhook.",
    "webhook-refused": "The delivery is not settled: it is sent as it is.",
    "webhooks-off": "This worker has no key to make secrets from.",
}
MEMBERS = {"webhook-refused": {"reason": "delivery_not_settled", "position": _POSITION}}
