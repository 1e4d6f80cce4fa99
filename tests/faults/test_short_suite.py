"""The rows that every change must hold, in their brief form; `make faults` runs all rows in full."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults import rows
from tests.faults.row import table
from tests.faults.trial import run
from tests.processes import RunningStack

SHORT = (6,)
SEED = 7


@pytest.mark.parametrize("number", SHORT, ids=lambda number: f"{number} {rows[number].name}")
def test_fault(stack: RunningStack, number: int) -> None:
    outcome = asyncio.run(run(rows[number], stack, SEED, brief=True))
    print(table([outcome]))
    assert outcome.held, outcome.why
