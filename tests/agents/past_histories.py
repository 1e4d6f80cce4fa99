"""seeds -> random histories of all domains -> whatever `as_of` is asked, the answer is what a fresh engine has.

Each history is played twice. The first engine plays it to its end. The second is a fresh one that is fed the same
records again, and whatever moment it has come to, it holds only what that prefix made: at random moments its rows are
held against what the first one, which knows the whole, says of that moment.

python -m tests.agents.past_histories 20        as many histories, with about 3,000 cuts each
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import orjson

from agents.wiring import Domains
from schemas.base import rfc3339, unix_ms
from schemas.orders.samples import generate
from streams import Position
from streams.driver import Driver
from streams.lookup import Sought, how_many_by
from streams.partitioner import partition_for
from streams.records import TopicPartition
from streams.task import Task
from tables.versions import AfterRecord, AtTime, AtVersion, Cut, Undecided
from tests.agents.checkout_histories import ITEMS, PARTITIONS, Shop
from tests.agents.domain import make_app
from web.told import is_version

#: Group and table of each kind of thing, and how the tables are asked for it at a cut.
KINDS: dict[str, tuple[str, str, Callable[[Domains], Callable[[str, Cut], Any]]]] = {
    "order": ("orders", "orders", lambda domains: domains.orders.order_at),
    "purchase": ("orders", "purchases", lambda domains: domains.purchases.purchase_at),
    "account": ("accounts", "accounts", lambda domains: domains.accounts.account_at),
    "item": ("inventory", "items", lambda domains: domains.inventory.item_at),
}
#: Where each is told of, and how the tables are asked when a version of it came to be.
TOLD: dict[str, tuple[str, Callable[[Domains], Callable[[str, int], str]]]] = {
    "order": ("orders.events.v1", lambda domains: domains.orders.made_at),
    "purchase": ("purchases.events.v1", lambda domains: domains.orders.made_at),
    "account": ("accounts.events.v1", lambda domains: domains.accounts.made_at),
    "item": ("inventory.events.v1", lambda domains: domains.inventory.made_at),
}


CUTS = ("time", "position", "version", "events")


class Recording(Driver):
    """Plays a history and remembers what was done to it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.done: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def produce(self, *args: Any, **more: Any) -> Position:
        self.done.append(("produce", args, more))
        return super().produce(*args, **more)

    async def advance(self, ms: int) -> None:
        """What has been said before is taken in before time goes on: a moment is over when the next one begins."""
        await self.run()
        self.done.append(("advance", (ms,), {}))
        await super().advance(ms)

    async def run(self) -> int:
        self.done.append(("run", (), {}))
        return await super().run()


