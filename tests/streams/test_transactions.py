"""a task's transaction -> the requests that brokers are sent for it, and what their answers, or none, are taken for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    DuplicateSequenceNumber,
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    OperationNotAttempted,
    OutOfOrderSequenceNumber,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record import MemoryRecords

from streams import transactions
from streams.errors import Fenced, OutcomeUnknown
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.transactions import BY_TASK, KafkaTransactions
from tests.simulation.clients import VERSIONS

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)
ROW = (1_000, b"k", b"v", ())
ADD, OFFSETS, PRODUCE, COMMIT, END = "AddPartitionsToTxn", "AddOffsetsToTxn", "Produce", "TxnOffsetCommit", "EndTxn"


class Brokers:
    """Two of them. They take everything, unless a test has put another answer before: an error for all that is asked,
    an error by topic, or an exception where the answer would be."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, Any]] = []
        self.instead: dict[str, list[Any]] = {}
        self.log: dict[TopicPartition, list[Any]] = {}
        self.leaders = {A0: 1, A1: 2, B0: 1}
        self.coordinators: list[str] = []
        self.cluster = SimpleNamespace(leader_for_partition=lambda partition: self.leaders.get(partition))
        self.updates = 0

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]

    async def send(self, node: int, request: Any, *, group: Any = None) -> Any:
        name = type(request).__name__.removesuffix("Request")
        struct = request.prepare(VERSIONS)
        self.asked.append((name, node, struct))
        await asyncio.sleep(0)
        instead = self.instead[name].pop(0) if self.instead.get(name) else None
        if isinstance(instead, Exception):
            raise instead
        if name == PRODUCE:
            return SimpleNamespace(
                topics=[(topic, [self._taken(topic, each, instead) for each in some]) for topic, some in struct.topics]
            )
        if name in (OFFSETS, END):
            return SimpleNamespace(error_code=instead.errno if instead else 0)
        code: Callable[[str], int] = lambda topic: _code_of(instead, topic)  # noqa: E731
        return SimpleNamespace(errors=[(topic, [(0, code(topic)) for _ in some]) for topic, some in struct.topics])

    def _taken(self, topic: str, batch_of: tuple[int, bytes], instead: Any) -> tuple[int, int, int]:
        partition, data = batch_of
        if code := _code_of(instead, topic):
            return partition, code, -1
        log = self.log.setdefault(TopicPartition(topic, partition), [])
        batch = MemoryRecords(bytes(data)).next_batch()
        assert (batch.producer_id, batch.producer_epoch, batch.is_transactional) == (7, 3, True)
        assert batch.base_sequence == len(log), "the broker knows a batch by the number of its first record"
        offset = len(log)
        log += list(batch)
        return partition, 0, offset

    async def force_metadata_update(self) -> None:
        self.updates += 1

    async def _wait_on_metadata(self, topic: str) -> None:
        """Its partitions are known."""


def _code_of(instead: Any, topic: str) -> int:
    error = instead.get(topic) if isinstance(instead, dict) else instead
    return int(error.errno) if error else 0


class Producer:
    """As far as ours has one of aiokafka's."""

    def __init__(self, brokers: Brokers, **options: Any) -> None:
        self.options, self.client = options, brokers
        self._txn_manager = SimpleNamespace(producer_id=7, producer_epoch=3)
        self._coordinators: dict[CoordinationType, int] = {}
        self._sender = SimpleNamespace(
            _coordinators=self._coordinators, _find_coordinator=self._find, _coordinator_dead=self._coordinators.pop
        )

    async def start(self) -> None:
        """The id is registered."""

    async def stop(self) -> None:
        """Nothing is open."""

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1_000, 0, is_transactional=1)

    async def _find(self, of: CoordinationType, key: str) -> int:
        self.client.coordinators.append(key)
        return self._coordinators.setdefault(of, 1 if of is CoordinationType.GROUP else 2)


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    brokers = Brokers()
    monkeypatch.setattr(transactions, "AIOKafkaProducer", lambda **options: Producer(brokers, **options))
    monkeypatch.setattr(transactions, "CLUSTER_PAUSE_S", 0.001)
    return brokers


