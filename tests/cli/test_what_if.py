"""A past that was written down -> `what-if`, `snapshot` and `diff`, with real processes and rules from files."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest

import cli.snapshot
import cli.what_if
from cli.console import Operator
from cli.folding import Reached
from cli.rooms import furnish
from cli.snapshot import diff, snapshot
from cli.what_if import what_if
from schemas.settings import Settings
from streams.driver import Driver
from streams.log_identity import LogIdentity
from streams.snapshot import Snapshot
from tests.agents.domain import make_app
from tests.agents.pasts import as_it_was, write_down
from tests.agents.test_what_if import Street
from tests.cli.running import Desk
from tests.processes import ROOT

PARTITIONS = 2
DEARER = """
from agents import checkout

asked = checkout._reserved


def _reserved(event):
    said = asked(event)
    return said.model_copy(update={"price_minor": 800}) if event.item_id == "lamp" else said


checkout._reserved = _reserved
"""


async def lived(folder: Path) -> dict[str, dict[str, Any]]:
    app, _ = make_app(folder, PARTITIONS)
    async with Driver(app) as driver:
        street = Street(driver)
        await street.open()
        for number in range(12):
            await street.buy("ann", "account", **({"lamp": 1} if number % 3 == 0 else {"ink": 2}))
        await write_down(driver, folder, PARTITIONS)
        return street.carts


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Twelve carts, a third of them with a lamp."""
    folder = tmp_path_factory.mktemp("past")
    return folder, asyncio.run(lived(folder))


@pytest.fixture
def desk(past: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose log is that past; its data are the test's own."""

    async def as_written(operator: Operator, folder: Path) -> tuple[int, Reached]:
        for file in past[0].glob("*.acts"):
            shutil.copy(file, folder)
        return 100, Reached({}, {})

    async def unchecked(self: Operator, work: Any) -> Any:
        return await work

    monkeypatch.setattr(Operator, "after_check", unchecked)
    for module in (cli.what_if, cli.snapshot):
        monkeypatch.setattr(module, "spool_pasts", as_written)
    app, _ = make_app(tmp_path / "data", PARTITIONS)
    return Desk(app, Settings.load({}, data_dir=tmp_path / "data", partitions=PARTITIONS))


def test_a_planted_rule_is_told_in_every_way(
    desk: Desk, past: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lamps = {uid for uid, cart in past[1].items() if "lamp" in cart["lines"]}
    dearer, page, kept, mine = (tmp_path / name for name in ("dearer.py", "page.html", "kept", "mine"))
    dearer.write_text(DEARER)
    shown = desk.run(what_if, "--rules", str(dearer), "--html", str(page), "--keep", str(kept))
    assert shown.exit_code == 0, shown.output
    assert "4 of 12 orders end differently" in shown.stdout
    assert ["moved_minor", "3,440", "3,840", "+400"] in [line.split() for line in shown.stdout.splitlines()]
    assert "purchases.events.v1 #2: line_reserved / line_reserved" in shown.stdout
    assert all(uid in shown.stdout for uid in lamps)
    assert seen(page) >= lamps

    async def as_folded(operator: Operator, folder: Path, count: int, into: Path) -> None:
        (await as_it_was(folder, PARTITIONS)).close()

    async def identity(*_: Any) -> LogIdentity:
        return LogIdentity("cluster", {})

    monkeypatch.setattr(cli.snapshot, "fold_pasts", as_folded)
    monkeypatch.setattr(cli.snapshot, "read_identity", identity)
    assert desk.run(snapshot, str(mine)).exit_code == 0
    found = desk.json(diff, str(mine), str(kept), exit_code=1)
    assert {each["key"] for each in found["events"] if each["topic"] == "purchases.events.v1"} == lamps
    assert {each["key"] for each in found["rows"] if each["table"] == "purchases"} == lamps

    assert desk.run(diff, str(mine), str(mine)).exit_code == 0
    assert not list((tmp_path / "data").glob("folding-*")), "nothing is left behind"


class Ids(HTMLParser):
    """The ids on a page; raises on what is no HTML at all."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link"), "nothing comes from elsewhere"
        self.found |= {value or "" for name, value in attributes if name == "id"}


def seen(page: Path) -> set[str]:
    ids = Ids()
    ids.feed(page.read_text())
    return ids.found


def test_rules_that_cannot_be_folded_say_why(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_now(operator: Operator, folder: Path, count: int, into: Path) -> None:
        """What comes before is not this test's."""

    monkeypatch.setattr(cli.what_if, "fold_pasts", not_now)
    (tmp_path / "broken.py").write_text("from agents import nothing_like_it\n")
    result = desk.run(what_if, "--rules", str(tmp_path / "broken.py"))
    assert result.exit_code == 1
    assert "cannot import name 'nothing_like_it'" in result.stderr
    assert not list((tmp_path / "data").glob("folding-*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rules", "nowhere.py"], "there is no file nowhere.py"),
        (["--rules", "agents.nowhere=setup.py"], "there is no module agents.nowhere"),
        (["--rules", "streams.task=setup.py"], "streams.task is in none of schemas, tables, agents"),
        (["--rules", "one", "--rules", "two"], "one module at most is imported"),
        (["--revision", "nowhere"], "not a valid object name"),
    ],
)
def test_rules_that_are_not_there_are_refused(desk: Desk, arguments: list[str], said: str) -> None:
    result = desk.run(what_if, *arguments)
    assert result.exit_code == 2 and said in result.stderr.replace("\n", " "), result.output


