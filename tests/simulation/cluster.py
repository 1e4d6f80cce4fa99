"""requests of producers and readers -> partitions with transactions, markers and gaps: Kafka, as far as clients see.

One broker's worth of behaviour, without the broker: epochs fence at the coordinator at once and at a partition with
the marker; an answer to a commit comes before its markers are written; what stands before the first open transaction
is all that read-committed readers get; aborted records and markers take up offsets; offsets sent within a transaction
are committed by its marker. Sources: KIP-98, KIP-447, KIP-890 part 1, and the coordinator's code in Kafka 4.2.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from aiokafka.errors import (
    ConcurrentTransactions,
    InvalidProducerEpoch,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
)

from streams.records import Fields, StoredRecord, TopicPartition
from tests.simulation.loop import NOWHERE, SimLoop

#: How long a cleaned partition keeps a tombstone, and a marker: Kafka's default of delete.retention.ms.
DELETE_RETENTION_MS = 24 * 3600 * 1000


class Phase(Enum):
    """Where a transactional id stands at its coordinator."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5


ENDING = (Phase.PREPARE_COMMIT, Phase.PREPARE_ABORT)


@dataclass(eq=False)
class Txn:
    """One transaction: what it holds, and whether it was committed (None while nobody knows)."""

    id: str
    producer: int
    epoch: int
    partitions: set[TopicPartition] = field(default_factory=set)
    with_offsets: bool = False
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    sent: dict[TopicPartition, list[StoredRecord]] = field(default_factory=dict)
    committed: bool | None = None
    decided_at_ms: int = 0


@dataclass
class Standing:
    """A transactional id at its coordinator."""

    producer: int
    epoch: int = -1
    phase: Phase = Phase.EMPTY
    txn: Txn | None = None


@dataclass
class Batches:
    """Those of one epoch: where each stands, by the number of its first record, and the number that comes next."""

    offsets: dict[int, int] = field(default_factory=dict)
    following: int = 0


class Partition:
    """The records of one partition: (record, transaction), a marker where the record is None."""

    def __init__(self, tp: TopicPartition) -> None:
        self.tp, self.end = tp, 0
        self.offsets: list[int] = []
        self.rows: list[tuple[StoredRecord | None, Txn | None]] = []
        self.open: dict[Txn, int] = {}
        self.epochs: dict[int, int] = {}
        self.batches: dict[tuple[int, int], Batches] = {}
        self.horizons: dict[int, int] = {}
        self.waiters: list[asyncio.Future[None]] = []

    @property
    def stable(self) -> int:
        """The last stable offset: where a read-committed reader must stop."""
        return min(self.open.values()) if self.open else self.end

    def append(self, fields: Fields, txn: Txn | None) -> StoredRecord:
        timestamp, key, value, headers = fields
        record = StoredRecord(self.tp.topic, self.tp.partition, self.end, timestamp, key, value, tuple(headers))
        self.offsets.append(self.end)
        self.rows.append((record, txn))
        self.end += 1
        return record

    def mark(self, txn: Txn, epoch: int) -> None:
        """Write the transaction's marker: it ends here, and older epochs are refused from now on."""
        self.offsets.append(self.end)
        self.rows.append((None, txn))
        self.end += 1
        self.open.pop(txn, None)
        self.epochs[txn.producer] = max(epoch, self.epochs.get(txn.producer, -1))

    def read(self, start: int, most: int | None, end: int | None = None) -> tuple[list[StoredRecord], int]:
        """Committed records from `start`, and the position after them (markers and aborted records are passed)."""
        stop = self.stable if end is None else min(end, self.stable)
        found: list[StoredRecord] = []
        position = start
        for index in range(bisect_left(self.offsets, start), len(self.offsets)):
            offset = self.offsets[index]
            if offset >= stop:
                break
            record, txn = self.rows[index]
            if record is not None and (txn is None or txn.committed):
                if most is not None and len(found) >= most:
                    return found, position
                found.append(record)
            position = offset + 1
        return found, max(position, stop)

    def visible(self) -> list[StoredRecord]:
        return self.read(0, None)[0]

    def compact(self, upto: int, now_ms: int, retention_ms: int) -> int:
        """As the log cleaner: below `upto` only the newest record of each key stays; gives how many rows went.

        A tombstone or marker stays for `retention_ms` after the first time that the cleaner has passed it.
        """
        upto = min(upto, self.stable)
        newest: dict[bytes | None, int] = {}
        for offset, (record, txn) in zip(self.offsets, self.rows, strict=True):
            if offset < upto and record is not None and (txn is None or txn.committed):
                newest[record.key] = offset
        kept: list[tuple[int, tuple[StoredRecord | None, Txn | None]]] = []
        for offset, row in zip(self.offsets, self.rows, strict=True):
            if offset >= upto or self._stays(offset, row, newest, now_ms, retention_ms):
                kept.append((offset, row))
        gone = len(self.rows) - len(kept)
        self.offsets, self.rows = [offset for offset, _ in kept], [row for _, row in kept]
        return gone

    def _stays(
        self,
        offset: int,
        row: tuple[StoredRecord | None, Txn | None],
        newest: Mapping[bytes | None, int],
        now_ms: int,
        retention_ms: int,
    ) -> bool:
        record, txn = row
        if record is not None:
            if (txn is not None and not txn.committed) or newest[record.key] != offset:
                return False
            if record.value is not None:
                return True
        return now_ms < self.horizons.setdefault(offset, now_ms + retention_ms)


