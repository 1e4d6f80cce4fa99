"""README.md -> its commands run against a real stack, its files and links exist: what it says is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from local.carrier_service import SandboxCarrier
from schemas.accounts import account_id_of
from schemas.purchases.lifecycle import mermaid
from tests.processes import ROOT, RunningStack, Worker, Workers

README = (ROOT / "README.md").read_text()


def readme_commands() -> list[list[str]]:
    """The blocks behind the comments that promise this test, one command a line, without its remark.

    Those of the first are independent of each other; each of the others is a script.
    """
    blocks = re.findall(r"<!-- tested:.*?-->\n```bash\n(.*?)```", README, flags=re.S)
    return [[re.sub(r"\s+# .*", "", line) for line in block.splitlines() if line] for block in blocks]


def test_every_command_of_the_readme_works(clean_stack: RunningStack, workers: Workers) -> None:
    clean_stack.faust("topics", "create")
    worker = workers.start(env={"ORDERSTREAM_CARRIER": "topic"})
    env = clean_stack.env | {"ORDERSTREAM_WEB_PORT": str(worker.port)}
    commands, ledger, catalogue, buying, past, what_if = readme_commands()
    assert len(commands) >= 8 and len(ledger) >= 6 and len(catalogue) >= 7 and len(buying) >= 5
    said = {}
    for command in commands:
        line = on(worker, command)
        for _ in range(40):  # an order that was just produced is on its way; so are the sink's rows
            ran = subprocess.run(line, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
            if ran.returncode == 0:
                break
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
        said[command] = ran.stdout
    placed, listed = (json.loads(text) for command, text in said.items() if command.startswith("curl"))
    assert placed["status"] == "placed"
    assert placed["position"].startswith("orders.commands.v1-")
    assert placed["order_uid"] in {order["order_uid"] for order in listed["orders"]}
    assert any("order_placed" in text for command, text in said.items() if "--timeline" in command)
    assert any(text.startswith("Equal:") for command, text in said.items() if "sink verify" in command)

    told = script(worker, ledger, env)
    assert told.count(account_id_of("asha", "INR")) >= 3
    assert '"balance_minor":5000' in told and '"reason":"insufficient_funds"' in told
    assert "Right: 3 events and 1 movements" in told

    told = script(worker, catalogue, env)
    assert "3 items created, 0 there before, stock received for 3" in told
    assert '"reason":"insufficient_stock"' in told and '"on_hand":7' in told and '"price_minor":99900' in told
    assert '"name":"Red lipstick"' in told and "available:     7" in told

    told = script(worker, buying, env)
    assert '"status":"approved"' in told and "stateDiagram-v2" in told
    assert '"mode":"by_hand"' in told and '"mode":"automatic"' in told
    assert '"number_prefix":"INV"' in told and '"next_cursor":null' in told and "no gap and no number twice" in told
    assert '"status":"packed"' in told and '"status":"requested"' in told
    told = script(worker, past, env)
    assert '"on_hand":10,"reserved":0' in told and '"balance_minor":0' in told
    assert re.search(r"status: +placed\n", told) and re.search(r"status: +paid\n", told) and "told_at:" in told
    assert '"reason":"not_there"' in told
    told = script(worker, what_if, env)
    assert ": 1 of " in told.splitlines()[0]
    shown = README.partition("```text\nINR ")[2].partition("```")[0].splitlines()[1:]
    assert len(shown) > 5 and [line for line in shown if line not in told.splitlines()] == []
    is_delivered(clean_stack, worker, next(line for line in buying if line.startswith("ORDER=")).rsplit("/", 1)[-1])


def is_delivered(stack: RunningStack, worker: Worker, order: str) -> None:
    """By the sandbox carrier, which is killed on the way and goes on where it was."""
    directory = stack.data_dir / "carrier"
    directory.mkdir(exist_ok=True)
    (directory / "switches").write_text("delay=0.3")
    carrier = SandboxCarrier(directory, stack.kafka, log=stack.data_dir / "logs" / "carrier.log")
    with carrier:
        eventually(worker, order, "shipped", "out_for_delivery")
        carrier.kill()
    with carrier:
        told = eventually(worker, order, "delivered")
    (shipment,) = told["shipments"]
    assert shipment["tracking_number"].startswith("SBX-")
    _, timeline = worker.get(f"/api/v1/orders/{order}/timeline")
    happened = [entry["type"] for entry in timeline["entries"]]
    assert [each for each in happened if "ship" in each].count("order_shipped") == 1
    assert happened[-1] == "shipment_delivered" and "carrier_noted" not in happened, happened


def eventually(worker: Worker, order: str, *statuses: str) -> Any:
    deadline = time.monotonic() + 600  # only a hang reaches it
    while (told := worker.get(f"/api/v1/orders/{order}")[1])["status"] not in statuses:
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    return told


def script(worker: Worker, lines: list[str], env: dict[str, str]) -> str:
    line = on(worker, "\n".join(["set -e", *lines]))
    ran = subprocess.run(line, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, f"{lines}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_the_life_of_an_order_is_drawn_as_the_rules_have_it() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in README


def on(worker: Worker, command: str) -> str:
    """A command of the README, for this worker and this Python."""
    line = command.replace("127.0.0.1:6066", f"127.0.0.1:{worker.port}")
    return line.replace(".venv/bin/faust", f"{sys.executable} -m faust")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+?)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:tests|docs|bench)/[\w/.]+)`", README))))
def test_every_file_that_is_named_exists(name: str) -> None:
    assert Path(ROOT / name).exists()


def test_every_setting_that_is_named_exists() -> None:
    from schemas.settings import Settings

    named = {name.lower() for name in re.findall(r"ORDERSTREAM_([A-Z_]+)", README)}
    assert named <= set(Settings.model_fields)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
