"""work that can be shared out -> tasks at once, and processes of our own beside this one, which end with it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

#: A process takes a second to start, so it should have more to do than that.
RECORDS_FOR_A_PROCESS = 5_000
#: How much of what a process says at its end is worth repeating.
LAST_WORDS = 12
#: The longest line that one says: both sides of a difference.
LINE_BYTES = 64 << 20


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def together(*work: Awaitable[T]) -> list[T]:
    """What each came to; when one fails, none goes on."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Process:
    """`python -m MODULE …`, from `async with` to its end: told of things line by line, and heard in the same way.

    It is to end when its standard input does, so that this process leaves nothing at work when it is killed.
    """

    def __init__(self, module: str, *arguments: str, rooms: Path | None = None, path: str) -> None:
        """`rooms`: the directory whose modules come first; `path`: where it finds all others."""
        self._called = (sys.executable, "-m", module, *arguments)
        self._rooms, self._path = rooms, path
        self._process: asyncio.subprocess.Process
        self._words: asyncio.Future[bytes]

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._called,
            cwd=self._rooms,
            env=os.environ | {"PYTHONPATH": self._path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=LINE_BYTES,
        )
        assert self._process.stderr is not None, "it was asked for"
        self._words = asyncio.ensure_future(self._process.stderr.read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._words

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None, "it was asked for"
        self._process.stdin.write(f"{line}\n".encode())

    async def lines(self) -> AsyncIterator[str]:
        """What it says, to its end."""
        assert self._process.stdout is not None, "it was asked for"
        async for line in self._process.stdout:
            yield line.decode(errors="replace").strip()

    async def last_words(self) -> str | None:
        """Wait for its end: what it said at last when it failed, None when it did not."""
        if not await self._process.wait():
            return None
        return "\n".join((await self._words).decode(errors="replace").strip().splitlines()[-LAST_WORDS:])
