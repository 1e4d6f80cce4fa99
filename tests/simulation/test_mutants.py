"""The argument of the commit, turned round: an engine with one step of it broken is caught within so many histories."""

from __future__ import annotations

import pytest

from streams.task import Task
from tests.simulation.mutants import MUTANTS, Change, Mutant, broken, hunt

#: What is caught by whatever is broken; the rest needs a rare meeting of several faults (measured: docs/simulation.md).
HISTORIES = 400
RARE = {"mismatch_believed_at_once": 2_000, "no_lease": 2_000, "position_ahead_of_data": 2_000}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_engine_is_caught(name: str) -> None:
    most = RARE.get(name, HISTORIES)
    assert hunt(name, most) is not None, f"{name} ({MUTANTS[name].about}) went unseen through {most} histories"


def test_a_mutant_that_no_longer_fits_the_source_says_so() -> None:
    mutant = Mutant("nothing", "nothing", [Change(Task, "process", "words that are not there", "pass")])
    with pytest.raises(LookupError, match="mend the mutant"), broken(mutant):
        pass


def test_the_engine_is_whole_again_afterwards() -> None:
    before = Task.process
    with broken(MUTANTS["store_before_commit"]):
        assert Task.process is not before
    assert Task.process is before
