"""Records that an older version wrote, taken by today's code: the same events, dead letters and rows, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.recording import DIRECTORY, as_then, read, replayed


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.jsonl")), ids=lambda path: path.stem)
async def test_what_was_recorded_comes_out_again(path: Path) -> None:
    given, then = read(path)
    now = await replayed(given)
    assert len(given) > 25 and {line.topic for line in then} > {"orders.events.v1", "dead_letters.v1"}
    for before, after in zip(then, now, strict=True):
        before, after = (each._replace(headers=as_then(each.headers)) for each in (before, after))
        assert after == before, f"{before.topic}: what v1 wrote is written in other words now: readers must know both"
