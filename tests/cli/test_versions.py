"""Which version is live -> what `replay --into` builds from, what may be removed; what makes no sense is refused."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli.building import Building
from cli.console import Found
from cli.into import Report, source_of
from cli.replay import replay
from cli.versions import state_of, version_of, versions
from streams.building import Seen
from streams.errors import NotLive
from streams.live import Said
from tests.cli.running import Desk, desk
from tests.streams import toy

TO_2, GREEN = Said("switching", "", "2", 0, "r"), Said("live", "", "2", 0, "r")
BACK, BLUE = Said("switching", "2", "", 0, "r"), Said("live", "2", "", 0, "r")


@pytest.fixture
def place(tmp_path: Path) -> Desk:
    made = desk("127.0.0.1:9", tmp_path, "toy")
    toy.wire(made.app, 2)
    return made


@pytest.mark.parametrize(
    ("said", "to", "source"),
    [
        (None, "2", ""),
        (None, "", None),
        (GREEN, "2", None),
        (GREEN, "", "2"),
        (GREEN, "3", "2"),
        (BLUE, "2", ""),
        (TO_2, "2", ""),  # it goes on with what was cut short
        (BACK, "", "2"),
    ],
)
def test_what_is_live_is_what_is_built_from(said: Said | None, to: str, source: str | None) -> None:
    assert source_of(said, to) == source


@pytest.mark.parametrize(("said", "to"), [(TO_2, "3"), (TO_2, ""), (BACK, "2")])
def test_one_switch_at_a_time(said: Said, to: str) -> None:
    with pytest.raises(NotLive, match=r"is under way.*versions --abandon"):
        source_of(said, to)


@pytest.mark.parametrize(
    ("said", "states"),
    [
        (None, ["live", "stands by"]),
        (TO_2, ["is switched from", "is switched to"]),
        (GREEN, ["stands by", "live"]),
        (BACK, ["is switched to", "is switched from"]),
        (BLUE, ["live", "stands by"]),
    ],
)
def test_only_who_stands_by_may_be_removed(said: Said | None, states: list[str]) -> None:
    assert [state_of(version, said) for version in ("", "2")] == states
    assert state_of("3", said) == "stands by"


def test_versions_are_known_by_their_journals() -> None:
    topics = ["shop-orders-journal", "shop-v2-orders-journal", "shop-vat-changelog", "shop-v2-orders-changelog"]
    assert [version_of(topic, "shop") for topic in topics] == [None, "2", None, None]


@pytest.mark.parametrize(
    ("command", "arguments", "said", "code"),
    [
        (replay, ["--into", "2", "--domain", "words"], "--into builds the whole of a version", 2),
        (replay, ["--into", "2"], "This application has no versions", 1),
        (replay, ["--into", "A-1"], "is no name of a version", 2),
        (versions, ["--abandon", "--remove", "2"], "Either --abandon or --remove", 2),
        (versions, ["--remove", "2"], "This application has no versions", 1),
        (versions, [], "This application has no versions", 1),
    ],
)
def test_what_makes_no_sense_is_refused(
    place: Desk, command: click.Command, arguments: list[str], said: str, code: int
) -> None:
    result = place.run(command, *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


def test_a_report_says_whether_both_hold_the_same() -> None:
    same = Seen("counts", 0, 3, "a", "a", 0, None, 0)
    report = Report("", "2", [same], switched_s=1.234)
    told = report.to_json()
    assert (told["equal"], told["switched"], told["switched_s"]) == (True, True, 1.23)
    report.tables = [same, same._replace(after="b", changed=1, first="k")]
    assert report.to_json()["equal"] is False and [seen.first for seen in report.differ] == ["k"]
    assert Report("", "2").to_json()["switched"] is False


@pytest.mark.parametrize(("taken", "rounds"), [([0], 1), ([9_000, 5_000, 2_000], 3), ([9_000] * 20, None)])
async def test_it_catches_up_until_little_is_left(
    taken: list[int], rounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, building = list[int](), Building.__new__(Building)

    async def one_round(_: Building) -> int:
        done.append(taken[len(done)])
        return done[-1]

    monkeypatch.setattr(Building, "round", one_round)
    if rounds is None:
        with pytest.raises(Found, match="run this again when less comes in"):
            await building.catch_up()
    else:
        await building.catch_up()
        assert len(done) == rounds
