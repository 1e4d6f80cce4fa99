"""seeds -> random carts through the real task loop of all domains at once -> what is true of every one of them.

A history is the life of one order. A shop has dozens of them at once, over the same few items and buyers: commands that
come twice or go to the wrong partition, tasks that die and lose their stores, and a payment provider that answers late,
twice, never, or with another amount; a carrier that does so too, out of order, and fetches what it said it would not.

python -m tests.agents.checkout_histories 10000        as many orders, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson

from schemas.accounts import account_id_of
from schemas.purchases import Purchase, order_uid_of
from streams.driver import Driver
from tests.agents import on_demand
from tests.agents.domain import make_app

PARTITIONS = 2
#: Orders of one shop.
TOGETHER = 100
DEPOSIT = 3_000
ITEMS = {f"item-{number}": (pieces, price) for number, (pieces, price) in enumerate(
    (pieces, price) for pieces in (0, 3, 10, 40, 200) for price in (0, 1, 40, 300, 700, 40, 90, 300, 11, 5)
)}  # fmt: skip
BUYERS = [f"buyer-{number}" for number in range(12)]
METHODS = [*["account"] * 5, *["provider"] * 3, "cash_on_delivery"]
LOST = "payment_lost"
DAY_MS = 24 * 3_600_000
CARRIER = {"answer_within_ms": 20_000, "asks": 2, "stale_after_ms": 60_000, "hold_ms": 5_000}


class Shop:
    """One application, everything that was said to it, and the provider it pays with."""

    def __init__(self, driver: Driver, chance: Random, *, whole: bool = True) -> None:
        """`whole`: goods leave by carriers too, and are exchanged."""
        self.driver, self.chance, self._whole = driver, chance, whole
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.orders: list[str] = []
        self.provider, self.carrier = Provider(self), Carrier(self)
        self._number = 0

    def say(self, domain: str, key: str, **said: Any) -> None:
        self._number += 1
        named = {"command_id": f"c{self._number}"} if domain != "carrier" else {}
        word = (domain, key, {**named, **said})
        self.sent.append(word)
        self.send(*word)
        if self.orders and self.chance.random() < 0.1:
            self.send(*self.chance.choice(self.sent))  # again: at once, or much later

    def send(self, domain: str, key: str, said: dict[str, Any]) -> None:
        anywhere = self.chance.randrange(PARTITIONS) if self.orders and self.chance.random() < 0.05 else None
        topic = f"{domain}.commands.v1" if domain != "carrier" else "shipping.responses"
        self.driver.produce(topic, key=key, value=orjson.dumps(said), partition=anywhere)

    async def open(self) -> None:
        for item, (pieces, price) in ITEMS.items():
            what = {"outlet_id": "o", "name": item, "price_minor": price, "currency": "INR", "attributes": {}}
            self.say("inventory", item, type="create_item", item_id=item, **what)
            if pieces:
                self.say("inventory", item, type="adjust_stock", item_id=item, delta=pieces, reason="receive")
        for buyer in BUYERS[:-1]:  # one has no account
            account = account_id_of(buyer, "INR")
            self.say("accounts", account, type="open_account", user_id=buyer, currency="INR")
            self.say("accounts", account, type="deposit", account_id=account, amount_minor=DEPOSIT)
        await self.driver.run()

    def buy(self) -> None:
        chance, id = self.chance, f"cart{len(self.orders)}"
        uid = order_uid_of(id)
        self.orders.append(uid)
        items = chance.sample(sorted(ITEMS), chance.randint(1, 4))
        self.say(
            "purchases",
            uid,
            type="place_cart",
            command_id=id,
            order_uid=uid,
            user_id=chance.choice(BUYERS),
            lines=[{"item_id": item, "quantity": chance.randint(1, 4)} for item in items],
            payment={"method": chance.choice(METHODS)},
            split=chance.random() < 0.3,
            terms={"pay_within_ms": 60_000, "approve_after_ms": chance.choice([0, 0, 5_000, None])},
        )

    def configure(self) -> None:
        """The outlet says how it takes orders from here on, and how their numbers begin."""
        approval = self.chance.choice([None, None, {"mode": "by_hand"}, {"mode": "automatic", "after_ms": 5_000}])
        prefix = self.chance.choice([None, "INV"])
        self.say("outlets", "o", type="configure_outlet", outlet_id="o", approval=approval, number_prefix=prefix)

    def act(self) -> None:
        """Something that a person says of one order, sensible or not. Shipments c and d are the carrier's."""
        chance, uid = self.chance, self.chance.choice(self.orders)
        part = {"line": chance.randint(1, 3), "quantity": chance.randint(1, 2)}
        shipment, back = {"shipment_id": chance.choice("ab")}, {"return_id": chance.choice("rs")}
        said: dict[str, Any] = chance.choice(
            [
                {"type": "approve_order"},
                {"type": "pack_order"},
                *(self._asked_of_carriers(part) if self._whole else ()),
                {"type": "ship_order", **shipment},
                {"type": "ship_order", **shipment, "parts": [part]},
                {"type": "send_out", **shipment},
                {"type": "deliver_shipment", **shipment},
                {"type": "deliver_shipment", **shipment},
                {"type": "return_shipment", **shipment},
                {"type": "request_return", **back, "parts": [part], "reason": "torn"},
                {"type": "approve_return", **back},
                {"type": "refuse_return", **back, "reason": "worn"},
                {"type": "receive_return", **back},
                {"type": "cancel_purchase", "reason": "no", "parts": [part]},
                *[{"type": "cancel_purchase", "reason": "no"}] * (chance.random() < 0.3),
                *[{"type": "reject_order", "reason": "closed"}] * (chance.random() < 0.3),
            ]
        )
        self.say("purchases", uid, order_uid=uid, **said)

    def exchange(self) -> None:
        """One order as it may go; where it is elsewhere, nothing of it fits. What is sent instead may leave later."""
        chance, uid = self.chance, self.chance.choice(self.orders)
        back = {"return_id": chance.choice("xy")}
        part = {"line": chance.randint(1, 5), "quantity": chance.randint(1, 2)}
        shipment = {"shipment_id": chance.choice("efgh")}
        for said in (
            {"type": "ship_order", **shipment},
            {"type": "deliver_shipment", **shipment},
            {"type": "request_return", **back, "parts": [part], "reason": "torn", "exchange": True},
            {"type": "approve_return", **back},
            {"type": "receive_return", **back},
        ):
            self.say("purchases", uid, order_uid=uid, **said)

    def hand_over(self) -> None:
        """One order to the carrier, some of them with second thoughts about it."""
        chance, uid = self.chance, self.chance.choice(self.orders)
        words: list[dict[str, Any]] = [
            {"type": "approve_order"},
            {"type": "pack_order", "carrier": CARRIER},
            *[{"type": "withdraw_shipment", "shipment_id": "s1", "reason": "too dear"}] * (chance.random() < 0.2),
            *[{"type": "cancel_purchase", "reason": "no"}] * (chance.random() < 0.4),
        ]
        for said in words:
            self.say("purchases", uid, order_uid=uid, **said)

    def hurry(self, uid: str) -> None:
        """What can leave leaves, before anybody knows that it will not be paid."""
        for kind in ("ship_order", "send_out", "deliver_shipment")[: self.chance.randint(1, 3)]:
            self.say("purchases", uid, order_uid=uid, type=kind, shipment_id="z")

    def regret(self) -> None:
        """Of what has left and was never paid, some comes back."""
        for uid, purchase in self.driver.rows("purchases").items():
            if not purchase.lost_minor or self.chance.random() < 0.5:
                continue
            back, part = {"return_id": "z"}, {"line": self.chance.randint(1, len(purchase.lines)), "quantity": 1}
            for said in (
                {"type": self.chance.choice(["deliver_shipment", "return_shipment"]), "shipment_id": "z"},
                {"type": "request_return", **back, "parts": [part], "reason": "torn"},
                {"type": "approve_return", **back},
                {"type": "receive_return", **back},
            ):
                self.say("purchases", uid, order_uid=uid, **said)

    def _asked_of_carriers(self, part: dict[str, Any]) -> list[dict[str, Any]]:
        booked = {"shipment_id": self.chance.choice("cd"), "carrier": CARRIER}
        withdrawn = {"shipment_id": self.chance.choice(["c", "d", "s1"]), "reason": "too dear"}
        return [
            {"type": "pack_order", "carrier": CARRIER},
            {"type": "request_shipment", **booked},
            {"type": "request_shipment", **booked, "parts": [part]},
            {"type": "withdraw_shipment", **withdrawn},
        ]


