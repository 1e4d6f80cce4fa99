"""a seed -> events of orders as the platform writes them, and, folded independently, what must stand in PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from agents.effects.postgres.destination import PostgresDestination
from agents.effects.postgres.rows import read_dead_letter, read_event
from schemas.base import event_id_for, rfc3339
from schemas.orders import samples
from schemas.orders.words import (
    CancellationRefusal,
    CancellationRefused,
    OrderCancelled,
    OrderEvent,
    OrderPlaced,
    encode_event,
)
from streams.records import StoredRecord, TopicPartition
from streams.sink import Mark, Move

EVENTS, LETTERS = "orders.events.v1", "dead_letters.v1"
START_MS = 1_760_000_000_000


@dataclass
class History:
    """Orders placed, some cancelled, some cancelled twice (the second is refused)."""

    seed: int = 1
    made: int = 0
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[OrderEvent] = field(default_factory=list)
    after: list[dict[str, Any]] = field(default_factory=list)  # the order's state after each event

    def place(self, document: bytes | None = None) -> OrderPlaced:
        raw = document if document is not None else samples.generate(self.made, self.seed)
        read = orjson.loads(raw)
        uid, cause, time = read["order_uid"], f"place-{self.made}", rfc3339(START_MS + self.made)
        self.states[uid] = {
            "order_uid": uid,
            "version": 1,
            "status": "placed",
            "customer_id": read["customer_id"],
            "placed_at": time,
            "updated_at": time,
            "updated_by": cause,
            "cancel_reason": None,
            "document": read,
        }
        placed = OrderPlaced(
            event_id=event_id_for(cause, 0),
            caused_by=cause,
            occurred_at=time,
            order_uid=uid,
            version=1,
            customer_id=read["customer_id"],
            document=raw,
        )
        self._say(placed)
        return placed

    def cancel(self, uid: str, reason: str = "no longer wanted") -> None:
        """Cancelled, or refused because it was before."""
        state, cause, time = self.states[uid], f"cancel-{self.made}", rfc3339(START_MS + self.made)
        said = {"event_id": event_id_for(cause, 0), "caused_by": cause, "occurred_at": time, "order_uid": uid}
        if state["status"] == "cancelled":
            refusal = CancellationRefusal.ALREADY_CANCELLED
            self._say(CancellationRefused(**said, version=state["version"], reason=refusal))
            return
        state |= {"version": 2, "status": "cancelled", "updated_at": time, "updated_by": cause, "cancel_reason": reason}
        self._say(OrderCancelled(**said, version=2, reason=reason))

    def run(self, count: int) -> list[OrderEvent]:
        """More events, at random; the same for the same seed."""
        chance = random.Random(self.seed * 7919 + self.made)
        begun = len(self.events)
        for _ in range(count):
            if self.states and chance.random() < 0.25:
                self.cancel(chance.choice(sorted(self.states)))
            else:
                self.place()
        return self.events[begun:]

    def _say(self, event: OrderEvent) -> None:
        self.made += 1
        self.events.append(event)
        self.after.append(dict(self.states[event.order_uid]))


def records(events: Iterable[OrderEvent], partition: int = 0, first: int = 0) -> list[StoredRecord]:
    """The events as one partition holds them, from the offset `first`."""
    return [
        StoredRecord(EVENTS, partition, offset, START_MS + offset, event.order_uid.encode(), encode_event(event))
        for offset, event in enumerate(events, first)
    ]


def new_destination(dsn: str) -> PostgresDestination:
    return PostgresDestination(lambda: dsn, {EVENTS: read_event, LETTERS: read_dead_letter})


async def write(destination: PostgresDestination, batch: list[StoredRecord], expected: int | None = None) -> Any:
    """One batch of one partition, from its first record to its last."""
    last = batch[-1]
    partition = TopicPartition(last.topic, last.partition)
    return await destination.write(
        batch, {partition: Move(expected, last.offset + 1, Mark(last.offset, last.timestamp))}
    )


async def fetch(dsn: str, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "orderstream"})
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def rows_of(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that a rebuild must bring back."""
    orders = {
        "orders": "order_uid",
        "order_items": "order_uid, line_no",
        "order_events": "event_id",
        "dead_letters": "id",
        "dead_letter_redrives": "id",
        "refused_rows": 'topic, partition, "offset"',
        "sink_positions": "topic, partition",
    }
    return {
        table: [tuple(row) for row in await fetch(dsn, f"SELECT * FROM {table} ORDER BY {order}")]
        for table, order in orders.items()
    }
