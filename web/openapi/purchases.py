"""what the addresses of bought orders take and answer -> operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from schemas.base import rfc3339
from web import problems
from web.openapi.models import Shape
from web.openapi.operations import WRITES, Operation, Success
from web.openapi.purchase_models import (
    NothingBody,
    PackingBody,
    PurchaseOutcome,
    ReasonBody,
    ReturningBody,
    ShippingBody,
)

_DONE = {
    200: Success(
        "Done; the order after it.",
        PurchaseOutcome,
        headers=("ETag", "Orderstream-Position", "Idempotency-Replayed"),
    ),
    202: Success(
        "Written down, and not known to be applied when the wait ran out.",
        None,
        headers=("Location", "Orderstream-Position", "Retry-After"),
        example={"order_uid": "b563feb7b2b84b6test"},
    ),
}


def _action(id: str, summary: str, description: str, body: type[Shape], *named: str) -> Operation:
    return Operation(
        id,
        "orders",
        summary,
        f"{description} Refused (409) where the order's status does not allow it; 404 for an order that came as a"
        " document.",
        _DONE,
        (
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.NO_SUCH_ORDER,
            problems.ORDER_REFUSED,
            problems.INVALID_DOCUMENT,
            *WRITES,
        ),
        ("order_uid", *named, "If-Match", "Idempotency-Key"),
        body,
        body_required=body not in (NothingBody, PackingBody, ShippingBody),
    )


OPERATIONS = (
    _action("approveOrder", "Approve a paid order", "The business takes it; the money is captured.", NothingBody),
    _action("rejectOrder", "Reject a paid order", "Stock and money are freed.", ReasonBody),
    _action(
        "packOrder", "Note that an order is packed", "If there is a carrier, it is asked to fetch it.", PackingBody
    ),
    _action(
        "shipOrder",
        "Ship an order, or a part of it",
        "What is reserved leaves the stock: at once, or with `carrier` when the carrier has fetched it.",
        ShippingBody,
    ),
    _action(
        "withdrawShipment",
        "Have a shipment not fetched after all",
        "The carrier is asked to cancel. Until it says so nobody else can have the goods; what it has fetched travels.",
        ReasonBody,
        "shipment_id",
    ),
    _action("sendOut", "Note that a shipment is out for delivery", "Its last way.", NothingBody, "shipment_id"),
    _action(
        "deliverShipment", "Note that a shipment has arrived", "Cash is captured here.", NothingBody, "shipment_id"
    ),
    _action("returnShipment", "Note that a shipment came back", "Return to origin.", NothingBody, "shipment_id"),
    _action("requestReturn", "Ask to return goods", "Of what was delivered.", ReturningBody),
    _action("approveReturn", "Approve a return", "The goods may come back.", NothingBody, "return_id"),
    _action("refuseReturn", "Refuse a return", "The goods stay with the buyer.", ReasonBody, "return_id"),
    _action(
        "receiveReturn", "Note that returned goods are back", "For money or the same again.", NothingBody, "return_id"
    ),
)

_UID = "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"
_AT = rfc3339(1_795_262_400_000)
_ORDER: dict[str, Any] = {
    "order_id": _UID,
    "order_uid": _UID,
    "version": 5,
    "status": "approved",
    "order_number": "INV/2026/000123",
    "user_id": "test",
    "customer_id": "test",
    "placed_at": _AT,
    "updated_at": _AT,
    "currency": "INR",
    "split": False,
    "total_minor": 90600,
    "lines": [
        {
            "line": 1,
            "item_id": "mascara-9934930",
            "name": "Mascaras",
            "outlet_id": "outlet-1",
            "price_minor": 45300,
            "refused": None,
            "asked": 2,
            "reserved": 2,
            "cancelled": 0,
            "shipped": 0,
            "delivered": 0,
            "returned": 0,
            "exchanged": 0,
            "replaces": None,
        }
    ],
    "payment": {
        "method": "account",
        "instrument": None,
        "authorised_minor": 90600,
        "captured_minor": 0,
        "refunded_minor": 0,
        "lost_minor": 0,
    },
    "address": {"city": "Kiryat Mozkin"},
    "reason": None,
    "detail": None,
    "shipments": [],
    "returns": [],
}
DETAILS = {
    "too-many-orders": "A customer may place 10 orders in 60 s; the next one from 2026-11-21T18:40:31.000Z on.",
}
MEMBERS: dict[str, dict[str, Any]] = {
    "too-many-orders": {
        "reason": "too_many_orders",
        "next_at": "2026-11-21T18:40:31.000Z",
        "position": "customers.commands.v1-1-42",
    },
}
EXAMPLES: dict[str, Any] = {
    "PurchaseView": _ORDER,
    "PurchaseOutcome": {**_ORDER, "position": "purchases.commands.v1-2-1234"},
    "NothingBody": {},
    "ReasonBody": {"reason": "does not fit"},
    "PackingBody": {"carrier": True},
    "ShippingBody": {"shipment_id": "s1", "parts": [{"line": 1, "quantity": 1}]},
    "ReturningBody": {"return_id": "r1", "parts": [{"line": 1, "quantity": 1}], "reason": "does not fit"},
}
