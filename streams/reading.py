"""a key -> its partition's owner, and committed state to read from when that is this worker."""

from __future__ import annotations

import asyncio
import time
from contextvars import Token
from typing import TYPE_CHECKING, NamedTuple

from streams.batch import View, current_view
from streams.errors import NotOwner, NotReadable
from streams.partitioner import partition_for
from streams.records import Position
from streams.topology import task_name

if TYPE_CHECKING:
    from types import TracebackType

    from streams.engine import Engine

#: A read that waits for a rebalance looks up this often.
LOOK_EVERY_S = 0.02


class Owner(NamedTuple):
    """Who answers for a partition: `url` of the worker, `local` when it is this one."""

    partition: int
    url: str
    local: bool


class Routing:
    """The owner lookup. It is as old as the last assignment: a worker that is asked in vain answers 503, not 404."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def owner(self, group: str, key: str | bytes) -> Owner:
        """Raises NotReadable while nobody is known to own the key's partition."""
        raw = key.encode() if isinstance(key, str) else key
        return self._of(group, partition_for(raw, self._engine.groups[group].partitions))

    def owners(self, group: str) -> list[Owner]:
        return [self._of(group, partition) for partition in range(self._engine.groups[group].partitions)]

    def _of(self, group: str, partition: int) -> Owner:
        url = self._engine.routes.get(task_name(group, partition))
        if url is None:
            raise NotReadable("this worker has not joined the group yet, or nobody owns the partition")
        return Owner(partition, url, url == self._engine.url)


class Reading:
    """`async with app.reading(...)`: committed reads of one partition, or NotOwner / NotReadable on entry.

    Waits, at most `timeout_s`, for a rebalance or a restore to end and for `min_position` to be committed.
    """

    def __init__(
        self, engine: Engine, group: str, partition: int, min_position: Position | None, timeout_s: float
    ) -> None:
        self._engine, self._group, self._partition = engine, group, partition
        self._min_position, self._deadline = min_position, time.monotonic() + timeout_s
        self._token: Token[View | None]

    async def __aenter__(self) -> None:
        while True:
            try:
                view = await self._attempt()
                break
            except NotOwner:
                self._engine.metrics.reads.labels("elsewhere").inc()
                raise
            except NotReadable:
                if self._engine.should_stop or time.monotonic() >= self._deadline:
                    self._engine.metrics.reads.labels("not_readable").inc()
                    raise
            await asyncio.sleep(LOOK_EVERY_S)
        self._engine.metrics.reads.labels("answered").inc()
        self._token = current_view.set(view)

    async def _attempt(self) -> View:
        task = self._engine.readable_task(self._group, self._partition)
        view = task.view()
        if self._min_position is not None:
            await task.reached(self._min_position, max(0.0, self._deadline - time.monotonic()))
            # The wait may have outlived the task: what is answered must still be the owner's state.
            return self._engine.readable_task(self._group, self._partition).view()
        return view

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        current_view.reset(self._token)
