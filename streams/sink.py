"""committed records of topics -> a destination that keeps the positions itself -> each record in it exactly once.

No position is ever committed to Kafka: the destination writes rows and positions in one transaction of its own, and a
writer must name the position that it believes to be there. So a writer that was stopped, replaced or slow (a zombie)
changes nothing, and whatever goes wrong the answer is the same: ask the destination where it is, seek there, go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from aiokafka import TopicPartition
from mode import Service
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from streams.brokers import NOT_ALLOWED, told
from streams.errors import LogMismatch
from streams.records import Record
from streams.sources import KafkaSource, Source

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Records in one write: enough that a transaction's fixed cost (about 3 ms) is lost in it. To parse more at once would
#: hold up the worker's event loop, and with it the orders, for longer than 10 ms.
MAX_RECORDS = 2_000
#: The last resort: a destination has shorter limits of its own. To read positions it may have tables to change first.
WRITE_TIMEOUT_S = 60.0
POSITIONS_TIMEOUT_S = 600.0
#: Positions that moved over commit markers alone are written this often at most: they matter to readers of lag only.
IDLE_MOVE_S = 1.0
#: How often the ends of the log are asked for, for the lag.
LAG_EVERY_S = 2.0
#: How often the destination is asked how many records it keeps aside; nothing is added without this sink's knowledge.
SET_ASIDE_EVERY_S = 30.0
#: A fetch waits for this much, but no longer than FETCH_WAIT_MS: what arrives meanwhile shares a request, a transaction
#: and its flush to disk. Nothing waits for the copy.
FETCH_BYTES = 64 << 10
#: A worker whose version is not the live one looks this often whether it is.
STAND_BY_S = 0.2

#: While records wait for the worker, a write is followed by a pause of so many times its own length: a copy for others
#: must not take the processor from the orders. It goes on all the same, and catches up later.
YIELD, MAX_YIELD_S = 4, 2.0


class Mark(NamedTuple):
    """The last record written of a partition. Found again in its place, it proves that the log is still the same."""

    offset: int
    timestamp: int


class Standing(NamedTuple):
    """Where a destination stands in a partition; `last` is None while no record of it has been written."""

    next: int
    last: Mark | None = None


class Move(NamedTuple):
    """From the position that the writer believes is there (None: never written) to the next."""

    expected: int | None
    next: int
    last: Mark | None = None


class Written(NamedTuple):
    """What one write did: rows by table, and how many records the destination refused and set aside."""

    rows: Mapping[str, int]
    refused: int = 0


class PositionConflict(Exception):
    """The destination is not where this writer believed: another one has been there. Nothing was written."""


class Destination(Protocol):
    """Where a sink writes. Both calls may raise anything: the sink backs off, asks for the positions and goes on."""

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Standing]:
        """Where it stands; partitions never written are absent. It may bring its tables up to date first."""

    async def write(self, records: Sequence[Record], moves: Mapping[TopicPartition, Move]) -> Written:
        """Records (in order within their partition) and moves, all or nothing.

        Raises PositionConflict, writing nothing, unless every partition stands at its `expected`. A move without `last`
        keeps the one before.
        """

    async def set_aside(self) -> int:
        """How many records it has refused and keeps aside, until somebody has dealt with them."""

    async def close(self) -> None:
        """Let go of connections; called once, at the end."""


class Backoff:
    """Seconds to wait after a failure: doubling from `first_s` to `cap_s`, of that a random share from half to all."""

    def __init__(self, first_s: float = 0.1, cap_s: float = 15.0, chance: random.Random | None = None) -> None:
        self.first_s, self.cap_s, self.failures = first_s, cap_s, 0
        self._chance = chance or random.Random()

    def next(self) -> float:
        full = min(self.cap_s, self.first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        return float(full * self._chance.uniform(0.5, 1.0))

    def reset(self) -> None:
        self.failures = 0


class SinkMetrics:
    """The sink's series. One object for a registry: names may be registered once only."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streams_sink_{name}", text, ("sink", *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streams_sink_{name}", text, ("sink", *labels), registry=registry)

        self.records = counter("records_total", "Records that the destination has committed.", "topic")
        self.rows = counter("rows_total", "Rows that the destination has written.", "table")
        self.batches = counter("batches_total", "Writes that the destination has committed.")
        self.refused = counter("refused_total", "Records that the destination refused and set aside.")
        self.errors = counter("errors_total", "Failed steps; each is followed by a wait and a seek.", "reason")
        self.conflicts = counter("conflicts_total", "Writes given up because another writer had moved the position.")
        self.skipped = counter("skipped_offsets_total", "Offsets that the log deleted before they were read.", "topic")
        self.lag = gauge("lag_records", "Offsets between the destination and the end of the log.", "topic", "partition")
        self.set_aside = gauge("set_aside_records", "Records that the destination has refused and keeps aside.")
        self.connected = gauge("connected", "1 while the destination answers, 0 while it does not.")
        self.last_success = gauge("last_success_timestamp_seconds", "Unix time of the last answer of the destination.")
        self.seconds = Histogram("streams_sink_write_seconds", "Seconds of one write.", ("sink",), registry=registry,
                                 buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))  # fmt: skip


