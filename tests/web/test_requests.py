"""Idempotency-Key: once, whoever asks, through any worker, whatever dies in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pytest import mark, param

from tests.web.platform import Client, Platform, platform, problem, raw
from web import requests as room


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def post(client: Client, key: str, body: bytes, path: str = "/api/v1/orders") -> Any:
    return await client.post(path, data=body, headers={"Idempotency-Key": key})


KEPT = ("Location", "ETag", "Orderstream-Position", "Content-Type")


async def test_the_same_request_gets_the_same_answer_from_any_worker(two: Platform) -> None:
    body = raw("once")
    first = await post(two.workers[0].client, "k-1", body)
    again = [await post(worker.client, "k-1", body) for worker in (*two.workers, *two.workers)]
    assert first.status == 201 and "Idempotency-Replayed" not in first.headers
    for answer in again:
        assert answer.status == 201
        assert await answer.read() == await first.read()
        assert {name: answer.headers[name] for name in KEPT} == {name: first.headers[name] for name in KEPT}
        assert answer.headers["Idempotency-Replayed"] == "true"
        assert answer.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert len(two.driver.read("orders.commands.v1")) == 1


async def test_a_replay_is_the_first_answer_even_when_the_order_has_moved_on(two: Platform) -> None:
    body = raw("moved")
    first = await post(two.workers[0].client, "k-2", body)
    await two.workers[0].client.post("/api/v1/orders/moved/cancel", json={"reason": "x"})
    again = await post(two.workers[1].client, "k-2", body)
    assert await again.json() == await first.json()
    assert again.headers["ETag"] == '"1"'


async def test_a_refusal_is_an_answer_and_is_kept(two: Platform) -> None:
    await two.place(raw("taken"))
    other = raw("taken", customer_id="other")
    told = [await problem(await post(w.client, "k-3", other), 409, "order-refused") for w in two.workers[:1]]
    again = await post(two.workers[1].client, "k-3", other)
    assert again.status == 409 and again.headers["Idempotency-Replayed"] == "true"
    assert await again.json() == told[0]
    assert again.content_type == "application/problem+json"
    assert len(two.driver.read("orders.commands.v1")) == 1


@mark.parametrize(
    ("path", "body"),
    [
        param("/api/v1/orders", raw("k4b"), id="another body"),
        param("/api/v1/orders/k4/cancel", raw("k4"), id="another address"),
    ],
)
async def test_the_same_key_with_another_request_is_422(two: Platform, path: str, body: bytes) -> None:
    await post(two.workers[0].client, "k-4", raw("k4"))
    if path.endswith("cancel"):
        body = b'{"reason": "x"}'
    await problem(await post(two.workers[1].client, "k-4", body, path), 422, "idempotency-key-reused")


async def test_a_request_in_flight_is_409(two: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    body, gate, entered = raw("flying"), asyncio.Event(), asyncio.Event()
    send = two.topics["orders.commands.v1"].send

    async def slow(**record: Any) -> Any:
        entered.set()
        await gate.wait()
        return await send(**record)

    monkeypatch.setattr(two.topics["orders.commands.v1"], "send", slow)
    first = asyncio.create_task(post(two.workers[0].client, "k-5", body))
    await entered.wait()
    response = await post(two.workers[1].client, "k-5", body)
    await problem(response, 409, "request-in-flight")
    assert response.headers["Retry-After"]
    gate.set()
    assert (await first).status == 201
    assert (await post(two.workers[1].client, "k-5", body)).status == 201


async def test_many_at_once_do_it_once(two: Platform) -> None:
    body = raw("crowd")
    answers = await asyncio.gather(*(post(two.workers[n % 2].client, "k-6", body) for n in range(12)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses[0] == 201 and set(statuses) <= {201, 409}
    assert len(two.driver.read("orders.commands.v1")) == 1
    bodies = {await answer.read() for answer in answers if answer.status == 201}
    assert len(bodies) == 1


async def test_invalid_documents_do_not_use_the_key_up(two: Platform) -> None:
    client = two.workers[0].client
    await problem(await post(client, "k-7", raw("valid", payment__amount=1)), 422, "invalid-document")
    assert (await post(client, "k-7", raw("valid"))).status == 201


async def crash(two: Platform, key: str, body: bytes, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies after its command is in the log and before the answer is kept."""

    async def die(*_: Any) -> None:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(room.Requests, "_complete", die)
        assert (await post(two.workers[0].client, key, body, path)).status == 500


def lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let more time pass for claims than their lease has."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 200_000_000_000)


async def test_a_crash_before_the_answer_is_kept_doubles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with platform(2, limits={"claim_lease_s": 100.0}) as two:
        uid = await two.place(raw())
        path, body = f"/api/v1/orders/{uid}/cancel", b'{"reason": "ordered twice"}'
        await crash(two, "k-8", body, path, monkeypatch)
        # The claim stands until its lease is over: another attempt could be the first one still at work.
        await problem(await post(two.workers[1].client, "k-8", body, path), 409, "request-in-flight")
        lapse(monkeypatch)
        answer = await post(two.workers[1].client, "k-8", body, path)
        told = await answer.json()
        # Not 409 already_cancelled: the second attempt is the same command, and the first one's success is its own.
        assert (answer.status, told["status"], told["version"]) == (200, "cancelled", 2)
        kinds = [entry["type"] for entry in await entries(two, uid)]
        assert kinds == ["order_placed", "order_cancelled"]
        again = await post(two.workers[0].client, "k-8", body, path)
        assert await again.json() == told


async def test_a_test_order_that_is_repeated_after_a_crash_is_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async with platform(2, limits={"claim_lease_s": 100.0}) as two:
        await crash(two, "k-9", b"", "/api/orders/test", monkeypatch)
        lapse(monkeypatch)
        assert (await post(two.workers[1].client, "k-9", b"", "/api/orders/test")).status == 201
        assert len(two.driver.rows("orders")) == 1


