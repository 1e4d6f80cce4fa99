"""The real topics, tables and agents of the domains on an app of their own: what `Driver` runs without a broker."""

from __future__ import annotations

from pathlib import Path

from agents.wiring import Domains, wire
from schemas.orders import OrderEvent, encode_command, read_event
from schemas.orders.words import OrderCommand
from schemas.topics import topics
from streams import App, Position, partition_for
from streams.driver import Driver

PARTITIONS = 3


def make_app(data_dir: Path, partitions: int = PARTITIONS, version: str = "") -> tuple[App, Domains]:
    """As app.py, without window and effects."""
    app = App("orderstream", data_dir=data_dir, broker="kafka://127.0.0.1:9", version=version)
    return app, wire(app, topics(partitions, 1))


def home(key: str) -> int:
    return partition_for(key.encode(), PARTITIONS)


def elsewhere(key: str) -> int:
    """A partition where the key is not at home."""
    return (home(key) + 1) % PARTITIONS


def events(driver: Driver) -> list[OrderEvent]:
    return [read_event(record.value) for record in driver.read("orders.events.v1") if record.value is not None]


def command(driver: Driver, what: OrderCommand, partition: int | None = None) -> Position:
    return driver.produce("orders.commands.v1", key=what.order_uid, value=encode_command(what), partition=partition)
