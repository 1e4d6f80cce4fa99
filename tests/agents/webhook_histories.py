"""a seed -> many subscriptions' random histories on the real task loop, the sender and its targets played by chance.

After each step the books must be right: what was asked for is in the log once, what is counted is what the rows say,
targets are spared as the breaker says. At the end every target mends, and everything must have been settled.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import orjson

from schemas.base import derived_id
from schemas.webhooks import (
    AT_ONCE,
    SETTLED,
    AttemptDue,
    Breaker,
    Delivery,
    DeliveryState,
    delivery_id_of,
    read_delivery_event,
    read_event,
)
from streams.driver import Driver
from tests.agents.domain import elsewhere, make_app

COMMANDS, EVENTS, DELIVERIES = "webhooks.commands.v1", "webhooks.events.v1", "deliveries.events.v1"
#: Subscriptions in one run: each is a history of its own, and they share nothing but tasks.
TOGETHER = 20
STEPS = 40
TABLES = ("webhooks", "webhook_targets", "webhook_deliveries", "webhook_payloads", "webhook_order")


class Histories:
    """What was asked of the platform, and what a sender would do."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self.driver, self.chance = driver, Random(seed)
        self.ids = [derived_id(f"history {seed} {number}") for number in range(TOGETHER)]
        self.asked: dict[str, set[str]] = defaultdict(set)
        self.alive: set[str] = set()
        self.read: Counter[int] = Counter()
        self.due: list[AttemptDue] = []
        self.last: dict[str, Any] | None = None
        self.count = 0
        self.seen: Counter[str] = Counter()

    def say(self, kind: str, id: str, **more: Any) -> None:
        self.count += 1
        said = {"type": kind, "command_id": f"c{self.count}", "subscription_id": id, **more}
        self._produce(said)
        if self.chance.random() < 0.1:  # the broker, or the producer, sends it again
            self._produce(self.last if self.last and self.chance.random() < 0.5 else said)
        self.last = said

    def _produce(self, said: dict[str, Any]) -> None:
        id = said["subscription_id"]
        # What strays is overtaken: of a creation or a deletion nobody could say then what should be in the log.
        strays = said["type"] not in ("create_subscription", "delete_subscription", "request_delivery")
        partition = elsewhere(id) if strays and self.chance.random() < 0.05 else None
        self.driver.produce(COMMANDS, key=id, value=orjson.dumps(said), partition=partition)

    def act(self) -> None:
        """Something that somebody does to one of them."""
        id = self.chance.choice(self.ids)
        name = {"secret_id": f"s{self.count}", "fingerprint": "f"}
        match self.chance.randrange(12):
            case 0 | 1 if id not in self.alive:
                policy = {"attempts": 4, "first_pause_ms": 1_000, "breaker_failures": 3, "breaker_pause_ms": 5_000}
                about = {"url": "https://example.com/", "events": ["*"], "secret": name, "policy": policy}
                self.say("create_subscription", id, **about)
                self.alive.add(id)
            case 2:
                self.say("change_subscription", id, paused=self.chance.random() < 0.4)
            case 3:
                self.say("rotate_secret", id, secret=name, keep_previous_ms=self.chance.choice([0, *[90_000] * 5]))
            case 4 if id in self.alive and self.chance.random() < 0.1:
                self.say("delete_subscription", id)
                self.alive.discard(id)
                self.asked.pop(id, None)
            case 5:
                known = [*sorted(self.asked[id]), delivery_id_of(id, "nothing")]
                self.say("resend_delivery", id, delivery_id=self.chance.choice(known))
            case _ if id in self.alive:
                event_id = f"e{self.chance.randrange(self.count + 1)}"
                self.request(id, event_id)
            case _:
                self.say("delete_subscription", id)

    def request(self, id: str, event_id: str) -> None:
        delivery_id = delivery_id_of(id, event_id)
        said = {"event_id": event_id, "event_type": "orders.order_placed", "position": "p", "payload": event_id}
        self.asked[id].add(delivery_id)
        self.say("request_delivery", id, delivery_id=delivery_id, **said)

    def hear(self) -> None:
        """What is due by now, as the sender reads it."""
        for record in self.driver.read(DELIVERIES):
            if record.offset < self.read[record.partition]:
                continue
            self.read[record.partition] = record.offset + 1
            event = read_delivery_event(record.value or b"")
            self.seen[event.type] += 1
            if isinstance(event, AttemptDue):
                self.due.append(event)

    def attempt(self, due: AttemptDue, status: int) -> None:
        about = {"delivery_id": due.delivery_id, "attempt": due.attempt, "status": status}
        self.say("record_attempt", due.subscription_id, **about)

    def send(self) -> None:
        """Some of what is due is attempted, in any order; some answers come twice."""
        self.chance.shuffle(self.due)
        for due in [self.due.pop() for _ in range(self.chance.randrange(len(self.due) + 1))]:
            self.attempt(
                due, self.chance.choice([200, 200, 204, 500, 503, 404, 410 if self.chance.random() < 0.2 else 500])
            )
            if self.chance.random() < 0.1:
                self.attempt(due, 200)

    def rows(self, table: str) -> dict[str, Any]:
        return self.driver.rows(table)

    def check(self) -> None:
        """The books are right, and no target is pressed."""
        targets = self.rows("webhook_targets")
        log: dict[str, list[Delivery]] = defaultdict(list)
        for key, row in self.rows("webhook_deliveries").items():
            log[key.split("\0")[0]].append(row)
        waiting = Counter(key[1:].split("\0")[0] for key in self.rows("webhook_order") if key[0] == "w")
        there = self.rows("webhooks")
        assert set(there) == self.alive
        for id in there:
            rows, target = log[id], targets.get(id)
            assert {row.delivery_id for row in rows} == self.asked[id], "asked for: in the log, once"
            states = Counter(row.state for row in rows)
            if target is None:
                assert not rows
                continue
            assert target.under_way == states[DeliveryState.UNDER_WAY] <= AT_ONCE
            assert target.unsettled == sum(count for state, count in states.items() if state not in SETTLED)
            assert waiting[id] == states[DeliveryState.WAITING]
            assert sorted(row.sequence for row in rows) == list(range(1, target.next_sequence))
            assert (target.open_until_ms is not None) == (target.breaker is Breaker.OPEN)
            if there[id].paused is None and target.breaker is Breaker.CLOSED:
                assert not states[DeliveryState.WAITING] or target.under_way == AT_ONCE, "nobody waits for nothing"
        assert len(self.rows("webhook_payloads")) == sum(map(len, log.values()))
        assert not self.driver.read("dead_letters.v1")

    async def finish(self) -> None:
        """Every target answers, whatever is paused goes on, and time passes: nothing may be left over."""
        for id in self.alive:
            self.say("change_subscription", id, paused=False)
        for _ in range(200):
            await self.driver.run()
            self.hear()
            for due in self.due:
                self.attempt(due, 200)
            self.due.clear()
            await self.driver.advance(60_000)
            if all(row.state in SETTLED for row in self.rows("webhook_deliveries").values()):
                break
        self.check()
        assert all(row.state in SETTLED for row in self.rows("webhook_deliveries").values())
        assert not [row for row in self.rows("webhook_targets").values() if row.unsettled or row.under_way]


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; gives what happened, refusals by their reason."""
    app, _ = make_app(Path("/nonexistent"))
    async with Driver(app, batch_max_records=7) as driver:
        histories = Histories(driver, seed)
        for _ in range(STEPS):
            for _ in range(histories.chance.randrange(TOGETHER)):
                histories.act()
            await driver.run()
            histories.hear()
            histories.send()
            await driver.run()
            histories.hear()
            histories.check()
            await driver.advance(histories.chance.choice([0, 500, 3_000, 10_000]))
            histories.hear()
        await histories.finish()
        for record in driver.read(EVENTS):
            event = read_event(record.value or b"")
            histories.seen[getattr(event, "reason", event.type)] += 1
        if replay:
            before = {table: driver.rows(table) for table in TABLES}
            await driver.replay()
            await driver.run()
            assert {table: driver.rows(table) for table in TABLES} == before
        return histories.seen
