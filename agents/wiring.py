"""an app and its topics -> each domain's tables declared and its agents attached: once, for app.py, tests and bench."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from agents import accounts as account_rules
from agents import customers as customer_rules
from agents import inventory as inventory_rules
from agents import orders as order_rules
from agents import outlets as outlet_rules
from agents import payments as payment_rules
from agents import purchases as purchase_rules
from agents import requests as request_rules
from agents import shipping as shipping_rules
from agents import webhooks as webhook_rules
from agents.checkout import Tell, teller
from schemas.accounts import AccountCommand
from schemas.base import MAX_FAULTS
from schemas.customers import CustomerCommand
from schemas.inventory import InventoryCommand
from schemas.outlets import NoteOutlet, OutletCommand
from schemas.payments import PaymentCommand
from schemas.purchases import PurchaseCommand
from schemas.requests import Request, RequestCommand
from schemas.shipping import CarrierResponse, ShippingCommand
from schemas.strict_json import read_tree
from schemas.topics import TOPICS, TopicSpec
from schemas.webhooks import WebhookCommand
from streams import App, FaultAt, Poison, Table, Topic
from tables import accounts as account_tables
from tables import customers as customer_tables
from tables import inventory as inventory_tables
from tables import orders as order_tables
from tables import outlets as outlet_tables
from tables import payments as payment_tables
from tables import purchases as purchase_tables
from tables import requests as request_tables
from tables import shipping as shipping_tables
from tables import webhooks as webhook_tables
from tables.accounts import AccountTables
from tables.customers import CustomerTables
from tables.inventory import InventoryTables
from tables.orders import OrderTables
from tables.outlets import OutletTables
from tables.payments import PaymentTables
from tables.purchases import PurchaseTables
from tables.shipping import ShippingTables
from tables.webhooks import WebhookTables

Topics = dict[str, Topic]

#: What is on a topic where agents do not read the bytes as they came.
VALUES: dict[str, Any] = {
    "accounts.commands.v1": AccountCommand,
    "customers.commands.v1": CustomerCommand,
    "payments.commands.v1": PaymentCommand,
    "inventory.commands.v1": InventoryCommand,
    "outlets.commands.v1": OutletCommand,
    "outlet_notes.commands.v1": NoteOutlet,
    "purchases.commands.v1": PurchaseCommand,
    "requests.commands.v1": RequestCommand,
    "shipping.commands.v1": ShippingCommand,
    "shipping.responses": CarrierResponse,
    "webhooks.commands.v1": WebhookCommand,
}


class Domains(NamedTuple):
    """Everything that the agents work with."""

    topics: Topics
    orders: OrderTables
    payments: PaymentTables
    purchases: PurchaseTables
    shipping: ShippingTables
    accounts: AccountTables
    customers: CustomerTables
    inventory: InventoryTables
    webhooks: WebhookTables
    outlets: OutletTables
    requests: Table[Request]


def refuse_odd_json(raw: bytes) -> None:
    """Raise Poison for JSON whose meaning depends on the reader; a command can carry such in its free members."""
    if faults := read_tree(raw).faults:
        raise Poison((FaultAt(fault.path, fault.message) for fault in faults[:MAX_FAULTS]), "undecodable")


def declare_topics(app: App, specs: Iterable[TopicSpec]) -> Topics:
    """The topics of schemas/topics.py on an app, by name."""
    return {
        spec.name: app.topic(
            spec.name,
            partitions=spec.partitions,
            group=spec.group,
            value_type=VALUES.get(spec.name),
            check=refuse_odd_json,
            config=spec.config(),
            max_message_bytes=spec.max_message_bytes,
            looked_into=spec.looked_into,
        )
        for spec in specs
    }


def wire_orders(app: App, topics: Topics) -> OrderTables:
    tables = order_tables.declare(app, order_rules.evolve)
    intake, commands, events = (topics[name] for name in ("orders", "orders.commands.v1", "orders.events.v1"))
    order_rules.attach(app, intake=intake, commands=commands, events=events, tables=tables)
    return tables


def wire_payments(app: App, topics: Topics, tell: Tell) -> PaymentTables:
    tables = payment_tables.declare(app, payment_rules.fold, payment_rules.evolve)
    commands, events = topics["payments.commands.v1"], topics["payments.events.v1"]
    payment_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_purchases(app: App, topics: Topics, orders: OrderTables, tell: Tell) -> PurchaseTables:
    """Beside the orders, in their tasks: they share the lists."""
    tables = purchase_tables.declare(app, orders, purchase_rules.evolve)
    commands, events = topics["purchases.commands.v1"], topics["purchases.events.v1"]
    notes = topics["outlet_notes.commands.v1"]
    purchase_rules.attach(app, commands=commands, notes=notes, events=events, tables=tables, tell=tell)
    return tables


def wire_shipping(app: App, topics: Topics, tell: Tell) -> ShippingTables:
    """In the orders' tasks too: what a carrier says, and what follows for the order, is one partition's."""
    tables = shipping_tables.declare(app)
    names = ("shipping.commands.v1", "shipping.responses", "shipping.events")
    commands, responses, events = (topics[name] for name in names)
    shipping_rules.attach(app, commands=commands, responses=responses, events=events, tables=tables, tell=tell)
    return tables


def wire_accounts(app: App, topics: Topics, tell: Tell) -> AccountTables:
    tables = account_tables.declare(app)
    commands, events = topics["accounts.commands.v1"], topics["accounts.events.v1"]
    account_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_customers(app: App, topics: Topics, tell: Tell) -> CustomerTables:
    """Beside the accounts, in their tasks: both are about users."""
    tables = customer_tables.declare(app)
    commands, events = topics["customers.commands.v1"], topics["customers.events.v1"]
    customer_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_inventory(app: App, topics: Topics, tell: Tell) -> InventoryTables:
    tables = inventory_tables.declare(app)
    commands, events = topics["inventory.commands.v1"], topics["inventory.events.v1"]
    inventory_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_webhooks(app: App, topics: Topics) -> WebhookTables:
    """Beside the accounts, in their tasks."""
    tables = webhook_tables.declare(app)
    commands, events = topics["webhooks.commands.v1"], topics["webhooks.events.v1"]
    deliveries = topics["deliveries.events.v1"]
    webhook_rules.attach(app, commands=commands, events=events, deliveries=deliveries, tables=tables)
    return tables


def wire_outlets(app: App, topics: Topics, tell: Tell) -> OutletTables:
    """Beside their items, in the items' tasks."""
    tables = outlet_tables.declare(app)
    commands, events = topics["outlets.commands.v1"], topics["outlets.events.v1"]
    outlet_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_requests(app: App, topics: Topics) -> Table[Request]:
    requests = request_tables.declare(app)
    request_rules.attach(app, commands=topics["requests.commands.v1"], requests=requests)
    return requests


def wire_checkout(topics: Topics) -> Tell:
    """What joins the domains: agents/checkout.py gives commands, schemas/topics.py says where each belongs."""
    return teller(
        {command: (topics[spec.name], spec.key) for spec in TOPICS if spec.name in topics for command in spec.values}
    )


def wire(app: App, specs: Iterable[TopicSpec]) -> Domains:
    """All of it, as app.py does line by line: what tests run without window and effects."""
    topics = declare_topics(app, specs)
    tell = wire_checkout(topics)
    orders = wire_orders(app, topics)
    return Domains(
        topics,
        orders=orders,
        purchases=wire_purchases(app, topics, orders, tell),
        shipping=wire_shipping(app, topics, tell),
        payments=wire_payments(app, topics, tell),
        accounts=wire_accounts(app, topics, tell),
        customers=wire_customers(app, topics, tell),
        inventory=wire_inventory(app, topics, tell),
        webhooks=wire_webhooks(app, topics),
        outlets=wire_outlets(app, topics, tell),
        requests=wire_requests(app, topics),
    )
