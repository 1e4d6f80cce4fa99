"""Erasure, the whole way on the real stack: in clear only where it may be, gone when the command returns, replayed."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer

from cli import letters
from schemas.topics import DEAD_LETTERS, ORDER_INBOX
from tests.processes import RunningStack, Worker, Workers, delete_all_topics
from tests.web.platform import document

#: Words that no other test has, and what is not in a document at all.
NAME, STREET, POISON = "Zerafina Quillfeather", "Wobbleshank Row 417", "Zerafina is no JSON"
#: Where producers' records lie in clear: all are sent to one partition.
INBOX = f"{ORDER_INBOX.name}-0"


def order(uid: str, customer: str) -> dict[str, Any]:
    return document(uid, customer_id=customer, delivery__name=NAME, delivery__address=STREET)


def post(worker: Worker, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{worker.url}/api/v1/orders", orjson.dumps(body), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def shown(worker: Worker, uid: str, query: str = "") -> Any:
    for _ in range(100):
        status, told = worker.get(f"/api/v1/orders/{uid}{query}")
        if status == 200:
            break
        time.sleep(0.1)
    assert status == 200, told
    return told


def in_clear(stack: RunningStack, since: float) -> dict[str, set[str]]:
    """Each word, and the directories in whose files it can be read: Kafka's, PostgreSQL's, of stores, of logs."""
    words: dict[str, set[str]] = {NAME: set(), STREET: set(), POISON: set()}
    for path in stack.data_dir.rglob("*"):
        if path.is_file() and path.stat().st_mtime >= since:
            content = path.read_bytes()
            for word, found in words.items():
                if word.encode() in content:
                    found.add(path.parent.name)
    return words


async def send(stack: RunningStack, *values: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka)
    await producer.start()
    for value in values:
        await producer.send_and_wait(ORDER_INBOX.name, value, partition=0)
    await producer.stop()


async def rows(stack: RunningStack) -> dict[str, Any]:
    """The documents in PostgreSQL, once all three are there."""
    connection = await asyncpg.connect(stack.postgres)
    try:
        async with asyncio.timeout(20):
            while True:
                found = await connection.fetch("SELECT order_uid, document FROM orderstream.orders")
                if len(found) == 3:
                    return {row["order_uid"]: json.loads(row["document"]) for row in found}
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def test_an_erased_customer_is_gone_and_the_rest_is_as_it_was(
    clean_stack: RunningStack, workers: Workers, tmp_path: Path
) -> None:
    began = time.time() - 1
    master = tmp_path / "master.key"
    master.write_bytes(b64encode(b"m" * 32))
    sealing = {"SEAL": "true", "SEAL_MASTER_KEY_FILE": str(master), "PARTITIONS": "1"}
    stack = replace(
        clean_stack, tuning={**clean_stack.tuning, **{f"ORDERSTREAM_{name}": value for name, value in sealing.items()}}
    )
    workers.stack = stack
    await asyncio.to_thread(stack.faust, "topics", "create")
    worker = await asyncio.to_thread(workers.start)

    # Placed over HTTP and over Kafka, shown as they were sent.
    anna, late, ben = order("anna-1", "anna"), order("anna-2", "anna"), order("ben-1", "ben")
    post(worker, anna)
    post(worker, ben)
    cart = post(worker, {"user_id": "anna", "item_id": "none", "quantity": 1, "address": {"street": STREET}})
    await send(stack, orjson.dumps(late), POISON.encode())
    for placed in (anna, late, ben):
        assert shown(worker, placed["order_uid"])["document"] == placed
    assert cart["address"] == {"street": STREET}

    # In no file of anybody, but of the topic that is in clear for a week.
    for document_ in (await rows(stack)).values():
        assert document_["delivery"]["name"].startswith("sealed:v1:")
    only_the_inbox = {NAME: {INBOX}, STREET: {INBOX}, POISON: {INBOX}}
    assert in_clear(stack, began) == only_the_inbox
    [letter] = (await letters.letters_now(stack.kafka, DEAD_LETTERS.name)).letters
    assert (letter.says.topic, (await letters.whole(stack.kafka, letter)).value) == (ORDER_INBOX.name, POISON.encode())

    # When the command returns, nobody shows any of it any more.
    done = await asyncio.to_thread(stack.faust, "erase", "anna", "--yes", "--json")
    assert len(json.loads(done.stdout)["keys"]) == 1
    for uid, query in (("anna-1", ""), ("anna-1", "?as_of=1"), ("anna-2", "")):
        gone = shown(worker, uid, query)
        assert gone["document"]["delivery"]["name"] is None and "$.document.delivery.address" in gone["erased"]
    assert shown(worker, cart["order_uid"])["address"] == {"street": None}
    assert shown(worker, "ben-1")["document"] == ben

    # And the past gives the same, to the byte.
    await asyncio.to_thread(worker.stop)
    done = await asyncio.to_thread(stack.faust, "replay", "--domain", "orders", "--yes", "--json")
    replayed = json.loads(done.stdout)
    rows_of = {line["table"]: line["rows"] for line in replayed["tables"]}
    assert replayed["equal"] is True and (rows_of["orders"], rows_of["purchases"]) == (3, 1)
    assert in_clear(stack, began) == only_the_inbox
    await delete_all_topics(stack.kafka)  # others have more partitions
