"""Every line of the table: a group is what runs together, a line is one figure of it against a goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.lines import checkout, growth, hostile, http, latency, offline, restore, sink, throughput
from bench.results import Line
from bench.rounds import Bench


class Group(NamedTuple):
    """Lines that come from the same runs."""

    run: Callable[[Bench], None]
    lines: tuple[Line, ...]


GROUPS: dict[str, Group] = {
    "throughput": Group(throughput.run, throughput.LINES),
    "latency": Group(latency.run, latency.LINES),
    "post": Group(http.run_posts, http.POST_LINES),
    "restore": Group(restore.run, restore.LINES),
    "lookups": Group(http.run_lookups, http.LOOKUP_LINES),
    "busy": Group(http.run_busy, http.BUSY_LINES),
    "sink": Group(sink.run, sink.LINES),
    "growth": Group(growth.run, growth.LINES),
    "checkout": Group(checkout.run, checkout.LINES),
    "hostile": Group(hostile.run, hostile.LINES),
    "offline": Group(offline.run, offline.LINES),
}


def chosen(names: str) -> list[str]:
    """Groups of a comma-separated choice; a line's name stands for its group. Raises ValueError for others."""
    if not names:
        return list(GROUPS)
    groups = {line.name: group for group, (_, lines) in GROUPS.items() for line in lines} | {g: g for g in GROUPS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in groups]:
        raise ValueError(f"there is no line {', '.join(unknown)}; there are {', '.join(GROUPS)} and their lines")
    return list(dict.fromkeys(groups[name] for name in wanted))
