"""numbered SQL files -> the schema of a database, brought up to date once, by whichever process comes first."""

from __future__ import annotations

import hashlib
import logging
from importlib import resources
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

SCHEMA = "orderstream"
#: Any number that nobody else's advisory locks use: "orders" read as bytes.
LOCK = int.from_bytes(b"orders", "big")
TIMEOUT_S = 600.0


class SchemaMismatch(Exception):
    """The database has a migration that differs from the file of the same number."""


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The files of this version, in order. Raises SchemaMismatch when their numbers are not 1, 2, 3 …"""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    sources = [file for file in files if file.name.endswith(".sql")]
    found = sorted(Migration(int(file.name[:4]), file.name, file.read_text("utf-8")) for file in sources)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise SchemaMismatch(f"migrations must be numbered from 0001 without gaps: {[m.name for m in found]}")
    return found


async def migrate(connection: Any) -> int:
    """Apply what is missing, all or nothing, in one transaction; returns how many. Safe from any number of processes.

    A database that is ahead (a newer version of the platform has been here) is left alone: migrations only add.
    """
    wanted = migrations()
    if await _applied(connection) >= {migration.number: migration.digest for migration in wanted}.items():
        return 0
    async with connection.transaction():
        # An index on a large table takes its time, and so does the wait for another process that builds it.
        await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})", timeout=TIMEOUT_S)
        if not await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", SCHEMA):
            await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        await connection.execute(f"SET LOCAL search_path = {SCHEMA}, pg_temp")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL, "
            "digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = dict(await _applied(connection))
        for migration in wanted:
            digest = applied.get(migration.number)
            if digest is None:
                await connection.execute(migration.sql, timeout=TIMEOUT_S)
                await connection.execute(
                    "INSERT INTO schema_migrations (number, name, digest) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.digest,
                )
                log.info("PostgreSQL: applied migration %s", migration.name)
            elif digest != migration.digest:
                raise SchemaMismatch(
                    f"migration {migration.name} is not the one that this database has applied. A migration is never "
                    f"edited: add a new one. To start the sink anew: DROP SCHEMA {SCHEMA} CASCADE."
                )
        return len(wanted) - len(applied.keys() & {migration.number for migration in wanted})


async def _applied(connection: Any) -> Any:
    if await connection.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.schema_migrations") is None:
        return {}.items()
    rows = await connection.fetch(f"SELECT number, digest FROM {SCHEMA}.schema_migrations")
    return {row["number"]: row["digest"] for row in rows}.items()
