"""Reads JSON so that every reader agrees on its meaning, and reports each fault with its JSON path.

RFC 8259 leaves duplicate names, numbers out of range and lone surrogates to each reader; PostgreSQL refuses NUL. One
record must mean the same to orjson, PostgreSQL and JavaScript, so all of these are faults. `plain_tree` decides the
usual case in C. Only what it does not accept is read value by value in Python, up to MAX_LISTED_VALUES.
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
from typing import Any, NamedTuple

import msgspec
import orjson

from schemas.base import MAX_FAULTS, MAX_WHOLE, Fault

#: Objects and arrays within each other. Readers recurse: some end at 128, and nobody's order is this deep.
MAX_DEPTH = 64
#: Commas, colons and opening brackets of one record, those inside strings included: more than its values. Reading this
#: many takes about 20 ms of CPU. An order of 1 MiB has at most 80,000.
MAX_VALUES = 100_000
#: The same for a record whose faults are listed one by one. That is done in Python: up to 4 us a value, 20 ms in all.
MAX_LISTED_VALUES = 5_000
#: IEEE 754 doubles have no more significant digits; a number with more is another one after JavaScript has read it.
MAX_DIGITS = 17
#: PostgreSQL's numeric ends at 16,383 digits after the point; no number that people or programs write is this long.
MAX_NUMBER_LENGTH = 64
#: Of a zero; other numbers end before (IEEE 754 doubles at 10^308, and 5 * 10^-324). PostgreSQL refuses 0e-20000.
MAX_EXPONENT = 400

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
    if len(text) <= 20 and -MAX_WHOLE <= int(text) <= MAX_WHOLE:
        return int(text)
    return Bad(f"{_clipped(text)} is beyond +-(2^53 - 1), which JavaScript holds exactly; write it as a string")


def _decimal(text: str) -> float | Bad:
    number = float(text)
    if isinf(number):
        return Bad(f"{_clipped(text)} is larger than any floating-point number")
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.lstrip("-").replace(".", "").lstrip("0")
    if digits and number == 0:
        return Bad(f"{_clipped(text)} is smaller than any floating-point number; write 0, or a string")
    if len(digits) > MAX_DIGITS or len(text) > MAX_NUMBER_LENGTH:
        return Bad(f"{_clipped(text)} has more than {MAX_DIGITS} significant digits; write it as a string")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        return Bad(f"{_clipped(text)} has an exponent beyond +-{MAX_EXPONENT}; write 0")
    return number


def _constant(text: str) -> Bad:
    return Bad(f"{text} is not JSON; leave the field out or write null")


_decoder = JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_decimal, parse_constant=_constant, strict=True
)


class Reading(NamedTuple):
    """A record's JSON. `tree` is None when `faults` say why there is none; `reason`: not_json or invalid."""

    tree: Any
    faults: list[Fault]
    reason: str = "invalid"


def count_values(raw: bytes) -> int:
    """An upper bound of the number of values in this JSON, counted in C: 1 ms for a mebibyte of commas."""
    return raw.count(b",") + raw.count(b":") + raw.count(b"[") + raw.count(b"{")


_DIGITS_AND_POINTS = bytes.maketrans(b"123456789.", b"0" * 10)
_LONG_NUMBER = b"0" * 16  # 2^53 - 1 has 16 digits
#: A number with as many characters, or with an exponent; inside a string too, where it does no harm to look closer.
_ODD_NUMBER = re.compile(rb"(?:^|[\[:,])-?(?:[0-9.]{16}|[0-9.]+[eE])")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


def plain_tree(raw: bytes) -> Any:
    """The value, if every reader of JSON surely reads these bytes alike; else None, and `read_tree` finds out why.

    All in C: no escaped NUL or colon, no odd number, not too deep, and as many colons as its value has when it is
    written again. A name that comes twice is written once, so then there would be fewer.
    """
    if count_values(raw) > MAX_VALUES or (b"\\" in raw and (b"\\u0000" in raw or b"\\u003" in raw)):
        return None
    digits = raw.translate(_DIGITS_AND_POINTS)
    has_odd_digits = _LONG_NUMBER in digits or b"0e" in digits or b"0E" in digits
    # Without white space, at which the search would begin again and again.
    if has_odd_digits and _ODD_NUMBER.search(raw.translate(None, b" \t\n\r")):
        return None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_too_deep(raw):
        return None
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return tree if orjson.dumps(tree).count(b":") == raw.count(b":") else None


def _is_too_deep(raw: bytes) -> bool:
    """Whether brackets outside of strings are nested deeper than MAX_DEPTH: each round takes the innermost pairs."""
    left = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not left:
            return False
        left = left.replace(b"{}", b"").replace(b"[]", b"")
    return bool(left)


def read_tree(raw: bytes) -> Reading:
    """The tree and the faults of the JSON itself, one more than are ever listed at most: a mebibyte holds 250,000 NaN.

    CPU is bounded: what has too many values to be read, or to list their faults, has one fault that says so.
    """
    plain = plain_tree(raw)
    if plain is not None:
        return Reading(plain, [])
    values = count_values(raw)
    if values > MAX_VALUES:
        message = f"has {values} commas, colons and brackets; at most {MAX_VALUES} are read, those in texts included"
        return Reading(None, [Fault(path="$", message=message)])
    if values > MAX_LISTED_VALUES:
        return _unlisted(raw)
    try:
        tree = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}"
        return Reading(None, [Fault(path="$", message=message)], "not_json")
    except JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return Reading(None, [Fault(path="$", message=f"not JSON: {error.msg} at {where}")], "not_json")
    except RecursionError:
        return Reading(None, [_too_deep("$")], "not_json")
    return Reading(tree, list(islice(_faults(tree, "$", 1), MAX_FAULTS + 1)))


def _unlisted(raw: bytes) -> Reading:
    """Why a record is refused that has too many values to list its faults one by one."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        what, reason = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}", "not_json"
    else:
        reason = "invalid"
        what = (
            f"it has a name given twice, a number that not every reader can hold, NUL, or more than {MAX_DEPTH} levels"
        )
    message = f"{what}; the places are listed for records of at most {MAX_LISTED_VALUES} values only"
    return Reading(None, [Fault(path="$", message=message)], reason)


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


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def member_bytes(raw: bytes, wanted: str) -> bytes | None:
    """The bytes of one member of a valid JSON object exactly as written; None when it has no such member."""
    try:
        found = _MEMBERS.decode(raw).get(wanted)
    except (msgspec.DecodeError, RecursionError):
        return _member_bytes_of_odd(raw, wanted)
    return None if found is None else bytes(found)


def _member_bytes_of_odd(raw: bytes, wanted: str) -> bytes | None:
    """The same of JSON that only the careful reading takes, such as one with NaN."""
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
