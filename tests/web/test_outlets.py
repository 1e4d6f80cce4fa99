"""Outlets over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pytest import mark

from schemas.accounts import account_id_of
from tests.web.platform import Client, Platform, platform, problem

HOME = "/api/v1/outlets/o1"
BY_HAND = {"approval": {"mode": "by_hand"}}


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    """A shop with a hundred pens, and asha with money."""
    async with platform(2) as running:
        client = running.workers[0].client
        about = {"outlet_id": "o1", "name": "Pen", "price_minor": 10, "currency": "INR"}
        await client.post("/api/v1/items", json={"item_id": "pen", **about})
        await client.post("/api/v1/items/pen/stock", json={"delta": 100, "reason": "receive"})
        await client.post("/api/v1/accounts", json={"user_id": "asha", "currency": "INR"})
        account = account_id_of("asha", "INR")
        await client.post(f"/api/v1/accounts/{account}/deposits", json={"amount_minor": 10_000})
        yield running


async def buy(client: Client) -> dict[str, Any]:
    response = await client.post("/api/v1/orders", json={"user_id": "asha", "item_id": "pen", "quantity": 1})
    assert response.status == 201, await response.text()
    return dict(await response.json())


async def told(client: Client, path: str) -> dict[str, Any]:
    response = await client.get(path)
    assert response.status == 200, await response.text()
    return dict(await response.json())


async def test_an_outlet_says_how_it_takes_orders(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    nothing = {"outlet_id": "o1", "approval": None, "number_prefix": None, "version": 0, "updated_at": None}
    assert await told(a, HOME) == {**nothing, "series": []}
    said = {"approval": {"mode": "automatic", "after_ms": 5_000}, "number_prefix": "INV"}
    first = await a.put(HOME, json=said)
    shown = await first.json()
    assert (first.status, shown["version"]) == (200, 1) and said.items() <= shown.items()
    assert first.headers["Orderstream-Position"] == shown["position"]
    assert {**await told(b, f"{HOME}?min_offset={shown['position']}"), "position": shown["position"]} == shown
    same = await (await b.put(HOME, json=said)).json()
    assert same["version"] == 1
    taken_back = await (await b.put(HOME, json={"number_prefix": "INV"})).json()
    assert (taken_back["approval"], taken_back["number_prefix"], taken_back["version"]) == (None, "INV", 2)
    for key in ("k", "k"):
        again = await a.put(HOME, json=BY_HAND, headers={"Idempotency-Key": key})
        assert (again.status, (await again.json())["version"]) == (200, 3)
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_approved_order_has_a_number_everywhere(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    await a.put(HOME, json={"number_prefix": "INV"})
    orders = [await buy(client) for client in (a, b, a)]
    async with two.turn:
        await two.driver.run()
    found = [(await told(b, f"/api/v1/orders/{order['order_id']}"))["order_number"] for order in orders]
    assert found == [f"INV/2023/00000{n}" for n in (1, 2, 3)]
    listed = (await told(a, "/api/v1/orders?user_id=asha"))["orders"]
    assert sorted(order["order_number"] for order in listed) == found
    timeline = (await told(a, f"/api/v1/orders/{orders[0]['order_id']}/timeline"))["entries"]
    assert [entry["reason"] for entry in timeline if entry["type"] == "order_numbered"] == found[:1]
    series = {"prefix": "INV", "year": 2023, "last": 3, "last_number": "INV/2023/000003"}
    assert (await told(b, HOME))["series"] == [series]


async def test_the_queue_for_approval_page_by_page(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    await a.put(HOME, json=BY_HAND)
    waiting: list[str] = []
    for number in range(11):
        order = await buy((a, b)[number % 2])
        assert (order["status"], order["order_number"]) == ("paid", None)
        waiting.append(order["order_id"])
        if number % 4:
            two.driver.clock.advance(500)

    async def queue(order: str, limit: int) -> list[str]:
        found, cursor = [], ""
        while True:
            page = await told(b, f"{HOME}/approvals?order={order}&limit={limit}&cursor={cursor}")
            assert page["outlet_id"] == "o1" and len(page["orders"]) <= limit
            found += [each["order_id"] for each in page["orders"]]
            if (cursor := page["next_cursor"]) is None:
                return found

    assert await queue("oldest", 50) == waiting and await queue("oldest", 1) == waiting
    assert await queue("newest", 4) == waiting[::-1]
    assert (await a.post(f"/api/v1/orders/{waiting[3]}/approve")).status == 200
    assert (await b.post(f"/api/v1/orders/{waiting[0]}/reject", json={"reason": "closed"})).status == 200
    left = [order for order in waiting if order not in (waiting[0], waiting[3])]
    assert await queue("oldest", 2) == left and await queue("newest", 50) == left[::-1]
    cursor = (await told(a, f"{HOME}/approvals?limit=2"))["next_cursor"]
    fullest = max(range(4), key=lambda partition: sum(two.home(order) == partition for order in left))
    for uid in left:
        if two.home(uid) != fullest:
            assert (await a.post(f"/api/v1/orders/{uid}/approve")).status == 200
    alone = [order for order in left if two.home(order) == fullest]
    assert await queue("oldest", 1) == alone and len(alone) > 2, "a partition alone has more than a page"
    await problem(await a.get(f"{HOME}/approvals?order=newest&cursor={cursor}"), 400, "bad-parameter")
    await problem(await a.get(f"{HOME}/approvals?order=best"), 400, "bad-parameter")
    two.give(1, None)
    await problem(await a.get(f"{HOME}/approvals"), 503, "unavailable")


@mark.parametrize(
    ("body", "path"),
    [
        ({"approval": {"mode": "perhaps"}}, "$.approval.mode"),
        ({"approval": {"mode": "automatic", "after_ms": -1}}, "$.approval.after_ms"),
        ({"number_prefix": "INV/2026"}, "$.number_prefix"),
        ({"prefix": "INV"}, "$.prefix"),
    ],
)
async def test_what_no_outlet_can_say(two: Platform, body: dict[str, Any], path: str) -> None:
    said = await problem(await two.workers[0].client.put(HOME, json=body), 422, "invalid-document")
    assert [fault["path"] for fault in said["faults"]] == [path]


async def test_no_such_outlet_can_be(two: Platform) -> None:
    client = two.workers[0].client
    for response in (await client.get("/api/v1/outlets/-x"), await client.put("/api/v1/outlets/-x", json={})):
        await problem(response, 400, "bad-parameter")
