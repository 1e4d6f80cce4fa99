"""The rows and their table, without a platform: nothing is left out, and what does not hold is not called held."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.faults import rows
from tests.faults.row import Outcome, shortcoming, table, write
from tests.faults.webhook_rows import CHECK, Got, judge_deliveries
from tests.oracle.verdict import Kind, Verdict
from tests.processes import ROOT


def test_every_row_is_there_and_described() -> None:
    described = re.findall(
        r"^\| (\d+)(?: ⛁)? \| [^|]+ \| [^|]+ \| [^|]*\|$", (ROOT / "docs" / "faults.md").read_text(), re.M
    )
    assert sorted(rows) == sorted(set(map(int, described)))


def test_deliveries_are_held_to_what_happened() -> None:
    log = [{"event_id": event, "delivery_id": f"d{event}", "state": "delivered"} for event in "ab"]
    got = [Got("", f"d{event}", event, mood) for event, mood in (("a", "error"), ("a", "ok"), ("b", "ok"), ("b", "ok"))]

    def judged(events: str, log: list[dict[str, str]], got: list[Got]) -> Verdict:
        verdict = Verdict()
        judge_deliveries(events, log, got, verdict)
        return verdict

    assert judged("ab", log, got).clean
    assert set(judged("ab", log, got[:2]).examples) == {(Kind.LOST, CHECK)}, "never taken"
    assert set(judged("ab", log, [got[0], *got[2:]]).examples) == {(Kind.LOST, CHECK)}, "taken with an error"
    assert set(judged("ab", log[:1], got).examples) == {(Kind.LOST, CHECK)}, "not in the log"
    assert set(judged("ab", [*log, log[0]], got).examples) == {(Kind.DOUBLED, CHECK)}
    assert (Kind.DOUBLED, CHECK) in judged("ab", log, [*got, Got("", "other", "a", "ok")]).examples
    assert set(judged("a", log, got).examples) == {(Kind.WRONG, CHECK)}, "of nothing that happened"
    waits = [{**log[0], "state": "given_up"}, log[1]]
    assert set(judged("ab", waits, got).examples) == {(Kind.WRONG, CHECK)}


def test_what_does_not_hold_is_said_with_its_seed(tmp_path: Path) -> None:
    held, broken = Outcome(1, "a", 7, work=10), Outcome(2, "b", 8, work=10, lost=1, why="1 lost")
    shown = table([held, broken])
    assert "NOT HELD" in shown and "2 did not hold with SEED=8: 1 lost" in shown
    write(tmp_path / "result.json", [held, broken])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["runs"], result["held"], [row["held"] for row in result["rows"]]) == (2, 1, [True, False])


def test_a_full_run_that_did_too_little_says_so() -> None:
    assert (
        shortcoming([Outcome(2, "a", 7, kills=16), Outcome(3, "b", 7, kills=4), Outcome(5, "c", 7, fenced=3)]) is None
    )
    assert "19 kill -9 of 20, 3 zombies" in str(shortcoming([Outcome(2, "a", 7, kills=19, fenced=3)]))
    assert "2 zombies fenced of 3" in str(shortcoming([Outcome(2, "a", 7, kills=25, fenced=2)]))
