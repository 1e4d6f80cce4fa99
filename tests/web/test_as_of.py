"""`as_of` over HTTP: every kind of moment, through any worker, and what is answered where there is nothing to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from itertools import product
from typing import Any

import orjson
import pytest
from pytest import mark, param

from agents.payments import fold
from schemas.accounts import account_id_of
from schemas.base import rfc3339
from schemas.payments import Payment, Refund, read_event
from streams import partition_for
from streams.records import TopicPartition
from tests.web.platform import PARTITIONS, Platform, document, platform, problem, raw
from web.payments.shapes import present

ACCOUNT = account_id_of("asha", "INR")
DEPOSITS = f"accounts/{ACCOUNT}/deposits"


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def get(two: Platform, path: str, **query: str) -> dict[str, Any]:
    """The same from both workers: one owns it, the other forwards."""
    told = []
    for worker in two.workers:
        response = await worker.client.get(f"/api/v1/{path}", params=query)
        assert response.status == 200, await response.text()
        told.append(await response.json())
    assert told[0] == told[1]
    only: dict[str, Any] = told[0]
    return only


async def post(two: Platform, path: str, body: dict[str, Any]) -> dict[str, Any]:
    two.driver.clock.advance(1_000)
    response = await two.workers[0].client.post(f"/api/v1/{path}", json=body)
    told: dict[str, Any] = await response.json()
    assert response.status < 300, told
    async with two.turn:  # what follows from it in other domains
        await two.driver.run()
    return told


def now(two: Platform) -> str:
    return rfc3339(two.driver.clock.now_ms())


def last_told(two: Platform, topic: str, key: str) -> str:
    """The position where a topic of events ends, in the partition of this key."""
    partition = TopicPartition(topic, partition_for(key.encode(), PARTITIONS))
    return f"{topic}-{partition.partition}-{len(two.driver.log.topics[partition]) - 1}"


Moments = list[tuple[dict[str, Any], list[str]]]


async def account_moments(two: Platform) -> Moments:
    """An account after each of its changes, and every way to say that moment."""
    moments: Moments = []
    for path, body in (
        ("accounts", {"user_id": "asha", "currency": "INR"}),
        (f"accounts/{ACCOUNT}/deposits", {"amount_minor": 500}),
        (f"accounts/{ACCOUNT}/withdrawals", {"amount_minor": 120}),
        (f"accounts/{ACCOUNT}/deposits", {"amount_minor": 7}),
    ):
        done = await post(two, path, body)
        shown = await get(two, f"accounts/{ACCOUNT}")
        told = last_told(two, "accounts.events.v1", ACCOUNT)
        moments.append((shown, [now(two), str(shown["version"]), done["position"], told]))
    return moments


async def order_moments(two: Platform) -> Moments:
    placed = await post(two, "orders", document("then"))
    first = await get(two, "orders/then")
    at_first = [now(two), "1", placed["position"], last_told(two, "orders.events.v1", "then")]
    cancelled = await post(two, "orders/then/cancel", {"reason": "no"})
    second = await get(two, "orders/then")
    at_second = [now(two), "2", cancelled["position"], last_told(two, "orders.events.v1", "then")]
    return [(first, at_first), (second, at_second)]


async def item_moments(two: Platform) -> Moments:
    moments: Moments = []
    item = {"item_id": "pen", "outlet_id": "o", "name": "Pen", "price_minor": 5, "currency": "INR"}
    client = two.workers[1].client
    for step in ("create", "stock", "price", "stock"):
        if step == "price":
            two.driver.clock.advance(1_000)
            done = await (await client.patch("/api/v1/items/pen", json={"price_minor": 9})).json()
        elif step == "stock":
            done = await post(two, "items/pen/stock", {"delta": 3, "reason": "receive"})
        else:
            done = await post(two, "items", item)
        shown = await get(two, "items/pen")
        told = last_told(two, "inventory.events.v1", "pen")
        moments.append((shown, [now(two), str(shown["version"]), done["position"], told]))
    return moments


async def purchase_moments(two: Platform) -> Moments:
    await item_moments(two)
    await account_moments(two)
    order = await post(two, "orders", {"user_id": "asha", "item_id": "pen", "quantity": 1})
    uid = order["order_id"]
    moments: Moments = []
    for path, body in ((None, {}), ("shipments", {"shipment_id": "s"}), ("shipments/s/delivered", {})):
        done = await post(two, f"orders/{uid}/{path}", body) if path else {}
        shown = await get(two, f"orders/{uid}")
        told = last_told(two, "purchases.events.v1", uid)
        said = [now(two), str(shown["version"]), told] + ([done["position"]] if done else [])
        # What follows from a change (money that comes) is told after it, and not caused by the same record.
        moments.append((shown, said[:3]))
    return moments


@mark.parametrize(
    ("address", "history"),
    [
        param("orders/then", order_moments, id="an order that came as a document"),
        param(None, purchase_moments, id="an order that was bought"),
        param(f"accounts/{ACCOUNT}", account_moments, id="an account"),
        param("items/pen", item_moments, id="an item"),
    ],
)
async def test_every_moment_said_in_every_way(two: Platform, address: str | None, history: Any) -> None:
    moments: Moments = await history(two)
    for shown, ways in moments:
        for as_of in ways:
            path = address or f"orders/{shown['order_uid']}"
            assert await get(two, path, as_of=as_of) == shown, as_of
    assert len({orjson.dumps(shown) for shown, _ in moments}) == len(moments)


async def test_the_version_then_is_the_etag(two: Platform) -> None:
    await order_moments(two)
    client = two.workers[0].client
    for as_of, etag in (("1", '"1"'), ("2", '"2"')):
        response = await client.get("/api/v1/orders/then", params={"as_of": as_of})
        assert response.headers["ETag"] == etag
        kept = await client.get("/api/v1/orders/then", params={"as_of": as_of}, headers={"If-None-Match": etag})
        assert (kept.status, kept.headers["ETag"]) == (304, etag)


async def test_what_was_not_there_is_404_and_says_since_when_it_is(two: Platform) -> None:
    (first, _), _ = await order_moments(two)
    for worker in two.workers:
        response = await worker.client.get("/api/v1/orders/then", params={"as_of": "2020-01-01T00:00:00Z"})
        told = await problem(response, 404, "no-such-past")
        assert (told["reason"], told["since"], told["newest_version"]) == ("not_there", first["placed_at"], 2)
        response = await worker.client.get("/api/v1/orders/then", params={"as_of": "3"})
        assert "2 versions until now" in (await problem(response, 404, "no-such-past"))["detail"]
        response = await worker.client.get("/api/v1/orders/never", params={"as_of": "2020-01-01T00:00:00Z"})
        await problem(response, 404, "no-such-order")
        home = two.home("never")
        response = await worker.client.get("/api/v1/orders/never", params={"as_of": f"orders.events.v1-{home}-0"})
        assert response.status == 404
    await account_moments(two)
    for path in (f"accounts/{ACCOUNT}",):
        response = await two.workers[0].client.get(f"/api/v1/{path}", params={"as_of": "2020-01-01T00:00:00Z"})
        await problem(response, 404, "no-such-past")


async def test_a_position_before_it_was_there(two: Platform) -> None:
    home = two.home("then")
    other = next(uid for uid in (f"other-{number}" for number in range(50)) if two.home(uid) == home)
    await two.place(raw(other))
    before = last_told(two, "orders.events.v1", "then")
    await order_moments(two)
    response = await two.workers[0].client.get("/api/v1/orders/then", params={"as_of": before})
    assert (await problem(response, 404, "no-such-past"))["reason"] == "not_there"


NO_MOMENTS = [
    ("yesterday", "is no moment"),
    ("0", "a version from 1 on"),
    ("99999999999", "a version from 1 on"),
    ("2026-11-21", "no RFC 3339 time"),
    ("2026-11-21T10:00:00", "no RFC 3339 time"),
    ("2026-11-21T10:00:00 02:00", "%2B"),
    ("2026-02-30T10:00:00Z", "there is not"),
    ("0001-01-01T00:00:00+01:00", "there is not"),
    ("2285-01-01T00:00:00Z", "lies ahead"),
    ("cats-0-1", "names topic"),
    ("accounts.events.v1-0-1", "names topic"),
    ("purchases.events.v1-{home}-0", "orders.events.v1 tells of order then"),
    ("orders.events.v1-{away}-0", "lives on partition"),
    ("orders.commands.v1-{away}-0", "lives on partition"),
    ("payments.commands.v1-{home}-0", "records of orders.commands.v1 made"),
]


async def test_what_is_no_moment_is_refused_with_what_would_be(two: Platform) -> None:
    await order_moments(two)
    await two.produce("payments.commands.v1", two.home("then"), b"k", b"{}", ())
    home = two.home("then")
    for as_of, says in NO_MOMENTS:
        asked = as_of.format(home=home, away=(home + 1) % PARTITIONS)
        for worker in two.workers:
            response = await worker.client.get("/api/v1/orders/then", params={"as_of": asked})
            told = await problem(response, 400, "bad-parameter")
            assert says in told["detail"] and told["parameter"] == "as_of", told


async def test_a_position_that_is_not_in_the_log(two: Platform) -> None:
    await order_moments(two)
    client, home = two.workers[0].client, two.home("then")
    response = await client.get("/api/v1/orders/then", params={"as_of": f"orders.events.v1-{home}-2"})
    told = await problem(response, 404, "no-such-past")
    assert told["reason"] == "not_in_the_log" and "offsets from 0 to 1" in told["detail"]
    # One that its task reads may come yet: it is waited for as with min_offset.
    response = await client.get("/api/v1/orders/then", params={"as_of": f"orders.commands.v1-{home}-99"})
    assert "is not committed yet" in (await problem(response, 503, "unavailable"))["detail"]
    both = {"as_of": f"orders.commands.v1-{home}-0", "min_offset": f"orders.commands.v1-{home}-0"}
    told = await problem(await client.get("/api/v1/orders/then", params=both), 400, "bad-parameter")
    assert told["parameter"] == "min_offset"


async def test_the_search_in_the_log_is_bounded() -> None:
    async with platform(1, limits={"as_of_records": 3}) as running:
        home = running.home("then")
        others = [uid for uid in (f"o-{number}" for number in range(60)) if running.home(uid) == home][:8]
        running.driver.clock.advance(-1)
        await running.place(raw("then"))
        for uid in others:  # of the same millisecond: the index does not tell them apart
            running.driver.clock.advance(-1)
            await running.place(raw(uid))
        client = running.workers[0].client
        as_of = last_told(running, "orders.events.v1", "then")
        path = f"/api/v1/orders/{others[-1]}"
        told = await problem(await client.get(path, params={"as_of": as_of}), 400, "bad-parameter")
        assert "more than 3 records" in told["detail"] and "ORDERSTREAM_AS_OF_MAX_RECORDS" in told["detail"]
        assert (await client.get("/api/v1/orders/then", params={"as_of": as_of})).status == 200


async def test_what_was_made_before_versions_were_kept(two: Platform) -> None:
    """As after an update: the rows of versions begin later than the account."""
    moments = await account_moments(two)
    task = two.driver.tasks[f"accounts-{two.home(ACCOUNT)}"]
    for version in (1, 2):
        task.store.apply({"account_versions": {f"{ACCOUNT}\0{version:010d}".encode(): None}}, {}, 0)
    client = two.workers[0].client
    response = await client.get(f"/api/v1/accounts/{ACCOUNT}", params={"as_of": "2"})
    assert (await problem(response, 404, "no-such-past"))["reason"] == "not_kept"
    response = await client.get("/api/v1/accounts", params={"user_id": "asha", "as_of": moments[1][1][0]})
    assert (await problem(response, 404, "no-such-past"))["reason"] == "not_kept"
    assert (await get(two, f"accounts/{ACCOUNT}", as_of="3"))["version"] == 3


# -- lists -------------------------------------------------------------------------------------------------------------


async def walk(two: Platform, path: str, rows: str, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    for number in range(300):
        client = two.workers[number % len(two.workers)].client
        response = await client.get(f"/api/v1/{path}", params={**query, "cursor": cursor})
        told = await response.json()
        assert response.status == 200, told
        found += told[rows]
        if told["next_cursor"] is None:
            return found
        cursor = told["next_cursor"]
    raise AssertionError("the list does not end")


async def test_lists_of_orders_are_those_of_then() -> None:
    """A few rows a look, and few on a page: what a list was, it is again, page by page, whatever has come since."""
    limits = {"page_scan_past_rows": 3, "page_search_s": 0.0}
    async with platform(2, limits=limits) as running:
        then: dict[str, dict[str, list[dict[str, Any]]]] = {}
        lists: list[dict[str, str]] = [{}, {"status": "placed"}, {"status": "cancelled"}, {"customer_id": "c1"}]
        for number in range(24):
            running.driver.clock.advance(500)
            await running.place(raw(f"o-{number}", customer_id=f"c{number % 3}"))
            if number % 3 == 2:
                await post(running, f"orders/o-{number // 2}/cancel", {"reason": "x"})
            if number % 6 == 5:
                kept = {str(query): await walk(running, "orders", "orders", limit="4", **query) for query in lists}
                then[now(running)] = kept
        for at, kept in then.items():
            for query in lists:
                found = await walk(running, "orders", "orders", limit="4", as_of=at, **query)
                assert found == kept[str(query)], (at, query)
        first = {"as_of": next(iter(then)), "limit": "2"}
        page = await (await running.workers[0].client.get("/api/v1/orders", params=first)).json()
        assert page["orders"], "what was placed later is not looked through"
        assert [len(kept["{'status': 'cancelled'}"]) for kept in then.values()] == [2, 4, 6, 8]


async def test_lists_of_items_and_accounts_are_those_of_then(two: Platform) -> None:
    shown: dict[str, tuple[Any, Any, Any]] = {}
    for number in range(6):
        item = {"item_id": f"i{number}", "outlet_id": "o", "name": "Pen", "price_minor": 5, "currency": "INR"}
        await post(two, "items", item)
        two.driver.clock.advance(1_000)
        await two.workers[0].client.patch(f"/api/v1/items/i{number // 2}", json={"name": f"Quill {number}"})
        await post(two, "accounts", {"user_id": "asha", "currency": ("INR", "EUR")[number % 2]})
        await post(two, f"accounts/{ACCOUNT}/deposits", {"amount_minor": 5})
        shown[now(two)] = (
            await walk(two, "items", "items", limit="2"),
            await walk(two, "items", "items", limit="2", query="pen", outlet_id="o"),
            await get(two, "accounts", user_id="asha"),
        )
    for at, (items, pens, accounts) in shown.items():
        assert await walk(two, "items", "items", limit="2", as_of=at) == items
        assert await walk(two, "items", "items", limit="2", as_of=at, query="pen", outlet_id="o") == pens
        assert await get(two, "accounts", user_id="asha", as_of=at) == accounts


async def test_a_list_is_of_all_partitions_and_takes_a_time(two: Platform) -> None:
    for path, as_of in product(("orders?", "items?", "accounts?user_id=asha&"), ("3", "orders.events.v1-0-1", "now")):
        response = await two.workers[0].client.get(f"/api/v1/{path}as_of={as_of}")
        assert "must be a time in a list" in (await problem(response, 400, "bad-parameter"))["detail"], (path, as_of)


async def test_a_cursor_belongs_to_its_moment(two: Platform) -> None:
    for number in range(6):
        await two.place(raw(f"o-{number}"))
    client, at = two.workers[0].client, now(two)
    first = await (await client.get("/api/v1/orders", params={"limit": "2", "as_of": at})).json()
    other = {"limit": "2", "cursor": first["next_cursor"]}
    told = await problem(await client.get("/api/v1/orders", params=other), 400, "bad-parameter")
    assert "other filters" in told["detail"]


async def test_a_statement_and_a_timeline_as_they_were(two: Platform) -> None:
    entries, timeline = f"accounts/{ACCOUNT}/entries", "orders/then/timeline"
    seen: list[tuple[str, dict[str, Any], list[str]]] = []
    opened: dict[str, Any] = {"user_id": "asha", "currency": "INR"}
    for number in range(4):
        done = await (post(two, DEPOSITS, {"amount_minor": number}) if number else post(two, "accounts", opened))
        said = [now(two), done["position"], last_told(two, "accounts.events.v1", ACCOUNT)]
        seen.append((entries, await get(two, entries), said))
    for path, body in (("orders", document("then")), ("orders/then/cancel", {"reason": "no"})):
        done = await post(two, path, body)
        told = await get(two, timeline)
        said = [now(two), str(len(told["entries"])), done["position"], last_told(two, "orders.events.v1", "then")]
        seen.append((timeline, told, said))
    two.driver.clock.advance(1_000)
    refused = await two.workers[0].client.post("/api/v1/orders/then/cancel", json={"reason": "again"})
    assert refused.status == 409
    seen.append((timeline, await get(two, timeline), [now(two), (await refused.json())["position"]]))
    for path, told, said in seen:
        for moment in said:
            assert await get(two, path, as_of=moment) == told, (path, moment)
    assert [len(told["entries"]) for _, told, _ in seen] == [0, 1, 2, 3, 1, 2, 3]

    of_then = seen[3][2][0]
    first = await get(two, entries, as_of=of_then, limit="2")
    rest = await get(two, entries, as_of=of_then, limit="2", cursor=first["next_cursor"])
    assert first["entries"] + rest["entries"] == seen[3][1]["entries"] and rest["next_cursor"] is None
    other = await two.workers[0].client.get(f"/api/v1/{entries}", params={"cursor": first["next_cursor"]})
    assert other.status == 400, "a page of the past is not one of now"
    page = await get(two, timeline, as_of="2", limit="1")
    assert len(page["entries"]) == 1 and len((await get(two, timeline, as_of="2", limit="2"))["entries"]) == 2
    for path in (entries, timeline):
        response = await two.workers[0].client.get(f"/api/v1/{path}", params={"as_of": "2020-01-01T00:00:00Z"})
        assert (response.status, (await response.json())["reason"]) == (404, "not_there")


async def test_a_timeline_of_many_refusals_is_looked_through_page_by_page(two: Platform) -> None:
    """Whoever was refused after the moment is passed over, and a page ends where enough was looked at."""
    await post(two, "orders", document("then"))
    at = now(two)
    two.driver.clock.advance(1_000)
    for number in range(250):
        other = {**document("then"), "customer_id": f"other{number}"}
        said = {"type": "place_order", "command_id": f"c{number}", "order_uid": "then", "document": other}
        two.driver.produce("orders.commands.v1", key="then", value=orjson.dumps(said))
    async with two.turn:
        await two.driver.run()
    assert len((await get(two, "orders/then/timeline", limit="200"))["entries"]) == 200
    first = await get(two, "orders/then/timeline", as_of=at, limit="2")
    assert len(first["entries"]) == 1 and first["next_cursor"] is not None
    rest = await get(two, "orders/then/timeline", as_of=at, limit="2", cursor=first["next_cursor"])
    assert rest["entries"] == [] and rest["next_cursor"] is None


async def test_a_payment_as_it_was(two: Platform) -> None:
    """Asked for, captured, given back in part, and refused what is too much: each moment, said in every way."""
    await item_moments(two)
    await account_moments(two)
    order = await post(two, "orders", {"user_id": "asha", "item_id": "pen", "quantity": 2})
    uid = order["order_id"]
    path, seen = f"payments/{uid}", list[tuple[dict[str, Any], list[str]]]()

    async def look(*more: str) -> None:
        shown = await get(two, path)
        seen.append((shown, [now(two), last_told(two, "payments.events.v1", uid), *more]))

    await look(str((await get(two, path))["version"]))
    for action, body in (
        ("shipments", {"shipment_id": "s"}),
        ("shipments/s/delivered", {}),
        ("returns", {"return_id": "r", "parts": [{"line": 1, "quantity": 1}], "reason": "torn"}),
        ("returns/r/approve", {}),
        ("returns/r/receive", {}),
    ):
        await post(two, f"orders/{uid}/{action}", body)
        await look(str((await get(two, path))["version"]))
    two.driver.clock.advance(1_000)
    said = {"type": "capture_payment", "command_id": "again", "order_uid": uid, "amount_minor": 1}
    two.driver.produce("payments.commands.v1", key=uid, value=orjson.dumps(said))
    async with two.turn:
        await two.driver.run()
    await look()
    assert len({orjson.dumps(shown) for shown, _ in seen}) >= 3
    assert seen[-1][0]["attempts"][-1]["type"] == "payment_command_refused" and seen[-1][0]["refunds"]
    for shown, ways in seen:
        for moment in ways:
            assert await get(two, path, as_of=moment) == shown, moment
    payment: Payment | None = None
    refunds: Mapping[str, Refund] = {}
    place = TopicPartition("payments.events.v1", partition_for(uid.encode(), PARTITIONS))
    for record in two.driver.log.topics[place]:
        if record.key == uid.encode():
            payment, refunds = fold(payment, refunds, read_event(record.value or b""))
            then = await get(two, path, as_of=f"{place.topic}-{place.partition}-{record.offset}")
            assert payment is not None and then.items() >= present(payment).items()
            assert len(then["attempts"]) == payment.attempts and len(then["refunds"]) == len(refunds)
    records = two.driver.log.topics[place]
    records[:] = [*records[:-1], *records]  # a replay was told to send them again, before the last one came
    records[:] = [record._replace(offset=offset) for offset, record in enumerate(records)]
    assert await get(two, path, as_of=now(two)) == seen[-1][0]
    again = [record.offset for record in records if b'"payment_requested"' in (record.value or b"")][-1]
    then = await get(two, path, as_of=f"{place.topic}-{place.partition}-{again}")
    assert payment is not None and len(then["attempts"]) == payment.attempts - 1, "nothing begins anew there"
    first = await get(two, path, as_of=seen[-1][1][0], limit="2")
    rest = await get(two, path, as_of=seen[-1][1][0], cursor=first["next_cursor"])
    assert first["attempts"] + rest["attempts"] == seen[-1][0]["attempts"]


async def test_where_there_was_no_payment(two: Platform) -> None:
    await item_moments(two)
    await account_moments(two)
    uid = (await post(two, "orders", {"user_id": "asha", "item_id": "pen", "quantity": 1}))["order_id"]
    client, home = two.workers[0].client, partition_for(uid.encode(), PARTITIONS)
    for moment, status, said in (
        ("2020-01-01T00:00:00Z", 404, "not_there"),
        ("99", 404, "not_there"),
        (f"payments.events.v1-{home}-999", 404, "not_in_the_log"),
        (f"payments.events.v1-{(home + 1) % PARTITIONS}-0", 400, "lives on partition"),
        (f"payments.commands.v1-{home}-0", 400, "names topic"),
    ):
        response = await client.get(f"/api/v1/payments/{uid}", params={"as_of": moment})
        assert response.status == status and said in await response.text(), moment
    assert (await client.get("/api/v1/payments/nobody", params={"as_of": "1"})).status == 404


async def test_a_payment_among_very_many_is_not_looked_for(two: Platform) -> None:
    await item_moments(two)
    await account_moments(two)
    uid = (await post(two, "orders", {"user_id": "asha", "item_id": "pen", "quantity": 1}))["order_id"]
    records = two.driver.log.topics[TopicPartition("payments.events.v1", partition_for(uid.encode(), PARTITIONS))]
    mine = [record for record in records if record.key == uid.encode()]
    other = records[0]._replace(key=b"other", timestamp=mine[-1].timestamp)
    records[:] = [
        record._replace(offset=offset) for offset, record in enumerate([mine[0], *[other] * 100_000, *mine[1:]])
    ]
    response = await two.workers[0].client.get(f"/api/v1/payments/{uid}", params={"as_of": now(two)})
    assert response.status == 400 and "would take more than 100000 records" in await response.text()
