"""Shops of random carts, lived once -> the same rules come to the same bytes, other rules to what they must come to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from agents import checkout
from agents.purchases import rules
from cli.courses import report
from schemas.accounts import account_id_of
from schemas.base import unix_ms
from schemas.inventory import AdjustStock, ReserveStock, StockReserved
from schemas.purchases import CartPlaced, Purchase, RecordReservation, order_uid_of
from streams.driver import Driver
from streams.partitioner import partition_for
from streams.snapshot import Snapshot
from tests.agents.checkout_histories import PARTITIONS, Shop
from tests.agents.domain import make_app
from tests.agents.pasts import as_it_was, as_it_would_be, write_down


async def lived(folder: Path, seed: int, orders: int = 60) -> Driver:
    """As checkout_histories plays them: late and lost answers, wrong partitions, tasks that die, in the midst of it."""
    chance = Random(seed)
    app, _ = make_app(folder, PARTITIONS)
    async with Driver(app, batch_max_records=chance.choice([1, 7, 1_000])) as driver:
        shop = Shop(driver, chance)
        await shop.open()
        while len(shop.orders) < orders:
            for _ in range(chance.randint(1, 12)):
                shop.buy()
            for _ in range(chance.randint(0, 40)):
                shop.act()
            if chance.random() < 0.2:
                await driver.start(chance.choice(["orders", "accounts", "inventory"]), chance.randrange(PARTITIONS))
            await driver.run()
            shop.provider.answer()
            await driver.advance(chance.choice([0, 10, 1_000, 20_000]))
        shop.buy()
        shop.buy()
        for name, task in driver.tasks.items():  # the log is cut while commands to other domains are under way
            if name.startswith("orders-"):
                await task.step(0.0)
        asked = [(tp, len(records)) for tp, records in driver.log.topics.items() if tp.topic == "inventory.commands.v1"]
        assert any(driver.log.offsets[tp] < end for tp, end in asked), "nothing is under way: this tests nothing"
    await write_down(driver, folder, PARTITIONS)
    return driver


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_rules_come_to_the_same_bytes(tmp_path: Path, seed: int) -> None:
    driver = await lived(tmp_path, seed)
    was, would = await as_it_was(tmp_path, PARTITIONS), await as_it_would_be(tmp_path, PARTITIONS)
    stored = driver.tasks["orders-0"].store
    assert set(stored.range("purchases", b"\x01", b"\xff", False)) <= set(was.rows("purchases"))
    assert list(was.differing_rows(would)) == []
    assert list(was.parted_events(would)) == []
    assert would.said() == {"parted": "0"}
    found = report(was, would, 3)
    assert (found["differing"], found["sample"], found["tables"], found["topics"]) == ([], [], {}, {})
    assert found["orders"]["end_differently"] == 0 and found["orders"]["count"] > 40
    sums = [*found["by_status"].values(), *(line for each in found["money"].values() for line in each.values())]
    assert not any(line["difference"] for line in sums)


class Street:
    """A shop with plenty of everything, so that no order stands in the way of another, and a provider that answers."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.said, self.answered = driver, 0, set[str]()
        self.carts: dict[str, dict[str, Any]] = {}

    async def say(self, domain: str, key: str, **said: Any) -> None:
        self.said += 1
        word = {"command_id": f"c{self.said}", **said}
        self.driver.produce(f"{domain}.commands.v1", key=key, value=orjson.dumps(word))
        await self.driver.run()

    async def open(self, pieces: int = 1_000) -> None:
        for item, price in PRICES.items():
            what = {"outlet_id": "o", "name": item, "price_minor": price, "currency": "INR", "attributes": {}}
            await self.say("inventory", item, type="create_item", item_id=item, **what)
            await self.say("inventory", item, type="adjust_stock", item_id=item, delta=pieces, reason="receive")
        for buyer in ("ann", "bob"):
            account = account_id_of(buyer, "INR")
            await self.say("accounts", account, type="open_account", user_id=buyer, currency="INR")
            await self.say("accounts", account, type="deposit", account_id=account, amount_minor=10**6)

    async def buy(self, buyer: str, method: str, **lines: int) -> str:
        uid = order_uid_of(f"cart{len(self.carts)}")
        self.carts[uid] = {"method": method, "lines": lines}
        cart = [{"item_id": item, "quantity": quantity} for item, quantity in lines.items()]
        said = {"order_uid": uid, "user_id": buyer, "lines": cart, "payment": {"method": method}}
        await self.say("purchases", uid, type="place_cart", **said)
        await self.answer()
        await self.driver.advance(1_000)
        return uid

    async def unanswered(self) -> None:
        """The provider says nothing."""

    async def answer(self) -> None:
        """The provider does what it is asked."""
        events = [orjson.loads(record.value or b"") for record in self.driver.read("payments.events.v1")]
        for event in events:
            asked = event["event_id"] not in self.answered and event.get("method") == "provider"
            self.answered.add(event["event_id"])
            if asked and event["type"] in SAID:
                more = {name: event[name] for name in ("amount_minor", "refund_id") if name in event}
                said = {"type": SAID[event["type"]], "order_uid": event["order_uid"], "source": "provider", **more}
                if said["type"] == "record_void":
                    del said["amount_minor"]
                await self.say("payments", event["order_uid"], **said)


