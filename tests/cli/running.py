"""a command, its arguments and an app of one's own -> run in this process -> output and exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

from cli.console import Operator
from schemas.settings import Settings
from streams import App


@dataclass(frozen=True)
class Desk:
    """An operator's place: an app and its settings. `run` is what `faust -A app <command>` does after its import."""

    app: App
    settings: Settings

    @property
    def operator(self) -> Operator:
        return Operator(self.app, self.settings)

    def run(self, command: click.Command, *arguments: str, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(command, arguments, obj=self.operator, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, command: click.Command, *arguments: str, exit_code: int = 0) -> Any:
        """The whole of standard output, as JSON."""
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)


def desk(kafka: str, data_dir: Path, app_id: str = "desk", **settings: Any) -> Desk:
    """A desk whose app declares nothing yet."""
    app = App(app_id, data_dir=data_dir, broker=[f"kafka://{host}" for host in kafka.split(",")])
    return Desk(app, Settings.load({}, kafka=kafka, data_dir=data_dir, **settings))
