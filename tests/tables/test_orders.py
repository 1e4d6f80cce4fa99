"""Orders: the layout of the keys, and the reads that lists and timelines are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import MAX_TIME_MS
from schemas.orders import CancelOrder, Order, OrderStatus
from schemas.orders.samples import SAMPLE_ORDER, document, generate
from streams.driver import Driver
from tables.orders import OrderTables, order_uid_at, place_of, placed_at_ms_at
from tests.agents.domain import PARTITIONS, command, home, make_app

Running = tuple[Driver, OrderTables]
UIDS = [str(document(number)["order_uid"]) for number in range(60)]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """60 orders, two each millisecond, every fifth of them cancelled."""
    app, domains = make_app(tmp_path)
    tables = domains.orders
    async with Driver(app) as driver:
        for number, uid in enumerate(UIDS):
            if number % 2 == 0:
                await driver.advance(1)
            driver.produce("orders", value=generate(number), partition=home(uid))
        for uid in UIDS[::5]:
            command(driver, CancelOrder(command_id="c", order_uid=uid, reason="no"))
        await driver.run()
        yield driver, tables


def newest_first(partition: int) -> list[str]:
    at_home = [number for number, uid in enumerate(UIDS) if home(uid) == partition]
    return [UIDS[number] for number in sorted(at_home, key=lambda number: (-(number // 2), UIDS[number]))]


def pages(tables: OrderTables, limit: int, most_scanned: int = 1_000, status: OrderStatus | None = None) -> list[str]:
    """Every uid, page by page, as a caller that follows the frontier sees them."""
    found: list[str] = []
    after: str | None = None
    for _ in range(200):
        rows, frontier = tables.newest(status=status, after=after, limit=limit, most_scanned=most_scanned)
        assert len(rows) <= limit
        found += [uid for _, uid in rows]
        if frontier is None:
            return found
        assert after is None or frontier > after, "a page must bring the reader forward"
        assert all(place <= frontier for place, _ in rows)
        after = frontier
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("most_scanned", [1, 4, 1_000])
async def test_pages_are_complete_and_newest_first(running: Running, limit: int, most_scanned: int) -> None:
    driver, tables = running
    for partition in range(PARTITIONS):
        with driver.reading("orders", partition):
            assert pages(tables, limit, most_scanned) == newest_first(partition)
            cancelled = [uid for uid in newest_first(partition) if uid in UIDS[::5]]
            assert pages(tables, limit, most_scanned, OrderStatus.CANCELLED) == cancelled


async def test_the_last_page_says_that_it_is_the_last(running: Running) -> None:
    driver, tables = running
    with driver.reading("orders", 0):
        rows, frontier = tables.newest(limit=len(newest_first(0)))
    assert (len(rows), frontier) == (len(newest_first(0)), None)


async def test_a_rare_status_does_not_scan_the_whole_partition(running: Running) -> None:
    driver, tables = running
    with driver.reading("orders", 0):
        rows, frontier = tables.newest(status=OrderStatus.CANCELLED, limit=50, most_scanned=2)
    assert len(rows) <= 2
    assert frontier is not None and order_uid_at(frontier) == newest_first(0)[1]


async def test_pages_stay_as_they_are_while_orders_come_in(running: Running) -> None:
    driver, tables = running
    with driver.reading("orders", 0):
        first = tables.newest(limit=5)
    before = newest_first(0)
    for number in range(60, 90):
        driver.produce("orders", value=generate(number), partition=0)
    await driver.advance(1)
    with driver.reading("orders", 0):
        second = tables.newest(after=first.frontier, limit=5)
    assert [uid for _, uid in (*first.rows, *second.rows)] == before[:10]


async def test_a_customer_has_orders_of_his_own_only(tmp_path: Path) -> None:
    app, domains = make_app(tmp_path)
    tables = domains.orders
    async with Driver(app) as driver:
        # One name is the beginning of the other, and one has a colon and a space.
        for number, customer in enumerate(["a", "ab", "a", "a b:c"]):
            uid = f"order-{number}"
            raw = SAMPLE_ORDER.replace(b'"b563feb7b2b84b6test","track', b'"%b","track' % uid.encode(), 1)
            driver.produce("orders", value=raw.replace(b'"customer_id":"test"', f'"customer_id":"{customer}"'.encode()))
            await driver.advance(1)
        found: dict[str, list[str]] = {"a": [], "ab": [], "a b:c": [], "nobody": []}
        for partition in range(PARTITIONS):
            with driver.reading("orders", partition):
                for customer, uids in found.items():
                    uids += (uid for _, uid in tables.newest(customer).rows)
    assert {customer: sorted(uids) for customer, uids in found.items()} == {
        "a": ["order-0", "order-2"],
        "ab": ["order-1"],
        "a b:c": ["order-3"],
        "nobody": [],
    }


async def test_a_timeline_tells_events_and_refusals_in_order(tmp_path: Path) -> None:
    app, domains = make_app(tmp_path)
    tables = domains.orders
    uid = "b563feb7b2b84b6test"
    async with Driver(app) as driver:
        command(driver, CancelOrder(command_id="c-0", order_uid=uid, reason="too early"))
        await driver.run()
        driver.produce("orders", key=uid, value=SAMPLE_ORDER)
        driver.produce("orders", key=uid + "0", value=SAMPLE_ORDER.replace(uid.encode(), uid.encode() + b"0"))
        await driver.run()
        for size in range(12):
            changed = SAMPLE_ORDER.replace(b'"size":"0"', b'"size":"%d"' % (size + 1))
            driver.produce("orders", key=uid, value=changed)
        await driver.run()
        for command_id in ("c-1", "c-2"):
            command(driver, CancelOrder(command_id=command_id, order_uid=uid, reason="no"))
        await driver.run()
        with driver.reading("orders", home(uid)):
            rows = list(tables.timeline(uid))
            assert [entry for _, entry in tables.timeline(uid, reverse=True)] == [entry for _, entry in rows][::-1]
            assert list(tables.timeline(uid, after=rows[3][0], limit=2)) == rows[4:6]
            order = tables.order(uid)
    told = [(entry.type, entry.version) for _, entry in rows]
    placed = [("cancellation_refused", 0), ("order_placed", 1)]
    assert told == [*placed, *[("order_refused", 1)] * 12, ("order_cancelled", 2), ("cancellation_refused", 2)]
    offsets = [entry.offset for _, entry in rows if entry.type == "order_refused"]
    assert offsets == sorted(offsets)
    assert isinstance(order, Order) and order.version == 2


@given(
    st.tuples(st.integers(0, MAX_TIME_MS), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}", fullmatch=True)),
    st.tuples(st.integers(0, MAX_TIME_MS), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}", fullmatch=True)),
)
def test_places_sort_as_text_from_the_newest_on(one: tuple[int, str], other: tuple[int, str]) -> None:
    assert (place_of(*one) < place_of(*other)) == ((-one[0], one[1]) < (-other[0], other[1]))
    assert (placed_at_ms_at(place_of(*one)), order_uid_at(place_of(*one))) == one


def test_places_keep_their_width_at_the_ends_of_time() -> None:
    places = [place_of(time_ms, "a") for time_ms in (-1, 0, MAX_TIME_MS, 2**62)]
    assert {len(place) for place in places} == {15}
