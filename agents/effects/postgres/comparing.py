"""orders as PostgreSQL has them, orders as they should be -> pairs in key order -> what differs first, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import orjson

from agents.effects.postgres.rows import Row

#: Rows fetched ahead of the comparison.
PREFETCH = 1_000


class _Nothing:
    """Not a value, and not JSON's null either."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()
A_ROW = "a row"


class Difference(NamedTuple):
    """The first place where both sides differ; `column` is "row" when one side lacks it altogether."""

    table: str
    key: str
    column: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"{self.table}, key {self.key}, column {self.column}: "
            f"the tables say {self.expected!r}, PostgreSQL has {self.found!r}"
        )


class Shape(NamedTuple):
    """A table whose first column is `order_uid`: its columns, the one that holds JSON, and the table of its lines.

    The first two of `line_columns` are `order_uid` and `line_no`.
    """

    table: str
    columns: Sequence[str]
    json: str
    lines: str | None = None
    line_columns: Sequence[str] = ()


class Whole(NamedTuple):
    """What either side has of one order: its row, its lines by number, its JSON."""

    row: Row
    lines: tuple[Row, ...]
    json: Any

    @property
    def uid(self) -> str:
        return str(self.row[0])


async def written(connection: Any, shape: Shape) -> AsyncIterator[Whole]:
    """PostgreSQL's side, in key order."""
    lines = _lines(connection, shape)
    line = await anext(lines, None)
    statement = f"SELECT {', '.join(shape.columns)}, {shape.json} FROM {shape.table} ORDER BY order_uid"
    async for found in connection.cursor(statement, prefetch=PREFETCH):
        *row, content = found
        own: list[Row] = []
        while line is not None and line[0] <= row[0]:
            if line[0] == row[0]:
                own.append(line)
            line = await anext(lines, None)
        yield Whole(tuple(row), tuple(own), orjson.loads(content))


async def _lines(connection: Any, shape: Shape) -> AsyncIterator[Row]:
    if shape.lines is not None:
        statement = f"SELECT {', '.join(shape.line_columns)} FROM {shape.lines} ORDER BY order_uid, line_no"
        async for line in connection.cursor(statement, prefetch=PREFETCH):
            yield tuple(line)


async def pairs(
    expected: AsyncIterator[Whole], found: AsyncIterator[Whole]
) -> AsyncIterator[tuple[Whole | None, Whole | None]]:
    """Both sides side by side, in key order; None where one lacks the key."""
    mine, theirs = await anext(expected, None), await anext(found, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine.uid < theirs.uid):
            yield mine, None
            mine = await anext(expected, None)
        elif mine is None or theirs.uid < mine.uid:
            yield None, theirs
            theirs = await anext(found, None)
        else:
            yield mine, theirs
            mine, theirs = await anext(expected, None), await anext(found, None)


def first_difference(shape: Shape, expected: Whole | None, found: Whole | None) -> Difference:
    """Of two that are not equal."""
    if expected is None or found is None:
        one = expected or found
        assert one is not None, "one side has it"
        return _missing(shape.table, one.uid, expected is not None)
    uid = expected.uid
    for column, wanted, has in zip(shape.columns, expected.row, found.row, strict=True):
        if wanted != has:
            return Difference(shape.table, uid, column, wanted, has)
    mine, theirs = {row[1]: row for row in expected.lines}, {row[1]: row for row in found.lines}
    for number in sorted(mine.keys() | theirs.keys()):
        key = f"{uid} {number}"
        if number not in mine or number not in theirs:
            return _missing(str(shape.lines), key, number in mine)
        for column, wanted, has in zip(shape.line_columns, mine[number], theirs[number], strict=True):
            if wanted != has:
                return Difference(str(shape.lines), key, column, wanted, has)
    return Difference(shape.table, uid, *_first_in(expected.json, found.json, shape.json))


async def orphan(connection: Any, shape: Shape) -> Difference | None:
    """Lines of an order that is not there: the walk along the orders passes over them."""
    row = await connection.fetchrow(
        f"SELECT order_uid, line_no FROM {shape.lines} l WHERE NOT EXISTS "
        f"(SELECT FROM {shape.table} o WHERE o.order_uid = l.order_uid) ORDER BY order_uid, line_no LIMIT 1"
    )
    return None if row is None else _missing(str(shape.lines), f"{row[0]} {row[1]}", False)


def _missing(table: str, key: str, expected: bool) -> Difference:
    return Difference(table, key, "row", A_ROW if expected else NOTHING, NOTHING if expected else A_ROW)


def _first_in(expected: Any, found: Any, path: str) -> tuple[str, Any, Any]:
    """Where two JSON values differ first, deepest path."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in expected or key not in found or plain(expected[key]) != plain(found[key]):
                return _first_in(expected.get(key, NOTHING), found.get(key, NOTHING), f"{path}.{key}")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (mine, theirs) in enumerate(zip(expected, found, strict=True)):
            if plain(mine) != plain(theirs):
                return _first_in(mine, theirs, f"{path}[{number}]")
    return path, expected, found


def plain(value: Any) -> Any:
    """JSON as it compares: PostgreSQL writes 1e2 as 100, which is the same number."""
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
    return value
