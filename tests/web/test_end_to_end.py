"""two real workers on a real Kafka and PostgreSQL, asked over HTTP: what the in-memory platform stands in for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from tests.processes import RunningStack, Worker, Workers
from tests.reading import read_all
from tests.web.platform import document

#: Tasks are groups times partitions: orders, accounts, inventory, requests.
PARTITIONS, GROUPS = 4, 4


@dataclass(frozen=True)
class Reply:
    """An answer as a caller sees it."""

    status: int
    headers: dict[str, str]
    body: Any


def ask(worker: Worker, method: str, path: str, body: Any = None, timeout_s: float = 20.0, **headers: str) -> Reply:
    """One request; names of headers with `_` for `-`. Status 0: no answer."""
    raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": "application/json"}
    request = urllib.request.Request(worker.url + path, data=raw, method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return _reply(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        return _reply(error.code, dict(error.headers), error.read())
    except OSError as error:
        return Reply(0, {}, str(error))


def _reply(status: int, headers: dict[str, str], raw: bytes) -> Reply:
    try:
        return Reply(status, headers, json.loads(raw) if raw else None)
    except ValueError:
        return Reply(status, headers, raw.decode())


@pytest.fixture(scope="module")
def factory(stack: RunningStack) -> Iterator[Workers]:
    """All tests use the same two workers: starting them takes longer than either."""
    stack.wipe()
    stack.faust("topics", "create")
    made = Workers(stack)
    try:
        yield made
    finally:
        made.stop_all()


@pytest.fixture(scope="module")
def two(factory: Workers) -> tuple[Worker, Worker]:
    # A claim's lease follows from the request timeout; the default's 20 s would be spent waiting.
    env = {"ORDERSTREAM_REQUEST_TIMEOUT_MS": "4000"}
    first, second = factory.start(wait=False, env=env), factory.start(wait=False, env=env)
    for worker in (first, second):
        worker.wait_ready()
    shared(first, second)
    return first, second


def shared(*workers: Worker) -> None:
    """Until each of them owns partitions: one that came alone has them all at first."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        tasks = [ask(worker, "GET", "/health").body for worker in workers]
        if all(isinstance(t, dict) and t["status"] != "not_ready" for t in tasks) and all(
            not t["checks"]["assignment"]["detail"].startswith(("0 ", f"{GROUPS * PARTITIONS} ")) for t in tasks
        ):
            return
        time.sleep(0.2)
    raise AssertionError(f"the workers do not share the partitions: {tasks}")


def test_the_window_on_two_workers(two: tuple[Worker, Worker]) -> None:
    uids = [f"e2e-{uuid.uuid4().hex[:12]}" for _ in range(12)]
    written_on: dict[int, str] = {}
    for number, uid in enumerate(uids):
        reply = told(two[number % 2], "POST", "/api/v1/orders", document(uid, customer_id=f"c{number % 2}"))
        assert reply.status == 201, reply
        topic, partition, _ = reply.body["position"].rsplit("-", 2)
        assert topic == "orders.commands.v1"
        written_on.setdefault(int(partition), uid)
        # Read your writes, through the other worker.
        read = ask(two[1 - number % 2], "GET", f"{reply.headers['Location']}?min_offset={reply.body['position']}")
        assert (read.status, read.body["document"]["order_uid"]) == (200, uid)
    assert len(written_on) > 1, "one partition would prove nothing"

    for worker in two:
        for uid in uids:
            reply = ask(worker, "GET", f"/api/v1/orders/{uid}")
            assert (reply.status, reply.headers["ETag"]) == (200, '"1"')
            assert ask(worker, "GET", f"/api/v1/orders/{uid}", If_None_Match='"1"').status == 304
        assert ask(worker, "GET", "/api/v1/orders/nobody").status == 404
        assert [order["order_uid"] for order in listed(worker, "limit=5")] == uids[::-1]
        assert [order["order_uid"] for order in listed(worker, "customer_id=c1&limit=2")] == uids[::-1][::2]

    again = ask(two[1], "POST", "/api/v1/orders", document(uids[0], customer_id="thief"))
    assert (again.status, again.body["reason"]) == (409, "exists_with_different_content")
    assert ask(two[0], "POST", f"/api/v1/orders/{uids[0]}/cancel", {"reason": "x"}).status == 200
    assert ask(two[1], "POST", f"/api/v1/orders/{uids[0]}/cancel", {"reason": "x"}).status == 409
    timeline = ask(two[1], "GET", f"/api/v1/orders/{uids[0]}/timeline").body["entries"]
    kinds = ["order_placed", "order_refused", "order_cancelled", "cancellation_refused"]
    assert [entry["type"] for entry in timeline] == kinds
    bad = ask(two[0], "POST", "/api/v1/orders", document(payment__amount=1))
    assert (bad.status, [fault["path"] for fault in bad.body["faults"]]) == (422, ["$.payment.amount"])
    placed = ask(two[0], "POST", "/api/orders/test")
    assert placed.status == 201
    assert ask(two[1], "GET", f"/api/orders/{placed.body['order_uid']}").status == 200


