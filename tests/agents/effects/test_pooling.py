"""A pooler in transaction mode: recognised by its errors, and explained in one sentence."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from pytest import mark, param

from agents.effects.postgres import READERS
from agents.effects.postgres import destination as under_test
from agents.effects.postgres.destination import PostgresDestination, connect
from agents.effects.postgres.pooling import PooledConnection, pooled


@mark.parametrize(
    ("error", "is_pooler"),
    [
        param(asyncpg.ProtocolViolationError("unsupported startup parameter: search_path"), True, id="startup"),
        param(asyncpg.InvalidSQLStatementNameError('prepared statement "x" does not exist'), True, id="no statement"),
        param(asyncpg.DuplicatePreparedStatementError('prepared statement "x" already exists'), True, id="collision"),
        param(asyncpg.UndefinedTableError('relation "staged_events" does not exist'), True, id="staging is gone"),
        param(asyncpg.DuplicateTableError('relation "staged_events" already exists'), True, id="staging of another"),
        param(asyncpg.UndefinedTableError('relation "sink_positions" does not exist'), False, id="schema dropped"),
        param(asyncpg.ProtocolViolationError("invalid message"), False, id="another violation"),
        param(ConnectionResetError("reset"), False, id="an outage"),
        param(PooledConnection("explained"), False, id="explained before"),
    ],
)
def test_errors_of_a_pooler_are_told_from_others(error: BaseException, is_pooler: bool) -> None:
    fault = pooled(error)
    assert (fault is not None) == is_pooler
    if fault is not None:
        assert str(error) in str(fault) and "ORDERSTREAM_POSTGRES" in str(fault)


async def test_a_refused_startup_parameter_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise asyncpg.ProtocolViolationError("unsupported startup parameter: search_path")

    monkeypatch.setattr(asyncpg, "connect", refuse)
    with pytest.raises(PooledConnection, match="transaction mode"):
        await connect("postgresql://pooler")


async def test_settings_that_a_pooler_ignored_are_found_before_anything_is_written(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = asyncpg.connect

    async def ignore(dsn: str, **options: Any) -> Any:
        return await direct(dsn, **{**options, "server_settings": {}})

    monkeypatch.setattr(asyncpg, "connect", ignore)
    with pytest.raises(PooledConnection, match="search_path"):
        await connect(database)


async def test_a_staging_table_of_another_session_is_explained(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = under_test.CREATE_STAGING * 2
    monkeypatch.setattr(under_test, "CREATE_STAGING", twice)
    with pytest.raises(PooledConnection, match="staged_events"):
        await PostgresDestination(lambda: database, READERS).positions([])
