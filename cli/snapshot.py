"""the log -> rows and events in one file; two such files, or two attestations -> what differs between them."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cli.attest import read_attested
from cli.bases import identity_of, snapshots_of
from cli.console import Found, Operator, json_option, note, put_json, put_table
from cli.courses import event_difference, row_difference
from cli.folding import describe, fold_pasts, scratch, spool_pasts
from streams.errors import LogMismatch, NotReadable
from streams.log_identity import read_identity
from streams.snapshot import Snapshot, is_snapshot

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
#: Lines of a table that somebody reads.
MOST_LINES = 20


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@json_option
@click.pass_obj
def snapshot(operator: Operator, file: Path | None, as_json: bool) -> None:
    """Write every row of every table and every event into FILE (SQLite), as a fold of the log by the rules at hand.

    It is read from the inputs and the journals, so workers may run or not, and nothing is written but FILE; without
    FILE it goes beside the other snapshots of the data directory, where `replay --from` looks for one. Exit codes:
    0 done, 1 the log is not whole, 2 usage, 3 no broker answers.
    """
    if file is None:
        file = snapshots_of(operator) / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.snapshot"
        file.parent.mkdir(parents=True, exist_ok=True)
    with scratch(operator) as folder:
        operator.run(operator.after_check(_written(operator, folder)))
        made = folder / "was.snapshot"
        with Snapshot(made) as found:
            about = found.said()
        move(made, file)
    if as_json:
        put_json({"file": str(file), "about": about})
    else:
        note(f"{file}: {file.stat().st_size:,} bytes, code {about['code']}.")


async def _written(operator: Operator, folder: Path) -> None:
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        count, reached = await spool_pasts(operator, folder)
    except (LogMismatch, NotReadable) as error:
        raise Found(f"{error}.") from None
    identity = await read_identity(operator.brokers, {topic for topic, _ in reached.inputs})
    await fold_pasts(operator, folder, count, folder / "was.snapshot")
    with Snapshot(folder / "was.snapshot") as found:
        describe(found, reached, taken_at, identity)


@click.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def diff(a: Path, b: Path, as_json: bool) -> None:
    """Compare two files: snapshots (of `snapshot`, or of `what-if --keep`), or what `attest --json` printed.

    Of snapshots: the rows that differ, and for each key the first event that does. Of attestations: the partitions of
    tables that differ. Needs neither a broker nor a worker. Exit codes: 0 equal, 1 they differ, 2 no such file, or not
    two of a kind.
    """
    kinds = is_snapshot(a), is_snapshot(b)
    if kinds[0] is not kinds[1]:
        raise click.UsageError(f"{a} and {b} are not of a kind: one is a snapshot, the other is not.")
    if kinds[0]:
        _of_snapshots(a, b, as_json)
    else:
        _of_attestations(a, b, as_json)


def _of_snapshots(a: Path, b: Path, as_json: bool) -> None:
    with Snapshot(a) as first, Snapshot(b) as second:
        events = [{"key": _text(each.key), **event_difference(each)} for each in first.parted_events(second)]
        rows = [row_difference(each) for each in first.differing_rows(second)]
        about = {"a": first.said(), "b": second.said()}
    one, other = (identity_of(each) for each in about.values())
    if one is not None and other is not None and (why := one.difference(other)) is not None:
        note(f"Warning: {a} and {b} are of different logs ({why}), so what differs says little.")
    if as_json:
        put_json({"equal": not (events or rows), "about": about, "events": events, "rows": rows})
    elif events or rows:
        lines = [
            (each["topic"], each["key"], each["number"], _kind(each["was"]), _kind(each["would_be"])) for each in events
        ]
        put_table(("topic", "key", "#", str(a), str(b)), lines[:MOST_LINES])
        _more(len(lines))
        click.echo()
        cells = [(each["table"], each["key"], " ".join(each["fields"])) for each in rows]
        put_table(("table", "key", "differs in"), cells[:MOST_LINES])
        _more(len(cells))
    if events or rows:
        raise Found(f"They differ: {len(rows)} rows, and the events of {len(events)} keys.")
    note("Equal: the same rows and the same events.")


def _of_attestations(a: Path, b: Path, as_json: bool) -> None:
    first, second = ({(row["table"], row["partition"]): row for row in read_attested(file)} for file in (a, b))
    found = [
        {"table": table, "partition": partition, "what": _what(first.get(place), second.get(place))}
        for place in sorted({*first, *second})
        if _what(first.get(place), second.get(place))
        for table, partition in [place]
    ]
    if as_json:
        put_json({"equal": not found, "tables": found})
    elif found:
        put_table(("table", "partition", "what"), [tuple(each.values()) for each in found])
    if found:
        raise Found(f"They differ in {len(found)} partitions of tables.")
    note(f"Equal: {len(first)} partitions of tables.")


def _what(a: dict[str, Any] | None, b: dict[str, Any] | None) -> str:
    if a is None or b is None:
        return "only in the second" if a is None else "only in the first"
    if a["position"] != b["position"]:
        return "another position"
    return "other rows after the same records" if a["hash"] != b["hash"] else ""


def _more(count: int) -> None:
    if count > MOST_LINES:
        click.echo(f"and {count - MOST_LINES} more: --json has them all")


def _kind(event: dict[str, Any] | None) -> str:
    return "nothing" if event is None else str(event.get("type", "?"))


def _text(key: bytes) -> str:
    return key.decode(errors="replace")


def move(made: Path, file: Path) -> None:
    """Beside the target first, so that whoever opens it finds a whole one."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
