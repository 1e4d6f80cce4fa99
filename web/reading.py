"""query and headers of a request -> checked values, or a problem that names the parameter."""

from __future__ import annotations

import re

from aiohttp import web

from streams.records import Position
from web import problems
from web.problems import Problem


def bad(name: str, detail: str) -> Problem:
    return Problem(problems.BAD_PARAMETER, f"`{name}` {detail}", parameter=name)


def one(request: web.Request, name: str) -> str | None:
    """A query parameter that may be given once; an empty one counts as not given."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise bad(name, "is given more than once.")
    return values[0] or None if values else None


def only(request: web.Request, *names: str) -> None:
    """Refuse parameters that nobody reads: a misspelt filter must not answer with everything."""
    unknown = sorted(set(request.query) - set(names))
    if unknown:
        known = f"known here: {', '.join(names)}" if names else "this address takes none"
        raise bad(unknown[0][:64], f"is not a parameter; {known}.")


def whole(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most`."""
    text = one(request, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise bad(name, f"must be a whole number from 1 to {most}, not {text[:32]!r}.")
    return int(text)


def choice(request: web.Request, name: str, choices: tuple[str, ...]) -> str | None:
    text = one(request, name)
    if text is not None and text not in choices:
        raise bad(name, f"must be one of {', '.join(choices)}, not {text[:32]!r}.")
    return text


def position(request: web.Request, name: str, topics: frozenset[str]) -> Position | None:
    """A position in a topic whose records this state is made from."""
    text = one(request, name)
    if text is None:
        return None
    try:
        read = Position.parse(text)
    except ValueError as error:
        raise bad(name, f"is {error}.") from None
    if read.topic not in topics:
        raise bad(name, f"names topic {read.topic[:64]!r}; positions of {', '.join(sorted(topics))} can be waited for.")
    return read


_STRONG_TAG = re.compile(r'"([1-9][0-9]{0,14})(?:-(?:opened|erased))?"')
#: No resource has this version: what no tag of ours can be never matches.
NEVER = 0


def if_match(request: web.Request) -> int | None:
    """The version that a write is for: If-Match by strong comparison (RFC 9110 §13.1.1). None: any.

    A command carries one version, so that several tags are refused (400) rather than narrowed to one of them.
    """
    given = request.headers.getall("If-Match", [])
    if not given:
        return None
    text = ", ".join(given).strip()
    if text == "*":
        return None  # any version: that there is none is answered 404
    if "," in text or len(given) > 1:
        raise bad("If-Match", "must be one entity tag here, as the ETag of the resource.")
    if not re.fullmatch(r'(W/)?"[!#-~\x80-\xff]*"', text):
        raise bad("If-Match", f'must be an entity tag in quotes, as "3", not {text[:32]!a}.')
    tag = _STRONG_TAG.fullmatch(text)
    return int(tag[1]) if tag else NEVER


def matches_etag(request: web.Request, etag: str) -> bool:
    """If-None-Match, by weak comparison (RFC 9110 §13.1.2)."""
    asked = request.headers.get("If-None-Match")
    if asked is None:
        return False
    if asked.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == etag for candidate in asked.split(","))
