"""Webhooks: events -> rows -> a subscription, its target, its log of deliveries. Tables of group `accounts`.

The group has nothing to do with accounts but its tasks: a group of its own would cost every idle worker four more. All
rows of a subscription are written by the task of its subscription_id. The layout of the keys:

    webhooks            subscription_id -> Subscription
    webhook_targets     subscription_id -> Target
    webhook_deliveries  subscription_id NUL delivery_id -> Delivery
    webhook_payloads    subscription_id NUL delivery_id -> the body, written once: deliveries change often
    webhook_order       l subscription_id NUL sequence -> delivery_id   the log
                        w subscription_id NUL sequence -> delivery_id   those that wait for their turn
    webhook_commands    subscription_id NUL command_id -> CommandAnswer
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.webhooks import (
    KEPT_DELIVERIES,
    SETTLED,
    AskedCommand,
    CommandAnswer,
    Delivery,
    DeliveryState,
    Subscription,
    Target,
    WebhookCommandRefused,
    WebhookEvent,
    content_of,
)
from streams import App, Codec, Position, Table

GROUP = "accounts"
_LOG, _WAITING = "l", "w"


@dataclass(frozen=True)
class WebhookTables:
    """The tables of webhooks. Reads work in the group's agents and within `app.reading("accounts", partition)`."""

    webhooks: Table[Subscription]
    targets: Table[Target]
    deliveries: Table[Delivery]
    payloads: Table[bytes]
    order: Table[bytes]
    commands: Table[CommandAnswer]

    def subscription(self, subscription_id: str) -> Subscription | None:
        """The subscription as it stands."""
        return self.webhooks.get(subscription_id)

    def target(self, subscription_id: str) -> Target:
        """What is going on at its target."""
        return self.targets.get(subscription_id, Target())

    def delivery(self, subscription_id: str, delivery_id: str) -> Delivery | None:
        """The delivery as it stands, while the log has it."""
        return self.deliveries.get(f"{subscription_id}\0{delivery_id}")

    def payload(self, subscription_id: str, delivery_id: str) -> str:
        return self.payloads[f"{subscription_id}\0{delivery_id}"].decode()

    def answer(self, subscription_id: str, command_id: str) -> CommandAnswer | None:
        """What became of a command that somebody asked for; None when it has not come, or had nothing new to say."""
        return self.commands.get(f"{subscription_id}\0{command_id}")

    def all(self, *, after: str | None = None, limit: int | None = None) -> Iterator[Subscription]:
        """The subscriptions of this partition by id."""
        return (subscription for _, subscription in self.webhooks.range(after=after, limit=limit))

    def log(self, subscription_id: str, *, before: int | None = None) -> Iterator[Delivery]:
        """The deliveries of a subscription, newest first; `before`: a sequence number given before."""
        prefix = f"{_LOG}{subscription_id}\0"
        after = None if before is None else f"{prefix}{before:010d}"
        for _, delivery_id in self.order.range(prefix, after=after, reverse=True):
            yield self.deliveries[f"{subscription_id}\0{delivery_id.decode()}"]

    def first_waiting(self, subscription_id: str) -> Delivery | None:
        """The delivery whose turn is next."""
        for _, delivery_id in self.order.range(f"{_WAITING}{subscription_id}\0", limit=1):
            return self.delivery(subscription_id, delivery_id.decode())
        return None

    def keep(self, before: Subscription | None, after: Subscription | None) -> None:
        if after is None and before is not None:
            del self.webhooks[before.subscription_id]
            del self.targets[before.subscription_id]
        elif after is not None and after is not before:
            self.webhooks[after.subscription_id] = after

    def keep_target(self, subscription_id: str, before: Target, after: Target) -> None:
        if after != before:
            self.targets[subscription_id] = after

    def keep_delivery(self, subscription_id: str, before: Delivery | None, after: Delivery, newest: int) -> None:
        """A delivery, its place in the log and in the line. `newest`: the last sequence number that was given.

        The log is bounded: what is settled goes when KEPT_DELIVERIES have come after it.
        """
        place = f"{subscription_id}\0{after.sequence:010d}"
        id = after.delivery_id.encode()
        self.deliveries[f"{subscription_id}\0{after.delivery_id}"] = after
        if before is None:
            self.order[_LOG + place] = id
            self._drop_if_settled(subscription_id, after.sequence - KEPT_DELIVERIES)
        if after.state is DeliveryState.WAITING:
            self.order[_WAITING + place] = id
        elif before is not None and before.state is DeliveryState.WAITING:
            del self.order[_WAITING + place]
        if after.state in SETTLED and after.sequence <= newest - KEPT_DELIVERIES:
            self._drop(subscription_id, after)

    def keep_payload(self, subscription_id: str, delivery_id: str, payload: str) -> None:
        self.payloads[f"{subscription_id}\0{delivery_id}"] = payload.encode()

    def keep_answer(self, command: AskedCommand, event: WebhookEvent | None, version: int, cause: Position) -> None:
        """What a command came to; `event` None: nothing new to say."""
        self.commands[f"{command.subscription_id}\0{command.command_id}"] = CommandAnswer(
            content_of(command),
            event.type if event else "nothing_new",
            event.reason if isinstance(event, WebhookCommandRefused) else None,
            version,
            *cause,
        )

    def drop_some(self, subscription_id: str, most: int) -> bool:
        """Drop up to `most` deliveries of a subscription that is no more; says whether there are others."""
        prefix = f"{_LOG}{subscription_id}\0"
        rows = list(self.order.range(prefix, limit=most + 1))
        for _, delivery_id in rows[:most]:
            delivery = self.delivery(subscription_id, delivery_id.decode())
            assert delivery is not None, "what the log names has a row"
            self._drop(subscription_id, delivery)
        return len(rows) > most

    def _drop_if_settled(self, subscription_id: str, sequence: int) -> None:
        id = self.order.get(f"{_LOG}{subscription_id}\0{sequence:010d}") if sequence > 0 else None
        delivery = self.delivery(subscription_id, id.decode()) if id else None
        if delivery is not None and delivery.state in SETTLED:
            self._drop(subscription_id, delivery)

    def _drop(self, subscription_id: str, delivery: Delivery) -> None:
        place = f"{subscription_id}\0{delivery.sequence:010d}"
        del self.order[_LOG + place]
        if delivery.state is DeliveryState.WAITING:
            del self.order[_WAITING + place]
        del self.deliveries[f"{subscription_id}\0{delivery.delivery_id}"]
        del self.payloads[f"{subscription_id}\0{delivery.delivery_id}"]


def declare(app: App) -> WebhookTables:
    """Declare the tables on the app. Their changelogs are named after them."""
    return WebhookTables(
        webhooks=app.Table("webhooks", group=GROUP, value_type=Subscription, help="Subscriptions by id."),
        targets=app.Table(
            "webhook_targets", group=GROUP, codec=Codec(Target.to_json, Target.from_json), help="How targets are."
        ),
        deliveries=app.Table(
            "webhook_deliveries",
            group=GROUP,
            codec=Codec(Delivery.to_json, Delivery.from_json),
            help="Deliveries, the newest of each subscription.",
        ),
        payloads=app.Table("webhook_payloads", group=GROUP, value_type=bytes, help="What deliveries send."),
        order=app.Table("webhook_order", group=GROUP, value_type=bytes, help="Deliveries in their order."),
        commands=app.Table(
            "webhook_commands",
            group=GROUP,
            codec=Codec(CommandAnswer.to_json, CommandAnswer.from_json),
            help="Answered commands, so that none counts twice.",
        ),
    )
