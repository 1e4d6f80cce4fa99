"""Shipments over HTTP: real rules and tasks over a log in memory, two workers; the carrier by its topic."""

from __future__ import annotations

from typing import Any

import orjson

from tests.web.platform import Client, Platform, platform, problem
from web.openapi.purchase_models import PurchaseView
from web.openapi.shipping import ShipmentList

HOME = "/api/v1/orders"


async def bought(client: Client, pieces: int = 3) -> str:
    """An order that is approved; gives its address."""
    item = {"item_id": "book", "outlet_id": "o1", "name": "Book", "price_minor": 0, "currency": "INR", "attributes": {}}
    assert (await client.post("/api/v1/items", json=item)).status == 201
    assert (await client.post("/api/v1/items/book/stock", json={"delta": 9, "reason": "receive"})).status == 201
    cart = {"user_id": "asha", "item_id": "book", "quantity": pieces, "address": {"city": "Kiryat Mozkin"}}
    placed = await client.post(HOME, json=cart)
    told = await placed.json()
    assert (placed.status, told["status"]) == (201, "approved"), told
    return f"{HOME}/{told['order_id']}"


async def does(client: Client, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status == 200, await response.text()
    return dict(await response.json())


async def says(running: Platform, order: str, status: str, shipment: str) -> None:
    uid = order.rsplit("/", 1)[-1]
    number = {"tracking_number": "T-7"} if status == "registered" else {}
    said = {"response_id": f"{shipment}-{status}", "order_uid": uid, "shipment_id": shipment, "status": status}
    raw = orjson.dumps({**said, **number})
    await running.produce("shipping.responses", running.home("anything"), None, raw, ())
    async with running.turn:
        await running.driver.run()


async def shipments(client: Client, order: str) -> list[dict[str, Any]]:
    response = await client.get(f"{order}/shipments")
    assert response.status == 200 and response.headers["ETag"]
    return [each.model_dump(mode="json") for each in ShipmentList.model_validate(await response.json()).shipments]


async def test_packed_means_handed_to_the_carrier() -> None:
    async with platform(2, carrier="topic") as running:
        a, b = (worker.client for worker in running.workers)
        order = await bought(a)
        packed = await does(b, f"{order}/pack")
        assert packed["status"] == "packed"
        assert [(each["shipment_id"], each["status"]) for each in packed["shipments"]] == [("s1", "requested")]
        await says(running, order, "registered", "s1")
        (shipment,) = await shipments(b, order)
        carrier = shipment["carrier"]
        assert (shipment["tracking_number"], carrier["stage"], carrier["asks"]) == ("T-7", "registered", 1)
        await says(running, order, "delivered", "s1")
        (shipment,) = await shipments(a, order)
        assert (shipment["status"], shipment["carrier"]["held"]) == ("requested", ["delivered"])
        await says(running, order, "picked_up", "s1")
        (shipment,) = await shipments(a, order)
        assert (shipment["status"], shipment["carrier"]["ask_again_at"]) == ("delivered", None)
        assert (await (await b.get(order)).json())["status"] == "delivered"


async def test_a_part_by_carrier_a_part_by_hand_and_one_withdrawn() -> None:
    async with platform(2, carrier="topic") as running:
        a, b = (worker.client for worker in running.workers)
        order = await bought(a)
        one = [{"line": 1, "quantity": 1}]
        assert (await does(a, f"{order}/pack", carrier=False))["shipments"] == []
        await does(b, f"{order}/shipments", shipment_id="a", parts=one, carrier=True)
        await does(b, f"{order}/shipments", shipment_id="b", parts=one)
        await does(a, f"{order}/shipments", shipment_id="c", carrier=True)
        told = await problem(await a.post(f"{order}/shipments", json={}), 409, "order-refused")
        assert told["reason"] == "nothing_to_ship"
        await does(b, f"{order}/shipments/c/cancel", reason="too dear")
        told = await problem(await a.post(f"{order}/shipments/b/cancel", json={"reason": "no"}), 409, "order-refused")
        assert told["reason"] == "not_with_the_carrier"
        await says(running, order, "cancelled", "c")
        found = {each["shipment_id"]: each for each in await shipments(a, order)}
        assert {id: each["status"] for id, each in found.items()} == {
            "a": "requested",
            "b": "shipped",
            "c": "cancelled",
        }
        assert found["b"]["carrier"] is None and found["c"]["carrier"]["stage"] == "cancelled"


async def test_without_a_carrier() -> None:
    async with platform(1) as running:
        client = running.workers[0].client
        order = await bought(client)
        for path in ("pack", "shipments"):
            told = await problem(await client.post(f"{order}/{path}", json={"carrier": True}), 409, "order-refused")
            assert told["reason"] == "no_carrier" and "ORDERSTREAM_CARRIER" in told["detail"]
        assert (await does(client, f"{order}/pack"))["shipments"] == []
        assert (await does(client, f"{order}/shipments"))["status"] == "shipped"
        await problem(await client.get(f"{HOME}/nobody/shipments"), 404, "no-such-order")


async def test_exchanged_for_the_same_again() -> None:
    async with platform(1) as running:
        client = running.workers[0].client
        order = await bought(client)
        await does(client, f"{order}/shipments", shipment_id="s1")
        await does(client, f"{order}/shipments/s1/delivered")
        back = {"return_id": "r1", "parts": [{"line": 1, "quantity": 2}], "reason": "torn", "exchange": True}
        asked = await does(client, f"{order}/returns", **back)
        assert asked["returns"][0]["exchange"] is True
        await does(client, f"{order}/returns/r1/approve")
        await does(client, f"{order}/returns/r1/receive")
        async with running.turn:
            await running.driver.run()
        told = PurchaseView.model_validate(await (await client.get(order)).json())
        first, again = told.lines
        assert (told.status, first.returned, first.exchanged) == ("shipped", 2, 2)
        assert (again.replaces, again.reserved, again.shipped) == (1, 2, 0)
        shipped = await does(client, f"{order}/shipments", shipment_id="s2")
        assert shipped["lines"][1]["shipped"] == 2
