"""Ids, times and faults that every word shares."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st
from pytest import mark

from schemas import base


@given(st.text(st.characters(codec="utf-8")))
def test_derived_ids_are_uuid5(name: str) -> None:
    assert base.derived_id(name) == str(uuid.uuid5(base.NAMESPACE, name))


def test_ids_never_change_between_releases() -> None:
    # A replay with another release must write the same ids. If this fails, the code is wrong, not the test.
    assert base.command_id_at("orders", 2, 1234) == "085f04d0-45e5-57e5-91c4-c0b73f2081b1"
    assert base.event_id_for(base.command_id_at("orders", 2, 1234), 0) == "9a4df09c-411c-5bf1-99b4-275d762d460e"


@mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_637_907_739_007, "2021-11-26T06:22:19.007Z"),
        (-1, "1970-01-01T00:00:00.000Z"),  # what Kafka says when a record has no timestamp
        (base.MAX_TIME_MS, "2286-11-20T17:46:39.999Z"),
        (2**63 - 1, "2286-11-20T17:46:39.999Z"),
    ],
)
def test_times_as_text(timestamp_ms: int, text: str) -> None:
    assert base.rfc3339(timestamp_ms) == text


@given(st.integers(0, base.MAX_TIME_MS))
def test_times_there_and_back(timestamp_ms: int) -> None:
    assert base.unix_ms(base.rfc3339(timestamp_ms)) == timestamp_ms


def test_an_invalid_document_says_all_of_it() -> None:
    error = base.InvalidDocument([base.Fault(path="$.a", message="is x"), base.Fault(path="$.b", message="is y")])
    assert str(error) == "$.a: is x; $.b: is y"
