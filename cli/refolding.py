"""tasks to be replayed -> their pasts read, folded by processes of their own and written -> what was done.

One task after the other goes through three stages, so that reading, folding and writing go on at the same time; a task
whose stage is done has its files removed, so the disk holds a few pasts, and not all.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli.bases import Base
from cli.console import Found, Operator
from cli.folding import TASKS_AT_ONCE, folding_process
from cli.processes import RECORDS_FOR_A_PROCESS, Process, processors, together
from streams import faults
from streams.clock import SystemClock
from streams.errors import Fenced, StoreDamaged, StoreUnavailable
from streams.folding import DONE, Plan, folded_store
from streams.journal import REPORTED
from streams.kafka import KafkaLog, onlooker
from streams.log import Transactions
from streams.past import past_of
from streams.producer import PlainProducer
from streams.replay import TRANSACTION_MS, Done, Job, NotWhole, Rebuild, Span, Target, find_span, name_of, unfinished
from streams.reset import require_no_members, stores_of
from streams.settings import EngineSettings
from streams.spool import read_sent, spool
from streams.store import Memory, RocksStore
from streams.topology import parse_task_name, transactional_id

#: Told with the records that were read, or folded, since it was told last.
Moved = Callable[[int], Any]


@dataclass(frozen=True)
class Outcome:
    """What a run came to: what was done, by task, and why some were left as they are."""

    run: str
    continued: tuple[str, ...]
    done: dict[str, Done]
    left: dict[str, str]


async def find_spans(operator: Operator, targets: Sequence[Target], base: Base | None) -> list[Span]:
    """The pasts of these tasks; those that have never begun are left out. Raises LogMismatch."""
    settings = operator.app.engine_settings()
    async with onlooker(settings) as consumer:
        return await _spans(KafkaLog(settings, consumer), targets, base)


async def carry_out(
    operator: Operator,
    targets: Sequence[Target],
    job: Job,
    base: Base | None,
    plan: Plan,
    folder: Path,
    moved: Moved,
) -> Outcome:
    """The whole of it. Raises WorkersRunning before anything is touched; and LogMismatch, Found.

    1. Fence every task. 2. Find out how far it has come: now nobody moves it. 3. Read, fold and write, task by task.
    """
    settings = replace(operator.app.engine_settings(), transaction_timeout_ms=TRANSACTION_MS)
    await require_no_members(settings)
    producers = dict[str, Transactions]()
    async with onlooker(settings) as consumer:
        log = KafkaLog(settings, consumer)
        try:
            for name in map(name_of, targets):
                producers[name] = log.transactions(transactional_id(settings.app_id, name))
            await each_of(producers.values(), lambda producer: producer.start())
            faults.point("replay_fenced")
            spans = await _spans(log, targets, base)
            run, did = unfinished(spans, job) or (uuid.uuid4().hex, {})
            todo = [span for span in spans if span.name not in did]
            plan.write(folder)
            line = _Line(settings, log, producers, run, job, base, plan, folder, moved)
            await line.run(todo)
            return Outcome(run, tuple(sorted(did)), did | line.done, line.left)
        finally:
            await each_of(producers.values(), lambda producer: producer.stop())


async def mark_reported(operator: Operator, outcome: Outcome) -> None:
    """Whoever asked has been told: the next replay of the same is another one."""
    if outcome.done:
        name, partition = parse_task_name(min(outcome.done))
        journal = operator.app.groups[name].journal(partition)
        async with PlainProducer(operator.app.engine_settings()) as producer:
            await producer.send(journal.topic, journal.partition, REPORTED, outcome.run.encode(), ())


async def _spans(log: KafkaLog, targets: Sequence[Target], base: Base | None) -> list[Span]:
    cursors = {} if base is None else base.cursors
    found = await each_of(targets, lambda target: find_span(log, target[0], target[1], cursors.get(name_of(target))))
    return [span for span in found if span is not None]


async def each_of(items: Any, work: Callable[[Any], Any]) -> list[Any]:
    """A few at a time; when one fails, none goes on."""
    turns = asyncio.Semaphore(TASKS_AT_ONCE)

    async def one(item: Any) -> Any:
        async with turns:
            return await work(item)

    return await together(*map(one, items))


async def fold_by(process: Process, task: str, moved: Moved) -> None:
    """Have the task folded. Raises Found with the process's last words when it ends before that is done."""
    process.tell(task)
    async for line in process.lines():
        if line.isdigit():
            moved(int(line))
        elif line == f"{DONE} {task}":
            return
    raise Found(f"{task} could not be folded:\n{await process.last_words()}")


class _Line:
    """The three stages, and what they came to."""

    def __init__(
        self,
        settings: EngineSettings,
        log: KafkaLog,
        producers: dict[str, Transactions],
        run: str,
        job: Job,
        base: Base | None,
        plan: Plan,
        folder: Path,
        moved: Moved,
    ) -> None:
        self.done: dict[str, Done] = {}
        self.left: dict[str, str] = {}
        self._settings, self._log, self._producers, self._run, self._job = settings, log, producers, run, job
        self._base = base
        self._plan, self._folder, self._moved = plan, folder, moved
        self._memory = Memory(settings.block_cache_bytes, settings.write_buffer_bytes)
        self._folders: asyncio.Queue[Process] = asyncio.Queue()
        self._writing = asyncio.Lock()

    async def run(self, spans: Sequence[Span]) -> None:
        """The largest first, so that none of them is left over when the others are done."""
        records = sum(span.records for span in spans)
        async with AsyncExitStack() as stack:
            for _ in range(min(processors(), len(spans), 1 + records // RECORDS_FOR_A_PROCESS)):
                process = folding_process("replay", self._folder)
                self._folders.put_nowait(await stack.enter_async_context(process))
            await each_of(sorted(spans, key=lambda span: -span.records), self._one)

    async def _one(self, span: Span) -> None:
        task = self._folder / span.name
        if self._base is not None and span.since is not None:
            self._base.give_rows(span.group, span.partition, task)
        await spool(past_of(self._log, span.group, span.partition, span.until, span.since), task, self._moved)
        faults.point("replay_read")
        process = await self._folders.get()
        try:
            await fold_by(process, span.name, self._moved)
        finally:
            self._folders.put_nowait(process)
        faults.point("replay_folded")
        task.with_suffix(".acts").unlink()
        async with self._writing:
            await self._write(span)

    async def _write(self, span: Span) -> None:
        self._remove_stores(span)
        folded = folded_store(self._folder, span.group, span.partition, self._memory)
        scratch = self._folder / f"before-{span.name}"
        rebuild = Rebuild(self._log, span, self._run, self._job, SystemClock())
        try:
            self.done[span.name] = await rebuild.carry_out(
                self._producers[span.name],
                folded,
                lambda: RocksStore(scratch, span.group.tables, self._memory),
                read_sent(self._folder / span.name),
            )
        except (Fenced, NotWhole) as error:
            self.left[span.name] = str(error)
        finally:
            folded.close()
            shutil.rmtree(folded.path, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)

    def _remove_stores(self, span: Span) -> None:
        """They are copies of the changelogs, which the next start makes again; one that is in use stays."""
        for path in stores_of(self._settings, [span.name]):
            try:
                RocksStore(path, span.group.tables, self._memory).close()
            except StoreUnavailable:
                continue
            except StoreDamaged:
                pass  # all the more
            shutil.rmtree(path)
        faults.point("replay_cleared")
