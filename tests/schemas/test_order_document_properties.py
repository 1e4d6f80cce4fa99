"""The quick reading never says yes where the thorough one finds a fault, whatever the bytes look like."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.base import InvalidDocument
from schemas.orders import find_faults, read_document, reading, samples
from schemas.strict_json import plain_tree, read_tree
from tests.schemas.documents import SAMPLE

NUMBERS = [
    "NaN",
    "-Infinity",
    "1e400",
    "1E-400",
    "9007199254740991",
    "9007199254740992",
    "18446744073709551616",
    "0.12345678901234567890",
    "1e-20000",
    "1e5",
    "-0",
    "1.0",
    "317",
    "-1",
]
TEXTS = [r'"\u0000"', r'"\\u0000"', r'"\ud83d\ude00"', r'"\ud800"', '"a:b"', r'"a\u003ab"', r'"\":"', '"é"', '"USD"']
OTHERS = ["true", "null", "[]", "{}", '{"a":1,"a":1}', '{"a":{"b":[1,{"c":"d:e"}]}}', '"2024-02-29T00:00:00Z"']
RAW_VALUES = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS])
STYLE = st.sampled_from([(",", ":"), (", ", ": "), (",", " :\n")])


class Literal(str):
    """JSON text that is written as it stands."""


def write(value: Any, separators: tuple[str, str], twice: frozenset[str]) -> str:
    """JSON text with a style; names in `twice` are given two times."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        members = []
        for name, member in value.items():
            text = f"{json.dumps(name)}{separators[1]}{write(member, separators, twice)}"
            members += [text, text] if name in twice else [text]
        return "{" + separators[0].join(members) + "}"
    if isinstance(value, list):
        return "[" + separators[0].join(write(element, separators, twice) for element in value) + "]"
    return json.dumps(value)


def holders(tree: Any) -> list[dict[str, Any]]:
    return [tree, tree["delivery"], tree["payment"], *tree["items"]]


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A good order, with a few changes that may or may not be faults."""
    tree = orjson.loads(draw(st.sampled_from([SAMPLE, *(samples.generate(number) for number in range(5))])))
    for _ in range(draw(st.integers(0, 3))):
        holder = draw(st.sampled_from(holders(tree)))
        name = draw(st.sampled_from([*(name for name in holder if name not in ("delivery", "payment", "items")), "x"]))
        if draw(st.booleans()):
            holder[name] = Literal(draw(RAW_VALUES))
        else:
            holder.pop(name, None)
    twice = draw(st.frozensets(st.sampled_from(["sm_id", "price", "x", "amount", "date_created"]), max_size=1))
    return write(tree, draw(STYLE), twice if draw(st.booleans()) else frozenset()).encode()


def quick_yes(raw: bytes) -> bool:
    try:
        document = reading._validate_json(raw)
    except ValidationError:
        return False
    return plain_tree(raw) is not None and reading._adds_up(document)


@settings(max_examples=400, deadline=None)
@given(documents())
def test_the_quick_reading_and_the_thorough_one_agree(raw: bytes) -> None:
    faults, _ = find_faults(raw)
    if quick_yes(raw):
        assert faults == ()
    try:
        read_document(raw)
        accepted = True
    except InvalidDocument as error:
        accepted = False
        assert error.faults == faults
    assert accepted == (faults == ())
    if accepted:
        # Every reader of ours reads what was accepted, and reads the same.
        assert orjson.loads(raw) == json.loads(raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_break_the_reading(raw: bytes) -> None:
    tree, faults, _ = read_tree(raw)
    assert tree is not None or faults or raw.strip() == b"null"
    try:
        read_document(raw)
    except InvalidDocument as error:
        assert error.faults


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**8 - 1), st.integers(0, 10**6))
def test_every_sample_is_a_good_order(number: int, seed: int) -> None:
    raw = samples.generate(number, seed)
    assert raw == samples.generate(number, seed)
    assert quick_yes(raw), "samples take the quick way, as real orders do"
    assert find_faults(raw) == ((), "invalid")
