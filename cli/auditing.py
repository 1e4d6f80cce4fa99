"""a topic of events, the tables that follow from it and a check of both -> read to the end -> the first finding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

import orjson

from cli.console import Found, Operator, progress
from cli.letters import Gone, HiddenByTransaction, Reader, reader_of
from streams.records import Record, TopicPartition


class Finding(Protocol):
    """The first thing that is wrong; as text, a sentence without its full stop."""

    def _asdict(self) -> dict[str, Any]: ...


class Check(Protocol):
    """Takes the events of a topic one after the other, and gives what is wrong with one."""

    def take(self, partition: int, offset: int, topic: str, key: bytes | None, raw: bytes | None) -> Finding | None: ...

    def close(self) -> Finding | None: ...


C = TypeVar("C", bound=Check)
T = TypeVar("T")

#: Reads the tables and makes the check of them. It is given where the events ended before that, by partition.
Prepare = Callable[[dict[int, int]], Awaitable[C]]


def audit(operator: Operator, topic: str, label: str, prepare: Prepare[C]) -> tuple[C, Finding | None]:
    """What is wrong first, if anything, and the check with all that it has counted until then. Raises Found."""
    return looked_through(operator, _read_to_the_end(operator, topic, label, prepare))


def looked_through(operator: Operator, work: Coroutine[Any, Any, T]) -> T:
    """Do work that reads topics to an end. Raises Found where there is none, or it stays hidden."""
    try:
        return operator.run(operator.after_check(work))
    except (Gone, HiddenByTransaction) as error:
        raise Found(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


async def first_finding(events: Reader, ends: Mapping[TopicPartition, int], label: str, check: Check) -> Finding | None:
    """What is wrong first in the events below `ends`; the check has counted all of them, or those before it."""
    with progress(label, sum(ends.values())) as bar:
        async for record in events.read(ends, {}):
            bar.update(1)
            finding = check.take(record.partition, record.offset, record.topic, record.key, record.value)
            if finding is not None:
                return finding
    return None


async def _read_to_the_end(operator: Operator, topic: str, label: str, prepare: Prepare[C]) -> tuple[C, Finding | None]:
    """The tables first, the events after them: what the tables hold is then in the events that are read."""
    events, _ = await reader_of(operator.brokers, topic)
    before = await events.ends("read_committed")
    check = await prepare({partition.partition: end for partition, end in before.items()})
    # To the end of what was written, not of what is committed now: a transaction whose rows were just read may not have
    # reached this topic yet.
    finding = await first_finding(events, await events.ends("read_uncommitted"), label, check)
    return check, finding or check.close()


async def rows_of(operator: Operator, group: str, table: str) -> AsyncIterator[Record]:
    """The changelog of a table from its beginning, rows only."""
    reader: Reader
    reader, _ = await reader_of(operator.brokers, operator.app.groups[group].tables[table].changelog)
    async for record in reader.read(await reader.ends("read_uncommitted"), {}):
        if record.key is not None and not record.key.startswith(b"\0"):  # the store's own
            yield record


async def table_of(operator: Operator, group: str, table: str) -> dict[str, Any]:
    """The rows of a table as its changelog ends; JSON, every one of them."""
    rows: dict[str, Any] = {}
    async for record in rows_of(operator, group, table):
        if record.key is not None and record.value is not None:
            rows[record.key.decode()] = orjson.loads(record.value)
    return rows