async def entries(two: Platform, uid: str) -> list[dict[str, Any]]:
    told = await (await two.workers[0].client.get(f"/api/v1/orders/{uid}/timeline")).json()
    found: list[dict[str, Any]] = told["entries"]
    return found


async def test_an_outcome_that_is_not_known_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with platform(2, outcome_wait_ms=300, limits={"claim_lease_s": 100.0}) as two:
        body = raw("unknown")
        client = two.workers[0].client
        two.unreadable.add(("orders", two.home("unknown")))
        first = await post(client, "k-10", body)
        assert first.status == 202
        two.unreadable.clear()
        lapse(monkeypatch)
        again = await post(client, "k-10", body)
        assert again.status == 201 and "Idempotency-Replayed" not in again.headers


async def test_a_key_whose_owner_recovers_is_503(two: Platform) -> None:
    async with platform(2, outcome_wait_ms=200) as slow:
        slow.unreadable.add(("requests", slow.home("k-11")))
        response = await post(slow.workers[0].client, "k-11", raw())
        await problem(response, 503, "unavailable")
        assert not slow.driver.read("orders.commands.v1")


async def test_a_key_is_forgotten_after_a_day(two: Platform) -> None:
    body = raw("day")
    await post(two.workers[0].client, "k-12", body)
    async with two.turn:
        # The deadline stands a day after the claim, by the claimant's own clock.
        two.driver.clock._now_ms = max(row.claimed_at_ms for row in two.driver.rows("requests").values())
        await two.driver.advance(24 * 60 * 60 * 1000 + 1)
        await two.driver.run()
    assert two.driver.rows("requests") == {}
    again = await post(two.workers[1].client, "k-12", body)
    assert again.status == 201 and "Idempotency-Replayed" not in again.headers


@mark.parametrize("key", ["", "x" * 256, "ä", "a\tb"])
async def test_bad_keys(two: Platform, key: str) -> None:
    told = await problem(await post(two.workers[0].client, key, raw()), 400, "bad-parameter")
    assert told["parameter"] == "Idempotency-Key"


async def test_claims_are_counted_by_what_they_met(two: Platform) -> None:
    client = two.workers[0].client
    await post(client, "k-13", raw("counted"))
    await post(client, "k-13", raw("counted"))
    await post(client, "k-13", raw("counted-b"))
    metrics = await (await client.get("/metrics")).text()
    for outcome in ("claimed", "replayed", "mismatch"):
        assert f'http_idempotency_claims_total{{outcome="{outcome}"}} 1.0' in metrics


LONG = "k" * 255

# -- forms of a key ----------------------------------------------------------------------------------------------------


@mark.parametrize(
    ("one", "other"),
    [
        ('"abc"', "abc"),
        ("abc", ' "abc" '),
        (r'"a\"b\\c"', 'a"b\\c'),
        ('"a b"', "a b"),
        ('"' + "k" * 255 + '"', "k" * 255),
    ],
)
async def test_both_forms_of_a_key_are_one_key(two: Platform, one: str, other: str) -> None:
    first, again = [await post(two.workers[0].client, key, raw("forms")) for key in (one, other)]
    assert (first.status, again.status) == (201, 201)
    assert "Idempotency-Replayed" not in first.headers and again.headers["Idempotency-Replayed"] == "true"
    await problem(await post(two.workers[1].client, other, raw("forms-2")), 422, "idempotency-key-reused")


@mark.parametrize(
    "key", ['"', '""', '"abc', 'abc"def"x"' * 40, '"a"b"', '"abc";a=1', '"a\\x"', '"' + "k" * 256 + '"', '" "', ""]
)
async def test_what_is_no_key_in_either_form_is_refused(two: Platform, key: str) -> None:
    told = await problem(await post(two.workers[0].client, key, raw("no-key")), 400, "bad-parameter")
    assert told["parameter"] == "Idempotency-Key"


async def test_two_keys_are_refused_and_nothing_is_done(two: Platform) -> None:
    before = len(two.driver.read("orders.commands.v1"))
    for second in ("k-b", "k-a", '"k-a"'):
        headers = [("Idempotency-Key", "k-a"), ("Idempotency-Key", second)]
        answer = await two.workers[0].client.post("/api/v1/orders", data=raw("two"), headers=headers)
        assert (await problem(answer, 400, "bad-parameter"))["parameter"] == "Idempotency-Key"
    assert len(two.driver.read("orders.commands.v1")) == before


CART: dict[str, Any] = {"user_id": "u", "items": [{"item_id": "pen", "quantity": 1}], "idempotency_key": "cart-1"}


@mark.parametrize(
    "other",
    [
        {"split": True},
        {"items": [{"item_id": "pen", "quantity": 2}]},
        {"items": [{"item_id": "ink", "quantity": 1}]},
        {"items": [{"item_id": "pen", "quantity": 1}, {"item_id": "ink", "quantity": 1}]},
        {"payment": {"method": "cash_on_delivery"}},
        {"payment": {"method": "account", "instrument": "x"}},
        {"address": {"city": "x"}},
    ],
    ids=lambda other: "-".join(other),
)
async def test_a_cart_with_any_other_field_is_another_request(two: Platform, other: dict[str, Any]) -> None:
    client = two.workers[0].client
    first = await client.post("/api/v1/orders", json=CART)
    assert first.status == 201 and (await first.json())["split"] is False
    assert (await client.post("/api/v1/orders", json={**CART, "split": False})).status == 201
    await problem(await client.post("/api/v1/orders", json={**CART, **other}), 422, "idempotency-key-reused")
