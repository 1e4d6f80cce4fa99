"""`replay --into VERSION --yes --json` over the toy, in a process that can be killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import cli.building
from cli.console import Operator
from cli.into import replay_into
from schemas.settings import Settings
from streams.folding import Plan
from tests.streams import replaying, toy

LIVE = "toy.live"


def toys_plan(_: Operator, **__: Any) -> Plan:
    here = replaying.__name__
    return Plan("toy", f"{here}:wire", f"{here}:topics", here, replaying.PARTITIONS, "dead_letters.v1")


def main(data_dir: str, kafka: str, into: str) -> None:
    app = toy.make_app(Path(data_dir), partitions=replaying.PARTITIONS, broker=f"kafka://{kafka}", live_topic=LIVE)
    operator = Operator(app, Settings.load({}, kafka=kafka, data_dir=Path(data_dir), partitions=replaying.PARTITIONS))
    cli.building.folding_plan = toys_plan  # type: ignore[attr-defined, assignment]
    try:
        with click.Context(click.Command("replay")):
            replay_into(operator, into, dry_run=False, yes=True, as_json=True)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:4])
