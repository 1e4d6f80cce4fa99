"""`python -m local demo` and `dev`, as `make demo` and `make dev` run them -> orders looked up, and a clean end."""

import json
import re
import signal
import socket
import subprocess
import urllib.request

from local.demo import SHOWN
from tests.local.sites import Site, eventually, gone
from tests.processes import ROOT


def answer(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
        return body


def buy(site: Site) -> None:
    """As the README does: the newest orders are then bought ones, which have no document."""
    api = f"http://127.0.0.1:{site.web_port}/api/v1"
    for number in range(SHOWN + 1):
        cart = {"user_id": "asha", "item_id": "pen", "quantity": 1, "idempotency_key": f"cart-{number}"}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{api}/orders", json.dumps(cart).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 201


def test_the_demo_ends_in_looked_up_orders_dev_finds_them_again_and_ends_with_its_worker(site: Site) -> None:
    demo = site.up("demo")
    rows = re.findall(r"^  (\S+) +placed +\S+ +[\d,.]+ [A-Z]{3} +\S+Z$", demo.output, re.MULTILINE)
    assert len(rows) == len(set(rows)) == SHOWN
    addresses = re.findall(r"^  [A-Z][A-Za-z ]+ +(http://\S+)$", demo.output, re.MULTILINE)
    assert {url.partition(str(site.web_port))[2] for url in addresses} >= {"/api/v1/orders", "/health", "/metrics"}
    for url in [*addresses, *re.findall(r"curl -s '?(http://[^\s']+)", demo.output)]:
        assert answer(url), url
    shown = re.findall(r"^    (\S+faust\S* -A app order .*)$", demo.output, re.MULTILINE)
    assert len(shown) == 1, "the printed command can be pasted into a second terminal"
    looked_up = subprocess.run(shown[0], shell=True, cwd=ROOT, env=site.env, capture_output=True, text=True, timeout=60)
    assert looked_up.returncode == 0 and rows[0] in looked_up.stdout, looked_up.stderr
    assert f"export ORDERSTREAM_WEB_PORT={site.web_port}" in demo.output

    buy(site)
    code, rest = demo.end(signal.SIGINT)
    assert code == 0
    assert [line.split(".")[0] for line in rest.split("\n") if line] == ["Stopping ", "Stopped"], rest

    again = site.up("demo")
    rows_again = re.findall(r"^  (\S+) +placed", again.output, re.MULTILINE)
    assert len(rows_again) == SHOWN and not set(rows) & set(rows_again), "those that were just produced"
    again.end(signal.SIGINT)

    dev = site.up("dev")
    orders = json.loads(answer(f"http://127.0.0.1:{site.web_port}/api/v1/orders?limit=100"))["orders"]
    assert set(rows) <= {order["order_uid"] for order in orders}
    assert (site.data_dir / "logs" / "worker.log").stat().st_size > 0

    worker = next(p for p in dev.family if p.cmdline()[1:] == ["-m", "faust", "-A", "app", "worker"])
    worker.kill()
    rest, _ = dev.process.communicate(timeout=60)
    assert dev.process.returncode == 1 and "The worker ended by itself with code 137" in rest
    assert "Traceback" not in rest
    assert eventually(lambda: gone(dev.family), 20)


def test_a_taken_web_port_is_told_before_anything_is_started(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.web_port))
        taken.listen()
        failed = site.run("demo")
    assert failed.returncode == 1
    assert f"port {site.web_port}" in failed.stderr and "ORDERSTREAM_WEB_PORT=" in failed.stderr
    assert not site.data_dir.exists()
