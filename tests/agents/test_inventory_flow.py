"""Inventory through the real task loop: histories by the thousand, and what single ones show."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark

from agents.wiring import declare_topics, wire_inventory
from schemas.inventory import InventoryEvent, InventoryRefusal, ReservationState, read_event
from schemas.topics import topics
from streams import App
from streams.driver import Driver
from tables.inventory import Found, InventoryTables
from tests.agents.domain import elsewhere, home, make_app
from tests.agents.inventory_histories import CHANGES, COMMANDS, EVENTS, TOGETHER, WARNINGS, play

ME = "mascara-1"
#: Together 2,000 histories; `python -m tests.agents.inventory_histories 100000` plays more.
SEEDS = range(2_000 // TOGETHER)


async def test_two_thousand_histories() -> None:
    """Redelivery, conservation, no oversell, versions by one, expiries against shipments: inventory_histories.py."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await play(seed, replay=seed % 10 == 0)
    # The one takes a thousand deliveries, the other a caller with If-Match; the table has both.
    rare = {str(InventoryRefusal.STOCK_ABOVE_LIMIT), str(InventoryRefusal.WRONG_VERSION)}
    assert set(seen) == CHANGES | WARNINGS | {str(reason) for reason in InventoryRefusal} - rare


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield running


async def tell(driver: Driver, kind: str, id: str, partition: int | None = None, **more: Any) -> None:
    put(driver, kind, id, partition, **more)
    await driver.run()


def put(driver: Driver, kind: str, id: str, partition: int | None = None, item: str = ME, **more: Any) -> None:
    said = {"type": kind, "command_id": id, "item_id": item, **more}
    driver.produce(COMMANDS, key=item, value=orjson.dumps(said), partition=partition, headers=[("trace", b"1")])


NEW: dict[str, Any] = {"outlet_id": "outlet-1", "name": "Mascara", "price_minor": 500, "currency": "INR"}
LINE: dict[str, Any] = {"order_uid": "o", "line": 1}


async def stocked(driver: Driver, pieces: int = 10) -> None:
    await tell(driver, "create_item", "n", **NEW)
    await tell(driver, "adjust_stock", "s", delta=pieces, reason="receive")


def outcomes(driver: Driver) -> list[str]:
    events = [read_event(record.value or b"") for record in driver.read(EVENTS)]
    return [str(getattr(event, "reason", "")) if "refused" in event.type else event.type for event in events]


def stock(driver: Driver) -> tuple[int, int]:
    row = driver.rows("items")[ME]
    return row.on_hand, row.reserved


async def test_a_hundred_who_race_for_ten(driver: Driver) -> None:
    await stocked(driver, 10)
    for buyer in range(100):
        put(driver, "reserve_stock", f"r{buyer}", order_uid=f"o{buyer}", line=1, quantity=1)
    await driver.run()
    assert Counter(outcomes(driver)[2:]) == {"stock_reserved": 10, "stock_out": 1, "out_of_stock": 90}
    assert stock(driver) == (10, 10)


async def test_what_an_event_of_a_reservation_says(driver: Driver) -> None:
    """All that whoever hears of it needs, so that nobody has to ask."""
    await stocked(driver, 3)
    await tell(driver, "change_item", "c", price_minor=600, low_stock_at=2)
    await tell(driver, "reserve_stock", "r", **LINE, quantity=5, partial=True, expires_at_ms=10**13 - 1)
    reserved, low, out = (orjson.loads(record.value or b"") for record in driver.read(EVENTS)[3:])
    standing = {"item_id": ME, "outlet_id": "outlet-1", "version": 4, "on_hand": 3, "reserved": 3, "caused_by": "r"}
    sold_as = {"name": "Mascara", "price_minor": 600, "currency": "INR"}
    kept = {**LINE, "asked": 5, "quantity": 3, "partial": True, "expires_at_ms": 10**13 - 1}
    assert standing.items() | sold_as.items() | kept.items() <= reserved.items()
    assert standing.items() | {("low_stock_at", 2), ("type", "stock_low")} <= low.items()
    assert standing.items() | {("type", "stock_out")} <= out.items()
    await tell(driver, "change_item", "c2", price_minor=700)
    assert driver.rows("stock_reservations")[f"{ME}\0o:1"].quantity == 3