def test_a_file_stands_in_for_a_module_and_the_engine_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("mine = 1\n")
    module = furnish(tmp_path / "rooms", (f"agents.purchases.rules={tmp_path / 'mine.py'}", "some.module"), None)
    assert module == "some.module"
    assert (tmp_path / "rooms/agents/purchases/rules.py").read_text() == "mine = 1\n"
    assert (tmp_path / "rooms/streams/shadow.py").read_text() == (ROOT / "streams/shadow.py").read_text()
    furnish(tmp_path / "packages", (f"agents.purchases={tmp_path / 'mine.py'}",), None)
    assert (tmp_path / "packages/agents/purchases/__init__.py").read_text() == "mine = 1\n"


def test_a_revision_has_its_own_rules(tmp_path: Path) -> None:
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert furnish(tmp_path / "rooms", (), revision.stdout.strip()) is None
    there = subprocess.run(["git", "show", "HEAD:agents/checkout.py"], cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / "rooms/agents/checkout.py").read_bytes() == there.stdout


KILLED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from cli.folding import scratch
settings = SimpleNamespace(state_dir=Path(sys.argv[1]) / "state")
with scratch(SimpleNamespace(app=SimpleNamespace(engine_settings=lambda: settings))) as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_command_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    folder = Path(child.stdout.readline().decode().strip())
    assert (folder / "big").exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    for _ in range(100):
        if not folder.exists():
            break
        time.sleep(0.05)
    assert not folder.exists()


def test_attestations_are_compared(desk: Desk, tmp_path: Path) -> None:
    row = {"table": "orders", "partition": 0, "position": {"orders": 7}, "rows": 1, "hash": "a" * 64}
    others = [row | {"hash": "b" * 64}, row | {"partition": 1, "position": {"orders": 8}}]
    for name, rows in (("a", [row, row | {"partition": 1}]), ("b", others), ("c", [row])):
        (tmp_path / name).write_bytes(orjson.dumps({"tables": rows}))
    told = desk.json(diff, str(tmp_path / "a"), str(tmp_path / "b"), exit_code=1)
    assert [each["what"] for each in told["tables"]] == ["other rows after the same records", "another position"]
    assert desk.run(diff, str(tmp_path / "a"), str(tmp_path / "a")).exit_code == 0
    only = desk.json(diff, str(tmp_path / "a"), str(tmp_path / "c"), exit_code=1)
    assert [each["what"] for each in only["tables"]] == ["only in the first"]


def test_a_snapshot_and_an_attestation_are_not_compared(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"{}")
    Snapshot(tmp_path / "b", new=True).close()
    result = desk.run(diff, str(tmp_path / "a"), str(tmp_path / "b"))
    assert result.exit_code == 2 and "are not of a kind" in result.stderr
