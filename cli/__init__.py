"""the app and its settings -> the operator's commands beside Faust's own -> `faust -A app <command>`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, TextIO, cast

import click
from faust.cli.base import cli as faust_cli

from cli.console import Operator
from cli.past import Folds
from schemas.settings import Settings
from streams import App
from streams.printable import PrintableStream

#: Each command, and the module that it is the function of its own name in.
COMMANDS = {
    "topics": "topics",
    "produce": "produce",
    "order": "order",
    "dead-letters": "dead_letters",
    "doctor": "doctor",
    "sink": "sink",
    "ledger": "ledger",
    "items": "items",
    "numbers": "numbers",
    "lifecycle": "lifecycle",
    "offsets": "offsets",
    "replay": "replay",
    "reset": "reset",
    "acls": "acls",
    "erase": "erase",
    "attest": "attest",
    "verify": "verify",
    "versions": "versions",
    "what-if": "what_if",
    "snapshot": "snapshot",
    "diff": "snapshot",
}


def command_of(name: str) -> click.Command:
    """The command itself, imported."""
    command: click.Command = getattr(import_module(f"cli.{COMMANDS[name]}"), name.replace("-", "_"))
    return command


class Later(click.Command):
    """A command that is imported when somebody calls it: a worker's start does without all of them."""

    def __init__(self, name: str, operator: Operator) -> None:
        super().__init__(name)
        self._called, self._operator = name, operator

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Of the command itself, which click goes on with. What it shows of foreign data is escaped on its way out."""
        if not isinstance(sys.stdout, PrintableStream):
            sys.stdout = cast(TextIO, PrintableStream(sys.stdout))
        return command_of(self._called).make_context(info_name, args, parent, obj=self._operator, **extra)

    def get_short_help_str(self, limit: int = 45) -> str:
        return command_of(self._called).get_short_help_str(limit)


def attach(app: App, settings: Settings, folds: Folds | None = None) -> None:
    """Register the commands. Faust has one command group per process: they serve the app that was attached last.

    `folds`: the rules', for commands that read the log.
    """
    operator = Operator(app, settings, folds)
    for name in COMMANDS:
        faust_cli.add_command(Later(name, operator))


__all__ = ["COMMANDS", "Folds", "attach", "command_of"]
