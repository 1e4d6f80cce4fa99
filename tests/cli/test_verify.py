"""`verify`: what it says, where it goes on; and on a real stack, that it is right and names what was planted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from confluent_kafka import Producer

import cli.verify
from cli.console import Operator
from cli.verify import sentence, verify
from schemas.settings import Settings
from streams.log_identity import LogIdentity
from tests.agents.domain import make_app
from tests.agents.effects.test_webhooks_on_kafka import post
from tests.cli.running import Desk
from tests.faults.trial import metric
from tests.processes import ROOT, RunningStack, Worker, Workers

EQUAL = {"positions": {}, "records": 1, "rows": 2, "events": 3, "stores": 0, "unfounded": None, "difference": None}
DIFFERENT = {
    "what": "table",
    "name": "orders",
    "partition": 1,
    "key": "A1",
    "sides": {"a fold of the log": {"status": "paid", "version": 2}, "orders-changelog-1-7": {"version": 2}},
    "at": "orders.commands.v1-1-9",
}


class Clerk:
    """Looks at parts as it is told, and may be stopped in the midst of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.found: dict[str, dict[str, Any]] = {}
        self.stop_after = 1_000
        monkeypatch.setattr(cli.verify, "verify_tasks", self._tasks)
        monkeypatch.setattr(cli.verify, "verify_audits", self._audits)
        monkeypatch.setattr(cli.verify, "_how_much", self._how_much)

    async def _how_much(self, operator: Operator, names: Iterable[str]) -> int:
        return 0

    async def _tasks(
        self,
        operator: Operator,
        names: Iterable[str],
        scratch: Path,
        tell: Callable[[dict[str, Any]], None],
        moved: Callable[[int], None],
    ) -> None:
        self._audits(operator, names, tell)

    def _audits(self, operator: Operator, names: Iterable[str], tell: Callable[[dict[str, Any]], None]) -> None:
        for name in names:
            if len(self.seen) == self.stop_after:
                raise KeyboardInterrupt
            self.seen.append(name)
            tell({"part": name, **EQUAL, **self.found.get(name, {})})


@pytest.fixture
def clerk(monkeypatch: pytest.MonkeyPatch) -> Clerk:
    async def unchecked(self: Operator, work: Any) -> Any:
        return await work

    async def identity(*_: Any) -> LogIdentity:
        return LogIdentity("cluster", {"orders": "id"})

    monkeypatch.setattr(Operator, "after_check", unchecked)
    monkeypatch.setattr(cli.verify, "read_identity", identity)
    return Clerk(monkeypatch)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    app, _ = make_app(tmp_path / "state", 2)
    return Desk(app, Settings.load({}, data_dir=tmp_path, partitions=2))


def test_a_run_that_was_ended_goes_on_where_it_was(desk: Desk, clerk: Clerk) -> None:
    clerk.stop_after = 5
    assert desk.run(verify).exit_code == 1
    done, clerk.seen, clerk.stop_after = clerk.seen, [], 1_000
    kept = desk.app.engine_settings().state_dir.parent / "verifying.jsonl"
    with kept.open("ab") as file:
        file.write(b'{"part":"half a li')
    shown = desk.run(verify)
    assert shown.exit_code == 0 and "5 of 12 parts are done" in shown.stderr
    assert not set(done) & set(clerk.seen) and len(done) + len(clerk.seen) == 12
    assert not kept.exists(), "that run is over"
    clerk.seen = []
    assert desk.json(verify)["equal"] and len(clerk.seen) == 12, "the next one begins anew"


