"""Outlets: the table of outcomes, numbers and the queue through the real task loop, and histories by the hundred."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pytest import mark, param

import agents.outlets
from agents.outlets import decide, evolve, series_at
from schemas.base import rfc3339
from schemas.orders import OrderStatus
from schemas.outlets import (
    AnyOutletCommand,
    Approval,
    ApprovalMode,
    ConfigureOutlet,
    IssueNumber,
    NumberIssued,
    Outlet,
    OutletConfigured,
    read_event,
)
from schemas.purchases import Terms
from streams.driver import Driver
from tables import purchases as purchase_tables
from tests.agents.domain import PARTITIONS, elsewhere, make_app
from tests.agents.outlet_histories import TOGETHER, play
from tests.agents.shop import Shop

#: `python -m tests.agents.outlet_histories 10000` plays more.
SEEDS = range(400 // TOGETHER)
AT, NEXT_YEAR = "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00.000Z"
BY_HAND = Approval(mode=ApprovalMode.BY_HAND)


def said(**what: Any) -> ConfigureOutlet:
    return ConfigureOutlet(command_id="c", outlet_id="o1", **what)


def asked(order: str = "order-1") -> IssueNumber:
    return IssueNumber(command_id=f"number-{order}", outlet_id="o1", order_uid=order)


def configured(*said: ConfigureOutlet) -> Outlet | None:
    outlet: Outlet | None = None
    for command in said:
        outlet = reduce(evolve, decide(outlet, command, AT), outlet)
    return outlet


@mark.parametrize(
    ("past", "command", "version"),
    [
        param([], said(number_prefix="INV"), 1, id="the first word"),
        param([said(number_prefix="INV")], said(approval=BY_HAND), 2, id="another"),
        param([said(number_prefix="INV")], said(number_prefix="INV"), None, id="the same again"),
        param([said(approval=BY_HAND)], said(), 2, id="taken back"),
        param([], said(), None, id="nothing said, nothing to take back"),
    ],
)
def test_configuring(past: Sequence[ConfigureOutlet], command: ConfigureOutlet, version: int | None) -> None:
    before = configured(*past)
    events = decide(before, command, AT)
    assert decide(before, command, AT, answered=True) == ()
    if version is None:
        assert events == ()
        return
    (event,) = events
    after = evolve(before, event)
    assert isinstance(event, OutletConfigured) and after is not None
    assert (after.version, after.approval, after.number_prefix) == (version, command.approval, command.number_prefix)
    assert Outlet.from_json(after.to_json()) == after and read_event(event.model_dump_json().encode()) == event


@mark.parametrize(
    ("past", "at", "last", "number"),
    [
        param([], AT, 0, "o1/2026/000001", id="the outlet_id, unless something is said"),
        param([said(number_prefix="INV")], AT, 122, "INV/2026/000123", id="the next"),
        param([said(number_prefix="INV")], NEXT_YEAR, 0, "INV/2027/000001", id="a year is a series"),
        param([said(number_prefix="INV"), said()], AT, 4, "o1/2026/000005", id="the prefix was taken back"),
        param([], AT, 999_999, "o1/2026/1000000", id="a million orders"),
    ],
)
def test_numbers(past: Sequence[ConfigureOutlet], at: str, last: int, number: str) -> None:
    outlet = configured(*past)
    (event,) = decide(outlet, asked(), at, last=last)
    assert isinstance(event, NumberIssued)
    assert (event.order_number, event.sequence, evolve(outlet, event)) == (number, last + 1, outlet)
    assert series_at(outlet, "o1", at).number(event.sequence) == number
    assert read_event(event.model_dump_json().encode()) == event
    assert decide(outlet, asked(), at, last=last, answered=True) == ()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        yield Shop(driver, domains)


async def configure(shop: Shop, outlet: str = "o1", **what: Any) -> None:
    await shop.say("outlets", "configure_outlet", outlet, outlet_id=outlet, **what)


async def test_what_is_approved_has_the_next_number_and_nothing_else_has_one(shop: Shop) -> None:
    await configure(shop, number_prefix="INV")
    await shop.stock("book", 50, 100)
    await shop.fund(400)
    first = await shop.buy(("book", 1))
    by_hand = Terms(approve_after_ms=None).model_dump()
    rejected = await shop.buy(("book", 1), terms=by_hand)
    await shop.lead(rejected, "reject_order", reason="closed")
    cancelled = await shop.buy(("book", 1), terms=by_hand)
    await shop.lead(cancelled, "cancel_purchase", reason="no")
    poor = await shop.buy(("book", 9))
    second = await shop.buy(("book", 1))
    assert [shop.order(uid).order_number for uid in (first, second)] == ["INV/2023/000001", "INV/2023/000002"]
    assert [shop.order(uid).order_number for uid in (rejected, cancelled, poor)] == [None] * 3
    shown = {r.reason for r in shop.driver.rows("order_timeline").values() if r.type == "order_numbered"}
    assert shown == {"INV/2023/000001", "INV/2023/000002"}
    with shop.reading("inventory", "o1"):
        assert [(series.prefix, last) for series, last in shop.domains.outlets.all_series("o1")] == [("INV", 2)]
    await shop.lead(first, "cancel_purchase", reason="late")
    assert shop.order(first).order_number == "INV/2023/000001", "a number that was given stays"


async def test_another_prefix_is_another_series_and_the_first_goes_on_where_it_was(shop: Shop) -> None:
    await shop.stock("book", 50, 1)
    await shop.fund(400)
    found = []
    for prefix in (None, "INV", "INV", None, "INV"):
        await configure(shop, number_prefix=prefix)
        found.append(shop.order(await shop.buy(("book", 1))).order_number)
    assert found == ["o1/2023/000001", "INV/2023/000001", "INV/2023/000002", "o1/2023/000002", "INV/2023/000003"]


async def test_a_word_that_comes_again_late_changes_nothing(shop: Shop) -> None:
    await configure(shop, number_prefix="A", command_id="a")
    await configure(shop, number_prefix="B")
    await configure(shop, number_prefix="A", command_id="a")
    (row,) = shop.driver.rows("outlets").values()
    assert (row.number_prefix, row.version) == ("B", 2)


async def test_a_number_is_asked_for_twice_and_elsewhere(shop: Shop) -> None:
    ask = asked("order-9").model_dump_json().encode()
    for partition in (None, elsewhere("o1"), None):
        shop.driver.produce("outlets.commands.v1", key="o1", value=ask, partition=partition)
        await shop.driver.run()
    assert len(shop.driver.read("outlets.events.v1")) == 1


async def test_every_partition_knows_how_an_outlet_takes_orders(shop: Shop) -> None:
    await configure(shop, approval={"mode": "by_hand"})
    await configure(shop, approval={"mode": "automatic", "after_ms": 5_000})
    notes = shop.driver.read("outlet_notes.commands.v1")
    assert Counter(note.partition for note in notes) == dict.fromkeys(range(PARTITIONS), 2)
    for old in notes:
        if b'"by_hand"' in (old.value or b""):  # what was said before comes again, everywhere
            shop.driver.produce(old.topic, key=old.key, value=old.value, partition=old.partition)
    await shop.driver.run()
    await shop.stock("book", 50, 100)
    await shop.fund(1_000)
    uid = await shop.buy(("book", 1))
    assert shop.order(uid).status is OrderStatus.PAID
    await shop.driver.advance(5_001)
    assert shop.order(uid).status is OrderStatus.APPROVED
    await configure(shop, approval={"mode": "by_hand"})
    waits = await shop.buy(("book", 1))
    await configure(shop)
    await shop.driver.advance(5_001)
    assert shop.order(waits).status is OrderStatus.PAID, "it waits as it began"
    assert shop.order(await shop.buy(("book", 1))).status is OrderStatus.APPROVED


async def test_who_waits_longest_comes_first_or_last(shop: Shop) -> None:
    await configure(shop, approval={"mode": "by_hand"})
    await shop.stock("book", 50, 1)
    await shop.stock("pen", 50, 1)
    await shop.fund(100)
    since: dict[str, int] = {}
    for number in range(12):
        uid = await shop.buy(("book", 1))
        since[uid] = shop.driver.clock.now_ms()
        if number % 3:
            await shop.driver.advance(1_000)
    gone = sorted(since, key=lambda uid: since[uid])[4]
    await shop.lead(gone, "cancel_purchase", reason="no")
    part = await shop.buy(("book", 1), ("pen", 1))
    since[part] = shop.driver.clock.now_ms()
    await shop.driver.advance(1_000)
    await shop.lead(part, "cancel_purchase", reason="one is enough", parts=[{"line": 1, "quantity": 1}])
    del since[gone]
    found: list[str] = []
    for partition in range(PARTITIONS):
        with shop.reading("orders", next(uid for uid in since if elsewhere(uid) == (partition + 1) % PARTITIONS)):
            oldest = list(shop.domains.purchases.waiting_for("o1"))
            newest = list(shop.domains.purchases.waiting_for("o1", newest=True))
            assert [row[1] for row in oldest] == [row[1] for row in newest[::-1]]
            assert [place for place, _ in newest] == sorted(place for place, _ in newest)
            for newer, whole in ((False, oldest), (True, newest)):
                pages: list[Any] = []
                after: str | None = None
                while page := list(shop.domains.purchases.waiting_for("o1", after=after, limit=2, newest=newer)):
                    pages, after = [*pages, *page], page[-1][0]
                assert pages == whole
            found += [purchase.order_uid for _, purchase in oldest]
            assert [since[p.order_uid] for _, p in oldest] == sorted(since[p.order_uid] for _, p in oldest)
    assert sorted(found) == sorted(since)


def test_places_turn_round_and_back() -> None:
    chance = Random(7)
    signs = "-.09AZ_az~"
    uids = {"".join(chance.choices(signs, k=chance.randint(1, 4))) for _ in range(300)} | {"a", "ab", "abc"}
    places = sorted(f"{chance.choice([0, 5, 10**12]):013d}\0{uid}" for uid in uids)
    turned = [purchase_tables._turned(place) for place in places]
    assert turned == sorted(turned, reverse=True) and len(set(turned)) == len(turned)
    assert [purchase_tables._turned(place) for place in turned] == places


async def test_histories() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, replay=seed % 2 == 0)
    assert set(seen) >= {"numbered", "none", "series"}


def _asked_again(_: Outlet | None, command: AnyOutletCommand, at: str, **more: Any) -> Any:
    return decide(_, command, at, **{**more, "answered": False})


def _skipping(outlet: Outlet | None, command: AnyOutletCommand, at: str, *, last: int = 0, **more: Any) -> Any:
    return decide(outlet, command, at, last=last + (last == 3), **more)


@mark.parametrize("broken", [_asked_again, _skipping], ids=["a number for each asking", "a gap"])
async def test_a_series_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    monkeypatch.setattr(agents.outlets, "decide", broken)
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            await play(seed)


def test_the_year_is_that_of_the_record() -> None:
    assert rfc3339(1_798_761_599_999) == AT and series_at(None, "o1", rfc3339(1_798_761_600_000)).year == 2027
