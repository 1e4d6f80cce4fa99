"""a log -> the fold of its events, and everything in the log that cannot be."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from tests.oracle.history import Fold, judge_history
from tests.oracle.inlet import judge_forwarding, judge_letters
from tests.oracle.inputs import read_inputs
from tests.oracle.log import LETTERS, Log
from tests.oracle.tables import judge_changelogs
from tests.oracle.verdict import Verdict


def judge(log: Log, verdict: Verdict) -> Fold:
    """Every input, every output, every row of every changelog. What others hold is compared with the fold."""
    inputs = read_inputs(log)
    verdict.looked("inputs", len(inputs))
    judge_forwarding(log, inputs, verdict)
    judge_letters(log, log.of(LETTERS), inputs, verdict)
    fold = judge_history(log, inputs, verdict)
    judge_changelogs(log, fold, verdict)
    return fold


@contextmanager
def uncollected() -> Iterator[None]:
    """Millions of rows that are all in use: looking for cycles among them would double the time of a judgement."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
