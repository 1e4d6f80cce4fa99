"""the table of legal moves -> the life of a bought order, as a Mermaid diagram or as data."""

from __future__ import annotations

import click

from cli.console import json_option, put_json
from schemas.purchases.lifecycle import mermaid, moves


@click.command()
@json_option
def lifecycle(as_json: bool) -> None:
    """Draw the life of an order that is bought here: which command leads from which status to which.

    The rules go by the same table. Needs neither a broker nor a worker. Exit code 0.
    """
    if as_json:
        put_json({"moves": [move._asdict() for move in moves()]})
    else:
        click.echo(mermaid())
