"""Payments over HTTP: the provider's callback in every form it may come in, and a payment as callers see it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse
from pytest import mark, param

from schemas.provider import SIGNATURE, Signed, sign, signature_fault
from tests.web.platform import SECRET, Platform, platform, problem

CALLBACK = "/api/v1/orders/payment-callback"
UID = "order-1"


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def tell(running: Platform, kind: str, **more: Any) -> None:
    said = {"type": kind, "command_id": kind, "order_uid": UID, **more}
    await running.produce("payments.commands.v1", running.home(UID), UID.encode(), orjson.dumps(said), ())
    async with running.turn:
        await running.driver.run()


async def asked(running: Platform, method: str = "provider") -> None:
    more = {"method": method, "amount_minor": 5000, "currency": "INR", "instrument": "upi"}
    await tell(running, "authorise_payment", user_id="asha", **more)


def body(**changes: Any) -> bytes:
    said = {
        "id": "cb-1",
        "user_id": "asha",
        "order_id": UID,
        "amount": 5000,
        "status": "authorised",
        "idempotency_key": f"{UID}:authorise",
        "created_at": "2026-11-21T18:00:00Z",
        **changes,
    }
    return orjson.dumps(said)


async def call_back(running: Platform, raw: bytes, header: str | None = None, worker: int = 0) -> ClientResponse:
    signed = sign(SECRET, raw, int(time.time())) if header is None else header
    headers = {"Content-Type": "application/json", SIGNATURE: signed}
    return await running.workers[worker].client.post(CALLBACK, data=raw, headers=headers)


async def shown(running: Platform, worker: int = 0, query: str = "") -> Any:
    response = await running.workers[worker].client.get(f"/api/v1/payments/{UID}{query}")
    assert response.status == 200
    return await response.json()


async def test_a_callback_authorises_whichever_worker_it_comes_to(two: Platform) -> None:
    await asked(two)
    for worker in (0, 1):
        response = await call_back(two, body(id=f"cb-{worker}"), worker=worker)
        told = await response.json()
        outcome = "payment_authorised" if worker == 0 else "nothing_new"
        assert (response.status, told["outcome"], told["status"]) == (200, outcome, "authorised")
    payment = await shown(two)
    assert (payment["status"], payment["authorised_minor"], payment["refunds"]) == ("authorised", 5000, [])
    assert [each["type"] for each in payment["attempts"]] == ["payment_requested", "payment_authorised"]
    assert payment["attempts"][1]["source"] == "callback" and payment["attempts"][1]["reference"] == "cb-0"


async def test_a_callback_again_gets_the_first_answer_and_changes_nothing(two: Platform) -> None:
    await asked(two)
    first, again = [await (await call_back(two, body())).json() for _ in range(2)]
    assert first["outcome"] == again["outcome"] == "payment_authorised"
    assert len((await shown(two))["attempts"]) == 2


async def test_the_answer_after_its_callback(two: Platform) -> None:
    await asked(two)
    await call_back(two, body(status="captured"))
    await tell(two, "record_authorisation", source="provider", amount_minor=5000)
    payment = await shown(two, 1)
    assert (payment["status"], payment["captured_minor"]) == ("captured", 5000)


async def test_an_older_decline_that_comes_after_the_money(two: Platform) -> None:
    await asked(two)
    await call_back(two, body(id="new", status="captured"))
    told = await problem(await call_back(two, body(id="old", status="declined")), 409, "payment-refused")
    assert told["reason"] == "already_captured"


async def test_a_wrong_amount_is_refused_and_shown(two: Platform) -> None:
    await asked(two)
    for _ in range(2):
        told = await problem(await call_back(two, body(amount=4999)), 409, "payment-refused")
        assert told["reason"] == "wrong_amount"
    payment = await shown(two)
    assert payment["status"] == "requested"
    refusal = payment["attempts"][-1]
    assert (refusal["type"], refusal["reason"]) == ("payment_command_refused", "wrong_amount")
    assert (refusal["amount_minor"], refusal["number"]) == (4999, 2)


async def test_money_that_comes_after_the_void_goes_back(two: Platform) -> None:
    await asked(two)
    await tell(two, "void_payment", reason="expired")
    await tell(two, "record_void", source="provider", void_number=1)
    told = await (await call_back(two, body(status="captured"))).json()
    assert (told["outcome"], told["status"]) == ("refund_requested", "voided")
    key = f"{UID}:refund:late"
    told = await (await call_back(two, body(id="cb-2", status="refunded", idempotency_key=key))).json()
    assert told["outcome"] == "payment_refunded"
    payment = await shown(two)
    assert (payment["captured_minor"], payment["refunding_minor"], payment["refunded_minor"]) == (5000, 0, 5000)
    assert [(each["refund_id"], each["state"]) for each in payment["refunds"]] == [("late", "refunded")]


@mark.parametrize(
    ("changes", "expected"),
    [
        param({"status": "declined"}, "payment_declined", id="declined"),
        param({"status": "declined", "idempotency_key": f"{UID}:capture"}, "pending", id="of a capture: not a decline"),
        param({"status": "pending"}, "pending", id="pending"),
        param({"status": "voided", "idempotency_key": None}, "payment_voided", id="voided by itself"),
        param({"later": 1}, "payment_authorised", id="members that nobody knows"),
    ],
)
async def test_what_a_callback_comes_to(two: Platform, changes: dict[str, Any], expected: str) -> None:
    await asked(two)
    response = await call_back(two, body(**changes))
    assert (response.status, (await response.json())["outcome"]) == (200, expected)


@mark.parametrize(
    ("sent", "status", "slug"),
    [
        param({"user_id": "ravi"}, 409, "payment-refused", id="somebody else's"),
        param({"order_id": "order-9"}, 404, "no-such-payment", id="no payment"),
        param({"order_id": "a b"}, 422, "invalid-document", id="no order"),
        param({"amount": "5000"}, 422, "invalid-document", id="an amount in words"),
        param({"amount": -1}, 422, "invalid-document", id="less than nothing"),
        param({"amount": 0}, 409, "payment-refused", id="nothing"),
        param({"status": "perhaps"}, 422, "invalid-document", id="an unknown status"),
        param({"created_at": "yesterday"}, 422, "invalid-document", id="no time"),
    ],
)
async def test_what_no_callback_may_say(two: Platform, sent: dict[str, Any], status: int, slug: str) -> None:
    await asked(two)
    await problem(await call_back(two, body(**sent)), status, slug)


async def captured(running: Platform) -> None:
    await asked(running)
    await call_back(running, body(id="paid", status="captured"))


@mark.parametrize(
    ("changes", "kind"),
    [
        param({"status": "refunded", "idempotency_key": None}, "refund", id="in the dashboard"),
        param({"status": "refunded"}, "refund", id="under the key of another request"),
        param({"status": "refunded", "idempotency_key": f"{UID}:refund:r9"}, "refund", id="under a key never used"),
        param({"status": "refunded", "idempotency_key": f"{UID}:refund:é"}, "refund", id="under a key of nobody"),
        param({"status": "charged_back", "reason": "fraud", "idempotency_key": None}, "chargeback", id="chargeback"),
    ],
)
async def test_money_taken_back_without_a_request_is_recorded_once_and_shown(
    two: Platform, changes: dict[str, Any], kind: str
) -> None:
    await captured(two)
    told = body(id="cb-9", amount=500, movement_id="m-1", **changes)
    for raw, outcome in ((told, "reversal_recorded"), (told, "reversal_recorded")):
        response = await call_back(two, raw)
        assert (response.status, (await response.json())["outcome"]) == (200, outcome)
    again = await call_back(two, body(id="cb-10", amount=500, movement_id="m-1", **changes), worker=1)
    assert (again.status, (await again.json())["outcome"]) == (200, "nothing_new")
    payment = await shown(two, 1)
    assert (payment["status"], payment["captured_minor"], payment["refunded_minor"]) == ("captured", 5000, 0)
    figures = {"refund": payment["unrequested_refund_minor"], "chargeback": payment["charged_back_minor"]}
    assert figures == {"refund": 0, "chargeback": 0} | {kind: 500}
    assert (payment["disputed"], payment["unresolved_reversals"]) == (kind == "chargeback", 1)
    (reversal,) = payment["reversals"]
    assert (reversal["reversal_id"], reversal["reference"], reversal["outcome"]) == ("m-1", "cb-9", None)
    assert payment["refunds"] == [] and payment["attempts"][-1]["type"] == "reversal_recorded"


async def test_a_person_settles_a_reversal(two: Platform) -> None:
    await captured(two)
    await call_back(two, body(id="cb-9", status="charged_back", amount=500, idempotency_key=None))
    await tell(two, "resolve_reversal", reversal_id="cb-9", outcome="reinstated", reason="the bank agreed")
    payment = await shown(two)
    assert (payment["disputed"], payment["unresolved_reversals"], payment["charged_back_minor"]) == (False, 0, 0)
    assert (payment["reversals"][0]["outcome"], payment["reversals"][0]["reason"]) == ("reinstated", "the bank agreed")
    then = await shown(two, query=f"?as_of={payment['version'] - 1}")
    assert (then["disputed"], then["charged_back_minor"]) == (True, 500)


@mark.parametrize(
    ("changes", "reason"),
    [
        param({"order_id": "order-9"}, "no_such_payment", id="no payment"),
        param({"amount": 0}, "not_positive_amount", id="no money"),
        param({"amount": 5001}, "amount_above_captured", id="more than was captured"),
        param({"currency": "USD"}, "wrong_currency", id="another currency"),
        param({"user_id": "ravi"}, "wrong_user", id="somebody else's"),
    ],
)
@mark.parametrize("status", ["refunded", "charged_back"])
async def test_a_report_of_reversed_money_that_does_not_fit_is_recorded_too(
    two: Platform, status: str, changes: dict[str, Any], reason: str
) -> None:
    await captured(two)
    for _ in range(2):
        response = await call_back(two, body(id="cb-9", status=status, **{"idempotency_key": None, **changes}))
        told = await response.json()
        assert (response.status, told["outcome"], told["reason"]) == (200, "payment_command_refused", reason)
    events = [orjson.loads(record.value or b"") for record in two.driver.read("payments.events.v1")]
    refused = [event for event in events if event["type"] == "payment_command_refused"]
    assert [(event["command"], event["reason"]) for event in refused] == [("record_reversal", reason)]
    assert (await shown(two))["reversals"] == []


@mark.parametrize(
    "header",
    [
        param(lambda now: "", id="no signature"),
        param(lambda now: "t=1,v1=00", id="no digest"),
        param(lambda now: sign("another", body(), now), id="another secret"),
        param(lambda now: sign(SECRET, body(amount=1), now), id="another body"),
        param(lambda now: sign(SECRET, body(), now - 400), id="too old"),
        param(lambda now: sign(SECRET, body(), now + 400), id="from the future"),
        param(lambda now: sign(SECRET, body(), now).replace(f"t={now}", f"t={now + 1}"), id="another time"),
    ],
)
async def test_what_is_not_signed_is_not_taken_in(two: Platform, header: Callable[[int], str]) -> None:
    await asked(two)
    await problem(await call_back(two, body(), header(int(time.time()))), 401, "bad-signature")
    assert len((await shown(two))["attempts"]) == 1
    assert [record.topic for record in two.driver.read("payments.commands.v1")] == ["payments.commands.v1"]


def test_a_signature_by_hand() -> None:
    """As any other implementation makes it: HMAC-SHA256 of `<t>.<body>`, in hex."""
    at, raw = 1_795_262_400, b'{"a":1}'
    assert sign("s", raw, at) == "t=1795262400,v1=3fa68ee16933ed7fdfdbc2be906610db682c7217ebbe95e6d72188aa9e2fd5b3"
    assert signature_fault("s", raw, sign("s", raw, at), at + 300, 300) is None
    assert "+301 s" in str(signature_fault("s", raw, sign("s", raw, at), at + 301, 300))
    assert signature_fault("s", raw, None, at, 300) is not None


async def test_an_outcome_that_takes_too_long_is_202_and_found_later() -> None:
    async with platform(outcome_wait_ms=50) as running:
        await asked(running)
        await running.hold()
        response = await call_back(running, body())
        told = await response.json()
        assert (response.status, response.headers["Location"]) == (202, f"/api/v1/payments/{UID}")
        running.flow()
        later = await running.workers[0].client.get(told["outcome"])
        assert (await later.json())["status"] == "authorised"


async def test_attempts_come_in_pages(two: Platform) -> None:
    await asked(two)
    for amount in range(1, 5):
        await call_back(two, body(id=f"cb-{amount}", amount=amount))
    first = await shown(two, query="?limit=3")
    rest = await shown(two, 1, query=f"?limit=3&cursor={first['next_cursor']}")
    numbers = [each["number"] for page in (first, rest) for each in page["attempts"]]
    assert (numbers, rest["next_cursor"]) == ([1, 2, 3, 4, 5], None)


@mark.parametrize("uid", ["order-9", "a%20b", "%00"])
async def test_there_is_no_such_payment(two: Platform, uid: str) -> None:
    await problem(await two.workers[1].client.get(f"/api/v1/payments/{uid}"), 404, "no-such-payment")


async def test_parameters_of_a_payment(two: Platform) -> None:
    await asked(two)
    client = two.workers[0].client
    for query in ("?limit=0", "?cursor=x", "?who=me", "?min_offset=accounts.commands.v1-0-1"):
        await problem(await client.get(f"/api/v1/payments/{UID}{query}"), 400, "bad-parameter")
    end = len(two.driver.read("payments.commands.v1"))
    waited = await client.get(f"/api/v1/payments/{UID}?min_offset=payments.commands.v1-{two.home(UID)}-{end - 1}")
    assert waited.status == 200


# -- what a signature covers, and how a secret is exchanged ------------------------------------------------------------

ABOUT = Signed("POST", CALLBACK)


@mark.parametrize(
    ("make", "status"),
    [
        param(lambda raw, now: sign(f"new,{SECRET}", raw, now), 200, id="two v1, the second is right"),
        param(lambda raw, now: sign(f"{SECRET},new", raw, now), 200, id="two v1, the first is right"),
        param(lambda raw, now: sign("new,newer", raw, now), 401, id="two v1, none is right"),
        param(lambda raw, now: sign(SECRET, raw, now, ABOUT), 200, id="v2"),
        param(lambda raw, now: sign(f"new,{SECRET}", raw, now, ABOUT), 200, id="two v2"),
        param(lambda raw, now: sign(SECRET, raw, now, Signed("PUT", CALLBACK)), 401, id="v2 of another method"),
        param(lambda raw, now: sign(SECRET, raw, now, Signed("POST", "/payments")), 401, id="v2 of another path"),
        param(lambda raw, now: sign(SECRET, raw, now, Signed("POST", CALLBACK, "k")), 401, id="v2 of another key"),
        param(lambda raw, now: sign(SECRET, raw, now).replace("v1=", "v0=x,v1="), 200, id="an unknown scheme"),
        param(lambda raw, now: sign(SECRET, raw, now).replace(",", ", "), 200, id="a space"),
        param(lambda raw, now: f"t={now}," + sign(SECRET, raw, now), 401, id="two times"),
        param(lambda raw, now: sign(SECRET, raw, now) + ",v1=" + "0" * 64 * 20, 200, id="a value that is none"),
        param(lambda raw, now: sign(SECRET, raw, now) + (",v1=" + "0" * 64) * 20, 401, id="very many values"),
    ],
)
async def test_signatures_while_a_secret_is_exchanged(two: Platform, make: Any, status: int) -> None:
    raw = body(status="pending")
    assert (await call_back(two, raw, make(raw, int(time.time())))).status == status


def test_a_receiver_accepts_the_old_and_the_new_secret() -> None:
    for secret in ("old", "new"):
        assert signature_fault("new, old", b"x", sign(secret, b"x", 7, ABOUT), 7, 1, ABOUT) is None
    assert signature_fault("new,old", b"x", sign("older", b"x", 7, ABOUT), 7, 1, ABOUT) is not None


async def test_another_currency_is_refused(two: Platform) -> None:
    await asked(two)
    told = await problem(await call_back(two, body(currency="USD")), 409, "payment-refused")
    assert told["reason"] == "wrong_currency"
    assert (await call_back(two, body(id="cb-2", currency="INR"))).status == 200
