"""a player of histories -> as many as asked for, from the command line: what the `python -m` of each domain's does."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable
from typing import Protocol


class Play(Protocol):
    """Plays the histories of one seed together, and says what was seen."""

    def __call__(self, seed: int, *, replay: bool) -> Awaitable[Counter[str]]: ...


def main(play: Play, together: int, arguments: list[str]) -> int:
    """Every tenth log is folded again from its beginning. The exit code is 1 when a history did not hold."""
    count = int(arguments[0]) if arguments else 10_000
    seen: Counter[str] = Counter()
    for seed in range(-(-count // together)):
        try:
            seen += asyncio.run(_one(play, seed))
        except AssertionError as error:
            print(f"seed {seed}: {error}", file=sys.stderr)
            return 1
    print(f"{count} histories held: {dict(seen.most_common())}")
    return 0


async def _one(play: Play, seed: int) -> Counter[str]:
    return await play(seed, replay=seed % 10 == 0)
