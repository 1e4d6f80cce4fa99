"""pasts in a directory and a plan -> folded in a process of their own, which knows of no broker -> a snapshot.

`python -m streams.folding past|shadow|replay DIRECTORY NUMBER COUNT`: the rules are those of the directory that it is
started in. Standard output says how many acts are done, line by line. It ends when its standard input does. That names
the tasks for `replay`, one on a line; each leaves its store behind, and a line `done TASK`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import orjson

from streams.app import App
from streams.fold import Fold
from streams.records import TopicPartition
from streams.settings import EngineSettings
from streams.shadow import Shadow, fold_acts, fold_past
from streams.snapshot import Snapshot
from streams.spool import Writer, keep_changed, keep_sent, read_rows
from streams.store import Changes, Memory, RocksStore
from streams.topology import Group, parse_task_name, task_name

#: An application must name a broker; this one cannot exist (RFC 2606), and nobody looks for it.
NO_BROKER = "kafka://none.invalid:9"
#: The last word on a task.
DONE = "done"
ROWS_AT_ONCE = 5_000


@dataclass(frozen=True)
class Plan:
    """What to fold, and where the rules are. `wire`, `topics`, `outside` are `module:name`."""

    app_id: str
    wire: str
    topics: str
    outside: str
    partitions: int
    letters: str
    #: Groups that are left out: nothing of them follows from what is tried.
    apart: tuple[str, ...] = ()
    #: Outputs whose records are kept.
    emit: tuple[str, ...] = ()
    #: Whether the rows that a fold writes are written down beside it, for whoever goes on from an earlier one.
    noting: bool = False
    #: A module that is imported once the rules are there and before they are wired; its `wire`, if it has one, wires.
    rules: str | None = None

    def write(self, folder: Path) -> None:
        (folder / "plan.json").write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        return cls(**orjson.loads((folder / "plan.json").read_bytes()))


def groups_of(app: App, apart: Sequence[str]) -> dict[str, Group]:
    """The groups that take part, by name."""
    return {name: group for name, group in sorted(app.groups.items()) if group.agents and name not in apart}


def tasks_of(app: App, apart: Sequence[str]) -> list[tuple[Group, int]]:
    """Every task, in the order that gives it its number in every process."""
    return [(group, number) for group in groups_of(app, apart).values() for number in range(group.partitions)]


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def build(plan: Plan, folder: Path) -> App:
    """An app with the rules that are found first on the path of modules."""
    app = App(plan.app_id, data_dir=folder, broker=NO_BROKER)
    wire = _named(plan.wire)
    if plan.rules is not None:
        wire = getattr(importlib.import_module(plan.rules), "wire", wire)
    wire(app, _named(plan.topics)(plan.partitions, 1))
    return app


def part_of(folder: Path, number: int) -> Path:
    """What one of the processes came to."""
    return folder / f"past-{number}.snapshot"


async def fold_pasts(folder: Path, number: int, count: int) -> None:
    """Every `count`-th task, from `number` on."""
    plan = Plan.read(folder)
    app = build(plan, folder)
    outside, memory = _named(plan.outside)(), _memory(plan, folder)
    tasks = tasks_of(app, plan.apart)
    inputs = {topic for group, _ in tasks for topic in group.agents}
    with Snapshot(part_of(folder, number), new=True) as snapshot:
        for which, (group, partition) in enumerate(tasks):
            if which % count == number:
                fold = _fold(plan, folder, "past", group, partition, memory)
                task = folder / task_name(group.name, partition)
                await fold_past(fold, which, task, inputs, outside, snapshot, _moved)
                await fold.close()


async def fold_shadow(folder: Path) -> None:
    """All of it together."""
    plan = Plan.read(folder)
    app = build(plan, folder)
    memory = _memory(plan, folder)
    folds = [
        (_fold(plan, folder, "shadow", group, number, memory), folder / task_name(group.name, number))
        for group, number in tasks_of(app, plan.apart)
    ]
    with Snapshot(folder / "shadow.snapshot", new=True) as snapshot:
        shadow = Shadow(folds, _named(plan.outside)(), snapshot)
        await shadow.run(_moved)
        for fold, _ in folds:
            await fold.close()


async def fold_on_demand(folder: Path, names: SimpleQueue[str]) -> None:
    """Each task that is named, as it is named; its rows stay in its store, its outputs of `emit` in a file."""
    plan = Plan.read(folder)
    app, memory = build(plan, folder), _memory(plan, folder)
    while True:
        name = await asyncio.to_thread(names.get)
        group, partition = parse_task_name(name)
        with keep_changed(folder / name) as changed:
            fold = _fold(plan, folder, "past", app.groups[group], partition, memory, changed if plan.noting else None)
            await fold_again(fold, folder / name, plan.emit)
            await fold.close()
        print(f"{DONE} {name}", flush=True)


async def fold_again(fold: Fold, task: Path, emit: Sequence[str]) -> None:
    """One task's spooled past with the rules at hand, on the rows that it is to go on from."""
    rows = read_rows(task)
    while piece := list(islice(rows, ROWS_AT_ONCE)):
        changes: dict[str, dict[bytes, bytes | None]] = {}
        for table, key, value in piece:
            changes.setdefault(table, {})[key] = value
        fold.store.apply(changes, {}, 0)
    with keep_sent(task) as writer:
        async for count, said in fold_acts(fold, task):
            for to, fields in (sent for each in said for sent in each.sent if sent.to.topic in emit):
                writer.add((*to, *fields[:3], tuple(fields[3])))
            _moved(count)
    fold.keep()


def folded_store(folder: Path, group: Group, partition: int, memory: Memory) -> RocksStore:
    """What `replay` left of a task."""
    return RocksStore(folder / f"past-{task_name(group.name, partition)}", group.tables, memory)


class NotingStore(RocksStore):
    """A store that also says which rows are written to it."""

    def __init__(self, path: Path, group: Group, memory: Memory, writer: Writer | None) -> None:
        super().__init__(path, group.tables, memory)
        self._writer = writer

    def apply(self, changes: Changes, positions: Mapping[str, int], current_at_ms: int) -> None:
        super().apply(changes, positions, current_at_ms)
        if self._writer is not None:
            for table, rows in changes.items():
                for key, value in rows.items():
                    self._writer.add((table, key, value))


def _fold(
    plan: Plan, folder: Path, what: str, group: Group, partition: int, memory: Memory, changed: Writer | None = None
) -> Fold:
    store = NotingStore(folder / f"{what}-{task_name(group.name, partition)}", group, memory, changed)
    return Fold(group, partition, store, TopicPartition(plan.letters, partition % plan.partitions))


def _memory(plan: Plan, folder: Path) -> Memory:
    settings = EngineSettings(app_id=plan.app_id, bootstrap="", state_dir=folder)
    return Memory(settings.block_cache_bytes, settings.write_buffer_bytes)


def _moved(count: int) -> None:
    print(count, flush=True)


def _listen(names: SimpleQueue[str]) -> None:
    """A parent that was killed leaves nothing at work."""
    heard = b""
    while piece := os.read(sys.stdin.fileno(), 4096):
        *lines, heard = (heard + piece).split(b"\n")
        for line in lines:
            names.put(line.decode())
    os._exit(1)


if __name__ == "__main__":
    what, where, number, count = sys.argv[1:5]
    asked: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    folder = Path(where)
    match what:
        case "past":
            asyncio.run(fold_pasts(folder, int(number), int(count)))
        case "shadow":
            asyncio.run(fold_shadow(folder))
        case _:
            asyncio.run(fold_on_demand(folder, asked))
