"""committed events -> the subscriptions that want them -> RequestDelivery on webhooks.commands.v1.

In this order, so that a crash at any point is harmless: know every subscription that was committed before the event was
read; write down a command for each that wants it, whose id follows from event and subscription; commit the event's
position. What is done twice is known again by the subscription's owner.

Every worker reads webhooks.events.v1 from its beginning. That is small: it grows when somebody changes a subscription.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson
from pydantic import ValidationError

from schemas.topics import TOLD, WEBHOOK_EVENTS
from schemas.webhooks import (
    CUSTOMER,
    MAX_PAYLOAD_BYTES,
    RequestDelivery,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    delivery_id_of,
    read_event,
)
from streams.following import Follower, Tail
from streams.records import Position, Record, TopicPartition

log = logging.getLogger(__name__)

#: Of an event that is too large to be sent whole: what names it and whom it is about.
NAMES = ("type", "event_id", "caused_by", "occurred_at", "version", "status", "order_uid", "account_id", "item_id",
         "user_id", "customer_id")  # fmt: skip


class Commands(Protocol):
    """The topic of webhooks' commands, as far as this room needs it."""

    async def send(self, *, key: str, value: Any) -> Any: ...


@dataclass(frozen=True)
class Wish:
    """What a subscription wants to hear of, and from where on."""

    subscription_id: str
    patterns: frozenset[str]
    customer_id: str | None
    starts: Mapping[str, list[int]]

    def wants(self, name: str, customer_id: str | None, record: Record) -> bool:
        """Where hearing begins is a place in the log: clocks differ, and producers' say anything."""
        if self.customer_id is not None and self.customer_id != customer_id:
            return False
        if not self.patterns & {name, f"{name.partition('.')[0]}.*", "*"}:
            return False
        starts = self.starts.get(record.topic, [])
        return record.offset >= (starts[record.partition] if record.partition < len(starts) else 0)


class Router:
    """Knows all subscriptions, and gives each what it wants."""

    def __init__(self, commands: Commands, partitions: int, tail: Tail) -> None:
        self._commands, self._partitions = commands, partitions
        self.wishes: dict[str, Wish] = {}
        here = [TopicPartition(WEBHOOK_EVENTS.name, number) for number in range(partitions)]
        self._follower = Follower(tail, here, self._take, self.wishes.clear)

    async def act(self, record: Record) -> None:
        """The deed of the effect: the deliveries that an event comes to are asked for."""
        await self._follower.catch_up()
        if not self.wishes or record.value is None:
            return
        event = orjson.loads(record.value)
        name = f"{record.topic.partition('.')[0]}.{event['type']}"
        about = customer_of(record, event)
        wanted = [wish.subscription_id for wish in self.wishes.values() if wish.wants(name, about, record)]
        if wanted:
            payload = payload_of(name, event, record.value)
            await asyncio.gather(*(self._request(id, name, event, payload, record) for id in wanted))

    async def nobody_listens(self) -> bool:
        """Whether there is no subscription, of those committed before this was asked."""
        if not self.wishes:
            await self._follower.catch_up()
        return not self.wishes

    async def _request(self, id: str, name: str, event: dict[str, Any], payload: str, record: Record) -> None:
        delivery_id = delivery_id_of(id, event["event_id"])
        command = RequestDelivery(
            command_id=delivery_id,
            subscription_id=id,
            delivery_id=delivery_id,
            event_id=event["event_id"],
            event_type=name,
            position=str(Position(record.topic, record.partition, record.offset)),
            payload=payload,
        )
        await self._commands.send(key=id, value=command)

    async def starts(self) -> dict[str, list[int]]:
        """Where each topic of events ends now: a subscription that is made now hears what comes after."""
        partitions = [TopicPartition(spec.name, number) for spec in TOLD for number in range(self._partitions)]
        ends = await self._follower.ends(partitions)
        found: dict[str, list[int]] = {spec.name: [] for spec in TOLD}
        for partition in partitions:
            found[partition.topic].append(ends[partition])
        return found

    async def close(self) -> None:
        await self._follower.close()

    def _take(self, record: Record) -> None:
        try:
            event = read_event(record.value or b"")
        except ValidationError as error:
            # Nobody but our own agents writes here: another version's new word, which is no wish that we know.
            log.error("webhooks: an event that this version does not know: %s", error.errors(include_input=False)[:1])
            return
        id = event.subscription_id
        match event:
            case SubscriptionCreated():
                self.wishes[id] = Wish(id, frozenset(event.events), event.customer_id, event.starts)
            case SubscriptionChanged() if id in self.wishes:
                self.wishes[id] = replace(self.wishes[id], patterns=frozenset(event.events))
            case SubscriptionDeleted():
                self.wishes.pop(id, None)
            case _:
                pass


def customer_of(record: Record, event: Mapping[str, Any]) -> str | None:
    """Whom an event is about, as it says itself or as its header does (schemas.webhooks.about)."""
    said = event.get("customer_id") or event.get("user_id")
    if isinstance(said, str):
        return said
    return next((value.decode() for name, value in record.headers if name == CUSTOMER), None)


def payload_of(name: str, event: Mapping[str, Any], raw: bytes) -> str:
    """The body of a delivery: the event as it stands on its topic, or its names where it is too large for a webhook."""
    data: Any = orjson.Fragment(raw)
    if len(raw) > MAX_PAYLOAD_BYTES:
        data = {**{key: event[key] for key in NAMES if key in event}, "truncated": True}
    return orjson.dumps({"type": name, "timestamp": event["occurred_at"], "data": data}).decode()
