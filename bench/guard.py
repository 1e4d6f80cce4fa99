"""one batch of orders through the product's real task loop, in memory -> CPU per order, in units of this machine.

The unit is what orjson needs to read and write the same documents here and now, so the figure hardly depends on the
machine and its load: it says how many times more the product does with an order than reading and writing it once.
`tests/test_bench.py` holds it against the committed baseline. It sees the rules, the codecs, the tables and the batch;
it does not see aiokafka, RocksDB or the broker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import orjson

from agents.wiring import declare_topics, wire_orders
from bench import orders
from bench.loading import Record
from schemas.topics import topics
from streams import App
from streams.driver import Driver

BASELINE = Path(__file__).with_name("baseline.json")
#: One partition's batches, as under load.
ORDERS, REPEATS = 4_000, 5
#: Noise of a loaded machine was up to a tenth, and other machines weigh JSON and Python differently: the room is for
#: them. What costs this much more is worth a look; smaller losses show in `python -m bench guard` on one machine.
ROOM = 1.5


def cost() -> float:
    """CPU of one order through the product's loop, in units of reading and writing its JSON once."""
    records = list(orders.plain(ORDERS))
    return median(asyncio.run(_loop_s(records)) / _unit_s(records) for _ in range(REPEATS))


def _unit_s(records: Sequence[Record]) -> float:
    began = time.process_time()
    for _, value in records:
        orjson.dumps(orjson.loads(value))
    return time.process_time() - began


async def _loop_s(records: Sequence[Record]) -> float:
    with TemporaryDirectory() as folder:
        app = App("guard", data_dir=Path(folder), broker="kafka://127.0.0.1:9")
        wire_orders(app, declare_topics(app, (spec for spec in topics(1, 1) if spec.group in ("orders", None))))
        async with Driver(app) as driver:
            for key, value in records:
                driver.produce("orders", key=key, value=value)
            began = time.process_time()
            await driver.run()
            seconds = time.process_time() - began
            events = len(driver.read("orders.events.v1"))
        if events != len(records):
            raise AssertionError(f"{len(records)} orders became {events} events: the guard would measure nothing")
        return seconds


def baseline() -> float:
    return float(json.loads(BASELINE.read_text())["cost"])


def report(write: bool) -> int:
    """Print what is found; 1 when it is above the baseline and its room."""
    found = cost()
    if write:
        BASELINE.write_text(json.dumps({"cost": round(found, 2)}) + "\n")
    limit = baseline() * ROOM
    print(f"cost of an order: {found:.2f} times its JSON; baseline {baseline():.2f}, limit {limit:.2f}")
    return int(found > limit)
