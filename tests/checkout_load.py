"""a seed -> the same shoppers again: carts, money, second thoughts and parcels, over HTTP and onto the topics.

Each cart has its own chance, so that cart `n` does not depend on how many were made before it. Of the buyers some have
no account and some too little money; most items are few. Of what is sent to a topic one in ten comes twice, one in
twenty goes to the wrong partition, one in a hundred is no command at all; what is sent over HTTP is sent again, under
its key, until somebody answers. How the payment provider behaves is in the name of the instrument (local/sandbox.py),
how the carrier that fetches about half of the parcels does in the address (local/carrier.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import aiohttp
from confluent_kafka import KafkaError, Message, Producer

from tests.oracle.bought import ACCOUNTS, INVENTORY, PURCHASES, Domain, account_of, order_of
from tests.oracle.log import Position, derived

ITEMS, BUYERS = 50, 60
HOME = -1  # the producer's partitioner decides
CURRENCY = "INR"
#: Those of the sandbox's moods that a cart may meet; the first is the usual one.
MOODS = (
    *["sandbox:"] * 5,
    *("sandbox:repeat", "sandbox:lose-callback", "sandbox:decline", "sandbox:pending", "sandbox:pending+repeat"),
    *("sandbox:pending+lose-callback", "sandbox:pending+wrong-signature", "sandbox:wrong-signature"),
    *("sandbox:wrong-amount", "sandbox:paid", "sandbox:paid+repeat", "sandbox:lose-answer=2", "sandbox:error=2"),
    *("sandbox:paid+lose-answer=9", "sandbox:delay=2", "sandbox:paid+delay=2+repeat"),
)
#: The carrier's, of those in which every word that counts is said in the end; the first is the usual one.
CARRIER_MOODS = (
    *["sandbox:delay=0.3"] * 4,
    *("sandbox:delay=0.3+repeat", "sandbox:delay=0.2+fail=2", "sandbox:delay=0.3+return", "sandbox:delay=0.2+disorder"),
    *("sandbox:delay=0.2+lose=picked_up", "sandbox:delay=0.2+lose=registered+repeat", "sandbox:delay=0.1+deaf=1"),
    *("sandbox:delay=1+stubborn", "sandbox:delay=1+stubborn+return", "sandbox:delay=0.5+lose=all"),
)
METHODS = (*["account"] * 9, *["provider"] * 9, *["cash_on_delivery"] * 2)
#: What workers are started with, so that a life of weeks takes seconds. A provider that takes 2 s is too late.
TERMS = {
    "ORDERSTREAM_PAY_WITHIN_MS": "45000",
    "ORDERSTREAM_APPROVE_AFTER_MS": "300",
    "ORDERSTREAM_RETURN_WITHIN_MS": "4000",
    "ORDERSTREAM_PROVIDER_TIMEOUT_MS": "1500",
    "ORDERSTREAM_CARRIER": "topic",
    "ORDERSTREAM_CARRIER_ANSWER_WITHIN_MS": "3000",
    "ORDERSTREAM_CARRIER_ASKS": "3",
    "ORDERSTREAM_CARRIER_HOLD_MS": "2000",
}
#: The same, in a command of its own.
ON_TERMS = {"answer_within_ms": 2_500, "asks": 3, "hold_ms": 1_500}
#: Somebody must know in the end: longer than a broker is away in any run.
PATIENCE_S = 240.0
LIFE = ("pack", "shipments", "shipments/{shipment}/out-for-delivery", "shipments/{shipment}/delivered")
BACK = ("returns", "returns/{back}/approve", "returns/{back}/receive")
ENDED = ("rejected", "cancelled", "expired")
#: Path of an action -> the command that it is on the topic.
WORDS = {
    "approve": "approve_order",
    "reject": "reject_order",
    "pack": "pack_order",
    "shipments": "ship_order",
    "shipments/{shipment}/out-for-delivery": "send_out",
    "shipments/{shipment}/delivered": "deliver_shipment",
    "shipments/{shipment}/returned-to-origin": "return_shipment",
    "shipments/{shipment}/cancel": "withdraw_shipment",
    "returns": "request_return",
    "returns/{back}/approve": "approve_return",
    "returns/{back}/refuse": "refuse_return",
    "returns/{back}/receive": "receive_return",
    "cancel": "cancel_purchase",
}
REASON: dict[str, Any] = {"reason": "as things go"}
#: With it over HTTP a shipment waits for the carrier; on the topic that is a command of its own.
FETCHED = {"shipments": "request_shipment"}
POISON = (b"a parcel", b"[]", b'{"type":"bribe","command_id":"x"}', b'{"type":"pack_order","command_id":"x"}', b"")


def item(number: int, seed: int) -> tuple[str, int, int]:
    """An item, how many pieces there are of it, and its price. One in ten is free, one in ten is not there."""
    pieces = (0, 2, 5, 12, 25, 25, 60, 60, 150, 400)[number % 10]
    return f"item{seed}-{number}", pieces, (0, 40, 300, 700, 90, 11, 5, 1200, 260, 35)[(number * 3 + 1) % 10]


def buyer(number: int, seed: int) -> tuple[str, int | None]:
    """A buyer and what is put into the account; None: there is no account."""
    return f"buyer{seed}-{number}", None if number % 15 == 0 else (150, 900, 4_000, 9_000, 30_000)[number % 5]


class Wire(Protocol):
    """What the load needs of a broker: records are taken, and where they stand is known in the end."""

    partitions: int
    taken: set[Position]
    failures: list[str]

    def put(self, topic: str, key: bytes, value: bytes, partition: int = HOME) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class KafkaWire:
    """librdkafka. Waits for a broker that is away: what was begun is acknowledged in the end."""

    def __init__(self, bootstrap: str) -> None:
        self.taken, self.failures = set[Position](), list[str]()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
            }
        )
        topic = PURCHASES.commands
        self.partitions = len(self._producer.list_topics(topic, 10).topics[topic].partitions)

    def put(self, topic: str, key: bytes, value: bytes, partition: int = HOME) -> None:
        self._producer.produce(topic, value, key, partition, on_delivery=self._told)
        self._producer.poll(0)

    def flush(self) -> None:
        left = self._producer.flush(250)
        assert not left, f"{left} commands were not taken by the broker within 250 s"

    def close(self) -> None:
        """A producer left open would look for the broker for ever."""
        self._producer.close()

    def _told(self, error: KafkaError | None, message: Message) -> None:
        topic, at, offset = message.topic(), message.partition(), message.offset()
        if error is not None or topic is None or at is None or offset is None:
            self.failures.append(f"a command: {error}")
        else:
            self.taken.add(Position(topic, at, offset))


@dataclass
class CheckoutLoad:
    """Shoppers. `urls` may change while they are at it; `placed` are orders of which somebody said that they are."""

    wire: Wire
    seed: int
    urls: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    acknowledged: set[Position] = field(default_factory=set)  # over HTTP, as workers answered
    placed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    carts: int = 0

    def __post_init__(self) -> None:
        self._chance = Random(f"way {self.seed}")
        self._session: aiohttp.ClientSession | None = None
        self._lives: set[asyncio.Task[None]] = set()
        self._going = False
        self._runner: asyncio.Task[None] | None = None

    # -- the run -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """The catalogue with its stock, the accounts with their money; acknowledged."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        for number in range(ITEMS):
            id, pieces, price = item(number, self.seed)
            about = {"outlet_id": f"outlet-{number % 3}", "name": f"Item {number}", "price_minor": price}
            about |= {"currency": CURRENCY, "attributes": {}}
            self.say(INVENTORY, id, "create_item", f"new-{id}", item_id=id, **about)
            self.say(INVENTORY, id, "change_item", f"low-{id}", item_id=id, low_stock_at=3)
            if pieces:
                self.say(INVENTORY, id, "adjust_stock", f"stock-{id}", item_id=id, delta=pieces, reason="receive")
        for number in range(BUYERS):
            user, deposit = buyer(number, self.seed)
            account = account_of(user, CURRENCY)
            if deposit is not None:
                self.say(ACCOUNTS, account, "open_account", f"open-{user}", user_id=user, currency=CURRENCY)
                self.say(ACCOUNTS, account, "deposit", f"in-{user}", account_id=account, amount_minor=deposit)
        await asyncio.to_thread(self.wire.flush)

    def start(self, per_second: float, count: int | None = None) -> None:
        """Carts at a steady rate, so many or until `stop`."""
        self._going = True
        self._runner = asyncio.create_task(self._run(per_second, count))

    async def begun(self) -> None:
        """Until the last of the carts that `start` was told of."""
        assert self._runner is not None, "it was started"
        await self._runner

    async def stop(self) -> None:
        """No new carts; what was begun is brought to its end and acknowledged. Raises AssertionError when it is not."""
        self._going = False
        if self._runner is not None:
            await self._runner
        if self._lives:
            _, late = await asyncio.wait(self._lives, timeout=PATIENCE_S)
            assert not late, f"{len(late)} carts are not done with after {PATIENCE_S:.0f} s"
        await asyncio.to_thread(self.wire.flush)
        if self._session is not None:
            await self._session.close()
        found = [*self.failures, *self.wire.failures]
        assert not found, found[:3]

    async def aclose(self) -> None:
        """Whatever is still under way is left."""
        for life in self._lives:
            life.cancel()
        if self._session is not None:
            await self._session.close()
        self.wire.close()

    def sent(self) -> frozenset[Position]:
        """Where the commands stand that were put onto topics."""
        return frozenset(self.wire.taken)

    async def _run(self, per_second: float, count: int | None) -> None:
        first, began = self.carts, asyncio.get_running_loop().time()
        while self._going and (count is None or self.carts - first < count):
            life = asyncio.create_task(self._live(self.carts))
            self.carts += 1
            self._lives.add(life)
            life.add_done_callback(self._ended)
            due = began + (self.carts - first) / per_second
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    def _ended(self, life: asyncio.Task[None]) -> None:
        self._lives.discard(life)
        if not life.cancelled() and life.exception() is not None:
            self.failures.append(repr(life.exception()))

    # -- a cart ------------------------------------------------------------------------------------------------------

    async def _live(self, number: int) -> None:
        """One cart and what becomes of it: placed, perhaps regretted, perhaps carried home, perhaps brought back."""
        chance = Random(f"cart {self.seed} {number}")
        by_http = chance.random() < 0.65
        uid, lines = await self._place(chance, number, by_http)
        lot = chance.random()
        if lot < 0.10:
            return
        if lot < 0.22:
            await asyncio.sleep(chance.choice((0.0, 0.05, 0.5, 2.0)))
            await self._do(chance, uid, "cancel", by_http=by_http, reason="second thoughts")
            return
        if not await self._is_approved(chance, uid):
            return
        if lot < 0.32:
            await self._do(chance, uid, "cancel", reason="one too many", parts=[_part(chance, lines)])
        if chance.random() < 0.5:
            await self._hand_over(chance, uid, lines)
        else:
            await self._carry(chance, uid, lines)

    async def _place(self, chance: Random, number: int, by_http: bool) -> tuple[str, int]:
        user, _ = buyer(chance.randrange(BUYERS), self.seed)
        ids = [item(each, self.seed)[0] for each in chance.sample(range(ITEMS), chance.choice((1, 1, 2, 2, 3, 4)))]
        lines = [{"item_id": id, "quantity": chance.choice((1, 1, 2, 3))} for id in ids]
        payment: dict[str, Any] = {"method": chance.choice(METHODS)}
        if payment["method"] == "provider":
            payment["instrument"] = chance.choice(MOODS)
        self.counts[payment.get("instrument", payment["method"])] += 1
        split, key = chance.random() < 0.3, f"cart{self.seed}-{number}"
        address = {"city": "Pune", "carrier": chance.choice(CARRIER_MOODS)}
        if by_http:
            uid = order_of(derived(f"cart\0{user}\0{key}"))
            body = {"user_id": user, "items": lines, "payment": payment, "split": split, "idempotency_key": key}
            body["address"] = address
            status, told = await self._ask("POST", "", body)
            if status != 201 or told["order_id"] != uid:
                self.failures.append(f"cart {number} was answered {status}: {told}")
            if chance.random() < 0.1:
                status, again = await self._ask("POST", "", body)
                if status != 201 or again["order_id"] != uid:
                    self.failures.append(f"cart {number} sent again was answered {status}: {again}")
        else:
            uid = order_of(key)
            terms = {"pay_within_ms": 40_000, "approve_after_ms": chance.choice((0, 0, 1_000, None))}
            cart = {"order_uid": uid, "user_id": user, "lines": lines, "payment": payment, "split": split}
            cart["address"] = address
            cart["terms"] = {**terms, "return_within_ms": 3_000}
            self.say(PURCHASES, uid, "place_cart", key, **cart)
            if chance.random() < 0.05:
                rival = {**cart, "lines": [{**lines[0], "quantity": 7}]}
                self.say(PURCHASES, uid, "place_cart", f"rival-{key}", **rival)
                lines = lines[:1]  # whichever of the two came first, its first line is this
        self.placed.append(uid)
        return uid, len(lines)

    async def _is_approved(self, chance: Random, uid: str) -> bool:
        """Wait for it as a seller does who looks at his list now and then, and says his word where it is wanted."""
        for _ in range(60):
            status, order = await self._ask("GET", f"/{uid}")
            if status == 200 and order["status"] in ENDED:
                return False
            if status == 200 and order["status"] == "paid" and chance.random() < 0.5:
                if chance.random() < 0.85:
                    await self._do(chance, uid, "approve")
                else:
                    await self._do(chance, uid, "reject", reason="closed today")
            elif status == 200 and order["status"] not in ("placed", "awaiting_payment", "paid"):
                return True
            if not self._going:  # the shop is closed: what is not approved by now waits, or comes to its end by itself
                return False
            await asyncio.sleep(chance.uniform(0.2, 1.2))
        return False

    async def _carry(self, chance: Random, uid: str, lines: int) -> None:
        """Pack, ship, deliver, take back: so far as it goes, sometimes out of turn."""
        steps = [*LIFE, *BACK][: chance.choice((0, 1, 2, 3, 4, 4, 4, 5, 7, 7, 7))]
        if chance.random() < 0.1:
            steps = [chance.choice((*steps, "cancel")) if chance.random() < 0.4 else step for step in steps]
        if chance.random() < 0.15 and len(steps) >= 4:
            steps[3:] = ["shipments/{shipment}/returned-to-origin"]
        if chance.random() < 0.1 and len(steps) >= 6:
            steps[5:] = ["returns/{back}/refuse"]
        for step in steps:
            more: dict[str, Any] = {"carrier": False} if step == "pack" else {}
            more |= dict(REASON) if step in ("cancel", "returns", "returns/{back}/refuse") else {}
            if step == "shipments" and chance.random() < 0.2:
                more["parts"] = [_part(chance, lines)]
            if step == "returns":
                more["parts"] = [_part(chance, lines)]
            await self._do(chance, uid, step, **more)
            await asyncio.sleep(chance.uniform(0, 0.15))
        if steps and steps[-1] == LIFE[-1] and chance.random() < 0.4:
            await self._exchange(chance, uid, lines)

    async def _hand_over(self, chance: Random, uid: str, lines: int) -> None:
        """To the carrier, in one parcel or two; some think better of it. What arrives is kept, or exchanged."""
        if chance.random() < 0.3:
            await self._do(chance, uid, "shipments", carrier=True, parts=[_part(chance, lines)], shipment="c1")
        await self._do(chance, uid, "pack", carrier=True)
        if chance.random() < 0.25:
            await asyncio.sleep(chance.choice((0.0, 0.3, 1.0)))
            await self._do(chance, uid, "shipments/{shipment}/cancel", **REASON)
        if chance.random() < 0.15:
            await self._do(chance, uid, "cancel", **REASON)
        for _ in range(20):
            await asyncio.sleep(chance.uniform(0.2, 0.6))
            status, order = await self._ask("GET", f"/{uid}")
            if not self._going or (status == 200 and order["status"] in (*ENDED, "returned", "completed")):
                return
            if status == 200 and order["status"] == "delivered":
                break
        if chance.random() < 0.6:
            await self._exchange(chance, uid, lines)

    async def _exchange(self, chance: Random, uid: str, lines: int) -> None:
        """For the same again, which is then sent: by hand, or by the carrier."""
        part = _part(chance, lines)
        await self._do(chance, uid, "returns", parts=[part], exchange=True, back="x", **REASON)
        for step in BACK[1:]:
            await self._do(chance, uid, step, back="x")
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        if chance.random() < 0.5:
            await self._do(chance, uid, "shipments", carrier=True, shipment="x1")
            return
        await self._do(chance, uid, "shipments", shipment="x1")
        await self._do(chance, uid, "shipments/{shipment}/delivered", shipment="x1")

    async def _do(
        self,
        chance: Random,
        uid: str,
        step: str,
        *,
        by_http: bool = True,
        shipment: str = "s1",
        back: str = "r1",
        **said: Any,
    ) -> None:
        """Two of three over HTTP, half of those under a key of their own; the rest onto the topic."""
        kind = WORDS[step]
        self.counts[kind] += 1
        key = f"{kind}-{uid}-{self.counts[kind]}"
        named = {"shipment_id": shipment} if "shipment" in step else {"return_id": back} if "return" in step else {}
        if not by_http or chance.random() < 0.33:
            wanted = said.pop("carrier", False)
            kind = FETCHED.get(step, kind) if wanted else kind
            more = {"carrier": ON_TERMS} if wanted else {}
            self.say(PURCHASES, uid, kind, key, order_uid=uid, **named, **said, **more)
            return
        body = {**said, **(named if step in ("shipments", "returns") else {})}
        headers = {"Idempotency-Key": key} if chance.random() < 0.5 else {}
        path = f"/{uid}/{step.format(shipment=shipment, back=back)}"
        status, told = await self._ask("POST", path, body, headers)
        if status not in (200, 404, 409):
            self.failures.append(f"{path} was answered {status}: {told}")

    # -- the wires ---------------------------------------------------------------------------------------------------

    def say(self, domain: Domain, key: str, kind: str, command_id: str, **said: Any) -> None:
        """A command onto its topic: some twice, some astray, and now and then something that is no command."""
        value = json.dumps({"type": kind, "command_id": command_id, **said}, separators=(",", ":")).encode()
        chance = self._chance
        astray = kind != "create_item" and chance.random() < 0.05
        away = chance.randrange(self.wire.partitions) if astray else HOME
        self.wire.put(domain.commands, key.encode(), value, away)
        if chance.random() < 0.10:
            self.counts["repetition"] += 1
            self.wire.put(domain.commands, key.encode(), value)
        if chance.random() < 0.01:
            self.counts["poison"] += 1
            self.wire.put(domain.commands, key.encode(), chance.choice(POISON))

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Any worker that lives, again and again under the same key, until somebody knows."""
        assert self._session is not None, "the shop is open"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self.urls:
                    url = f"{self._chance.choice(self.urls)}/api/v1/orders{path}"
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                        async with self._session.request(method, url, json=body, headers=headers or {}) as response:
                            told = await response.json(content_type=None)
                            if self._is_known(response, told):
                                return response.status, told
                await asyncio.sleep(0.1)

    def _is_known(self, response: aiohttp.ClientResponse, told: Any) -> bool:
        """An answer that says what became of it. Where it stands on the log is noted."""
        self.counts[f"HTTP {response.status}"] += 1
        position = response.headers.get("Orderstream-Position")
        if position is not None and response.status in (200, 201, 202):
            topic, partition, offset = position.rsplit("-", 2)
            self.acknowledged.add(Position(topic, int(partition), int(offset)))
        in_flight = response.status == 409 and str(told.get("type", "")).endswith("in-flight")
        return response.status not in (202, 429, 502, 503, 504) and not in_flight


def _part(chance: Random, lines: int) -> dict[str, int]:
    return {"line": chance.randint(1, lines), "quantity": chance.choice((1, 1, 1, 2))}
