"""The argument of the commit, turned round: an engine with one step of it broken is caught within so many histories."""

from __future__ import annotations

import pytest

from streams.task import Task
from tests.simulation.mutants import MUTANTS, Change, Mutant, broken, hunt

#: Each is caught within these (measured: docs/simulation.md); `make simulate ARGS="--mutant all"` looks further.
HISTORIES = 400


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_engine_is_caught(name: str) -> None:
    assert hunt(name, HISTORIES) is not None, (
        f"{name} ({MUTANTS[name].about}) went unseen through {HISTORIES} histories"
    )


def test_a_mutant_that_no_longer_fits_the_source_says_so() -> None:
    mutant = Mutant("nothing", "nothing", [Change(Task, "process", "words that are not there", "pass")])
    with pytest.raises(LookupError, match="mend the mutant"), broken(mutant):
        pass


def test_the_engine_is_whole_again_afterwards() -> None:
    before = Task.process
    with broken(MUTANTS["store_before_commit"]):
        assert Task.process is not before
    assert Task.process is before
