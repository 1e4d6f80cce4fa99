"""how far the tasks have come -> when they rest, what a burst has left on the heap -> back to the operating system.

glibc keeps what is freed for the next allocation. After 300,000 orders in one go a worker holds 450 MB, of which it
uses 270; nothing would ever give the rest back.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable


def _trim() -> None:
    """glibc's malloc_trim(3); other C libraries have none, or give memory back by themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Heap:
    """Looked at twice a second. Trims once after each burst: while work goes on, the memory is about to be used.

    Trimmed in its midst, every allocation would fetch its pages from the system again.
    """

    def __init__(self, trim: Callable[[], None] = _trim) -> None:
        self._trim = trim
        self._before = self._trimmed_at = 0

    async def look(self, progress: int, pressed: bool) -> None:
        """`progress`: any number that changes whenever something was worked on. `pressed`: more of it waits.

        Both are asked: full batches may take longer than from one look to the next, and commit all at once.
        """
        resting, self._before = progress == self._before and not pressed, progress
        if resting and progress != self._trimmed_at:
            self._trimmed_at = progress
            await asyncio.to_thread(self._trim)  # without Python's lock, and without the event loop


def calm_collector() -> None:
    """Thousands of live records make CPython's collector scan all day for cycles that are not there: 42,000 to 52,000
    orders/s came from this alone. What exists now is set aside, and the youngest generation is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
