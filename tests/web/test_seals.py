"""personal data, sealed on the way in and opened on the way out, on two workers; and a customer who is erased."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.orders import MAX_DOCUMENT_BYTES
from tables.keys import FRESH_S
from tests.web.platform import Platform, document, platform, problem
from web.openapi.purchase_models import AnyOrderView, OrderPage

#: Whom the sample order names, whose bank, and what else it may say of them.
DELIVERY = document()["delivery"]
CLEAR = [str(value).encode() for value in DELIVERY.values()] + [b"Bank of Anna", b"third floor", b"happy birthday"]
ADDRESS = {"name": "Test Testov", "street": "Ploshad Mira 15", "pin": "2639809"}
ERASED = [f"$.document.delivery.{name}" for name in (*DELIVERY, "floor")]
ERASED += ["$.document.payment.bank", "$.document.items[0].engraving", "$.document.note"]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Platform]:
    master = tmp_path / "master.key"
    master.write_bytes(b64encode(b"m" * 32))
    async with platform(2, outcome_wait_ms=2_000, seal=True, seal_master_key_file=master) as running:
        yield running


def personal(uid: str | None = None, customer: str = "anna") -> dict[str, Any]:
    """An order that says something of a person wherever a document can."""
    made = document(uid, customer_id=customer, payment__bank="Bank of Anna", note={"card": ["happy birthday", 1.50]})
    made["delivery"]["floor"] = "third floor"
    made["items"][0]["engraving"] = "happy birthday"
    return made


async def place(running: Platform, order: dict[str, Any], **headers: str) -> Any:
    return await running.workers[0].client.post("/api/v1/orders", json=order, headers=headers)


async def erase(running: Platform, customer: str = "anna") -> list[str]:
    """As the command does: tombstones, and a wait until every worker has had to look."""
    destroyed = await running.keyring().destroy(customer)
    running.now_s += FRESH_S + 0.1
    return destroyed


def in_clear(running: Platform) -> list[str]:
    """Where in the log something personal can be read: every record of every topic, changelogs and all."""
    return [
        f"{record.topic}-{record.partition}-{record.offset}: {word.decode()}"
        for records in running.driver.log.topics.values()
        for record in records
        for word in CLEAR
        if any(word in part for part in (record.key or b"", record.value or b"", *(v for _, v in record.headers)))
    ]


async def get(running: Platform, path: str, worker: int = 1, known: str = "") -> Any:
    return await running.workers[worker].client.get(path, headers={"If-None-Match": known} if known else {})


async def test_what_is_personal_is_nowhere_in_the_log_and_in_every_answer(two: Platform) -> None:
    order = personal()
    placed = await place(two, order)
    assert placed.status == 201, await placed.text()
    uid = order["order_uid"]
    for worker in (0, 1):
        told = await (await get(two, f"/api/v1/orders/{uid}", worker)).json()
        assert told["document"] == order and "erased" not in told
    for path in ("/api/v1/orders?customer_id=anna", f"/api/v1/orders/{uid}?as_of=1"):
        told = await (await get(two, path)).json()
        assert (told["orders"][0] if "orders" in told else told)["document"] == order
    assert len(two.driver.read("orders.events.v1")) == 1 and in_clear(two) == []
    # And no rule, table or changelog has parsed it anew: the event carries what the command carried.
    [command], [event] = two.driver.read("orders.commands.v1"), two.driver.read("orders.events.v1")
    assert command.value and event.value and command.value.partition(b'"document":')[2] in event.value


async def test_an_erased_customer_is_null_everywhere_and_others_are_not(two: Platform) -> None:
    anna, ben = personal(), personal(customer="ben")
    for order in (anna, ben):
        assert (await place(two, order)).status == 201
    uid = anna["order_uid"]
    await two.workers[0].client.post(f"/api/v1/orders/{uid}/cancel", json={"reason": "changed my mind"})
    before = await get(two, f"/api/v1/orders/{uid}")
    assert (await before.json())["document"] == anna
    assert len(await erase(two)) == 1
    for worker in (0, 1):
        for query in ("", "?as_of=1", "?as_of=2"):
            told = await (await get(two, f"/api/v1/orders/{uid}{query}", worker)).json()
            assert sorted(told["erased"]) == sorted(ERASED), query
            AnyOrderView.model_validate(told, strict=False)
            assert set(told["document"]["delivery"].values()) == {None} and told["document"]["note"] is None
            assert (told["customer_id"], told["document"]["payment"]["amount"]) == ("anna", 1817)
    listed = await (await get(two, "/api/v1/orders")).json()
    OrderPage.model_validate(listed, strict=False)
    assert [path for path in listed["erased"] if not path.startswith("$.orders[1]")] == []
    assert listed["orders"][0]["document"] == ben and len(listed["erased"]) == len(ERASED)
    assert (await (await get(two, f"/api/v1/orders/{uid}/timeline")).json())["entries"][0]["type"] == "order_placed"
    # What a browser has kept of before is not said to be as it was.
    assert before.headers["ETag"] == '"2-opened"'
    after = await get(two, f"/api/v1/orders/{uid}", known='"2-opened"')
    assert (after.status, after.headers["ETag"]) == (200, '"2-erased"')
    unchanged = await get(two, f"/api/v1/orders/{uid}", known='"2-erased"')
    assert (unchanged.status, await unchanged.read()) == (304, b"")


async def test_nobody_opens_by_what_was_known_longer_ago_than_the_bound(two: Platform) -> None:
    order = personal()
    await place(two, order)
    path = f"/api/v1/orders/{order['order_uid']}"
    assert (await (await get(two, path)).json())["document"] == order
    keyring = two.keyring()
    await keyring.destroy("anna")
    two.now_s += FRESH_S + 0.1
    for worker in two.workers:
        assert worker.keyring is not None
        worker.keyring._follower.tail.fails = True  # type: ignore[attr-defined]
    response = await get(two, path)
    told = await problem(response, 503, "unavailable")
    assert "keys cannot be looked up" in told["detail"]


async def test_replay_makes_the_same_of_what_nobody_can_read(two: Platform) -> None:
    orders = [personal(customer=customer) for customer in ("anna", "ben", "anna")]
    for order in orders:
        await place(two, order)
    await erase(two)
    tables = sorted({table for group in two.app.groups.values() for table in group.tables})
    async with two.turn:
        before = {table: two.driver.rows(table) for table in tables}
        await two.driver.replay()
        await two.driver.run()
        after = {table: two.driver.rows(table) for table in tables}
    assert before == after and len(before["orders"]) == 3
    told = await (await get(two, f"/api/v1/orders/{orders[0]['order_uid']}")).json()
    assert sorted(told["erased"]) == sorted(ERASED)
    assert (await (await get(two, f"/api/v1/orders/{orders[1]['order_uid']}")).json())["document"] == orders[1]
    assert in_clear(two) == []


async def test_the_same_again_is_the_same_until_the_key_is_gone(two: Platform) -> None:
    order = personal()
    first = await place(two, order, **{"Idempotency-Key": "k1"})
    again = await place(two, order, **{"Idempotency-Key": "k1"})
    assert (first.status, again.status, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    assert (await place(two, order)).status == 201
    assert len(two.driver.read("orders.events.v1")) == 1
    other = {**order, "delivery": {**order["delivery"], "name": "Somebody Else"}}
    assert (await problem(await place(two, other), 409, "order-refused"))["reason"] == "exists_with_different_content"
    await problem(await place(two, other, **{"Idempotency-Key": "k1"}), 422, "idempotency-key-reused")
    await erase(two)
    # Whether it is the same cannot be known any more.
    assert (await problem(await place(two, order), 409, "order-refused"))["reason"] == "exists_with_different_content"
    await problem(await place(two, order, **{"Idempotency-Key": "k1"}), 422, "idempotency-key-reused")


async def test_who_orders_again_after_the_erasure_has_a_new_key(two: Platform) -> None:
    old, new = personal(), personal()
    await place(two, old)
    await erase(two)
    assert (await place(two, new)).status == 201
    assert (await (await get(two, f"/api/v1/orders/{new['order_uid']}")).json())["document"] == new
    assert "erased" in await (await get(two, f"/api/v1/orders/{old['order_uid']}")).json()


async def test_two_workers_seal_with_one_key(two: Platform) -> None:
    """Each makes one, neither knows of the other's: both then take the one that came to stand first."""
    one, other = two.keyring(), two.keyring()
    for keyring in (one, other):
        await keyring.look()
    for keyring in (one, other):
        await keyring._write([keyring._made("anna")])
    two.now_s += FRESH_S + 0.1
    assert (await one.seal_for("anna")).key_id == (await other.seal_for("anna")).key_id
    assert len(one) == 2 and len(await erase(two)) == 2
    await one.look()
    assert len(one) == 0


