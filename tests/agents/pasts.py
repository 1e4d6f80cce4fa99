"""a log in memory -> its past, folded by the rules that made it and in a shadow by those at hand -> two snapshots."""

from __future__ import annotations

from pathlib import Path

from agents.effects.supposed import Supposed
from streams import App
from streams.driver import Driver
from streams.fold import Fold
from streams.past import past_of, reached
from streams.records import TopicPartition
from streams.shadow import Shadow, fold_past
from streams.snapshot import Snapshot
from streams.spool import spool
from streams.store import MemoryStore
from streams.topology import Group
from tests.agents.domain import make_app


def folds(app: App, folder: Path) -> list[tuple[Fold, Path]]:
    """One for each task of the checkout, in the order of their names."""
    return [
        (Fold(group, number, MemoryStore(), TopicPartition("dead_letters.v1", number)), folder / f"{name}-{number}")
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


async def as_it_was(folder: Path, partitions: int) -> Snapshot:
    """The log's own course."""
    app, _ = make_app(Path("unused"), partitions)
    inputs = {topic for group in checkout(app).values() for topic in group.agents}
    snapshot = Snapshot(folder / "was.snapshot", new=True)
    for number, (fold, task) in enumerate(folds(app, folder)):
        await fold_past(fold, number, task, inputs, Supposed(), snapshot)
        await fold.close()
    return snapshot


async def as_it_would_be(folder: Path, partitions: int) -> Snapshot:
    """By the rules at hand: what a test has put in their place holds here."""
    app, _ = make_app(Path("unused"), partitions)
    tasks = folds(app, folder)
    (folder / "would.snapshot").unlink(missing_ok=True)
    snapshot = Snapshot(folder / "would.snapshot", new=True)
    shadow = Shadow(tasks, Supposed(), snapshot)
    await shadow.run()
    snapshot.say("parted", str(len(shadow.parted)))
    for fold, _ in tasks:
        await fold.close()
    return snapshot