class Provider:
    """Hears what payments ask of the provider, and answers in its own way."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self._known = shop, set[str]()
        self.later: list[tuple[str, dict[str, Any]]] = []
        #: Captures that were said to have failed and came about: told after their voids.
        self._taken: dict[str, int] = {}
        self._after_all: list[tuple[str, dict[str, Any]]] = []

    def answer(self, *, faithful: bool = False) -> None:
        """What was asked since; what it put off before. `faithful`: whatever is open is answered, and nothing else."""
        chance = self.shop.chance
        events = [orjson.loads(record.value or b"") for record in self.shop.driver.read("payments.events.v1")]
        asked, self.later = [*self.later, *self._after_all], []
        self._after_all = []
        asked += [(event["order_uid"], said) for event in events if (said := self._reply(event, faithful)) is not None]
        for uid, said in asked:
            if not faithful and chance.random() < 0.3:
                self.later.append((uid, said))
                continue
            for _ in range(1 + (chance.random() < 0.2)):
                self.shop.say("payments", uid, order_uid=uid, source="callback", **said)

    def _reply(self, event: dict[str, Any], faithful: bool) -> dict[str, Any] | None:
        if event["event_id"] in self._known or event.get("method") != "provider":
            return None
        self._known.add(event["event_id"])
        chance, amount = self.shop.chance, event.get("amount_minor", 0)
        match event["type"]:
            case "payment_requested":
                if chance.random() < 0.2 and not faithful:
                    return None  # lost
                if chance.random() < 0.15:
                    return {"type": "record_decline", "reason": "declined_by_provider"}
                wrong = chance.random() < 0.1
                return {"type": "record_authorisation", "amount_minor": amount + 1 if wrong else amount}
            case "capture_requested":
                if chance.random() < 0.2:
                    self.shop.hurry(event["order_uid"])
                    if int(event["event_id"][:2], 16) % 3 == 0:
                        self._taken[event["order_uid"]] = amount
                    return {"type": "record_failure", "step": "capture", "reason": "declined"}
                return {"type": "record_capture", "amount_minor": amount}
            case "void_requested":
                if (taken := self._taken.pop(event["order_uid"], None)) is not None:
                    self._after_all.append((event["order_uid"], {"type": "record_capture", "amount_minor": taken}))
                return {"type": "record_void"}
            case "refund_requested":
                return {"type": "record_refund", "refund_id": event["refund_id"], "amount_minor": amount}
            case _:
                return None


class Carrier:
    """Hears most of what it is asked, does what it likes of it, and says so as it likes. What it does, it did."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self._known, self._said = shop, set[str](), 0
        #: Of each parcel: all that was done with it, in order.
        self.done: dict[tuple[str, str], list[str]] = {}
        self._wish: dict[tuple[str, str], str] = {}
        self._later: list[tuple[tuple[str, str], str]] = []

    def answer(self, *, faithful: bool = False) -> None:
        """`faithful`: it does all that is left to do, and says all that it has done, in order."""
        chance, told = self.shop.chance, self._later
        self._later = []
        for parcel in self._asked(faithful):  # asked again, it says it again
            told += [(parcel, status) for status in self.done[parcel]]
        for parcel, done in self.done.items():
            while (doing := self._next(parcel, done)) and (faithful or chance.random() < 0.4):
                done.append(doing)
                if faithful or chance.random() < 0.8:  # else lost
                    told.append((parcel, doing))
        if not faithful and chance.random() < 0.5:
            chance.shuffle(told)
        for parcel, status in told:
            if not faithful and chance.random() < 0.2:
                self._later.append((parcel, status))
            else:
                self._say(parcel, status)

    def _asked(self, faithful: bool) -> list[tuple[str, str]]:
        asked = []
        for record in self.shop.driver.read("shipping.events"):
            event = orjson.loads(record.value or b"")
            if event["type"] != "carrier_asked" or event["event_id"] in self._known:
                continue
            self._known.add(event["event_id"])
            if faithful or self.shop.chance.random() < 0.7:  # else it did not hear
                parcel = event["order_uid"], event["shipment_id"]
                self.done.setdefault(parcel, [])
                self._wish[parcel] = event["what"]
                asked.append(parcel)
        return asked if not faithful else list(self.done)

    def _next(self, parcel: tuple[str, str], done: list[str]) -> str | None:
        """What it does next with a parcel; None: it is at its end."""
        chance, wish = self.shop.chance, self._wish[parcel]
        fetched = "picked_up" in done
        if {"delivered", "returned_to_origin"} & set(done):
            return None
        if not fetched:
            if "cancelled" in done:
                return "picked_up" if chance.random() < 0.02 else None
            if wish == "cancel" and chance.random() < 0.8:
                return "cancelled"
            return "registered" if not done else chance.choice(["picked_up", "picked_up", "failed"])
        if wish == "recall" and chance.random() < 0.7:
            return "returned_to_origin"
        return chance.choice(["out_for_delivery", "failed", "delivered", "delivered", "returned_to_origin"])

    def _say(self, parcel: tuple[str, str], status: str) -> None:
        self._said += 1
        uid, shipment = parcel
        said = {"response_id": f"{shipment}-{status}-{self._said}", "order_uid": uid, "shipment_id": shipment}
        number = {"tracking_number": f"T-{uid[:8]}-{shipment}"} if status == "registered" else {}
        self.shop.say("carrier", uid, **said, status=status, **number)


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER orders; raises AssertionError where one is not as it must be. Gives how many stand in which status."""
    chance = Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app, batch_max_records=chance.choice([1, 7, *[1_000] * 6])) as driver:
        shop = Shop(driver, chance)
        await shop.open()
        while len(shop.orders) < TOGETHER:
            for _ in range(chance.randint(1, 12)):
                shop.buy()
            for _ in range(chance.randint(0, 60)):
                shop.act()
            for _ in range(chance.randint(0, 12)):
                shop.exchange()
            shop.regret()
            if chance.random() < 0.3:
                shop.configure()
            if chance.random() < 0.2:
                group = chance.choice(["orders", "accounts", "inventory"])
                await driver.start(group, chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await driver.run()
            shop.provider.answer()
            shop.carrier.answer()
            check_always(driver)
            await driver.advance(chance.choice([0, 10, 1_000, 20_000]))
        for _ in range(12):  # everything is answered, every deadline passes
            shop.provider.answer(faithful=True)
            shop.carrier.answer(faithful=True)
            await driver.advance(90_000)
        await driver.advance(30 * DAY_MS)
        seen = check_whole(driver)
        seen += check_parcels(driver, shop.carrier) + check_exchanges(driver) + check_losses(driver)
        if replay:
            tables = [name for group in app.groups.values() for name in group.tables]
            before = {name: driver.rows(name) for name in tables}
            sent = {
                name: len(driver.read(name))
                for name in ("purchases.events.v1", "payments.commands.v1", "shipping.events")
            }
            await driver.replay()
            await driver.run()
            assert {name: driver.rows(name) for name in tables} == before
            assert {name: len(driver.read(name)) for name in sent} == sent, "a replay sends nothing again"
        return seen


def check_always(driver: Driver) -> None:
    """After every batch: nothing is oversold, nobody is overdrawn, money adds up to zero."""
    for item in driver.rows("items").values():
        assert 0 <= item.reserved <= item.on_hand, item
    sums = 0
    for account in driver.rows("accounts").values():
        sums += account.balance_minor
        assert account.user_id is None or 0 <= account.held_minor <= account.balance_minor, account
    assert sums == 0


def check_whole(driver: Driver) -> Counter[str]:
    """At the end: money equals goods, and nothing is held or reserved for nobody."""
    check_always(driver)
    letters = driver.read("dead_letters.v1")
    assert not letters, letters[0]
    purchases: dict[str, Purchase] = driver.rows("purchases")
    payments = driver.rows("payments")
    reserved, gone, spent, held = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for purchase in purchases.values():
        assert purchase.status not in ("placed", "awaiting_payment", "delivered"), purchase
        assert purchase.refunded_minor >= purchase.refund_minor, "what was asked back came back"
        for line in purchase.lines:
            if purchase.ended is None:
                reserved[line.item_id] += line.wanted - line.shipped
                gone[line.item_id] += line.shipped - line.returned
        for shipment in purchase.shipments:
            for part in shipment.parts if shipment.state == "lost" else ():
                gone[purchase.lines[part.line - 1].item_id] += part.quantity
        assert not purchase.promised, ("a carrier has the last word", purchase)
        kept = purchase.captured_minor - purchase.refund_minor
        owed = 0 if purchase.ended else sum((x.wanted - x.returned) * (x.price_minor or 0) for x in purchase.lines)
        asked = purchase.capture_minor or purchase.status in ("completed", "return_requested")
        due = owed if asked else 0
        assert kept + purchase.lost_minor == due, (kept, due, purchase)
        if purchase.payment.method == "account":
            spent[purchase.user_id] += kept
            if purchase.status == "paid":
                held[purchase.user_id] += purchase.authorised_minor
        payment = payments.get(purchase.order_uid)
        if payment is not None:
            assert payment.captured_minor - payment.refunded_minor == kept, (payment, purchase)
    gone -= _sold_meanwhile(driver)
    for item in driver.rows("items").values():
        there = ITEMS[item.item_id][0] - gone[item.item_id]
        assert (item.on_hand, item.reserved) == (there, reserved[item.item_id]), item
    for account in driver.rows("accounts").values():
        if account.user_id is not None:
            standing = (account.balance_minor, account.held_minor)
            assert standing == (DEPOSIT - spent[account.user_id], held[account.user_id]), account
    _check_versions(driver)
    _check_numbers(purchases.values())
    return Counter(str(purchase.status) for purchase in purchases.values())


def _sold_meanwhile(driver: Driver) -> Counter[str]:
    """What a carrier gave back by its word, and delivered when another order had it: the stock says so by a refusal."""
    told = _read(driver, "inventory.events.v1")
    refused = {event["caused_by"] for event in told if event["type"] == "inventory_command_refused"}
    short = Counter[str]()
    for command in _read(driver, "inventory.commands.v1"):
        if command["type"] == "adjust_stock" and command["reason"] == "lost" and command["command_id"] in refused:
            short[command["item_id"]] -= command["delta"]
    return short


def _read(driver: Driver, topic: str) -> Iterator[dict[str, Any]]:
    return (orjson.loads(record.value or b"") for record in driver.read(topic))


def check_parcels(driver: Driver, carrier: Carrier) -> Counter[str]:
    """What was done with a parcel is what the books say of it. Gives how many were lost, and how many came back."""
    purchases: dict[str, Purchase] = driver.rows("purchases")
    seen = Counter[str]()
    for (uid, shipment_id), done in carrier.done.items():
        shipment = purchases[uid].shipment(shipment_id)
        assert shipment is not None, "what was never asked for was never done"
        end = next((each for each in done if each in ("delivered", "returned_to_origin")), "cancelled")
        expected = {"delivered": ("delivered", "lost"), "returned_to_origin": ("returned_to_origin", "cancelled")}
        assert shipment.state in expected.get(end, ("cancelled",)), (done, shipment)
        seen[f"parcel {shipment.state}"] += 1
    return seen


def check_exchanges(driver: Driver) -> Counter[str]:
    """Whatever came back for the same again was sent, or paid back. Gives how many lines were, and how many not."""
    seen = Counter[str]()
    for purchase in driver.rows("purchases").values():
        for line in purchase.lines:
            again = [each for each in purchase.lines if each.replaces == line.line]
            assert not line.exchanging, "the stock has answered"
            assert line.exchanged == sum(each.reserved for each in again) <= line.returned
            seen.update("line paid back" if each.refused else "line exchanged" for each in again)
    return seen


def check_losses(driver: Driver) -> Counter[str]:
    """All that was asked for came, or is known to be lost, and was told once; some of it came after all.

    Gives how many have lost some, and of how many that was made good.
    """
    told = Counter(event["order_uid"] for event in _read(driver, "purchases.events.v1") if event["type"] == LOST)
    good = 0
    for purchase in driver.rows("purchases").values():
        if purchase.ended is None:
            assert purchase.capture_minor == purchase.captured_minor + purchase.failed_minor, purchase
        assert (purchase.failed_minor > 0) <= told[purchase.order_uid] <= 1, purchase
        good += told[purchase.order_uid] > (purchase.failed_minor > 0)
    return Counter({"payment lost": len(told), "loss made good": good})


def _check_numbers(purchases: Iterable[Purchase]) -> None:
    """What was approved has a number, nothing else has one, and each series is whole."""
    series: dict[str, list[int]] = defaultdict(list)
    for purchase in purchases:
        assert (purchase.order_number is not None) == purchase.approved, purchase
        if purchase.order_number is not None:
            prefix, _, sequence = purchase.order_number.rpartition("/")
            series[prefix].append(int(sequence))
    assert all(sorted(given) == list(range(1, len(given) + 1)) for given in series.values()), series


def _check_versions(driver: Driver) -> None:
    versions: dict[str, list[int]] = defaultdict(list)
    for record in driver.read("purchases.events.v1"):
        event = orjson.loads(record.value or b"")
        if event["type"] not in ("purchase_command_refused", "carrier_noted"):
            versions[event["order_uid"]].append(event["version"])
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values()), "versions step by one"


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
