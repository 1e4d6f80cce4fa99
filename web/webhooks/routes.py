"""the tables of webhooks, and what their effects know -> the addresses of webhooks."""

from __future__ import annotations

from typing import NamedTuple

from schemas.settings import Settings
from tables.webhooks import WebhookTables
from web.asking import Desk
from web.commands import Commands
from web.limits import Limits
from web.requests import Requests
from web.routes import Route
from web.webhooks.questions import WebhookQuestions
from web.webhooks.reads import WebhookReads
from web.webhooks.writes import Keys, Starts, WebhookWrites


class Webhooks(NamedTuple):
    """`keys`: what workers make secrets from, the one for new ones first; `starts`: where topics of events end now."""

    tables: WebhookTables
    keys: Keys
    starts: Starts


def webhook_routes(
    webhooks: Webhooks,
    desk: Desk,
    commands: Commands,
    once: Requests,
    inputs: frozenset[str],
    limits: Limits,
    settings: Settings,
) -> list[Route]:
    """As all_routes, for this domain."""
    questions = WebhookQuestions(desk, webhooks.tables, limits)
    reads = WebhookReads(desk, questions, inputs, limits)
    writes = WebhookWrites(desk, questions, commands, once, limits, settings, webhooks.keys, webhooks.starts)
    home = "/api/v1/webhooks"
    one = f"{home}/{{subscription_id}}"
    return [
        Route("POST", home, writes.create, "createWebhook"),
        Route("GET", home, reads.all, "listWebhooks"),
        Route("GET", one, reads.show, "getWebhook"),
        Route("PATCH", one, writes.change, "changeWebhook"),
        Route("DELETE", one, writes.delete, "deleteWebhook"),
        Route("POST", f"{one}/rotate", writes.rotate, "rotateSecret"),
        Route("GET", f"{one}/deliveries", reads.deliveries, "listDeliveries"),
        Route("POST", f"{one}/deliveries/{{delivery_id}}/resend", writes.resend, "resendDelivery"),
    ]
