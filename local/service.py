"""A directory -> one server process with a lock, a log and a health check -> start, stop, kill, pause, resume."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from local.errors import LocalError
from local.lock import Lock
from local.private import make_private
from local.process import Child

# After a kill of its parent, a guard needs this long at most to end what it guards; a new start waits for it.
HANDOVER_S = 30.0
START_TIMEOUT_S = 180.0  # only a hang reaches it: three brokers start beside other work, recovering after a crash


class Service(ABC):
    """What Kafka and PostgreSQL have in common. All calls block; from a coroutine use asyncio.to_thread."""

    name: str

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory, self.log = directory.absolute(), log.absolute()
        self.child: Child | None = None
        self._lock = Lock(self.directory / "lock", self.name)

    @property
    def group(self) -> int | None:
        """The group that the server runs as, where it is another user than the one who starts it."""
        return None

    @abstractmethod
    def launch(self) -> None:
        """Prepare the directory and call spawn. Runs with the lock held."""

    @abstractmethod
    def answers(self, timeout_s: float = 3.0) -> bool:
        """A real request was answered in time."""

    def start(self) -> None:
        """Returns when the server answers. When it does not, raises LocalError and leaves no process behind."""
        self.begin()
        self.finish()

    def begin(self) -> None:
        """Launch without waiting, so that several services can start side by side."""
        make_private(self.directory, self.group)
        self._lock.acquire(HANDOVER_S)
        try:
            self.launch()
        except BaseException:
            self.stop()
            raise

    def finish(self) -> None:
        """Wait for the answer to a real request, then do what only a running server can do."""
        try:
            self._await_answer(START_TIMEOUT_S)
            self.complete()
        except BaseException:
            self.stop()
            raise

    def complete(self) -> None:  # noqa: B027 - most services have nothing to add
        """Called once the server answers."""

    def spawn(self, command: Sequence[str], **options: object) -> None:
        self.child = Child.start(self.name, command, self.log, keep_fds=[self._lock.fileno()], **options)  # type: ignore[arg-type]

    def stop(self) -> None:
        """A clean end: everything is written, so that the next start is quick."""
        if self.child is not None:
            self.child.stop()
        self._forget()

    def kill(self) -> None:
        """kill -9, as a crash; returns when nothing of it is left."""
        if self.child is not None:
            self.child.kill()
        self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the connections stay, the answers do not come."""
        if self.child is not None:
            self.child.pause()

    def resume(self) -> None:
        if self.child is not None:
            self.child.resume()

    def running(self) -> bool:
        return self.child is not None and self.child.running()

    def _forget(self) -> None:
        self.child = None
        self._lock.release()

    def _await_answer(self, timeout_s: float) -> None:
        assert self.child is not None
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if not self.child.running():
                raise LocalError(
                    f"{self.name} ended with code {self.child.exit_code} while starting. The end of {self.log}:\n"
                    f"{self.child.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise LocalError(
                    f"{self.name} did not answer within {timeout_s:.0f} s. The end of {self.log}:\n"
                    f"{self.child.log_tail()}"
                )
            time.sleep(0.1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
