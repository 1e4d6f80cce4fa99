"""What `replay` is asked for -> a plan, a refusal that says what is missing, a report with an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cli.bases
import cli.replay
from cli.bases import read_base, snapshots_of
from cli.console import Operator
from cli.folding import Reached, describe
from cli.refolding import Outcome
from cli.replay import Planned, replay
from cli.snapshot import diff
from streams.log_identity import LogIdentity
from streams.past import Cursor
from streams.records import TopicPartition
from streams.replay import Compared, Done, Job, Span
from streams.snapshot import Snapshot
from tests.cli.running import Desk, desk
from tests.streams import toy

LINE = Compared("counts", 0, {"words": 7}, 3, "a" * 64, "a" * 64, 0, None)


@pytest.fixture
def place(tmp_path: Path) -> Desk:
    made = desk("127.0.0.1:9", tmp_path, "toy")
    toy.wire(made.app, 2)
    return made


@pytest.fixture
def carried(place: Desk, monkeypatch: pytest.MonkeyPatch) -> list[Compared]:
    """The desk's log has one task; a replay of it comes to these lines."""
    lines = [LINE]
    job = Job("code", ("words-0",))
    group = place.app.groups["words"]
    span = Span(group, 0, {"words": 2, "reminders": 0}, {"words": 7, "reminders": 0}, True, 4, None, 3, (), frozenset())

    async def planned(*_: Any) -> Planned:
        return Planned([span], job, None, [], [], [], ["counted"], None, ())

    async def ran(*_: Any) -> Outcome:
        return Outcome("run", (), {"words-0": Done("run", 0, job, tuple(lines))}, {})

    async def told(_: Operator, outcome: Outcome) -> None:
        assert outcome.run == "run"

    monkeypatch.setattr(cli.replay, "_plan", planned)
    monkeypatch.setattr(cli.replay, "_run", ran)
    monkeypatch.setattr(cli.replay, "mark_reported", told)
    return lines


def test_a_plan_is_shown_and_nothing_done(place: Desk, carried: list[Compared]) -> None:
    result = place.run(replay, "--dry-run")
    assert result.exit_code == 0
    assert "words-0  5        3              words 2..7" in result.stdout
    assert "not sent again (--emit would): counted" in result.stdout
    shown = place.json(replay, "--dry-run")
    assert shown["tasks"][0] == {
        "task": "words-0",
        "inputs": {"words": [2, 7], "reminders": [0, 0]},
        "records": 5,
        "journal_steps": 3,
        "done": False,
    }
    assert (shown["from"], shown["tables"]["counts"]) == ("beginning", "toy-counts-changelog")


def test_equal_hashes_are_a_success(place: Desk, carried: list[Compared]) -> None:
    carried.append(LINE._replace(table="words_deadlines", rows=0))
    result = place.run(replay, "--yes")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()][1:] == [
        ["counts", "0", "3", "a" * 16, "a" * 16, "equal"],
        ["1", "more", "have", "no", "rows,", "before", "and", "after."],
    ]


def test_a_difference_names_table_partition_and_key(place: Desk, carried: list[Compared]) -> None:
    carried[:] = [LINE._replace(after="b" * 64, changed=2, first="k1"), LINE._replace(table="words_deadlines")]
    result = place.run(replay, "--yes")
    assert result.exit_code == 1
    assert "counts, partition 0: 2 rows are others now, the first is k1. 1 of 2 partitions" in result.stderr
    assert place.json(replay, "--yes", exit_code=1)["equal"] is False


def test_nobody_is_there_to_ask(place: Desk, carried: list[Compared]) -> None:
    result = place.run(replay)
    assert result.exit_code == 2 and "add --yes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--domain", "nobody"], "there is no domain nobody"),
        (["--emit", "words"], "words is no output topic"),
        (["--from", "yesterday"], "'yesterday' is none of: beginning, a time"),
        (["--from", "2026-11-21T12:00:00"], "is none of: beginning, a time"),
        (["--from", "17"], "name its task with --domain and --partition"),
    ],
)
def test_what_makes_no_sense_is_refused(place: Desk, arguments: list[str], said: str) -> None:
    result = place.run(replay, *arguments)
    assert result.exit_code == 2 and said in result.stderr, result.output


THIS_LOG = LogIdentity("cluster-1", {"words": "id-1", "reminders": "id-2"})


@pytest.fixture(autouse=True)
def this_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def identity(*_: Any) -> LogIdentity:
        return THIS_LOG

    monkeypatch.setattr(cli.bases, "read_identity", identity)


