"""two versions of the application, one of them live -> the other's tables brought to where that one is, piece by piece.

One task after the other is read, folded by a process of its own and written (as in cli/refolding.py), while the live
version works. What was folded stays in a store beside it, so that the next piece goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.attest import DECIDING
from cli.console import Found, Operator
from cli.folding import folding_process
from cli.folding import plan as folding_plan
from cli.processes import Process, processors
from cli.refolding import Moved, each_of, fold_by
from cli.rooms import ROOT
from streams import App, faults
from streams.attest import SETTLE_S, code_version
from streams.building import Built, Ground, Mirror, Piece, RawRow, Seen, find_ground
from streams.clock import SystemClock
from streams.folding import Plan, build, folded_store
from streams.kafka import KafkaLog, onlooker
from streams.live import StillThere, id_of, named
from streams.log import Transactions
from streams.metrics import Metrics
from streams.past import course_of, past_of, reached
from streams.records import TopicPartition
from streams.replay import TRANSACTION_MS
from streams.reset import members
from streams.restore import Restore
from streams.settings import EngineSettings
from streams.spool import read_changed, spool
from streams.store import Memory, RocksStore
from streams.table import every_row
from streams.topology import Group, task_name, transactional_id

#: Fewer records than this are a tail: they are taken while nobody works.
TAIL_RECORDS = 2_000
#: More rounds than this mean that more comes in than is folded.
MOST_ROUNDS = 20
#: How long workers may take to let go: those that are asleep count until their session has passed.
LET_GO_S, LOOK_EVERY_S = 30.0, 0.1


@dataclass(frozen=True)
class Side:
    """A version: what is declared of it by the rules at hand, and its settings."""

    version: str
    plan: Plan
    app: App
    settings: EngineSettings

    @property
    def groups(self) -> list[Group]:
        return [group for group in self.app.groups.values() if group.agents]


def side_of(operator: Operator, version: str, folder: Path) -> Side:
    """The application as it is under that name."""
    plan = replace(folding_plan(operator, apart=()), app_id=id_of(operator.app.shared_id, version), noting=True)
    settings = replace(
        operator.app.engine_settings(), app_id=plan.app_id, transaction_timeout_ms=TRANSACTION_MS, state_dir=folder
    )
    return Side(version, plan, build(plan, folder), settings)


@dataclass
class TaskOf:
    """One task of both versions, and what is known of it."""

    source: Group
    target: Group
    partition: int
    ground: Ground
    producer: Transactions
    mirror: Mirror
    #: Whether the folded rows of earlier pieces lie in the folder.
    has_rows: bool = False

    @property
    def name(self) -> str:
        return task_name(self.source.name, self.partition)

    @property
    def begun(self) -> bool:
        return self.ground.cursor is not None


@dataclass
class Building:
    """`async with Building(...)`: then rounds, a comparison, and the end of it. Raises Fenced when another one builds.

    `tables`: those that both have. `moved` hears of records that were read, and folded.
    """

    source: Side
    target: Side
    tables: frozenset[str]
    folder: Path
    moved: Moved
    records: int = 0
    rounds: int = 0
    tasks: list[TaskOf] = field(default_factory=list)

    async def __aenter__(self) -> Building:
        self.code = code_version(ROOT / room for room in DECIDING)
        self._memory = Memory(self.source.settings.block_cache_bytes, self.source.settings.write_buffer_bytes)
        self._processes: asyncio.Queue[Process] = asyncio.Queue()
        self._writing = asyncio.Lock()
        self._closing = AsyncExitStack()
        self.target.plan.write(self.folder)
        try:
            consumers = [
                await self._closing.enter_async_context(onlooker(side.settings)) for side in (self.source, self.target)
            ]
            self.of_source = KafkaLog(self.source.settings, consumers[0])
            self.of_target = KafkaLog(self.target.settings, consumers[1])
            for _ in range(processors()):
                process = folding_process("replay", self.folder)
                self._processes.put_nowait(await self._closing.enter_async_context(process))
            self.tasks = await self._begun()
            faults.point("build_fenced")
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def _begun(self) -> list[TaskOf]:
        """First the fences, so that nobody else builds; then where each task stands."""
        pairs = [
            (group, self.target.app.groups[group.name], number)
            for group in self.source.groups
            for number in range(group.partitions)
        ]
        producers = [
            self.of_target.transactions(transactional_id(target.app_id, task_name(target.name, number)))
            for _, target, number in pairs
        ]
        for producer in producers:
            self._closing.push_async_callback(producer.stop)
        await each_of(producers, lambda producer: producer.start())
        grounds = await each_of(
            pairs, lambda pair: find_ground(self.of_target, pair[1], pair[2], self.of_source, pair[0])
        )
        return [
            TaskOf(source, target, number, self._held(target, ground), producer, self._mirror(source, number))
            for (source, target, number), ground, producer in zip(pairs, grounds, producers, strict=True)
        ]

    def _held(self, group: Group, ground: Ground) -> Ground:
        """Raise Found when what is there is not to be gone on with."""
        mend = f"`faust -A app versions --remove '{self.target.version}'`, and build it anew"
        if ground.code not in (None, self.code):
            raise Found(f"{named(self.target.version)} was begun with other rules (code {ground.code}): {mend}.")
        if ground.cursor is not None and ground.bare:
            raise Found(f"The changelog of table {ground.bare[0]} of {group.app_id} is empty: {mend}.")
        return ground

    def _mirror(self, group: Group, number: int) -> Mirror:
        store = RocksStore(self.folder / f"mirror-{task_name(group.name, number)}", group.tables, self._memory)
        mirror = Mirror(self.of_source, group, number, store, self.tables)
        self._closing.callback(mirror.close)
        return mirror

    # -- rounds -------------------------------------------------------------------------------------------------------

    async def round(self) -> int:
        """Bring every task to where the live version is now; gives the number of records that it took."""
        until = await reached(self.of_source, self.source.groups)
        taken: int = sum(await each_of(self.tasks, lambda task: self._extend(task, until)))
        self.records, self.rounds = self.records + taken, self.rounds + 1
        return taken

    async def catch_up(self) -> None:
        """Round after round, until what is left is a tail. Raises Found when it does not come near."""
        for _ in range(MOST_ROUNDS):
            if await self.round() <= TAIL_RECORDS:
                return
        raise Found(
            f"{MOST_ROUNDS} rounds, and more than {TAIL_RECORDS:,} records had come in again each time: more comes in"
            " than is folded here. What was built is kept; run this again when less comes in."
        )

    async def _extend(self, task: TaskOf, until: Mapping[TopicPartition, int]) -> int:
        group, number, cursor = task.source, task.partition, task.ground.cursor
        ends = {tp.topic: until[tp] for tp in group.inputs(number) if tp in until}
        journal = until[group.journal(number)]
        if not ends or (cursor is not None and dict(cursor.offsets) == ends and cursor.journal >= journal):
            return 0
        to, steps = await course_of(self.of_source, group, number, until, cursor)
        if cursor is not None and to.offsets == cursor.offsets and not steps:
            return 0
        await self._fetch_rows(task)
        count = 0

        def moved(records: int) -> None:
            nonlocal count
            count += records
            self.moved(records)

        path = self.folder / task.name
        await spool(past_of(self.of_source, group, number, until, cursor), path, moved)
        await self._fold(task)
        path.with_suffix(".acts").unlink()
        built = Built(group.app_id, to, self.code, SystemClock().now_ms())
        piece = Piece(task.target, number, task.ground.bare, self._rows(task), steps, built)
        async with self._writing:
            await piece.write(task.producer, new=not task.begun)
        task.ground, task.has_rows = Ground(to, (), self.code), True
        return count

    async def _fetch_rows(self, task: TaskOf) -> None:
        """What was built before, by another run of this command or by the version itself, out of its changelogs."""
        if task.has_rows or not task.begun:
            return
        store = folded_store(self.folder, task.target, task.partition, self._memory)
        try:
            extents = await self.of_target.survey(list(task.target.changelogs(task.partition).values()))
            restore = Restore(self.of_target, store, task.target, task.partition, SystemClock(), Metrics())
            await restore.run(extents)
        finally:
            store.close()
        task.has_rows = True

    async def _fold(self, task: TaskOf) -> None:
        process = await self._processes.get()
        try:
            await fold_by(process, task.name, self.moved)
        finally:
            self._processes.put_nowait(process)

    def _rows(self, task: TaskOf) -> Iterable[RawRow]:
        """What the piece has changed; the first one has changed every row."""
        if task.begun:
            changed = read_changed(self.folder / task.name)
            return [(table, key, value) for (table, key), value in changed.items()]
        return self._all_rows(task)

    def _all_rows(self, task: TaskOf) -> Iterator[RawRow]:
        store = folded_store(self.folder, task.target, task.partition, self._memory)
        try:
            for table in task.target.tables:
                yield from ((table, key, value) for key, value in every_row(store, table))
        finally:
            store.close()

    # -- what both hold -----------------------------------------------------------------------------------------------

    async def compare(self) -> list[Seen]:
        """Once more a round, and every table that both have, as of its end; the live version may go on meanwhile.

        A commit's markers reach the partitions and the offsets one after the other, hence the pauses.
        """
        floors = await each_of(self.tasks, lambda task: task.mirror.ends())
        await asyncio.sleep(SETTLE_S)
        await self.round()
        await asyncio.sleep(SETTLE_S)
        ceilings = await each_of(self.tasks, lambda task: task.mirror.ends())
        found: list[Seen] = []
        for task, floor, ceiling in zip(self.tasks, floors, ceilings, strict=True):
            if task.ground.cursor is not None:
                found += await self._compared(task, floor, ceiling)
        return found

    async def _compared(
        self, task: TaskOf, floor: Mapping[TopicPartition, int], ceiling: Mapping[TopicPartition, int]
    ) -> Sequence[Seen]:
        await self._fetch_rows(task)
        assert task.ground.cursor is not None, "only what was built is compared"
        await task.mirror.bring_to(floor)
        moving, position = await task.mirror.moving(ceiling), task.ground.cursor.offsets
        store = folded_store(self.folder, task.target, task.partition, self._memory)
        try:
            tables = [table for table in task.target.tables if table in self.tables]
            return [task.mirror.compare(table, store, position, moving.get(table, {})) for table in tables]
        finally:
            store.close()

    # -- the switch ---------------------------------------------------------------------------------------------------

    def fences(self) -> list[Transactions]:
        """The ids of the live version's tasks: whoever starts one of them ends its owner."""
        found: list[Transactions] = [
            self.of_source.transactions(transactional_id(task.source.app_id, task.name)) for task in self.tasks
        ]
        for fence in found:
            self._closing.push_async_callback(fence.stop)
        return found

    async def left(self) -> None:
        """Until no worker of the live version is in its group."""
        deadline = time.monotonic() + LET_GO_S
        while there := await members(self.source.settings):
            if time.monotonic() > deadline:
                raise StillThere(", ".join(there))
            await asyncio.sleep(LOOK_EVERY_S)

    async def bring(self) -> None:
        """The last round: nobody works. What is compared afterwards must be as it was then."""
        await self.round()
        for task in self.tasks:
            await self._fetch_rows(task)
