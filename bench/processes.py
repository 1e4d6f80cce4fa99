"""process ids -> CPU seconds and memory of them and everything below them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import psutil


class Processes:
    """The processes that one figure is about. What they started counts with them, also after it has ended."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]

    def cpu_s(self) -> float:
        """User and system time so far."""
        total = 0.0
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                total += spent.user + spent.system + spent.children_user + spent.children_system
        return total

    def rss_mb(self) -> float:
        """Resident memory now, in MB of 1,000,000 bytes."""
        total = 0
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def _all(self) -> list[psutil.Process]:
        found = list(self._roots)
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += root.children(recursive=True)
        return found


class Share:
    """How much of one core the processes use from the making of this object to `percent()`."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self._began, self._spent = processes, time.monotonic(), processes.cpu_s()

    def percent(self) -> float:
        return 100 * (self._processes.cpu_s() - self._spent) / (time.monotonic() - self._began)
