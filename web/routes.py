"""handlers -> addresses: everything that this worker answers, on one screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from web import pages
from web.accounts.reads import AccountReads
from web.accounts.writes import AccountWrites
from web.asking import INTERNAL_PATH, Desk
from web.documents import Documents
from web.health import Health
from web.items.reads import ItemReads
from web.items.writes import ItemWrites
from web.orders.reads import OrderReads
from web.orders.writes import OrderWrites
from web.payments.callbacks import Callbacks
from web.payments.reads import PaymentReads
from web.purchases.reads import PurchaseReads
from web.purchases.writes import ACTIONS, PurchaseWrites
from web.shipping.reads import ShippingReads


class Route(NamedTuple):
    """`operation` is its name in /openapi.json; pages for people and addresses between workers have none."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    operation: str | None


def all_routes(
    reads: OrderReads,
    writes: OrderWrites,
    purchases: PurchaseReads,
    purchase_writes: PurchaseWrites,
    shipping: ShippingReads,
    accounts: AccountReads,
    account_writes: AccountWrites,
    items: ItemReads,
    item_writes: ItemWrites,
    payments: PaymentReads,
    callbacks: Callbacks,
    health: Health,
    documents: Documents,
    desk: Desk,
) -> list[Route]:
    """The first address of an operation is the canonical one; others are short for it."""
    return [
        Route("GET", "/api/v1/orders", reads.newest, "listOrders"),
        Route("POST", "/api/v1/orders", writes.place, "placeOrder"),
        Route("GET", "/api/v1/orders/{order_uid}", reads.show, "getOrder"),
        Route("GET", "/api/v1/orders/{order_uid}/timeline", reads.timeline, "getTimeline"),
        Route("POST", "/api/v1/orders/{order_uid}/cancel", writes.cancel, "cancelOrder"),
        Route("POST", "/api/orders/test", writes.place_generated, "placeTestOrder"),
        Route("GET", "/api/orders", reads.newest, "listOrders"),
        Route("GET", "/api/orders/{order_uid}", reads.show, "getOrder"),
        *(
            Route("POST", f"/api/v1/orders/{{order_uid}}/{each.path}", purchase_writes.handler(each), each.operation)
            for each in ACTIONS
        ),
        Route("GET", "/api/v1/orders/{order_uid}/shipments", shipping.shipments, "listShipments"),
        Route("GET", "/api/v1/outlets/{outlet_id}/approvals", purchases.approvals, "listApprovals"),
        Route("POST", "/api/v1/orders/payment-callback", callbacks.take, "paymentCallback"),
        Route("GET", "/api/v1/payments/{order_uid}", payments.show, "getPayment"),
        Route("POST", "/api/v1/accounts", account_writes.open, "openAccount"),
        Route("GET", "/api/v1/accounts", accounts.of_user, "listAccounts"),
        Route("GET", "/api/v1/accounts/{account_id}", accounts.show, "getAccount"),
        Route("GET", "/api/v1/accounts/{account_id}/entries", accounts.statement, "getEntries"),
        Route("POST", "/api/v1/accounts/{account_id}/deposits", account_writes.deposit, "deposit"),
        Route("POST", "/api/v1/accounts/{account_id}/withdrawals", account_writes.withdraw, "withdraw"),
        Route("GET", "/api/v1/ledger/trial-balance", accounts.trial_balance, "trialBalance"),
        Route("POST", "/api/v1/items", item_writes.create, "createItem"),
        Route("GET", "/api/v1/items", items.find, "findItems"),
        Route("GET", "/api/v1/items/{item_id}", items.show, "getItem"),
        Route("PATCH", "/api/v1/items/{item_id}", item_writes.change, "changeItem"),
        Route("POST", "/api/v1/items/{item_id}/stock", item_writes.adjust, "adjustStock"),
        *_for_machines(health, documents, desk),
    ]


def _for_machines(health: Health, documents: Documents, desk: Desk) -> list[Route]:
    """What watches a worker or reads about it, other workers and people's pages included."""
    return [
        Route("GET", "/health", health.whole, "health"),
        Route("GET", "/health/live", health.live, "live"),
        Route("GET", "/health/ready", health.ready, "ready"),
        Route("GET", "/metrics", health.metrics, "metrics"),
        Route("GET", "/openapi.json", documents.openapi, "openapi"),
        Route("GET", "/asyncapi.json", documents.asyncapi, "asyncapi"),
        Route("GET", "/", pages.start, None),
        Route("GET", "/docs", pages.docs, None),
        Route("GET", "/problems", pages.problems, None),
        Route("GET", "/static/{name:.+}", pages.static, None),
        Route("GET", INTERNAL_PATH, desk.answer_another, None),
    ]