class Cluster:
    """All partitions, the transaction coordinator, and the group's committed offsets."""

    def __init__(
        self,
        loop: SimLoop,
        chance: Random,
        now_ms: Callable[[], int],
        *,
        transaction_timeout_s: float,
        marker_delay_s: float,
        wake_delay_s: float,
    ) -> None:
        self.loop, self.chance, self.now_ms = loop, chance, now_ms
        self.partitions: dict[TopicPartition, Partition] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.trail: list[Txn] = []
        self.standings: dict[str, Standing] = {}
        self.fenced = self.aborted = self.timed_out = 0
        self._pending: dict[Txn, dict[TopicPartition, int]] = defaultdict(dict)
        self._group_epochs: dict[int, int] = {}
        self._timeout_s, self._marker_delay_s, self._wake_delay_s = transaction_timeout_s, marker_delay_s, wake_delay_s

    def at(self, tp: TopicPartition) -> Partition:
        partition = self.partitions.get(tp)
        if partition is None:
            partition = self.partitions[tp] = Partition(tp)
        return partition

    def topic(self, topic: str) -> list[Partition]:
        return [partition for tp, partition in sorted(self.partitions.items()) if tp.topic == topic]

    # -- producers outside of transactions, or with transactions of their own -----------------------------------------

    def append(self, tp: TopicPartition, fields: Fields) -> int:
        partition = self.at(tp)
        offset = partition.append(fields, None).offset
        self.wake(partition)
        return offset

    def foreign(self, tps: Mapping[TopicPartition, Sequence[Fields]], committed: bool, open_s: float) -> None:
        """Another application's transaction: open for a while, then committed or aborted."""
        txn = Txn("foreign", -len(self.partitions) - self.chance.randrange(1 << 30), 0)
        for tp, records in tps.items():
            partition = self.at(tp)
            partition.open.setdefault(txn, partition.end)
            for fields in records:
                partition.append(fields, txn)

        def end() -> None:
            txn.committed = committed
            for tp in tps:
                self.at(tp).mark(txn, 0)
                self.wake(self.at(tp))

        self.loop.call_later(open_s, end, context=NOWHERE)

    # -- the coordinator ----------------------------------------------------------------------------------------------

    def init_producer_id(self, id: str) -> tuple[int, int]:
        """A new epoch. What an older one has open is aborted first: the caller asks again until that is done."""
        standing = self.standings.setdefault(id, Standing(len(self.standings) + 1))
        if standing.phase in ENDING:
            raise ConcurrentTransactions()
        if standing.phase is Phase.ONGOING:
            self.fenced += 1
            self._abort(standing)
            raise ConcurrentTransactions()
        standing.epoch += 1
        standing.phase = Phase.EMPTY
        return standing.producer, standing.epoch

    def _abort(self, standing: Standing) -> None:
        standing.epoch += 1
        self._decide(standing, False)

    def _valid(self, id: str, epoch: int) -> Standing:
        standing = self.standings[id]
        if epoch != standing.epoch:
            raise InvalidProducerEpoch()
        return standing

    def _ongoing(self, id: str, epoch: int) -> Txn:
        standing = self._valid(id, epoch)
        if standing.phase in ENDING:
            raise ConcurrentTransactions()
        if standing.phase is not Phase.ONGOING:
            txn = standing.txn = Txn(id, standing.producer, epoch)
            standing.phase = Phase.ONGOING
            self.loop.call_later(self._timeout_s, self._time_out, standing, txn, context=NOWHERE)
        assert standing.txn is not None
        return standing.txn

    def _time_out(self, standing: Standing, txn: Txn) -> None:
        if standing.txn is txn and standing.phase is Phase.ONGOING:
            self.timed_out += 1
            self._abort(standing)

    def add_partitions(self, id: str, epoch: int, tps: Iterable[TopicPartition]) -> None:
        self._ongoing(id, epoch).partitions.update(tps)

    def add_offsets(self, id: str, epoch: int) -> None:
        self._ongoing(id, epoch).with_offsets = True

    def end(self, id: str, epoch: int, commit: bool) -> None:
        """Decide. The answer goes out now, the markers follow: another transaction waits for them."""
        standing = self._valid(id, epoch)
        if standing.phase in ENDING:
            raise ConcurrentTransactions()
        if standing.phase is (Phase.COMPLETE_COMMIT if commit else Phase.COMPLETE_ABORT):
            return
        if standing.phase is not Phase.ONGOING:
            raise InvalidTxnState()
        self._decide(standing, commit)

    def _decide(self, standing: Standing, commit: bool) -> None:
        txn = standing.txn
        assert txn is not None
        standing.phase = Phase.PREPARE_COMMIT if commit else Phase.PREPARE_ABORT
        txn.committed, txn.decided_at_ms = commit, self.now_ms()
        if commit:
            self.trail.append(txn)
        else:
            self.aborted += 1
        places: list[TopicPartition | None] = [*sorted(txn.partitions), *([None] if txn.with_offsets else [])]
        waiting = set(places)
        for place in places:
            delay_s = self._marker_delay_s * self.chance.random() ** 3
            self.loop.call_later(delay_s, self._mark, standing, txn, standing.epoch, place, waiting, context=NOWHERE)

    def _mark(
        self,
        standing: Standing,
        txn: Txn,
        epoch: int,
        place: TopicPartition | None,
        waiting: set[TopicPartition | None],
    ) -> None:
        if place is None:
            offsets = self._pending.pop(txn, {})
            if txn.committed:
                self.committed.update(offsets)
            self._group_epochs[txn.producer] = max(epoch, self._group_epochs.get(txn.producer, -1))
        else:
            partition = self.at(place)
            partition.mark(txn, epoch)
            self.wake(partition)
        waiting.discard(place)
        if not waiting:
            standing.phase = Phase.COMPLETE_COMMIT if txn.committed else Phase.COMPLETE_ABORT

    # -- partition leaders and the group's offsets ---------------------------------------------------------------------

    def _verified(self, id: str, epoch: int, held: Callable[[Txn], bool]) -> Txn:
        """KIP-890: a partition that sees a transaction for the first time asks the coordinator whether it is one."""
        standing = self._valid(id, epoch)
        if standing.phase is not Phase.ONGOING or standing.txn is None or not held(standing.txn):
            raise InvalidTxnState()
        return standing.txn

    def produce(
        self, id: str, producer: int, epoch: int, tp: TopicPartition, number: int, records: Sequence[Fields]
    ) -> int:
        """Append a batch; `number` is that of its first record in this epoch on this partition. Gives its offset."""
        partition = self.at(tp)
        if partition.epochs.get(producer, -1) > epoch:
            raise InvalidProducerEpoch()
        batches = partition.batches.setdefault((producer, epoch), Batches())
        if number in batches.offsets:
            return batches.offsets[number]
        if number != batches.following:
            raise OutOfOrderSequenceNumber()
        txn = next((txn for txn in partition.open if txn.producer == producer), None)
        if txn is None:
            txn = self._verified(id, epoch, lambda txn: tp in txn.partitions)
        partition.epochs[producer] = epoch
        partition.open.setdefault(txn, partition.end)
        batches.offsets[number] = partition.end
        batches.following += len(records)
        sent = txn.sent.setdefault(tp, [])
        sent.extend(partition.append(fields, txn) for fields in records)
        return batches.offsets[number]

    def commit_offsets(self, id: str, producer: int, epoch: int, offsets: Mapping[TopicPartition, int]) -> None:
        if self._group_epochs.get(producer, -1) > epoch:
            raise InvalidProducerEpoch()
        txn = next((txn for txn in self._pending if txn.producer == producer), None)
        if txn is None:
            txn = self._verified(id, epoch, lambda txn: txn.with_offsets)
        txn.offsets.update(offsets)
        self._pending[txn].update(offsets)

    def offsets(self) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
        """The group's committed offsets, and those that transactions without a marker will change or leave."""
        return dict(self.committed), {tp for offsets in self._pending.values() for tp in offsets}

    # -- readers ------------------------------------------------------------------------------------------------------

    def wake(self, partition: Partition) -> None:
        """Tell whoever waits for data here."""
        waiters, partition.waiters = partition.waiters, []
        for waiter in waiters:
            if not waiter.done():
                delay_s = self._wake_delay_s * self.chance.random()
                self.loop.call_later(delay_s, _wake_up, waiter, context=NOWHERE)


def _wake_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
