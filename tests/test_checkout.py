"""Buying, over HTTP against real workers on a real Kafka: one buyer's whole story, and a hundred who race for ten."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.processes import ROOT, RunningStack, Worker, Workers

BUYERS, PIECES, PRICE, DEPOSIT = 100, 10, 700, 1_000
#: A session of 6 s, the rebalance after it and a recovery; then whatever had to be asked again.
PATIENCE_S = 300.0


class Client:
    """Asks any worker that lives, again and again under the same key until somebody knows."""

    def __init__(self, session: aiohttp.ClientSession, workers: list[Worker]) -> None:
        self.session, self.workers = session, workers
        #: What was once answered at an address, by version.
        self.seen: dict[tuple[str, int], dict[str, Any]] = {}

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                url = random.choice(self.workers).url + path
                try:
                    async with self.session.request(method, url, json=body) as response:
                        if response.status not in (202, 503):
                            return response.status, await response.json(content_type=None)
                except (aiohttp.ClientError, TimeoutError):
                    pass  # killed, or about to be found dead by the others
                await asyncio.sleep(0.1)

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        return await self.ask("POST", f"/api/v1/{path}", body)

    async def get(self, path: str) -> dict[str, Any]:
        status, told = await self.ask("GET", f"/api/v1/{path}")
        assert status == 200, told
        if "version" in told and "?" not in path:
            self.seen[path, told["version"]] = told
        return told

    async def stocked(self, item: str, pieces: int, price: int) -> None:
        about = {"outlet_id": "outlet-1", "name": item, "price_minor": price, "currency": "INR", "attributes": {}}
        assert (await self.post("items", item_id=item, idempotency_key="new", **about))[0] in (200, 201)
        stock = {"delta": pieces, "reason": "receive", "idempotency_key": "first"}
        assert (await self.post(f"items/{item}/stock", **stock))[0] == 201

    async def until(self, path: str, member: str, wanted: object) -> dict[str, Any]:
        """What stands there, once `member` is so: what money does after an answer comes a moment later."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                told = await self.get(path)
                if told[member] == wanted:
                    return told
                await asyncio.sleep(0.05)


@pytest.fixture
def three(clean_stack: RunningStack, workers: Workers) -> list[Worker]:
    clean_stack.faust("topics", "create")
    started = [workers.start(wait=False, env={"ORDERSTREAM_SINK": "false"}) for _ in range(3)]
    for worker in started:
        worker.wait_ready()
    return started


async def test_one_buyers_story_and_a_hundred_who_race_for_ten(
    three: list[Worker], clean_stack: RunningStack, tmp_path: Path
) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        client = Client(session, list(three))
        await the_story(client)
        await the_race(client, three[2])
        await the_past(client, clean_stack)
    await asyncio.to_thread(the_proof, clean_stack, tmp_path / "balance.json")


async def the_story(client: Client) -> None:
    await client.stocked("cheap", 5, 300)
    await client.stocked("dear", 5, 30_000)

    async def buy(item: str, key: str, **more: Any) -> dict[str, Any]:
        cart = {"item_id": item, "quantity": 1, "user_id": "ann", "idempotency_key": key, **more}
        status, order = await client.post("orders", **cart)
        assert status == 201, order
        return order

    nobody = await buy("cheap", "1")
    assert (nobody["status"], nobody["reason"], nobody["detail"]) == ("rejected", "payment_failed", "no_such_account")
    status, account = await client.post("accounts", user_id="ann", currency="INR")
    assert status == 201
    status, again = await client.post("accounts", user_id="ann", currency="INR")
    assert (status, again["account_id"]) == (200, account["account_id"])
    assert (await buy("cheap", "2"))["detail"] == "insufficient_funds"
    money = f"accounts/{account['account_id']}"
    assert (await client.post(f"{money}/deposits", amount_minor=-5))[0] == 422
    assert (await client.get(money))["balance_minor"] == 0
    assert (await client.post(f"{money}/deposits", amount_minor=1_000, idempotency_key="d"))[0] == 201

    finished = await buy("cheap", "3")
    assert (finished["status"], finished["total_minor"], finished["currency"]) == ("approved", 300, "INR")
    assert (await buy("cheap", "3"))["order_id"] == finished["order_id"], "the same cart is the same order"
    assert (await buy("dear", "4"))["status"] == "rejected"
    debited = await client.until(money, "balance_minor", 700)
    assert debited["held_minor"] == 0, "debited once, and not for the dear one"
    mine = (await client.get("orders?user_id=ann"))["orders"]
    assert Counter(order["status"] for order in mine) == {"rejected": 3, "approved": 1}

    order = finished["order_id"]
    back = {"return_id": "r1", "parts": [{"line": 1, "quantity": 1}], "reason": "torn"}
    life: list[tuple[str, dict[str, Any], str]] = [
        ("pack", {}, "packed"),
        ("shipments", {"shipment_id": "s1"}, "shipped"),
        ("shipments/s1/out-for-delivery", {}, "out_for_delivery"),
        ("shipments/s1/delivered", {}, "delivered"),
        ("returns", back, "return_requested"),
        ("returns/r1/approve", {}, "return_requested"),
        ("returns/r1/receive", {}, "returned"),
    ]
    for action, body, after in life:
        status, told = await client.post(f"orders/{order}/{action}", **body)
        assert (status, told["status"]) == (200, after), told
    refused = await client.post(f"orders/{order}/cancel", reason="too late")
    assert (refused[0], refused[1]["reason"]) == (409, "not_in_this_status")
    await client.until(money, "balance_minor", 1_000)
    item = await client.get("items/cheap")
    assert (item["on_hand"], item["reserved"]) == (5, 0)


