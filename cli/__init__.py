"""the app and its settings -> the operator's commands beside Faust's own -> `faust -A app <command>`."""

from faust.cli.base import cli as faust_cli

from cli.console import Operator
from cli.dead_letters import dead_letters
from cli.doctor import doctor
from cli.order import order
from cli.produce import produce
from cli.sink import sink
from cli.topics import topics
from schemas.settings import Settings
from streams import App

COMMANDS = (topics, produce, order, dead_letters, doctor, sink)


def attach(app: App, settings: Settings) -> None:
    """Register the commands. Faust has one command group per process: they serve the app that was attached last."""
    operator = Operator(app, settings)
    for command in COMMANDS:
        command.context_settings["obj"] = operator
        faust_cli.add_command(command)
