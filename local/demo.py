"""The embedded stack -> topics, a worker and, for the demo, sample orders -> addresses and the next things to try."""

import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from local import hold, ports
from local.console import say
from local.errors import LocalError
from local.private import masked
from local.process import Child
from local.stack import Embedded, Stack
from schemas.currencies import format_amount
from schemas.orders import samples
from schemas.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
SAMPLES = 20
SHOWN = 5
READY_TIMEOUT_S = 90.0  # the first start of a worker restores its stores; a loaded machine takes its time
LOOKUP_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 120.0

JSON = "-H 'Content-Type: application/json'"  # not --json, which older curls do not know
# Shown in this order, each only when it answers.
PAGES = (
    ("Page", "/"),
    ("Orders", "/api/v1/orders"),
    ("API documents", "/docs"),
    ("Health", "/health"),
    ("Metrics", "/metrics"),
)


class Platform:
    """Stack and worker, for as long as the command runs."""

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        self.settings = settings
        self.embedded = Embedded.from_settings(settings)
        self.url = f"http://{ports.HOST}:{settings.web_port}"
        self.intake = "orders.inbox.v1" if settings.seal else "orders"
        self.children: list[Child] = []
        # Commands and worker run in the project's directory, wherever this one was called from.
        self._environment = environment | {f"{PREFIX}DATA_DIR": str(self.embedded.data_dir), "PYTHONUNBUFFERED": "1"}

    def start(self) -> Stack:
        ports.require_free(self.settings.web_port, "The worker's HTTP server", f"{PREFIX}WEB_PORT")
        stack = hold.start(self.embedded)
        say("Creating topics ...")
        self.command("topics", "create")
        say("Starting a worker ...")
        self._start_worker()
        return stack

    def command(self, *arguments: str) -> None:
        """`faust -A app <arguments>` to its end, under a guard like everything else here."""
        child = self._spawn("faust " + " ".join(arguments), "commands.log", arguments)
        try:
            code = child.wait(COMMAND_TIMEOUT_S)
        finally:
            child.stop()
        if code != 0:
            raise LocalError(f"{child.name} ended with code {code}. The end of {child.log}:\n{child.log_tail()}")

    def watch(self, parent: int | None, follow: bool = False) -> None:
        services = [service.child for service in self.embedded.services if service.child]
        follower = Follower(self.children[0].log)
        hold.watch([*services, *self.children], parent, follower.print_new if follow else lambda: None)

    def stop(self) -> None:
        hold.stop(self.embedded, self.children)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 when there was no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            return 0, str(error).encode()

    def look_up(self, uids: list[str]) -> list[dict[str, Any]]:
        """These orders, each by its id, as soon as the worker has all of them."""
        worker, deadline = self.children[0], time.monotonic() + LOOKUP_TIMEOUT_S
        found: dict[str, dict[str, Any]] = {}
        while time.monotonic() < deadline and worker.running():
            for uid in uids:
                if uid not in found:
                    status, body = self.get(f"/api/v1/orders/{uid}")
                    if status == 200:
                        found[uid] = json.loads(body)
            if len(found) == len(uids):
                return [found[uid] for uid in uids]
            time.sleep(0.2)
        raise LocalError(
            f"The sample orders were produced, but the worker has {len(found)} of {len(uids)} of them after"
            f" {LOOKUP_TIMEOUT_S:.0f} s. The end of {worker.log}:\n{worker.log_tail()}"
        )

    def _spawn(self, name: str, log: str, arguments: tuple[str, ...]) -> Child:
        command = [sys.executable, "-m", "faust", "-A", "app", *arguments]
        return Child.start(name, command, self.embedded.logs / log, env=self._environment, cwd=ROOT)

    def _start_worker(self) -> None:
        worker = self._spawn("The worker", "worker.log", ("worker",))
        self.children.append(worker)
        deadline = time.monotonic() + READY_TIMEOUT_S
        answer: tuple[int, bytes] = (0, b"")
        while time.monotonic() < deadline and worker.running():
            answer = self.get("/health/ready")
            if answer[0] == 200:
                return
            time.sleep(0.1)
        state = f"last answer {answer[0]} {answer[1][:300].decode(errors='replace')}"
        ended = state if worker.running() else f"it ended with code {worker.exit_code}"
        raise LocalError(f"The worker did not become ready: {ended}. The end of {worker.log}:\n{worker.log_tail(25)}")


