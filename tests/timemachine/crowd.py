"""a seed -> very many carts in waves, onto the topics -> a long log of the checkout, beside the shoppers of HTTP."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from tests.checkout_load import BACK, CURRENCY, LIFE, MOODS, REASON, WORDS, CheckoutLoad, buyer, item
from tests.oracle.bought import ACCOUNTS, INVENTORY, PURCHASES, account_of, order_of

#: Numbers of those that only the crowd has: shoppers over HTTP have the first ones.
ITEMS, BUYERS = range(100, 500), range(100, 700)
#: More than all carts together take, so that a dearer thing makes nobody poor.
PLENTY, RICH = 1_000_000, 10**11
#: One buyer in fifteen has no account, one in fifteen an empty one.
EMPTY = 1
METHODS = (*["account"] * 15, *["provider"] * 3, *["cash_on_delivery"] * 2)
TERMS = {"pay_within_ms": 60_000, "approve_after_ms": 0, "return_within_ms": 5_000}


class Crowd(CheckoutLoad):
    """Shoppers, and with each wave many more carts whose lives are told in advance."""

    async def furnish(self) -> None:
        """What the crowd buys, and what it pays with."""
        for number in ITEMS:
            id, pieces, price = item(number, self.seed)
            about = {"outlet_id": f"outlet-{number % 3}", "name": f"Item {number}", "price_minor": price}
            about |= {"currency": CURRENCY, "attributes": {}}
            self.say(INVENTORY, id, "create_item", f"new-{id}", item_id=id, **about)
            if pieces:
                self.say(INVENTORY, id, "adjust_stock", f"lot-{id}", item_id=id, delta=PLENTY, reason="receive")
        for number in BUYERS:
            user, deposit = buyer(number, self.seed)
            account = account_of(user, CURRENCY)
            if deposit is not None:
                self.say(ACCOUNTS, account, "open_account", f"open-{user}", user_id=user, currency=CURRENCY)
                if number % 15 != EMPTY:
                    self.say(ACCOUNTS, account, "deposit", f"in-{user}", account_id=account, amount_minor=RICH)
        await asyncio.to_thread(self.wire.flush)

    async def wave(self, number: int, count: int) -> list[str]:
        """So many carts at once; gives their ids, for `lead` once they are approved."""
        chance = Random(f"wave {self.seed} {number}")
        placed = [self._put_cart(chance, f"wave{self.seed}-{number}-{cart}") for cart in range(count)]
        await asyncio.to_thread(self.wire.flush)
        return placed

    async def lead(self, number: int, placed: list[str]) -> None:
        """What becomes of a wave: regretted, carried home, brought back; some of it out of turn."""
        chance = Random(f"lives {self.seed} {number}")
        for uid in placed:
            for step in self._life(chance):
                more: dict[str, Any] = dict(REASON) if step in ("cancel", "returns", "returns/{back}/refuse") else {}
                if step == "returns":
                    more["parts"] = [{"line": 1, "quantity": 1}]
                named = {"shipment_id": "s1"} if "shipment" in step else {"return_id": "r1"} if "return" in step else {}
                kind = WORDS[step]
                self.counts[kind] += 1
                self.say(PURCHASES, uid, kind, f"{kind}-{uid}", order_uid=uid, **named, **more)
        await asyncio.to_thread(self.wire.flush)

    def _life(self, chance: Random) -> list[str]:
        lot = chance.random()
        if lot < 0.10:
            return []
        if lot < 0.18:
            return ["cancel"]
        steps = [*LIFE, *BACK][: chance.choice((1, 3, 4, 4, 4, 4, 7, 7))]
        if chance.random() < 0.05:
            steps[3:] = ["shipments/{shipment}/returned-to-origin"]
        if len(steps) > 5 and chance.random() < 0.15:
            steps[5:] = ["returns/{back}/refuse"]
        return steps

    def _put_cart(self, chance: Random, key: str) -> str:
        user, _ = buyer(chance.choice(BUYERS), self.seed)
        ids = [item(each, self.seed)[0] for each in chance.sample(ITEMS, chance.choice((1, 2, 2, 3)))]
        payment: dict[str, Any] = {"method": chance.choice(METHODS)}
        if payment["method"] == "provider":
            payment["instrument"] = chance.choice(MOODS)
        self.counts[payment.get("instrument", payment["method"])] += 1
        uid = order_of(key)
        lines = [{"item_id": id, "quantity": chance.choice((1, 1, 2))} for id in ids]
        cart = {"order_uid": uid, "user_id": user, "lines": lines, "payment": payment, "split": chance.random() < 0.3}
        self.say(PURCHASES, uid, "place_cart", key, **cart, terms=TERMS)
        return uid