class Fresh(Driver):
    """Is fed what another has recorded, and has `look` called after each step of a task, and before time goes on."""

    look: Callable[[Task | None], Awaitable[None]]

    async def run(self) -> int:
        total = 0
        while True:
            steps = []
            for task in self.tasks.values():
                steps.append(await task.step(0.0))
                if steps[-1]:
                    await self.look(task)
            total += sum(steps)
            if not any(steps):
                return total

    async def feed(self, done: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        for name, args, more in done:
            if name == "produce":
                self.produce(*args, **more)
                continue
            if name == "advance" and args[0]:
                await self.look(None)
            await getattr(self, name)(*args, **more)


class Cuts:
    """Holds what the whole history says of a moment against what stands in the engine that has come to it."""

    def __init__(self, whole: Driver, asked: Domains, fresh: Fresh, now: Domains, chance: Random, often: float) -> None:
        """`asked`, `now`: the tables of the whole history, and those of the engine that has come to the cut."""
        self.whole, self.fresh, self.chance, self.often = whole, fresh, chance, often
        self.asked, self.now = asked, now
        self.at = {kind: of(asked) for kind, (_, _, of) in KINDS.items()}
        self.made_at = {kind: of(asked) for kind, (_, of) in TOLD.items()}
        self.keys = {kind: sorted(whole.rows(table)) for kind, (_, table, _) in KINDS.items()}
        self.seen: Counter[str] = Counter()
        fresh.look = self.look

    async def look(self, task: Task | None) -> None:
        if task is None:  # this moment is over
            at = rfc3339(self.fresh.clock.now_ms())
            for kind in KINDS:
                self.hold("time", kind, self.some_key(kind), AtTime(at))
        elif self.chance.random() < self.often:
            for kind, (group, _, _) in KINDS.items():
                if group == task.group.name:
                    await self.look_at(task, kind)

    async def look_at(self, task: Task, kind: str) -> None:
        partition = self.chance.choice(task.inputs)
        here = [key for key in self.keys[kind] if partition_for(key.encode(), PARTITIONS) == task.partition]
        if not here:
            return
        if task.committed[partition]:
            after = Position(partition.topic, partition.partition, task.committed[partition] - 1)
            self.hold("position", kind, self.chance.choice(here), AfterRecord(after))
        told_on = TopicPartition(TOLD[kind][0], task.partition)
        if end := len(self.fresh.log.topics[told_on]):
            await self.hold_told(kind, self.chance.choice(here), told_on, end - 1)
        key = self.chance.choice(here)
        if (row := self.row(kind, key)) is not None:
            self.hold("version", kind, key, AtVersion(row.version))

    async def hold_told(self, kind: str, key: str, told_on: TopicPartition, offset: int) -> None:
        """What stood when the events had come to this offset."""
        if key.startswith("clearing:"):
            return

        async def sought(version: int) -> Sought:
            with self.whole.reading(KINDS[kind][0], told_on.partition):
                return Sought(unix_ms(self.made_at[kind](key, version)), partial(is_version, key.encode(), version))

        newest = self.newest(kind, key)
        version = await how_many_by(self.whole.log, told_on, offset, newest, sought, 10_000)
        stood = self.row(kind, key)
        assert version == (stood.version if stood else 0), (kind, key, told_on, offset, version, stood)
        self.seen["events"] += 1

    def newest(self, kind: str, key: str) -> int:
        group, table, _ = KINDS[kind]
        with self.whole.reading(group, partition_for(key.encode(), PARTITIONS)):
            version: int = self.whole.app.groups[group].tables[table][key].version
            return version

    def some_key(self, kind: str) -> str:
        return self.chance.choice(self.keys[kind])

    def row(self, kind: str, key: str) -> Any:
        group, table, _ = KINDS[kind]
        with self.fresh.reading(group, partition_for(key.encode(), PARTITIONS)):
            return self.fresh.app.groups[group].tables[table].get(key)

    def hold(self, what: str, kind: str, key: str, cut: Cut) -> None:
        if key.startswith("clearing:"):
            return
        stood = self.row(kind, key)
        with self.whole.reading(KINDS[kind][0], partition_for(key.encode(), PARTITIONS)):
            try:
                said = self.at[kind](key, cut)
            except Undecided:
                self.seen["undecided"] += 1
                return
        assert said == stood, (what, kind, key, cut, said, stood)
        if stood is not None and kind != "item":
            self.hold_lines(kind, key, stood.version, cut)
        self.seen[what] += 1
        self.seen[f"{kind}{'' if stood else ' not yet'}"] += 1

    def hold_lines(self, kind: str, key: str, version: int, cut: Cut) -> None:
        """What a statement or a timeline says of the moment, held against what it is in the engine that came to it."""
        group, number = KINDS[kind][0], partition_for(key.encode(), PARTITIONS)
        with self.whole.reading(group, number):
            try:
                then = [*self.lines_then(kind, key, version, cut)]
            except Undecided:  # a command of another topic was refused
                self.seen["undecided lines"] += 1
                return
        with self.fresh.reading(group, number):
            now = [*(self.now.accounts.statement(key) if kind == "account" else self.now.orders.timeline(key))]
        if isinstance(cut, AtVersion):  # it says nothing of who was refused since
            now = [(at, line) for at, line in now if line.version < version or at.count("\0") == 1]
        assert then == now, (kind, key, cut, then, now)
        self.seen[f"lines of {kind}"] += len(now)

    def lines_then(self, kind: str, key: str, version: int, cut: Cut) -> Iterator[tuple[str, Any]]:
        if kind == "account":
            yield from self.asked.accounts.statement(key, until=version)
        else:
            lines = self.asked.orders.timeline_at(key, version, cut)
            yield from ((at, line) for at, line, stood in lines if stood)


async def talk(shop: Shop, rounds: int) -> None:
    """Carts and what becomes of them, order documents, prices that change: a little of everything, in any order."""
    chance, driver = shop.chance, shop.driver
    documents: list[bytes] = []
    for _ in range(rounds):
        for _ in range(chance.randint(0, 3)):
            shop.buy()
        for _ in range(chance.randint(0, 12) if shop.orders else 0):
            shop.act()
        for _ in range(chance.randint(0, 4)):
            item = chance.choice(sorted(ITEMS))
            change: dict[str, Any] = chance.choice(
                [{"price_minor": chance.randint(0, 900)}, {"name": f"n{chance.randint(0, 3)}"}]
            )
            shop.say("inventory", item, type="change_item", item_id=item, **change)
        for _ in range(chance.randint(0, 4)):
            documents.append(generate(len(documents) % 30, chance.randint(0, 1)))  # again, or with other content
            speak_of(shop, documents[-1])
        if chance.random() < 0.2:
            group = chance.choice(["orders", "accounts", "inventory"])
            await driver.start(group, chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
        await driver.run()
        shop.provider.answer()
        await driver.advance(chance.choice([0, 1, 10, 1_000, 20_000]))


def speak_of(shop: Shop, document: bytes) -> None:
    """Place it, one way or the other, or cancel it."""
    chance, uid = shop.chance, orjson.loads(document)["order_uid"]
    match chance.randrange(3):
        case 0:
            shop.driver.produce("orders", key=chance.choice([None, uid]), value=document)
        case 1:
            shop.say("orders", uid, type="cancel_order", order_uid=uid, reason="no")
        case _:
            head = b'{"type":"place_order","command_id":"p%d","order_uid":"%s","document":%s}'
            value = head % (chance.randrange(1_000), uid.encode(), document)
            shop.driver.produce("orders.commands.v1", key=uid, value=value)


async def play(seed: int, *, rounds: int = 40, often: float = 0.5) -> Counter[str]:
    """One history; raises AssertionError where the past is not what it was. Gives what was compared."""
    chance = Random(seed)
    size = chance.choice([1, 3, 1_000])
    app, domains = make_app(Path("unused"), PARTITIONS)
    again, now = make_app(Path("unused"), PARTITIONS)
    whole, fresh = Recording(app, batch_max_records=size), Fresh(again, batch_max_records=size)
    async with whole, fresh:
        shop = Shop(whole, chance)
        await shop.open()
        await talk(shop, rounds)
        cuts = Cuts(whole, domains, fresh, now, chance, often)
        await fresh.feed(whole.done)
        for kind, (_, table, _) in KINDS.items():
            assert fresh.rows(table) == whole.rows(table), f"the same records came to other {kind}s"
            assert fresh.read(TOLD[kind][0]) == whole.read(TOLD[kind][0])
        return cuts.seen


async def main(histories: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(histories):
        try:
            seen += await play(seed, rounds=80, often=1.0)
        except AssertionError:
            print(f"seed {seed}", file=sys.stderr)
            raise
    print(f"{sum(seen[what] for what in CUTS)} cuts of {histories} histories: {dict(seen)}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