class Follower:
    """Prints what is added to a log from now on, as `tail -f` does."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._seen = log.stat().st_size

    def print_new(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        self._seen += len(new)
        if new:
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()


def dev(settings: Settings, parent: int | None) -> int:
    """Stack, topics and one worker, whose log goes to the terminal."""
    platform = Platform(settings, {f"{PREFIX}LOG_FORMAT": "console"} | dict(os.environ))
    try:
        stack = platform.start()
        print(
            addresses(platform, stack), "\nThe worker's log follows; Ctrl-C stops everything.\n", sep="\n", flush=True
        )
        platform.watch(parent, follow=True)
    except KeyboardInterrupt:
        pass
    finally:
        platform.stop()
    return 0


def demo(settings: Settings, parent: int | None) -> int:
    """The main job, from nothing."""
    began = time.monotonic()
    platform = Platform(settings, dict(os.environ))
    try:
        stack = platform.start()
        say(f"Producing {SAMPLES} sample orders ...")
        seed = secrets.randbelow(10**6)
        platform.command("produce", "--count", str(SAMPLES), "--seed", str(seed))
        orders = platform.look_up([str(document["order_uid"]) for document in samples.orders(SHOWN, seed=seed)])
        print(f"\nOrderstream is up after {time.monotonic() - began:.0f} s, for this machine only.\n")
        print(addresses(platform, stack), looked_up(orders), next_things(platform, orders[0]), sep="\n\n", flush=True)
        platform.watch(parent)
    except KeyboardInterrupt:
        pass
    finally:
        platform.stop()
    return 0


def addresses(platform: Platform, stack: Stack) -> str:
    rows = [(name, platform.url + path) for name, path in PAGES if platform.get(path)[0] == 200]
    rows += [
        ("Kafka", f"{stack.kafka} (produce to the topic {platform.intake})"),
        ("PostgreSQL", f"{masked(stack.postgres)} (password: {platform.embedded.data_dir}/postgres/password)"),
    ]
    if stack.provider:
        rows += [("Payments", f"{stack.provider} (a sandbox provider: no money moves)")]
    if stack.carrier:
        rows += [("Carrier", "shipping.events → shipping.responses (a sandbox carrier: nothing is carried)")]
    rows += [("Data and logs", str(platform.embedded.data_dir))]
    return "\n".join(f"  {name:<15}{address}" for name, address in rows)


def looked_up(orders: list[dict[str, Any]]) -> str:
    """A row per order, from what GET /api/v1/orders/{id} answered."""
    rows = [("order", "status", "customer", "amount", "placed at")]
    for order in orders:
        payment = order["document"]["payment"]
        amount = format_amount(payment["amount"], payment["currency"])
        rows.append((order["order_uid"], order["status"], order["customer_id"], amount, order["placed_at"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "Looked up just now, each by its id:\n\n" + "\n".join(f"  {line}" for line in lines)


def next_things(platform: Platform, order: dict[str, Any]) -> str:
    uid, api = order["order_uid"], f"{platform.url}/api/v1/orders"
    faust = ".venv/bin/faust" if Path(".venv/bin/faust").exists() else f"{sys.executable} -m faust"
    steps = [
        ("one order, and its history", f"curl -s {api}/{uid}\ncurl -s {api}/{uid}/timeline"),
        ("a customer's orders", f"curl -s '{api}?customer_id={order['customer_id']}'"),
        ("place a generated order", f"curl -s -X POST {platform.url}/api/orders/test"),
        ("cancel one", f'curl -s -X POST {api}/{uid}/cancel {JSON} -d \'{{"reason": "changed my mind"}}\''),
        ("a thousand more, through Kafka", f"{faust} -A app produce --count 1000"),
        ("the same order, and its history, in the terminal", f"{faust} -A app order {uid} --timeline"),
        ("a second worker", f"{PREFIX}WEB_PORT={platform.settings.web_port + 1} {faust} -A app worker"),
    ]
    # A second terminal does not know what was set in this one.
    own = [f"export {name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)]
    lines = [f"    {line}" for line in own]
    for title, commands in steps:
        lines += [f"  # {title}", *(f"    {line}" for line in commands.splitlines())]
    return "\n".join(["Next, in a second terminal:", "", *lines, "", "Ctrl-C stops everything; the orders stay."])
