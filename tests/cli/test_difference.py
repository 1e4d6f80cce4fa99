"""Differences as data: what a table lacks, and what only PostgreSQL can say, is text."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import orjson
from pytest import mark

from agents.effects.postgres.comparing import A_ROW, NOTHING
from cli.verifying import side


@mark.parametrize(
    ("value", "shown"),
    [
        (NOTHING, "nothing"),
        (A_ROW, "a row"),
        (None, None),
        (7, 7),
        ({"a": [1]}, {"a": [1]}),
        (Decimal("1.50"), "1.50"),
        ({"a": NOTHING}, "{'a': nothing}"),
        (b"\xff", "b'\\xff'"),
        (2**80, str(2**80)),
    ],
)
def test_every_side_of_a_difference_is_json(value: object, shown: object) -> None:
    assert side(value) == shown
    assert orjson.loads(orjson.dumps(side(value))) == shown


def test_what_orjson_writes_itself_is_left_to_it() -> None:
    for value in (UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC)):
        assert orjson.dumps(side(value))