def listed(worker: Worker, query: str) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = []
    cursor = ""
    while True:
        reply = ask(worker, "GET", f"/api/v1/orders?{query}&cursor={cursor}")
        assert reply.status == 200, reply
        orders += reply.body["orders"]
        if reply.body["next_cursor"] is None:
            return orders
        cursor = reply.body["next_cursor"]


def told(worker: Worker, method: str, path: str, body: Any) -> Reply:
    """The outcome of a write that is safe to repeat: a machine that is busy elsewhere answers 202 first."""
    deadline = time.monotonic() + 60
    while (reply := ask(worker, method, path, body)).status in (202, 503) and time.monotonic() < deadline:
        time.sleep(0.2)
    return reply


def test_accounts_on_two_workers(two: tuple[Worker, Worker], stack: RunningStack) -> None:
    """The scenario of the issue, then the ledger's own check, then a withdrawal that somebody forges in its journal."""
    first, second = two
    user, home = f"user-{uuid.uuid4().hex[:8]}", "/api/v1/accounts"
    opened = told(first, "POST", home, {"user_id": user, "currency": "INR", "idempotency_key": "o"})
    assert (opened.status, opened.body["balance_minor"]) == (201, 0), opened
    again = told(second, "POST", home, {"user_id": user, "currency": "INR"})
    account = f"{home}/{opened.body['account_id']}"
    assert (again.status, again.body["account_id"]) == (200, opened.body["account_id"])
    negative = told(second, "POST", f"{account}/deposits", {"amount_minor": -100, "idempotency_key": "n"})
    assert (negative.status, negative.body["reason"]) == (422, "not_positive_amount")
    assert ask(first, "GET", account).body["balance_minor"] == 0
    deposits = [
        told(worker, "POST", f"{account}/deposits", {"amount_minor": 500, "idempotency_key": "d"}) for worker in two
    ]
    assert [(each.status, each.body["balance_minor"], each.body["version"]) for each in deposits] == [(201, 500, 2)] * 2
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        path, bodies = f"{account}/withdrawals", [{"amount_minor": 200, "idempotency_key": f"w{n}"} for n in range(8)]
        tries = [threads.submit(told, two[n % 2], "POST", path, body) for n, body in enumerate(bodies)]
    assert sorted(each.result().status for each in tries) == [201, 201] + [409] * 6
    for worker in two:
        assert ask(worker, "GET", account).body["balance_minor"] == 100
        assert [a["account_id"] for a in ask(worker, "GET", f"{home}?user_id={user}").body["accounts"]] == [
            opened.body["account_id"]
        ]
    entries = ask(second, "GET", f"{account}/entries").body["entries"]
    assert [entry["balance_minor"] for entry in entries] == [500, 300, 100]

    (line,) = ask(first, "GET", "/api/v1/ledger/trial-balance").body["currencies"]
    assert (line["accounts_minor"], line["clearing_minor"], line["difference_minor"]) == (100, -100, 0)
    shown = json.loads(stack.faust("ledger", "trial-balance", "--url", first.url, "--json").stdout)
    assert shown == {"currencies": [line]}
    right = json.loads(stack.faust("ledger", "verify", "--json").stdout)
    assert (right["right"], right["events"], right["movements"], right["currencies"]) == (True, 11, 3, [line])
    forged = asyncio.run(forge(stack.kafka, opened.body["account_id"]))
    wrong = stack.faust("ledger", "verify", check=False)
    assert wrong.returncode == 1
    assert f"{forged}: account {opened.body['account_id']}: money moved without a movement" in wrong.stderr


