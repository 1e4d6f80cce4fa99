"""a number -> an order of about 1 KB as bytes, cheap enough that making it never is what a run measures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import orjson

from schemas.orders import samples

#: Different documents; order `n` is document n % TEMPLATES with a uid of its own. About 1,000 bytes each.
TEMPLATES = 4_000
_MIX = 0x9E3779B97F4A7C15  # spreads neighbouring numbers over the key space, as real ids are spread

#: Of a hundred records of the mixed load, these repeat an earlier order: with other content, or byte for byte.
CONFLICT_AT, REPEAT_AT = 49, 77
POISON_EVERY, POISON_AT = 1_000, 500
BACK = 20  # how far back the repeated order lies; neither a repeat nor poison itself


class Load(NamedTuple):
    """What a load of records comes to: of `records`, how many become events and how many dead letters."""

    records: int
    events: int
    dead_letters: int


def order_uid(number: int) -> str:
    return f"{number * _MIX & 0xFFFFFFFFFF:010x}{number:08d}s1"


@lru_cache(maxsize=1)
def _templates() -> list[list[bytes]]:
    """Documents cut where their uid stands: joining the parts with another uid costs a third of a microsecond."""
    documents = (samples.document(number) for number in range(TEMPLATES))
    return [orjson.dumps(document).split(document["order_uid"].encode()) for document in documents]


def order(number: int, document: int | None = None) -> tuple[bytes, bytes]:
    """Key and value of order `number`. `document`: with the content of another one."""
    uid = order_uid(number).encode()
    return uid, uid.join(_templates()[(number if document is None else document) % TEMPLATES])


def plain(count: int, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """`count` new, valid orders."""
    return (order(number) for number in range(first, first + count))


def mixed(count: int, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """What a product meets: new orders, 1 % refused, 1 % repeated, 0.1 % poison."""
    for number in range(first, first + count):
        kind = _kind(number, first)
        if kind == "conflict":
            yield order(number - BACK, document=number)
        elif kind == "repeat":
            yield order(number - BACK)
        elif kind == "poison":
            key, value = order(number)
            yield key, value[:-20]
        else:
            yield order(number)


def mixed_load(count: int, first: int = 0) -> Load:
    """What `mixed` of the same arguments comes to."""
    kinds = [_kind(number, first) for number in range(first, first + count)]
    poison, repeats = kinds.count("poison"), kinds.count("repeat")
    return Load(count, count - poison - repeats, poison)


def _kind(number: int, first: int) -> str:
    if number % POISON_EVERY == POISON_AT:
        return "poison"
    if number - BACK >= first:
        if number % 100 == CONFLICT_AT:
            return "conflict"
        if number % 100 == REPEAT_AT:
            return "repeat"
    return "new"
