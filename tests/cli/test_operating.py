"""docs/operating.md -> its command lines, read by the commands themselves -> the page and the commands agree."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import COMMANDS, command_of
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "operating.md").read_text()
LINES = sorted(set(re.findall(r"^\$ faust -A app (.+)$", PAGE, re.MULTILINE)))


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The innermost command that the words name, and what is left for it."""
    command = command_of(words[0])
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("order.json", "before.json", "items.jsonl", "before.snapshot", "now.snapshot"):
        (tmp_path / name).write_text("{}")
    command, rest = resolve(shlex.split(line.partition(" > ")[0]))
    with command.make_context(command.name, rest):
        pass


def leaves(command: click.Command, name: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from leaves(inner, f"{name} {inner.name}")
    else:
        yield name


def test_every_command_is_shown() -> None:
    shown = {leaf for name in COMMANDS for leaf in leaves(command_of(name), name)}
    missing = {name for name in shown if not any(line.startswith(name) for line in LINES)}
    assert missing == set()


def test_every_option_is_named() -> None:
    def options(command: click.Command) -> Iterator[str]:
        for inner in command.commands.values() if isinstance(command, click.Group) else ():
            yield from options(inner)
        for parameter in command.params:
            yield from parameter.opts if isinstance(parameter, click.Option) else ()

    missing = {option for name in COMMANDS for option in options(command_of(name)) if option not in PAGE}
    assert missing == set()
