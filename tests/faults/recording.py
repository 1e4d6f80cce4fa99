"""records as they were once written, and what came of them, in a file -> the same made of them by today's code.

`python -m tests.faults --record v2` writes tests/faults/recorded/v2.jsonl with what the code does now. A recording is
made when a format changes on purpose, and never changed: the older ones show what must still be read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from streams.driver import Driver
from streams.records import Headers
from tests.agents.domain import make_app
from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, home_of
from tests.orders_load import Planned, plan, poison

DIRECTORY = Path(__file__).parent / "recorded"
PARTITIONS = 4  # the product's default
ORDERS, OTHERS, POISON, SEED = 14, 12, 6, 19
BEGAN_MS, STEP_MS = 1_763_700_000_000, 250


H = TypeVar("H")
#: Headers that came after the first recording. Readers of then do not look at them.
LATER = frozenset({"customer"})


def as_then(headers: Iterable[tuple[str, H]]) -> tuple[tuple[str, H], ...]:
    """The headers without those that came later."""
    return tuple((name, value) for name, value in headers if name not in LATER)


class Recorded(NamedTuple):
    """A record of a topic. Text is latin-1: every byte has its letter. `paths`: of the faults that were planted."""

    topic: str
    partition: int
    timestamp: int
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str], ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def raw(self) -> tuple[bytes | None, bytes | None]:
        """Key and value."""
        return raw(self.key), raw(self.value)

    @property
    def planned(self) -> Planned:
        """As the generator has it."""
        headers = tuple((name, value.encode("latin-1")) for name, value in self.headers)
        return Planned("recorded", self.topic, *self.raw, headers=headers, paths=frozenset(self.paths))


def read(path: Path) -> tuple[list[Recorded], list[Recorded]]:
    """What went in, and what came out: events, dead letters, and each row of a table as its last changelog record."""
    lines = [_line(json.loads(line)) for line in path.read_text().splitlines()]
    given = [line for line in lines if line.topic in (INTAKE, COMMANDS)]
    return given, [line for line in lines if line.topic not in (INTAKE, COMMANDS)]


def _line(words: list[Any]) -> Recorded:
    topic, partition, timestamp, key, value, headers, paths = words
    return Recorded(topic, partition, timestamp, key, value, tuple((n, v) for n, v in headers), tuple(paths))


def fresh() -> Iterator[Recorded]:
    """Orders of the generator, then what is said about them, all at home: nothing depends on how topics interleave."""
    whole = list(plan(200, SEED))
    orders = [record for record in whole if record.what == "order"][:ORDERS]
    others = [record for record in whole if record.what != "order" and not record.paths][:OTHERS]
    spoilt = [record for record in poison(40, SEED) if len(record.value or b"") < 2_000][:POISON]
    chosen = sorted([*orders, *others, *spoilt], key=lambda record: record.topic == COMMANDS)
    for number, record in enumerate(chosen):
        uid = json.loads(record.value or b"{}")["order_uid"] if not record.paths else "poison"
        key, when = record.key and uid.encode(), BEGAN_MS + number * STEP_MS
        line = recorded(record.topic, home_of(uid, PARTITIONS), when, key, record.value, record.headers)
        yield line._replace(paths=tuple(sorted(record.paths)))


def text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("latin-1")


def raw(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")


async def replayed(given: Iterable[Recorded]) -> list[Recorded]:
    """What today's code makes of it, in memory."""
    with TemporaryDirectory() as directory:
        app, _ = make_app(Path(directory), PARTITIONS)
        changelogs = [topic.name for topic in app.changelog_topics()]
        async with Driver(app, now_ms=BEGAN_MS) as driver:
            for line in given:
                driver.clock.advance(line.timestamp - driver.clock.now_ms())
                record = line.planned
                driver.produce(
                    line.topic, key=record.key, value=record.value, partition=line.partition, headers=record.headers
                )
                await driver.run()
            found = [record for topic in (EVENTS, LETTERS) for record in driver.read(topic)]
            rows = {(r.topic, r.partition, r.key): r for topic in changelogs for r in driver.read(topic)}
            found += [row for row in rows.values() if row.value is not None and not (row.key or b"").startswith(b"\0")]
    return [recorded(r.topic, r.partition, r.timestamp, r.key, r.value, r.headers) for r in found]


def recorded(
    topic: str, partition: int, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Recorded:
    listed = tuple((name, each.decode("latin-1")) for name, each in headers)
    return Recorded(topic, partition, timestamp, text(key), text(value), listed)


def record(name: str) -> Path:
    """What today's code makes of fresh inputs, for tomorrow's."""
    given, path = list(fresh()), DIRECTORY / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*given, *asyncio.run(replayed(given))]))
    return path
