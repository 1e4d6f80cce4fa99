"""a task's records and offsets -> one Kafka transaction, asked for request by request over aiokafka's connections.

    AddPartitionsToTxn, AddOffsetsToTxn    the transaction's coordinator, both at once
    Produce                                the leaders of the partitions, one batch of each partition at a time
    TxnOffsetCommit                        the group's coordinator
    EndTxn                                 the transaction's coordinator

aiokafka's own sender takes the same steps, each through a queue, a task and a pause of its own (docs/bench.md: what the
difference comes to). Here its producer registers the id, knows the cluster and holds the connections.

Source: KIP-98, and https://kafka.apache.org/protocol for the requests, in the versions that aiokafka has of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NoError,
    NotCoordinatorError,
    OperationNotAttempted,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    TxnOffsetCommitRequest,
)

from streams.brokers import told
from streams.errors import Fenced, OutcomeUnknown
from streams.records import Fields, TopicPartition
from streams.settings import EngineSettings

log = logging.getLogger(__name__)

#: What tasks write beside the offsets that they commit. What Kafka's own tools commit has nothing there.
BY_TASK = "task"
#: A produce request holds one batch per partition; larger batches are split. Broker and topics take more than this.
MAX_BATCH_BYTES = 900_000
#: The largest single request; above the largest record that any of our topics takes.
MAX_REQUEST_BYTES = 12 << 20
#: Batches are numbered by their first record, in 31 bits.
SEQUENCES = 1 << 31
#: `acks` of a produce request: it is answered when all replicas that are in step have the batch.
ALL_REPLICAS = -1
#: Who has no leader, or no coordinator, is asked for again after this long.
CLUSTER_PAUSE_S = 0.05

FENCING = (ProducerFenced, InvalidProducerEpoch)
MOVED = (CoordinatorNotAvailableError, NotCoordinatorError)
#: After one of these answers a coordinator may be asked again. Most of them mean that nothing has changed; of several
#: brokers, MOVED also stands for "written, and not replicated in time". That is harmless: the request was answered, so
#: it does not arrive later, and the repetition of a change that was made is answered as the change was. What says most
#: comes first.
NOTHING_DONE = (
    *MOVED,
    CoordinatorLoadInProgressError,
    ConcurrentTransactions,
    UnknownTopicOrPartitionError,
    OperationNotAttempted,
)


class _Batch(NamedTuple):
    """Records of one partition as the broker takes them."""

    data: bytes
    records: int


class KafkaTransactions:
    """One task's transactional producer. Any error but fencing leaves the outcome unknown, and ends it."""

    def __init__(self, settings: EngineSettings, transactional_id: str) -> None:
        self._settings, self._id = settings, transactional_id
        self._producer = AIOKafkaProducer(
            **settings.client_options,
            transactional_id=transactional_id,
            transaction_timeout_ms=settings.transaction_timeout_ms,
            acks="all",
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
            retry_backoff_ms=settings.retry_backoff_ms,
        )
        self._identity = (transactional_id, -1, -1)
        #: Records so far, by partition. The broker knows a batch that it has by the number of its first record.
        self._sent: dict[TopicPartition, int] = {}
        self._added: set[TopicPartition] = set()
        self._offsets_added = self._offsets_expected = self._open = False
        self._ended: BaseException | None = None

    async def start(self) -> None:
        with self._guarded("starting"):
            await self._producer.start()
            manager = self._producer._txn_manager
            self._identity = (self._id, manager.producer_id, manager.producer_epoch)

    async def begin(self) -> None:
        """Nothing is asked of a broker: the first partition that is added begins the transaction there."""
        if self._ended is not None:
            raise OutcomeUnknown(f"{self._id} has ended: {told(self._ended)}")
        if self._open:
            raise OutcomeUnknown(
                f"{self._id}: the transaction before was not committed, and would become part of this one"
            )
        self._open = True

    async def send(self, records: Mapping[TopicPartition, Sequence[Fields]]) -> dict[TopicPartition, int]:
        with self._guarded("sending"):
            batches = {tp: list(self._batches(tp, outgoing)) for tp, outgoing in records.items() if outgoing}
            await self._add(batches.keys() - self._added)
            reached: dict[TopicPartition, int] = {}
            for number in range(max(map(len, batches.values()), default=0)):
                await self._produce({tp: each[number] for tp, each in batches.items() if number < len(each)}, reached)
            return reached

    async def send_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Called when all records are acknowledged: in flight together, the broker says "retry" to one of the two."""
        of_topic: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for (topic, partition), offset in offsets.items():
            of_topic[topic].append((partition, offset, BY_TASK))
        with self._guarded("sending offsets"):
            self._offsets_expected = True
            await self._add(())
            id, *rest = self._identity
            request = TxnOffsetCommitRequest(id, self._settings.app_id, *rest, list(of_topic.items()))
            await self._change(request, CoordinationType.GROUP)

    async def commit(self) -> None:
        with self._guarded("committing"):
            if self._added or self._offsets_added:
                await self._change(EndTxnRequest(*self._identity, True))
        self._added.clear()
        self._offsets_added = self._open = False

    async def stop(self) -> None:
        """A transaction that is open stays open: the fence of the next owner ends it, or the broker's time-out."""
        try:
            await asyncio.wait_for(self._producer.stop(), 5)
        except Exception as error:
            log.info("producer %s did not stop cleanly: %r", self._id, error)

    # -- what the coordinators are asked -------------------------------------------------------------------------------

    async def _add(self, partitions: Collection[TopicPartition]) -> None:
        """Into the transaction, before anything is written there; and offsets with them, if the one before had some.

        Offsets that are expected and do not come cost a marker.
        """
        changes = []
        if partitions:
            of_topic: dict[str, list[int]] = defaultdict(list)
            for topic, partition in sorted(partitions):
                of_topic[topic].append(partition)
            for topic in of_topic:
                await self._producer.client._wait_on_metadata(topic)
            changes.append(self._change(AddPartitionsToTxnRequest(*self._identity, list(of_topic.items()))))
        offsets = self._offsets_expected and not self._offsets_added
        if offsets:
            changes.append(self._change(AddOffsetsToTxnRequest(*self._identity, self._settings.app_id)))
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            if outcome is not None:
                raise outcome
        self._added.update(partitions)
        self._offsets_added |= offsets

    async def _change(self, request: Any, of: CoordinationType = CoordinationType.TRANSACTION) -> None:
        """Ask until the coordinator says that it is done; again only if it says that it is not.

        What was sent and not answered is never sent again: the lost one may still arrive, after its repetition. An old
        EndTxn then commits the next transaction of the same epoch before its offsets are in it, and old offsets
        overwrite new ones (KIP-890; found by the simulation, as doubled outputs). A new producer has a new epoch, which
        refuses whatever comes late.
        """
        deadline, producer = self._deadline(), self._producer
        while True:
            node = await self._coordinator(of, deadline)
            refusal: KafkaError | None
            try:
                answer = await producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
            except NodeNotReadyError as unreached:  # nothing was sent
                refusal = unreached
            except KafkaError as error:
                raise OutcomeUnknown(f"{self._id}: {type(request).__name__} was not answered: {error!r}") from error
            else:
                refusal = self._refusal(answer)
            if refusal is None:
                return
            if not isinstance(refusal, (NodeNotReadyError, *NOTHING_DONE)) or time.monotonic() > deadline:
                raise refusal
            if isinstance(refusal, (NodeNotReadyError, *MOVED)):
                producer._sender._coordinator_dead(of)
            # The one before is committed as soon as it is decided, but its markers are still being written.
            soon = isinstance(refusal, ConcurrentTransactions)
            await asyncio.sleep(self._settings.retry_backoff_ms / 1000 if soon else CLUSTER_PAUSE_S)

    async def _coordinator(self, of: CoordinationType, deadline: float) -> int:
        sender = self._producer._sender
        known: int | None = sender._coordinators.get(of)
        if known is not None:
            return known
        key = self._settings.app_id if of is CoordinationType.GROUP else self._id
        try:
            found: int = await asyncio.wait_for(sender._find_coordinator(of, key), deadline - time.monotonic())
        except TimeoutError:
            raise OutcomeUnknown(f"{self._id}: no broker says who the coordinator of {key} is") from None
        return found

    def _refusal(self, answer: Any) -> KafkaError | None:
        """What a coordinator refused, of several things that against which no patience helps; None: all is done."""
        topics: dict[type[KafkaError], set[str]] = defaultdict(set)
        if hasattr(answer, "errors"):
            for topic, partitions in answer.errors:
                for _, code in partitions:
                    topics[for_code(code)].add(topic)
        else:
            topics[for_code(answer.error_code)] = set()
        topics.pop(NoError, None)
        if not topics:
            return None
        kind = min(topics, key=lambda kind: NOTHING_DONE.index(kind) if kind in NOTHING_DONE else -1)
        if kind is TopicAuthorizationFailedError:
            return kind(topics[kind])
        if kind is GroupAuthorizationFailedError:
            return kind(self._settings.app_id)
        return kind(self._id) if kind is TransactionalIdAuthorizationFailed else kind()

    # -- what the leaders are sent -------------------------------------------------------------------------------------

    def _batches(self, partition: TopicPartition, outgoing: Sequence[Fields]) -> Iterator[_Batch]:
        """Straight into the builder's C part: the Python method around it costs more than the record does."""
        none: list[tuple[str, bytes]] = []
        builder, count = self._producer.create_batch(), 0
        append = builder._builder.append
        for timestamp, key, value, headers in outgoing:
            listed = list(headers) if headers else none  # aiokafka takes nothing but a list
            if append(count, timestamp, key, value, listed) is None:
                yield self._sealed(builder, count, partition)
                builder, count = self._producer.create_batch(), 0
                append = builder._builder.append
                append(count, timestamp, key, value, listed)
            count += 1
        if count:
            yield self._sealed(builder, count, partition)

    def _sealed(self, builder: Any, count: int, partition: TopicPartition) -> _Batch:
        before = self._sent.get(partition, 0)
        _, producer, epoch = self._identity
        builder._relative_offset = count  # what its own `append` would have counted
        builder._set_producer_state(producer, epoch, before)
        self._sent[partition] = (before + count) % SEQUENCES
        return _Batch(builder._build(), count)

    async def _produce(self, batches: dict[TopicPartition, _Batch], reached: dict[TopicPartition, int]) -> None:
        """One batch for each of these partitions, until all are taken; `reached` is told the offsets behind them."""
        deadline, client = self._deadline(), self._producer.client
        while batches:
            of_leader: dict[int, list[TopicPartition]] = defaultdict(list)
            for partition in batches:
                leader = client.cluster.leader_for_partition(partition)
                of_leader[-1 if leader is None else leader].append(partition)
            answers = [self._ask(leader, mine, batches) for leader, mine in of_leader.items()]
            refused: KafkaError | None = None
            for partition, outcome in chain(*await asyncio.gather(*answers)):
                if isinstance(outcome, int):
                    reached[partition] = outcome + batches.pop(partition).records
                elif not outcome.retriable or time.monotonic() > deadline:
                    where = f"{self._id}: sending to {partition.topic}-{partition.partition}"
                    raise self._translated(outcome, where) from outcome
                else:
                    refused = outcome
            if refused is not None:
                log.info("%s: sending again: %r", self._id, refused)
                if refused.invalid_metadata:
                    await client.force_metadata_update()
                await asyncio.sleep(CLUSTER_PAUSE_S)

    async def _ask(
        self, leader: int, partitions: Sequence[TopicPartition], batches: Mapping[TopicPartition, _Batch]
    ) -> Iterable[tuple[TopicPartition, int | KafkaError]]:
        """A leader's answer for each partition: the offset of the batch, or why not.

        Without an answer nobody knows whether they were written. They may be sent again all the same: their numbers say
        that they are the same, and the broker answers with the offsets that they have.
        """
        if leader < 0:
            return [(partition, LeaderNotAvailableError()) for partition in partitions]
        of_topic: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        for partition in partitions:
            of_topic[partition.topic].append((partition.partition, batches[partition].data))
        request = ProduceRequest(self._id, ALL_REPLICAS, self._settings.request_timeout_ms, list(of_topic.items()))
        try:
            answer = await self._producer.client.send(leader, request)
        except KafkaError as error:
            return [(partition, error) for partition in partitions]
        outcomes: list[tuple[TopicPartition, int | KafkaError]] = []
        for topic, found in answer.topics:
            for partition, code, offset, *_ in found:
                kind = for_code(code)
                refusal = kind(topic) if kind is TopicAuthorizationFailedError else kind()
                outcomes.append((TopicPartition(topic, partition), offset if kind is NoError else refusal))
        return outcomes

    # -- errors --------------------------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        """By then the broker has ended the transaction itself."""
        return time.monotonic() + self._settings.transaction_timeout_ms / 1000

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._ended = self._translated(error, f"{self._id}: {doing}")
            if self._ended is error:
                raise
            raise self._ended from error

    def _translated(self, error: Exception, where: str) -> Exception:
        if isinstance(error, (Fenced, OutcomeUnknown)):
            return error
        if isinstance(error, FENCING):
            return Fenced(
                f"{where}: fenced. Either a newer owner of this task has begun, or the broker has aborted a transaction"
                f" that took longer than {self._settings.transaction_timeout_ms} ms (transaction_timeout_ms)"
            )
        if isinstance(error, InvalidProducerIdMapping):
            return OutcomeUnknown(
                f"{where}: the broker does not know this transactional id any more. It forgets one after"
                " transactional.id.expiration.ms (7 days by default) without a transaction; the task registers it again"
            )
        if isinstance(error, MessageSizeTooLargeError):
            return OutcomeUnknown(f"{where}: the broker refused the size; compare max.message.bytes: {error}")
        return OutcomeUnknown(f"{where}: {told(error)}")
