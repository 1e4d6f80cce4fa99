"""`as_of` of a request -> a cut of the past, carried to the owner as text -> what to say when nothing stood there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web

from schemas.base import rfc3339
from streams.records import Position
from tables.versions import HOW, AfterRecord, AtTime, AtVersion, Cut, NotKept, Undecided, is_date, read_cut, write_cut
from web import problems, reading
from web.problems import Problem

PARAMETER = "as_of"


def cut_of(request: web.Request, topics: frozenset[str]) -> Cut | None:
    """The moment that the request asks for; None for now. `topics`: those whose positions are moments here."""
    text = reading.one(request, PARAMETER)
    if text is None:
        return None
    cut = _read(text)
    if isinstance(cut, AfterRecord) and cut.position.topic not in topics:
        raise reading.bad(
            PARAMETER,
            f"names topic {cut.position.topic[:64]!r}; positions of {', '.join(sorted(topics))} are moments here.",
        )
    return cut


def time_of(request: web.Request) -> AtTime | None:
    """The same for a list, which is of all partitions: a position or a version is a moment of one alone."""
    text = reading.one(request, PARAMETER)
    if text is None:
        return None
    if not is_date(text):
        raise reading.bad(
            PARAMETER,
            f"must be a time in a list, as 2026-11-21T12:46:34.826Z, not {text[:64]!r}: a position or a version is a"
            " moment of one partition, and a list is of all.",
        )
    cut = _read(text)
    assert isinstance(cut, AtTime), "what begins like a date is read as a time"
    return cut


def _read(text: str) -> Cut:
    try:
        cut = read_cut(text)
    except ValueError as error:
        raise reading.bad(PARAMETER, f"{error}; {HOW}.") from None
    now = rfc3339(time.time_ns() // 1_000_000)
    if isinstance(cut, AtTime) and cut.at > now:
        raise reading.bad(PARAMETER, f"lies ahead: it is {now}. Leave it out for how things stand now.")
    return cut


def carried(cut: Cut | None) -> dict[str, str]:
    """A cut as arguments of a question."""
    return {} if cut is None else {PARAMETER: write_cut(cut)}


def waited_for(request: web.Request, topics: frozenset[str], cut: Cut | None) -> tuple[Position | None, dict[str, str]]:
    """What the owner has to have taken in before it answers, and what it has to be told.

    A record that is a moment must have been taken in: before that nobody knows how things stood after it.
    """
    after = reading.position(request, "min_offset", topics)
    if not isinstance(cut, AfterRecord):
        return after, carried(cut)
    if after is not None:
        raise reading.bad("min_offset", "does not go with a position in `as_of`, which is waited for as well.")
    return cut.position, {**carried(cut), "position_in": PARAMETER}


def cut_in(args: Mapping[str, str]) -> Cut | None:
    """What `carried` wrote."""
    text = args.get(PARAMETER)
    return None if text is None else read_cut(text)


def said_of(cut: Cut) -> str:
    """The moment in words."""
    match cut:
        case AtVersion(version):
            return f"at version {version}"
        case AtTime(at):
            return f"at {at}"
        case AfterRecord(position):
            return f"after {position}"


T = TypeVar("T")


def looked_up(look: Callable[[], T | None], version: int, since: str) -> tuple[T | None, dict[str, Any]]:
    """What stood there, or what the owner says instead. `version`, `since`: of what stands there now."""
    try:
        found = look()
    except Undecided as error:
        return None, {"past": {"undecided": str(error)}}
    except NotKept as error:
        return None, lost(error)
    return found, {} if found is not None else {"past": {"version": version, "since": since}}


def require(told: Mapping[str, Any], what: str, cut: Cut | None) -> None:
    """Raise the Problem that an owner's answer stands for: `what` is there now, and nothing of it at the cut."""
    past = told.get("past")
    if past is None or cut is None:
        return
    if "undecided" in past:
        raise reading.bad(
            PARAMETER,
            f"is on a topic that does not say which versions of {what} came before: records of {past['undecided']} made"
            " them. Its events have one order: give a position there, a version (its timeline has them) or a time.",
        )
    require_kept(told)
    raise not_there(what, cut, past)


def not_there(what: str, cut: Cut, newest: Mapping[str, Any]) -> Problem:
    """It was not there at the cut. `newest`: the `version` that it has now, and `since` when it is there."""
    version, since = newest["version"], newest["since"]
    detail = f"There was no {what} {said_of(cut)}: it is there since {since}, and has had {version} versions until now."
    return Problem(problems.NO_SUCH_PAST, detail, reason="not_there", since=since, newest_version=version)


def moment(
    args: Mapping[str, str], version: int, since: str, told_on: str, made_at: Callable[[int], str]
) -> dict[str, Any]:
    """What the owner says of a version (0: only of the newest): when it came to be, and which topic tells of it."""
    asked = int(args["version"])
    try:
        occurred_at = made_at(asked) if asked else None
    except NotKept as error:
        return lost(error)
    return {"moment": {"version": version, "since": since, "told_on": told_on, "occurred_at": occurred_at}}


def lost(error: NotKept) -> dict[str, Any]:
    """What an owner says whose rows are older than the tables of versions."""
    return {"past": {"not_kept": str(error)}}


def is_lost(told: Mapping[str, Any]) -> bool:
    """Whether rows are older than the tables of versions."""
    return "not_kept" in told.get("past", {})


def require_kept(told: Mapping[str, Any]) -> None:
    """Raise the Problem of an owner whose rows are older than the tables of versions."""
    if is_lost(told):
        which = told["past"]["not_kept"]
        detail = f"How things stood then is not kept: {which} is older than the table of versions. A replay fills it."
        raise Problem(problems.NO_SUCH_PAST, detail, reason="not_kept")
