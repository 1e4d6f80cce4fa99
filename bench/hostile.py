"""Records that are made to cost CPU, and the most that one of them takes: `python -m bench.hostile`, without a broker.

Each record is as large as its topic takes. It goes through the real task loop over a log in memory (streams/driver.py),
so the figure has reading, deciding, the dead letter and the commit in it, but no compression and no network.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from agents.wiring import VALUES, wire
from schemas.orders import samples
from schemas.topics import TOPICS, topics
from streams import App, TopicPartition
from streams.driver import Driver

#: Room for what is around the filler.
MARGIN_BYTES = 4_000
MIB = 1 << 20
REPETITIONS = 3
#: Members that are lists or objects in one command or another, and one that is in none.
MEMBERS = (b"extra", b"lines", b"address", b"attributes", b"events", b"document", b"parts")


class Hostile(NamedTuple):
    """A record, and what it is."""

    topic: str
    what: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def fillers(size: int) -> Iterator[tuple[str, bytes]]:
    """JSON values of about this many bytes, each hard on another part of a reader."""

    def repeated(unit: bytes, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
        return opening + b",".join([unit] * (size // (len(unit) + 1))) + closing

    few = 4_900  # below the number of values up to which faults are listed one by one
    yield "integers", repeated(b"1")
    yield "decimals", repeated(b"0.1")
    yield "empty texts", repeated(b'""')
    yield "empty objects", repeated(b"{}")
    yield "objects", repeated(b'{"a":1}')
    yield "NaN", repeated(b"NaN")
    yield "exponents", repeated(b"1e5")
    yield "numbers out of range", repeated(b"1e999")
    yield "long numbers", repeated(b"1" * 30)
    yield "a very long number", b"1" * size
    yield "a name many times", repeated(b'"a":1', b"{", b"}")
    yield "many names", b"{" + b",".join(b'"%x":1' % number for number in range(size // 10)) + b"}"
    yield "depth", b"[" * (size // 2) + b"]" * (size // 2)
    yield "objects in objects", b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6)
    yield "64 levels many times", repeated(b"[" * 60 + b"]" * 60)
    yield "escapes", b'"' + b"\\u0061" * (size // 6) + b'"'
    yield "half surrogates", b'"' + b"\\ud800" * (size // 6) + b'"'
    yield "NUL in texts", repeated(b'"\\u0000"')
    yield "commas in a text", b'"' + b"," * size + b'"'
    yield "brackets in a text", b'"' + b"[" * 90_000 + b'"'
    yield "white space", b"[" + b" " * size + b"]"
    yield "4,000 NaN", b"[" + b",".join([b"NaN"] * few) + b"]"
    yield "4,000 times a name", b"{" + b",".join([b'"a":1'] * (few // 2)) + b"}"
    yield "4,000 long names", b"{" + b",".join(b'"%0100d":NaN' % number for number in range(few // 2)) + b"}"
    yield "4,000 odd numbers", b"[" + b",".join([b"1.2345678901234567890"] * few) + b"]"
    yield "4,000 NUL", b"[" + b",".join([b'"\\u0000"'] * few) + b"]"
    yield "90,000 good values", b"[" + b",".join([b"1"] * 90_000) + b"]"
    yield "90,000 good objects", b"[" + b",".join([b"{}"] * 45_000) + b"]"
    yield "90,000 values, one bad", b"[" + b",".join([b"1"] * 90_000) + b",NaN]"


def corpus() -> Iterator[Hostile]:
    order = samples.generate(1)
    tree = json.loads(order)
    item = tree["items"][0]
    for what, filler in fillers(MIB - MARGIN_BYTES - len(order)):
        yield Hostile("orders", what, order[:-1] + b',"extra":' + filler + b"}")
        yield Hostile("orders", f"{what} as items", order.replace(b'"items":[', b'"items":' + filler + b',"was":['))
    for what, changes in (("bad items", {"price": "x"}), ("items of another parcel", {"track_number": "y"})):
        items = [{**item, **changes, "rid": "r", "name": "n"}] * 3_500
        yield Hostile("orders", what, json.dumps({**tree, "items": items}, separators=(",", ":")).encode())
    for spec in TOPICS:
        if spec.group is None:
            continue
        size = spec.max_message_bytes - MARGIN_BYTES
        yield Hostile(spec.name, "no JSON", b"x" * size)
        yield Hostile(spec.name, "not UTF-8", b'{"a":"' + b"\xff" * size + b'"}')
        yield Hostile(spec.name, "too large", b"x" * (4 * size))
        yield Hostile(spec.name, "900 headers", b"{}", tuple(("h", b"1" * 2_000) for _ in range(900)))
        yield Hostile(spec.name, "100,000 headers", b"{}", tuple(("h", b"") for _ in range(100_000)))
        for kind in _types(spec.name):
            head = b'{"type":"%s","command_id":"c","order_uid":"u","user_id":"u","item_id":"i",' % kind.encode()
            for member in (b"extra",) if kind == "none" else MEMBERS:
                for what, filler in fillers(size):
                    yield Hostile(spec.name, f"{what} as {member.decode()}", head + b'"%s":%s}' % (member, filler))


def _types(topic: str) -> tuple[str, ...]:
    """One command that takes a list or an object, where there is one; every topic's reader sees the fillers."""
    rich = {
        "orders.commands.v1": ("place_order",),
        "purchases.commands.v1": ("place_cart",),
        "inventory.commands.v1": ("create_item",),
        "webhooks.commands.v1": ("create_subscription",),
        "shipping.commands.v1": ("request_shipment",),
    }
    return rich.get(topic, ("none",) if topic in VALUES else ())


async def measured(every: int = 1) -> dict[str, float]:
    """Milliseconds of CPU by record, the least of REPETITIONS: what is above it is the machine's.

    `every`: only each so many-th of the corpus.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        app = App("hostile", data_dir=Path(folder), broker="kafka://127.0.0.1:9")
        wire(app, topics(1, 1))
        async with Driver(app) as driver:
            for hostile in islice(corpus(), 0, None, every):
                times = [await _take_ms(driver, hostile) for _ in range(REPETITIONS)]
                found[f"{hostile.topic}: {hostile.what}"] = min(times)
    return found


async def _take_ms(driver: Driver, hostile: Hostile) -> float:
    at = driver.produce(hostile.topic, value=hostile.value, partition=0, headers=hostile.headers)
    began = time.process_time()
    await driver.run()
    seconds = time.process_time() - began
    taken = driver.log.topics[TopicPartition(at.topic, at.partition)]
    taken[at.offset] = taken[at.offset]._replace(value=b"", headers=())  # the log in memory is not to grow
    return seconds * 1000


def main() -> int:
    found = asyncio.run(measured())
    for what, ms in sorted(found.items(), key=lambda each: -each[1])[:10]:
        print(f"{ms:7.1f} ms  {what}", file=sys.stderr)
    print(json.dumps({"worst_ms": max(found.values()), "records": len(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
