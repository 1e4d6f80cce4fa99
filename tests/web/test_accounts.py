"""Accounts over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse
from pytest import mark, param

from schemas.accounts import MAX_AMOUNT_MINOR, HoldFunds, account_id_of
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


async def test_the_same_key_gets_the_first_answer_for_ever(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    account = await opened(a)
    first = await move(a, account, "deposits", 100, "rent")
    await move(a, account, "withdrawals", 30, "w")
    two.driver.clock.advance(400 * 24 * 3600 * 1000)
    again = await move(b, account, "deposits", 100, "rent")
    assert (again.status, await again.read()) == (201, await first.read())
    for name in ("ETag", "Orderstream-Position", "Location"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert (await shown(b, account))["balance_minor"] == 70
    refused = [await move(client, account, "withdrawals", 500, "too much") for client in (a, b)]
    told = [await problem(response, 409, "account-refused") for response in refused]
    assert told[0]["position"] == told[1]["position"]


@mark.parametrize(
    ("kind", "amount", "more"),
    [
        param("deposits", 101, {}, id="another amount"),
        param("withdrawals", 100, {}, id="another movement"),
        param("deposits", 100, {"currency": "INR"}, id="another body"),
    ],
)
async def test_the_same_key_with_another_content_is_422(
    two: Platform, kind: str, amount: int, more: dict[str, Any]
) -> None:
    a, b = (worker.client for worker in two.workers)
    account = await opened(a)
    await move(a, account, "deposits", 100, "k")
    await problem(await move(b, account, kind, amount, "k", **more), 422, "idempotency-key-reused")
    assert (await shown(b, account))["balance_minor"] == 100
    other = await opened(a, "other")
    assert (await move(b, other, "deposits", 7, "k")).status == 201, "a key belongs to its account"


async def test_the_header_is_a_key_too(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    account = await opened(a)
    path, header = f"{HOME}/{account}/deposits", {"Idempotency-Key": "h"}
    first = await a.post(path, json={"amount_minor": 5}, headers=header)
    again = await b.post(path, json={"amount_minor": 5}, headers=header)
    assert (first.status, again.status) == (201, 201)
    assert await first.read() == await again.read() and again.headers["Idempotency-Replayed"] == "true"
    await problem(await b.post(path, json={"amount_minor": 6}, headers=header), 422, "idempotency-key-reused")
    assert (await shown(b, account))["balance_minor"] == 5


async def test_opening_with_a_key_answers_as_the_first_time(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    body = {"user_id": "user", "currency": "INR", "idempotency_key": "open"}
    first = await a.post(HOME, json=body)
    await move(a, (await first.json())["account_id"], "deposits", 5)
    again = await b.post(HOME, json=body)
    assert (again.status, await again.read()) == (201, await first.read())


async def test_many_at_once_never_overdraw(two: Platform) -> None:
    account = await opened(two.workers[0].client)
    await move(two.workers[0].client, account, "deposits", 100)
    tries = (move(two.workers[n % 2].client, account, "withdrawals", 30) for n in range(12))
    statuses = [response.status for response in await asyncio.gather(*tries)]
    assert sorted(statuses) == [201] * 3 + [409] * 9
    assert (await shown(two.workers[1].client, account))["balance_minor"] == 10


async def test_many_at_once_with_one_key_do_it_once(two: Platform) -> None:
    account = await opened(two.workers[0].client)
    tries = (move(two.workers[n % 2].client, account, "deposits", 30, "k") for n in range(12))
    bodies = {await response.read() for response in await asyncio.gather(*tries)}
    assert len(bodies) == 1
    assert (await shown(two.workers[1].client, account))["balance_minor"] == 30


@mark.parametrize(
    ("amount", "more", "status", "slug", "reason"),
    [
        param(0, {}, 422, "amount-refused", "not_positive_amount", id="zero"),
        param(-1, {}, 422, "amount-refused", "not_positive_amount", id="less than zero"),
        param(MAX_AMOUNT_MINOR + 1, {}, 422, "amount-refused", "amount_above_limit", id="too much for any"),
        param(1, {"currency": "EUR"}, 422, "amount-refused", "currency_mismatch", id="another currency"),
        param(1.5, {}, 422, "invalid-document", None, id="no whole number"),
        param("1", {}, 422, "invalid-document", None, id="text"),
        param(2**63, {}, 422, "invalid-document", None, id="a number larger than any amount"),
        param(1, {"currency": "XXX"}, 422, "invalid-document", None, id="no currency"),
        param(1, {"surplus": 1}, 422, "invalid-document", None, id="a member that nobody knows"),
        param(1, {"idempotency_key": ""}, 422, "invalid-document", None, id="an empty key"),
    ],
)
async def test_refused_amounts_change_nothing(
    two: Platform, amount: Any, more: dict[str, Any], status: int, slug: str, reason: str | None
) -> None:
    client = two.workers[1].client
    account = await opened(client)
    await move(client, account, "deposits", 10)
    told = await problem(await move(client, account, "deposits", amount, **more), status, slug)
    assert told.get("reason") == reason
    assert (await shown(client, account))["version"] == 2


async def test_an_account_that_is_not_there(two: Platform) -> None:
    client = two.workers[0].client
    nobody = account_id_of("nobody", "INR")
    for path in (nobody, f"{nobody}/entries", "x", "clearing:external:INR:0"):
        await problem(await client.get(f"{HOME}/{path}"), 404, "no-such-account")
    told = await problem(await move(client, nobody, "deposits", 5), 404, "no-such-account")
    assert told["reason"] == "no_such_account"
    await problem(await move(client, "clearing:external:INR:0", "deposits", 5), 404, "no-such-account")


async def test_accounts_of_a_user_on_all_partitions(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    currencies = ["EUR", "GBP", "INR", "JPY", "KWD", "USD"]
    ids = [await opened(a, "user", currency) for currency in currencies]
    await opened(a, "use", "INR")
    assert len({two.home(id) for id in ids}) > 2
    for client in (a, b):
        told = await (await client.get(f"{HOME}?user_id=user")).json()
        assert [(row["currency"], row["account_id"]) for row in told["accounts"]] == list(
            zip(currencies, ids, strict=True)
        )
    assert (await (await a.get(f"{HOME}?user_id=nobody")).json()) == {"accounts": []}
    await problem(await a.get(HOME), 400, "bad-parameter")
    await problem(await a.get(f"{HOME}?user_id=a%00"), 400, "bad-parameter")
    two.unreadable.add(("accounts", 3))
    await problem(await b.get(f"{HOME}?user_id=user"), 503, "unavailable")


async def test_the_statement_in_pages(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    account = await opened(a)
    for amount in (100, 20, 3):
        await move(a, account, "deposits", amount)
    await move(a, account, "withdrawals", 23)
    entries: list[dict[str, Any]] = []
    cursor, pages = "", 0
    while True:
        page = await (await b.get(f"{HOME}/{account}/entries?limit=3&cursor={cursor}")).json()
        entries += page["entries"]
        pages += 1
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert pages == 2 and (page["account_id"], page["currency"]) == (account, "INR")
    assert [(row["amount_minor"], row["balance_minor"], row["version"]) for row in entries] == [
        (100, 100, 2), (20, 120, 3), (3, 123, 4), (-23, 100, 5)
    ]  # fmt: skip
    assert {row["other_account_id"] for row in entries} == {f"clearing:external:INR:{two.home(account)}"}
    await problem(await a.get(f"{HOME}/{await opened(a, 'x')}/entries?cursor={cursor}"), 400, "bad-parameter")


async def test_what_is_held_is_not_available(two: Platform) -> None:
    client = two.workers[0].client
    account = await opened(client)
    await move(client, account, "deposits", 100)
    hold = HoldFunds(command_id="h", account_id=account, hold_id="h", amount_minor=60)
    at = await two.topics["accounts.commands.v1"].send(key=account, value=hold)
    told = await (await client.get(f"{HOME}/{account}?min_offset={at}")).json()
    assert (told["balance_minor"], told["held_minor"], told["available_minor"]) == (100, 60, 40)
    assert (await move(client, account, "withdrawals", 41)).status == 409
    response = await client.get(f"{HOME}/{account}", headers={"If-None-Match": '"3"'})
    assert response.status == 304


async def test_the_trial_balance(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    for number in range(6):
        account = await opened(a, f"u{number}")
        await move(a, account, "deposits", 10 + number)
    await opened(a, "u", "EUR")
    blank = {"held_minor": 0, "difference_minor": 0}
    assert (await (await b.get("/api/v1/ledger/trial-balance")).json())["currencies"] == [
        {"currency": "EUR", "accounts": 1, "accounts_minor": 0, "clearing_minor": 0, **blank},
        {"currency": "INR", "accounts": 6, "accounts_minor": 75, "clearing_minor": -75, **blank},
    ]


async def test_an_outcome_that_is_not_known_in_time_is_202() -> None:
    async with platform(1, limits={"outcome_wait_s": 0.1}) as one:
        client = one.workers[0].client
        account = await opened(client)
        await one.hold()
        response = await move(client, account, "deposits", 5, "k")
        told = orjson.loads(await response.read())
        assert (response.status, response.headers["Retry-After"]) == (202, "1")
        one.flow()
        assert (await (await client.get(told["outcome"])).json())["balance_minor"] == 5
        assert (await move(client, account, "deposits", 5, "k")).status == 201
        assert (await shown(client, account))["balance_minor"] == 5
