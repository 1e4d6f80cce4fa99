"""The product's app with something planted in it, named by the environment: what users run, and one thing amiss.

FAULT_BUG=1           an order whose uid begins with planted-bug- raises after its writes and sends
FAULT_SLOW_MS=20      each record is handed out after a wait that other tasks can use
FAULT_CLOCK=1         the wall clock jumps an hour forward and back, every two seconds
FAULT_FILES, FAULT_MEMORY_MB    a limit of the process (file descriptors, address space)
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

JUMPS_S = (0, 3_600, -3_600, 60)


def jump_clocks() -> None:
    """Libraries ask time.time as we do. Monotonic clocks, which timers use, never jump."""
    real, real_ns = time.time, time.time_ns

    def offset() -> int:
        return JUMPS_S[int(time.monotonic() / 2) % len(JUMPS_S)]

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + offset() * 10**9


if files := os.environ.get("FAULT_FILES"):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
if memory := os.environ.get("FAULT_MEMORY_MB"):
    resource.setrlimit(resource.RLIMIT_AS, (int(memory) << 20, int(memory) << 20))
if os.environ.get("FAULT_CLOCK"):
    jump_clocks()

from agents import orders as rules
from app import app
from streams.agent import Stream

decide = rules.decide
values = Stream.__aiter__


def decide_with_a_bug(order: Any, command: Any, *rest: Any, **named: Any) -> Iterator[Any]:
    """The rule's events one by one; the bug strikes when the last of them was remembered and sent."""
    yield from decide(order, command, *rest, **named)
    if command.order_uid.startswith("planted-bug-"):
        raise RuntimeError("a bug that was planted")


async def values_slowly(self: Stream[Any]) -> AsyncIterator[Any]:
    async for value in values(self):
        await asyncio.sleep(int(os.environ["FAULT_SLOW_MS"]) / 1000)
        yield value


if os.environ.get("FAULT_BUG"):
    rules.decide = decide_with_a_bug  # type: ignore[assignment]
if buffer_bytes := os.environ.get("FAULT_BUFFER_BYTES"):
    app._tuning["write_buffer_bytes"] = int(buffer_bytes)
if os.environ.get("FAULT_SLOW_MS"):
    Stream.__aiter__ = values_slowly  # type: ignore[method-assign]
