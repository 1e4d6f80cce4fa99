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
from streams.records import Event, Record, TopicPartition
from streams.topic import Topic

T = TypeVar("T")

#: The machine's fault, not the record's: the batch is dropped and tried again, nothing is dead-lettered.
NOT_THE_RECORDS_FAULT = (StoreDamaged, StoreUnavailable, LogMismatch, MemoryError)


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

    def __init__(self, run: AgentRun, codec: Codec[T]) -> None:
        self._run, self._codec = run, codec
        self.event: Event = None  # type: ignore[assignment]  # set before the first value is handed out

    async def __aiter__(self) -> AsyncIterator[T]:
        run, decode = self._run, self._codec.decode
        while True:
            for record in run.records:
                self.event = record
                run.batch.savepoint(record)
                try:
                    if record.value is None:
                        raise Poison([FaultAt("$", "the record has no value")], "null_value")
                    value = decode(record.value)
                except Poison as poison:
                    run.reject(record, poison)
                    continue
                yield value
            run.finish()
            await run.wait()

    async def events(self) -> AsyncIterator[Event]:
        """The records themselves, with key, headers, timestamp and position."""
        run = self._run
        while True:
            for record in run.records:
                self.event = record
                run.batch.savepoint(record)
                yield record
            run.finish()
            await run.wait()


class AgentRun:
    """An agent at work for one task: it is fed a batch, and restarted where a record made it raise."""

    def __init__(self, agent: Agent[Any], batch: Batch, dead_letters: TopicPartition, metrics: Metrics) -> None:
        self.agent, self.batch = agent, batch
        self.records: Iterator[Record] = iter(())
        self._dead_letters, self._metrics = dead_letters, metrics
        self._stream: Stream[Any] = Stream(self, agent.channel.codec)
        self._fed = asyncio.Event()
        self._done: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._drive(), name=f"agent {agent.name}")

    async def feed(self, records: Sequence[Record]) -> None:
        """Run the agent over these records; raises what is not the records' fault."""
        if self._task.done():
            self._task.result()
            raise Misdeclared(f"agent {self.agent.name} returned; an agent iterates its stream for ever")
        self.records, self._done = iter(records), asyncio.get_running_loop().create_future()
        self._fed.set()
        await self._done

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
