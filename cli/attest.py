"""the log -> a hash of each table's partition with its position -> printed, or compared with an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson

from cli.console import Found, Operator, json_option, note, progress, put_json, put_table
from streams import NotReadable
from streams.attest import Attested, code_version
from streams.attest import attest as attest_log

ROOT = Path(__file__).parent.parent
#: The rooms that decide what a state is.
DECIDING = ("schemas", "streams", "tables", "agents")


@click.command()
@click.option("--table", "tables", metavar="NAME", multiple=True, help="Only this table. Repeatable; without: all.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What an earlier `attest --json` printed: compare, and name the first difference.",
)
@json_option
@click.pass_obj
def attest(operator: Operator, tables: tuple[str, ...], against: Path | None, as_json: bool) -> None:
    """Prove what the state is: a hash of every table's partition, with the offsets that it reflects.

    It is read from the changelogs, so workers may run or not. Equal hashes mean equal rows after the same records: on
    one worker or five, after a kill, a restore, a replay, on another machine. Exit codes: 0 done, 1 a difference, or
    records come in too fast to read one moment, 2 no such table or no such file, 3 no broker answers.
    """
    groups = operator.app.groups
    known = [name for group in groups.values() for name in group.tables]
    if unknown := [name for name in tables if name not in known]:
        raise click.BadParameter(f"there is no table {unknown[0]}; there are {', '.join(known)}", param_hint="--table")
    earlier = read_attested(against) if against is not None else None
    try:
        found = operator.run(operator.after_check(_attested(operator, tables)))
    except NotReadable as error:
        raise Found(f"{error}.") from None
    rows = [each._asdict() for each in found]
    if as_json:
        put_json({"code": code_version(ROOT / room for room in DECIDING), "tables": rows})
    else:
        cells = [(each.table, each.partition, each.rows, _position(each.position), each.hash[:16]) for each in found]
        put_table(("table", "partition", "rows", "position", "hash"), cells)
    if earlier is not None:
        if difference := first_difference(earlier, rows):
            raise Found(difference)
        note(f"Equal to {against}: {len(rows)} partitions of tables.")


async def _attested(operator: Operator, tables: tuple[str, ...]) -> list[Attested]:
    groups = operator.app.groups
    count = sum(group.partitions * len(group.tables) for group in groups.values())
    found = []
    with progress("reading changelogs", count) as bar:
        async for each in attest_log(operator.app.engine_settings(), groups):
            bar.update(1)
            if not tables or each.table in tables:
                found.append(each)
    return found


def read_attested(path: Path) -> list[dict[str, Any]]:
    """What `attest --json` printed. Raises click.BadParameter."""
    try:
        rows: list[dict[str, Any]] = orjson.loads(path.read_bytes())["tables"]
        [(row["table"], row["partition"], row["position"], row["hash"]) for row in rows]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise click.BadParameter(f"{path} is not what `attest --json` prints: {error!r}") from None
    return rows


def _position(position: Any) -> str:
    return " ".join(f"{topic}:{offset}" for topic, offset in position.items())


def first_difference(earlier: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """In words; None when every table and partition of `now` is in `earlier` with the same hash."""
    before = {(row["table"], row["partition"]): row for row in earlier}
    for row in now:
        place = f"{row['table']}, partition {row['partition']}"
        other = before.get((row["table"], row["partition"]))
        if other is None:
            return f"{place}: the earlier one does not have it."
        if other["position"] != row["position"]:
            return f"{place}: at {_position(row['position'])} now, it was at {_position(other['position'])} then."
        if other["hash"] != row["hash"]:
            return f"{place}: other rows after the same records: {row['hash'][:16]} now, {other['hash'][:16]} then."
    return None
