"""a worker on real Kafka and PostgreSQL -> every command of an operator's day -> what each says and what it changes.

Each is typed once as `faust -A app …`, a process of its own; what is asked again and again is run in this process.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import asyncpg
import pytest

from agents.effects.postgres import SCHEMA
from cli.dead_letters import dead_letters
from cli.order import order
from cli.produce import produce
from schemas.orders import InvalidDocument, read_document, samples
from tests.cli.running import Desk, desk
from tests.processes import ROOT, RunningStack, Worker, Workers

SEED, COUNT = 41, 300


def data(stack: RunningStack, *arguments: str, exit_code: int = 0) -> Any:
    """A command's whole standard output as JSON."""
    result = stack.faust(*arguments, "--json", check=False)
    assert result.returncode == exit_code, f"{arguments}: {result.returncode}\n{result.stdout}{result.stderr}"
    return json.loads(result.stdout)


def letters(mine: Desk, count: int) -> list[dict[str, Any]]:
    """The dead letters, when there are as many; the worker needs a moment."""
    deadline = time.monotonic() + 30
    while len(rows := mine.json(dead_letters, "list")) < count and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(rows) == count
    assert len({row["id"] for row in rows}) == count
    return list(rows)


def await_orders(worker: Worker, uids: list[str]) -> None:
    """Until each is there; partitions are not equally far."""
    deadline = time.monotonic() + 30
    for uid in uids:
        while worker.get(f"/api/v1/orders/{uid}")[0] != 200:
            assert time.monotonic() < deadline, f"{uid} is not there"
            time.sleep(0.1)


def read_documents(mine: Desk) -> tuple[list[str], Counter[str]]:
    """What `produce` is about to send: ids of the good ones, and how many the intake must refuse, by reason."""
    shown = mine.run(produce, "--count", str(COUNT), "--seed", str(SEED), "--invalid-percent", "10", "--dry-run")
    good: list[str] = []
    planted: Counter[str] = Counter()
    for line in shown.stdout.splitlines():
        try:
            good.append(read_document(line.encode()).order_uid)
        except InvalidDocument as error:
            planted[error.reason] += 1
    return good, planted


