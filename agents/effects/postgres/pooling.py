"""Recognises a connection pooler in transaction mode, which the sink cannot use, by the errors that it causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

ADVICE = (
    "The connection goes through a pooler in transaction mode (such as pgbouncer), and the sink needs a session of its"
    " own: settings, prepared statements, temporary tables. Set ORDERSTREAM_POSTGRES to the address of PostgreSQL"
    " itself: the sink holds one connection for each worker."
)


class PooledConnection(asyncpg.ProtocolViolationError):  # type: ignore[misc]  # asyncpg has no types
    """The connection is not one session of PostgreSQL. The batch is not written; the sink tries again later."""


def pooled(error: BaseException) -> PooledConnection | None:
    """The explanation of an error that only a pooler in transaction mode causes; None for any other error."""
    if isinstance(error, PooledConnection):
        return None
    text = str(error)
    match error:
        case asyncpg.ProtocolViolationError() if "startup parameter" in text:
            pass
        case asyncpg.InvalidSQLStatementNameError() | asyncpg.DuplicatePreparedStatementError():
            pass
        case asyncpg.UndefinedTableError() | asyncpg.DuplicateTableError() if '"staged_' in text:
            pass
        case _:
            return None
    return PooledConnection(f"{text}. {ADVICE}")


async def require_session(connection: Any, settings: Mapping[str, str]) -> None:
    """Raise PooledConnection when a pooler ignored the settings: rows would go to another schema."""
    found = await connection.fetchval("SELECT current_setting('search_path')")
    if found != settings["search_path"]:
        raise PooledConnection(f"search_path is {found!a} and not {settings['search_path']!a}. {ADVICE}")
