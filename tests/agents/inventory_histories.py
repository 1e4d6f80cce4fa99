"""seeds -> random histories of items through the real task loop -> what is true of every one of them.

A history is the life of one item, for which two orders compete: a hundred of them run at once in one application, with
commands that repeat, come late, go to the wrong partition, reservations that expire, and tasks that die and lose their
stores in between.

python -m tests.agents.inventory_histories 100000        as many histories, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson

from cli.stock import Count
from streams import partition_for
from streams.driver import Driver
from tests.agents import on_demand
from tests.agents.domain import make_app

COMMANDS, EVENTS = "inventory.commands.v1", "inventory.events.v1"
PARTITIONS = 2
KINDS = [*["adjust"] * 4, *["reserve"] * 8, *["commit"] * 4, *["release"] * 2, "create", "change"]
#: Histories of one application.
TOGETHER = 100
QUANTITIES = [1, 1, 1, 2, 2, 3, 5, 8, 0, -2, 10**9 + 1]
DELTAS = [1, 2, 3, 5, 8, -1, -1, -2, -3, -8, 0, 10**9, 10**9 + 1, -(10**9) - 1]
CHANGES = {
    "item_created", "item_changed", "stock_adjusted", "stock_reserved", "stock_committed", "stock_released"
}  # fmt: skip
WARNINGS = {"stock_low", "stock_out"}


class Model:
    """What must come of the commands of one item, worked out without the rules: plain numbers and sets."""

    def __init__(self) -> None:
        self.made: dict[str, Any] | None = None
        self.version = self.low_at = self.on_hand = 0
        self.asked: dict[str, tuple[int, bool, int | None]] = {}
        self.left: dict[str, int] = {}
        self.heard: set[str] = set()

    @property
    def free(self) -> int:
        return self.on_hand - sum(self.left.values())

    def take(self, said: dict[str, Any]) -> list[str]:
        """The types of the events that must answer, or a refusal's reason, or nothing."""
        if said["command_id"] in self.heard:
            return []
        free, low = self.free, self.free < self.low_at
        outcome = getattr(self, f"_{said['type']}")(said) if self.made or said["type"] == "create_item" else NO_ITEM
        self.heard.add(said["command_id"])
        if outcome is None:
            return []
        if outcome not in CHANGES:
            return [outcome]
        self.version += 1
        warnings = {"stock_low": self.free < self.low_at and not low, "stock_out": self.free == 0 < free}
        return [outcome, *(name for name, so in warnings.items() if so)]

    def _create_item(self, said: dict[str, Any]) -> str | None:
        content = {name: said[name] for name in ("outlet_id", "name", "price_minor", "currency")}
        if self.made is not None:
            return None if self.made == content else "exists_with_different_content"
        self.made = content
        return "item_created"

    def _change_item(self, said: dict[str, Any]) -> str | None:
        # A command that was brought home names what it does not change too, as null.
        given = {name: said[name] for name in ("name", "price_minor", "low_stock_at") if said.get(name) is not None}
        if not given:
            return "nothing_to_change"
        assert self.made is not None
        before = (dict(self.made), self.low_at)
        self.low_at = given.pop("low_stock_at", self.low_at)
        self.made.update(given)
        return None if before == (self.made, self.low_at) else "item_changed"

    def _adjust_stock(self, said: dict[str, Any]) -> str:
        delta = said["delta"]
        if delta == 0:
            return "zero_delta"
        if not -(10**9) <= delta <= 10**9:
            return "quantity_above_limit"
        if self.free + delta < 0:
            return "insufficient_stock"
        self.on_hand += delta
        return "stock_adjusted"

    def _reserve_stock(self, said: dict[str, Any]) -> str | None:
        name, wanted = key_of(said), said["quantity"]
        if not 0 < wanted <= 10**9:
            return "not_positive_quantity" if wanted <= 0 else "quantity_above_limit"
        content = (wanted, said.get("partial", False), said.get("expires_at_ms"))
        if name in self.asked:
            return None if self.asked[name] == content else "reservation_exists_with_different_content"
        if self.free == 0:
            return "out_of_stock"
        if wanted > self.free and not content[1]:
            return "insufficient_stock"
        self.asked[name], self.left[name] = content, min(wanted, self.free)
        return "stock_reserved"

    def _commit_stock(self, said: dict[str, Any]) -> str:
        quantity, refusal = self._settle(said)
        if refusal is None:
            self.on_hand -= quantity
        return refusal or "stock_committed"

    def _release_stock(self, said: dict[str, Any]) -> str:
        return self._settle(said)[1] or "stock_released"

    def _settle(self, said: dict[str, Any]) -> tuple[int, str | None]:
        name, quantity = key_of(said), said.get("quantity")
        if quantity is not None and not 0 < quantity <= 10**9:
            return 0, "not_positive_quantity" if quantity <= 0 else "quantity_above_limit"
        if name not in self.asked:
            return 0, "no_such_reservation"
        if self.left[name] == 0:
            return 0, "reservation_already_settled"
        if quantity is not None and quantity > self.left[name]:
            return 0, "quantity_above_reservation"
        quantity = quantity or self.left[name]
        self.left[name] -= quantity
        return quantity, None


