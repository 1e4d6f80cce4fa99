"""something that comes true by and by -> the moment when it has, or a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"it did not come true within {timeout_s:g} s"
        await asyncio.sleep(0.01)
