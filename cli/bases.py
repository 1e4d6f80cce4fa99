"""what `--from` says, and the snapshots that there are -> the one that a replay begins with, or what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cli.console import Found, Operator, note
from streams.log_identity import LogIdentity, read_identity
from streams.past import Cursor
from streams.snapshot import NoSnapshot, Snapshot
from streams.spool import keep_rows
from streams.topology import Group

BEGINNING = "beginning"


class Base(NamedTuple):
    """A snapshot, and where each of its tasks stands."""

    path: Path
    taken_at: str
    code: str
    cursors: dict[str, Cursor]
    identity: LogIdentity

    def give_rows(self, group: Group, partition: int, task: Path) -> None:
        """Write down what the fold of this task begins with."""
        with Snapshot(self.path) as snapshot, keep_rows(task) as writer:
            for table in group.tables:
                for key, value in snapshot.rows_of(table, partition):
                    writer.add((table, key, value))


def snapshots_of(operator: Operator) -> Path:
    """Where `snapshot` puts those that have no name."""
    return operator.app.engine_settings().state_dir.parent / "snapshots"


def read_base(path: Path) -> Base:
    """Raises Found when it is no snapshot, or one that says no position (of an older version, or of `what-if`)."""
    try:
        with Snapshot(path) as snapshot:
            said = snapshot.said()
    except NoSnapshot as error:
        raise Found(f"{error}.") from None
    if "taken_at" not in said:
        raise Found(f"{path} does not say where in the log it was taken: `faust -A app snapshot` writes one that does.")
    identity = identity_of(said)
    if identity is None:
        raise Found(
            f"{path} does not say of which log it is (an earlier version wrote it), so it cannot be told whether its"
            " offsets mean anything here. `faust -A app snapshot` writes one that does; --from beginning needs none."
        )
    inputs = [name.removeprefix("position ").rpartition("-") for name in said if name.startswith("position ")]
    cursors = {}
    for task, text in ((name.removeprefix("journal "), said[name]) for name in said if name.startswith("journal ")):
        number = task.rpartition("-")[2]
        offsets = {topic: int(said[f"position {topic}-{number}"]) for topic, _, each in inputs if each == number}
        journal, _, taken = text.partition(":")
        cursors[task] = Cursor(offsets, int(journal), int(taken))
    return Base(path, said["taken_at"], said["code"], cursors, identity)


def identity_of(about: Mapping[str, str]) -> LogIdentity | None:
    """Of which log a snapshot is; None for one of an earlier version, or of `what-if`."""
    if "cluster" not in about:
        return None
    topics = {name.removeprefix("topic "): id for name, id in about.items() if name.startswith("topic ")}
    return LogIdentity(about["cluster"], topics)


def find_base(operator: Operator, since: str, tasks: tuple[str, ...]) -> Base | None:
    """None for the beginning. Raises Found when there is no snapshot of this log then, ValueError for no moment."""
    if since == BEGINNING:
        return None
    if Path(since).is_file():
        base = read_base(Path(since))
        if (why := _identity_here(operator, [base]).difference(base.identity)) is not None:
            raise Found(
                f"{base.path} is of another log: {why}. Nothing was changed; --from beginning needs no snapshot."
            )
        return base
    folder = snapshots_of(operator)
    bases = sorted(_of_this_log(operator, folder), key=lambda base: base.taken_at)
    if since.isascii() and since.isdigit():
        if len(tasks) != 1:
            raise ValueError("an offset is one of a journal: name its task with --domain and --partition")
        fit = [base for base in bases if tasks[0] in base.cursors and base.cursors[tasks[0]].journal <= int(since)]
        where = f"offset {since} of the journal of {tasks[0]}"
        there = [f"{base.cursors[tasks[0]].journal}" for base in bases if tasks[0] in base.cursors]
    else:
        moment = _moment(since)
        fit = [base for base in bases if datetime.fromisoformat(base.taken_at) <= moment]
        where, there = since, [base.taken_at for base in bases]
    if not fit:
        have = f"the earliest of {len(there)} is of {there[0]}" if there else f"{folder} has none"
        raise Found(
            f"There is no snapshot of {where} or before it: {have}. A replay from there would have to know the tables"
            " as they were. `faust -A app snapshot` keeps them as they are now, for a later --from; --from beginning"
            " needs none."
        )
    return fit[-1]


def _of_this_log(operator: Operator, folder: Path) -> Iterator[Base]:
    """The snapshots there that can be used; each other one is named with the reason."""
    bases = []
    for path in sorted(folder.glob("*.snapshot")):
        try:
            bases.append(read_base(path))
        except Found as unusable:
            note(f"Not used: {unusable.message}")
    if not bases:
        return
    here = _identity_here(operator, bases)
    for base in bases:
        if (why := here.difference(base.identity)) is None:
            yield base
        else:
            note(f"Not used: {base.path} is of another log: {why}.")


def _identity_here(operator: Operator, bases: Sequence[Base]) -> LogIdentity:
    """Of the log in use, with the topics that these snapshots name; one request for all of them."""
    topics = {topic for base in bases for topic in base.identity.topics}
    return operator.run(read_identity(operator.brokers, topics))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f"{text!r} is none of: {BEGINNING}, a time as 2026-11-21T12:00:00Z, an offset of a journal, a file of"
            " `snapshot`"
        )
    return moment