@pytest.fixture
async def task(brokers: Brokers, tmp_path: Path) -> AsyncIterator[KafkaTransactions]:
    settings = EngineSettings(
        app_id="app", bootstrap="h:1", state_dir=tmp_path, retry_backoff_ms=1, transaction_timeout_ms=200
    )
    task = KafkaTransactions(settings, "app-task-0")
    await task.start()
    yield task
    await task.stop()


async def one(task: KafkaTransactions) -> dict[TopicPartition, int]:
    """One whole transaction: a record on two partitions, and an offset."""
    await task.begin()
    reached = await task.send({A0: [ROW], A1: [ROW]})
    await task.send_offsets({B0: 5})
    await task.commit()
    return reached


# -- what is asked -----------------------------------------------------------------------------------------------------


async def test_the_requests_of_a_transaction_and_whom_they_go_to(brokers: Brokers, task: KafkaTransactions) -> None:
    assert await one(task) == {A0: 1, A1: 1}
    # Each leader gets its partitions; the second transaction expects offsets, as the first had some.
    assert [(name, node) for name, node, _ in brokers.asked] == [
        (ADD, 2), (PRODUCE, 1), (PRODUCE, 2), (OFFSETS, 2), (COMMIT, 1), (END, 2),
    ]  # fmt: skip
    brokers.asked.clear()
    assert await one(task) == {A0: 2, A1: 2}
    assert brokers.names == [ADD, OFFSETS, PRODUCE, PRODUCE, COMMIT, END]
    assert brokers.coordinators == ["app-task-0", "app"], "found once each"


async def test_what_the_requests_say(brokers: Brokers, task: KafkaTransactions) -> None:
    await one(task)
    said = {name: struct.to_object() for name, _, struct in brokers.asked}
    who = {"transactional_id": "app-task-0", "producer_id": 7, "producer_epoch": 3}
    assert said[ADD] == {**who, "topics": [{"topic": "a", "partitions": [0, 1]}]}
    assert said[OFFSETS] == {**who, "group_id": "app"}
    assert said[END] == {**who, "transaction_result": True}
    offsets = [{"partition": 0, "offset": 5, "metadata": BY_TASK}]
    assert said[COMMIT] == {**who, "group_id": "app", "topics": [{"topic": "b", "partitions": offsets}]}
    assert (said[PRODUCE]["transactional_id"], said[PRODUCE]["required_acks"]) == ("app-task-0", -1)


async def test_a_partition_joins_once_and_a_transaction_of_nothing_asks_nobody(
    brokers: Brokers, task: KafkaTransactions
) -> None:
    await task.begin()
    await task.send({A0: []})
    await task.commit()
    assert brokers.asked == []
    await task.begin()
    await task.send({A0: [ROW], B0: []})
    await task.send({A0: [ROW]})
    await task.commit()
    assert brokers.names == [ADD, PRODUCE, PRODUCE, END]
    assert [len(records) for records in brokers.log.values()] == [2]


async def test_a_transaction_that_was_given_up_does_not_become_part_of_the_next(
    brokers: Brokers, task: KafkaTransactions
) -> None:
    await task.begin()
    sending = asyncio.create_task(task.send({A0: [ROW]}))
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    with pytest.raises(OutcomeUnknown, match="was not committed"):
        await task.begin()


async def test_records_leave_in_order_in_as_many_batches_as_they_need(
    brokers: Brokers, task: KafkaTransactions
) -> None:
    sent = [(1_000 + n, b"k%d" % n, None if n == 3 else b"v" * 90 * n, (("h", b"x"),) * (n % 2)) for n in range(20)]
    assert await task.send({A0: sent, B0: sent[:1]}) == {A0: 20, B0: 1}
    assert [(r.timestamp, r.key, r.value, tuple(r.headers)) for r in brokers.log[A0]] == sent
    assert brokers.names.count(PRODUCE) > 10, "a record larger than a batch has one of its own"


