"""states of subscriptions and deliveries -> what callers see of them: never a secret."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from schemas.base import rfc3339
from schemas.webhooks import UUID_PATTERN, Delivery, Subscription, Target
from web import problems
from web.problems import Problem

HOME = "/api/v1/webhooks"

_ID = re.compile(UUID_PATTERN)


def present(subscription: Subscription, target: Target) -> dict[str, Any]:
    """A subscription as callers see it. Of secrets it shows which are in use, by what their receiver can compute."""
    return {
        "subscription_id": subscription.subscription_id,
        "url": subscription.url,
        "events": subscription.events,
        "customer_id": subscription.customer_id,
        "paused": subscription.paused,
        "secrets": [
            {"fingerprint": secret.fingerprint, "retires_at": _time(secret.retires_at_ms)}
            for secret in subscription.secrets
        ],
        "target": {
            "breaker": target.breaker,
            "open_until": _time(target.open_until_ms),
            "failures": target.failures,
            "under_way": target.under_way,
            "unsettled": target.unsettled,
        },
        "version": subscription.version,
        "created_at": subscription.created_at,
        "updated_at": subscription.updated_at,
    }


def present_delivery(delivery: Delivery) -> dict[str, Any]:
    """A delivery as callers see it."""
    return {
        "delivery_id": delivery.delivery_id,
        "event_type": delivery.event_type,
        "event_id": delivery.event_id,
        "position": delivery.position,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "last_took_ms": delivery.last_took_ms,
        "next_attempt_at": _time(delivery.next_attempt_at_ms),
        "given_up": delivery.given_up,
        "queued_at": delivery.queued_at,
        "updated_at": delivery.updated_at,
    }


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def subscription_id(request: web.Request) -> str:
    """The subscription that the address names. What cannot be an id is no subscription's."""
    given = request.match_info["subscription_id"]
    if not _ID.fullmatch(given):
        raise no_such_webhook(given[:64])
    return given


def delivery_id(request: web.Request) -> str:
    """The delivery that the address names."""
    given = request.match_info["delivery_id"]
    if not _ID.fullmatch(given):
        raise no_such_delivery(given[:64])
    return given


def no_such_webhook(subscription_id: str) -> Problem:
    return Problem(problems.NO_SUCH_WEBHOOK, f"There is no webhook {subscription_id}.")


def no_such_delivery(delivery_id: str) -> Problem:
    return Problem(problems.NO_SUCH_DELIVERY, f"There is no delivery {delivery_id} in the log of this webhook.")
