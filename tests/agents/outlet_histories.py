"""seeds -> random histories of orders that ask outlets for a number, through the real task loop -> what is always true.

A history is one approved order's way to its number: a hundred of them at once in one application of three outlets,
asked again at once and much later, by the same command and by another, on the wrong partition, while outlets change
their prefix, years pass, and tasks die and lose their stores.

python -m tests.agents.outlet_histories 100000        as many histories, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson

from agents.wiring import declare_topics, wire_checkout, wire_outlets
from cli.series import Count, Recorded
from schemas.topics import topics
from streams import App, partition_for
from streams.driver import Driver
from tests.agents import on_demand

COMMANDS, EVENTS = "outlets.commands.v1", "outlets.events.v1"
TOLD, NOTES = "purchases.commands.v1", "outlet_notes.commands.v1"
PARTITIONS = 2
#: Histories of one application.
TOGETHER = 100
OUTLETS = ["o1", "o2", "o3"]
MONTH_MS = 30 * 24 * 3_600_000


def make_app() -> App:
    """The outlets alone: what they tell orders is looked at on its topics, and goes no further."""
    app = App("orderstream", data_dir=Path("unused"), broker="kafka://127.0.0.1:9")
    specs = {spec.name: spec for spec in topics(PARTITIONS, 1)}
    wanted = [specs[COMMANDS], specs[EVENTS], *(replace(specs[name], group=None) for name in (TOLD, NOTES))]
    declared = declare_topics(app, wanted)
    wire_outlets(app, declared, wire_checkout(declared))
    return app


class Street:
    """The outlets of one application, and the orders that they took."""

    def __init__(self, driver: Driver, chance: Random) -> None:
        self.driver, self.chance, self.number = driver, chance, 0
        self.orders = {f"order-{number}": chance.choice(OUTLETS) for number in range(TOGETHER)}
        self.waiting = list(self.orders)
        self.sent: list[dict[str, Any]] = []

    def act(self) -> None:
        """An order asks, or asks again; an outlet says something of itself, perhaps what it said before."""
        chance = self.chance
        self.number += 1
        if self.sent and chance.random() < 0.2:
            self.send(chance.choice(self.sent))
        elif chance.random() < 0.15:
            prefix = chance.choice([None, "INV", "A", "INV"])
            self.say(chance.choice(OUTLETS), type="configure_outlet", number_prefix=prefix)
        elif self.waiting and chance.random() < 0.8:
            order = self.waiting.pop(chance.randrange(len(self.waiting)))
            self.say(self.orders[order], type="issue_number", order_uid=order)
        else:
            order = chance.choice(list(self.orders))
            if order not in self.waiting:
                self.say(self.orders[order], type="issue_number", order_uid=order)

    def say(self, outlet: str, **more: Any) -> None:
        said = {"command_id": f"c{self.number}", "outlet_id": outlet, **more}
        self.sent.append(said)
        self.send(said)

    def send(self, said: dict[str, Any]) -> None:
        anywhere = self.chance.randrange(PARTITIONS) if self.chance.random() < 0.1 else None
        self.driver.produce(COMMANDS, key=said["outlet_id"], value=orjson.dumps(said), partition=anywhere)


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; raises AssertionError where one is not as it must be. Gives what happened how often."""
    chance = Random(seed)
    app = make_app()
    async with Driver(app, batch_max_records=chance.choice([1, 7, *[1_000] * 6])) as driver:
        street = Street(driver, chance)
        for _ in range(24):
            for _ in range(chance.randint(1, 12)):
                street.act()
            if chance.random() < 0.15:
                await driver.start("inventory", chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await driver.run()
            await driver.advance(chance.choice([0, 1, 1_000, MONTH_MS]))
        seen = check_whole(driver, street)
        if replay:
            before = {name: driver.rows(name) for name in app.groups["inventory"].tables}
            await driver.replay()
            await driver.run()
            assert {name: driver.rows(name) for name in before} == before
            assert check_whole(driver, street) == seen, "a replay sends nothing again"
        return seen


def check_whole(driver: Driver, street: Street) -> Counter[str]:
    """Each order that asked has one number, in the order of asking, in a series without a gap; nobody else has one."""
    assert not driver.read("dead_letters.v1")
    events = [_parse(record.value) for record in driver.read(EVENTS)]
    issued = [event for event in events if event["type"] == "number_issued"]
    assert [(each["order_uid"], each["outlet_id"]) for each in issued] == _first_askings(driver)
    assert {each["order_uid"] for each in issued} == street.orders.keys() - set(street.waiting)
    series: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for each in issued:
        series[each["outlet_id"], each["prefix"], each["year"]].append(each["sequence"])
    assert all(given == list(range(1, len(given) + 1)) for given in series.values()), series
    told = Counter((each["order_uid"], each["order_number"]) for each in map(_said, driver.read(TOLD)))
    assert told == Counter((each["order_uid"], each["order_number"]) for each in issued), "each is told once"
    notes = Counter((each["outlet_id"], each["version"]) for each in map(_said, driver.read(NOTES)))
    said = [(each["outlet_id"], each["version"]) for each in events if each["type"] == "outlet_configured"]
    assert notes == Counter(dict.fromkeys(said, PARTITIONS)), "each partition hears each word once"
    finding = audit(driver)
    assert finding is None, finding
    return Counter({"numbered": len(issued), "none": len(street.waiting), "series": len(series)})


def _first_askings(driver: Driver) -> list[tuple[str, str]]:
    """Orders and their outlets as they asked first, at home."""
    found: dict[str, str] = {}
    for record in driver.read(COMMANDS):
        said = _said(record)
        if said["type"] == "issue_number" and partition_for(record.key or b"", PARTITIONS) == record.partition:
            found.setdefault(said["order_uid"], said["outlet_id"])
    return list(found.items())


def audit(driver: Driver) -> object:
    """What `faust -A app numbers verify` does, over the log in memory; orders have recorded what they were told."""
    numbers = {key: raw.decode() for key, raw in driver.rows("order_numbers").items()}
    recorded = {said["order_uid"]: Recorded(said["order_number"], "-") for said in map(_said, driver.read(TOLD))}
    events = driver.read(EVENTS)
    count = Count(driver.rows("number_series"), numbers, recorded, Counter(event.partition for event in events))
    for event in events:
        if finding := count.take(event.partition, event.offset, event.topic, event.key, event.value):
            return finding
    return count.close()


def _said(record: Any) -> dict[str, Any]:
    return _parse(record.value)


def _parse(raw: bytes | None) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(raw or b"")
    return said


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
