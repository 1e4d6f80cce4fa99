"""rows of `purchases` and `payments` + the platform's own tables, in key order -> the first difference, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from agents.effects.postgres.bought import LINE_COLUMNS, Kind, state_of
from agents.effects.postgres.rows import Row
from streams.records import TopicPartition

PREFETCH = 1_000


class Bought(NamedTuple):
    """One order's purchase or payment on either side: its row, its lines, the whole of its state."""

    row: Row
    lines: list[Row]
    state: dict[str, Any]


class Unequal(NamedTuple):
    """Where both sides differ first; `column` is "row" when one side lacks it. None stands for nothing there."""

    table: str
    key: str
    column: str
    expected: Any
    found: Any


async def compare(
    connection: Any,
    kind: Kind,
    tables: AsyncIterator[Mapping[str, Any]],
    ends: Mapping[TopicPartition, int],
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int, Unequal | None]:
    """How many were compared, how many PostgreSQL has newer (of events at or after `ends`), the first difference."""
    count = ahead = 0
    written = _written(connection, kind)
    state, found = await anext(tables, None), await anext(written, None)
    while state is not None or found is not None:
        expected = None if state is None else _expected(kind, state)
        mine: Bought | None = expected if found is None or (expected and expected.row[0] <= found.row[0]) else None
        theirs: Bought | None = found if expected is None or (found and found.row[0] <= expected.row[0]) else None
        count += 1
        if count % PREFETCH == 0:
            progress(count)
        if mine != theirs:
            if theirs is None or not await _has_newer(connection, kind, theirs.row[0], ends):
                return count, ahead, _difference(kind, mine, theirs)
            ahead += 1
        state = await anext(tables, None) if mine else state
        found = await anext(written, None) if theirs else found
    return count, ahead, await _orphan(connection) if kind.table == "purchases" else None


def _expected(kind: Kind, row: Mapping[str, Any]) -> Bought:
    state = state_of(kind, row)
    return Bought(kind.row(state), kind.lines(state), orjson.loads(state.to_json()))


async def _written(connection: Any, kind: Kind) -> AsyncIterator[Bought]:
    """PostgreSQL's side in key order."""
    lines: AsyncIterator[Any] = _nothing()
    if kind.table == "purchases":
        order = "SELECT {} FROM purchase_lines ORDER BY order_uid, line_no"
        lines = connection.cursor(order.format(", ".join(LINE_COLUMNS)), prefetch=PREFETCH).__aiter__()
    line = await anext(lines, None)
    statement = f"SELECT {', '.join(kind.columns)}, state FROM {kind.table} ORDER BY order_uid"
    async for found in connection.cursor(statement, prefetch=PREFETCH):
        *row, state = found
        own: list[Row] = []
        while line is not None and line["order_uid"] <= row[0]:
            if line["order_uid"] == row[0]:
                own.append(tuple(line))
            line = await anext(lines, None)
        yield Bought(tuple(row), own, orjson.loads(state))


async def _nothing() -> AsyncIterator[Any]:
    for nothing in tuple[Any, ...]():
        yield nothing


async def _has_newer(connection: Any, kind: Kind, uid: str, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether something was told of this order after its table was read."""
    statement = f'SELECT topic, partition, max("offset") FROM {kind.events} WHERE order_uid = $1 GROUP BY 1, 2'
    told = await connection.fetch(statement, uid)
    return any(last >= ends.get(TopicPartition(topic, partition), 0) for topic, partition, last in told)


async def _orphan(connection: Any) -> Unequal | None:
    """Lines of a purchase that is not there: the walk along the purchases passes over them."""
    row = await connection.fetchrow(
        "SELECT order_uid, line_no FROM purchase_lines l WHERE NOT EXISTS "
        "(SELECT FROM purchases p WHERE p.order_uid = l.order_uid) ORDER BY order_uid, line_no LIMIT 1"
    )
    return None if row is None else Unequal("purchase_lines", f"{row[0]} {row[1]}", "row", None, "a row")


def _difference(kind: Kind, mine: Bought | None, theirs: Bought | None) -> Unequal:
    """Called with two that are not equal."""
    if mine is None or theirs is None:
        one = mine or theirs
        assert one is not None, "one side has it"
        return Unequal(kind.table, one.row[0], "row", "a row" if mine else None, "a row" if theirs else None)
    uid = mine.row[0]
    for name, wanted, has in zip(kind.columns, mine.row, theirs.row, strict=True):
        if wanted != has:
            return Unequal(kind.table, uid, name, wanted, has)
    lines = {row[1]: row for row in mine.lines}, {row[1]: row for row in theirs.lines}
    for number in sorted(lines[0].keys() | lines[1].keys()):
        here, there = lines[0].get(number), lines[1].get(number)
        if here != there:
            pairs = zip(LINE_COLUMNS, here or (), there or (), strict=False)
            whole = ("row", "a row" if here else None, "a row" if there else None)
            return Unequal("purchase_lines", f"{uid} {number}", *next((p for p in pairs if p[1] != p[2]), whole))
    name = next(name for name in {**mine.state, **theirs.state} if mine.state.get(name) != theirs.state.get(name))
    return Unequal(kind.table, uid, f"state.{name}", mine.state.get(name), theirs.state.get(name))
