"""acts of a task -> files of one directory, and back in the same order: what a fold needs that has no broker."""

from __future__ import annotations

import marshal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from streams.journal import Act, Run
from streams.records import Headers, Outgoing, StoredRecord, TopicPartition

#: Acts that are written, and read, together.
CHUNK = 500


class Taken(NamedTuple):
    """One record that a task took; without a topic: the deadlines that were due as of `timestamp`."""

    topic: str | None
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def record(self, partition: int) -> StoredRecord:
        assert self.topic is not None, "deadlines are no record"
        return StoredRecord(self.topic, partition, *self[1:])


class Told(NamedTuple):
    """What an act led to: a digest of all that was sent, and of what goes to tasks its print and its name."""

    digest: bytes
    made: tuple[tuple[bytes, bytes], ...]


class Writer:
    """Tuples of plain values into a file, many at once."""

    def __init__(self, path: Path) -> None:
        self._file, self._chunk = path.open("wb"), list[tuple[Any, ...]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def add(self, item: tuple[Any, ...]) -> None:
        self._chunk.append(item)
        if len(self._chunk) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        raw = marshal.dumps([tuple(item) for item in self._chunk])
        self._file.write(len(raw).to_bytes(8, "big") + raw)  # marshal.load would read byte by byte
        self._chunk = []


def _read(path: Path) -> Iterator[tuple[Any, ...]]:
    if not path.exists():  # a task that only newer rules have
        return
    with path.open("rb") as file:
        while size := file.read(8):
            yield from marshal.loads(file.read(int.from_bytes(size, "big")))


async def spool(acts: AsyncIterator[Act], task: Path, moved: Callable[[int], None] = lambda count: None) -> None:
    """Write a task's past down. `moved` hears how many records were written since it heard last."""
    with Writer(_acts(task)) as writer:
        async for act in acts:
            if isinstance(act, Run):
                for each in act.records:
                    headers = tuple((name, value) for name, value in each.headers)
                    writer.add((act.partition.topic, each.offset, each.timestamp, each.key, each.value, headers))
                moved(len(act.records))
            else:
                writer.add((None, 0, act.now_ms, None, None, ()))


def read_acts(task: Path) -> Iterator[Taken]:
    """What was spooled."""
    return map(Taken._make, _read(_acts(task)))


def tell(task: Path) -> Writer:
    """Takes what a fold of the task's acts says of each of them."""
    return Writer(task.with_suffix(".told"))


def keep_rows(task: Path) -> Writer:
    """Takes the rows that a fold begins with."""
    return Writer(task.with_suffix(".rows"))


def read_rows(task: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Table, key, value; nothing when the fold begins with nothing."""
    for row in _read(task.with_suffix(".rows")):
        yield row[0], row[1], row[2]


def keep_changed(task: Path) -> Writer:
    """Takes the rows that a fold writes."""
    return Writer(task.with_suffix(".changed"))


def read_changed(task: Path) -> dict[tuple[str, bytes], bytes | None]:
    """By table and key, as they were left; None: it was deleted."""
    return {(table, key): value for table, key, value in _read(task.with_suffix(".changed"))}


def keep_sent(task: Path) -> Writer:
    """Takes records that are to be sent once more."""
    return Writer(task.with_suffix(".sent"))


def read_sent(task: Path) -> Iterator[tuple[TopicPartition, Outgoing]]:
    """In the order in which they were sent."""
    for topic, partition, *fields in _read(task.with_suffix(".sent")):
        yield TopicPartition(topic, partition), Outgoing(*fields)


def read_told(task: Path) -> Iterator[Told]:
    return map(Told._make, _read(task.with_suffix(".told")))


def _acts(task: Path) -> Path:
    return task.with_suffix(".acts")
