"""rows of PostgreSQL + committed rows of the tables, both in key order -> equal, or the first difference by name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from agents.effects.postgres import rows as shapes
from agents.effects.postgres.bought import Kind
from agents.effects.postgres.changelog import STALLED_S, Stalled, bounds, folded
from agents.effects.postgres.destination import connect, read_positions
from agents.effects.postgres.rows import Row
from agents.effects.postgres.verify_bought import compare
from streams.brokers import Brokers
from streams.records import TopicPartition

#: Rows fetched ahead of the comparison.
PREFETCH = 1_000


class _Nothing:
    """Not a value, and not JSON's null either."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


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


@dataclass
class Verified:
    """What was compared. `digest` is one hash over all rows of the tables: equal digests, equal rows."""

    rows: int = 0
    items: int = 0
    ahead: int = 0  # orders that changed while the comparison ran; PostgreSQL has the newer version
    digest: str = ""
    difference: Difference | None = None
    bought: dict[str, int] = field(default_factory=dict)  # rows of the tables of purchases and payments


class OrderRows(NamedTuple):
    """An order on either side, in the shape of PostgreSQL's rows."""

    order: Row
    items: tuple[Row, ...]
    document: Any

    @property
    def uid(self) -> str:
        return str(self.order[0])

    def digest(self) -> bytes:
        content = orjson.dumps([self.order, self.items, _plain(self.document)], option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(content, digest_size=16).digest()


def of_state(state: Mapping[str, Any]) -> OrderRows:
    """A row of the table `orders` (its JSON) in the shape that it must have in PostgreSQL."""
    order, items = shapes.order_rows(state)
    return OrderRows(order, tuple(items), state["document"])


async def verify(
    dsn: str,
    tables: AsyncIterator[Mapping[str, Any]],
    *,
    ends: Mapping[TopicPartition, int] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Verified:
    """Compare until the first difference. `tables`: states of orders in the order of their keys' bytes.

    `ends`, when orders go on coming: where the events ended before the tables were read. A newer row of PostgreSQL
    whose event stands at or after that is no difference; it is counted as `ahead`.
    """
    result, digest = Verified(), hashlib.blake2b(digest_size=16)
    connection = await connect(dsn, idle_in_transaction_session_timeout="0")
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for expected, found in _pairs(tables, _postgres(connection)):
                content = expected.digest() if expected else b""
                digest.update(content)
                result.rows += 1
                result.items += len(expected.items) if expected else 0
                if result.rows % PREFETCH == 0:
                    progress(result.rows)
                if found is not None and found.digest() == content:
                    continue
                if found is not None and await _is_newer(connection, found, expected, ends):
                    result.ahead += 1
                    continue
                result.difference = _first_difference(expected, found)
                break
            else:
                result.difference = await _orphan(connection)
    finally:
        connection.terminate()
    progress(result.rows)
    result.digest = digest.hexdigest()
    return result


async def _pairs(
    tables: AsyncIterator[Mapping[str, Any]], written: AsyncIterator[OrderRows]
) -> AsyncIterator[tuple[OrderRows | None, OrderRows | None]]:
    """Both sides side by side, in key order; None where one lacks the key."""
    state, found = await anext(tables, None), await anext(written, None)
    while state is not None or found is not None:
        expected = of_state(state) if state is not None else None
        if found is None or (expected is not None and expected.uid < found.uid):
            yield expected, None
            state = await anext(tables, None)
        elif expected is None or found.uid < expected.uid:
            yield None, found
            found = await anext(written, None)
        else:
            yield expected, found
            state, found = await anext(tables, None), await anext(written, None)


async def verify_against_changelog(
    dsn: str,
    brokers: Brokers | str,
    changelog: str,
    topics: Collection[str],
    *,
    bought: Mapping[str, Kind] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    client: Mapping[str, Any] | None = None,
) -> Verified:
    """Fold the table's changelog, wait until the sink is past all that can be in it, compare. Safe while orders flow.

    `bought`: the same for changelogs of purchases and payments. Raises Stalled when the sink does not move. `progress`
    gets what is done: "read", "wait" or "compare", and how far.
    """
    before = await bounds(brokers, topics, committed=True, client=client)
    async with AsyncExitStack() as stack:

        async def read(name: str) -> AsyncIterator[Mapping[str, Any]]:
            table = folded(brokers, name, progress=lambda d, t: progress("read", d, t), client=client)
            return await stack.enter_async_context(table)

        tables, states = await read(changelog), {kind: await read(name) for name, kind in (bought or {}).items()}
        after = await bounds(brokers, topics, committed=False, client=client)
        ends = {partition: end for partition, (_, end) in after.items()}
        await caught_up(dsn, ends, progress=lambda done, total: progress("wait", done, total))
        known = {partition: end for partition, (_, end) in before.items()}
        result = await verify(dsn, tables, ends=known, progress=lambda rows: progress("compare", rows, 0))
        return result if result.difference else await verify_bought(dsn, result, states, known)


async def verify_bought(
    dsn: str,
    result: Verified,
    states: Mapping[Kind, AsyncIterator[Mapping[str, Any]]],
    ends: Mapping[TopicPartition, int],
) -> Verified:
    """Purchases and payments too, into the same result; `ends` as in `verify`."""
    connection = await connect(dsn, idle_in_transaction_session_timeout="0")
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for kind, rows in states.items():
                count, ahead, found = await compare(connection, kind, rows, ends)
                result.bought[kind.table] = count
                result.ahead += ahead
                if found is not None:
                    sides = (found.expected, found.found)
                    if found.column == "row":
                        sides = (found.expected or NOTHING, found.found or NOTHING)
                    result.difference = Difference(found.table, found.key, found.column, *sides)
                    break
    finally:
        connection.terminate()
    return result


async def caught_up(
    dsn: str,
    ends: Mapping[TopicPartition, int],
    *,
    firsts: Mapping[TopicPartition, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    why: Callable[[], str | None] = lambda: None,
) -> None:
    """Return when the sink has reached `ends`. Raises Stalled, with `why`, when it has not moved for a minute."""
    wanted = {partition: end for partition, end in ends.items() if end > 0}
    zero = firsts or {}
    total = sum(end - min(end, zero.get(partition, 0)) for partition, end in wanted.items())
    best, moved_at = -1, asyncio.get_running_loop().time()
    connection = await connect(dsn)
    try:
        while True:
            at = {partition: standing.next for partition, standing in (await read_positions(connection)).items()}
            done = sum(
                max(0, min(end, at.get(partition, 0)) - zero.get(partition, 0)) for partition, end in wanted.items()
            )
            now = asyncio.get_running_loop().time()
            if done > best:
                best, moved_at = done, now
                progress(done, total)
            if all(at.get(partition, 0) >= end for partition, end in wanted.items()):
                return
            if now - moved_at > STALLED_S:
                behind = next(f"{p.topic}-{p.partition}" for p, end in wanted.items() if at.get(p, 0) < end)
                reason = why() or "does a worker with the sink run, and does it reach PostgreSQL?"
                raise Stalled(f"the sink has not moved for {STALLED_S:.0f} s and is behind on {behind}: {reason}")
            await asyncio.sleep(0.2)
    finally:
        connection.terminate()


async def _postgres(connection: Any) -> AsyncIterator[OrderRows]:
    """The orders of PostgreSQL with their items, in key order."""
    names = ", ".join(shapes.ORDER_COLUMNS)
    items = connection.cursor(
        f"SELECT {', '.join(shapes.ITEM_COLUMNS)} FROM order_items ORDER BY order_uid, line_no", prefetch=PREFETCH
    ).__aiter__()
    item = await anext(items, None)
    async for row in connection.cursor(f"SELECT {names}, document FROM orders ORDER BY order_uid", prefetch=PREFETCH):
        *order, document = row
        own: list[Row] = []
        while item is not None and item["order_uid"] <= order[0]:
            if item["order_uid"] == order[0]:
                own.append(tuple(item))
            item = await anext(items, None)
        yield OrderRows(tuple(order), tuple(own), orjson.loads(document))


async def _is_newer(
    connection: Any, found: OrderRows, expected: OrderRows | None, ends: Mapping[TopicPartition, int] | None
) -> bool:
    """Whether PostgreSQL's version came from an event at or after `ends`."""
    if ends is None or (expected is not None and found.order[1] <= expected.order[1]):
        return False
    events = await connection.fetch(
        'SELECT topic, partition, "offset" FROM order_events WHERE order_uid = $1 AND version = $2 AND type = ANY($3)',
        found.uid,
        found.order[1],
        ["order_placed", "order_cancelled"],
    )
    return any(offset >= ends.get(TopicPartition(topic, partition), 0) for topic, partition, offset in events)


async def _orphan(connection: Any) -> Difference | None:
    """Items of an order that is not there: the walk along the orders passes over them."""
    row = await connection.fetchrow(
        "SELECT order_uid, line_no FROM order_items i WHERE NOT EXISTS "
        "(SELECT FROM orders o WHERE o.order_uid = i.order_uid) ORDER BY order_uid, line_no LIMIT 1"
    )
    return None if row is None else Difference("order_items", f"{row[0]} {row[1]}", "row", NOTHING, "a row")


def _first_difference(expected: OrderRows | None, found: OrderRows | None) -> Difference:
    if expected is None or found is None:
        uid = (expected or found or _NOBODY).uid
        return Difference("orders", uid, "row", "a row" if expected else NOTHING, "a row" if found else NOTHING)
    uid = expected.uid
    for column, wanted, has in zip(shapes.ORDER_COLUMNS, expected.order, found.order, strict=True):
        if wanted != has:
            return Difference("orders", uid, column, wanted, has)
    lines = {row[1]: row for row in expected.items}, {row[1]: row for row in found.items}
    for number in sorted(lines[0].keys() | lines[1].keys()):
        key = f"{uid} {number}"
        if number not in lines[1]:
            return Difference("order_items", key, "row", "a row", NOTHING)
        if number not in lines[0]:
            return Difference("order_items", key, "row", NOTHING, "a row")
        for column, wanted, has in zip(shapes.ITEM_COLUMNS, lines[0][number], lines[1][number], strict=True):
            if wanted != has:
                return Difference("order_items", key, column, wanted, has)
    path, wanted, has = _first_in(expected.document, found.document, "document")
    return Difference("orders", uid, path, wanted, has)


def _first_in(expected: Any, found: Any, path: str) -> tuple[str, Any, Any]:
    """Where two JSON values differ first, deepest path."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key not in expected or key not in found or _plain(expected[key]) != _plain(found[key]):
                return _first_in(expected.get(key, NOTHING), found.get(key, NOTHING), f"{path}.{key}")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (mine, theirs) in enumerate(zip(expected, found, strict=True)):
            if _plain(mine) != _plain(theirs):
                return _first_in(mine, theirs, f"{path}[{number}]")
    return path, expected, found


def _plain(value: Any) -> Any:
    """JSON as it compares: PostgreSQL writes 1e2 as 100, which is the same number."""
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
    return value


_NOBODY = OrderRows(("",), (), None)