async def test_whoever_waits_is_told_every_event(tmp_path: Path) -> None:
    """Changes, warnings and refusals, in their order, once each: an order waits for all of them."""
    app = App("orderstream", data_dir=tmp_path, broker="kafka://127.0.0.1:9")
    told: list[InventoryEvent] = []
    wire_inventory(app, declare_topics(app, topics(1, 1)), told.append)
    async with Driver(app) as driver:
        await stocked(driver, 3)
        await tell(driver, "reserve_stock", "r", **LINE, quantity=3)
        await tell(driver, "reserve_stock", "r", **LINE, quantity=3)
        await tell(driver, "reserve_stock", "r2", order_uid="o2", line=1, quantity=1)
        assert told == [read_event(record.value or b"") for record in driver.read(EVENTS)]
        kinds = ["item_created", "stock_adjusted", "stock_reserved", "stock_out", "out_of_stock"]
        assert outcomes(driver) == kinds


async def test_a_command_on_the_wrong_partition_is_brought_home_once(driver: Driver) -> None:
    await stocked(driver)
    await tell(driver, "adjust_stock", "s2", partition=elsewhere(ME), delta=1, reason="receive")
    records = [record for record in driver.read(COMMANDS) if b'"s2"' in (record.value or b"")]
    assert {record.partition for record in records} == {home(ME), elsewhere(ME)} and len(records) == 2
    assert all(list(record.headers) == [("trace", b"1")] for record in records)
    assert stock(driver) == (11, 0)


@mark.parametrize("later_ms", [0, 400 * 24 * 3600 * 1000])
async def test_a_command_that_comes_again_changes_nothing_however_late(driver: Driver, later_ms: int) -> None:
    await stocked(driver)
    await tell(driver, "reserve_stock", "r", **LINE, quantity=11)
    await tell(driver, "change_item", "c", name="Mascara")  # so already: nothing to say, then and later
    await tell(driver, "change_item", "c2", name="Lipstick")
    await driver.advance(later_ms)
    for _ in range(2):
        await tell(driver, "create_item", "n", **NEW)
        await tell(driver, "adjust_stock", "s", delta=10, reason="receive")
        await tell(driver, "reserve_stock", "r", **LINE, quantity=1)
        await tell(driver, "change_item", "c", name="Mascara")
    assert outcomes(driver) == ["item_created", "stock_adjusted", "insufficient_stock", "item_changed"]
    assert stock(driver) == (10, 0) and driver.rows("items")[ME].name == "Lipstick"


async def test_a_reservation_expires_by_a_record(driver: Driver) -> None:
    await stocked(driver)
    due = driver.clock.now_ms() + 1_000
    await tell(driver, "reserve_stock", "r", **LINE, quantity=4, expires_at_ms=due)
    await tell(driver, "commit_stock", "c", **LINE, quantity=1)
    await driver.advance(999)
    assert stock(driver) == (9, 3)
    await driver.advance(1)
    assert stock(driver) == (9, 0)
    (reservation,) = driver.rows("stock_reservations").values()
    assert (reservation.state, reservation.committed, reservation.released) == (ReservationState.EXPIRED, 1, 3)
    assert driver.rows("inventory_deadlines") == {}
    await tell(driver, "commit_stock", "c2", **LINE)
    assert outcomes(driver)[-2:] == ["stock_released", "reservation_already_settled"]


async def test_a_reservation_without_expiry_waits(driver: Driver) -> None:
    await stocked(driver)
    await tell(driver, "reserve_stock", "r", **LINE, quantity=4)
    assert driver.rows("inventory_deadlines") == {}
    await driver.advance(400 * 24 * 3600 * 1000)
    assert stock(driver) == (10, 4)


