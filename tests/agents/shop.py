"""The domains of a shop on the test driver: commands in, rows and events out."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import orjson

from agents.wiring import Domains
from schemas.accounts import account_id_of
from schemas.purchases import Purchase, PurchaseCommandRefused, order_uid_of, read_event
from schemas.shipping import Booking, CarrierAsked
from schemas.shipping import read_event as read_shipping
from streams.driver import Driver
from tests.agents.domain import home

BUYER, ACCOUNT = "buyer", account_id_of("buyer", "INR")


class Shop:
    """Commands in, rows out."""

    def __init__(self, driver: Driver, domains: Domains) -> None:
        self.driver, self.domains, self.count = driver, domains, 0

    async def say(self, domain: str, kind: str, key: str, **more: Any) -> str:
        """One command, and everything that follows from it."""
        self.count += 1
        id: str = more.pop("command_id", f"c{self.count}")
        said = {"type": kind, "command_id": id, **more}
        self.driver.produce(f"{domain}.commands.v1", key=key, value=orjson.dumps(said))
        await self.driver.run()
        return id

    async def stock(self, item: str, pieces: int, price: int, currency: str = "INR") -> None:
        what = {"outlet_id": "o1", "name": item, "price_minor": price, "currency": currency, "attributes": {}}
        await self.say("inventory", "create_item", item, item_id=item, **what)
        await self.say("inventory", "adjust_stock", item, item_id=item, delta=pieces, reason="receive")

    async def fund(self, amount: int) -> None:
        await self.say("accounts", "open_account", ACCOUNT, user_id=BUYER, currency="INR")
        await self.say("accounts", "deposit", ACCOUNT, account_id=ACCOUNT, amount_minor=amount)

    async def buy(self, *lines: tuple[str, int], method: str = "account", **more: Any) -> str:
        """A cart; gives its order_uid."""
        self.count += 1
        uid = order_uid_of(f"c{self.count}")
        cart = [{"item_id": item, "quantity": quantity} for item, quantity in lines]
        said = {"order_uid": uid, "user_id": BUYER, "lines": cart, "payment": {"method": method}, **more}
        await self.say("purchases", "place_cart", uid, command_id=f"c{self.count}", **said)
        return uid

    async def lead(self, uid: str, kind: str, **more: Any) -> None:
        await self.say("purchases", kind, uid, order_uid=uid, **more)

    async def answer(self, uid: str, status: str, shipment: str = "s1", **more: Any) -> None:
        """What a carrier says, and everything that follows from it."""
        self.count += 1
        said = {"response_id": f"r{self.count}", "order_uid": uid, "shipment_id": shipment, "status": status}
        partition = more.pop("partition", None)
        if status == "registered":
            said["tracking_number"] = "T-1"
        self.driver.produce("shipping.responses", key=uid, value=orjson.dumps({**said, **more}), partition=partition)
        await self.driver.run()

    def booking(self, uid: str, shipment: str = "s1") -> Booking:
        with self.reading("orders", uid):
            found = self.domains.shipping.booking(uid, shipment)
        assert found is not None
        return found

    def asked(self, uid: str) -> list[tuple[str, int]]:
        """What the carrier was asked of an order: what, and which time."""
        events = [read_shipping(record.value or b"") for record in self.driver.read("shipping.events")]
        return [(e.what, e.ask) for e in events if isinstance(e, CarrierAsked) and e.order_uid == uid]

    def timeline(self, uid: str) -> list[tuple[str, str | None]]:
        """Type and reason of everything in an order's timeline."""
        with self.reading("orders", uid):
            return [(entry.type, entry.reason) for _, entry in self.domains.orders.timeline(uid)]

    def order(self, uid: str) -> Purchase:
        with self.reading("orders", uid):
            found = self.domains.purchases.purchase(uid)
        assert found is not None
        return found

    def stock_of(self, item: str) -> tuple[int, int]:
        """On hand, reserved."""
        with self.reading("inventory", item):
            found = self.domains.inventory.item(item)
        assert found is not None
        return found.on_hand, found.reserved

    def money(self) -> tuple[int, int]:
        """Balance, held."""
        with self.reading("accounts", ACCOUNT):
            found = self.domains.accounts.account(ACCOUNT)
        assert found is not None
        return found.balance_minor, found.held_minor

    def reading(self, group: str, key: str) -> AbstractContextManager[None]:
        """As `app.reading` does in a worker, at the key's home."""
        return self.driver.reading(group, home(key))

    def happened(self, uid: str) -> list[str]:
        """The events of an order, refusals with their reason."""
        events = [read_event(record.value or b"") for record in self.driver.read("purchases.events.v1")]
        return [
            f"{event.command}: {event.reason}" if isinstance(event, PurchaseCommandRefused) else event.type
            for event in events
            if event.order_uid == uid
        ]
