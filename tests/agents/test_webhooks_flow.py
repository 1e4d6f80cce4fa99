"""Webhooks through the real task loop, time moved by hand: the line, the breaker, the bounds, a replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import MonkeyPatch

from agents import webhooks as rules
from schemas.base import derived_id
from schemas.orders.samples import SAMPLE_ORDER
from schemas.webhooks import (
    AT_ONCE,
    AttemptDue,
    Breaker,
    delivery_id_of,
    read_delivery_event,
    read_event,
)
from streams.driver import Driver
from tables import webhooks as tables
from tests.agents.domain import elsewhere, home, make_app

ME, OTHER = derived_id("me"), derived_id("other")
COMMANDS, EVENTS, DELIVERIES = "webhooks.commands.v1", "webhooks.events.v1", "deliveries.events.v1"
POLICY = {"attempts": 4, "first_pause_ms": 1_000, "breaker_failures": 3, "breaker_pause_ms": 60_000}


class World:
    """Commands in, attempts out."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.count = driver, 0

    async def say(self, kind: str, subscription_id: str = ME, partition: int | None = None, **more: Any) -> None:
        self.count += 1
        said = {
            "type": kind,
            "command_id": more.pop("command_id", f"c{self.count}"),
            "subscription_id": subscription_id,
        }
        self.driver.produce(COMMANDS, key=subscription_id, value=orjson.dumps({**said, **more}), partition=partition)
        await self.driver.run()

    async def create(self, subscription_id: str = ME, **policy: Any) -> None:
        name = {"secret_id": "s", "fingerprint": "f"}
        said: dict[str, Any] = {"url": "https://example.com/hook", "events": ["*"], "secret": name}
        said["policy"] = {**POLICY, **policy}
        await self.say("create_subscription", subscription_id, **said)

    async def request(self, number: int, subscription_id: str = ME) -> str:
        """The delivery of an event; gives its id."""
        id = delivery_id_of(subscription_id, f"e{number}")
        said: dict[str, Any] = {
            "event_id": f"e{number}",
            "event_type": "orders.order_placed",
            "position": f"orders.events.v1-0-{number}",
        }
        await self.say("request_delivery", subscription_id, delivery_id=id, payload=f'{{"n":{number}}}', **said)
        return id

    async def answer(self, due: AttemptDue, status: int) -> None:
        about: dict[str, Any] = {"delivery_id": due.delivery_id, "attempt": due.attempt, "status": status}
        await self.say("record_attempt", due.subscription_id, **about)

    def due(self, subscription_id: str = ME) -> list[AttemptDue]:
        """Every attempt that was ever due."""
        events = [read_delivery_event(record.value or b"") for record in self.driver.read(DELIVERIES)]
        return [each for each in events if isinstance(each, AttemptDue) and each.subscription_id == subscription_id]

    def target(self) -> Any:
        return self.driver.rows("webhook_targets")[ME]

    def states(self) -> Counter[str]:
        return Counter(str(row.state) for row in self.driver.rows("webhook_deliveries").values())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield World(running)


async def test_a_few_are_under_way_and_the_rest_waits_in_its_order(world: World) -> None:
    await world.create()
    ids = [await world.request(number) for number in range(7)]
    assert [due.delivery_id for due in world.due()] == ids[:AT_ONCE]
    assert world.states() == {"under_way": AT_ONCE, "waiting": 3}
    await world.answer(world.due()[1], 200)
    assert [due.delivery_id for due in world.due()] == ids[: AT_ONCE + 1], "the next one takes its place"
    for due in [world.due()[0], *world.due()[2:]]:
        await world.answer(due, 200)
    for due in world.due()[AT_ONCE + 1 :]:
        await world.answer(due, 200)
    assert world.states() == {"delivered": 7}
    assert (world.target().under_way, world.target().unsettled) == (0, 0)
    assert not [key for key in world.driver.rows("webhook_order") if key.startswith("w")], "nobody waits"


async def test_a_request_twice_is_one_delivery(world: World) -> None:
    await world.create()
    await world.request(1)
    await world.request(1)
    assert len(world.due()) == 1 and world.states() == {"under_way": 1}
    await world.answer(world.due()[0], 200)
    await world.answer(world.due()[0], 500)
    await world.request(1)
    assert len(world.due()) == 1 and world.states() == {"delivered": 1}