def test_it_begins_anew_for_other_rules_and_when_it_is_told_to(
    desk: Desk, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk.stop_after = 5
    desk.run(verify)
    clerk.seen = []
    desk.run(verify, "--anew")
    assert len(clerk.seen) == 5, "none was taken for done"
    clerk.seen, clerk.stop_after = [], 1_000
    monkeypatch.setattr(cli.verify, "code_version", lambda rooms: "other")
    assert desk.run(verify).exit_code == 0 and len(clerk.seen) == 12


def test_what_was_found_in_another_log_is_not_taken_over(
    desk: Desk, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk.stop_after = 5
    desk.run(verify)
    clerk.seen, clerk.stop_after = [], 1_000

    async def identity(*_: Any) -> LogIdentity:
        return LogIdentity("cluster", {"orders": "created again"})

    monkeypatch.setattr(cli.verify, "read_identity", identity)
    assert desk.run(verify).exit_code == 0 and len(clerk.seen) == 12


def test_a_difference_and_a_task_that_could_not_be_looked_at(desk: Desk, clerk: Clerk) -> None:
    clerk.found = {"orders-1": {"difference": DIFFERENT}, "stock": {"failed": "is away", "exit_code": 3}}
    shown = desk.run(verify)
    assert shown.exit_code == 1
    assert shown.stderr.endswith(
        'Error: table orders, partition 1, key \'A1\': a fold of the log has {"status":"paid"},'
        " orders-changelog-1-7 has {}. It follows from orders.commands.v1-1-9.\n"
    )
    lines = {line.split()[0]: line.split()[-1] for line in shown.stdout.splitlines()[1:]}
    assert lines["orders"] == "differs" and lines["accounts"] == "equal" and lines["stock"] == "at"
    clerk.found, clerk.seen = {}, []
    assert desk.run(verify).exit_code == 1, "the difference is known already"
    assert clerk.seen == ["stock"], "what could not be looked at is looked at again, and nothing else"


def test_only_a_part(desk: Desk, clerk: Clerk) -> None:
    assert desk.json(verify, "--part", "ledger", "--part", "orders-0")["equal"]
    assert sorted(clerk.seen) == ["ledger", "orders-0"]
    refused = desk.run(verify, "--part", "orders-7")
    assert refused.exit_code == 2 and "there is no part orders-7" in refused.stderr


def test_a_long_value_is_cut(desk: Desk) -> None:
    said = sentence({**DIFFERENT, "sides": {"one": "x" * 10_000, "other": None}})
    assert len(said) < 1_000 and "other has nothing" in said


def test_all_is_equal_and_each_planted_difference_is_named(clean_stack: RunningStack, workers: Workers) -> None:
    clean_stack.faust("topics", "create")
    worker = workers.start()
    clean_stack.faust("produce", "--count", "60")
    _buy(worker)
    deadline = time.monotonic() + 30
    while metric(worker, "streams_lag_records") or _rows(clean_stack) < 60:
        assert time.monotonic() < deadline, "not worked on in 30 s"
        time.sleep(0.1)
    _killed_halfway(clean_stack)
    shown = clean_stack.faust("verify", "--json", "--processes", "2")  # the worker runs
    found = json.loads(shown.stdout)
    assert found["equal"] and "Going on with a run" in shown.stderr
    by_part = {each["part"]: each for each in found["parts"]}
    orders = [each for name, each in by_part.items() if name.startswith("orders-")]
    assert sum(each["events"] for each in orders) >= 60 and sum(each["records"] for each in orders) >= 60
    assert by_part["postgres"]["rows"] >= 60 and by_part["ledger"]["events"] >= 2

    asyncio.run(_execute(clean_stack, "UPDATE orderstream.orders SET status = 'other' WHERE ctid = '(0,1)'"))
    producer = Producer({"bootstrap.servers": clean_stack.kafka})
    forged = {"type": "funds_deposited", "account_id": "nobody", "version": 1, "amount_minor": 5}
    producer.produce("accounts.events.v1", orjson.dumps(forged), b"nobody", 0)
    assert producer.flush(10) == 0
    options = [option for part in ("postgres", "ledger", "accounts-0") for option in ("--part", part)]
    wrong = clean_stack.faust("verify", "--json", "--processes", "1", *options, check=False)
    assert wrong.returncode == 1
    named = {each["part"]: each for each in json.loads(wrong.stdout)["differences"]}
    assert "column status" in named["postgres"]["what"]
    assert named["ledger"]["key"] == "nobody" and named["ledger"]["at"].startswith("accounts.events.v1-0-")
    assert named["accounts-0"]["sides"] == {"a fold of the log": None, named["ledger"]["at"]: forged}


def _buy(worker: Worker) -> None:
    account = post(worker, "/api/v1/accounts", {"user_id": "ann", "currency": "INR"})
    post(worker, f"/api/v1/accounts/{account['account_id']}/deposits", {"amount_minor": 1_000})


def _rows(stack: RunningStack) -> int:
    return int(asyncio.run(_execute(stack, "SELECT count(*) FROM orderstream.orders")) or 0)


async def _execute(stack: RunningStack, statement: str) -> Any:
    connection = await asyncpg.connect(stack.postgres)
    try:
        return await connection.fetchval(statement)
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()


def _killed_halfway(stack: RunningStack) -> None:
    """kill -9 once something is written down; its processes end with it."""
    command = [sys.executable, "-m", "faust", "-A", "app", "verify", "--processes", "1"]
    child = subprocess.Popen(command, cwd=ROOT, env=stack.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept, deadline = stack.data_dir / "verifying.jsonl", time.monotonic() + 60
    while not kept.exists() or kept.read_bytes().count(b"\n") < 3:
        assert child.poll() is None and time.monotonic() < deadline, "nothing was written down"
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
