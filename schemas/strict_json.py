"""bytes -> a JSON tree and every fault that makes readers of JSON disagree, each with its path.

This is the slow and thorough reading, taken only when something looks wrong. RFC 8259 leaves names given twice,
numbers out of range and lone surrogates to each reader; PostgreSQL refuses NUL. One document must mean one thing to
all of them, so all of these are faults.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from json import JSONDecodeError, JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # public since Python 2, missing in typeshed
from math import isinf
from typing import Any

from schemas.base import MAX_FAULTS, Fault

#: Objects and arrays within each other. Readers recurse: some end at 128, and nobody's order is this deep.
MAX_DEPTH = 64
#: What every reader can hold in an integer: from -2^63 to 2^64 - 1.
MIN_INT, MAX_INT = -(2**63), 2**64 - 1

#: How the message of a repeated name begins.
REPEATED_NAME = "is given more than once"

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WHITE = re.compile(r"[ \t\n\r]*")
_MAX_NAME = 100


class Bad:
    """Stands in the tree where a value could not be read; `message` says why."""

    def __init__(self, message: str) -> None:
        self.message = message


class Members(dict[str, Any]):
    """A JSON object that remembers which names were given more than once."""

    repeated: tuple[str, ...] = ()


def _members(pairs: list[tuple[str, Any]]) -> Members:
    members = Members(pairs)
    if len(members) != len(pairs):
        times = Counter(name for name, _ in pairs)
        members.repeated = tuple(name for name in members if times[name] > 1)
    return members


def _integer(text: str) -> int | Bad:
    # The length comes first: Python refuses to convert very long ones, and converting long ones is slow.
    if len(text) <= 20 and MIN_INT <= int(text) <= MAX_INT:
        return int(text)
    return Bad(f"{_clipped(text)} does not fit into 64 bits; write a number of this size as a string")


def _decimal(text: str) -> float | Bad:
    number = float(text)
    return Bad(f"{_clipped(text)} is larger than any floating-point number") if isinf(number) else number


def _constant(text: str) -> Bad:
    return Bad(f"{text} is not JSON; leave the field out or write null")


_decoder = JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_decimal, parse_constant=_constant, strict=True
)


def read_tree(raw: bytes) -> tuple[Any, list[Fault]]:
    """The tree and the faults of the JSON itself, one more than are ever listed at most: a mebibyte holds 250,000 NaN.

    The tree is None when there is none: the faults then say why.
    """
    try:
        tree = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, [Fault(path="$", message=f"not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}")]
    except JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return None, [Fault(path="$", message=f"not JSON: {error.msg} at {where}")]
    except RecursionError:
        return None, [_too_deep("$")]
    return tree, list(islice(_faults(tree, "$", 1), MAX_FAULTS + 1))


def _faults(value: Any, path: str, depth: int) -> Iterator[Fault]:
    """Every fault at or below `value`, in document order."""
    if isinstance(value, str):
        yield from _text_faults(value, path)
    elif isinstance(value, Bad):
        yield Fault(path=path, message=value.message)
    elif isinstance(value, (dict, list)) and depth > MAX_DEPTH:
        yield _too_deep(path)
    elif isinstance(value, Members):
        for name in value.repeated:
            yield Fault(path=member_path(path, name), message=f"{REPEATED_NAME}; readers differ in which counts")
        for name, member in value.items():
            below = member_path(path, name)
            yield from _text_faults(name, below)
            yield from _faults(member, below, depth + 1)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _faults(element, f"{path}[{index}]", depth + 1)


def _text_faults(text: str, path: str) -> Iterator[Fault]:
    if "\0" in text:
        yield Fault(path=path, message="contains the character NUL (\\u0000), which PostgreSQL cannot hold")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield Fault(path=path, message="contains half of a surrogate pair (\\ud800 to \\udfff alone), which is no text")


def _too_deep(path: str) -> Fault:
    return Fault(path=_clipped(path), message=f"nested deeper than {MAX_DEPTH} levels")


def member_path(path: str, name: str) -> str:
    """RFC 9535: `$.name` for plain names, `$['a name']` for others; long ones are cut, unprintable ones escaped."""
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{_clipped(name)}"
    quoted = json.dumps(_clipped(name))[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"{path}['{quoted}']"


def location_path(location: tuple[int | str, ...]) -> str:
    """pydantic's error location as a JSON path."""
    path = "$"
    for step in location:
        path = f"{path}[{step}]" if isinstance(step, int) else member_path(path, step)
    return path


def _clipped(text: str) -> str:
    return text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…"


def member_bytes(raw: bytes, wanted: str) -> bytes | None:
    """The bytes of one member of a valid JSON object exactly as written; None when it has no such member."""
    text = raw.decode("utf-8")
    at = _white(text, 0) + 1
    while text[at := _white(text, at)] != "}":
        name, at = scanstring(text, at + 1, True)
        start = _white(text, _white(text, at) + 1)
        _, at = _decoder.raw_decode(text, start)
        if name == wanted:
            return text[start:at].encode()
        at = _white(text, at)
        at += text[at] == ","
    return None


def _white(text: str, at: int) -> int:
    match = _WHITE.match(text, at)
    return match.end() if match else at