async def test_a_failed_attempt_is_made_again_after_its_pause_under_the_same_id(world: World) -> None:
    await world.create(breaker_failures=99)
    id = await world.request(1)
    for attempt in range(1, 5):
        (*_, due) = world.due()
        assert (due.delivery_id, due.attempt, due.payload) == (id, attempt, '{"n":1}')
        await world.answer(due, 500)
        if attempt < 4:
            assert world.states() == {"pausing": 1}
            await world.driver.advance(500 * 3**attempt // 3)
            assert len(world.due()) == attempt, "not before its time"
            await world.driver.advance(1_000 * 3**attempt)
    await world.driver.advance(10**9)
    assert len(world.due()) == 4 and world.states() == {"given_up": 1}
    assert world.target().unsettled == 0


async def test_an_open_breaker_lets_nothing_through_then_one_then_all(world: World) -> None:
    await world.create()
    for number in range(3):
        await world.request(number)
    for due in world.due():
        await world.answer(due, 503)
    assert world.target().breaker is Breaker.OPEN
    await world.driver.advance(20_000)
    await world.request(3)
    assert len(world.due()) == 3, "pauses are over and another one has come: all wait"
    assert world.states() == {"waiting": 4}
    await world.driver.advance(60_000)
    assert (len(world.due()), world.target().breaker) == (4, Breaker.HALF_OPEN)
    await world.answer(world.due()[3], 503)
    assert (world.target().breaker, world.target().openings) == (Breaker.OPEN, 2)
    await world.driver.advance(80_000)
    assert len(world.due()) == 4, "the second break is twice as long"
    await world.driver.advance(70_000)
    assert len(world.due()) == 5
    await world.answer(world.due()[4], 200)
    assert (world.target().breaker, world.target().openings, world.target().failures) == (Breaker.CLOSED, 0, 0)
    assert len(world.due()) == 8 and world.states() == {"delivered": 1, "under_way": 3}


async def test_one_dead_target_is_nobody_elses_trouble(world: World) -> None:
    await world.create()
    await world.create(OTHER)
    for number in range(20):
        await world.request(number)
        await world.request(number, OTHER)
        await world.answer(world.due(OTHER)[-1], 200)
    assert len(world.due()) == AT_ONCE and len(world.due(OTHER)) == 20


async def test_paused_it_waits_and_goes_on(world: World) -> None:
    await world.create()
    await world.say("change_subscription", paused=True)
    await world.request(1)
    assert world.due() == [] and world.states() == {"waiting": 1}
    await world.say("change_subscription", url="https://example.com/new", paused=False)
    assert [due.url for due in world.due()] == ["https://example.com/new"]


async def test_gone_pauses_it(world: World) -> None:
    await world.create()
    await world.request(1)
    await world.answer(world.due()[0], 410)
    await world.request(2)
    assert world.states() == {"given_up": 1, "waiting": 1} and len(world.due()) == 1
    assert world.driver.rows("webhooks")[ME].paused == "gone"


async def test_a_settled_delivery_is_sent_again_with_what_it_carried(world: World) -> None:
    await world.create()
    id = await world.request(1)
    await world.answer(world.due()[0], 200)
    await world.say("resend_delivery", delivery_id=id, command_id="again")
    await world.say("resend_delivery", delivery_id=id, command_id="again")
    (_, due) = world.due()
    assert (due.delivery_id, due.attempt, due.payload) == (id, 2, '{"n":1}')


async def test_the_log_is_bounded_and_what_is_not_settled_stays(world: World, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEPT_DELIVERIES", 3)
    await world.create(breaker_failures=99)
    first = await world.request(0)
    for number in range(1, 8):
        await world.request(number)
        await world.answer(world.due()[-1], 200)
    rows = world.driver.rows("webhook_deliveries").values()
    assert [row.event_id for row in sorted(rows, key=lambda row: row.sequence)] == ["e0", "e5", "e6", "e7"]
    await world.answer(world.due()[0], 200)
    kept = world.driver.rows("webhook_deliveries")
    assert f"{ME}\0{first}" not in kept and len(kept) == 3, "settled late: it goes at once"
    assert len(world.driver.rows("webhook_payloads")) == 3 == len(world.driver.rows("webhook_order"))


async def test_a_full_backlog_gives_up_what_comes(world: World, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_UNSETTLED", 5)
    await world.create()
    ids = [await world.request(number) for number in range(7)]
    assert world.states() == {"under_way": 4, "waiting": 1, "given_up": 2}
    assert world.target().unsettled == 5
    for due in world.due():
        await world.answer(due, 200)
    await world.say("resend_delivery", delivery_id=ids[6])
    assert world.due()[-1].delivery_id == ids[6], "and it can be sent later"


async def test_what_is_deleted_leaves_nothing(world: World, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "DROPPED_AT_ONCE", 2)
    await world.create()
    await world.create(OTHER)
    await world.request(0, OTHER)
    for number in range(7):
        await world.request(number)
    await world.answer(world.due()[0], 500)
    await world.say("delete_subscription")
    await world.driver.advance(10**8)
    await world.answer(world.due()[1], 200)
    for table in ("webhooks", "webhook_targets", "webhook_deliveries", "webhook_payloads"):
        assert [key for key in world.driver.rows(table) if key.startswith(ME)] == [], table
        assert len(world.driver.rows(table)) == 1, "the other one's stay"
    assert [key for key in world.driver.rows("webhook_order") if ME in key] == []
    assert read_event(world.driver.read(EVENTS)[-1].value or b"").type == "subscription_deleted"


async def test_a_command_on_another_partition_is_brought_home(world: World) -> None:
    name = {"secret_id": "s", "fingerprint": "f"}
    said: dict[str, Any] = {"url": "https://example.com/hook", "events": ["*"], "secret": name}
    await world.say("create_subscription", partition=elsewhere(ME), **said)
    (event,) = world.driver.read(EVENTS)
    assert (event.partition, event.key) == (home(ME), ME.encode())


async def test_a_replay_says_the_same_and_sends_nothing(world: World) -> None:
    """Rows, deadlines and breaker come out as they were; no attempt is due a second time."""
    await world.create()
    for number in range(5):
        await world.request(number)
    for due in world.due()[:3]:
        await world.answer(due, 503)
    await world.driver.advance(100_000)
    await world.answer(world.due()[-1], 503)
    await world.say("rotate_secret", secret={"secret_id": "s2", "fingerprint": "f2"})
    names = ("webhooks", "webhook_targets", "webhook_deliveries", "webhook_payloads", "webhook_order",
             "webhook_commands", "accounts_deadlines")  # fmt: skip
    before, sent = {name: world.driver.rows(name) for name in names}, len(world.driver.read(DELIVERIES))
    assert all(before.values())
    await world.driver.replay()
    await world.driver.run()
    assert {name: world.driver.rows(name) for name in names} == before
    assert len(world.driver.read(DELIVERIES)) == sent
    await world.driver.advance(100_000)
    await world.answer(world.due()[3], 200)
    assert world.states() == {"delivered": 1, "under_way": 4}, "and it goes on from there"


async def test_every_event_says_whom_it_is_about(world: World) -> None:
    """What the filter by customer goes by, where the event's own words do not name one."""
    from tests.agents.shop import ACCOUNT, BUYER, Shop

    app, domains = make_app(Path("/nonexistent"))
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("tea", 5, 10)
        await shop.fund(100)
        uid = await shop.buy(("tea", 2))
        await shop.lead(uid, "ship_order", shipment_id="s1")
        await shop.lead(uid, "cancel_purchase", reason="late")
        said = [record for name in ("purchases", "accounts", "payments") for record in driver.read(f"{name}.events.v1")]
        assert len(said) > 10 and ACCOUNT
        for record in said:
            assert ("customer", BUYER.encode()) in record.headers, record.value


async def test_an_order_that_came_as_a_document_says_it_too(world: World) -> None:
    placed = orjson.loads(SAMPLE_ORDER)
    uid, customer = placed["order_uid"], placed["customer_id"]
    world.driver.produce("orders", key=uid, value=SAMPLE_ORDER)
    cancel = {"type": "cancel_order", "command_id": "x", "order_uid": uid, "reason": "late"}
    for _ in range(2):
        world.driver.produce("orders.commands.v1", key=uid, value=orjson.dumps({**cancel, "command_id": f"{_}"}))
    await world.driver.run()
    first, *others = world.driver.read("orders.events.v1")
    assert orjson.loads(first.value or b"")["customer_id"] == customer and len(others) == 2
    for record in others:
        assert ("customer", customer.encode()) in record.headers, record.value


async def test_a_carriers_events_say_it_too(world: World) -> None:
    book = {"type": "book_shipment", "command_id": "b", "order_uid": "o1", "shipment_id": "s1", "user_id": "asha"}
    more = {
        "address": {},
        "parts": [{"line": 1, "item_id": "tea", "quantity": 1}],
        "terms": {"answer_within_ms": 1_000, "asks": 2, "hold_ms": 1_000},
    }
    world.driver.produce("shipping.commands.v1", key="o1", value=orjson.dumps({**book, **more}))
    await world.driver.run()
    assert world.driver.read("dead_letters.v1") == []
    (record,) = world.driver.read("shipping.events")
    assert ("customer", b"asha") in record.headers
