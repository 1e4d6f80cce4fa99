"""shipments of an order, as it and as its carriers have them -> what callers see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.base import rfc3339
from schemas.purchases import Purchase
from schemas.shipping import Booking
from web.orders.shapes import present_purchase


def present_shipments(purchase: Purchase, bookings: Iterable[Booking]) -> list[dict[str, Any]]:
    """Each shipment, with how its carrier has it; `carrier` null: none was asked."""
    carriers = {booking.shipment_id: present_booking(booking) for booking in bookings}
    shipments: list[dict[str, Any]] = present_purchase(purchase)["shipments"]
    return [{**each, "carrier": carriers.get(each["shipment_id"])} for each in shipments]


def present_booking(booking: Booking) -> dict[str, Any]:
    """A shipment as its carrier has it."""
    again = booking.ask_again_at_ms
    return {
        "stage": booking.stage,
        "asked": booking.asked,
        "asks": booking.asks,
        "ask_again_at": None if again is None else rfc3339(again),
        "failed_attempts": booking.failed_attempts,
        "reason": booking.reason,
        "held": [held.status for held in booking.held],
        "booked_at": booking.booked_at,
        "updated_at": booking.updated_at,
    }