@mark.parametrize("kind", ["commit_stock", "release_stock"])
async def test_the_last_piece_forgets_the_expiry(driver: Driver, kind: str) -> None:
    await stocked(driver)
    due = driver.clock.now_ms() + 1_000
    await tell(driver, "reserve_stock", "r", **LINE, quantity=4, expires_at_ms=due)
    for quantity in (1, 3):
        assert driver.rows("inventory_deadlines") != {}
        await tell(driver, kind, f"q{quantity}", **LINE, quantity=quantity)
    assert driver.rows("inventory_deadlines") == {}
    told = outcomes(driver)
    await driver.advance(5_000)
    assert outcomes(driver) == told


async def test_an_expiry_that_lies_behind_a_shipment_in_the_log_is_refused(driver: Driver) -> None:
    """The deadline has sent its command; a shipment stood before it."""
    await stocked(driver)
    await tell(driver, "reserve_stock", "r", **LINE, quantity=4)
    put(driver, "commit_stock", "c", **LINE)
    put(driver, "release_stock", "e", **LINE, reason="expired")
    await driver.run()
    assert outcomes(driver)[-2:] == ["stock_committed", "reservation_already_settled"]
    assert stock(driver) == (6, 0)


async def test_a_bad_command_is_poison_and_changes_nothing(driver: Driver) -> None:
    await stocked(driver)
    await tell(driver, "adjust_stock", "x", delta=1.5, reason="receive")
    (letter,) = driver.read("dead_letters.v1")
    assert dict(letter.headers)["dead-letter-kind"] == b"poison"
    assert b"delta" in dict(letter.headers)["dead-letter-faults"]
    assert stock(driver) == (10, 0)


# -- the catalogue -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[tuple[Driver, InventoryTables]]:
    app, domains = make_app(tmp_path, 1)
    async with Driver(app) as running:
        names = ["Red Mascara", "Straße Lamp", "Red Lamp", "red lipstick", "Mirror"]
        for number, name in enumerate(names):
            outlet = "outlet-1" if number != 4 else "outlet"
            put(running, "create_item", f"n{number}", item=f"i{number}", **{**NEW, "name": name, "outlet_id": outlet})
        await running.run()
        yield running, domains.inventory


def pages(shelf: tuple[Driver, InventoryTables], outlet: str | None, **more: Any) -> Iterator[Found]:
    driver, tables = shelf
    with driver.reading("inventory", 0):
        after = None
        while True:
            found = tables.find(outlet, after=after, **more)
            yield found
            after = found.frontier
            if after is None:
                return


@mark.parametrize(
    ("outlet", "words", "ids"),
    [
        (None, [], ["i0", "i1", "i2", "i3", "i4"]),
        ("outlet-1", [], ["i0", "i1", "i2", "i3"]),
        ("outlet", [], ["i4"]),
        ("outl", [], []),
        (None, ["RED"], ["i0", "i2", "i3"]),
        ("outlet-1", ["lamp", "red"], ["i2"]),
        ("outlet-1", ["STRASSE"], ["i1"]),
        (None, ["I4"], ["i4"]),
        ("outlet-1", ["i4"], []),
    ],
)
@mark.parametrize(("limit", "most_scanned"), [(50, 100), (1, 100), (2, 1), (50, 2)])
async def test_finding_items(
    shelf: tuple[Driver, InventoryTables],
    outlet: str | None,
    words: list[str],
    ids: list[str],
    limit: int,
    most_scanned: int,
) -> None:
    """Page by page, however small the pages and however little each may look at: every item once, in order."""
    found = list(pages(shelf, outlet, words=words, limit=limit, most_scanned=most_scanned))
    assert [item.item_id for page in found for item in page.items] == ids
    assert all(len(page.items) <= limit for page in found)


async def test_a_new_name_is_what_is_looked_for(shelf: tuple[Driver, InventoryTables]) -> None:
    driver, _ = shelf
    put(driver, "change_item", "c", item="i4", name="Blue Lamp")
    await driver.run()
    (page,) = pages(shelf, "outlet", words=["blue"])
    assert [item.name for item in page.items] == ["Blue Lamp"]
    (page,) = pages(shelf, "outlet", words=["mirror"])
    assert page.items == []