PRICES = {"pen": 15, "ink": 40, "lamp": 700, "mat": 90, "cup": 5}
SAID = {
    "payment_requested": "record_authorisation",
    "capture_requested": "record_capture",
    "void_requested": "record_void",
    "refund_requested": "record_refund",
}


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    """Forty carts, paid in every way; every fifth is cancelled, every third goes its way to the buyer."""
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        made = Street(driver)
        await made.open()
        for number in range(40):
            lines = {"pen": 1 + number % 3} | ({"lamp": 1} if number % 4 == 0 else {"ink": 2})
            method = ("account", "provider", "cash_on_delivery")[number % 3]
            uid = await made.buy(("ann", "bob")[number % 2], method, **lines)
            if number % 5 == 0:
                await made.say("purchases", uid, type="cancel_purchase", order_uid=uid, reason="no")
            elif number % 3 == 1:
                await made.say("purchases", uid, type="ship_order", order_uid=uid, shipment_id="s")
                await made.say("purchases", uid, type="deliver_shipment", order_uid=uid, shipment_id="s")
            await made.answer()
        await write_down(driver, tmp_path, PARTITIONS)
        yield made


def purchases(snapshot: Snapshot) -> dict[str, Purchase]:
    return {key.decode(): Purchase.from_json(value) for key, value in snapshot.rows("purchases")}


def parted_orders(was: Snapshot, would: Snapshot) -> dict[str, tuple[int, str, str]]:
    """By order, where its course parts: the number of the event, and its type in either course.

    Orders that part where they are numbered are left out: a number follows from who was approved before, so that one
    order less moves all behind it.
    """
    parted = {
        each.key.decode(): (each.n, kind(each.before), kind(each.after))
        for each in was.parted_events(would)
        if each.topic == "purchases.events.v1"
    }
    return {uid: where for uid, where in parted.items() if where[1:] != ("order_numbered", "order_numbered")}


def kind(raw: bytes | None) -> str:
    return orjson.loads(raw)["type"] if raw else "nothing"