async def execute(dsn: str, statement: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture
def worker(clean_stack: RunningStack, workers: Workers) -> Worker:
    # Rows that another test's sink has written would be taken for this one's.
    asyncio.run(execute(clean_stack.postgres, f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
    assert data(clean_stack, "topics", "create")["left"] == []
    started = workers.start()
    # A worker is ready without its sink, which makes its tables a moment later.
    deadline = time.monotonic() + 30
    while not asyncio.run(execute(clean_stack.postgres, f"SELECT to_regclass('{SCHEMA}.sink_positions') IS NOT NULL")):
        assert time.monotonic() < deadline, "the sink has not made its tables"
        time.sleep(0.1)
    return started


def test_the_operators_day(clean_stack: RunningStack, worker: Worker) -> None:
    stack, mine = clean_stack, desk(clean_stack.kafka, clean_stack.data_dir, "orderstream")
    good, planted = read_documents(mine)
    assert len(good) > 200
    assert len(planted) >= 2
    sent = data(stack, "produce", "--count", str(COUNT), "--seed", str(SEED), "--invalid-percent", "10")
    assert (sent["sent"], sent["failed"]) == (COUNT, {})

    rows = letters(mine, planted.total())
    assert data(stack, "dead-letters", "list") == rows
    assert Counter(row["reason"] for row in rows) == planted
    for row in rows:
        assert (row["topic"], row["kind"], row["attempt"], row["redriven"]) == ("orders", "poison", 1, False)
        assert row["id"] == f"orders-{row['partition']}-{row['offset']}"
        assert row["faults"]
        assert all(fault["path"].startswith("$") for fault in row["faults"])

    await_orders(worker, good)
    look_up(stack, worker, good[-1])
    redrive(mine, rows, planted)
    sink(stack, len(good))


def look_up(stack: RunningStack, worker: Worker, uid: str) -> None:
    found = data(stack, "order", uid, "--timeline", "--url", worker.url)
    assert found["order"]["order_uid"] == uid
    assert found["order"]["document"]["order_uid"] == uid
    assert [(entry["type"], entry["version"], entry["topic"]) for entry in found["timeline"]] == [
        ("order_placed", 1, "orders")
    ]
    mine = desk(stack.kafka, stack.data_dir, web_port=worker.port)
    assert uid in mine.run(order, uid).stdout
    missing = mine.run(order, "no-such-order")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "There is no order no-such-order" in missing.stderr


def redrive(mine: Desk, rows: list[dict[str, Any]], planted: Counter[str]) -> None:
    """Each letter once: by id and by reason, and what fails again is a letter of its own."""
    one, reason = rows[0]["id"], rows[0]["reason"]
    assert mine.json(dead_letters, "redrive", one)["redriven"] == [one]
    again = next(row for row in letters(mine, len(rows) + 1) if row["attempt"] == 2)
    assert (again["reason"], again["redriven"], again["faults"]) == (reason, False, rows[0]["faults"])
    ids = {row["id"] for row in rows if row["reason"] == reason} | {again["id"]}
    by_reason = mine.json(dead_letters, "redrive", "--reason", reason)
    assert set(by_reason["redriven"]) == ids - {one}
    assert by_reason["already_redriven"] == [one]
    now = letters(mine, len(rows) + 1 + planted[reason])
    assert Counter(row["redriven"] for row in now)[True] == planted[reason] + 1


def sink(stack: RunningStack, orders: int) -> None:
    verified = data(stack, "sink", "verify")
    assert (verified["equal"], verified["orders"]) == (True, orders)
    rebuilt = data(stack, "sink", "rebuild", "--yes")
    assert {name: rebuilt[name] for name in ("equal", "orders", "items", "digest")} == {
        name: verified[name] for name in ("equal", "orders", "items", "digest")
    }


def test_a_changed_row_is_named(clean_stack: RunningStack, worker: Worker) -> None:
    stack = clean_stack
    desk(stack.kafka, stack.data_dir).json(produce, "--count", "5", "--seed", "42")
    await_orders(worker, [document["order_uid"] for document in samples.orders(5, seed=42)])
    assert stack.faust("sink", "verify").stdout.startswith("Equal: 5 orders and ")
    statement = (
        f"UPDATE {SCHEMA}.orders SET customer_id = 'changed' WHERE order_uid = "
        f"(SELECT max(order_uid) FROM {SCHEMA}.orders) RETURNING order_uid"
    )
    uid = asyncio.run(execute(stack.postgres, statement))
    found = data(stack, "sink", "verify", exit_code=1)["difference"]
    assert (found["table"], found["key"], found["column"], found["found"]) == ("orders", uid, "customer_id", "changed")
    shown = stack.faust("sink", "verify", check=False)
    assert shown.returncode == 1
    assert uid in shown.stderr


@pytest.mark.parametrize("arguments", [["topics"], ["topics", "adopt", "orders"], ["sink", "verify"]], ids=" ".join)
def test_without_a_broker_there_is_one_plain_error(stack: RunningStack, arguments: list[str]) -> None:
    environment = stack.env | {"ORDERSTREAM_KAFKA": "127.0.0.1:1"}
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "app", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: No Kafka broker answers at 127.0.0.1:1")
    assert "ORDERSTREAM_KAFKA" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert time.monotonic() - started < 240, "a person waits for this; on a quiet machine it takes one second"


def test_commands_stand_beside_fausts_own(stack: RunningStack) -> None:
    shown = stack.faust("--help").stdout
    for command in ("topics", "produce", "order", "dead-letters", "doctor", "sink", "worker"):
        assert f"\n  {command} " in shown
