"""a log in memory -> its past, folded by the rules that made it and in a shadow by those at hand -> two snapshots.

python -m tests.agents.pasts 600        records a second of processor time, of a past of so many carts
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agents.effects.supposed import Supposed
from streams import App
from streams.driver import Driver
from streams.fold import Fold
from streams.past import past_of, reached
from streams.records import TopicPartition
from streams.shadow import Shadow, fold_past
from streams.snapshot import Snapshot
from streams.spool import read_acts, spool
from streams.store import Memory, MemoryStore, RocksStore, Store
from streams.topology import Group
from tests.agents.domain import make_app

Stores = Callable[[str, Group], Store]


def in_memory(name: str, group: Group) -> Store:
    return MemoryStore()


def folds(app: App, folder: Path, stores: Stores = in_memory) -> list[tuple[Fold, Path]]:
    """One for each task of the checkout, in the order of their names."""
    return [
        (
            Fold(group, number, stores(f"{name}-{number}", group), TopicPartition("dead_letters.v1", number)),
            folder / f"{name}-{number}",
        )
        for name, group in sorted(checkout(app).items())
        for number in range(group.partitions)
    ]


def checkout(app: App) -> dict[str, Group]:
    return {name: group for name, group in app.groups.items() if name != "requests"}


async def write_down(driver: Driver, folder: Path, partitions: int) -> None:
    """What every task took; then the log is not needed any more."""
    app, _ = make_app(Path("unused"), partitions)
    until = await reached(driver.log, list(checkout(app).values()))
    for fold, task in folds(app, folder):
        await spool(past_of(driver.log, fold.group, fold.partition, until), task)
        await fold.close()


async def as_it_was(folder: Path, partitions: int, stores: Stores = in_memory) -> Snapshot:
    """The log's own course."""
    app, _ = make_app(Path("unused"), partitions)
    inputs = {topic for group in checkout(app).values() for topic in group.agents}
    snapshot = Snapshot(folder / "was.snapshot", new=True)
    for number, (fold, task) in enumerate(folds(app, folder, stores)):
        await fold_past(fold, number, task, inputs, Supposed(), snapshot)
        await fold.close()
    return snapshot


async def as_it_would_be(folder: Path, partitions: int, stores: Stores = in_memory) -> Snapshot:
    """By the rules at hand: what a test has put in their place holds here."""
    app, _ = make_app(Path("unused"), partitions)
    tasks = folds(app, folder, stores)
    (folder / "would.snapshot").unlink(missing_ok=True)
    snapshot = Snapshot(folder / "would.snapshot", new=True)
    shadow = Shadow(tasks, Supposed(), snapshot)
    await shadow.run()
    snapshot.say("parted", str(len(shadow.parted)))
    for fold, _ in tasks:
        await fold.close()
    return snapshot


def records_in(folder: Path) -> int:
    tasks = (file.with_suffix("") for file in folder.glob("*.acts"))
    return sum(act.topic is not None for task in tasks for act in read_acts(task))


async def main(carts: int) -> None:
    from tests.agents.checkout_histories import PARTITIONS
    from tests.agents.test_what_if import lived

    memory, made = Memory(64 << 20, 64 << 20), 0

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def on_disk(task: str, group: Group) -> Store:
            nonlocal made
            made += 1
            return RocksStore(folder / f"store-{made}-{task}", group.tables, memory)

        await lived(folder, 3, carts)
        records = records_in(folder)
        for what, fold in (("as it was", as_it_was), ("in the shadow", as_it_would_be)):
            began = time.process_time()
            (await fold(folder, PARTITIONS, on_disk)).close()
            print(f"{records} records {what}: {records / (time.process_time() - began):,.0f} a second")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
