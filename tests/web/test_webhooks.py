"""Webhooks over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse
from pydantic import SecretStr
from pytest import mark, param

from schemas import signatures
from schemas.base import derived_id
from schemas.topics import TOLD
from schemas.webhooks import MOST_SECRETS, RecordAttempt, RequestDelivery, delivery_id_of
from tests.web.platform import Client, Platform, platform, problem

HOME = "/api/v1/webhooks"
KEY = "k" * 32
NEW: dict[str, Any] = {"url": "https://example.com/hook", "events": ["orders.*", "purchases.order_paid"]}
NOBODY = derived_id("nobody")


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2, webhook_keys=SecretStr(KEY)) as running:
        yield running


async def created(client: Client, **more: Any) -> dict[str, Any]:
    response = await client.post(HOME, json={**NEW, **more})
    assert response.status == 201, await response.text()
    return dict(await response.json())


async def delivered(running: Platform, id: str, number: int, status: int | None) -> str:
    """A delivery as the effects would have it made; gives its id."""
    delivery_id = delivery_id_of(id, f"e{number}")
    about: dict[str, Any] = {"subscription_id": id, "delivery_id": delivery_id}
    commands = running.topics["webhooks.commands.v1"]
    position = f"orders.events.v1-0-{number}"
    said: dict[str, Any] = {
        "event_id": f"e{number}",
        "event_type": "orders.order_placed",
        "position": position,
        "payload": "{}",
    }
    at = await commands.send(key=id, value=RequestDelivery(command_id=delivery_id, **about, **said))
    if status is not None:
        answer = RecordAttempt(command_id=f"r{number}", **about, attempt=1, status=status, took_ms=7)
        at = await commands.send(key=id, value=answer)
    await running.workers[0].client.get(f"{HOME}/{id}?min_offset={at}")
    return delivery_id


async def test_the_life_of_a_webhook(two: Platform) -> None:
    """Each step through the other worker."""
    a, b = (worker.client for worker in two.workers)
    first = await a.post(HOME, json={**NEW, "customer_id": "asha"})
    told = await first.json()
    id, secret, position = told["subscription_id"], told.pop("secret"), told.pop("position")
    assert (first.status, first.headers["Location"], first.headers["ETag"]) == (201, f"{HOME}/{id}", '"1"')
    assert first.headers["Cache-Control"] == "no-store"
    assert NEW.items() <= told.items() and told["customer_id"] == "asha" and told["paused"] is None
    assert position.startswith("webhooks.commands.v1-")
    assert await (await b.get(f"{HOME}/{id}?min_offset={position}")).json() == told
    assert secret.startswith("whsec_") and len(secret) == 50

    changed = await b.patch(f"{HOME}/{id}", json={"events": ["*"], "paused": True})
    told = await changed.json()
    assert (changed.status, told["events"], told["paused"], told["version"]) == (200, ["*"], "requested", 2)
    assert "secret" not in told and changed.headers["ETag"] == '"2"'
    same = await a.patch(f"{HOME}/{id}", json={"paused": True})
    assert (same.status, (await same.json())["version"]) == (200, 2)

    rotated = await a.post(f"{HOME}/{id}/rotate", json={"keep_previous_ms": 60_000})
    told = await rotated.json()
    assert rotated.status == 200 and told["secret"].startswith("whsec_") and told["secret"] != secret
    assert [each["retires_at"] is None for each in told["secrets"]] == [True, False]

    listed = await (await b.get(HOME)).json()
    assert [each["subscription_id"] for each in listed["webhooks"]] == [id] and listed["next_cursor"] is None

    gone = await b.delete(f"{HOME}/{id}")
    told = await gone.json()
    assert (gone.status, told["subscription_id"], told["deleted"]) == (200, id, True)
    for response in (await a.get(f"{HOME}/{id}"), await a.delete(f"{HOME}/{id}"), await b.post(f"{HOME}/{id}/rotate")):
        await problem(response, 404, "no-such-webhook")


async def test_a_secret_is_shown_once_and_is_in_no_record(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    headers = {"Idempotency-Key": "create-1"}
    first = await a.post(HOME, json=NEW, headers=headers)
    told = await first.json()
    secret, id = told.pop("secret"), told["subscription_id"]
    again = await b.post(HOME, json=NEW, headers=headers)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert await again.json() == told, "the same webhook, without its secret"
    rotated = await a.post(f"{HOME}/{id}/rotate", headers={"Idempotency-Key": "rotate-1"})
    second = (await rotated.json())["secret"]
    answers = [await (await b.get(path)).read() for path in (HOME, f"{HOME}/{id}", f"{HOME}/{id}/deliveries")]
    records = [record.value or b"" for log in two.driver.log.topics.values() for record in log]
    assert len(records) > 10
    for shown in (secret, second):
        plain = shown.removeprefix("whsec_").encode()
        assert not any(plain in said or plain[:-1] in said for said in [*answers, *records])
    assert not any(KEY.encode() in record for record in records)


async def test_the_secret_is_the_one_that_requests_are_signed_with(two: Platform) -> None:
    told = await created(two.workers[0].client)
    id = told["subscription_id"]
    event = orjson.loads(two.driver.read("webhooks.events.v1")[0].value or b"")
    made = signatures.secret_of(KEY.encode(), id, event["secret"]["secret_id"])
    assert signatures.written(made) == told["secret"]
    assert signatures.fingerprint(made) == event["secret"]["fingerprint"] == told["secrets"][0]["fingerprint"]


async def test_it_begins_where_the_events_end(two: Platform) -> None:
    uid = await (await two.workers[0].client.post("/api/orders/test")).json()
    await created(two.workers[0].client)
    event = orjson.loads(two.driver.read("webhooks.events.v1")[0].value or b"")
    starts = event["starts"]["orders.events.v1"]
    assert sum(starts) == 1 and starts[two.home(uid["order_uid"])] == 1
    assert set(event["starts"]) == {spec.name for spec in TOLD}


@mark.parametrize(
    ("body", "path", "message"),
    [
        param({"url": "https://10.0.0.1/x"}, "$.url", "10.0.0.1 is not a public address", id="private"),
        param({"url": "https://[::ffff:127.0.0.1]/x"}, "$.url", "is not a public address", id="mapped"),
        param({"url": "http://localhost/x"}, "$.url", "localhost is not a public address", id="localhost"),
        param({"url": "http://example.com/x"}, "$.url", "https is required", id="plain http"),
        param({"url": "gopher://example.com"}, "$.url", "must be https://", id="no http at all"),
        param({"events": ["orders.order_paid"]}, "$.events[0]", "is no event", id="no such event"),
        param({"events": ["*", "refunds.*"]}, "$.events[1]", "is no event", id="no such domain"),
        param({"events": []}, "$.events", "at least 1", id="none"),
        param({"customer_id": ""}, "$.customer_id", "at least 1", id="nobody"),
        param({"secret": "mine"}, "$.secret", "not permitted", id="a member that nobody reads"),
    ],
)
async def test_what_is_no_webhook(two: Platform, body: dict[str, Any], path: str, message: str) -> None:
    said = await problem(await two.workers[0].client.post(HOME, json={**NEW, **body}), 422, "invalid-document")
    assert [fault["path"] for fault in said["faults"]] == [path] and message in said["faults"][0]["message"]
    assert two.driver.read("webhooks.commands.v1") == []


async def test_a_change_is_checked_as_well(two: Platform) -> None:
    client = two.workers[0].client
    id = (await created(client))["subscription_id"]
    for change in ({"url": "https://127.0.0.1/"}, {"events": ["x.y"]}):
        await problem(await client.patch(f"{HOME}/{id}", json=change), 422, "invalid-document")
    said = await problem(await client.patch(f"{HOME}/{id}", json={}), 409, "webhook-refused")
    assert said["reason"] == "nothing_to_change"


async def test_a_setting_opens_this_machine_for_development() -> None:
    async with platform(1, webhook_keys=SecretStr(KEY), webhook_loopback=True) as running:
        await created(running.workers[0].client, url="http://127.0.0.1:8000/hook")


async def test_without_a_key_there_are_no_webhooks() -> None:
    async with platform(1) as running:
        response = await running.workers[0].client.post(HOME, json=NEW)
        await problem(response, 503, "webhooks-off")
        assert response.headers["Retry-After"] == "60"


async def test_the_log_newest_first_by_state_and_page(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    id = (await created(a))["subscription_id"]
    for number, status in enumerate([200, 500, 200, None, 200]):
        await delivered(two, id, number, status)

    async def log(**query: str) -> tuple[list[str], Any]:
        page = await (await b.get(f"{HOME}/{id}/deliveries", params=query)).json()
        return [each["event_id"] for each in page["deliveries"]], page["next_cursor"]

    assert await log() == (["e4", "e3", "e2", "e1", "e0"], None)
    assert await log(state="delivered") == (["e4", "e2", "e0"], None)
    assert await log(state="given_up") == ([], None)
    first, cursor = await log(limit="2", state="delivered")
    rest, end = await log(limit="2", state="delivered", cursor=cursor)
    assert (first, rest, end) == (["e4", "e2"], ["e0"], None)
    all_of_it, cursor = await log(limit="4")
    assert len(all_of_it) == 4 and (await log(limit="4", cursor=cursor)) == (["e0"], None)
    (failed,) = (await (await a.get(f"{HOME}/{id}/deliveries?state=pausing")).json())["deliveries"]
    assert (failed["attempts"], failed["last_status"], failed["last_error"]) == (1, 500, "HTTP 500")
    assert failed["next_attempt_at"] > failed["queued_at"] and failed["position"] == "orders.events.v1-0-1"
    target = (await (await a.get(f"{HOME}/{id}")).json())["target"]
    assert (target["unsettled"], target["under_way"], target["breaker"]) == (2, 1, "closed")
    await problem(await a.get(f"{HOME}/{id}/deliveries?state=lost"), 400, "bad-parameter")
    await problem(await a.get(f"{HOME}/{NOBODY}/deliveries"), 404, "no-such-webhook")


async def test_a_long_log_is_looked_at_in_pieces() -> None:
    async with platform(1, limits={"page_scan_rows": 3}, webhook_keys=SecretStr(KEY)) as running:
        client = running.workers[0].client
        id = (await created(client))["subscription_id"]
        for number in range(7):
            await delivered(running, id, number, 200 if number == 0 else 500)
        query, found, pages = {"state": "delivered"}, [], 0
        while True:
            page = await (await client.get(f"{HOME}/{id}/deliveries", params=query)).json()
            found += [each["event_id"] for each in page["deliveries"]]
            pages += 1
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert (found, pages) == (["e0"], 3)


async def test_resend(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    id = (await created(a))["subscription_id"]
    done, waits = await delivered(two, id, 1, 200), await delivered(two, id, 2, None)
    resent = await b.post(f"{HOME}/{id}/deliveries/{done}/resend", headers={"Idempotency-Key": "again"})
    told = await resent.json()
    assert (resent.status, told["delivery_id"], told["state"], told["attempts"]) == (200, done, "under_way", 2)
    assert told["position"].startswith("webhooks.commands.v1-")
    twice = await a.post(f"{HOME}/{id}/deliveries/{done}/resend", headers={"Idempotency-Key": "again"})
    assert twice.headers["Idempotency-Replayed"] == "true" and await twice.json() == told
    said = await problem(await a.post(f"{HOME}/{id}/deliveries/{waits}/resend"), 409, "webhook-refused")
    assert said["reason"] == "delivery_not_settled"
    await problem(await a.post(f"{HOME}/{id}/deliveries/{NOBODY}/resend"), 404, "no-such-delivery")
    await problem(await a.post(f"{HOME}/{NOBODY}/deliveries/{done}/resend"), 404, "no-such-webhook")
    for path in ("/x", f"/x/deliveries/{done}/resend", f"/{id}/deliveries/x/resend"):
        method = a.post if path.endswith("resend") else a.get
        assert (await method(HOME + path)).status == 404


async def test_secrets_are_few(two: Platform) -> None:
    client = two.workers[0].client
    id = (await created(client))["subscription_id"]

    async def rotate(**body: Any) -> ClientResponse:
        return await client.post(f"{HOME}/{id}/rotate", json=body)

    for _ in range(MOST_SECRETS - 1):
        assert (await rotate()).status == 200
    response = await rotate()
    said = await problem(response, 409, "webhook-refused")
    assert said["reason"] == "too_many_secrets" and "secret" not in said
    told = await (await rotate(keep_previous_ms=0)).json()
    assert len(told["secrets"]) == 1 and "secret" in told


async def test_there_is_a_bound_on_webhooks() -> None:
    async with platform(2, limits={"webhooks_most": 3}, webhook_keys=SecretStr(KEY)) as running:
        client = running.workers[0].client
        for _ in range(3):
            await created(client)
        said = await problem(await client.post(HOME, json=NEW), 409, "webhook-refused")
        assert said["reason"] == "too_many_webhooks"
        page = await (await client.get(f"{HOME}?limit=2")).json()
        rest = await (await client.get(f"{HOME}?limit=2&cursor={page['next_cursor']}")).json()
        ids = [each["subscription_id"] for each in page["webhooks"] + rest["webhooks"]]
        assert ids == sorted(ids) and len(set(ids)) == 3 and rest["next_cursor"] is None


async def test_when_the_outcome_is_not_known_in_time_the_secret_is_not_lost() -> None:
    async with platform(1, webhook_keys=SecretStr(KEY), limits={"outcome_wait_s": 0.2}) as running:
        client = running.workers[0].client
        await running.hold()
        response = await client.post(HOME, json=NEW)
        told = await response.json()
        assert response.status == 202 and told["secret"].startswith("whsec_")
        running.flow()
        there = await (await client.get(told["outcome"])).json()
        assert there["subscription_id"] == told["subscription_id"]


async def test_where_it_would_begin_is_not_guessed(two: Platform) -> None:
    two.router._follower.tail.fails = True  # type: ignore[attr-defined]
    await problem(await two.workers[0].client.post(HOME, json=NEW), 503, "unavailable")
    assert two.driver.read("webhooks.commands.v1") == []