async def test_the_numbers_of_records_begin_anew_after_31_bits(brokers: Brokers, task: KafkaTransactions) -> None:
    task._sent[A0] = transactions.SEQUENCES - 2
    sealed = list(task._batches(A0, [ROW, ROW]))
    assert (sealed[0].records, task._sent[A0]) == (2, 0)


# -- what is asked again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ADD, OFFSETS, COMMIT, END])
@pytest.mark.parametrize("again", [ConcurrentTransactions, CoordinatorLoadInProgressError])
async def test_who_says_that_nothing_was_done_is_asked_again(
    brokers: Brokers, task: KafkaTransactions, name: str, again: Any
) -> None:
    brokers.instead[name] = [SimpleNamespace(errno=again.errno)] * 3
    assert await one(task) == {A0: 1, A1: 1}
    assert brokers.names.count(name) == 4
    assert len(brokers.coordinators) == 2


@pytest.mark.parametrize("name", [ADD, COMMIT, END])
@pytest.mark.parametrize("moved", [SimpleNamespace(errno=NotCoordinatorError.errno), NodeNotReadyError()])
async def test_a_coordinator_that_has_moved_is_looked_for(
    brokers: Brokers, task: KafkaTransactions, name: str, moved: Any
) -> None:
    brokers.instead[name] = [moved, moved]
    await one(task)
    assert brokers.coordinators.count("app" if name == COMMIT else "app-task-0") == 3


@pytest.mark.parametrize("name", [ADD, OFFSETS, COMMIT, END])
@pytest.mark.parametrize("error", [RequestTimedOutError(), KafkaConnectionError()])
async def test_a_change_that_is_not_answered_is_not_sent_again(
    brokers: Brokers, task: KafkaTransactions, name: str, error: Exception
) -> None:
    """The lost one might arrive after its repetition, in the next transaction."""
    brokers.instead[name] = [error]
    with pytest.raises(OutcomeUnknown, match=f"{name}Request was not answered"):
        await one(task)
    assert brokers.names.count(name) == 1
    with pytest.raises(OutcomeUnknown, match="has ended"):
        await task.begin()


@pytest.mark.parametrize("error", [RequestTimedOutError(), KafkaConnectionError(), NodeNotReadyError()])
async def test_batches_that_are_not_answered_are_sent_again_as_they_were(
    brokers: Brokers, task: KafkaTransactions, error: Exception
) -> None:
    brokers.instead[PRODUCE] = [error, error]
    assert await task.send({A0: [ROW]}) == {A0: 1}
    data = [struct.topics[0][1][0][1] for name, _, struct in brokers.asked if name == PRODUCE]
    assert len(data) == 3 and len(set(map(bytes, data))) == 1


@pytest.mark.parametrize("error", [NotLeaderForPartitionError(), NotEnoughReplicasError()])
async def test_a_leader_that_cannot_take_a_batch_is_sent_it_again_alone(
    brokers: Brokers, task: KafkaTransactions, error: Any
) -> None:
    brokers.instead[PRODUCE] = [{"b": error}]
    assert await task.send({A0: [ROW], B0: [ROW]}) == {A0: 1, B0: 1}
    produced = [[topic for topic, _ in struct.topics] for name, _, struct in brokers.asked if name == PRODUCE]
    assert produced == [["a", "b"], ["b"]]
    assert brokers.updates == error.invalid_metadata


async def test_a_partition_without_a_leader_is_waited_for(brokers: Brokers, task: KafkaTransactions) -> None:
    del brokers.leaders[B0]
    sending = asyncio.create_task(task.send({A0: [ROW], B0: [ROW]}))
    await asyncio.sleep(0.02)
    assert brokers.names == [ADD, PRODUCE] and brokers.updates
    brokers.leaders[B0] = 2
    assert await sending == {A0: 1, B0: 1}


