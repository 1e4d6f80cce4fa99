"""Buying: carts over HTTP until stock and money have answered, at a steady rate and as many as it takes.

Once as it comes, and once with a limit on orders per customer that nobody reaches: what its hop over the customer's
partition costs, in the same run.
"""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.folds import Product
from bench.ground import Served
from bench.http_load import BUYERS, ITEMS, PIECES
from bench.results import Line
from bench.rounds import Bench
from bench.watching import Stuck

PATH = "/api/v1/orders"
CARTS_PER_S = 20
SECONDS = 15
DEPOSIT = 10**12
#: A hundred buyers at most rates that a worker can do: none of them comes near it.
LIMITED = {"ORDERSTREAM_ORDERS_PER_CUSTOMER": "1000", "ORDERSTREAM_ORDERS_WINDOW_MS": "60000"}


def run(bench: Bench) -> None:
    rounds = itertools.count(1)

    def buy(way: str, settings: Mapping[str, str]) -> None:
        with Product(bench.ground, mixed=False, sink=False, more=settings) as product:
            server, before = product.servers[0], _furnish(product.servers[0])
            number = next(rounds)
            steady = _drive(bench, server.port, f"steady-{number}", CARTS_PER_S)
            left, cpu_s = _left(server), product.processes.cpu_s()
            most = _drive(bench, server.port, f"most-{number}", 0)
            cpu_s = product.processes.cpu_s() - cpu_s
            _must_be_paid(server, before, int(steady["asked"] + most["asked"]))
            # Those of the warming are paid for, too: the ledger knows how many there were.
            cpu_ms = 1000 * cpu_s / ((left - _left(server)) / 2)
            bench.add(way, cart_p50_ms=steady["p50_ms"], cart_p99_ms=steady["p99_ms"], carts_per_s=most["per_s"])
            bench.add(way, cart_cpu_ms=cpu_ms)

    bench.in_turn({"product": lambda: buy("product", {}), "product, limited": lambda: buy("product, limited", LIMITED)})


def _drive(bench: Bench, port: int, what: str, per_s: float) -> dict[str, float]:
    found = bench.asks(
        f"http-carts-{what}", "bench.http_load", "carts", port, PATH, "--orders", 0, "--per-s", per_s,
        "--seconds", bench.seconds(SECONDS), "--warm-s", bench.seconds(3), "--name", what,
    )  # fmt: skip
    if found["bad"]:
        raise Stuck(f"{found['bad']} carts were not answered with 201")
    return found


def _furnish(server: Served) -> int:
    """Items with stock, buyers with money; gives what all accounts have together."""

    def item(number: int) -> None:
        about = {"outlet_id": "bench", "name": "thing", "price_minor": 1, "currency": "INR", "attributes": {}}
        _post(server, "/api/v1/items", {"item_id": ITEMS.format(number), **about})
        _post(server, f"/api/v1/items/{ITEMS.format(number)}/stock", {"delta": PIECES, "reason": "receive"})

    def buyer(number: int) -> None:
        account = _post(server, "/api/v1/accounts", {"user_id": BUYERS.format(number), "currency": "INR"})
        _post(server, f"/api/v1/accounts/{account['account_id']}/deposits", {"amount_minor": DEPOSIT})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(item, range(100)))
        list(pool.map(buyer, range(100)))
    return 100 * DEPOSIT


def _must_be_paid(server: Served, before: int, carts: int) -> None:
    """A 201 says that there is an order, not that it was paid: two pieces of one minor unit each, for every cart."""
    left = _left(server)
    if before - left < 2 * carts * 0.99:  # the last ones may still be on their way
        raise Stuck(f"{carts} carts of 2 were bought, and {before - left} were paid")


def _left(server: Served) -> int:
    """What all accounts have together."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/v1/ledger/trial-balance", timeout=10) as answer:
        return int(json.load(answer)["currencies"][0]["accounts_minor"])


def _post(server: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def _lines(suffix: str, way: str, title: str) -> tuple[Line, ...]:
    steady = f"cart to paid and approved at {CARTS_PER_S}/s{title}"
    return (
        Line(f"cart_p50{suffix}", f"{steady}, p50", "cart_p50_ms", "ms", (way,), more_is_better=False),
        Line(f"cart_p99{suffix}", f"{steady}, p99", "cart_p99_ms", "ms", (way,), more_is_better=False),
        Line(f"carts{suffix}", f"carts bought by one worker, two lines each{title}", "carts_per_s", "carts/s", (way,)),
        Line(f"cart_cpu{suffix}", f"CPU of the worker per cart{title}", "cart_cpu_ms", "ms", (way,),
             more_is_better=False),
    )  # fmt: skip


LINES = (*_lines("", "product", ""), *_lines("_limited", "product, limited", ", with a limit per customer"))
