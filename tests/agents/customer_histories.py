"""seeds -> random histories of customers through the real task loop -> what is true of every one of them.

A history is what one customer tries: a hundred of them at once in one application, with attempts that come twice or go
to the wrong partition, refused carts that are tried again too soon, a moment too soon and in time, limits that change,
and tasks that die and lose their stores in between.

python -m tests.agents.customer_histories 100000        as many histories, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

from agents.wiring import declare_topics, wire_checkout, wire_customers
from schemas.purchases import order_uid_of
from schemas.topics import topics
from streams import App, partition_for
from streams.driver import Driver
from tests.agents import on_demand

COMMANDS, EVENTS, CARTS = "customers.commands.v1", "customers.events.v1", "purchases.commands.v1"
PARTITIONS = 2
#: Histories of one application.
TOGETHER = 100
WINDOWS_MS = [1_000, 2_500, 10_000]


def make_app() -> App:
    """The customers alone: what they let through is looked at on its topic, and goes no further."""
    app = App("orderstream", data_dir=Path("unused"), broker="kafka://127.0.0.1:9")
    specs = {spec.name: spec for spec in topics(PARTITIONS, 1)}
    wanted = [specs[COMMANDS], specs[EVENTS], replace(specs[CARTS], group=None)]
    declared = declare_topics(app, wanted)
    wire_customers(app, declared, wire_checkout(declared))
    return app


class Told(NamedTuple):
    """What an attempt must come to."""

    command_id: str
    order_uid: str
    admitted: bool
    next_at_ms: int | None


class Model:
    """What must come of a customer's attempts, from lists that forget nothing: plain numbers, no rules."""

    def __init__(self) -> None:
        self.admitted: list[tuple[int, str]] = []
        self.refused: list[tuple[int, str]] = []

    def take(self, now_ms: int, said: dict[str, Any]) -> Told | None:
        window, most, uid = said["limit"]["window_ms"], said["limit"]["most"], said["cart"]["order_uid"]
        lately = [name for at, name in [*self.admitted, *self.refused[-16:]] if at > now_ms - window]
        if uid in lately or said["command_id"] in lately:
            return None
        inside = [at for at, _ in self.admitted if at > now_ms - window]
        if len(inside) < most:
            self.admitted.append((now_ms, uid))
            return Told(said["command_id"], uid, True, None)
        self.refused.append((now_ms, said["command_id"]))
        # The first moment at which enough of them have left, found by trying each that anything leaves at.
        moments = sorted(at + window for at in inside)
        next_at = next(moment for moment in moments if sum(at > moment - window for at in inside) < most)
        return Told(said["command_id"], uid, False, next_at)


class Crowd:
    """The customers of one application, and what each has tried."""

    def __init__(self, driver: Driver, chance: Random) -> None:
        self.driver, self.chance, self.number = driver, chance, 0
        self.windows = [chance.choice(WINDOWS_MS) for _ in range(TOGETHER)]
        self.carts: list[list[dict[str, Any]]] = [[] for _ in range(TOGETHER)]
        self.sent: list[dict[str, Any]] = []

    def attempt(self) -> None:
        """A new cart, a refused or admitted one under another command, or the same command again."""
        chance, who = self.chance, self.chance.randrange(TOGETHER)
        self.number += 1
        id = f"a{self.number}"
        if self.sent and chance.random() < 0.1:
            self.send(chance.choice(self.sent[-200:]))
            return
        if self.carts[who] and chance.random() < 0.3:
            cart = chance.choice(self.carts[who][-3:])
        else:
            cart = {
                "type": "place_cart",
                "command_id": f"cart{self.number}",
                "order_uid": order_uid_of(f"cart{self.number}"),
                "user_id": f"user {who}",
                "lines": [{"item_id": "book", "quantity": 1}],
                "payment": {"method": "account"},
            }
            self.carts[who].append(cart)
        limit = {"most": chance.choice([1, 2, 2, 3, 5]), "window_ms": self.windows[who]}
        self.send({"type": "admit_order", "command_id": id, "cart": cart, "limit": limit})

    def send(self, said: dict[str, Any]) -> None:
        self.sent.append(said)
        anywhere = self.chance.randrange(PARTITIONS) if self.chance.random() < 0.1 else None
        key = said["cart"]["user_id"]
        self.driver.produce(COMMANDS, key=key, value=orjson.dumps(said), partition=anywhere)


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; raises AssertionError where one is not as it must be. Gives what happened how often."""
    chance = Random(seed)
    app = make_app()
    async with Driver(app, batch_max_records=chance.choice([1, 7, *[1_000] * 6])) as driver:
        crowd = Crowd(driver, chance)
        for _ in range(40):
            for _ in range(chance.randint(5, 40)):
                crowd.attempt()
            if chance.random() < 0.1:
                await driver.start("accounts", chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await driver.run()
            await driver.advance(_pause(driver, chance))
        seen = check_whole(driver)
        if replay:
            before = driver.rows("customers")
            await driver.replay()
            await driver.run()
            assert driver.rows("customers") == before
            assert check_whole(driver) == seen, "a replay sends nothing again"
        return seen


def _pause(driver: Driver, chance: Random) -> int:
    """A while; or until the very moment of somebody's next order, or a millisecond before it."""
    refused = [each for record in driver.read(EVENTS)[-50:] if (each := _parse(record.value)).get("next_at_ms")]
    if refused and chance.random() < 0.6:
        due = chance.choice(refused)["next_at_ms"] - chance.choice([0, 1]) - driver.clock.now_ms()
        return max(0, int(due))
    return chance.choice([0, 1, 200, 900, 3_000])


def check_whole(driver: Driver) -> Counter[str]:
    """The events are what the attempts in their order must cause, and what was let through went on, once, as it was."""
    customers: dict[str, Model] = {}
    wanted: Counter[Told] = Counter()
    for record in driver.read(COMMANDS):
        said, key = _parse(record.value), record.key or b""
        if partition_for(key, PARTITIONS) == record.partition:
            outcome = customers.setdefault(key.decode(), Model()).take(record.timestamp, said)
            wanted.update([outcome] if outcome else [])
    assert not driver.read("dead_letters.v1")
    found = [_parse(record.value) for record in driver.read(EVENTS)]
    told = Counter(_told(event) for event in found)
    assert told == wanted, (next(iter(told - wanted), None), next(iter(wanted - told), None))
    assert len({event["event_id"] for event in found}) == len(found), "every event has an id of its own"
    carts = Counter(orjson.dumps(event["cart"]) for event in found if event["type"] == "order_admitted")
    assert Counter(record.value for record in driver.read(CARTS)) == carts
    for user_id, row in driver.rows("customers").items():
        assert len(row.admitted) <= 5 and len(row.refused) <= 16, (user_id, row)
    return Counter(event["type"] for event in found)


def _told(event: dict[str, Any]) -> Told:
    admitted = event["type"] == "order_admitted"
    return Told(event["caused_by"], event["order_uid"], admitted, event.get("next_at_ms"))


def _parse(raw: bytes | None) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(raw or b"")
    return said


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
