"""Ids that become segments of a URL's path: no record and no request can create one that a client would rewrite."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pytest import mark, raises

from schemas.inventory import CreateItem
from schemas.orders import CancelOrder
from schemas.outlets import OutletCommand
from schemas.purchases import PlaceCart, RequestReturn, RequestShipment, ShipOrder
from tests.web.platform import platform, problem

BAD = (
    *(".", "..", "...", "", "a/b", "/", "..%2f", "%2e%2e", "%2e", "a\\b", "a?b", "a#b", "a b", "a\n", "\x00", "a\x1b"),
    *("é", "~", "-", ".a", "a" * 65, "..;", ";a"),
)
GOOD = ("s1", "a.b", "1..", "A~b_c-d", "a" * 64)

PARTS = [{"line": 1, "quantity": 1}]
TERMS = {"answer_within_ms": 1, "asks": 1, "hold_ms": 1}
CART: dict[str, Any] = {"user_id": "u", "lines": [{"item_id": "pen", "quantity": 1}], "payment": {"method": "account"}}
ITEM: dict[str, Any] = {"outlet_id": "o", "name": "n", "price_minor": 1, "currency": "INR"}

#: Each command that creates something which an address names: the model, the field of the id, the rest of its content.
CREATING = [
    (ShipOrder, "shipment_id", {"order_uid": "o1"}),
    (RequestShipment, "shipment_id", {"order_uid": "o1", "carrier": TERMS}),
    (RequestReturn, "return_id", {"order_uid": "o1", "parts": PARTS, "reason": "r"}),
    (PlaceCart, "order_uid", {**CART, "terms": {"approve_after_ms": None}}),
    (CancelOrder, "order_uid", {"reason": "r"}),
    (CreateItem, "item_id", ITEM),
    (CreateItem, "outlet_id", {**ITEM, "item_id": "pen"}),
    (OutletCommand, "outlet_id", {"type": "configure_outlet"}),
]


@mark.parametrize(("model", "field", "rest"), CREATING, ids=lambda each: getattr(each, "__name__", None))
def test_no_command_creates_an_id_that_a_client_would_rewrite(model: Any, field: str, rest: dict[str, Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    for id in GOOD:
        assert adapter.validate_python({"command_id": "c", **rest, field: id}) is not None
    for id in BAD:
        with raises(ValidationError) as caught:
            adapter.validate_python({"command_id": "c", **rest, field: id})
        assert field in {fault["loc"][-1] for fault in caught.value.errors()}, id


@mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/orders/o1/shipments", {"shipment_id": None}),
        ("/api/v1/orders/o1/returns", {"return_id": None, "parts": PARTS, "reason": "r"}),
        ("/api/v1/items", {"item_id": None, **ITEM}),
        ("/api/v1/items", {"outlet_id": None, "item_id": "pen", "name": "n", "price_minor": 1, "currency": "INR"}),
    ],
)
async def test_no_request_creates_one(path: str, body: dict[str, Any]) -> None:
    name = next(name for name, value in body.items() if value is None)
    async with platform() as running:
        client = running.workers[0].client
        for id in BAD:
            told = await problem(await client.post(path, json={**body, name: id}), 422, "invalid-document")
            assert [fault["path"] for fault in told["faults"]] == [f"$.{name}"]
