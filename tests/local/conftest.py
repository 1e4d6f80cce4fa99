"""The fixture `site`: a data directory and free ports for one test of the command line."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import local
from local.ports import find_free
from tests.local.sites import Site


@pytest.fixture
def site() -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="orderstream-local-"))
    kafka_port, postgres_port, web_port, sandbox_port = find_free(4)
    found = Site(directory / "data", kafka_port, postgres_port, web_port, sandbox_port)
    try:
        yield found
    finally:
        stack = local.running(found.data_dir)
        if stack is not None:  # a test that failed half-way
            psutil.Process(stack.pid).kill()
        shutil.rmtree(directory, ignore_errors=True)
