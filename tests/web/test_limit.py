"""Carts under a limit over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse

from schemas.accounts import account_id_of
from tests.oracle.bought import order_of
from tests.oracle.log import derived
from tests.web.platform import Client, Platform, platform, problem

WINDOW_MS = 60_000
SAMPLE = Path(__file__).parents[1] / "data" / "order.json"


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    """At most two orders in a minute; a shop with a hundred pens, and asha with money."""
    async with platform(2, orders_per_customer=2, orders_window_ms=WINDOW_MS, outcome_wait_ms=1_000) as running:
        client = running.workers[0].client
        about = {"outlet_id": "o1", "name": "Pen", "price_minor": 10, "currency": "INR"}
        await client.post("/api/v1/items", json={"item_id": "pen", **about})
        await client.post("/api/v1/items/pen/stock", json={"delta": 100, "reason": "receive"})
        await client.post("/api/v1/accounts", json={"user_id": "asha", "currency": "INR"})
        account = account_id_of("asha", "INR")
        await client.post(f"/api/v1/accounts/{account}/deposits", json={"amount_minor": 1_000})
        yield running


async def buy(client: Client, key: str | None = None, header: str | None = None, **more: Any) -> ClientResponse:
    cart = {"user_id": "asha", "item_id": "pen", "quantity": 1, **more}
    named = {"idempotency_key": key} if key else {}
    return await client.post("/api/v1/orders", json=cart | named, headers={"Idempotency-Key": header} if header else {})


def carts(running: Platform) -> int:
    return len([r for r in running.driver.read("purchases.events.v1") if b'"cart_placed"' in (r.value or b"")])


async def test_one_too_many_is_told_when_the_next_may_come(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    first = await buy(a)
    told = await first.json()
    assert (first.status, told["status"], told["user_id"]) == (201, "approved", "asha"), told
    assert first.headers["Location"] == f"/api/v1/orders/{told['order_id']}"
    shown = await b.get(f"{first.headers['Location']}?min_offset={told['position']}")
    assert shown.status == 200, "the position that a write answers with can be waited for"
    assert (await buy(b)).status == 201
    refused = await buy(a)
    said = await problem(refused, 429, "too-many-orders")
    assert said["reason"] == "too_many_orders" and said["next_at"].endswith("Z")
    wait_s = int(refused.headers["Retry-After"])
    assert 55 <= wait_s <= 60 and carts(two) == 2
    other = await buy(a, user_id="ravi")
    assert (other.status, (await other.json())["status"]) == (201, "rejected"), "each customer has a window of its own"
    two.driver.clock.advance(wait_s * 1_000)
    assert (await buy(b)).status == 201 and carts(two) == 4


async def test_a_keyed_cart_is_one_order_and_counts_once(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    first = await (await buy(a, "cart-1")).json()
    again = await buy(b, "cart-1")
    assert (again.status, (await again.json())["order_id"]) == (201, first["order_id"])
    assert (await buy(a, "cart-2")).status == 201
    refused = await buy(a, "cart-3")
    await problem(refused, 429, "too-many-orders")
    again = await buy(b, "cart-1")
    assert (again.status, (await again.json())["order_id"]) == (201, first["order_id"]), "an order is answered for ever"
    await problem(await buy(a, "cart-1", quantity=2), 422, "idempotency-key-reused")
    two.driver.clock.advance(WINDOW_MS)
    assert (await buy(b, "cart-3")).status == 201, "a refused cart may come again under its key"
    again = await buy(b, "cart-2")
    assert again.status == 201
    assert (await buy(b, "cart-4")).status == 201, "and what was ordered before did not count again"
    assert carts(two) == 4


async def test_a_refused_request_frees_its_idempotency_key(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    first = await buy(a, header="one")
    kept = await buy(b, header="one")
    assert kept.headers["Idempotency-Replayed"] == "true" and await kept.read() == await first.read()
    assert (await buy(a)).status == 201
    await problem(await buy(b, header="two"), 429, "too-many-orders")
    await problem(await buy(a, header="two"), 429, "too-many-orders")
    two.driver.clock.advance(WINDOW_MS)
    assert (await buy(b, header="two")).status == 201


async def test_as_many_at_once_as_may_be(two: Platform) -> None:
    clients = [worker.client for worker in two.workers]
    answers = await asyncio.gather(*(buy(clients[n % 2]) for n in range(12)))
    assert sorted(answer.status for answer in answers) == [201] * 2 + [429] * 10
    assert carts(two) == 2


async def test_while_nothing_moves_the_order_is_named_and_comes(two: Platform) -> None:
    await two.hold()
    answer = await buy(two.workers[0].client, "late")
    two.flow()
    told = await answer.json()
    assert (answer.status, answer.headers["Retry-After"]) == (202, "1")
    assert told["outcome"] == f"/api/v1/orders/{told['order_id']}" == answer.headers["Location"]
    again = await buy(two.workers[1].client, "late")
    assert (again.status, (await again.json())["order_id"]) == (201, told["order_id"])
    assert carts(two) == 1


async def test_what_cannot_be_judged_is_a_dead_letter(two: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("agents.customers.decide", broken)
    said = await problem(await buy(two.workers[0].client), 500, "dead-lettered")
    assert said["dead_letter"].startswith("customers.commands.v1-")


async def test_a_cart_of_many_lines_answers_with_its_own_position(two: Platform) -> None:
    items = [{"item_id": "pen", "quantity": 1} for _ in range(90)]
    cart = {"user_id": "asha", "items": items}
    answer = await two.workers[0].client.post("/api/v1/orders", data=orjson.dumps(cart))
    told = await answer.json()
    assert answer.status == 201 and told["position"].startswith("purchases.commands.v1-")


@pytest.mark.parametrize("limited", [True, False])
async def test_orders_of_two_kinds_never_share_a_number(limited: bool) -> None:
    document = orjson.loads(SAMPLE.read_bytes())
    limit: dict[str, Any] = {"orders_per_customer": 9, "orders_window_ms": WINDOW_MS} if limited else {}
    async with platform(1, **limit) as running:
        client = running.workers[0].client
        bought = (await (await buy(client, "cart-1")).json())["order_id"]
        refused = await client.post("/api/v1/orders", json={**document, "order_uid": bought})
        said = await problem(refused, 409, "order-refused")
        assert said["reason"] == "order_uid_taken" and "was bought here" in said["detail"]
        assert "user_id" in await (await client.get(f"/api/v1/orders/{bought}")).json(), "it stands where it stood"
        number = order_of(derived("cart\0asha\0cart-2"))
        assert (await client.post("/api/v1/orders", json={**document, "order_uid": number})).status == 201
        said = await problem(await buy(client, "cart-2"), 409, "order-refused")
        assert said["reason"] == "order_uid_taken" and "another `idempotency_key`" in said["detail"]
        assert "user_id" not in await (await client.get(f"/api/v1/orders/{number}")).json()
