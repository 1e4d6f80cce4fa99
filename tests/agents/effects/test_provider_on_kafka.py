"""The payment provider on the real stack: a worker killed between the request and its answer, callbacks over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from local.ports import find_free
from local.sandbox_service import SandboxProvider
from streams import partition_for
from tests.processes import RunningStack, Worker, Workers

COMMANDS = "payments.commands.v1"


def produce(stack: RunningStack, *said: dict[str, Any]) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
            for each in said:
                key = each["order_uid"].encode()
                await producer.send_and_wait(COMMANDS, json.dumps(each).encode(), key, partition_for(key, 4))

    asyncio.run(send())


def eventually(what: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)
    return found


def payment_of(worker: Worker, uid: str, status: str, **figures: int) -> Any:
    """The payment, once it stands so."""
    code, told = worker.get(f"/api/v1/payments/{uid}")
    right = code == 200 and told["status"] == status and all(told[name] == value for name, value in figures.items())
    return told if right else None


def sandbox_says(sandbox: SandboxProvider, path: str) -> Any:
    with urllib.request.urlopen(sandbox.url + path, timeout=5) as response:
        return json.loads(response.read())


def authorise(uid: str, instrument: str) -> dict[str, Any]:
    asked = {"user_id": "asha", "method": "provider", "instrument": instrument, "amount_minor": 100, "currency": "INR"}
    return {"type": "authorise_payment", "command_id": f"{uid}-a", "order_uid": uid, **asked}


def test_a_worker_killed_between_call_and_answer_pays_once(clean_stack: RunningStack, workers: Workers) -> None:
    clean_stack.faust("topics", "create")
    web_port, sandbox_port = find_free(2)
    callback = f"http://127.0.0.1:{web_port}/api/v1/orders/payment-callback"
    directory = clean_stack.data_dir / "provider"
    sandbox = SandboxProvider(directory, sandbox_port, callback_url=callback, log=directory / "log")
    with sandbox:
        env = {
            "ORDERSTREAM_PROVIDER_URL": sandbox.url,
            "ORDERSTREAM_PROVIDER_SECRET": sandbox.secret,
            "ORDERSTREAM_SESSION_TIMEOUT_MS": "1500",
        }
        worker = workers.start(port=web_port, env=env)
        produce(
            clean_stack, authorise("slow", "sandbox:delay=2+lose-callback"), authorise("lost", "sandbox:lose-answer=1")
        )
        eventually(lambda: sandbox_says(sandbox, "/health")["calls"].get("payments", 0) >= 2)
        worker.kill()
        worker = workers.start(port=web_port, env=env)

        slow = eventually(lambda: payment_of(worker, "slow", "authorised"))
        assert [each["type"] for each in slow["attempts"]] == ["payment_requested", "payment_authorised"]
        assert sandbox_says(sandbox, "/health")["calls"]["payments"] >= 3, "it was asked again"
        lost = eventually(lambda: payment_of(worker, "lost", "authorised"))
        assert [each["type"] for each in lost["attempts"]] == ["payment_requested", "payment_authorised"]

        refund = {"type": "refund_payment", "refund_id": "r1", "amount_minor": 40, "line": 1, "reason": "returned"}
        for uid in ("slow", "lost"):
            produce(clean_stack, {"type": "capture_payment", "command_id": f"{uid}-c", "order_uid": uid})
            eventually(lambda uid=uid: payment_of(worker, uid, "captured"))  # type: ignore[misc]
            produce(clean_stack, {**refund, "command_id": f"{uid}-r", "order_uid": uid})
            eventually(lambda uid=uid: payment_of(worker, uid, "captured", refunded_minor=40))  # type: ignore[misc]
            theirs = sandbox_says(sandbox, f"/payments/{uid}")
            assert (theirs["captured"], theirs["refunded"]) == (100, 40)
        calls = sandbox_says(sandbox, "/health")["calls"]
        assert calls["callback 200"] >= 1, "a callback came through, signed as the worker wants it"
        eventually(lambda: worker.get("/health")[1]["checks"]["effects"]["ok"])