NO_ITEM = "no_such_item"


def key_of(said: dict[str, Any]) -> str:
    return f"{said['order_uid']}:{said['line']}"


def words(chance: Random, item_id: str, now_ms: int, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    """The commands of one history."""
    of = {"item_id": item_id}
    creation = {"type": "create_item", "outlet_id": "o", "name": "n", "price_minor": 5, "currency": "INR"}
    if chance.random() < 0.95:
        yield {**of, **creation, "command_id": f"c{next(numbers)}"}
    if chance.random() < 0.8:
        yield {**of, "type": "adjust_stock", "delta": 5, "reason": "receive", "command_id": f"c{next(numbers)}"}
    for _ in range(chance.randint(3, 12)):
        id = {**of, "command_id": f"c{next(numbers)}"}
        line = {"order_uid": chance.choice(["a", "a", "a", "b"]), "line": chance.choice([1, 1, 1, 1, 2])}
        quantity = chance.choice(QUANTITIES)
        part = {"quantity": quantity} if chance.random() < 0.6 else {}
        match chance.choice(KINDS):
            case "adjust":
                yield {**id, "type": "adjust_stock", "delta": chance.choice(DELTAS), "reason": "count"}
            case "reserve":
                expiry = {"expires_at_ms": now_ms + chance.choice([-5, 500, 1_500])} if chance.random() < 0.4 else {}
                partial = {"partial": True} if chance.random() < 0.4 else {}
                yield {**id, **line, **expiry, **partial, "type": "reserve_stock", "quantity": quantity}
            case "commit":
                yield {**id, **line, **part, "type": "commit_stock"}
            case "release":
                yield {**id, **line, **part, "type": "release_stock", "reason": "cancelled"}
            case "change":
                change: list[dict[str, Any]] = [
                    {},
                    {"low_stock_at": 3},
                    {"price_minor": 7},
                    {"name": "m", "low_stock_at": 0},
                ]
                yield {**id, **chance.choice(change), "type": "change_item"}
            case _:
                yield {**id, **creation, "price_minor": chance.choice([5, 5, 6])}


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; raises AssertionError where one is not as it must be. Gives what happened how often."""
    chance = Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app, batch_max_records=chance.choice([1, 7, *[1_000] * 6])) as driver:
        numbers = iter(range(1_000_000))
        lives = [list(words(chance, f"i{n}", driver.clock.now_ms(), numbers)) for n in range(TOGETHER)]
        sent: list[dict[str, Any]] = []
        while any(lives):
            for _ in range(chance.randint(50, 400)):
                live = chance.choice([each for each in lives if each] or [[]])
                if not live:
                    break
                word = live.pop(0)
                sent.append(word)
                send(driver, chance, word)
                if chance.random() < 0.15:
                    send(driver, chance, chance.choice(sent))  # again: at once, or much later
            if chance.random() < 0.2:
                await driver.start("inventory", chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await driver.run()
            check_stock(driver)
            await driver.advance(chance.choice([0, 1, 100, 700]))
        await driver.advance(10_000)
        seen = check_whole(driver)
        if replay:
            before = {name: driver.rows(name) for name in app.groups["inventory"].tables}
            await driver.replay()
            await driver.run()
            assert {name: driver.rows(name) for name in before} == before
            assert check_whole(driver) == seen, "a replay sends nothing again"
        return seen


def send(driver: Driver, chance: Random, said: dict[str, Any]) -> None:
    anywhere = chance.randrange(PARTITIONS) if chance.random() < 0.1 else None
    driver.produce(COMMANDS, key=said["item_id"], value=orjson.dumps(said), partition=anywhere)


def check_stock(driver: Driver) -> None:
    """After every batch: nothing below zero, nothing sold twice, and what is reserved is what reservations have."""
    reserved: Counter[str] = Counter()
    for reservation in driver.rows("stock_reservations").values():
        assert 0 <= reservation.remaining <= reservation.quantity <= reservation.asked, reservation
        assert (reservation.remaining == 0) == (reservation.state != "reserved"), reservation
        reserved[reservation.item_id] += reservation.remaining
    for item in driver.rows("items").values():
        assert 0 <= reserved[item.item_id] == item.reserved <= item.on_hand, item


def check_whole(driver: Driver) -> Counter[str]:
    """At the end: the events are what the commands in their order must cause, and the tables what the events say."""
    models, wanted = expected(driver)
    found = [orjson.loads(record.value or b"") for record in driver.read(EVENTS)]
    told = Counter((event["caused_by"], outcome_of(event)) for event in found)
    assert told == wanted, (told - wanted, wanted - told)
    assert len({event["event_id"] for event in found}) == len(found), "each event has an id of its own"
    assert not driver.read("dead_letters.v1")
    rows = driver.rows("items")
    steps: defaultdict[str, list[int]] = defaultdict(list)
    sums: Counter[str] = Counter()
    for event in found:
        if event["type"] in CHANGES:
            steps[event["item_id"]].append(event["version"])
        sums[event["item_id"]] += event.get("delta", 0)
        sums[event["item_id"]] -= event["quantity"] if event["type"] == "stock_committed" else 0
    for item_id, model in models.items():
        assert steps[item_id] == list(range(1, model.version + 1)), "versions step by one"
        if model.made is not None:
            row = rows[item_id]
            assert (row.on_hand, row.available, row.version) == (model.on_hand, model.free, model.version)
            assert row.on_hand == sums[item_id], "what came in less what was committed"
        expiring = [name for name, (_, _, expiry) in model.asked.items() if expiry is not None]
        assert not any(model.left[name] for name in expiring), "what expires is released"
    assert driver.rows("inventory_deadlines") == {}, "no deadline of a settled reservation stays"
    check_catalogue(driver)
    check_count(driver)
    return Counter(outcome for _, outcome in told.elements())


def check_catalogue(driver: Driver) -> None:
    """The index has each item once, under its outlet, with its words of today."""
    listed = {f"{item.outlet_id}\0{id}": f"{id} {item.name}".encode() for id, item in driver.rows("items").items()}
    assert driver.rows("items_by_outlet") == listed


def check_count(driver: Driver) -> None:
    """The stock's own check finds nothing."""
    finding = audit(driver).close()
    assert finding is None, finding


def audit(driver: Driver) -> Count:
    """What `faust -A app items verify` does, over the log in memory."""
    events = driver.read(EVENTS)
    ends = Counter(event.partition for event in events)
    count = Count(latest(driver, "items"), latest(driver, "stock_reservations"), ends)
    for event in events:
        finding = count.take(event.partition, event.offset, event.topic, event.key, event.value)
        assert finding is None, finding
    return count


def latest(driver: Driver, table: str) -> dict[str, dict[str, Any]]:
    """The rows of a table as its changelog ends."""
    records = driver.read(driver.app.groups["inventory"].tables[table].changelog)
    rows = {(record.key or b"").decode(): record.value for record in records if record.value is not None}
    return {key: orjson.loads(raw) for key, raw in rows.items() if not key.startswith("\0")}


def outcome_of(event: dict[str, Any]) -> str:
    return str(event["reason"] if event["type"] == "inventory_command_refused" else event["type"])


def expected(driver: Driver) -> tuple[dict[str, Model], Counter[tuple[str, str]]]:
    """The model over the commands as they stand in the log, at home."""
    models: defaultdict[str, Model] = defaultdict(Model)
    wanted: Counter[tuple[str, str]] = Counter()
    for record in driver.read(COMMANDS):
        said = orjson.loads(record.value or b"")
        key = (record.key or b"").decode()
        if partition_for(key.encode(), PARTITIONS) == record.partition:
            wanted.update((said["command_id"], outcome) for outcome in models[key].take(said))
    return models, wanted


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
