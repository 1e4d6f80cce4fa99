"""Accounts over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse

from schemas.accounts import account_id_of
from tests.web.platform import Client, Platform, platform, problem

HOME = "/api/v1/accounts"


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def opened(client: Client, user_id: str = "user", currency: str = "INR") -> str:
    response = await client.post(HOME, json={"user_id": user_id, "currency": currency})
    assert response.status in (200, 201)
    return str((await response.json())["account_id"])


async def move(
    client: Client, account: str, kind: str, amount: Any, key: str | None = None, **more: Any
) -> ClientResponse:
    body = {"amount_minor": amount, **more} | ({"idempotency_key": key} if key else {})
    return await client.post(f"{HOME}/{account}/{kind}", json=body)


async def shown(client: Client, account: str) -> dict[str, Any]:
    response = await client.get(f"{HOME}/{account}")
    assert response.status == 200
    assert response.headers["ETag"] == f'"{(await response.json())["version"]}"'
    return dict(await response.json())


async def test_the_life_of_an_account(two: Platform) -> None:
    """The scenario of the issue, each step through the other worker."""
    a, b = (worker.client for worker in two.workers)
    first = await a.post(HOME, json={"user_id": "user", "currency": "INR"})
    told = await first.json()
    assert first.status == 201
    assert told["account_id"] == account_id_of("user", "INR")
    assert (told["user_id"], told["currency"], told["balance_minor"], told["version"]) == ("user", "INR", 0, 1)
    assert first.headers["Location"] == f"{HOME}/{told['account_id']}"
    account = told["account_id"]

    again = await b.post(HOME, json={"user_id": "user", "currency": "INR"})
    assert (again.status, (await again.json())["account_id"]) == (200, account)

    said = await problem(await move(a, account, "deposits", -500), 422, "amount-refused")
    assert (said["reason"], said["balance_minor"]) == ("not_positive_amount", 0)
    assert (await shown(b, account))["balance_minor"] == 0

    deposit = await move(b, account, "deposits", 5_000)
    told = await deposit.json()
    assert (deposit.status, told["balance_minor"], told["version"]) == (201, 5_000, 2)
    assert deposit.headers["ETag"] == '"2"' and deposit.headers["Orderstream-Position"] == told["position"]

    said = await problem(await move(a, account, "withdrawals", 5_001), 409, "account-refused")
    assert (said["reason"], said["balance_minor"]) == ("insufficient_funds", 5_000)
    withdrawn = await move(b, account, "withdrawals", 1_500)
    assert (withdrawn.status, (await withdrawn.json())["balance_minor"]) == (201, 3_500)
    standing = await shown(a, account)
    assert (standing["balance_minor"], standing["available_minor"], standing["version"]) == (3_500, 3_500, 3)
