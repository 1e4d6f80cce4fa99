"""coroutines -> run in virtual time, one step after the other; a process can end or freeze between any two of them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T")

#: More steps than any honest history takes: something runs in a circle.
MOST_STEPS = 400_000


class Crashed(BaseException):
    """The process died in the middle of a step. No `except Exception` may catch it."""


class Stuck(Exception):
    """The history came to no end: nothing is left to run, or too much was run."""


class Life(Enum):
    """How a process is."""

    ALIVE = 1
    FROZEN = 2
    DEAD = 3


class Step:
    """A callback that waits for its turn: asyncio's Handle, as far as asyncio looks at it, at half the cost."""

    __slots__ = ("args", "callback", "context", "gone")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self.callback, self.args, self.gone = callback, args, False
        self.context = copy_context() if context is None else context

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone


class Process:
    """What dies and freezes as one: every step that was begun in its context belongs to it."""

    def __init__(self, name: str) -> None:
        self.name, self.life = name, Life.ALIVE
        self.held: list[Step] = []
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)

    def kill(self) -> None:
        """As SIGKILL: not one further step is run."""
        self.life = Life.DEAD
        self.held.clear()

    @property
    def alive(self) -> bool:
        return self.life is Life.ALIVE


#: Whose step this is; None for brokers, networks and clients outside of the workers.
PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)
#: The context of what no worker's death can stop: requests on their way, for instance.
NOWHERE = Context()


class SimLoop(asyncio.AbstractEventLoop):
    """An event loop without clock, threads or sockets. Steps run in the order they were asked for."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, 0
        self._ready: deque[Step] = deque()
        self._timers: list[tuple[float, int, Step]] = []
        self._number = 0
        self.errors: list[str] = []
        # Kept: the tasks of a dead process must not be finalised, which would run a part of their code after all.
        self._tasks: list[asyncio.Task[Any]] = []

    # -- what asyncio asks for ----------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Step:
        step = Step(callback, args, context)
        self._ready.append(step)
        return step

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Step:
        step = Step(callback, args, context)
        self._number += 1
        heappush(self._timers, (when, self._number, step))
        return step

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Step:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Errors that nobody fetched: whoever gave up waiting has said so. Background tasks are watched elsewhere."""

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` has ended. Raises Stuck when it cannot, or takes too many steps."""
        events._set_running_loop(self)
        try:
            future = self.create_task(main)
            self._run_until_done(future)
            return future.result()
        finally:
            events._set_running_loop(None)
            self._dispose()

    def _dispose(self) -> None:
        """End whatever still stands, here and now instead of in some later garbage collection."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that nobody will await any more
            self._close_all()
        self._tasks.clear()

    def _close_all(self) -> None:
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro = task.get_coro()
            while not task.done() and isinstance(coro, Coroutine) and inspect.getcoroutinestate(coro) != "CORO_CLOSED":
                with contextlib.suppress(BaseException):  # it may await in its `finally`: then it is closed once more
                    coro.close()

    def _run_until_done(self, future: asyncio.Task[Any]) -> None:
        ready, timers, alive = self._ready, self._timers, Life.ALIVE
        while not future.done():
            if ready:
                step = ready.popleft()
            elif timers:
                when, _, step = heappop(timers)
                if when > self.now:
                    self.now = when
            else:
                raise Stuck("nothing is left to run")
            if step.gone:
                continue
            process = step.context.get(PROCESS)
            if process is not None and process.life is not alive:
                if process.life is Life.FROZEN:
                    process.held.append(step)
                continue
            self.steps += 1
            try:
                step.context.run(step.callback, *step.args)
            except Exception as error:
                self.errors.append(f"{step.callback!r}: {error!r}")
            if self.steps > MOST_STEPS:
                raise Stuck(f"{MOST_STEPS} steps, and no end")

    def freeze(self, process: Process) -> None:
        """As SIGSTOP: time goes on without it."""
        if process.life is Life.ALIVE:
            process.life = Life.FROZEN

    def thaw(self, process: Process) -> None:
        """As SIGCONT: all that was due meanwhile is run at once."""
        if process.life is Life.FROZEN:
            process.life = Life.ALIVE
            self._ready.extend(process.held)
            process.held.clear()
