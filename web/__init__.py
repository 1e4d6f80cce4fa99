"""the application, its tables and topics -> the addresses of a worker; docs/http.md describes them to callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from schemas.customers import OrderLimit
from schemas.purchases import CarrierTerms, Terms
from schemas.requests import Request
from schemas.settings import Settings
from schemas.topics import TOPICS
from schemas.topics import topics as topic_specs
from streams.records import Headers, Position
from streams.table import Table
from tables import accounts as account_tables
from tables import inventory as inventory_tables
from tables import orders as order_tables
from tables.accounts import AccountTables
from tables.customers import CustomerTables
from tables.inventory import InventoryTables
from tables.keys import Keyring
from tables.orders import OrderTables
from tables.outlets import OutletTables
from tables.payments import PaymentTables
from tables.purchases import PurchaseTables
from tables.shipping import ShippingTables
from web.accounts.questions import AccountQuestions
from web.accounts.reads import AccountReads
from web.accounts.writes import AccountWrites
from web.asking import Desk, Engine
from web.body import CAREFUL, CarefulReader
from web.connections import BOUNDS, ConnectionBounds, Runner
from web.documents import Documents
from web.guard import Hosts, bound_requests, check_body, check_host, check_origin
from web.health import Check, Effect, Health, Sink
from web.items.questions import ItemQuestions
from web.items.reads import ItemReads
from web.items.writes import ItemWrites
from web.limits import Limits
from web.metrics import HttpMetrics
from web.middlewares import bound_time, explain, observe, stand_by
from web.orders.questions import Questions
from web.orders.reads import OrderReads
from web.orders.writes import OrderWrites
from web.outlets.routes import outlet_routes
from web.payments.callbacks import Callbacks
from web.payments.questions import PaymentQuestions
from web.payments.reads import PaymentReads
from web.purchases.admission import Admission
from web.purchases.questions import PurchaseQuestions
from web.purchases.reads import PurchaseReads
from web.purchases.writes import PurchaseWrites
from web.requests import Requests
from web.routes import Route, all_routes
from web.seals import Seals, opening
from web.shipping.questions import ShippingQuestions
from web.shipping.reads import ShippingReads
from web.webhooks.routes import Webhooks, webhook_routes


class Topic(Protocol):
    """The part of streams.Topic that this room needs."""

    async def send(self, *, key: str, value: Any, headers: Headers = ()) -> Position | None: ...


def attach(
    app: Engine,
    web_app: web.Application,
    *,
    orders: OrderTables,
    purchases: PurchaseTables,
    shipping: ShippingTables,
    accounts: AccountTables,
    customers: CustomerTables,
    inventory: InventoryTables,
    outlets: OutletTables,
    payments: PaymentTables,
    webhooks: Webhooks,
    requests: Table[Request],
    topics: Mapping[str, Topic],
    settings: Settings,
    checks: Callable[[], Mapping[str, Check]],
    registry: CollectorRegistry,
    sinks: Sequence[Sink] = (),
    effects: Sequence[Effect] = (),
    callback_secret: Callable[[], str | None] = lambda: None,
    carrier: Callable[[], bool] = lambda: False,
    limits: Limits | None = None,
    keyring: Keyring | None = None,
    bootstrap: str = "127.0.0.1:9092",
) -> None:
    """Wire what this worker answers to its aiohttp application, once, before it serves. Health shows `checks`, `sinks`
    and `effects`. `carrier`: whether there is one. `keyring`: encrypts personal data. `bootstrap`: see /asyncapi.json.
    """
    limits, metrics = (limits or Limits.of(settings)).signing(settings, webhooks.keys), HttpMetrics(registry)
    inputs, account_inputs, item_inputs = map(inputs_of, (order_tables, account_tables, inventory_tables))
    desk, seals = Desk(app, limits, metrics), Seals(keyring)
    questions, purchase_questions = Questions(desk, orders, purchases, limits), PurchaseQuestions(desk, purchases)
    item_questions, payment_questions = ItemQuestions(desk, inventory, limits), PaymentQuestions(desk, payments)
    account_questions = AccountQuestions(desk, accounts)
    once = Requests(desk, topics["requests.commands.v1"], requests, limits, metrics)
    admission = Admission(desk, customers, topics["customers.commands.v1"], limit_of(settings))
    selling = once, limits, terms_of(settings), admission, carrier_of(settings, carrier), seals
    purchase_writes = PurchaseWrites(desk, purchase_questions, topics["purchases.commands.v1"], *selling)
    table = all_routes(
        OrderReads(desk, questions, inputs, limits),
        OrderWrites(desk, questions, topics["orders.commands.v1"], once, limits, purchase_writes, seals),
        PurchaseReads(desk, purchase_questions, limits),
        purchase_writes,
        ShippingReads(desk, ShippingQuestions(desk, purchases, shipping), inputs, limits),
        AccountReads(desk, account_questions, account_inputs, limits),
        AccountWrites(desk, account_questions, topics["accounts.commands.v1"], once, limits),
        ItemReads(desk, item_questions, item_inputs, limits),
        ItemWrites(desk, item_questions, topics["inventory.commands.v1"], once, limits),
        PaymentReads(desk, payment_questions, inputs, limits, payments.fold),
        Callbacks(desk, payment_questions, topics["payments.commands.v1"], callback_secret, limits),
        Health(checks, sinks, [registry], effects),
        documents := Documents(),
        desk,
    )
    table += webhook_routes(webhooks, desk, topics["webhooks.commands.v1"], once, account_inputs, limits, settings)
    table += outlet_routes(desk, outlets, topics["outlets.commands.v1"], once, item_inputs, limits)
    _describe(documents, table, inputs | account_inputs | item_inputs, limits, settings, bootstrap)
    _serve(web_app, table, desk, [*_bound(web_app, limits, metrics, settings), *_opening(keyring)])


def only_when_live(web_app: web.Application, standing_by: Callable[[], str | None]) -> None:
    """After `attach`. `standing_by`: why this worker's version is not the live one; None while it is."""
    web_app.middlewares.append(stand_by(standing_by))


