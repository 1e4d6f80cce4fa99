"""The first look accepts nothing that the careful reading refuses, reads the same content, and takes what is usual."""

from __future__ import annotations

import json
import re
from typing import Annotated

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field
from pytest import mark, param

from schemas.base import MAX_WHOLE
from schemas.currencies import MINOR_DIGITS
from schemas.orders import check_document, find_faults, read_document, samples
from schemas.orders.document import CURRENCY_PATTERN, MAX_UNIX_TIME, PATTERN_HINTS, DocumentPart
from schemas.orders.first_look import _struct, first_look
from tests.schemas.documents import SAMPLE, changed
from tests.schemas.test_order_document_properties import documents, holders

#: Where readers of numbers and of patterns part: ends, signs, spaces that are not ASCII, line ends behind a match.
ODD = ["\n", " ", "\x1c", "\x85", "\xa0", "\u2028", "\u0660", "K", ":", "\\", '"', "@", "ß", ""]
NUMBERS = st.sampled_from([-1, 0, 1, 99, 100, 101, 2**31 - 1, 2**31, MAX_UNIX_TIME, MAX_UNIX_TIME + 1, MAX_WHOLE])
TEXTS = st.one_of(
    st.sampled_from(sorted(PATTERN_HINTS)).flatmap(st.from_regex),
    st.builds("{}{}".format, st.sampled_from(["USD", "en", "a@b.c", "+12345678", "x"]), st.sampled_from(ODD)),
    st.builds(
        lambda sign, count: sign * count, st.sampled_from("xé€😀"), st.sampled_from([1, 32, 33, 64, 65, 256, 257])
    ),
)


@st.composite
def near_the_edges(draw: st.DrawFn) -> bytes:
    """A good order with one value set to something that may be just inside or just outside of its rule."""
    tree = orjson.loads(draw(st.sampled_from([SAMPLE, *(samples.generate(number) for number in range(3))])))
    holder = draw(st.sampled_from(holders(tree)))
    name = draw(st.sampled_from([name for name, value in holder.items() if isinstance(value, int | str)]))
    holder[name] = draw(TEXTS if isinstance(holder[name], str) else NUMBERS | st.just(MAX_WHOLE + 1))
    if name in ("total_price", "goods_total", "delivery_cost", "custom_fee"):
        tree["payment"]["goods_total"] = sum(item["total_price"] for item in tree["items"])
        tree["payment"]["amount"] = sum(
            tree["payment"][part] for part in ("goods_total", "delivery_cost", "custom_fee")
        )
    if holder is tree and name == "track_number":
        tree["items"] = [{**item, "track_number": holder[name]} for item in tree["items"]]
    return json.dumps(tree, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None)
@given(near_the_edges() | documents())
@example(changed(("date_created", "2021-11-26T06:22:19Z\n")))
@example(changed(("delivery.email", "a\xa0b@c.de")))
def test_what_the_first_look_accepts_the_careful_reading_accepts_and_reads_alike(raw: bytes) -> None:
    found = first_look(raw)
    if found is not None:
        assert find_faults(raw) == ((), "invalid")
        assert msgspec.to_builtins(found) == orjson.loads(raw) == read_document(raw).model_dump()


@mark.parametrize(
    "raw",
    [
        param(SAMPLE, id="the sample"),
        param(json.dumps(orjson.loads(SAMPLE), indent=2).encode(), id="white space"),
        param(json.dumps({**orjson.loads(SAMPLE), "entry": "é😀"}).encode(), id="escapes"),
        param(changed(("date_created", "2024-02-29T23:59:59.5+05:30")), id="the end of a month"),
        param(changed(("delivery.city", "Владивосток")), id="another script"),
    ],
)
def test_what_is_usual_takes_the_first_look(raw: bytes) -> None:
    assert first_look(raw) is not None


@mark.parametrize(
    "raw",
    [
        param(changed(("note", 1)), id="an extra field"),
        param(changed(("items.0.note", 1)), id="an extra field of an item"),
        param(changed(("delivery.address", "Flat: 3")), id="a colon in a text"),
        param(changed(("delivery.email", "jürgen@bücher.example")), id="an address beyond ASCII"),
    ],
)
def test_what_is_good_and_unusual_is_read_with_more_care(raw: bytes) -> None:
    assert first_look(raw) is None
    assert check_document(raw) == read_document(raw)


def test_a_rule_that_the_first_look_does_not_know_is_not_passed_over() -> None:
    class Stepped(DocumentPart):
        count: Annotated[int, Field(multiple_of=5)]

    class Patterned(DocumentPart):
        code: Annotated[str, Field(pattern="^x$")]

    for model, name in ((Stepped, "Stepped.count"), (Patterned, "Patterned.code")):
        with pytest.raises(TypeError, match=name):
            _struct(model)


def test_every_currency_has_the_shape_that_the_first_look_takes_for_granted() -> None:
    assert all(re.match(CURRENCY_PATTERN, code) and len(code) == 3 for code in MINOR_DIGITS)
