"""the app and its settings -> the operator's commands beside Faust's own -> `faust -A app <command>`."""

from faust.cli.base import cli as faust_cli

from cli import (
    acls,
    attest,
    dead_letters,
    doctor,
    erase,
    items,
    ledger,
    lifecycle,
    numbers,
    offsets,
    order,
    produce,
    replay,
    reset,
    sink,
    snapshot,
    topics,
    verify,
    versions,
    what_if,
)
from cli.console import Operator
from cli.past import Folds
from schemas.settings import Settings
from streams import App

COMMANDS = (
    topics.topics,
    produce.produce,
    order.order,
    dead_letters.dead_letters,
    doctor.doctor,
    sink.sink,
    ledger.ledger,
    items.items,
    numbers.numbers,
    lifecycle.lifecycle,
    offsets.offsets,
    replay.replay,
    reset.reset,
    acls.acls,
    erase.erase,
    attest.attest,
    verify.verify,
    versions.versions,
    what_if.what_if,
    snapshot.snapshot,
    snapshot.diff,
)


def attach(app: App, settings: Settings, folds: Folds | None = None) -> None:
    """Register the commands. Faust has one command group per process: they serve the app that was attached last.

    `folds`: the rules', for commands that read the log.
    """
    operator = Operator(app, settings, folds)
    for command in COMMANDS:
        command.context_settings["obj"] = operator
        faust_cli.add_command(command)


__all__ = ["COMMANDS", "Folds", "attach"]
