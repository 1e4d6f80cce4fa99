"""aiokafka's consumer, reader and transactional producer, as `streams/kafka.py` and `streams/engine.py` use them.

They keep aiokafka's ways, traps included: a commit goes through without batches that failed; a commit whose caller was
cancelled goes on; a fetch waits through a rebalance however long it takes; a revived member learns at its next
heartbeat that it was put out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import (
    ConcurrentTransactions,
    IllegalGenerationError,
    IllegalStateError,
    InvalidProducerEpoch,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownError,
    UnknownMemberIdError,
)
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from streams.kafka import BY_TASK
from streams.records import Fields, StoredRecord, TopicPartition
from tests.simulation.cluster import Cluster
from tests.simulation.group import Group
from tests.simulation.loop import NOWHERE
from tests.simulation.network import Network

RETRY_S = 0.03
#: How often a coordinator is still loading its group when it is asked for offsets, and that error's code.
LOADING, LOAD_IN_PROGRESS = 0.1, 14


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

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Compaction leaves the beginning where it is, whatever it takes away behind it."""
        found: dict[TopicPartition, int] = await insist(self.network, lambda: dict.fromkeys(tps, 0))
        return found

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        at = self.cluster.at
        found: dict[TopicPartition, int] = await insist(self.network, lambda: {tp: at(tp).stable for tp in tps})
        return found

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

    async def _send_req(self, request: OffsetFetchRequest) -> OffsetFetchResponse_v3:
        return await self._consumer.offsets(request._partitions or [])

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
        metadata = self._assignor.metadata(["inputs"])
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

    def rejoin(self) -> None:
        self._rejoin.set()

    # -- what the engine and the log ask for --------------------------------------------------------------------------

    def assignment(self) -> frozenset[TopicPartition]:
        return self._assigned

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._assigned:
            raise IllegalStateError(f"{tp} is not assigned")
        super().seek(tp, offset)

    async def offsets(self, wanted: Sequence[tuple[str, list[int]]]) -> OffsetFetchResponse_v3:
        """The group's; a coordinator that is loading says so for all of them at once and lists none."""
        if self.network.chance.random() < LOADING:
            return OffsetFetchResponse_v3(0, [], LOAD_IN_PROGRESS)
        found = await insist(self.network, self.cluster.committed.copy)
        listed = [
            (topic, [(number, found.get(TopicPartition(topic, number), -1), BY_TASK, 0) for number in numbers])
            for topic, numbers in wanted
        ]
        return OffsetFetchResponse_v3(0, listed, 0)

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


class Send(NamedTuple):
    """A batch on its way, and who waits for it."""

    tp: TopicPartition
    records: list[Fields]
    future: asyncio.Future[Any]


class Sent(NamedTuple):
    """aiokafka's RecordMetadata, as far as it is read."""

    offset: int


class Builder:
    """A batch that is being filled; it takes a bounded number of records, as a real one bounded bytes."""

    def __init__(self, most: int) -> None:
        self.records: list[Fields] = []
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

    def close(self) -> None:
        """Nothing is compressed here."""

    def record_count(self) -> int:
        return len(self.records)


class SimClient:
    """aiokafka's client below a producer. It raises when there is no answer; an answer that is an error is a value."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def send(self, node_id: int, request: Any, *, group: Any = None) -> Any:
        fun, *args = request.call
        try:
            return await self._network.call(fun, *args)
        except RequestTimedOutError:
            raise
        except KafkaError as error:
            return error


class AddPartitions(AddPartitionsToTxnRequest):  # type: ignore[misc]  # aiokafka has no types
    """A request by its class, which is all that is looked at above; what it asks for is a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call


class AddOffsets(AddPartitions, AddOffsetsToTxnRequest):  # type: ignore[misc]
    """AddOffsetsToTxn."""


class CommitOffsets(AddPartitions, TxnOffsetCommitRequest):  # type: ignore[misc]
    """TxnOffsetCommit."""


class EndTxn(AddPartitions, EndTxnRequest):  # type: ignore[misc]
    """EndTxn."""


