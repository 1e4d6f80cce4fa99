"""records of one batch -> an agent's coroutine, record by record, each with a savepoint."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from streams.batch import Batch, current_view
from streams.codec import Codec
from streams.dead_letters import dead_letter
from streams.errors import (
    FaultAt,
    LogMismatch,
    Misdeclared,
    Poison,
    StoreDamaged,
    StoreUnavailable,
)
from streams.metrics import Metrics
from streams.record_batches import MAX_HEADERS
from streams.records import Event, Omitted, Record, TopicPartition, size_of
from streams.topic import Topic

T = TypeVar("T")

#: The machine's fault, not the record's: the batch is dropped and tried again, nothing is dead-lettered.
NOT_THE_RECORDS_FAULT = (StoreDamaged, StoreUnavailable, LogMismatch, MemoryError)


#: An agent yields to the event loop after this long, between two records.
YIELD_AFTER_S = 0.02


def refuse_unreadable(record: Record, max_message_bytes: int) -> None:
    """Raise Poison for a record that has no value, or is too large."""
    if record.value is None:
        raise Poison([FaultAt("$", "the record has no value")], "null_value")
    refuse_too_large(record, max_message_bytes)


def refuse_too_large(record: Record, max_message_bytes: int) -> None:
    """Raise Poison for a record that its topic would not take without compression, or with too many headers."""
    value, headers = record.value, record.headers
    if len(headers) > MAX_HEADERS:
        raise Poison([FaultAt("$", f"has {len(headers)} headers; at most {MAX_HEADERS} are read")], "too_large")
    size = size_of(record.key, value, headers)
    if size > max_message_bytes or isinstance(value, Omitted):
        limit = f"{record.topic} takes records of {max_message_bytes} bytes, uncompressed, with {MAX_HEADERS} headers"
        raise Poison([FaultAt("$", f"has {size} bytes; {limit}")], "too_large")


class Agent(Generic[T]):
    """A function over a stream, bound to one topic. Calling it runs the function itself, as a test would."""

    def __init__(self, fun: Callable[[Stream[T]], Awaitable[None]], topic: Topic, name: str) -> None:
        if inspect.isasyncgenfunction(fun):
            raise Misdeclared(f"agent {name} yields; replies are records here: send them to a topic instead")
        self.fun, self.channel, self.name = fun, topic, name
        self.help = (fun.__doc__ or "").strip().split("\n")[0]

    async def __call__(self, stream: Stream[T]) -> None:
        await self.fun(stream)


class Stream(Generic[T]):
    """What an agent iterates: values of its topic, or `events()` for the whole records."""

    def __init__(self, run: AgentRun, codec: Codec[T], max_message_bytes: int) -> None:
        self._run, self._codec, self._most = run, codec, max_message_bytes
        self.event: Event = None  # type: ignore[assignment]  # set before the first value is handed out

    async def __aiter__(self) -> AsyncIterator[T]:
        run, decode, most = self._run, self._codec.decode, self._most
        while True:
            for record in run.records:
                self.event = record
                run.batch.savepoint(record)
                raw = record.value
                try:
                    if raw.__class__ is not bytes or len(raw) > most or record.headers:
                        refuse_unreadable(record, most)
                    value = decode(raw)  # type: ignore[arg-type]  # None is refused above
                except Poison as poison:
                    run.reject(record, poison)
                    continue
                yield value
                if run.is_due():
                    await run.yield_control()
            run.finish()
            await run.wait()

    async def events(self) -> AsyncIterator[Event]:
        """The records themselves, with key, headers, timestamp and position."""
        run = self._run
        while True:
            for record in run.records:
                self.event = record
                run.batch.savepoint(record)
                try:
                    refuse_too_large(record, self._most)
                except Poison as poison:
                    run.reject(record, poison)
                    continue
                yield record
                if run.is_due():
                    await run.yield_control()
            run.finish()
            await run.wait()


class AgentRun:
    """An agent at work for one task: it is fed a batch, and restarted where a record made it raise."""

    def __init__(self, agent: Agent[Any], batch: Batch, dead_letters: TopicPartition, metrics: Metrics) -> None:
        self.agent, self.batch = agent, batch
        self.records: Iterator[Record] = iter(())
        self._dead_letters, self._metrics = dead_letters, metrics
        self._stream: Stream[Any] = Stream(self, agent.channel.codec, agent.channel.max_message_bytes)
        # The loop's clock and not the machine's: in the simulation it stands still while a batch is under way.
        self._now = asyncio.get_running_loop().time
        self._yield_at = 0.0
        self._fed = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._drive(), name=f"agent {agent.name}")

    async def feed(self, records: Sequence[Record]) -> None:
        """Run the agent over these records; raises what is not the records' fault."""
        if self._task.done():
            self._task.result()
            raise Misdeclared(f"agent {self.agent.name} returned; an agent iterates its stream for ever")
        self.records, self._done = iter(records), asyncio.get_running_loop().create_future()
        self._yield_at = self._now() + YIELD_AFTER_S
        self._fed.set()
        await self._done

    def is_due(self) -> bool:
        """Whether this agent has kept the event loop for YIELD_AFTER_S."""
        return self._now() > self._yield_at

    async def yield_control(self) -> None:
        """Let everything else in the process run once: heartbeats, requests, other tasks."""
        await asyncio.sleep(0)
        self._yield_at = self._now() + YIELD_AFTER_S

    def finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        await self._fed.wait()
        self._fed.clear()

    def reject(self, record: Record, error: BaseException) -> None:
        """Undo what this record did and put it on the dead-letter topic, in the same transaction."""
        self.batch.rollback()
        letter = dead_letter(record, self.agent.name, error)
        self.batch.send(self._dead_letters, letter)
        kind = "poison" if isinstance(error, Poison) else "failed"
        self._metrics.dead_letters.labels(record.topic, kind).inc()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _drive(self) -> None:
        current_view.set(self.batch)
        while True:
            try:
                await self.agent.fun(self._stream)
                error: Exception = Misdeclared(f"agent {self.agent.name} returned instead of iterating its stream")
            except NOT_THE_RECORDS_FAULT as fault:
                error = fault
            except Exception as raised:
                if self.batch.record is not None and self._done is not None and not self._done.done():
                    self.reject(self.batch.record, raised)
                    continue
                error = raised
            if self._done is None or self._done.done():
                raise error
            self._done.set_exception(error)
            return