async def the_race(client: Client, victim: Worker) -> None:
    """One of the three workers is killed while they ask: exactly ten are sold, nothing is held or reserved for ever."""
    await client.stocked("scarce", PIECES, PRICE)

    async def ready(buyer: str) -> str:
        _, account = await client.post("accounts", user_id=buyer, currency="INR")
        money = f"accounts/{account['account_id']}"
        assert (await client.post(f"{money}/deposits", amount_minor=DEPOSIT, idempotency_key="d"))[0] == 201
        return money

    buyers = [f"buyer-{number}" for number in range(BUYERS)]
    accounts = await asyncio.gather(*(ready(buyer) for buyer in buyers))
    answered = asyncio.Event()
    done: list[dict[str, Any]] = []

    async def buy(buyer: str) -> None:
        cart = {"user_id": buyer, "items": [{"item_id": "scarce", "quantity": 1}], "idempotency_key": "race"}
        status, order = await client.post("orders", **cart)
        assert status == 201, order
        done.append(order)
        if len(done) >= BUYERS // 10:
            answered.set()

    async def strike() -> None:
        await answered.wait()
        client.workers.remove(victim)
        victim.kill()

    await asyncio.gather(strike(), *(buy(buyer) for buyer in buyers))
    assert len({order["order_id"] for order in done}) == BUYERS
    orders = await asyncio.gather(*(ended(client, order["order_id"]) for order in done))
    sold = [order for order in orders if order["status"] == "approved"]
    assert len(sold) == PIECES
    assert {order["reason"] for order in orders if order not in sold} == {"out_of_stock"}
    item = await client.get("items/scarce")
    assert (item["on_hand"], item["reserved"], item["available"]) == (PIECES, PIECES, 0)
    after = await asyncio.gather(*(client.until(account, "held_minor", 0) for account in accounts))
    assert sum(account["balance_minor"] for account in after) == BUYERS * DEPOSIT - PIECES * PRICE
    assert [line["difference_minor"] for line in (await client.get("ledger/trial-balance"))["currencies"]] == [0]


def the_proof(stack: RunningStack, file: Path) -> None:
    """A stranger's fifty lines agree with the file, now and at an earlier moment, and not with one that was touched."""
    stack.faust("ledger", "prove", str(file))
    assert "right: " in checked(stack, file, 0)
    claim = json.loads(file.read_text())
    assert sum(account["balance_minor"] for account in claim["accounts"]) == 0

    partition, end = max(claim["positions"].items(), key=lambda each: each[1])
    stack.faust("ledger", "prove", str(file), "--at", f"{partition}={end // 2}")
    assert "right: " in checked(stack, file, 0)
    earlier = json.loads(file.read_text())
    assert len(earlier["accounts"]) < len(claim["accounts"])

    earlier["accounts"][0]["balance_minor"] += 1
    file.write_text(json.dumps(earlier))
    assert earlier["accounts"][0]["account_id"] in checked(stack, file, 1)
    beyond = {**claim, "positions": {**claim["positions"], partition: end + 1_000_000}}
    file.write_text(json.dumps(beyond))
    assert "cannot be read to" in checked(stack, file, 1)
    refused = stack.faust("ledger", "prove", str(file), "--at", f"{partition}={end + 1_000_000}", check=False)
    assert refused.returncode == 1 and f"ends at {end}" in refused.stderr


def checked(stack: RunningStack, file: Path, code: int) -> str:
    script = ROOT / "deploy" / "audit" / "check_trial_balance.py"
    command = [sys.executable, str(script), stack.kafka, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


async def the_past(client: Client, stack: RunningStack) -> None:
    """Whatever was seen before can be seen again, on any worker; and the log says the same without one."""
    seen = [*client.seen.items()]
    for (path, version), told in random.sample(seen, 40):
        assert await client.get(f"{path}?as_of={version}") == told, (path, version)
    (returned,) = (await client.get("orders?user_id=ann&status=returned"))["orders"]
    uid, version = returned["order_id"], returned["version"] // 2
    folded = json.loads(stack.faust("order", uid, "--from-log", "--as-of", str(version), "--json").stdout)
    then = await client.get(f"orders/{uid}?as_of={folded['told_at']}")  # on purchases.events.v1
    assert then == await client.get(f"orders/{uid}?as_of={version}")
    same = ("version", "status", "updated_at", "total_minor", "currency")
    assert [folded[name] for name in same] == [then[name] for name in same]
    at = returned["updated_at"]
    assert (await client.get(f"orders?user_id=ann&status=returned&as_of={at}"))["orders"] == [returned]
    status, told = await client.ask("GET", f"/api/v1/orders/{uid}?as_of=2020-01-01T00:00:00Z")
    assert (status, told["reason"], told["since"]) == (404, "not_there", returned["placed_at"])


async def ended(client: Client, order_id: str) -> dict[str, Any]:
    """The order, once stock and money have had their say: under load an answer may be given before."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            order = await client.get(f"orders/{order_id}")
            if order["status"] in ("approved", "rejected"):
                return order
            await asyncio.sleep(0.05)
