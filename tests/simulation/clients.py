"""aiokafka's consumer, reader and transactional producer, as `streams/` uses them.

They keep aiokafka's ways, traps included: a request whose caller was cancelled arrives all the same; a fetch waits
through a rebalance however long it takes; a revived member learns at its next heartbeat that it was put out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any
from zlib import crc32

from aiokafka.errors import (
    ConcurrentTransactions,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
)
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from streams.committed import StableOffsetsRequest, UnstableOffsetCommit
from streams.kafka import READ_UNCOMMITTED
from streams.records import Fields, StoredRecord, TopicPartition
from streams.transactions import BY_TASK
from tests.simulation.cluster import Cluster
from tests.simulation.group import Group
from tests.simulation.loop import NOWHERE
from tests.simulation.network import Network

RETRY_S = 0.03
#: How many brokers the topics are dealt out to: a request goes to one.
BROKERS = 3
#: Of each request the version that has all that is looked at; the answers' layouts are those.
VERSIONS = {0: (3, 3), 24: (0, 0), 25: (0, 0), 26: (0, 0), 28: (0, 0)}
#: How long a producer takes to close its connections, in seconds; aiokafka waits for a broker that does not answer.
CLOSE_S = (0.0, 0.0, 0.01, 1.0)
#: How often a coordinator is still loading its group when it is asked for offsets, and that error's code.
LOADING, LOAD_IN_PROGRESS = 0.1, 14
UNSTABLE = UnstableOffsetCommit.errno


async def insist(network: Network, fun: Callable[..., Any], *args: Any) -> Any:
    """Ask until there is an answer, as aiokafka does with requests that may be repeated."""
    while True:
        try:
            return await network.call(fun, *args)
        except (RequestTimedOutError, ConcurrentTransactions) as error:
            if isinstance(error, RequestTimedOutError) and network.gives_up():
                raise
            await asyncio.sleep(RETRY_S)


class Reads:
    """What consumer and reader share: positions, pauses, and fetches of committed records."""

    def __init__(self, cluster: Cluster, network: Network) -> None:
        self.cluster, self.network = cluster, network
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self._isolation_level = 1

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Compaction leaves the beginning where it is, whatever it takes away behind it."""
        found: dict[TopicPartition, int] = await insist(self.network, lambda: dict.fromkeys(tps, 0))
        return found

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        at, level = self.cluster.at, self._isolation_level
        found: dict[TopicPartition, int] = await insist(
            self.network, lambda: {tp: at(tp).end if level == READ_UNCOMMITTED else at(tp).stable for tp in tps}
        )
        return found

    @property
    def _fetcher(self) -> Reads:
        """aiokafka keeps the isolation level there."""
        return self

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp] = offset

    def pause(self, *tps: TopicPartition) -> None:
        self.paused.update(tps)

    def resume(self, *tps: TopicPartition) -> None:
        self.paused.difference_update(tps)

    def _take(self, tps: Iterable[TopicPartition], most: int | None) -> dict[TopicPartition, list[StoredRecord]]:
        taken: dict[TopicPartition, list[StoredRecord]] = {}
        for tp in tps:
            position = self.positions.get(tp)
            if position is None or tp in self.paused:
                continue
            records, self.positions[tp] = self.cluster.at(tp).read(position, most)
            if records:
                taken[tp] = records
                if most is not None:
                    most -= len(records)
                    if most <= 0:
                        break
        return taken

    def _watch(self, tps: Iterable[TopicPartition], timeout_s: float) -> asyncio.Future[None]:
        """Done when something was written to one of these, or after a while."""
        waiter: asyncio.Future[None] = self.cluster.loop.create_future()
        for tp in tps:
            waiters = self.cluster.at(tp).waiters
            if len(waiters) > 20:
                waiters[:] = [other for other in waiters if not other.done()]
            waiters.append(waiter)
        self.cluster.loop.call_later(timeout_s, _done, waiter, context=NOWHERE)
        return waiter


class SimReader(Reads):
    """A consumer outside the group, for one pass over changelogs."""

    async def start(self) -> None:
        await insist(self.network, int)

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        self.positions = dict.fromkeys(tps, 0)

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[StoredRecord]]:
        most = self.network.chance.choice([1, 3, 50])  # a fetch brings as many as it brings
        await asyncio.sleep(self.network.delay())
        # Sorted: the log above asks with a set.
        taken = self._take(sorted(tps), most if max_records is None else min(most, max_records))
        if not taken:
            await self._watch(tps, timeout_ms / 1000)
        return taken

    async def position(self, tp: TopicPartition) -> int:
        return self.positions[tp]

    async def stop(self) -> None:
        self.positions.clear()


