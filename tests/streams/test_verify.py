"""Each kind of difference, planted and named: in a changelog, in an output, in a store; and none where none is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from agents.wiring import Domains
from streams import verify
from streams.clock import SystemClock
from streams.driver import Driver, MemoryLog
from streams.errors import NotReadable
from streams.metrics import Metrics
from streams.records import StoredRecord, TopicPartition
from streams.restore import Restore, hold_identity
from streams.store import Memory, RocksStore
from streams.verify import FOLD, Place, Verification, Verified
from tests.agents.domain import home, make_app
from tests.agents.shop import Shop

EVENTS, CHANGELOG = "purchases.events.v1", "orderstream-purchases-changelog"


class Bought:
    """A shop with a few orders, of which `uid` is one; its task of group orders is looked at."""

    def __init__(self, driver: Driver, shop: Shop, uid: str, scratch: Path) -> None:
        self.driver, self.shop, self.uid, self.scratch = driver, shop, uid, scratch
        self.partition = home(uid)
        self.events = driver.log.topics[TopicPartition(EVENTS, self.partition)]
        self.changelog = driver.log.topics[TopicPartition(CHANGELOG, self.partition)]
        self.times = 0

    async def verified(self, *, stores: Sequence[Path] = (), log: Any = None, group: str = "orders") -> Verified:
        """By rules of its own, as a command has them."""
        self.times += 1
        app, _ = make_app(self.scratch)
        place = Place(
            inputs={topic for each in app.groups.values() for topic in each.agents},
            outputs=[EVENTS, "orders.events.v1", "payments.events.v1"] if group == "orders" else [],
            letters=TopicPartition("dead_letters.v1", self.partition),
            scratch=self.scratch / str(self.times),
            memory=Memory(1 << 20, 1 << 20),
            stores=stores,
        )
        return await Verification(log or self.driver.log, app.groups[group], self.partition, place).run()

    def last(self, records: list[StoredRecord]) -> int:
        """Where the order is told of last."""
        return max(n for n, record in enumerate(records) if record.key == self.uid.encode())

    def change(self, records: list[StoredRecord], number: int, **changes: Any) -> None:
        said = orjson.loads(records[number].value or b"")
        records[number] = records[number]._replace(value=orjson.dumps({**said, **changes}))


@pytest.fixture
async def bought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bought]:
    monkeypatch.setattr(verify, "SETTLE_S", 0)
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        yield await lived(driver, domains, tmp_path / "scratch")


async def lived(driver: Driver, domains: Domains, scratch: Path) -> Bought:
    shop = Shop(driver, domains)
    await shop.stock("book", 50, 100)
    await shop.fund(100_000)
    uids = [await shop.buy(("book", 2)) for _ in range(6)]
    for uid in uids:
        await driver.advance(1_000)
        await shop.lead(uid, "pack_order")
    driver.produce("purchases.commands.v1", key=uids[0], value=b"a parcel")
    await driver.run()
    return Bought(driver, shop, uids[0], scratch)


async def test_nothing_differs(bought: Bought) -> None:
    for group in ("orders", "accounts", "inventory"):
        found = await bought.verified(group=group)
        assert found.difference is None and found.unfounded is None, found
        assert found.records and found.rows and found.positions
    assert (await bought.verified()).events > 10
    assert bought.driver.read("dead_letters.v1"), "letters are among the outputs"


async def test_a_changed_record_of_a_changelog(bought: Bought) -> None:
    number = bought.last(bought.changelog)
    bought.change(bought.changelog, number, status="cancelled")
    difference = (await bought.verified()).difference
    assert difference is not None
    assert (difference.what, difference.name, difference.key) == ("table", "purchases", bought.uid.encode())
    sides = {name: orjson.loads(raw or b"null")["status"] for name, raw in difference.sides.items()}
    assert sides == {FOLD: "packed", f"{CHANGELOG}-{bought.partition}-{number}": "cancelled"}
    commands = TopicPartition("purchases.commands.v1", bought.partition)
    at = next(each for each in bought.driver.log.topics[commands] if b"pack_order" in (each.value or b""))
    assert difference.at == f"{at.topic}-{at.partition}-{at.offset}"


async def test_a_row_that_no_record_led_to_and_one_that_is_not_there(bought: Bought) -> None:
    bought.changelog.append(bought.changelog[-1]._replace(key=b"nobody", offset=len(bought.changelog)))
    difference = (await bought.verified()).difference
    assert difference is not None and difference.key == b"nobody" and difference.sides[FOLD] is None
    bought.changelog[-1] = bought.changelog[-1]._replace(key=bought.uid.encode(), value=None)
    difference = (await bought.verified()).difference
    assert difference is not None and difference.key == bought.uid.encode()
    assert difference.sides[f"{CHANGELOG}-{bought.partition}-{len(bought.changelog) - 1}"] is None


def renumbered(records: list[StoredRecord]) -> list[StoredRecord]:
    return [record._replace(offset=offset) for offset, record in enumerate(records)]


async def test_a_missing_event(bought: Bought) -> None:
    number = bought.last(bought.events)
    lost = bought.events.pop(number)
    bought.events[:] = renumbered(bought.events)
    difference = (await bought.verified()).difference
    assert difference is not None
    assert (difference.what, difference.name, difference.key) == ("topic", EVENTS, bought.uid.encode())
    assert difference.sides == {FOLD: lost.value, f"{EVENTS}-{bought.partition}": None}
    assert difference.at is not None and difference.at.startswith("purchases.commands.v1-")


async def test_the_last_event_is_missing(bought: Bought) -> None:
    lost = bought.events.pop()
    difference = (await bought.verified()).difference
    assert difference is not None and difference.sides[FOLD] == lost.value


async def test_a_changed_event(bought: Bought) -> None:
    number = bought.last(bought.events)
    was = bought.events[number].value
    bought.change(bought.events, number, occurred_at="2020-01-01T00:00:00.000Z")
    difference = (await bought.verified()).difference
    assert difference is not None
    now = bought.events[number].value
    assert difference.sides == {FOLD: was, f"{EVENTS}-{bought.partition}-{number}": now}


@pytest.mark.parametrize("where", [2, None])
async def test_an_event_that_nothing_led_to(bought: Bought, where: int | None) -> None:
    number = len(bought.events) if where is None else where
    forged = bought.events[0]._replace(value=b'{"type":"order_paid"}')
    bought.events[:] = renumbered([*bought.events[:number], forged, *bought.events[number:]])
    difference = (await bought.verified()).difference
    assert difference is not None
    assert difference.sides == {FOLD: None, f"{EVENTS}-{bought.partition}-{number}": forged.value}


async def test_a_lost_dead_letter(bought: Bought) -> None:
    letters = bought.driver.log.topics[TopicPartition("dead_letters.v1", bought.partition)]
    letters.clear()
    difference = (await bought.verified()).difference
    assert difference is not None and (difference.name, difference.key) == ("dead_letters.v1", bought.uid.encode())


async def test_what_a_replay_was_told_to_send_again_stands_there_twice(bought: Bought) -> None:
    once = len(bought.events)
    await bought.driver.replay([EVENTS])
    await bought.driver.run()
    assert len(bought.events) == 2 * once
    bought.changelog = bought.driver.log.topics[TopicPartition(CHANGELOG, bought.partition)]
    assert (await bought.verified()).difference is None
    bought.events.append(bought.events[0]._replace(value=b"{}", offset=len(bought.events)))
    difference = (await bought.verified()).difference
    assert difference is not None and difference.sides[FOLD] is None


async def test_a_task_that_takes_its_past_again_is_not_looked_at(bought: Bought) -> None:
    await bought.driver.replay()
    with pytest.raises(NotReadable, match="is taking its past again"):
        await bought.verified()


async def test_without_a_beginning_there_is_no_fold(bought: Bought) -> None:
    class Cut(MemoryLog):
        async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
            found = await super().bounds(partitions)
            return {tp: (1 if tp.topic == "orders" else first, end) for tp, (first, end) in found.items()}

    log = Cut()
    log.__dict__.update(bought.driver.log.__dict__)
    bought.changelog[-1] = bought.changelog[-1]._replace(value=b"{}")
    found = await bought.verified(log=log)
    assert found.unfounded == f"the beginning of orders-{bought.partition} was deleted"
    assert found.difference is None and not found.records


class Busy(MemoryLog):
    """Whenever the outputs and changelogs have been surveyed, more comes in and is committed."""

    def __init__(self, bought: Bought, planted: bool) -> None:
        self.__dict__.update(bought.driver.log.__dict__)
        self._bought, self._planted = bought, planted

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        found = await super().bounds(partitions)
        if any(tp.topic == EVENTS for tp in partitions) and not self._planted:
            await self._bought.shop.lead(self._bought.uid, "ship_order", shipment_id="s1")
            await self._bought.shop.buy(("book", 1))
        return found


async def test_work_goes_on_meanwhile(bought: Bought) -> None:
    assert (await bought.verified(log=Busy(bought, planted=False))).difference is None
    assert bought.last(bought.events) > 10, "something was done meanwhile"
    await bought.shop.lead(bought.uid, "send_out", shipment_id="s1")
    other = next(n for n, record in enumerate(bought.changelog) if record.key not in (None, bought.uid.encode()) and n)
    again = max(n for n, record in enumerate(bought.changelog) if record.key == bought.changelog[other].key)
    bought.change(bought.changelog, again, status="cancelled")
    difference = (await bought.verified(log=Busy(bought, planted=False))).difference
    assert difference is not None and difference.key == bought.changelog[again].key


async def stored(bought: Bought, path: Path) -> None:
    """A store as a worker of this machine has it."""
    app, _ = make_app(path)
    group, log = app.groups["orders"], bought.driver.log
    store = RocksStore(path, group.tables, Memory(1 << 20, 1 << 20))
    extents = await log.survey(list(group.changelogs(bought.partition).values()))
    for name, tp in group.changelogs(bought.partition).items():
        first = extents[tp].first
        assert first is not None
        hold_identity(store, name, tp, first)
    await Restore(log, store, group, bought.partition, SystemClock(), Metrics()).run(extents)
    store.close()


async def test_a_store_that_has_another_row(bought: Bought, tmp_path: Path) -> None:
    path = tmp_path / "state-1" / f"orders-{bought.partition}"
    await stored(bought, path)
    found = await bought.verified(stores=[path])
    assert found.difference is None and found.stores == 1
    tables = make_app(tmp_path)[0].groups["orders"].tables
    store = RocksStore(path, tables, Memory(1 << 20, 1 << 20))
    store.apply({"purchases": {bought.uid.encode(): b'{"status":"other"}'}}, {}, 0)
    held = await bought.verified(stores=[path])  # while a worker has it; it is not on the disk yet
    assert held.difference is None
    store.close()
    difference = (await bought.verified(stores=[path])).difference
    assert difference is not None and difference.key == bought.uid.encode()
    assert difference.sides[f"the store state-1/orders-{bought.partition}"] == b'{"status":"other"}'
    await bought.shop.lead(bought.uid, "ship_order", shipment_id="s1")
    assert (await bought.verified(stores=[path])).difference is None, "the store is older than the row"


async def test_a_store_of_another_changelog_is_left_to_its_next_start(bought: Bought, tmp_path: Path) -> None:
    path = tmp_path / "state-1" / f"orders-{bought.partition}"
    await stored(bought, path)
    await bought.driver.replay()
    await bought.driver.run()
    assert (await bought.verified(stores=[path])).difference is None