@dataclass(frozen=True)
class SinkHealth:
    """A sink as an operator sees it. `lag` is None until the log's ends are known; times are Unix seconds."""

    name: str
    connected: bool
    assigned: int
    lag: int | None
    last_success_at: float | None
    last_error: str | None
    last_error_at: float | None
    set_aside: int = 0

    @property
    def detail(self) -> str:
        """One line for a health check."""
        behind = "lag unknown" if self.lag is None else f"{self.lag} behind"
        error = f"; last error: {self.last_error}" if self.last_error and not self.connected else ""
        aside = f"; {self.set_aside} records set aside in refused_rows" if self.set_aside else ""
        state = "connected" if self.connected else "not connected"
        return f"{state}, {self.assigned} partitions, {behind}{aside}{error}"


def masked(text: str) -> str:
    """The text without passwords: those of URLs, and of `password=…` and the like."""
    text = re.sub(r"(\w+://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    named = r"(?i)\b(\w*(?:password|passwd|pwd|secret|token))(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&]+)"
    return re.sub(named, r"\1\2***", text)


@dataclass
class Pump:
    """The protocol of a sink, one step at a time, without a clock or a task of its own:

    1. a new assignment, or anything that went wrong: read the positions from the destination, check them, seek;
    2. poll; after a seek the last record written comes first, and must be the one that was written;
    3. write the records and the moves from the positions believed to the next, all or nothing.

    `step` never raises (cancellation excepted) and never sleeps: it returns the seconds to wait before the next one.
    """

    name: str
    source: Source
    destination: Destination
    metrics: SinkMetrics
    max_records: int = MAX_RECORDS
    poll_s: float = 0.5
    backoff: Backoff = field(default_factory=Backoff)
    now_s: Callable[[], float] = time.time
    pressed: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._generation: int | None = None  # the assignment that `_believed` is for; None: read the positions again
        self._believed: dict[TopicPartition, int | None] = {}  # as committed in the destination
        self._proofs: dict[TopicPartition, Mark] = {}  # records that must come again before anything is written
        self._ends: dict[TopicPartition, int] = {}
        self._seen: dict[TopicPartition, int] = {}  # where the log ended when it was first measured
        self._limit = self.max_records
        self._write_s = 0.0  # how long the last step's write took
        self._moved_at = self._measured_at = float("-inf")
        self._set_aside, self._counted_at = 0, float("-inf")
        self._connected = False
        self._success_at: float | None = None
        self._error: tuple[str, float] | None = None
        self.metrics.connected.labels(self.name).set(0)
        self.metrics.refused.labels(self.name)  # a counter that begins at 1 hides its first event from rate()

    async def step(self) -> float:
        """One round. Returns the seconds to wait: 0 when there may be more to do at once."""
        self._write_s = 0.0
        try:
            await self._open()
            if self._generation != self.source.generation:
                await self._rewind()
            await self._measure()
            await self._count_set_aside()
            records = await self._poll()
            if self._generation == self.source.generation:
                await self._write(self._proven(records) if self._proofs else records)
            self.backoff.reset()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return await self._failed(error)
        return min(YIELD * self._write_s, MAX_YIELD_S) if self._write_s and self.pressed() else 0.0

    async def _open(self) -> None:
        try:
            await self.source.open()
        except Exception as error:
            raise _SourceFailed(error) from error

    async def _rewind(self) -> None:
        """Positions as the destination has them; what was polled and not written is polled again."""
        generation, partitions = self.source.generation, self.source.assigned
        self._forget_lag((self._believed.keys() | self._seen.keys()) - partitions)
        stored: Mapping[TopicPartition, Standing] = {}
        if partitions:
            stored = await self._watched(self.destination.positions(partitions), POSITIONS_TIMEOUT_S)
            self._answered()
        try:
            bounds = await self.source.bounds(partitions) if partitions else {}
        except Exception as error:
            raise _SourceFailed(error) from error
        self._ends = {partition: end for partition, (_, end) in bounds.items()}
        self._believed = {p: stored[p].next if p in stored else None for p in partitions}
        self._proofs = {}
        for topic in {partition.topic for partition in partitions}:
            self.metrics.skipped.labels(self.name, topic)
        starts = {p: self._start(p, stored.get(p), *bounds[p]) for p in partitions}
        if generation == self.source.generation:
            self.source.seek(starts)
            self._generation = generation

    def _start(self, partition: TopicPartition, stored: Standing | None, first: int, end: int) -> int:
        """Where to read from: at the last record written, if the log still has it, so that it can prove itself."""
        if stored is None:
            return first
        if stored.next > end:
            raise self._other_log(partition, stored.next, f"the log ends at {end}")
        if stored.next < first:
            self.metrics.skipped.labels(self.name, partition.topic).inc(first - stored.next)
            log.error(
                "sink %s: offsets %d to %d of %s were deleted unread", self.name, stored.next, first - 1, partition
            )
            return first
        if stored.last is None or stored.last.offset < first:
            return stored.next
        self._proofs[partition] = stored.last
        return stored.last.offset

    def _proven(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records without those that were only read to see whether they are still there."""
        fresh: list[Record] = []
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            mark = self._proofs.pop(partition, None)
            if mark is None:
                fresh.append(record)
            elif mark != (record.offset, record.timestamp):
                raise self._other_log(partition, mark.offset + 1, "the last record written is not there")
        for partition, mark in self._proofs.items():
            if self.source.position(partition) > mark.offset:
                raise self._other_log(partition, mark.offset + 1, "the last record written is not there")
        return fresh

    def _other_log(self, partition: TopicPartition, position: int, why: str) -> LogMismatch:
        return LogMismatch(
            f"sink {self.name} has written {partition.topic}-{partition.partition} up to {position}, but {why}: the "
            "topic was made anew, or this database belongs to another log. Rebuild the sink, or correct its address."
        )

    async def _poll(self) -> Sequence[Record]:
        try:
            return await self.source.poll(self._limit, self.poll_s)
        except Exception as error:
            raise _SourceFailed(error) from error

    async def _write(self, records: Sequence[Record]) -> None:
        now = self.now_s()
        lasts = {TopicPartition(r.topic, r.partition): Mark(r.offset, r.timestamp) for r in records}
        moves = {
            partition: Move(believed, position, lasts.get(partition))
            for partition, believed in self._believed.items()
            if (position := self.source.position(partition)) > (-1 if believed is None else believed)
        }
        if not moves or (not records and now - self._moved_at < IDLE_MOVE_S):
            return
        started = time.perf_counter()
        try:
            written = await self._watched(self.destination.write(records, moves), WRITE_TIMEOUT_S)
        except Exception as error:
            if not isinstance(error, PositionConflict):
                self._limit = max(1, self._limit // 2)  # if the batch was too much for it, a smaller one will do
            raise
        self._write_s = time.perf_counter() - started
        self._limit = min(self.max_records, self._limit * 2)
        self._moved_at = now
        for partition, move in moves.items():
            self._believed[partition] = move.next
        self._answered()
        self._count(records, written, self._write_s)
        self._show_lag()

    def _count(self, records: Sequence[Record], written: Written, seconds: float) -> None:
        by_topic: dict[str, int] = {}
        for record in records:
            by_topic[record.topic] = by_topic.get(record.topic, 0) + 1
        for topic, count in by_topic.items():
            self.metrics.records.labels(self.name, topic).inc(count)
        for table, rows in written.rows.items():
            self.metrics.rows.labels(self.name, table).inc(rows)
        self.metrics.refused.labels(self.name).inc(written.refused)
        if written.refused:
            self._counted_at = float("-inf")
        self.metrics.batches.labels(self.name).inc()
        self.metrics.seconds.labels(self.name).observe(seconds)

    async def _failed(self, error: Exception) -> float:
        """Note it, forget what was believed, and say how long to wait. A failed log is left and joined anew."""
        self._generation = None
        cause = error.cause if isinstance(error, _SourceFailed) else error
        wait_s = self.backoff.next()
        if isinstance(error, PositionConflict):
            self.metrics.conflicts.labels(self.name).inc()
            log.info("sink %s: %s; reading the positions again", self.name, error)
            return wait_s
        text = masked(told(cause) if isinstance(cause, NOT_ALLOWED) else f"{type(cause).__name__}: {cause}")
        self._error = (text, self.now_s())
        self.metrics.errors.labels(self.name, type(cause).__name__).inc()
        log.warning("sink %s: %s; trying again in %.1f s", self.name, text, wait_s)
        if isinstance(error, _SourceFailed):
            await self.source.close()
            return wait_s
        self._connected = self._connected and isinstance(error, LogMismatch)
        self.metrics.connected.labels(self.name).set(int(self._connected))
        await self._measure()  # the lag must be seen to grow while the destination is away
        return wait_s

    async def rest(self) -> float:
        """Let others have the partitions; gives the seconds to wait before it is asked again."""
        self._generation = None
        await self.source.close()
        return STAND_BY_S

    def _answered(self) -> None:
        self._connected, self._success_at = True, self.now_s()
        self.metrics.connected.labels(self.name).set(1)
        self.metrics.last_success.labels(self.name).set(self._success_at)

    async def _measure(self) -> None:
        """Ask for the log's ends now and then. Not a part of the protocol: a failure here changes nothing."""
        partitions, now = self.source.assigned, self.now_s()
        if not partitions or now - self._measured_at < LAG_EVERY_S:
            return
        self._measured_at = now
        try:
            bounds = await self.source.bounds(partitions)
        except Exception as error:
            log.info("sink %s: the ends of the log are not known now: %r", self.name, error)
            self._measured_at = now + 20 - LAG_EVERY_S  # a log that is slow to answer must not slow the sink down too
            return
        self._ends = {partition: end for partition, (_, end) in bounds.items()}
        self._seen = {partition: self._seen.get(partition, end) for partition, end in self._ends.items()}
        self._show_lag()

    async def _count_set_aside(self) -> None:
        """Ask again now and then: people delete what they have dealt with, and other workers add to it."""
        if self.source.assigned and self.now_s() - self._counted_at >= SET_ASIDE_EVERY_S:
            self._set_aside = await self._watched(self.destination.set_aside(), POSITIONS_TIMEOUT_S)
            self.metrics.set_aside.labels(self.name).set(self._set_aside)
            self._counted_at = self.now_s()

    async def _watched(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What the destination answers; until it does, the lag is seen to grow."""
        answer = asyncio.ensure_future(call)
        try:
            async with asyncio.timeout(timeout_s):
                while not (await asyncio.wait([answer], timeout=LAG_EVERY_S))[0]:
                    await self._measure()
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                await asyncio.wait([answer])

    def _lags(self) -> dict[TopicPartition, int]:
        """A destination that has not answered yet is behind by what has come since, at the least."""
        known = self.source.assigned & self._ends.keys()
        begun = self._seen | self._believed
        return {p: max(0, self._ends[p] - (begun.get(p, self._ends[p]) or 0)) for p in known}

    def _show_lag(self) -> None:
        for partition, lag in self._lags().items():
            self.metrics.lag.labels(self.name, partition.topic, partition.partition).set(lag)

    def _forget_lag(self, partitions: Collection[TopicPartition]) -> None:
        """Another worker shows the lag of a partition that has moved to it."""
        for partition in partitions:
            with contextlib.suppress(KeyError):
                self.metrics.lag.remove(self.name, partition.topic, str(partition.partition))

    def health(self) -> SinkHealth:
        lags = self._lags()
        error, error_at = self._error or (None, None)
        known = bool(lags) or not self.source.assigned
        return SinkHealth(self.name, self._connected, len(self.source.assigned), sum(lags.values()) if known else None,
                          self._success_at, error, error_at, self._set_aside)  # fmt: skip


class _SourceFailed(Exception):
    """The log, not the destination, failed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Sink(Service):
    """A pump in a worker: own consumer group, own pace. It never raises into the worker and nothing ever waits for it.

    `client` holds further settings of the Kafka client; `source` replaces Kafka, as tests do. While `pressed`
    says that the worker has more to do than it can, the sink takes a fifth of the time at most. Unless `works` says
    that this worker's version is the live one, it leaves the copy to others.
    """

    def __init__(
        self, app: Any, name: str, topics: Collection[str], destination: Destination, *,
        metrics: SinkMetrics | None = None, client: Mapping[str, Any] | None = None, source: Source | None = None,
        pressed: Callable[[], bool] = lambda: False, works: Callable[[], bool] = lambda: True, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.app, self.name, self.topics, self.destination = app, name, tuple(topics), destination
        self._pressed, self._works = pressed, works
        self._metrics = metrics or SinkMetrics(app.metrics.registry)
        self._client, self._source = client, source
        self._pump: Pump | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        super().__init__(**kwargs)

    @property
    def group_id(self) -> str:
        return f"{self.app.shared_id}-{self.name}"

    def health(self) -> SinkHealth:
        return self._pump.health() if self._pump else SinkHealth(self.name, False, 0, None, None, "not started", None)

    async def on_start(self) -> None:
        # Not earlier: where the brokers are is known once the worker has read its command line.
        client = {"fetch_min_bytes": FETCH_BYTES, **(self._client or {})}
        source = self._source or KafkaSource(self.app.brokers, self.group_id, self.topics, client)
        self._pump = Pump(self.name, source, self.destination, self._metrics, pressed=self._pressed)
        self._pumping = asyncio.create_task(self._run(self._pump), name=f"sink {self.name}")

    async def _run(self, pump: Pump) -> None:
        while not self._ending.is_set():
            try:
                wait_s = await (pump.step() if self._works() else pump.rest())
            except Exception:  # a bug in the pump itself: say so and live on, for the sake of the order flow
                log.exception("sink %s: a step failed; trying again in 15 s", self.name)
                wait_s = 15.0
            until = time.monotonic() + wait_s
            while not self._ending.is_set() and (left_s := until - time.monotonic()) > 0:
                await pump._measure()  # the lag is seen to grow between two attempts, too
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), min(left_s, LAG_EVERY_S))

    async def on_stop(self) -> None:
        """End after the write in hand, if that takes less than five seconds; what is cut off is rolled back."""
        self._ending.set()
        if self._pumping is not None:
            await asyncio.wait([self._pumping], timeout=5)
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
        if self._pump is not None:
            await self._pump.source.close()
        with contextlib.suppress(Exception):
            await self.destination.close()
