"""the versions of something, each with its moment and its cause -> which of them stood at a cut.

A cut is what `as_of` asks for. Versions are made one after the other by one task, so whatever the cut, the answer is
one number: all versions up to it, and none after it. Three kinds, because three things are known of a moment:

- a version: this one;
- a time: the versions before the first one that is dated later. A version that is dated earlier than one before it (a
  producer's clock, a deadline that fell due while nobody worked) does not come before that one all the same;
- a record: what its task had made when it had taken that record in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple

from schemas.base import utc
from streams import Position


class AtVersion(NamedTuple):
    """As it was when it had this version."""

    version: int


class AtTime(NamedTuple):
    """As it was at this moment, versions of this very millisecond included: RFC 3339 as `rfc3339` writes it."""

    at: str


class AfterRecord(NamedTuple):
    """As it was when the record at this position had been taken in."""

    position: Position


Cut = AtVersion | AtTime | AfterRecord

HOW = "write a time (2026-11-21T12:46:34.826Z), a version (3) or a position (orders.events.v1-2-1234)"
#: Versions take ten digits in keys.
_DIGITS = 10


def is_date(text: str) -> bool:
    """Whether this begins like a date; a topic could be named so, but none of ours is."""
    return text[:4].isdigit() and text[4:5] == text[7:8] == "-"


def read_cut(text: str) -> Cut:
    """A moment as people write it. Raises ValueError that says what is wrong with it."""
    if is_date(text):
        return AtTime(utc(text))
    if text.isascii() and text.isdigit():
        if len(text) > _DIGITS or int(text) == 0:
            raise ValueError(f"must be a version from 1 on, not {text[:32]!r}")
        return AtVersion(int(text))
    try:
        return AfterRecord(Position.parse(text))
    except ValueError:
        raise ValueError(f"is no moment: {text[:64]!r}") from None


def write_cut(cut: Cut) -> str:
    """What `read_cut` reads."""
    match cut:
        case AtVersion(version):
            return str(version)
        case AtTime(at):
            return at
        case AfterRecord(position):
            return str(position)


class Mark(NamedTuple):
    """What is known of a version: `latest_at`, the latest moment of it and of those before, and what caused it.

    Moments of versions need not ascend; the latest one does.
    """

    latest_at: str
    cause: Position


class Undecided(Exception):
    """The position does not say which versions came before it: topics have no order among each other. Names theirs."""


class NotKept(Exception):
    """A version was made before versions were kept; a replay (`reset`) keeps them all."""


def version_at(newest: int, mark: Callable[[int], Mark], cut: Cut) -> int:
    """The version that stood at the cut; 0 when there was none yet. Looks at a logarithm of all.

    `newest`: how many there are. All of them must have been caused by one topic. Raises Undecided.
    """
    versions = range(1, newest + 1)
    match cut:
        case AtVersion(version):
            return version if version <= newest else 0
        case AtTime(at):
            return bisect_right(versions, at, key=lambda version: mark(version).latest_at)
        case AfterRecord(position):
            if mark(newest).cause[:2] != position[:2]:
                raise Undecided(mark(newest).cause.topic)
            return bisect_right(versions, position.offset, key=lambda version: mark(version).cause.offset)


def version_among(marks: list[Mark], cut: Cut) -> int:
    """The same where several topics cause versions, of which there are few. Raises Undecided."""
    if not isinstance(cut, AfterRecord):
        return version_at(len(marks), lambda version: marks[version - 1], cut)
    said = [(number, mark.cause.offset) for number, mark in enumerate(marks, 1) if mark.cause[:2] == cut.position[:2]]
    before = max((number for number, offset in said if offset <= cut.position.offset), default=0)
    after = min((number for number, offset in said if offset > cut.position.offset), default=len(marks) + 1)
    if after - before > 1:  # what another topic caused there may have come before this record or after it
        raise Undecided(" and ".join(sorted({mark.cause.topic for mark in marks})))
    return before


def marks_of(moments: Iterable[tuple[str, Position]]) -> list[Mark]:
    """Marks of all versions in their order, each given as when it occurred and what caused it."""
    marks: list[Mark] = []
    for occurred_at, cause in moments:
        marks.append(Mark(max(occurred_at, marks[-1].latest_at) if marks else occurred_at, cause))
    return marks