async def test_a_price_rule_changes_the_orders_that_it_must_and_no_other(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkout._reserved

    def dearer(event: StockReserved) -> RecordReservation:
        said = before(event)
        return said.model_copy(update={"price_minor": 800}) if event.item_id == "lamp" else said

    was = await as_it_was(tmp_path, PARTITIONS)
    monkeypatch.setattr(checkout, "_reserved", dearer)
    would = await as_it_would_be(tmp_path, PARTITIONS)
    lamps = {uid for uid, cart in street.carts.items() if "lamp" in cart["lines"]}
    parted = parted_orders(was, would)
    assert set(parted) == lamps and len(lamps) == 10
    assert {(before, after) for _, before, after in parted.values()} == {("line_reserved", "line_reserved")}
    old, new = purchases(was), purchases(would)
    assert {uid for uid in old if old[uid] != new[uid]} == lamps
    for uid in lamps:
        assert new[uid].total_minor == (old[uid].total_minor or 0) + 100
        assert new[uid].status is old[uid].status
        paid = old[uid].captured_minor - old[uid].refunded_minor
        assert new[uid].captured_minor - new[uid].refunded_minor == paid + (100 if paid else 0), "whoever is asked pays"
    assert {new[uid].payment.method for uid in lamps} == {"account", "provider", "cash_on_delivery"}
    found = report(was, would, 1)
    assert {each["order_uid"] for each in found["differing"] if each["ends_differently"]} == lamps
    paying = sum(1 for uid in lamps if old[uid].captured_minor > old[uid].refunded_minor)
    assert found["money"]["INR"]["moved_minor"]["difference"] == 100 * paying and 0 < paying < 10
    assert [course["topic"] for course in found["sample"][0]["courses"]] == [
        "purchases.events.v1",
        "payments.events.v1",
    ]


async def test_an_approval_rule_holds_back_what_it_must_and_people_act_as_they_did(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rules._approve

    def not_the_dear(story: Any) -> Any:
        return story.events if story.purchase.total_minor >= 700 and not waited(story) else before(story)

    def waited(story: Any) -> bool:
        return not story.events or story.events[-1].type != "order_paid"

    was = await as_it_was(tmp_path, PARTITIONS)
    monkeypatch.setattr(rules, "_approve", not_the_dear)
    would = await as_it_would_be(tmp_path, PARTITIONS)
    lamps = {uid for uid, cart in street.carts.items() if "lamp" in cart["lines"]}
    old, new = purchases(was), purchases(would)
    assert set(parted_orders(was, would)) == lamps
    changed = {uid for uid in old if old[uid].status is not new[uid].status}
    assert changed == {uid for uid in lamps if old[uid].ended is None}, "a cancelled one ends as it did"
    assert {new[uid].status for uid in changed} == {"paid"}, "who shipped it then is refused"
    assert all(not new[uid].captured_minor for uid in changed)
    waiting = {
        row.key for row in was.differing_rows(would) if row.table == "purchases_for_approval" and row.before is None
    }
    assert {key.decode().rpartition("\0")[2] for key in waiting} == changed, "they wait for their outlet"
    assert any(old[uid].status == "delivered" for uid in changed)


async def test_deadlines_that_only_the_shadow_has_fall_due_in_its_own_time(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Approved five seconds after it was paid, not at once. Lamps are dearer: they part before theirs are set."""
    before, reserved = rules._pay, checkout._reserved

    def later(story: Any, amount_minor: int) -> Any:
        terms = story.purchase.terms.model_copy(update={"approve_after_ms": 5_000})
        story.purchase = story.purchase.model_copy(update={"terms": terms})
        return before(story, amount_minor)

    was = await as_it_was(tmp_path, PARTITIONS)

    def dearer(event: StockReserved) -> RecordReservation:
        said = reserved(event)
        return said.model_copy(update={"price_minor": 800}) if event.item_id == "lamp" else said

    monkeypatch.setattr(rules, "_pay", later)
    monkeypatch.setattr(checkout, "_reserved", dearer)
    would = await as_it_would_be(tmp_path, PARTITIONS)
    old, new = purchases(was), purchases(would)
    last = list(street.carts)[-5:]
    approved = 0
    for uid in street.carts:
        told = [orjson.loads(raw or b"") for raw in would.events_of("purchases.events.v1", uid.encode())]
        times = {event["type"]: unix_ms(event["occurred_at"]) for event in told}
        if "order_approved" in times:
            approved += 1
            assert times["order_approved"] == times["order_paid"] + 5_000
            assert new[uid].status in (old[uid].status, "approved")
        elif uid not in last:
            assert new[uid].ended, "it was cancelled within those five seconds"
    assert approved >= 25
    assert all(new[uid].status == "paid" for uid in last if not new[uid].ended), "the log ends before their time"


async def test_the_provider_agrees_to_what_nobody_asked_it_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One buyer takes all and another gets nothing; if each may have two pieces at most, the other one gets some."""
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        street = Street(driver)
        await street.open(pieces=5)
        first = await street.buy("ann", "provider", pen=5)
        second = await street.buy("bob", "provider", pen=2)
        third = await street.buy("bob", "provider", ink=1)
        await street.say("purchases", second, type="ship_order", order_uid=second, shipment_id="s")
        await write_down(driver, tmp_path, PARTITIONS)
    before = checkout._reserve

    def two_at_most(event: CartPlaced, line: int) -> ReserveStock:
        said = before(event, line)
        return said.model_copy(update={"quantity": min(said.quantity, 2)})

    was = await as_it_was(tmp_path, PARTITIONS)
    monkeypatch.setattr(checkout, "_reserve", two_at_most)
    would = await as_it_would_be(tmp_path, PARTITIONS)
    old, new = purchases(was), purchases(would)
    assert (old[first].total_minor, new[first].captured_minor) == (75, 30), "the log's answers, with the new amount"
    assert (old[second].end_detail or "").endswith("out_of_stock")
    assert (new[second].status, new[second].captured_minor) == ("shipped", 30), "it was shipped when it was"
    numbers = [found[third].order_number for found in (old, new)]
    assert numbers == ["o/2023/000002", "o/2023/000003"], "the second one has a number now, before it"
    assert old[third] == new[third].model_copy(update={"order_number": numbers[0]})
    assert set(parted_orders(was, would)) == {first, second}


async def test_money_that_was_taken_unasked_is_what_is_asked_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider may take the money at once and have its answer lost: only its callback says so."""
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        street = Street(driver)
        await street.open()
        monkeypatch.setattr(street, "answer", street.unanswered)
        uid = await street.buy("ann", "provider", pen=2)
        after = await street.buy("bob", "account", ink=1)
        about = {"order_uid": uid, "source": "callback"}
        await street.say("payments", uid, type="record_capture", amount_minor=30, **about)
        lost = {"order_uid": uid, "source": "provider", "reason": "provider_unreachable"}
        await street.say("payments", uid, type="record_decline", **lost)
        await street.say("purchases", uid, type="ship_order", order_uid=uid, shipment_id="s")
        await write_down(driver, tmp_path, PARTITIONS)
    before = checkout._reserved

    def dearer(event: StockReserved) -> RecordReservation:
        said = before(event)
        return said.model_copy(update={"price_minor": 20}) if event.item_id == "pen" else said

    was = await as_it_was(tmp_path, PARTITIONS)
    monkeypatch.setattr(checkout, "_reserved", dearer)
    would = await as_it_would_be(tmp_path, PARTITIONS)
    old, new = purchases(was)[uid], purchases(would)[uid]
    assert (old.status, old.captured_minor) == ("shipped", 30)
    assert (new.status, new.captured_minor) == ("shipped", 40)
    assert purchases(was)[after] == purchases(would)[after]


async def test_an_order_less_moves_the_numbers_of_others_and_not_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        street = Street(driver)
        await street.open()
        poor = await street.buy("ann", "account", lamp=1)
        after = await street.buy("bob", "account", ink=1)
        await write_down(driver, tmp_path, PARTITIONS)
    before = checkout._reserved

    def dearer(event: StockReserved) -> RecordReservation:
        said = before(event)
        return said.model_copy(update={"price_minor": 10**9}) if event.item_id == "lamp" else said

    was = await as_it_was(tmp_path, PARTITIONS)
    monkeypatch.setattr(checkout, "_reserved", dearer)
    found = report(was, await as_it_would_be(tmp_path, PARTITIONS), 1)
    ends = {each["order_uid"]: each["ends_differently"] for each in found["differing"]}
    assert ends == {poor: True, after: False}
    assert found["orders"]["another_way_to_the_same_end"] == 1


async def test_the_same_bytes_may_come_from_outside_and_from_an_agent(tmp_path: Path) -> None:
    """Stock is received, and long after the same record comes on the wrong partition and is brought home: who takes the
    first for the second waits for what only follows from it."""
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        street = Street(driver)
        await street.open(pieces=0)
        here, there = (next(item for item in PRICES if partition_for(item.encode(), 2) == number) for number in (0, 1))
        received = [
            AdjustStock(command_id=f"r-{item}", item_id=item, delta=9, reason="receive").model_dump_json().encode()
            for item in (here, there)
        ]
        for item, raw in zip((here, there), received, strict=True):
            driver.produce("inventory.commands.v1", key=item, value=raw)
            await driver.run()
        uid = order_uid_of("both")
        cart = [{"item_id": item, "quantity": 1} for item in (here, there)]
        said = {"order_uid": uid, "user_id": "ann", "lines": cart, "payment": {"method": "account"}}
        await street.say("purchases", uid, type="place_cart", **said)
        await street.say("purchases", uid, type="ship_order", order_uid=uid, shipment_id="s")
        driver.produce("inventory.commands.v1", key=here, value=received[0], partition=1)
        await driver.run()
        lying = [record.value for record in driver.read("inventory.commands.v1")]
        assert lying.count(received[0]) == 3, "once, astray, and brought home"
        await write_down(driver, tmp_path, PARTITIONS)
    was, would = await as_it_was(tmp_path, PARTITIONS), await as_it_would_be(tmp_path, PARTITIONS)
    assert purchases(was)[uid].status == "shipped"
    assert list(was.differing_rows(would)) == []
    assert would.said() == {"parted": "0"}
