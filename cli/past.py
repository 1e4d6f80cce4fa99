"""the topics of events -> an order folded by the rules, to its end or to a moment -> what it was, without any worker.

Every event of the order's partition is looked at, from the first: this is the slow way, which needs no table. What the
tables answer over HTTP can be held against it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cli.console import progress
from cli.letters import Reader, reader_of
from schemas import orders as order_words
from schemas import purchases as purchase_words
from streams import Position, Record, TopicPartition, partition_for
from streams.brokers import Brokers
from tables.orders import OrderTables
from tables.payments import PaymentTables
from tables.purchases import PurchaseTables
from tables.versions import AfterRecord, AtTime, AtVersion, Cut


class Event(Protocol):
    """What a fold needs of an event, whatever it is about."""

    @property
    def order_uid(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def occurred_at(self) -> str: ...


class Kind(NamedTuple):
    """Orders of one kind: where they are told of, and how an event is read and folded in."""

    topic: str
    read: Callable[[bytes], Any]
    evolve: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Folds:
    """The rules' folds, which app.py hands over: this room knows no rules."""

    orders: OrderTables
    purchases: PurchaseTables
    payments: PaymentTables

    @property
    def rows(self) -> dict[str, Callable[[Any, Any], Any]]:
        """Those by which PostgreSQL's rows follow from events, by table."""
        return {"purchases": self.purchases.evolve, "payments": self.payments.evolve}

    def kinds(self) -> tuple[Kind, Kind]:
        return (
            Kind("orders.events.v1", order_words.read_event, self.orders.evolve),
            Kind("purchases.events.v1", purchase_words.read_event, self.purchases.evolve),
        )


class Standing(NamedTuple):
    """What an order was, by its events, and where the last one that counts stands. None: it was not there."""

    order: Any
    told_at: Position | None


NOT_THERE = Standing(None, None)


def fold(kind: Kind, standing: Standing, record: Record, cut: Cut | None) -> Standing | None:
    """One more event of the order; None when it, and so whatever follows, comes after the cut."""
    event: Event = kind.read(record.value or b"")
    before = standing.order.version if standing.order else 0
    if event.version == before:  # a refusal
        return standing
    match cut:
        case AtVersion(version) if event.version > version:
            return None
        case AtTime(at) if event.occurred_at > at:
            return None
        case AfterRecord(position) if record.offset > position.offset:
            return None
    position = Position(record.topic, record.partition, record.offset)
    return Standing(kind.evolve(standing.order, event), position)


async def as_it_was(brokers: Brokers, folds: Folds, order_uid: str, cut: Cut | None) -> Standing:
    """The order at the cut, of whichever kind it is; a position says of which. Raises LookupError for a wrong one."""
    for kind in folds.kinds():
        if isinstance(cut, AfterRecord) and cut.position.topic != kind.topic:
            continue
        reader, _ = await reader_of(brokers, kind.topic)
        ends = await reader.ends("read_committed")
        home = partition_for(order_uid.encode(), len(ends))
        if isinstance(cut, AfterRecord):
            _require_fitting(cut.position, home, ends[TopicPartition(kind.topic, home)])
        reader.partitions = [tp for tp in reader.partitions if tp.partition == home]
        standing = NOT_THERE
        with progress(f"reading {kind.topic}-{home}", ends[reader.partitions[0]]) as bar:
            async for record in _of(reader, ends, order_uid.encode(), bar):
                after = fold(kind, standing, record, cut)
                if after is None:
                    break
                standing = after
        if standing.order is not None:
            return NOT_THERE if isinstance(cut, AtVersion) and standing.order.version < cut.version else standing
    return NOT_THERE


async def _of(reader: Reader, ends: Any, key: bytes, bar: Any) -> AsyncIterator[Record]:
    async for record in reader.read(ends, {}):
        bar.update(1)
        if record.key == key:
            yield record


def _require_fitting(position: Position, home: int, end: int) -> None:
    if position.partition != home:
        raise LookupError(f"{position} is on partition {position.partition}, but the order lives on partition {home}.")
    if position.offset >= end:
        raise LookupError(f"{position} is not in the log: {position.topic}-{home} ends at {end}.")
