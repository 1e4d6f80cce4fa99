"""If-Match: a write for another version than the resource has is refused where the command is applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pytest import mark

from tests.web.platform import Client, platform, problem, raw

WEBHOOK = {"url": "https://shop.example/", "events": ["*"]}
ITEM = {"item_id": "pen", "outlet_id": "o", "name": "n", "price_minor": 1, "currency": "INR"}
CART = {"user_id": "u", "items": [{"item_id": "pen", "quantity": 1}], "payment": {"method": "cash_on_delivery"}}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with platform(1, webhook_keys="k" * 32, approve_after_ms=-1) as running:
        await running.place(raw("doc"))
        yield running.workers[0].client


async def made(client: Client) -> dict[str, str]:
    """Resources, by what they are."""
    item = await client.post("/api/v1/items", json=ITEM)
    assert item.status == 201
    assert (await client.post("/api/v1/items/pen/stock", json={"delta": 5, "reason": "r"})).status == 201
    account = await (await client.post("/api/v1/accounts", json={"user_id": "u", "currency": "INR"})).json()
    webhook = await (await client.post("/api/v1/webhooks", json=WEBHOOK)).json()
    order = await (await client.post("/api/v1/orders", json=CART)).json()
    return {
        "item": "/api/v1/items/pen",
        "account": f"/api/v1/accounts/{account['account_id']}",
        "webhook": f"/api/v1/webhooks/{webhook['subscription_id']}",
        "cart": f"/api/v1/orders/{order['order_uid']}",
        "document": "/api/v1/orders/doc",
    }


WRITES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("item", "PATCH", "", {"price_minor": 7}),
    ("item", "POST", "/stock", {"delta": 1, "reason": "r"}),
    ("account", "POST", "/deposits", {"amount_minor": 5}),
    ("account", "POST", "/withdrawals", {"amount_minor": 5}),
    ("webhook", "PATCH", "", {"paused": True}),
    ("webhook", "POST", "/rotate", {}),
    ("webhook", "DELETE", "", {}),
    ("cart", "POST", "/approve", {}),
    ("cart", "POST", "/cancel", {"reason": "r"}),
    ("document", "POST", "/cancel", {"reason": "r"}),
]


@mark.parametrize(("what", "method", "path", "said"), WRITES, ids=lambda each: str(each))
async def test_another_version_is_refused_and_nothing_changes(
    client: Client, what: str, method: str, path: str, said: dict[str, Any]
) -> None:
    at = (await made(client))[what]
    before = await (await client.get(at)).json()
    version = before["version"]
    for tag in (f'"{version + 1}"', '"99"', '"0"', '"x"', f'W/"{version}"', '"99999999999999999999"', '""'):
        answer = await client.request(method, at + path, json=said, headers={"If-Match": tag})
        told = await problem(answer, 412, "precondition-failed")
        assert told["version"] == version and answer.headers["ETag"] == f'"{version}"'
    for bad in ("3", '"1", "2"', "x", ""):
        answer = await client.request(method, at + path, json=said, headers={"If-Match": bad})
        await problem(answer, 400, "bad-parameter")
    assert await (await client.get(at)).json() == before
    if path != "/withdrawals":  # of money that is not there
        answer = await client.request(method, at + path, json=said, headers={"If-Match": f'"{version}"'})
        assert answer.status in (200, 201), await answer.text()


async def test_any_version_and_no_header_are_as_before(client: Client) -> None:
    at = (await made(client))["item"]
    for headers in ({}, {"If-Match": "*"}):
        assert (await client.patch(at, json={"price_minor": len(headers) + 2}, headers=headers)).status == 200
    answer = await client.patch("/api/v1/items/none", json={"price_minor": 2}, headers={"If-Match": '"1"'})
    await problem(answer, 404, "no-such-item")


async def test_of_two_who_have_read_the_same_version_one_writes(client: Client) -> None:
    at = (await made(client))["item"]
    tag = (await client.get(at)).headers["ETag"]
    writes = [client.patch(at, json={"price_minor": 10 + n}, headers={"If-Match": tag}) for n in range(8)]
    statuses = sorted([answer.status for answer in await asyncio.gather(*writes)])
    assert statuses == [200, *[412] * 7]


async def test_a_repetition_gets_the_first_answer_and_a_refused_key_is_free(client: Client) -> None:
    at = (await made(client))["item"]
    tag = (await client.get(at)).headers["ETag"]
    for key in ({"Idempotency-Key": "k"}, {}):
        body = {"price_minor": 50 + len(key), "idempotency_key": f"b{len(key)}"}
        tag = (await client.get(at)).headers["ETag"]
        first = await client.patch(at, json=body, headers={"If-Match": tag, **key})
        again = await client.patch(at, json=body, headers={"If-Match": tag, **key})
        assert (first.status, again.status) == (200, 200) and again.headers["Idempotency-Replayed"] == "true"
    headers = {"If-Match": '"99"', "Idempotency-Key": "free"}
    await problem(await client.patch(at, json={"price_minor": 3}, headers=headers), 412, "precondition-failed")
    tag = (await client.get(at)).headers["ETag"]
    assert (await client.patch(at, json={"price_minor": 3}, headers={**headers, "If-Match": tag})).status == 200
