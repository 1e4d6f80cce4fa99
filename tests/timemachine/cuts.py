"""a log at rest -> fresh engines, fed it up to random records -> what they hold is what `as_of` answers there."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import orjson

from agents.wiring import Domains
from streams.batch import using
from streams.fold import Fold
from streams.journal import Run
from streams.kafka import KafkaLog, onlooker
from streams.past import past_of, reached
from streams.records import Record, TopicPartition
from streams.settings import EngineSettings
from streams.store import Memory, RocksStore
from streams.topology import Group
from tests.agents.domain import make_app
from tests.processes import Worker
from tests.timemachine.ground import Ground
from web.accounts.shapes import present as present_account
from web.items.shapes import present as present_item
from web.orders.shapes import present as present_order

PARTITIONS = 4


class Kind(NamedTuple):
    """Things of one table: how one is read from it, what callers see of it, and where they ask for it."""

    table: str
    read: Callable[[Domains, str], Any]
    present: Callable[[Any], Any]
    path: str


KINDS = {
    "orders": Kind(
        "purchases", lambda domains, key: domains.purchases.purchase(key), lambda row: present_order(row), "orders"
    ),
    "accounts": Kind(
        "accounts", lambda domains, key: domains.accounts.account(key), lambda row: present_account(row), "accounts"
    ),
    "inventory": Kind(
        "items", lambda domains, key: domains.inventory.item(key), lambda row: present_item(row), "items"
    ),
}


class Cuts:
    """Folds each task's past once, and stops at random records to compare."""

    def __init__(self, ground: Ground, worker: Worker, chance: Random) -> None:
        self.ground, self.worker, self.chance = ground, worker, chance
        self.app, self.domains = make_app(ground.directory, PARTITIONS)
        self.groups = {name: self.app.groups[name] for name in KINDS}
        self.folder = ground.directory / "cuts"
        self.settings = EngineSettings("orderstream", ground.stack.kafka, self.folder)
        self.seen: Counter[str] = Counter()
        self.records = 0

    async def run(self, count: int) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            async with onlooker(self.settings) as consumer:
                log = KafkaLog(self.settings, consumer)
                until = await reached(log, list(self.groups.values()))
                tasks = [(group, number) for group in self.groups.values() for number in range(PARTITIONS)]
                share = Counter(self.chance.choices(range(len(tasks)), k=count))
                for number, task in enumerate(tasks):
                    if share[number]:
                        await self._task(log, until, *task, share[number])
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _task(
        self, log: KafkaLog, until: dict[TopicPartition, int], group: Group, partition: int, cuts: int
    ) -> None:
        total = 0
        async for act in past_of(log, group, partition, until):
            total += len(act.records) if isinstance(act, Run) else 0
        at = sorted(self.chance.sample(range(total // 20, total), cuts), reverse=True)
        memory = Memory(64 << 20, 64 << 20)
        store = RocksStore(self.folder / f"{group.name}-{partition}", group.tables, memory)
        fold = Fold(group, partition, store, TopicPartition("dead_letters.v1", partition))
        passed = 0
        async for act in past_of(log, group, partition, until):
            if not isinstance(act, Run):
                await fold.take(act)
                continue
            for piece in self._pieces(act.records, passed, at):
                await fold.feed(act.partition.topic, piece)
                passed += len(piece)
                if at and passed == at[-1] + 1:
                    at.pop()
                    self._hold(group.name, fold, piece[-1])
            if not at:
                break
        self.records += passed
        await fold.close()

    @staticmethod
    def _pieces(records: Any, passed: int, at: list[int]) -> Iterator[list[Record]]:
        """A run, cut after each record that is one of `at`."""
        ends = sorted(cut + 1 - passed for cut in at if passed <= cut < passed + len(records))
        for begin, end in zip([0, *ends], [*ends, len(records)], strict=True):
            if begin < end:
                yield list(records[begin:end])

    def _hold(self, group: str, fold: Fold, record: Record) -> None:
        """The row of some key as it stands in the fold, and as a worker that knows all of the log tells of it."""
        kind = KINDS[group]
        keys = [key.decode() for key, _ in fold.rows(kind.table) if not key.startswith(b"clearing:")]
        mine = (record.key or b"").decode()
        key = mine if mine in keys and self.chance.random() < 0.6 else self.chance.choice(keys)
        with using(fold.view()):
            row = kind.read(self.domains, key)
        shown = kind.present(row)
        expected = orjson.loads(shown if isinstance(shown, bytes) else orjson.dumps(shown))
        path = f"/api/v1/{kind.path}/{key}?as_of="
        status, told = self.worker.get(f"{path}{record.topic}-{record.partition}-{record.offset}", 60)
        how = "by position"
        if status == 400 and "does not say which versions" in str(told):
            how = "by version"
            status, told = self.worker.get(f"{path}{row.version}", 60)
        assert (status, told) == (200, expected), (group, key, str(record)[:200], status, told, expected)
        self.seen[how] += 1
        self.seen[kind.path] += 1


async def random_cuts(ground: Ground, count: int, seed: int) -> dict[str, Any]:
    """So many cuts; raises AssertionError for the first that is not equal."""
    worker = ground.begin(0).wait_ready(600)
    began = time.monotonic()
    cuts = Cuts(ground, worker, Random(f"cuts {seed}"))
    try:
        await cuts.run(count)
    finally:
        ground.down([worker])
    seconds = time.monotonic() - began
    return {
        "cuts equal": cuts.seen["by position"] + cuts.seen["by version"],
        **cuts.seen,
        "records folded": cuts.records,
        "seconds": round(seconds, 1),
    }
