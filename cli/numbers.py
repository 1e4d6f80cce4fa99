"""the log -> every order number counted anew -> gap-free and unique, or the first wrong offset."""

from __future__ import annotations

from functools import partial

import click
import orjson

from cli.auditing import audit, rows_of, table_of
from cli.console import Found, Operator, json_option, put_json
from cli.letters import reader_of
from cli.series import Count, Recorded
from tables.inventory import GROUP

EVENTS, ORDERS = "outlets.events.v1", "purchases.events.v1"


@click.group()
def numbers() -> None:
    """The numbers of orders, in a series for each outlet, prefix and year.

    Exit codes: 0 right, 1 a gap, a double, or a record that cannot be, 2 usage, 3 no broker answers.
    """


@numbers.command()
@json_option
@click.pass_obj
def verify(operator: Operator, as_json: bool) -> None:
    """Count every series anew from outlets.events.v1, compare it with the tables and with what orders say of
    themselves, and name the first offset at which something is wrong. Needs no worker; those that run may go on."""
    count, finding = audit(operator, EVENTS, "counting", partial(count_of, operator))
    sums = count.sums()
    if as_json:
        told = None if finding is None else finding._asdict()
        put_json({"right": finding is None, "events": count.events, **sums, "finding": told})
    if finding is not None:
        raise Found(f"{finding}.")
    if not as_json:
        text = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in sums.items())
        click.echo(f"Right: no gap and no number twice, {text}.")


async def count_of(operator: Operator, read_before: dict[int, int]) -> Count:
    """The orders before the tables, and both before the events: what they hold was given before they were read."""
    recorded = await _recorded(operator)
    last = await table_of(operator, GROUP, "number_series")
    numbers = {
        (record.key or b"").decode(): record.value.decode()
        async for record in rows_of(operator, GROUP, "order_numbers")
        if record.value is not None
    }
    return Count(last, numbers, recorded, read_before)


async def _recorded(operator: Operator) -> dict[str, Recorded]:
    """Order -> the number that it says it has."""
    reader, _ = await reader_of(operator.brokers, ORDERS)
    found: dict[str, Recorded] = {}
    async for record in reader.read(await reader.ends("read_committed"), {}):
        if record.value is not None and b'"order_numbered"' in record.value:
            said = orjson.loads(record.value)
            if said["type"] == "order_numbered":
                position = f"{record.topic}-{record.partition}-{record.offset}"
                found[said["order_uid"]] = Recorded(said["order_number"], position)
    return found