async def test_a_document_that_is_wrong_is_refused_in_clear_words(two: Platform) -> None:
    order = personal()
    order["delivery"]["phone"] = "sealed:v1:" + "k" * 16 + ":" + "A" * 30
    told = await problem(await place(two, order), 422, "invalid-document")
    assert [fault["path"] for fault in told["faults"]] == ["$.delivery.phone"]


async def test_a_document_that_is_too_large_once_it_is_sealed(two: Platform) -> None:
    order = {**personal(), "note": "x" * (MAX_DOCUMENT_BYTES * 4 // 5)}
    told = await problem(await place(two, order), 413, "too-large")
    assert "With its personal data sealed" in told["detail"] and two.driver.read("orders.commands.v1") == []


async def test_what_a_request_is_known_by_cannot_be_tried_out(two: Platform) -> None:
    """Whoever reads the log could else compute it for every address there is."""
    cart = {"user_id": "anna", "item_id": "pen", "quantity": 1, "address": ADDRESS}
    for number, body in enumerate((cart, personal())):
        raw = orjson.dumps(body)
        headers = {"Idempotency-Key": f"k{number}", "Content-Type": "application/json"}
        assert (await two.workers[0].client.post("/api/v1/orders", data=raw, headers=headers)).status == 201
        tried = sha256(b"POST\0/api/v1/orders\0" + raw).hexdigest().encode()
        said = [record.value or b"" for record in two.driver.read("requests.commands.v1")]
        assert len(said) == 2 * number + 2 and not [each for each in said if tried in each]


async def test_a_test_order_is_sealed_too(two: Platform) -> None:
    placed = await two.workers[0].client.post("/api/orders/test")
    told = await (await get(two, f"/api/v1/orders/{(await placed.json())['order_uid']}")).json()
    assert "@" in told["document"]["delivery"]["email"]
    [event] = two.driver.read("orders.events.v1")
    assert event.value and b"@" not in event.value


async def test_the_address_of_a_cart(two: Platform) -> None:
    client = two.workers[0].client
    cart = {"user_id": "anna", "item_id": "pen", "quantity": 1, "address": ADDRESS}
    key = {"Idempotency-Key": "c1"}
    first = await client.post("/api/v1/orders", json=cart, headers=key)
    again = await client.post("/api/v1/orders", json=cart, headers=key)
    told = await first.json()
    assert told["address"] == ADDRESS and await again.json() == told
    assert again.headers["Idempotency-Replayed"] == "true"
    path = f"/api/v1/orders/{told['order_uid']}"
    assert (await (await get(two, path)).json())["address"] == ADDRESS
    assert in_clear(two) == []
    await erase(two)
    gone = await (await get(two, path)).json()
    assert gone["address"] == dict.fromkeys(ADDRESS) and len(gone["erased"]) == 3
    other = {**cart, "address": {"street": "elsewhere"}}
    await problem(await client.post("/api/v1/orders", json=other, headers=key), 422, "idempotency-key-reused")


async def test_a_key_is_worth_nothing_to_who_has_another_master(two: Platform) -> None:
    await place(two, personal())
    [key] = [record for record in two.driver.read("customers.keys.v1") if record.value]
    told = orjson.loads(key.value or b"")
    assert set(told) == {"customer_id", "key_id", "master", "wrapped"} and key.key == f"anna/{told['key_id']}".encode()
    keyring = two.keyring()
    keyring._masters = {told["master"]: b"x" * 32}
    with pytest.raises(ValueError, match="is not what its master key has wrapped"):
        await keyring.seal_for("anna")
