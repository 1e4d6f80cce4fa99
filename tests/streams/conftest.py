"""The toy topology on the session's real broker -> the fixture `toy`."""

from __future__ import annotations

import pytest

from tests.processes import RunningStack, Workers
from tests.streams.load import Toy


@pytest.fixture
async def toy(clean_stack: RunningStack, workers: Workers) -> Toy:
    toy = Toy(clean_stack, workers)
    await toy.create_topics()
    return toy
