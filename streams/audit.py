"""a worker's own tables, slice by slice -> held against their changelogs while work goes on -> metrics, and an error.

A slice is a share of the keys of one table's partition, so small that all of it fits in memory. Its rows are read
first, then the changelog from its beginning to an end that is surveyed afterwards. What a record from the position at
which the reading began says of a key takes that key out: it changed meanwhile. All others must be equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple
from zlib import crc32

from streams.clock import Clock
from streams.errors import StoreUnavailable
from streams.log import Log
from streams.metrics import Metrics
from streams.records import TopicPartition
from streams.store import IDENTITY
from streams.table import prefix_bounds
from streams.task import Task, TaskState

log = logging.getLogger(__name__)

#: Keys of one slice, at most: some 200 bytes of memory each.
MOST_KEYS = 50_000
#: Rows that are read before others have their turn: two milliseconds.
PIECE = 1_000
#: Of one processor, while a slice is looked at.
SHARE = 0.05
#: A worker with records waiting has better things to do.
PRESSED_S = 1.0


class Slice(NamedTuple):
    """The keys of a table's partition whose checksum leaves `share` when it is divided by `shares`."""

    task: str
    table: str
    share: int = 0
    shares: int = 1

    def holds(self, key: bytes) -> bool:
        return self.shares == 1 or crc32(key) % self.shares == self.share


class Finding(NamedTuple):
    """A row that is not what its changelog says; `written_at` is where that stands, None where nothing does."""

    key: bytes
    stored: bool
    written_at: int | None


class Left(Exception):
    """The task went elsewhere, or its store is closed."""


class Audit:
    """Goes through all slices of the tasks that run here, again and again."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        metrics: Metrics,
        clock: Clock,
        pressed: Callable[[], bool] = lambda: False,
        share: float = SHARE,
    ) -> None:
        self._tasks, self._metrics, self._clock, self._pressed, self._share = tasks, metrics, clock, pressed, share
        self._to_do: list[Slice] = []
        metrics.audit_whole_pass.set(clock.now_ms() / 1000)

    async def keep_on(self, log_: Callable[[], Log | None], every_s: float) -> None:
        """A slice now and then, for ever. What goes wrong with one is said, and the next one has its turn."""
        while True:
            await asyncio.sleep(every_s)
            reader = log_()
            if reader is None:
                continue
            try:
                await self.step(reader)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("a slice could not be audited: %s: %s", type(error).__name__, error)

    async def step(self, log_: Log) -> Finding | None:
        """Look at the next slice; gives its first difference. After the last one a whole pass is done."""
        if not self._to_do:
            self._to_do = [
                Slice(name, table) for name, task in self._tasks.items() if _runs(task) for table in task.group.tables
            ][::-1]
        if not self._to_do:
            return None
        slice_ = self._to_do.pop()
        task = self._tasks.get(slice_.task)
        found = None
        if task is not None and _runs(task):
            with contextlib.suppress(Left, StoreUnavailable):  # whoever has it now looks at it
                found = await self._look(log_, task, slice_)
        if not self._to_do:
            self._metrics.audit_whole_pass.set(self._clock.now_ms() / 1000)
        return found

    async def _look(self, log_: Log, task: Task, slice_: Slice) -> Finding | None:
        changelog = task.group.changelogs(task.partition)[slice_.table]
        if slice_.shares == 1:
            extent = (await log_.survey([changelog]))[changelog]
            count = 1 + (extent.end - (extent.first.offset if extent.first else extent.end)) // MOST_KEYS
            if count > 1:
                parts = [slice_._replace(share=number, shares=count) for number in range(count)]
                self._to_do += parts[:0:-1]
                slice_ = parts[0]
        began_at = task.store.position(slice_.table)
        stored = await self._stored(task, slice_)
        finding = await self._compared(log_, changelog, slice_, stored, began_at)
        if not _runs(task):
            raise Left  # rows of a store that was let go of say nothing
        self._metrics.audit_slices.inc()
        if finding is not None:
            self._metrics.audit_differences.inc()
            _tell(task, slice_, changelog, finding)
        return finding

    async def _stored(self, task: Task, slice_: Slice) -> dict[bytes, bytes]:
        """A digest of each row. No iterator stays open in between: a store that is let go of must be free at once."""
        start, end = prefix_bounds(b"")
        found: dict[bytes, bytes] = {}
        async for _ in self._turns():
            if not _runs(task):
                raise Left
            rows = list(islice(task.store.range(slice_.table, start, end, reverse=False), PIECE))
            found.update((key, _digest(value)) for key, value in rows if slice_.holds(key))
            if len(rows) < PIECE:
                break
            start = rows[-1][0] + b"\0"
        return found

    async def _compared(
        self, log_: Log, changelog: TopicPartition, slice_: Slice, stored: dict[bytes, bytes], began_at: int
    ) -> Finding | None:
        end = (await log_.survey([changelog]))[changelog].end
        written: dict[bytes, tuple[bytes, int]] = {}
        moved: set[bytes] = set()
        turns = self._turns()
        async for _, records, _ in log_.read({changelog: 0}, {changelog: end}):
            for first in range(0, len(records), PIECE):
                await anext(turns)
                for record in records[first : first + PIECE]:
                    key, value = record.key, record.value
                    if key is None or key == IDENTITY or not slice_.holds(key):
                        continue
                    if record.offset >= began_at:
                        moved.add(key)
                    elif value is None:
                        written.pop(key, None)
                    else:
                        written[key] = _digest(value), record.offset
        nothing = (None, None)
        different = (key for key in stored.keys() | written.keys() if stored.get(key) != written.get(key, nothing)[0])
        key = min((key for key in different if key not in moved), default=None)
        return None if key is None else Finding(key, key in stored, written.get(key, nothing)[1])

    async def _turns(self) -> AsyncIterator[None]:
        """Between two of them rests whatever leaves the work at its share of a processor."""
        while True:
            began = time.perf_counter()
            yield
            await asyncio.sleep((time.perf_counter() - began) * (1 / self._share - 1))
            if self._pressed():
                await asyncio.sleep(PRESSED_S)


def _runs(task: Task) -> bool:
    return task.state is TaskState.RUNNING


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()


def _tell(task: Task, slice_: Slice, changelog: TopicPartition, finding: Finding) -> None:
    topic = f"{changelog.topic}-{changelog.partition}"
    written = "nothing" if finding.written_at is None else f"{topic}-{finding.written_at}"
    log.error(
        "audit: table %s, partition %d, key %r: this worker has %s, the changelog has %s. `faust -A app verify --part"
        " %s` says which of them is not what the log leads to; a store that is wrong is built anew when it is removed"
        " while its worker is stopped",
        slice_.table,
        task.partition,
        finding.key,
        "another row"
        if finding.stored and finding.written_at is not None
        else "a row"
        if finding.stored
        else "nothing",
        written,
        slice_.task,
    )
