"""Shipping: events -> rows -> a shipment as its carrier has it; what was answered. Tables of the group `orders`.

bookings            order_uid NUL shipment_id -> Booking
shipping_answers    order_uid NUL id -> b""        a command_id, or the cause of a response
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.shipping import Booking
from streams import App, Codec, Table
from tables.orders import GROUP


@dataclass(frozen=True)
class ShippingTables:
    """The tables of shipping. Reads work in the group's agents and within `app.reading("orders", partition)`."""

    bookings: Table[Booking]
    answers: Table[bytes]

    def booking(self, order_uid: str, shipment_id: str) -> Booking | None:
        """The shipment as its carrier has it."""
        return self.bookings.get(f"{order_uid}\0{shipment_id}")

    def bookings_of(self, order_uid: str) -> Iterator[Booking]:
        """Every shipment of an order that a carrier was asked for, by its id."""
        for _, booking in self.bookings.range(f"{order_uid}\0"):
            yield booking

    def answered(self, order_uid: str, id: str) -> bool:
        """Whether this has come before, however long ago."""
        return self.answers.get(f"{order_uid}\0{id}") is not None

    def keep(self, booking: Booking) -> None:
        self.bookings[f"{booking.order_uid}\0{booking.shipment_id}"] = booking

    def keep_answer(self, order_uid: str, id: str) -> None:
        """Write down that this has come: nothing of it may count twice."""
        self.answers[f"{order_uid}\0{id}"] = b""


def declare(app: App) -> ShippingTables:
    """Declare the tables on the app. Their changelogs are named after them."""
    return ShippingTables(
        bookings=app.Table(
            "bookings", group=GROUP, codec=Codec(Booking.to_json, Booking.from_json), help="Shipments with carriers."
        ),
        answers=app.Table(
            "shipping_answers", group=GROUP, value_type=bytes, help="What has come, so that none counts twice."
        ),
    )


__all__ = ["GROUP", "ShippingTables", "declare"]
