"""The real topics, tables and agents of the domains on an app of their own: what `Driver` runs without a broker."""

from __future__ import annotations

from pathlib import Path

from agents import orders as order_rules
from agents import requests as request_rules
from schemas.orders import OrderEvent, encode_command, read_event
from schemas.orders.words import OrderCommand
from schemas.requests import RequestCommand
from schemas.topics import topics
from streams import App, Position, partition_for
from streams.driver import Driver
from tables import orders as order_tables
from tables import requests as request_tables
from tables.orders import OrderTables

PARTITIONS = 3


def make_app(data_dir: Path, partitions: int = PARTITIONS) -> tuple[App, OrderTables]:
    """As app.py, without window and effects."""
    app = App("orderstream", data_dir=data_dir, broker="kafka://127.0.0.1:9")
    values = {"requests.commands.v1": RequestCommand}
    declared = {
        spec.name: app.topic(
            spec.name,
            partitions=spec.partitions,
            group=spec.group,
            value_type=values.get(spec.name),
            config=spec.config(),
            max_message_bytes=spec.max_message_bytes,
        )
        for spec in topics(partitions, 1)
    }
    orders, requests = order_tables.declare(app), request_tables.declare(app)
    order_rules.attach(
        app,
        intake=declared["orders"],
        commands=declared["orders.commands.v1"],
        events=declared["orders.events.v1"],
        tables=orders,
    )
    request_rules.attach(app, commands=declared["requests.commands.v1"], requests=requests)
    return app, orders


def home(key: str) -> int:
    return partition_for(key.encode(), PARTITIONS)


def elsewhere(key: str) -> int:
    """A partition where the key is not at home."""
    return (home(key) + 1) % PARTITIONS


def events(driver: Driver) -> list[OrderEvent]:
    return [read_event(record.value) for record in driver.read("orders.events.v1") if record.value is not None]


def command(driver: Driver, what: OrderCommand, partition: int | None = None) -> Position:
    return driver.produce("orders.commands.v1", key=what.order_uid, value=encode_command(what), partition=partition)
