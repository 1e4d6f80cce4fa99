"""rows of `purchases` and `payments` + the platform's own tables, in key order -> the first difference, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from agents.effects.postgres.bought import LINE_COLUMNS, PURCHASES, Kind, state_of
from agents.effects.postgres.comparing import (
    PREFETCH,
    Difference,
    Shape,
    Whole,
    first_difference,
    orphan,
    pairs,
    written,
)
from streams.records import TopicPartition


async def compare(
    connection: Any,
    kind: Kind,
    tables: AsyncIterator[Mapping[str, Any]],
    ends: Mapping[TopicPartition, int],
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int, Difference | None]:
    """How many were compared, how many PostgreSQL has newer (of events at or after `ends`), the first difference."""
    count, ahead, shape = 0, 0, _shape_of(kind)
    async for expected, found in pairs(_expected(kind, tables), written(connection, shape)):
        count += 1
        if count % PREFETCH == 0:
            progress(count)
        if expected != found:
            if found is None or not await _has_newer(connection, kind, found.uid, ends):
                return count, ahead, first_difference(shape, expected, found)
            ahead += 1
    return count, ahead, await orphan(connection, shape) if shape.lines else None


def _shape_of(kind: Kind) -> Shape:
    lines = ("purchase_lines", LINE_COLUMNS) if kind is PURCHASES else ()
    return Shape(kind.table, kind.columns, "state", *lines)


async def _expected(kind: Kind, tables: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[Whole]:
    async for row in tables:
        state = state_of(kind, row)
        yield Whole(kind.row(state), tuple(kind.lines(state)), orjson.loads(state.to_json()))


async def _has_newer(connection: Any, kind: Kind, uid: str, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether something was told of this order after its table was read."""
    statement = f'SELECT topic, partition, max("offset") FROM {kind.events} WHERE order_uid = $1 GROUP BY 1, 2'
    told = await connection.fetch(statement, uid)
    return any(last >= ends.get(TopicPartition(topic, partition), 0) for topic, partition, last in told)
