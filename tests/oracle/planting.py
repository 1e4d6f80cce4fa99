"""an honest history -> the same with one thing changed, as a broken platform would leave it (to test the oracle)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from tests.oracle.documents import document_faults
from tests.oracle.history import Fold
from tests.oracle.log import EVENTS, INTAKE, LETTERS, Log, Record, derived

CHANGELOG = "-changelog"
PARTITIONS = 3  # of the histories that the tests make


@dataclass
class Plant:
    """Changes one thing in a copy of an honest history. A changelog is named <table>-changelog."""

    log: Log
    fold: Fold

    def topic(self, name: str, records: Sequence[Record]) -> Log:
        if name in self.log.topics:
            return replace(self.log, topics={**self.log.topics, name: records})
        return replace(self.log, changelogs={**self.log.changelogs, name.removesuffix(CHANGELOG): records})

    def records(self, name: str) -> list[Record]:
        if name in self.log.topics:
            return list(self.log.topics[name])
        return list(self.log.changelogs[name.removesuffix(CHANGELOG)])

    def without(self, name: str, which: Callable[[Record], bool]) -> Log:
        records = self.records(name)
        records.remove(next(filter(which, records)))
        return self.topic(name, records)

    def doubled(self, name: str, which: Callable[[Record], bool]) -> Log:
        """The same once more, at the end of its partition."""
        records = self.records(name)
        record = next(filter(which, records))
        last = max(other.offset for other in records if other.partition == record.partition)
        return self.topic(name, [*records, record._replace(offset=last + 1)])

    def changed(self, name: str, which: Callable[[Record], bool], change: Callable[[Record], Record]) -> Log:
        records = self.records(name)
        at = records.index(next(filter(which, records)))
        records[at] = change(records[at])
        return self.topic(name, records)

    def forwarded(self, record: Record) -> bool:
        """Whether the platform brought this record home, an order from the intake."""
        sent = self.log.sent or frozenset()
        return record.position not in sent and b'"document"' in (record.value or b"")


def of_type(kind: str) -> Callable[[Record], bool]:
    return lambda record: orjson.loads(record.value or b"")["type"] == kind


def only_of_its_key(records: Iterable[Record]) -> Callable[[Record], bool]:
    """A row that was written once, so that nothing later hides what is done to it; not the engine's own."""
    times = Counter(record.key for record in records)
    return lambda record: times[record.key] == 1 and not (record.key or b"\0").startswith(b"\0")


def any_record(record: Record) -> bool:
    return True


def edited(**members: Any) -> Callable[[Record], Record]:
    return lambda record: record._replace(value=orjson.dumps({**orjson.loads(record.value or b""), **members}))


def respelled(old: bytes, new: bytes) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        assert record.value is not None and old in record.value
        return record._replace(value=record.value.replace(old, new))

    return change


def in_headers(name: str, value: bytes | None) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        kept = [(each, raw) for each, raw in record.headers if each != name]
        return record._replace(headers=tuple(kept if value is None else [*kept, (name, value)]))

    return change


def swapped(plant: Plant) -> Log:
    """Two neighbours of one partition, both orders placed from the intake, change places."""
    records, causes = plant.records(EVENTS), {each.at.position: each.cause for each in plant.fold.happened}
    for at in range(len(records) - 1):
        one, other = records[at], records[at + 1]
        same_place = one.partition == other.partition and one.key != other.key
        if same_place and causes[one.position].topic == causes[other.position].topic == INTAKE:
            records[at], records[at + 1] = other._replace(offset=one.offset), one._replace(offset=other.offset)
            return plant.topic(EVENTS, records)
    raise AssertionError("the history has no two such neighbours")


def invented(plant: Plant) -> Log:
    caused_by = {"caused_by": derived("nobody"), "event_id": derived(f"{derived('nobody')}-0")}
    log = plant.doubled(EVENTS, of_type("order_placed"))
    return Plant(log, plant.fold).changed(EVENTS, lambda record: record is log.of(EVENTS)[-1], edited(**caused_by))


def wrong_letter(plant: Plant) -> Log:
    """A good record that is called poison."""
    letter = plant.records(LETTERS)[0]
    good = next(record for record in plant.records(INTAKE) if not document_faults(record.value or b""))
    origin = (good.topic, good.partition, good.offset)
    for name, value in zip(("topic", "partition", "offset"), origin, strict=True):
        letter = in_headers(f"dead-letter-{name}", str(value).encode())(letter)
    return plant.topic(LETTERS, [*plant.records(LETTERS), letter])


def moved(record: Record) -> Record:
    """Into another partition."""
    return record._replace(partition=(record.partition + 1) % PARTITIONS)
