"""Webhooks on the real stack: docs/webhooks.md as it stands, and a worker killed while a target thinks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local.ports import find_free
from tests.agents.effects.test_provider_on_kafka import eventually
from tests.processes import ROOT, RunningStack, Worker, Workers

PAGE = (ROOT / "docs" / "webhooks.md").read_text()
ENV = {
    "ORDERSTREAM_WEBHOOK_KEYS": "k" * 32,
    "ORDERSTREAM_WEBHOOK_LOOPBACK": "true",
    "ORDERSTREAM_SESSION_TIMEOUT_MS": "1500",
}


class Target(ThreadingHTTPServer):
    """Keeps the webhook-id of each request, and answers once `lets_go` is set."""

    def __init__(self, port: int = 0) -> None:
        self.ids: list[str] = []
        self.lets_go = threading.Event()
        super().__init__(("127.0.0.1", port), Thinker)


class Thinker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Target)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ids.append(self.headers["webhook-id"])
        self.server.lets_go.wait(20)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whoever was killed hung up."""


@contextmanager
def target() -> Iterator[Target]:
    server = Target()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.lets_go.set()
    server.shutdown()
    server.server_close()


def post(worker: Worker, path: str, body: object = None) -> Any:
    raw = b"" if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(worker.url + path, raw, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(asked, timeout=10) as response:
        return json.loads(response.read())


def run_the_page(worker: Worker, directory: Path) -> str:
    """The receiver and the commands of docs/webhooks.md, on ports that are free."""
    (receiver,) = re.findall(r"<!-- tested: the receiver -->\n```python\n(.*?)```", PAGE, flags=re.S)
    (script,) = re.findall(r"<!-- tested: create.*?-->\n```bash\n(.*?)```", PAGE, flags=re.S)
    (port,) = find_free(1)
    (directory / "receiver.py").write_text(receiver.replace("8000", str(port)))
    script = script.replace(":8000/", f":{port}/").replace(":6066/", f":{worker.port}/")
    script = script.replace("python3 ", f"{sys.executable} ")
    ran = subprocess.run(
        ["bash", "-ec", script], cwd=directory, env=dict(os.environ), capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_the_page_works_and_a_killed_worker_delivers_again_under_the_same_id(
    clean_stack: RunningStack, workers: Workers, tmp_path: Path
) -> None:
    clean_stack.faust("topics", "create")
    worker = workers.start(env=ENV)
    told = run_the_page(worker, tmp_path)
    assert '"deleted":true' in told and told.count('"secret":"whsec_') == 1, told
    taken = (tmp_path / "received.log").read_text().splitlines()
    assert len(taken) == 2 and all(line.startswith("taken ") and "orders.order_placed" in line for line in taken)
    assert taken[0] == taken[1], "the same id, the same body"

    with target() as thinking:
        url = f"http://127.0.0.1:{thinking.server_address[1]}/hook"
        webhook = post(worker, "/api/v1/webhooks", {"url": url, "events": ["orders.order_placed"]})
        post(worker, "/api/orders/test")
        eventually(lambda: thinking.ids)
        worker.kill()
        worker = workers.start(env=ENV)
        eventually(lambda: len(thinking.ids) >= 2)
        thinking.lets_go.set()
        log = f"/api/v1/webhooks/{webhook['subscription_id']}/deliveries?state=delivered"
        (delivery,) = eventually(lambda: worker.get(log)[0] == 200 and worker.get(log)[1]["deliveries"])
        assert set(thinking.ids) == {delivery["delivery_id"]} and delivery["attempts"] == 1
    assert worker.get("/health")[1]["checks"]["effects"]["ok"]
