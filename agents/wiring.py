"""an app and its topics -> each domain's tables declared and its agents attached: once, for app.py, tests and bench."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

from agents import accounts as account_rules
from agents import inventory as inventory_rules
from agents import orders as order_rules
from agents import payments as payment_rules
from agents import requests as request_rules
from agents.checkout import Tell, tell_nobody, teller
from schemas.accounts import AccountCommand, CaptureHold, HoldFunds, RefundFunds, ReleaseHold
from schemas.base import Command
from schemas.inventory import CommitStock, InventoryCommand, ReleaseStock, ReserveStock
from schemas.payments import PaymentCommand, Recorded
from schemas.requests import Request, RequestCommand
from schemas.topics import TopicSpec
from streams import App, Table, Topic
from tables import accounts as account_tables
from tables import inventory as inventory_tables
from tables import orders as order_tables
from tables import payments as payment_tables
from tables import requests as request_tables
from tables.accounts import AccountTables
from tables.inventory import InventoryTables
from tables.orders import OrderTables
from tables.payments import PaymentTables

Topics = dict[str, Topic]

#: What is on a topic where agents do not read the bytes as they came.
VALUES: dict[str, Any] = {
    "accounts.commands.v1": AccountCommand,
    "payments.commands.v1": PaymentCommand,
    "inventory.commands.v1": InventoryCommand,
    "requests.commands.v1": RequestCommand,
}


class Domains(NamedTuple):
    """Everything that the agents work with."""

    topics: Topics
    orders: OrderTables
    payments: PaymentTables
    accounts: AccountTables
    inventory: InventoryTables
    requests: Table[Request]


def declare_topics(app: App, specs: Iterable[TopicSpec]) -> Topics:
    """The topics of schemas/topics.py on an app, by name."""
    return {
        spec.name: app.topic(
            spec.name,
            partitions=spec.partitions,
            group=spec.group,
            value_type=VALUES.get(spec.name),
            config=spec.config(),
            max_message_bytes=spec.max_message_bytes,
        )
        for spec in specs
    }


def wire_orders(app: App, topics: Topics) -> OrderTables:
    tables = order_tables.declare(app)
    intake, commands, events = (topics[name] for name in ("orders", "orders.commands.v1", "orders.events.v1"))
    order_rules.attach(app, intake=intake, commands=commands, events=events, tables=tables)
    return tables


def wire_payments(app: App, topics: Topics, tell: Tell = tell_nobody) -> PaymentTables:
    tables = payment_tables.declare(app)
    commands, events = topics["payments.commands.v1"], topics["payments.events.v1"]
    payment_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_accounts(app: App, topics: Topics, tell: Tell = tell_nobody) -> AccountTables:
    tables = account_tables.declare(app)
    commands, events = topics["accounts.commands.v1"], topics["accounts.events.v1"]
    account_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_inventory(app: App, topics: Topics, tell: Tell = tell_nobody) -> InventoryTables:
    tables = inventory_tables.declare(app)
    commands, events = topics["inventory.commands.v1"], topics["inventory.events.v1"]
    inventory_rules.attach(app, commands=commands, events=events, tables=tables, tell=tell)
    return tables


def wire_requests(app: App, topics: Topics) -> Table[Request]:
    requests = request_tables.declare(app)
    request_rules.attach(app, commands=topics["requests.commands.v1"], requests=requests)
    return requests


def wire_checkout(topics: Topics) -> Tell:
    """What joins the domains: each command that agents/checkout.py can give, its topic and its key there."""
    to_accounts = (topics["accounts.commands.v1"], "account_id")
    to_inventory = (topics["inventory.commands.v1"], "item_id")
    to_payments = (topics["payments.commands.v1"], "order_uid")
    routes: dict[type[Command], tuple[Topic, str]] = {}
    routes |= dict.fromkeys((HoldFunds, CaptureHold, ReleaseHold, RefundFunds), to_accounts)
    routes |= dict.fromkeys((ReserveStock, CommitStock, ReleaseStock), to_inventory)
    routes |= dict.fromkeys(get_args(Recorded), to_payments)
    return teller(routes)


def wire(app: App, specs: Iterable[TopicSpec]) -> Domains:
    """All of it, as app.py does line by line: what tests run without window and effects."""
    topics = declare_topics(app, specs)
    tell = wire_checkout(topics)
    return Domains(
        topics,
        orders=wire_orders(app, topics),
        payments=wire_payments(app, topics, tell),
        accounts=wire_accounts(app, topics, tell),
        inventory=wire_inventory(app, topics, tell),
        requests=wire_requests(app, topics),
    )
