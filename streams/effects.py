"""committed records of topics -> something done outside for each -> their positions, committed when it is done.

At least once: a worker that dies between the deed and the commit leaves it to be done again, so a deed needs a key that
stays the same. Records of one key are taken one after the other, those of others meanwhile. Positions are the consumer
group's own, in Kafka: a replay of tables does not move them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from aiokafka import TopicPartition
from mode import Service
from prometheus_client import CollectorRegistry, Counter, Gauge

from streams import faults
from streams.attempts import Attempts
from streams.beginnings import Beginnings, find_starts
from streams.committed import committed_offsets
from streams.records import Record
from streams.rights import Right
from streams.sink import STAND_BY_S, Backoff, masked
from streams.sources import KafkaSource
from streams.transactions import BY_TASK

log = logging.getLogger(__name__)

#: Deeds at the same time. Each holds a connection and little else; more would only press on the other side.
AT_ONCE = 32
#: Records read and not done yet. A slow deed holds its partition's position back, not the deeds of other keys; what was
#: done above the position is done again after a crash, so there is a bound.
MOST_OPEN = 1_000
POLL_S = 0.2
#: While nothing is wanted, how often that is asked again.
REST_S = 1.0
#: While the worker has more to do than it can, the pause after each look for records.
YIELD_S = 0.5
#: How long a worker that ends waits for deeds under way; what is cut off then is done again by the next.
LAST_DEEDS_S = 5.0


class EffectSource(Protocol):
    """What an effect needs of a log. Kafka's is CommittedSource; a test brings its own."""

    @property
    def generation(self) -> int: ...
    @property
    def assigned(self) -> frozenset[TopicPartition]: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]: ...
    def seek(self, positions: Mapping[TopicPartition, int]) -> None: ...
    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]: ...
    async def rest(self, timeout_s: float) -> Sequence[Record]: ...
    def position(self, partition: TopicPartition) -> int: ...
    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int | None]: ...
    async def commit(self, positions: Mapping[TopicPartition, int]) -> None: ...


class CommittedSource(KafkaSource):
    """Topics of a Kafka cluster, read committed, with the positions that the group has committed."""

    _resting = False

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        if self._resting:
            self._consumer.resume(*self.assigned)
            self._resting = False
        return await super().poll(max_records, timeout_s)

    async def rest(self, timeout_s: float) -> Sequence[Record]:
        """Stay in the group and fetch nothing; gives what had been fetched already."""
        self._consumer.pause(*self.assigned)
        self._resting = True
        return await super().poll(MOST_OPEN, timeout_s)

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        found = await committed_offsets(self._consumer, list(partitions))
        return {partition: found.get(partition) for partition in partitions}

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        await self._consumer.commit({partition: (offset, BY_TASK) for partition, offset in positions.items()})


class EffectHealth(NamedTuple):
    """An effect as an operator sees it."""

    connected: bool
    detail: str


class EffectMetrics:
    """The series of effects. One object for a registry (`of`): names may be registered once only."""

    _of: ClassVar[WeakKeyDictionary[CollectorRegistry, EffectMetrics]] = WeakKeyDictionary()

    @classmethod
    def of(cls, registry: CollectorRegistry) -> EffectMetrics:
        """Those of a registry, which all its effects share."""
        if registry not in cls._of:
            cls._of[registry] = cls(registry)
        return cls._of[registry]

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streams_effect_{name}", text, ("effect", *labels), registry=registry)

        self.done = counter("records_total", "Records whose deed is done.")
        self.errors = counter("errors_total", "Sessions that failed; each is followed by a wait and begun anew.")
        self.set_aside = counter("set_aside_total", "Records whose deed failed by itself, and was given up.")
        self.open = Gauge(
            "streams_effect_open_records", "Records read and not done yet.", ("effect",), registry=registry
        )


def key_of(record: Record) -> bytes | None:
    return record.key


class Rounds(ABC):
    """Work over a source, a round at a time. What goes wrong ends a session; after a pause another one begins."""

    name: str
    source: EffectSource
    metrics: EffectMetrics
    backoff: Backoff
    error: str | None

    @property
    @abstractmethod
    def open_records(self) -> int:
        """Records read and not done yet."""

    @abstractmethod
    async def round(self) -> float:
        """With the source open: take up a new assignment, poll, work, commit; gives the seconds to wait then."""

    @abstractmethod
    async def drop(self) -> None:
        """Forget what is under way: another worker may have it by now."""

    @abstractmethod
    async def finish(self, timeout_s: float) -> None:
        """The end of a worker."""

    async def keep(self) -> None:
        """Before a session that failed is dropped: commit what is done, so that it is not done again."""
        return

    def trouble(self) -> str | None:
        """What is wrong with records, while the session goes on; None: nothing."""
        return None

    def moves(self) -> bool:
        """Whether the session gets on: its position has moved in this round, or nothing waits."""
        return True

    async def step(self) -> float:
        """One round; gives the seconds to wait before the next. Raises nothing but cancellation."""
        try:
            await self.source.open()
            wait_s = await self.round()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.error = masked(f"{type(error).__name__}: {error}")
            self.metrics.errors.labels(self.name).inc()
            wait_s = self.backoff.next()
            log.warning("effect %s: %s; beginning anew in %.1f s", self.name, self.error, wait_s)
            with contextlib.suppress(Exception):
                await self.keep()
            await self.drop()
            await self.source.close()
            return wait_s
        self.error = None
        if self.moves():  # a session that opens and gets nowhere must not be begun ever faster
            self.backoff.reset()
        return wait_s


