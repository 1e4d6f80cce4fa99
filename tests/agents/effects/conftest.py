"""A database of its own for each test, on the session's PostgreSQL."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.processes import RunningStack


@pytest.fixture
async def database(stack: RunningStack) -> AsyncIterator[str]:
    """The DSN of an empty database."""
    if not stack.database.running():
        stack.database.start()
    name = f"sink_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(stack.postgres)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    yield urlunsplit(urlsplit(stack.postgres)._replace(path=f"/{name}"))
    with contextlib.suppress(Exception):
        admin = await asyncpg.connect(stack.postgres)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
