"""a page of each partition -> one page of all, in one order, and the cursor where the next one begins."""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
import hmac
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import orjson

from web import as_of, problems
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.problems import Problem

#: Of the MAC in a cursor.
MAC_BYTES = 16


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


def write_cursor(place: str, digest: int, keys: Sequence[bytes]) -> str:
    """A cursor under the first key: opaque to callers, so that its form may change; not a secret."""
    content = orjson.dumps([place, digest])
    return base64.urlsafe_b64encode(_mac(keys[0], content) + content).rstrip(b"=").decode()


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(hmac.digest(key, b"orderstream cursors", "sha256"), content, "sha256")[:MAC_BYTES]


def read_cursor(cursor: str, digest: int, keys: Sequence[bytes]) -> str:
    """The place that a cursor names. Raises Problem when no key of ours made it, or for other filters."""
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    mac, content = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(key, content)) for key in keys):
        raise Problem(
            problems.BAD_PARAMETER, "`cursor` is not one that this service gave out.", parameter="cursor"
        ) from None
    place: str
    place, made_for = orjson.loads(content)
    if made_for != digest:
        raise Problem(
            problems.BAD_PARAMETER,
            "`cursor` was given out for other filters; keep them as they were, or begin without it.",
            parameter="cursor",
        )
    return place