@dataclass
class Runner(Rounds):
    """The protocol of an effect, one step at a time:

    1. a new assignment, or anything that went wrong: drop what is under way, seek to the committed positions; without
       one, begin at the beginning, unless this effect has begun the partition before;
    2. poll, and begin a deed for each record, behind the one of the same key before it;
    3. commit, for each partition, the position below which every deed is done.

    While `unwanted` says that nothing is wanted of all this, the log is passed over unread: see `_pass_over`.

    A deed that raises is tried again by itself, and its position waits; a record that fails by itself again and again
    is set aside (streams/attempts.py). Only what concerns all records (an assignment, a commit, a poll) ends
    the session.
    """

    name: str
    source: EffectSource
    act: Callable[[Record], Awaitable[None]]
    metrics: EffectMetrics
    at_once: int = AT_ONCE
    most_open: int = MOST_OPEN
    poll_s: float = POLL_S
    backoff: Backoff = field(default_factory=Backoff)
    #: What names a record's line: those of one line are taken one after the other.
    line: Callable[[Record], bytes | None] = key_of
    #: Whether no record is wanted of those that were committed before it is asked.
    unwanted: Callable[[], Awaitable[bool]] | None = None
    #: Whether the worker has more to do than it can.
    pressed: Callable[[], bool] = lambda: False
    #: The consumer group, and what proves that it has begun a partition (streams/beginnings.py).
    group: str = ""
    beginnings: Beginnings | None = None

    def __post_init__(self) -> None:
        self._generation: int | None = None
        self._begun: dict[tuple[TopicPartition, int], asyncio.Task[None]] = {}
        self._lines: dict[bytes | None, asyncio.Task[None]] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._turns = asyncio.Semaphore(self.at_once)
        self._moved = False
        errors, aside = self.metrics.errors.labels(self.name), self.metrics.set_aside.labels(self.name)
        self.attempts = Attempts(self.name, self.act, self.backoff, errors, aside)
        self.error: str | None = "not started"

    @property
    def open_records(self) -> int:
        return len(self._begun)

    async def keep(self) -> None:
        self._settle()
        await self._commit()

    def trouble(self) -> str | None:
        return self.attempts.trouble()

    def moves(self) -> bool:
        return self._moved or not self._begun

    async def round(self) -> float:
        self._moved = False
        if self._generation != self.source.generation:
            await self._rewind()
        records = await self._records()
        if self._generation == self.source.generation:
            for record in records:
                self._begin(record)
        self._settle()
        await self._commit()
        return YIELD_S if records and self.pressed() else 0.0

    async def finish(self, timeout_s: float) -> None:
        """The end of a worker: wait for what is under way, commit it, drop the rest."""
        if self._begun:
            await asyncio.wait(self._begun.values(), timeout=timeout_s)
        with contextlib.suppress(Exception):
            self._settle()
            await self._commit()
        await self.drop()
        await self.source.close()

    async def _records(self) -> Sequence[Record]:
        if self.unwanted is not None and not self._begun and await self._pass_over(self.unwanted):
            return await self.source.rest(REST_S)
        room = self.most_open - len(self._begun)
        return await self.source.poll(room, self.poll_s) if room > 0 else await self._a_while()

    async def _pass_over(self, unwanted: Callable[[], Awaitable[bool]]) -> bool:
        """Go to the end of the log if nothing before it is wanted: to read it for nobody would cost what orders need.

        The end is looked up first and what is wanted is asked after it: a wish that comes later begins later.
        """
        generation, partitions = self.source.generation, self.source.assigned
        if not partitions or self._generation != generation or not await unwanted():
            return False
        bounds = await self.source.bounds(partitions)
        if not await unwanted() or generation != self.source.generation:
            return False
        self.source.seek({partition: end for partition, (_, end) in bounds.items()})
        return True

    async def _a_while(self) -> Sequence[Record]:
        await asyncio.wait(self._begun.values(), timeout=self.poll_s, return_when=asyncio.FIRST_COMPLETED)
        return ()

    async def _rewind(self) -> None:
        await self.drop()
        generation, partitions = self.source.generation, self.source.assigned
        if partitions:
            starts = await find_starts(self.name, self.group, self.source, partitions, self.beginnings)
            if generation != self.source.generation:
                return
            self.source.seek(starts)
            self._committed = dict(starts)
        self._generation = generation

    def _begin(self, record: Record) -> None:
        line = self.line(record)
        before = self._lines.get(line)
        task = asyncio.create_task(self._do(record, before), name=f"effect {self.name}")
        self._begun[TopicPartition(record.topic, record.partition), record.offset] = self._lines[line] = task

    async def _do(self, record: Record, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        if before is not None and (before.cancelled() or before.exception() is not None):
            raise RuntimeError("the record before it has failed, so this one waits too")
        async with self._turns:
            faults.point("effect_taken")
            await self.attempts.run(record)
            faults.point("effect_acted")

    def _settle(self) -> None:
        """Forget what is done; raise what has failed."""
        for place, task in list(self._begun.items()):
            if task.done():
                task.result()
                del self._begun[place]
                self.metrics.done.labels(self.name).inc()
        self._lines = {key: task for key, task in self._lines.items() if not task.done()}
        self.metrics.open.labels(self.name).set(len(self._begun))

    async def _commit(self) -> None:
        if self._generation != self.source.generation:
            return
        positions = {partition: self.source.position(partition) for partition in self._committed}
        for partition, offset in self._begun:
            positions[partition] = min(positions[partition], offset)
        moved = {p: position for p, position in positions.items() if position > self._committed[p]}
        if moved:
            await self.source.commit(moved)
            faults.point("effect_committed")
            self._committed |= moved
            self._moved = True

    async def drop(self) -> None:
        """Another worker may have these by now: what is under way is cut off, and done again wherever they are."""
        begun, self._begun, self._lines, self._generation = list(self._begun.values()), {}, {}, None
        self._committed = {}
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


class Effect(Service):
    """A runner in a worker: own consumer group, own pace. It never raises into the worker, and nothing waits for it."""

    def __init__(
        self,
        app: Any,
        name: str,
        topics: Collection[str],
        act: Callable[[Record], Awaitable[None]],
        *,
        health: Callable[[], str | None] = lambda: None,
        close: Callable[[], Awaitable[None]] | None = None,
        source: EffectSource | None = None,
        at_once: int = AT_ONCE,
        line: Callable[[Record], bytes | None] = key_of,
        unwanted: Callable[[], Awaitable[bool]] | None = None,
        pressed: Callable[[], bool] = lambda: False,
        beside: Collection[str] = (),
        works: Callable[[], bool] = lambda: True,
        **kwargs: Any,
    ) -> None:
        """`health`: what is wrong with the other side, or None. `close`: called once, at the end.

        `at_once`, `line`, `unwanted`, `pressed`: as the Runner's. `beside`: topics that the deeds read in another way,
        for the rights. `works`: whether this worker's version is the live one; others do nothing outside.
        """
        self.app, self.name, self.topics = app, name, (*topics, *beside)
        self._consumed = tuple(topics)
        self._ways: dict[str, Any] = {"at_once": at_once, "line": line, "unwanted": unwanted, "pressed": pressed}
        self._act, self._told, self._close, self._source, self._works = act, health, close, source, works
        self._metrics = EffectMetrics.of(app.metrics.registry)
        self._runner: Rounds | None = None
        self._running: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        super().__init__(**kwargs)

    @property
    def group_id(self) -> str:
        return f"{self.app.shared_id}-{self.name}"

    def health(self) -> EffectHealth:
        runner = self._runner
        if runner is not None and not self._works():
            return EffectHealth(True, "stands by, as another version is live")
        wrong = (runner.error or runner.trouble() if runner else "not started") or self._told()
        count = runner.open_records if runner else 0
        return EffectHealth(wrong is None, f"{wrong or 'at work'}, {count} open")

    async def on_start(self) -> None:
        # Not earlier: where the brokers are is known once the worker has read its command line.
        session_ms = self.app.engine_settings().session_timeout_ms
        client = {
            "fetch_max_wait_ms": 500,  # what comes is answered at once all the same
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": session_ms // 4,
        }
        source = self._source or CommittedSource(self.app.brokers, self.group_id, self._consumed, client)
        self._runner = self._runner_of(source)
        self._running = asyncio.create_task(self._run(self._runner), name=f"effect {self.name}")

    def _runner_of(self, source: EffectSource) -> Rounds:
        proof = {"group": self.group_id, "beginnings": self.app.beginnings}
        return Runner(self.name, source, self._act, self._metrics, **self._ways, **proof)

    @property
    def consumed(self) -> tuple[str, ...]:
        """The topics whose offsets its group commits."""
        return self._consumed

    def fences(self) -> list[Right]:
        """The transactional ids that it needs, for the rights."""
        return []

    async def _run(self, runner: Rounds) -> None:
        while not self._ending.is_set():
            if self._works():
                wait_s = await runner.step()
            else:
                await runner.finish(LAST_DEEDS_S)
                wait_s = STAND_BY_S
            if wait_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), wait_s)

    async def on_stop(self) -> None:
        self._ending.set()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=1)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._runner is not None:
            await self._runner.finish(LAST_DEEDS_S)
        if self._close is not None:
            with contextlib.suppress(Exception):
                await self._close()
