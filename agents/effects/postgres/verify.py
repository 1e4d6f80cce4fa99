"""rows of PostgreSQL + committed rows of the tables, both in key order -> equal, or the first difference by name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import orjson

from agents.effects.postgres import rows as shapes
from agents.effects.postgres.bought import Kind
from agents.effects.postgres.changelog import STALLED_S, Stalled, bounds, folded
from agents.effects.postgres.comparing import (
    PREFETCH,
    Difference,
    Shape,
    Whole,
    first_difference,
    orphan,
    pairs,
    plain,
    written,
)
from agents.effects.postgres.destination import connect, read_positions
from agents.effects.postgres.verify_bought import compare
from streams.brokers import Brokers
from streams.records import TopicPartition

ORDERS = Shape("orders", shapes.ORDER_COLUMNS, "document", "order_items", shapes.ITEM_COLUMNS)


@dataclass
class Verified:
    """What was compared. `digest` is one hash over all rows of the tables: equal digests, equal rows."""

    rows: int = 0
    items: int = 0
    ahead: int = 0  # orders that changed while the comparison ran; PostgreSQL has the newer version
    digest: str = ""
    difference: Difference | None = None
    bought: dict[str, int] = field(default_factory=dict)  # rows of the tables of purchases and payments


async def _expected(tables: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[Whole]:
    """Rows of the table `orders` (its JSON) in the shape that they must have in PostgreSQL."""
    async for state in tables:
        order, items = shapes.order_rows(state)
        yield Whole(order, tuple(items), state["document"])


def _digest(order: Whole) -> bytes:
    content = orjson.dumps([order.row, order.lines, plain(order.json)], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).digest()


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
            async for expected, found in pairs(_expected(tables), written(connection, ORDERS)):
                content = _digest(expected) if expected else b""
                digest.update(content)
                result.rows += 1
                result.items += len(expected.lines) if expected else 0
                if result.rows % PREFETCH == 0:
                    progress(result.rows)
                if found is not None and _digest(found) == content:
                    continue
                if found is not None and await _is_newer(connection, found, expected, ends):
                    result.ahead += 1
                    continue
                result.difference = first_difference(ORDERS, expected, found)
                break
            else:
                result.difference = await orphan(connection, ORDERS)
    finally:
        connection.terminate()
    progress(result.rows)
    result.digest = digest.hexdigest()
    return result


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
                count, ahead, result.difference = await compare(connection, kind, rows, ends)
                result.bought[kind.table] = count
                result.ahead += ahead
                if result.difference is not None:
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


async def _is_newer(
    connection: Any, found: Whole, expected: Whole | None, ends: Mapping[TopicPartition, int] | None
) -> bool:
    """Whether PostgreSQL's version came from an event at or after `ends`."""
    if ends is None or (expected is not None and found.row[1] <= expected.row[1]):
        return False
    events = await connection.fetch(
        'SELECT topic, partition, "offset" FROM order_events WHERE order_uid = $1 AND version = $2 AND type = ANY($3)',
        found.uid,
        found.row[1],
        ["order_placed", "order_cancelled"],
    )
    return any(offset >= ends.get(TopicPartition(topic, partition), 0) for topic, partition, offset in events)
