"""The session's PostgreSQL, and one Kafka of this room's own that asks who you are -> the fixture `secured`."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app import app
from streams import admin
from tests.processes import RunningStack
from tests.security.secured import Secured, SecuredKafka, tls_before_postgres

#: `worker` has what `acls` prints, one line short is `short`, and `nobody` has nothing.
USERS = ("worker", "short", "nobody")


async def database_of_ones_own(dsn: str) -> None:
    """The sink's positions in the session's own database are those of another Kafka."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE DATABASE secured")
    await connection.close()


@pytest.fixture(scope="session")
def secured(stack: RunningStack) -> Iterator[Secured]:
    """Topics are there; nobody has a right yet. PostgreSQL is reached by a port that speaks TLS only."""
    data_dir = Path(tempfile.mkdtemp(prefix="orderstream-secured-"))
    broker = SecuredKafka(data_dir / "kafka", USERS)
    with broker, tls_before_postgres(stack.postgres, broker.authority.issue_cert("127.0.0.1")) as port:
        asyncio.run(admin.create(broker.bootstrap, app.required_topics()))
        asyncio.run(database_of_ones_own(stack.postgres))
        dsn = (
            f"{stack.postgres.split('@')[0]}@127.0.0.1:{port}/secured?sslmode=verify-full&sslrootcert={broker.ca_file}"
        )
        yield Secured(broker.bootstrap, dsn, data_dir, broker, stack.database)
    shutil.rmtree(data_dir, ignore_errors=True)
