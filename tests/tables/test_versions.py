"""Which version stood at a cut: equal times, times that go back, two topics that cause versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest import mark, param

from schemas.base import rfc3339
from streams import Position
from streams.driver import Driver
from tables.versions import (
    AfterRecord,
    AtTime,
    AtVersion,
    Cut,
    Mark,
    Undecided,
    marks_of,
    read_cut,
    version_among,
    version_at,
    write_cut,
)
from tests.agents.domain import make_app
from tests.agents.shop import ACCOUNT, BUYER, Shop


def after(text: str) -> AfterRecord:
    return AfterRecord(Position.parse(text))


def marks(*moments: str) -> list[Mark]:
    """Each as `<minute> <position>`."""
    parts = (moment.split() for moment in moments)
    return marks_of((f"2026-11-21T10:{minute}:00.000Z", Position.parse(cause)) for minute, cause in parts)


def at(minute: str, rest: str = ":00.000Z") -> AtTime:
    return AtTime(f"2026-11-21T10:{minute}{rest}")


#: Three of one minute; the fifth is dated before the fourth.
MADE = marks("10 c-0-3", "20 c-0-5", "20 c-0-6", "20 c-0-9", "40 c-0-11", "30 c-0-12")


@mark.parametrize(
    ("cut", "version"),
    [
        param(AtVersion(1), 1, id="the first"),
        param(AtVersion(6), 6, id="the newest"),
        param(AtVersion(7), 0, id="one that is not there yet"),
        param(at("09", ":59.999Z"), 0, id="before it was there"),
        param(at("10"), 1, id="the very moment"),
        param(at("19", ":59.999Z"), 1, id="a millisecond before"),
        param(at("20"), 4, id="all of one moment"),
        param(at("30"), 4, id="one dated earlier does not come before the one it follows"),
        param(at("39", ":59.999Z"), 4, id="still not"),
        param(at("40"), 6, id="and comes with it"),
        param(at("59"), 6, id="later than all"),
        param(after("c-0-2"), 0, id="a record before all"),
        param(after("c-0-3"), 1, id="the record that made it"),
        param(after("c-0-4"), 1, id="a record of another"),
        param(after("c-0-8"), 3, id="between two"),
        param(after("c-0-99"), 6, id="a record after all"),
    ],
)
def test_which_version_stood(cut: Cut, version: int) -> None:
    assert version_at(len(MADE), lambda number: MADE[number - 1], cut) == version
    assert version_among(MADE, cut) == version


@mark.parametrize("position", ["d-0-3", "c-1-3"])
def test_another_topic_or_partition_says_nothing(position: str) -> None:
    with pytest.raises(Undecided, match=r"^c$"):
        version_at(len(MADE), lambda number: MADE[number - 1], after(position))
    with pytest.raises(Undecided, match=r"^c$"):
        version_among(MADE, after(position))


#: The first by one topic, the second and the third by another, the fourth by the first again.
MIXED = marks("10 a-0-3", "20 b-0-7", "30 b-0-9", "40 a-0-8")


@mark.parametrize(
    ("position", "version"),
    [
        ("a-0-2", 0),  # the first is not there yet, so nothing is
        ("a-0-3", None),  # did those of b come before the fourth record of a?
        ("a-0-8", 4),
        ("b-0-6", None),  # was the first there?
        ("b-0-7", 2),
        ("b-0-8", 2),
        ("b-0-9", None),  # was the fourth?
    ],
)
def test_two_topics_have_no_order_among_each_other(position: str, version: int | None) -> None:
    if version is None:
        with pytest.raises(Undecided, match=r"^a and b$"):
            version_among(MIXED, after(position))
    else:
        assert version_among(MIXED, after(position)) == version


def test_only_a_logarithm_of_the_versions_is_looked_at() -> None:
    many = marks_of((f"{number:06d}", Position("c", 0, number)) for number in range(1, 10_001))
    looked: list[int] = []

    def mark_of(number: int) -> Mark:
        looked.append(number)
        return many[number - 1]

    assert version_at(len(many), mark_of, AtTime("005432")) == 5_432
    assert version_at(len(many), mark_of, after("c-0-5432")) == 5_432
    assert len(looked) < 32


async def test_a_version_dated_back_comes_with_the_one_it_follows(tmp_path: Path) -> None:
    """Of producers with clocks of their own. What a version counts from is written down with it."""
    app, domains = make_app(tmp_path)
    seconds = (10, 30, 20, 15, 40)
    async with Driver(app) as driver:
        shop, times = Shop(driver, domains), []
        for number, (second, before) in enumerate(zip(seconds, (0, *seconds), strict=False)):
            driver.clock.advance((second - before) * 1_000)
            times.append(rfc3339(driver.clock.now_ms()))
            if number == 0:
                what = {"outlet_id": "o", "name": "pen", "price_minor": 1, "currency": "INR", "attributes": {}}
                await shop.say("inventory", "create_item", "pen", item_id="pen", **what)
                await shop.say("accounts", "open_account", ACCOUNT, user_id=BUYER, currency="INR")
                continue
            await shop.say("inventory", "adjust_stock", "pen", item_id="pen", delta=1, reason="receive")
            await shop.say("accounts", "deposit", ACCOUNT, account_id=ACCOUNT, amount_minor=5)
        for number, expected in enumerate((1, 4, 1, 1, 5)):
            with shop.reading("inventory", "pen"):
                item = domains.inventory.item_at("pen", AtTime(times[number]))
            with shop.reading("accounts", ACCOUNT):
                account = domains.accounts.account_at(ACCOUNT, AtTime(times[number]))
            assert item is not None and account is not None
            assert (item.version, account.version) == (expected, expected), times[number]
            assert item.updated_at == account.updated_at == times[expected - 1]


@mark.parametrize(
    ("text", "cut"),
    [
        ("3", AtVersion(3)),
        ("orders.events.v1-2-1234", after("orders.events.v1-2-1234")),
        ("2026-11-21T10:00:00Z", AtTime("2026-11-21T10:00:00.000Z")),
        ("2026-11-21t12:30:00.0019+02:30", AtTime("2026-11-21T10:00:00.001Z")),
    ],
)
def test_a_moment_as_text(text: str, cut: Cut) -> None:
    assert read_cut(text) == cut == read_cut(write_cut(cut))


async def test_content_that_python_takes_for_equal(tmp_path: Path) -> None:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("pen", 1, 1)
        for value in (1, True, 1.0):
            await shop.say("inventory", "change_item", "pen", item_id="pen", attributes={"a": value})
            await shop.say("inventory", "adjust_stock", "pen", item_id="pen", delta=1, reason="receive")
        with shop.reading("inventory", "pen"):
            items = [domains.inventory.item_at("pen", AtVersion(version)) for version in range(1, 9)]
        assert [repr(item.attributes.get("a")) for item in items if item] == [
            *["None"] * 2, *["1"] * 2, *["True"] * 2, *["1.0"] * 2,
        ]  # fmt: skip
