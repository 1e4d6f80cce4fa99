"""a page of each partition -> one page of all, in one order, and the cursor where the next one begins."""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import orjson

from web import as_of, problems
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.problems import Problem


class Row(NamedTuple):
    """A row of a page. `place` orders all rows of the platform, as text; `value` is what callers get, JSON."""

    place: str
    value: bytes


class Page(NamedTuple):
    """What one partition has: every matching row up to and including `frontier`, or all there are when it is None."""

    rows: Sequence[Row]
    frontier: str | None


def merge(pages: Iterable[Page], limit: int) -> tuple[list[Row], str | None]:
    """The first `limit` rows of all partitions together, and the place after which the next page begins.

    A row is safe to show only if no partition can still hold one before it, so nothing beyond the nearest frontier is
    shown. The page may therefore be shorter than `limit` and still not be the last.
    """
    pages = list(pages)
    horizon = min((page.frontier for page in pages if page.frontier is not None), default=None)
    ordered = heapq.merge(*(page.rows for page in pages))
    shown = list(islice((row for row in ordered if horizon is None or row.place <= horizon), limit))
    if len(shown) == limit and (horizon is not None or next(ordered, None) is not None):
        return shown, shown[-1].place
    return shown, horizon


async def search(
    desk: Desk, question: Question, filters: Mapping[str, str], limit: int, after: str | None, limits: Limits
) -> tuple[list[Row], str | None]:
    """Rows until the page is full, there are no more, or looking takes too long; and where the next page begins.

    Every partition is asked at the same time, again and again. Raises NotReadable when one cannot answer.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + limits.page_search_s
    rows: list[Row] = []
    room = limits.page_bytes
    while True:
        share = max(1, room // len(desk.partitions(question.group)))
        args = {**filters, "limit": str(limit - len(rows)), "bytes": str(share)} | ({"after": after} if after else {})
        told = await desk.ask_every(question, args, wait_s=limits.read_wait_s)
        for answer in told:
            as_of.require_kept(answer.meta)
        found, after = merge((page_of(answer) for answer in told), limit - len(rows))
        rows += found
        room -= sum(len(row.value) for row in found)
        if after is None or len(rows) >= limit or room <= 0 or clock() >= until:
            return rows, after


def page_of(answer: Answer) -> Page:
    """What the question for a page answered, as the merge takes it."""
    rows = [Row(place, value) for place, value in zip(answer.meta["places"], answer.parts, strict=True)]
    return Page(rows, answer.meta["frontier"])


def filters_digest(*filters: str | None) -> int:
    """What a cursor remembers of the filters it was made for."""
    return zlib.crc32("\0".join("" if part is None else f"={part}" for part in filters).encode())


def write_cursor(place: str, digest: int) -> str:
    """Opaque to callers, so that its form may change; not a secret."""
    return base64.urlsafe_b64encode(orjson.dumps([place, digest])).rstrip(b"=").decode()


def read_cursor(cursor: str, digest: int) -> str:
    """The place that a cursor names. Raises Problem when it is not ours or belongs to other filters."""
    try:
        raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        place, made_for = orjson.loads(raw)
        if not isinstance(place, str) or not place or len(place) > 256:
            raise ValueError("no place")
    except (ValueError, TypeError, binascii.Error):
        raise Problem(
            problems.BAD_PARAMETER, "`cursor` is not one that this service gave out.", parameter="cursor"
        ) from None
    if made_for != digest:
        raise Problem(
            problems.BAD_PARAMETER,
            "`cursor` was given out for other filters; keep them as they were, or begin without it.",
            parameter="cursor",
        )
    return place