def _describe(
    documents: Documents,
    routes: Iterable[Route],
    inputs: frozenset[str],
    limits: Limits,
    settings: Settings,
    bootstrap: str,
) -> None:
    """What /openapi.json and /asyncapi.json say."""
    specs = topic_specs(settings.partitions, settings.replication_factor, sealing=settings.seal)
    encrypted = settings.kafka_security_protocol.endswith("SSL")
    public = [(route.method, route.path, route.operation) for route in routes if route.operation]

    def http() -> dict[str, Any]:
        from web import openapi  # eighty models, which a start does without

        return openapi.document([openapi.Address(*each) for each in public], limits, inputs)

    def events() -> dict[str, Any]:
        from web import asyncapi

        return asyncapi.document(specs, bootstrap, encrypted=encrypted)

    documents.describe(http, events)


def _bound(web_app: web.Application, limits: Limits, metrics: HttpMetrics, settings: Settings) -> list[Middleware]:
    """Set the bounds of connections and bodies; return what each request passes, the outermost first.

    What is refused inside of `check_origin` can be read by the pages of allowed origins.
    """
    web_app[BOUNDS] = ConnectionBounds(settings.max_connections, settings.header_timeout_ms / 1000, metrics=metrics)
    web_app[CAREFUL] = reader = CarefulReader(limits.careful_waiting)
    web_app.cleanup_ctx.append(reader.closing)
    return [
        observe(metrics),
        explain(),
        bound_requests(limits),
        check_host(Hosts.of(settings)),
        check_origin(settings.cors_origins()),
        explain(),
        check_body(),
        bound_time(limits),
    ]


def _opening(keyring: Keyring | None) -> list[Middleware]:
    return [] if keyring is None else [opening(keyring)]


def _serve(web_app: web.Application, routes: Iterable[Route], desk: Desk, layers: Iterable[Middleware]) -> None:
    """Each route at its address, and HEAD wherever there is GET."""
    web_app.middlewares.extend(layers)
    web_app.cleanup_ctx.append(desk.session)
    for route in routes:
        web_app.router.add_route(route.method, route.path, route.handler)
        if route.method == "GET":
            web_app.router.add_route("HEAD", route.path, route.handler)


def inputs_of(tables: ModuleType) -> frozenset[str]:
    """The topics whose positions can be waited for: what the tables of a group are made from."""
    return frozenset(spec.name for spec in TOPICS if spec.group == tables.GROUP)


def terms_of(settings: Settings) -> Terms:
    """What the seller's settings say of a cart."""
    approve = settings.approve_after_ms
    return Terms(
        pay_within_ms=settings.pay_within_ms,
        approve_after_ms=None if approve < 0 else approve,
        return_within_ms=settings.return_within_ms,
    )


def limit_of(settings: Settings) -> OrderLimit | None:
    """How many orders a customer may place, if there is a limit."""
    if not settings.orders_per_customer:
        return None
    return OrderLimit(most=settings.orders_per_customer, window_ms=settings.orders_window_ms)


def carrier_of(settings: Settings, there_is: Callable[[], bool]) -> Callable[[], CarrierTerms | None]:
    """What the seller's settings say of a carrier that is asked now, if there is one."""
    terms = CarrierTerms(
        answer_within_ms=settings.carrier_answer_within_ms,
        asks=settings.carrier_asks,
        hold_ms=settings.carrier_hold_ms,
    )
    return lambda: terms if there_is() else None


__all__ = ["Runner", "Webhooks", "attach", "only_when_live"]