class Coordination:
    """aiokafka's coordinator of a consumer, as far as the engine and the log reach into it."""

    group_id = "simulated"
    _group_instance_id = None  # its members are dynamic

    def __init__(self, consumer: SimConsumer) -> None:
        self._consumer = consumer

    @property
    def generation(self) -> int:
        return self._consumer._generation

    async def ensure_coordinator_known(self) -> None:
        """There is one broker."""

    def coordinator_dead(self) -> None:
        """It is asked again."""

    @property
    def member_id(self) -> str:
        return self._consumer._member or ""

    async def _send_req(self, request: StableOffsetsRequest | HeartbeatRequest) -> Any:
        if isinstance(request, HeartbeatRequest):
            return SimpleNamespace(
                error_code=await self._consumer.heartbeat(request._member_id, request._generation_id)
            )
        return await self._consumer.offsets(request.partitions)

    async def _do_heartbeat(self) -> bool:
        return await self._consumer.beat()

    def request_rejoin(self) -> None:
        self._consumer.rejoin()

    def check_errors(self) -> None:
        """Nothing is kept to itself here."""


class SimConsumer(Reads):
    """The group's consumer of one worker."""

    def __init__(self, cluster: Cluster, network: Network, group: Group, assignor: Any, listener: Any) -> None:
        super().__init__(cluster, network)
        self._group, self._assignor, self._listener = group, assignor, listener
        self._coordinator = Coordination(self)
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._member: str | None = None
        self._generation = -1
        self._rejoin = asyncio.Event()
        self._settled = asyncio.Event()
        self._beating = True
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._coordinate()), loop.create_task(self._heartbeats())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._member is not None:
            with contextlib.suppress(KafkaError):  # the session's end does what was not heard
                await self.network.call(self._group.leave, self._member)
        self._assigned, self._member = frozenset(), None

    # -- membership ---------------------------------------------------------------------------------------------------

    async def _coordinate(self) -> None:
        while True:
            self._settled.clear()
            await self._listener.on_partitions_revoked(set(self._assigned))
            if not await self._join():
                await asyncio.sleep(RETRY_S)
                continue
            self._beating = False  # heartbeats stand still while this callback runs
            await self._listener.on_partitions_assigned(set(self._assigned))
            self._beating = True
            self._settled.set()
            await self._rejoin.wait()

    async def _join(self) -> bool:
        metadata = self._assignor.metadata(
            sorted({topic for group in self._assignor._groups.values() for topic in group.agents})
        )
        try:
            joined = await self.network.call(self._group.join, self._member, self._assignor, metadata)
        except UnknownMemberIdError:
            self._member = None
            return False
        except KafkaError:
            return False
        self._member, self._generation = joined.member, joined.generation
        self._rejoin.clear()
        self._assignor.on_assignment(joined.assignment)
        self._assigned = frozenset(
            TopicPartition(topic, number) for topic, numbers in joined.assignment.assignment for number in numbers
        )
        self.positions, self.paused = {}, set()  # each assignment begins anew, kept partitions too
        return True

    async def _heartbeats(self) -> None:
        while True:
            ok = self._member is None or not self._beating or await self._coordinator._do_heartbeat()
            await asyncio.sleep(1.0 if ok else 0.05)

    async def beat(self) -> bool:
        if self._member is None:
            return False
        member = self._member
        try:
            await self.network.call(self._group.heartbeat, member, self._generation)
        except RebalanceInProgressError:
            self.rejoin()
            return True
        except (UnknownMemberIdError, IllegalGenerationError) as error:
            if isinstance(error, UnknownMemberIdError) and self._member == member:
                self._member = None
            self.rejoin()
            return False
        except KafkaError:
            return False
        return True

    async def heartbeat(self, member: str, generation: int) -> int:
        """The group's answer to one heartbeat, as an error code."""
        try:
            await self.network.call(self._group.heartbeat, member, generation)
        except (RebalanceInProgressError, UnknownMemberIdError, IllegalGenerationError) as error:
            code: int = error.errno
            return code
        return 0

    def rejoin(self) -> None:
        self._rejoin.set()

    # -- what the engine and the log ask for --------------------------------------------------------------------------

    def assignment(self) -> frozenset[TopicPartition]:
        return self._assigned

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._assigned:
            raise IllegalStateError(f"{tp} is not assigned")
        super().seek(tp, offset)

    async def offsets(self, wanted: Sequence[TopicPartition]) -> Any:
        """The group's; a coordinator that is loading reports it for all of them at once and lists none. One that a
        transaction is about to change is not stable yet."""
        if self.network.chance.random() < LOADING:
            return SimpleNamespace(topics=[], error_code=LOAD_IN_PROGRESS)
        found, unstable = await insist(self.network, self.cluster.offsets)
        listed: list[Any] = [
            (tp.topic, [(tp.partition, found.get(tp, -1), -1, BY_TASK, UNSTABLE if tp in unstable else 0, {})], {})
            for tp in wanted
        ]
        return SimpleNamespace(topics=listed, error_code=0)

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[StoredRecord]]:
        ends_at = self.cluster.loop.now + timeout_ms / 1000
        while True:
            if not self._settled.is_set():
                await self._settled.wait()
            order = list(tps)
            self.network.chance.shuffle(order)
            taken = self._take((tp for tp in order if tp in self._assigned), max_records)
            left_s = ends_at - self.cluster.loop.now
            if taken or left_s <= 0:
                return taken
            await self._watch(tps, left_s)


