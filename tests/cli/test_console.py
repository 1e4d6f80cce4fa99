"""a terminal or none, a broker or none -> cli.console -> what is printed where, what is asked, which exit code."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from aiokafka.errors import KafkaError
from click.testing import CliRunner
from faust.cli.base import State

from cli import console
from cli.dead_letters import dead_letters
from cli.produce import produce
from cli.reset import reset
from cli.topics import topics
from streams.admin import NoLeader, TopicsRefused
from tests.cli.running import desk


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (topics, ["plan"]),
        (topics, ["create", "--yes"]),
        (topics, ["check"]),
        (produce, ["--count", "1"]),
        (dead_letters, ["list"]),
        (dead_letters, ["show", "orders-0-0"]),
        (dead_letters, ["redrive", "--all"]),
        (reset, ["--yes"]),
    ],
)
def test_no_broker(tmp_path: Path, command: click.Command, arguments: list[str]) -> None:
    for more in ([], ["--json"]):
        result = desk("127.0.0.1:1", tmp_path).run(command, *arguments, *more)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: No Kafka broker answers at 127.0.0.1:1")
        assert "ORDERSTREAM_KAFKA" in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (TopicsRefused("the broker refused topic x"), 1, "The broker refused topic x"),
        (NoLeader(["orders-0"], 5), 1, "No leader after 5 s for orders-0"),
        (KafkaError("not allowed"), 1, "refused: "),
    ],
)
def test_errors_of_the_broker_are_no_tracebacks(tmp_path: Path, error: Exception, exit_code: int, message: str) -> None:
    async def fail() -> None:
        raise error

    @click.command()
    @click.pass_obj
    def failing(operator: console.Operator) -> None:
        operator.run(fail())

    result = desk("127.0.0.1:1", tmp_path).run(failing)
    assert result.exit_code == exit_code
    assert message in result.stderr


def test_fausts_own_json_option_counts() -> None:
    state = State()
    state.json = True

    @click.group()
    def root() -> None: ...

    @root.command()
    @console.json_option
    def inner(as_json: bool) -> None:
        console.put_json({"as_json": as_json})

    shown = CliRunner().invoke(root, ["inner"], obj=state)
    assert json.loads(shown.stdout) == {"as_json": True}


@pytest.mark.parametrize("quiet", [True, False])
def test_notes_go_to_standard_error_unless_quiet(quiet: bool) -> None:
    state = State()
    state.quiet = quiet

    @click.command()
    def noting() -> None:
        console.note("for the person")
        with console.progress("working", 10) as bar:
            bar.update(10)

    shown = CliRunner().invoke(noting, obj=state)
    assert shown.stdout == ""
    assert shown.stderr == ("" if quiet else "for the person\n"), "off a terminal there is no bar"


@pytest.mark.parametrize(("answer", "exit_code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_question_on_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str, exit_code: int) -> None:
    @click.command()
    def asking() -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        console.confirm("Delete it?", yes=False)
        click.echo("deleted")

    result = CliRunner().invoke(asking, input=answer)
    assert (result.exit_code, "deleted" in result.stdout) == (exit_code, exit_code == 0)
    assert "Delete it?" in result.stderr, "a question is no data"


def test_a_question_without_a_terminal_needs_yes() -> None:
    @click.command()
    @click.option("--yes", is_flag=True)
    def asking(yes: bool) -> None:
        console.confirm("Delete it?", yes)
        click.echo("deleted")

    assert CliRunner().invoke(asking, ["--yes"]).stdout == "deleted\n"
    refused = CliRunner().invoke(asking, input="y\n")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://me:secret@db.example:5433/orders", "db.example:5433/orders"),
        ("postgresql:///orders", "a local socket:5432/orders"),
    ],
)
def test_a_place_shows_no_credentials(tmp_path: Path, dsn: str, place: str) -> None:
    assert desk("127.0.0.1:1", tmp_path, postgres=dsn).operator.postgres_place() == place


def test_no_postgres_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(console.Unreachable, match="No PostgreSQL is up"):
        desk("127.0.0.1:1", tmp_path).operator.postgres()


def test_libraries_are_silent_only_while_a_command_runs(tmp_path: Path) -> None:
    before = logging.getLogger("aiokafka").level
    seen: list[int] = []

    async def work() -> Any:
        seen.append(logging.getLogger("aiokafka").level)

    @click.command()
    @click.pass_obj
    def working(operator: console.Operator) -> None:
        operator.run(work())

    desk("127.0.0.1:1", tmp_path).run(working)
    assert (seen, logging.getLogger("aiokafka").level) == ([logging.CRITICAL], before)