async def forge(bootstrap: str, account_id: str) -> str:
    """The last withdrawal once more with the next version and nobody's other leg; gives where it stands."""
    events = await read_all(bootstrap, "accounts.events.v1")
    last = max((json.loads(event.value) for event in events), key=lambda event: int(event["version"]))
    del last["movement"]
    (partition,) = {event.partition for event in events}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        value = json.dumps({**last, "type": "funds_withdrawn", "version": last["version"] + 1}).encode()
        sent = await producer.send_and_wait("accounts.events.v1", value, account_id.encode(), partition)
        return f"accounts.events.v1-{sent.partition}-{sent.offset}"
    finally:
        await producer.stop()


def test_thirty_who_race_for_ten_pieces(two: tuple[Worker, Worker], stack: RunningStack) -> None:
    """Each asks twice, and on any partition. Ten win; four of them are shipped, six let go."""
    item = f"item-{uuid.uuid4().hex[:8]}"
    where = f"/api/v1/items/{item}"
    new = {"item_id": item, "outlet_id": "o", "name": "Race", "price_minor": 5, "currency": "INR"}
    assert [told(worker, "POST", "/api/v1/items", new).status for worker in two] == [201, 200]
    delivery = {"delta": 10, "reason": "receive", "idempotency_key": "d"}
    assert [told(worker, "POST", f"{where}/stock", delivery).body["version"] for worker in two] == [2, 2]

    def line(kind: str, order_uid: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "command_id": f"{kind}-{order_uid}", "order_uid": order_uid, "line": 1, **more}

    asyncio.run(say(stack.kafka, item, [line("reserve_stock", f"o{n % 30}", quantity=1) for n in range(60)]))
    assert standing(two[0], where, version=12) == (10, 10)
    deadline = time.monotonic() + 30
    while len(events := heard(stack, item)) < 33 and time.monotonic() < deadline:
        time.sleep(0.2)  # who lost has heard it too: nobody may come late for what is let go
    won = [event["order_uid"] for event in events if event["type"] == "stock_reserved"]
    ends = [line("commit_stock" if n < 4 else "release_stock", order_uid) for n, order_uid in enumerate(won)]
    asyncio.run(say(stack.kafka, item, ends + ends))
    assert standing(two[1], where, version=22) == (6, 0)
    events = heard(stack, item)
    assert Counter(event["type"] for event in events) == {
        "item_created": 1,
        "stock_adjusted": 1,
        "stock_reserved": 10,
        "stock_out": 1,
        "inventory_command_refused": 20,
        "stock_committed": 4,
        "stock_released": 6,
    }
    assert {event["reason"] for event in events if event["type"].endswith("refused")} == {"out_of_stock"}
    right = json.loads(stack.faust("items", "verify", "--json").stdout)
    assert (right["right"], right["on_hand"], right["committed"], right["open_reservations"]) == (True, 6, 4, 0)