class SimProducer:
    """A transactional producer: one sender works off what was asked for, and goes on when its caller has given up."""

    def __init__(self, cluster: Cluster, network: Network, id: str, *, fail_batch: float, batch_most: int) -> None:
        self.cluster, self.network, self.id = cluster, network, id
        self.client = SimClient(network)
        self._fail_batch, self._batch_most = fail_batch, batch_most
        self._producer, self._epoch = -1, -1
        self._fatal: BaseException | None = None
        self._in_transaction = False
        self._added: set[TopicPartition] = set()
        self._offsets_added = False
        self._numbers: dict[TopicPartition, int] = {}
        self._queue: deque[Send] = deque()
        self._txn_manager = None  # aiokafka's has one once it has started
        self._sending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._producer, self._epoch = await insist(self.network, self.cluster.init_producer_id, self.id)

    async def begin_transaction(self) -> None:
        self._check()
        if self._in_transaction:
            raise IllegalStateError("a transaction is under way")
        self._in_transaction, self._offsets_added = True, False
        self._added.clear()

    def create_batch(self) -> Builder:
        return Builder(self._batch_most)

    async def send_batch(self, builder: Builder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        self._check()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(Send(TopicPartition(topic, partition), builder.records, future))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())
        return future

    async def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, tuple[int, str]], group_id: str
    ) -> None:
        self._check()
        await self._background(self._send_offsets({tp: offset for tp, (offset, _) in offsets.items()}))

    async def commit_transaction(self) -> None:
        """Commits without the batches that failed: whoever wants them all must look at their futures."""
        self._check()
        await self._background(self._commit())

    async def stop(self) -> None:
        if self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    async def _background(self, work: Any) -> None:
        task = self._sending = asyncio.get_running_loop().create_task(self._after(self._sending, work))
        await asyncio.shield(task)

    @staticmethod
    async def _after(before: asyncio.Task[None] | None, work: Any) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        await work

    async def _ask(self, request: Any) -> None:
        """A change of the transaction, repeated until it is answered. Its failure is the producer's end."""
        while True:
            try:
                answer = await self.client.send(0, request)
            except KafkaError:
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as error:
                self._fatal = UnknownError(f"the sender ended: {error!r}")
                raise self._fatal from error
            if isinstance(answer, ConcurrentTransactions):
                await asyncio.sleep(RETRY_S)
            elif isinstance(answer, KafkaError):
                fenced = isinstance(answer, InvalidProducerEpoch)
                self._fatal = ProducerFenced() if fenced else UnknownError(repr(answer))
                raise self._fatal
            else:
                return

    async def _send(self) -> None:
        while self._queue:
            batches: dict[TopicPartition, Send] = {}
            later: list[Send] = []
            for send in self._queue:  # one batch of a partition is in flight at a time
                if send.tp in batches:
                    later.append(send)
                else:
                    batches[send.tp] = send
            self._queue = deque(later)
            new = batches.keys() - self._added
            try:
                self._check()
                if new:
                    await self._ask(AddPartitions(self.cluster.add_partitions, self.id, self._epoch, sorted(new)))
                    self._added |= new
            except KafkaError as error:
                for send in batches.values():
                    _fail(send.future, error)
                continue
            answers = [(send, self._produce(send)) for send in batches.values()]
            for send, answer in answers:
                await self._settle(send, answer)

    def _produce(self, send: Send) -> asyncio.Future[Any] | None:
        if not send.records or self.network.chance.random() < self._fail_batch:
            return None  # a broker refuses an empty batch, as it does one that is too large
        number = self._numbers.get(send.tp, 0)
        return self.network.call(
            self.cluster.produce, self.id, self._producer, self._epoch, send.tp, number, send.records
        )

    async def _settle(self, send: Send, answer: asyncio.Future[Any] | None) -> None:
        if answer is None:
            _fail(send.future, MessageSizeTooLargeError())
            return
        while True:
            try:
                offset = await answer
                break
            except RequestTimedOutError:
                if self.network.gives_up():
                    _fail(send.future, KafkaTimeoutError())
                    return
                again = self._produce(send)
                answer = again if again is not None else self.network.call(_refuse)
            except InvalidProducerEpoch:
                self._fatal = ProducerFenced()
                _fail(send.future, self._fatal)
                return
            except KafkaError as error:
                _fail(send.future, error)
                return
        self._numbers[send.tp] = self._numbers.get(send.tp, 0) + 1
        if not send.future.done():
            send.future.set_result(Sent(offset))

    async def _send_offsets(self, offsets: dict[TopicPartition, int]) -> None:
        if not self._offsets_added:
            await self._ask(AddOffsets(self.cluster.add_offsets, self.id, self._epoch))
            self._offsets_added = True
        call = (self.cluster.commit_offsets, self.id, self._producer, self._epoch, offsets)
        await self._ask(CommitOffsets(*call))

    async def _commit(self) -> None:
        self._check()
        if self._added or self._offsets_added:
            await self._ask(EndTxn(self.cluster.end, self.id, self._epoch, True))
        self._in_transaction = False


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # looked at: whoever gave up waiting is not told again


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _refuse() -> None:
    raise MessageSizeTooLargeError()