@pytest.mark.parametrize(("name", "error"), [(END, ConcurrentTransactions), (PRODUCE, NotEnoughReplicasError)])
async def test_patience_ends_with_the_transaction(
    brokers: Brokers, task: KafkaTransactions, name: str, error: Any
) -> None:
    brokers.instead[name] = [SimpleNamespace(errno=error.errno)] * 10_000
    with pytest.raises(OutcomeUnknown, match=error.__name__):
        await one(task)


async def test_a_coordinator_that_nobody_knows_is_not_waited_for_for_ever(
    brokers: Brokers, task: KafkaTransactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(of: CoordinationType, key: str) -> int:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(task._producer._sender, "_find_coordinator", never)
    with pytest.raises(OutcomeUnknown, match="who the coordinator of app-task-0 is"):
        await one(task)


# -- what ends it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [ADD, OFFSETS, PRODUCE, COMMIT, END])
async def test_a_newer_owner_is_a_fence_wherever_it_is_met(
    brokers: Brokers, task: KafkaTransactions, name: str
) -> None:
    """Both causes are named: a transaction that took too long gets the same answer."""
    brokers.instead[name] = [SimpleNamespace(errno=InvalidProducerEpoch.errno)]
    with pytest.raises(Fenced, match=r"app-task-0.*newer owner.*longer than 200 ms"):
        await one(task)


@pytest.mark.parametrize("name", [ADD, OFFSETS, PRODUCE, COMMIT, END])
async def test_an_expired_id_is_not_a_newer_owner(brokers: Brokers, task: KafkaTransactions, name: str) -> None:
    """Nobody else has the task: it registers its id again, and the group is not asked."""
    brokers.instead[name] = [SimpleNamespace(errno=InvalidProducerIdMapping.errno)]
    with pytest.raises(OutcomeUnknown, match=r"does not know this transactional id.*transactional\.id\.expiration\.ms"):
        await one(task)


@pytest.mark.parametrize("name", [ADD, OFFSETS, COMMIT, END])
async def test_what_no_patience_helps_against_is_told(brokers: Brokers, task: KafkaTransactions, name: str) -> None:
    brokers.instead[name] = [SimpleNamespace(errno=InvalidTxnState.errno)]
    with pytest.raises(OutcomeUnknown, match="InvalidTxnState"):
        await one(task)
    assert brokers.names.count(name) == 1


@pytest.mark.parametrize("error", [OutOfOrderSequenceNumber, DuplicateSequenceNumber, MessageSizeTooLargeError])
async def test_a_batch_that_is_refused_ends_the_transaction_before_its_offsets(
    brokers: Brokers, task: KafkaTransactions, error: Any
) -> None:
    """A duplicate whose place the broker has forgotten too: a table's position would be made up."""
    brokers.instead[PRODUCE] = [SimpleNamespace(errno=error.errno)]
    with pytest.raises(OutcomeUnknown, match=f"sending to a-0.*{error.__name__}|max.message.bytes"):
        await one(task)
    assert not {OFFSETS, COMMIT, END} & set(brokers.names)


async def test_a_right_that_is_missing_is_named(brokers: Brokers, task: KafkaTransactions) -> None:
    """The broker says of the topics that it would have taken that it did not try."""
    brokers.instead[ADD] = [{"a": OperationNotAttempted(), "b": TopicAuthorizationFailedError()}]
    with pytest.raises(OutcomeUnknown, match=r"TopicAuthorizationFailedError.'b'.: .*faust -A app acls"):
        await task.send({A0: [ROW], B0: [ROW]})


@pytest.mark.parametrize(
    ("name", "error", "what"),
    [
        (ADD, TransactionalIdAuthorizationFailed, "app-task-0"),
        (OFFSETS, GroupAuthorizationFailedError, "app"),
        (COMMIT, GroupAuthorizationFailedError, "app"),
        (PRODUCE, TopicAuthorizationFailedError, "a"),
    ],
)
async def test_other_rights_too(brokers: Brokers, task: KafkaTransactions, name: str, error: Any, what: str) -> None:
    brokers.instead[name] = [SimpleNamespace(errno=error.errno)]
    with pytest.raises(OutcomeUnknown, match=f"{error.__name__}.'{what}'"):
        await one(task)
