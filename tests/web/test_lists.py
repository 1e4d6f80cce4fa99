"""lists: newest first, complete over all partitions and workers, stable while orders are written."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark, param

from tests.web.platform import PARTITIONS, Client, Platform, platform, problem, raw
from web.listing import Page, Row, filters_digest, merge, read_cursor, write_cursor
from web.problems import Problem


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def walk(clients: list[Client], **query: Any) -> list[dict[str, Any]]:
    """Every page to the end, each from the next client."""
    rows: list[dict[str, Any]] = []
    cursor = ""
    for number in range(200):
        client = clients[number % len(clients)]
        response = await client.get("/api/v1/orders", params={**query, "cursor": cursor})
        told = await response.json()
        assert response.status == 200, told
        rows += told["orders"]
        if told["next_cursor"] is None:
            return rows
        cursor = told["next_cursor"]
    raise AssertionError("the list does not end")


async def filled(two: Platform, count: int, customers: int = 3) -> list[str]:
    """`count` orders, newest first."""
    uids = [await two.place(raw(f"list-{number:03d}", customer_id=f"c{number % customers}")) for number in range(count)]
    return uids[::-1]


@mark.parametrize("limit", [1, 3, 7, 200])
async def test_all_orders_newest_first_through_any_worker(two: Platform, limit: int) -> None:
    uids = await filled(two, 25)
    assert {two.home(uid) for uid in uids} == set(range(PARTITIONS))
    rows = await walk([worker.client for worker in two.workers], limit=limit)
    assert [row["order_uid"] for row in rows] == uids
    assert rows == sorted(rows, key=lambda row: row["placed_at"], reverse=True)


async def test_orders_of_one_moment_are_ordered_by_number(two: Platform) -> None:
    for uid in ("b", "a", "c", "e", "d"):
        two.driver.clock.advance(-1)  # what the harness adds for each record
        await two.place(raw(uid))
    rows = await walk([two.workers[0].client], limit=2)
    assert len({row["placed_at"] for row in rows}) == 1
    assert [row["order_uid"] for row in rows] == ["a", "b", "c", "d", "e"]


async def test_filters(two: Platform) -> None:
    uids = await filled(two, 12)
    clients = [worker.client for worker in two.workers]
    for uid in uids[::4]:
        await clients[0].post(f"/api/v1/orders/{uid}/cancel", json={"reason": "x"})
    cancelled = {row["order_uid"] for row in await walk(clients, status="cancelled", limit=2)}
    placed = {row["order_uid"] for row in await walk(clients, status="placed", limit=2)}
    assert (cancelled, placed) == (set(uids[::4]), set(uids) - set(uids[::4]))
    rows = await walk(clients, customer_id="c1", limit=2)
    assert [row["order_uid"] for row in rows] == [uid for uid in uids if int(uid[-3:]) % 3 == 1]
    both = await walk(clients, customer_id="c1", status="cancelled")
    assert {row["order_uid"] for row in both} == {row["order_uid"] for row in rows} & cancelled
    assert await walk(clients, customer_id="nobody") == []


async def test_pages_are_stable_while_orders_are_written(two: Platform) -> None:
    uids = await filled(two, 9)
    client = two.workers[0].client
    first = await (await client.get("/api/v1/orders", params={"limit": 4})).json()
    for number in range(5):
        await two.place(raw(f"later-{number}"))
    await client.post(f"/api/v1/orders/{uids[5]}/cancel", json={"reason": "x"})
    rest = await (
        await two.workers[1].client.get("/api/v1/orders", params={"limit": 50, "cursor": first["next_cursor"]})
    ).json()
    assert [row["order_uid"] for row in first["orders"] + rest["orders"]] == uids
    assert rest["next_cursor"] is None


async def test_a_partition_that_cannot_answer_makes_the_whole_list_503() -> None:
    # A list waits for each partition that may come back: nine times what the test can spare, so it waits less.
    async with platform(2, limits={"read_wait_s": 0.3}) as two:
        await filled(two, 8)
        for partition in range(PARTITIONS):
            two.unreadable = {("orders", partition)}
            for worker in two.workers:
                response = await worker.client.get("/api/v1/orders")
                await problem(response, 503, "unavailable")
                assert response.headers["Retry-After"]
        two.unreadable = set()
        two.give(2, None)
        await problem(await two.workers[0].client.get("/api/v1/orders"), 503, "unavailable")


async def test_a_dead_worker_makes_the_list_503(two: Platform) -> None:
    await filled(two, 4)
    await two.workers[1].client.server.close()
    told = await problem(await two.workers[0].client.get("/api/v1/orders"), 503, "unavailable")
    assert "does not answer" in told["detail"]


async def test_a_filter_that_matches_little_reads_a_bounded_number_of_rows() -> None:
    # Three rows a look, and no time for a second one: pages come back short, or empty, and the walk is still complete.
    async with platform(2, limits={"page_scan_rows": 3, "page_search_s": 0.0}) as running:
        uids = await filled(running, 40)
        client = running.workers[0].client
        for uid in (uids[3], uids[30]):
            await client.post(f"/api/v1/orders/{uid}/cancel", json={"reason": "x"})
        first = await (await client.get("/api/v1/orders", params={"status": "cancelled", "limit": 5})).json()
        assert len(first["orders"]) <= 1 and first["next_cursor"]
        rows = await walk([client], status="cancelled", limit=5)
        assert [row["order_uid"] for row in rows] == [uids[3], uids[30]]


async def test_a_page_goes_on_looking_while_there_is_time() -> None:
    async with platform(2, limits={"page_scan_rows": 3, "page_search_s": 30.0}) as running:
        uids = await filled(running, 40)
        client = running.workers[0].client
        await client.post(f"/api/v1/orders/{uids[30]}/cancel", json={"reason": "x"})
        told = await (await client.get("/api/v1/orders", params={"status": "cancelled", "limit": 5})).json()
        assert ([row["order_uid"] for row in told["orders"]], told["next_cursor"]) == ([uids[30]], None)


async def test_a_page_ends_early_when_its_documents_are_large() -> None:
    async with platform(2, limits={"page_bytes": 20_000}) as running:
        for number in range(30):
            await running.place(raw(f"large-{number:03d}", extra="x" * 3_000))
        client = running.workers[0].client
        told = await (await client.get("/api/v1/orders", params={"limit": 30})).json()
        assert 1 <= len(told["orders"]) < 12 and told["next_cursor"]
        assert len(await walk([client], limit=30)) == 30


@mark.parametrize(
    ("query", "parameter"),
    [
        param("limit=0", "limit", id="none"),
        param("limit=201", "limit", id="too many"),
        param("limit=ten", "limit", id="no number"),
        param("limit=%C2%B2", "limit", id="a digit that is no number"),
        param("status=lost", "status", id="unknown status"),
        param("customer_id=" + "x" * 65, "customer_id", id="too long"),
        param("customer_id=a%00b", "customer_id", id="NUL"),
        param("customer=c1", "customer", id="misspelt"),
        param("cursor=garbage", "cursor", id="no cursor"),
        param("cursor=WyJ4Il0", "cursor", id="not our cursor"),
        param("cursor=%C3%A4", "cursor", id="not ASCII"),
    ],
)
async def test_bad_parameters(two: Platform, query: str, parameter: str) -> None:
    told = await problem(await two.workers[0].client.get(f"/api/v1/orders?{query}"), 400, "bad-parameter")
    assert told["parameter"] == parameter


async def test_a_cursor_belongs_to_its_filters(two: Platform) -> None:
    await filled(two, 6)
    client = two.workers[0].client
    cursor = (await (await client.get("/api/v1/orders", params={"limit": 2})).json())["next_cursor"]
    told = await problem(
        await client.get("/api/v1/orders", params={"cursor": cursor, "customer_id": "c1"}), 400, "bad-parameter"
    )
    assert "filters" in told["detail"]


# -- the merge ---------------------------------------------------------------------------------------------------------

places = st.lists(st.integers(0, 60).map(lambda n: f"{n:03d}"), unique=True, max_size=40)


@given(places, st.integers(1, 5), st.integers(1, 9), st.integers(1, 7), st.data())
def test_pages_of_any_partitions_add_up_to_the_whole(
    rows: list[str], partitions: int, limit: int, looked: int, data: st.DataObject
) -> None:
    held: list[list[str]] = [[] for _ in range(partitions)]
    for row in sorted(rows):
        held[data.draw(st.integers(0, partitions - 1))].append(row)

    def page(partition: list[str], after: str | None) -> Page:
        left = [row for row in partition if after is None or row > after]
        shown = left[: min(limit, looked)]
        return Page([Row(row, b"") for row in shown], shown[-1] if len(left) > len(shown) else None)

    walked: list[str] = []
    after: str | None = None
    for _ in range(len(rows) + 2):
        found, after = merge([page(partition, after) for partition in held], limit)
        assert len(found) <= limit
        walked += [row.place for row in found]
        if after is None:
            break
    assert walked == sorted(rows)


def test_nothing_beyond_the_nearest_frontier_is_shown() -> None:
    pages = [Page([Row("1", b""), Row("5", b"")], None), Page([Row("2", b"")], "3")]
    assert merge(pages, 10) == ([Row("1", b""), Row("2", b"")], "3")


def test_a_full_page_that_is_the_last_has_no_cursor() -> None:
    assert merge([Page([Row("1", b"")], None), Page([Row("2", b"")], None)], 2)[1] is None
    assert merge([Page([Row("1", b"")], None), Page([Row("2", b"")], None)], 1)[1] == "1"


KEY = b"k" * 32


@settings(max_examples=20)
@given(st.text(min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_cursors_come_back(place: str, digest: int) -> None:
    cursor = write_cursor(place, digest, [KEY])
    assert read_cursor(cursor, digest, [KEY]) == place
    assert read_cursor(cursor, digest, [b"a newer key", KEY]) == place, "while a key is exchanged"
    for at in range(len(cursor)):
        altered = cursor[:at] + ("B" if cursor[at] == "A" else "A") + cursor[at + 1 :]
        if base64.urlsafe_b64decode(altered + "==") != base64.urlsafe_b64decode(cursor + "=="):
            with pytest.raises(Problem):
                read_cursor(altered, digest, [KEY])
    for other in (cursor + "A", cursor[:-1], cursor[4:], f" {cursor}", cursor + "\n", ""):
        with pytest.raises(Problem):
            read_cursor(other, digest, [KEY])
    with pytest.raises(Problem):
        read_cursor(cursor, digest, [b"another"])


def test_filters_are_told_apart() -> None:
    digests = {filters_digest(*f) for f in ((None, None), ("a", None), (None, "a"), ("", None), ("a", "a"))}
    assert len(digests) == 5
    with pytest.raises(Problem):
        read_cursor(write_cursor("x", 1, [KEY]), 2, [KEY])