class Builder:
    """A batch that is being filled; it takes a bounded number of records, as a real one bounded bytes."""

    def __init__(self, most: int) -> None:
        self.records: list[Fields] = []
        self.first = 0
        self._most = most

    @property
    def _builder(self) -> Builder:
        """The C part of aiokafka's."""
        return self

    def append(
        self, offset: int, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Any]
    ) -> object | None:
        if len(self.records) >= self._most:
            return None
        assert offset == len(self.records)
        self.records.append((timestamp, key, value, headers))
        return self

    def _set_producer_state(self, producer: int, epoch: int, first: int) -> None:
        self.producer, self.epoch, self.first = producer, epoch, first

    def _build(self) -> Builder:
        """What stands for the bytes; a request does not look into them."""
        return self


class SimClient:
    """aiokafka's client below a producer: real requests in, answers with a broker's codes out, or none at all."""

    def __init__(self, cluster: Cluster, network: Network, id: str, fail_batch: float) -> None:
        self.cluster = SimpleNamespace(leader_for_partition=lambda tp: crc32(tp.topic.encode()) % BROKERS)
        self._brokers, self._network, self._id, self._fail_batch = cluster, network, id, fail_batch

    async def send(self, node_id: int, request: Any, *, group: Any = None) -> Any:
        asked = request.prepare(VERSIONS)
        try:
            return await self._network.call(self._answer, request, asked)
        except RequestTimedOutError:
            if isinstance(request, ProduceRequest) and self._network.gives_up():
                raise KafkaTimeoutError() from None
            raise

    async def force_metadata_update(self) -> bool:
        return True

    async def _wait_on_metadata(self, topic: str) -> set[int]:
        return {tp.partition for tp in self._brokers.partitions if tp.topic == topic}

    def _answer(self, request: Any, asked: Any) -> Any:
        brokers, id = self._brokers, self._id
        match request:
            case ProduceRequest():
                topics = [
                    (topic, [self._appended(topic, *each) for each in batches]) for topic, batches in asked.topics
                ]
                return SimpleNamespace(topics=topics)
            case AddPartitionsToTxnRequest():
                places = [TopicPartition(topic, number) for topic, numbers in asked.topics for number in numbers]
                return _each(places, _code(brokers.add_partitions, id, asked.producer_epoch, places))
            case AddOffsetsToTxnRequest():
                return SimpleNamespace(error_code=_code(brokers.add_offsets, id, asked.producer_epoch))
            case TxnOffsetCommitRequest():
                offsets = {TopicPartition(topic, each[0]): each[1] for topic, some in asked.topics for each in some}
                code = _code(brokers.commit_offsets, id, asked.producer_id, asked.producer_epoch, offsets)
                return _each(offsets, code)
            case EndTxnRequest():
                code = _code(brokers.end, id, asked.producer_epoch, asked.transaction_result)
                return SimpleNamespace(error_code=code)
        raise AssertionError(f"nobody sends {request}")

    def _appended(self, topic: str, partition: int, batch: Builder) -> tuple[int, int, int]:
        """Partition, error code and offset."""
        if not batch.records or self._network.chance.random() < self._fail_batch:
            return partition, MessageSizeTooLargeError.errno, -1  # an empty batch is refused too
        place = TopicPartition(topic, partition)
        try:
            offset = self._brokers.produce(self._id, batch.producer, batch.epoch, place, batch.first, batch.records)
        except KafkaError as error:
            return partition, error.errno, -1
        return partition, 0, offset


def _code(fun: Callable[..., None], *args: Any) -> int:
    try:
        fun(*args)
    except KafkaError as error:
        code: int = error.errno
        return code
    return 0


def _each(places: Iterable[TopicPartition], code: int) -> Any:
    """An answer that says the same of every partition."""
    return SimpleNamespace(errors=[(topic, [(partition, code)]) for topic, partition in places])


class SimSender:
    """As far as it knows the coordinators."""

    def __init__(self) -> None:
        self._coordinators: dict[int, int] = {}

    async def _find_coordinator(self, of: int, key: str) -> int:
        return self._coordinators.setdefault(of, 0)

    def _coordinator_dead(self, of: int) -> None:
        self._coordinators.pop(of, None)


class SimProducer:
    """A transactional producer as far as `streams/transactions.py` has one: an id, batches, and its client."""

    def __init__(self, cluster: Cluster, network: Network, id: str, *, fail_batch: float, batch_most: int) -> None:
        self.cluster, self.network, self.id = cluster, network, id
        self.client, self._sender = SimClient(cluster, network, id, fail_batch), SimSender()
        self._batch_most = batch_most

    async def start(self) -> None:
        producer, epoch = await insist(self.network, self.cluster.init_producer_id, self.id)
        self._txn_manager = SimpleNamespace(producer_id=producer, producer_epoch=epoch)

    def create_batch(self) -> Builder:
        return Builder(self._batch_most)

    async def stop(self) -> None:
        """Nothing is under way that its caller does not wait for. Connections take their time to close: less than a
        rebalance takes, or more."""
        await asyncio.sleep(self.network.chance.choice(CLOSE_S))


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
