"""what the addresses of shipments answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.base import OrderUid, rfc3339
from schemas.shipping import Ask, CarrierStatus, Stage
from web import problems
from web.openapi.models import Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, Operation, Success
from web.openapi.purchase_models import ShipmentView


class CarrierView(Shape):
    """A shipment as its carrier has it."""

    stage: Stage
    asked: Ask = Field(description="What it was asked last.")
    asks: int = Field(ge=1, description="How often.")
    ask_again_at: Rfc3339 | None = Field(description="When it is asked again if nothing is heard; null: not.")
    failed_attempts: int = Field(ge=0)
    reason: str | None = Field(description="The last one that was given.")
    held: list[CarrierStatus] = Field(description="What came too early, and waits.")
    booked_at: Rfc3339
    updated_at: Rfc3339


class ShipmentDetails(ShipmentView):
    """A shipment, and how its carrier has it."""

    carrier: CarrierView | None = Field(description="Null: no carrier was asked.")


class ShipmentList(Shape):
    """The shipments of an order."""

    order_uid: OrderUid
    shipments: list[ShipmentDetails]


MODELS = (CarrierView, ShipmentDetails, ShipmentList)

OPERATIONS = (
    Operation(
        "listShipments",
        "orders",
        "The shipments of an order",
        "Of an order that was bought here: what is in each, where it is, and how its carrier has it.",
        {200: Success("The shipments.", ShipmentList, headers=("ETag",))},
        (problems.BAD_PARAMETER, problems.NO_SUCH_ORDER, *EVERYWHERE),
        ("order_uid", "min_offset"),
    ),
)

_UID = "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"
_AT = rfc3339(1_795_262_400_000)
_CARRIER: dict[str, Any] = {
    "stage": "picked_up",
    "asked": "book",
    "asks": 1,
    "ask_again_at": rfc3339(1_795_262_400_000 + 86_400_000),
    "failed_attempts": 0,
    "reason": None,
    "held": [],
    "booked_at": _AT,
    "updated_at": _AT,
}
_SHIPMENT: dict[str, Any] = {
    "shipment_id": "s1",
    "status": "shipped",
    "parts": [{"line": 1, "quantity": 2}],
    "tracking_number": "T-4711",
    "carrier": _CARRIER,
}
EXAMPLES: dict[str, Any] = {
    "CarrierView": _CARRIER,
    "ShipmentDetails": _SHIPMENT,
    "ShipmentList": {"order_uid": _UID, "shipments": [_SHIPMENT]},
}