async def say(bootstrap: str, item: str, commands: list[dict[str, Any]]) -> None:
    """Commands about an item, one on each partition in turn: most are not at home there."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for number, command in enumerate(commands):
            value = json.dumps({**command, "item_id": item}).encode()
            await producer.send("inventory.commands.v1", value, item.encode(), number % PARTITIONS)
    finally:
        await producer.stop()


def heard(stack: RunningStack, item: str) -> list[dict[str, Any]]:
    events = [json.loads(record.value) for record in asyncio.run(read_all(stack.kafka, "inventory.events.v1"))]
    return [event for event in events if event["item_id"] == item]


def standing(worker: Worker, where: str, version: int) -> tuple[int, int]:
    """What is on hand and reserved once the item has come so far; it must never get further."""
    deadline = time.monotonic() + 30
    while (shown := ask(worker, "GET", where)).body.get("version", 0) < version and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    shown = ask(worker, "GET", where)
    assert shown.body["version"] == version, shown
    return shown.body["on_hand"], shown.body["reserved"]


def test_the_logs_of_workers_have_every_request_and_nobodys_data(two: tuple[Worker, Worker]) -> None:
    for worker in two:
        assert ask(worker, "POST", "/api/v1/orders", document()).status == 201
        assert ask(worker, "GET", "/api/v1/orders/nobody").status == 404
        text = worker.log()
        assert not any(personal in text for personal in ("Testov", "test@gmail.com", "+9720000000", "Ploshad"))
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        requests = [line for line in lines if line["logger"] == "web.access" and line["event"] == "request"]
        assert {"/api/v1/orders", "/api/v1/orders/{order_uid}"} <= {line["route"] for line in requests}
        assert all(line["request_id"] for line in requests)


def test_a_worker_that_dies_takes_no_answer_with_it(two: tuple[Worker, Worker], factory: Workers) -> None:
    """kill -9 under reads and keyed writes: no false 404, no version that goes back, each key one order."""
    before = {order["order_uid"] for order in listed(two[0], "limit=200")}
    uids = [f"kill-{uuid.uuid4().hex[:12]}" for _ in range(8)]
    for uid in uids:
        assert ask(two[0], "POST", "/api/v1/orders", document(uid)).status == 201
    survivor, victim = two
    seen: list[int] = []
    keys = [uuid.uuid4().hex for _ in range(24)]

    written = threading.Event()

    def read() -> None:
        until = time.monotonic() + 60
        while not (written.is_set() and seen[-8:] == [200] * 8) and time.monotonic() < until:
            for uid in uids:
                seen.append(ask(survivor, "GET", f"/api/v1/orders/{uid}").status)

    def write(number: int) -> Reply:
        """As a careful client: the same key again until the answer is known, at another worker when one is gone."""
        deadline, worker = time.monotonic() + 60, two[number % 2]
        while True:
            reply = ask(worker, "POST", "/api/orders/test", b"", Idempotency_Key=keys[number])
            if reply.status == 201 or time.monotonic() > deadline:
                return reply
            assert reply.status in (202, 409, 503) or (reply.status == 0 and worker is victim), reply
            assert reply.status == 0 or reply.headers["Retry-After"]
            worker = survivor
            time.sleep(0.2)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        reading = threads.submit(read)
        begun = [threads.submit(write, number) for number in range(len(keys))]
        time.sleep(0.1)
        victim.kill()
        writes = [write.result() for write in begun]
        written.set()
        reading.result()
    assert all(reply.status == 201 for reply in writes), writes
    assert set(seen) <= {200, 503}, f"{sorted(set(seen))}"
    assert seen[-8:] == [200] * 8 and 503 in seen

    restarted = factory.start(port=victim.port)
    for key, first in zip(keys, writes, strict=True):
        for worker in (survivor, restarted):
            again = ask(worker, "POST", "/api/orders/test", b"", Idempotency_Key=key)
            assert (again.status, again.body) == (201, first.body)
            assert again.headers["Idempotency-Replayed"] == "true"
    mine = {order["order_uid"] for order in listed(restarted, "limit=200")} - before
    assert len(mine) == len(uids) + len(keys)