def keep(place: Desk, name: str, taken_at: str, journal: int, identity: LogIdentity | None = THIS_LOG) -> Path:
    file = snapshots_of(place.operator) / f"{name}.snapshot"
    file.parent.mkdir(exist_ok=True)
    with Snapshot(file, new=True) as snapshot:
        inputs = {TopicPartition("words", 0): 5, TopicPartition("reminders", 0): 1, TopicPartition("words", 1): 9}
        describe(snapshot, Reached(inputs, {"words-0": Cursor({}, journal, 2)}), taken_at, identity)
        snapshot.add_rows("counts", 0, [(b"a", b"1")])
    return file


def test_a_snapshot_says_where_a_fold_goes_on(place: Desk) -> None:
    base = read_base(keep(place, "one", "2026-11-21T12:00:00.000+00:00", 3))
    assert base.cursors == {"words-0": Cursor({"words": 5, "reminders": 1}, 3, 2)}


@pytest.mark.parametrize(
    ("since", "found"),
    [
        ("2026-11-21T12:30:00Z", "one"),
        ("2026-11-21T15:00:00+02:00", "two"),
        ("2026-11-21T11:00:00Z", None),
        ("3", "one"),
        ("8", "two"),
        ("2", None),
    ],
)
def test_the_newest_snapshot_before_then_is_taken(
    place: Desk, monkeypatch: pytest.MonkeyPatch, since: str, found: str | None
) -> None:
    files = {
        "one": keep(place, "one", "2026-11-21T12:00:00.000+00:00", 3),
        "two": keep(place, "two", "2026-11-21T13:00:00.000+00:00", 8),
    }
    chosen: list[Path] = []

    async def planned(_: Operator, __: Any, job: Job, base: Any) -> Planned:
        chosen.append(base.path)
        return Planned([], job, base, [], [], [], [], None, ())

    monkeypatch.setattr(cli.replay, "_plan", planned)
    result = place.run(replay, "--dry-run", "--domain", "words", "--partition", "0", "--from", since)
    if found is None:
        assert result.exit_code == 1 and "faust -A app snapshot` keeps them as they are now" in result.stderr
        assert "the earliest of 2 is of" in result.stderr
    else:
        assert (result.exit_code, chosen) == (0, [files[found]]), result.output
        assert "was written by other code" not in result.stderr


def test_a_file_that_says_no_position_is_refused(place: Desk, tmp_path: Path) -> None:
    with Snapshot(tmp_path / "old", new=True) as snapshot:
        describe(snapshot, Reached({}, {}))
    result = place.run(replay, "--from", str(tmp_path / "old"))
    assert result.exit_code == 1 and "does not say where in the log it was taken" in result.stderr


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        (
            LogIdentity("cluster-2", THIS_LOG.topics),
            "it is of the cluster cluster-2, and this is the cluster cluster-1",
        ),
        (LogIdentity("cluster-1", {"words": "id-0", "reminders": "id-2"}), "words was deleted and created again"),
        (LogIdentity("cluster-1", {"gone": "id-9"}), "there is no topic gone any more"),
        (None, "does not say of which log it is"),
    ],
)
def test_a_snapshot_of_another_log_is_never_used(place: Desk, identity: LogIdentity | None, why: str) -> None:
    file = keep(place, "other", "2026-11-21T12:00:00.000+00:00", 3, identity)
    named = place.run(replay, "--yes", "--from", str(file))
    assert named.exit_code == 1 and why in named.stderr, named.output
    found = place.run(replay, "--yes", "--from", "2026-11-21T12:30:00Z")
    assert found.exit_code == 1 and why in found.stderr and "There is no snapshot of" in found.stderr


def test_an_older_snapshot_of_this_log_is_taken_instead_of_a_newer_one_of_another(
    place: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(place, "other", "2026-11-21T12:00:00.000+00:00", 3, LogIdentity("cluster-2", THIS_LOG.topics))
    kept, chosen = keep(place, "own", "2026-11-21T11:00:00.000+00:00", 2), []

    async def planned(_: Operator, __: Any, job: Job, base: Any) -> Planned:
        chosen.append(base.path)
        return Planned([], job, base, [], [], [], [], None, ())

    monkeypatch.setattr(cli.replay, "_plan", planned)
    result = place.run(replay, "--dry-run", "--from", "2026-11-21T12:30:00Z")
    assert chosen == [kept] and "other.snapshot is of another log" in result.stderr


def test_two_snapshots_of_different_logs_are_compared_with_a_warning(place: Desk) -> None:
    mine = keep(place, "mine", "2026-11-21T12:00:00.000+00:00", 3)
    other = keep(place, "other", "2026-11-21T12:00:00.000+00:00", 3, LogIdentity("cluster-2", {}))
    result = place.run(diff, str(mine), str(other))
    assert result.exit_code == 0 and "are of different logs" in result.stderr
