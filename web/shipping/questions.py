"""a question about shipments -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from tables.orders import GROUP
from tables.purchases import PurchaseTables
from tables.shipping import ShippingTables
from web.asking import Answer, Desk, Question
from web.shipping.shapes import present_shipments


class ShippingQuestions:
    """What the owner of an order can be asked about its shipments."""

    def __init__(self, desk: Desk, purchases: PurchaseTables, shipping: ShippingTables) -> None:
        self._purchases, self._shipping = purchases, shipping
        self.shipments = desk.learn(Question("shipments", GROUP, self._shipments))

    def _shipments(self, args: Mapping[str, str]) -> Answer:
        uid = args["order_uid"]
        purchase = self._purchases.purchase(uid)
        if purchase is None:
            return Answer({"version": None})
        shipments = present_shipments(purchase, self._shipping.bookings_of(uid))
        return Answer({"version": purchase.version, "shipments": shipments})
