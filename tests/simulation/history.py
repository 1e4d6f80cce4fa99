"""a plan -> one history: played, healed until all is quiet, judged. The same plan gives the same steps."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from streams.log import Extent
from streams.records import Outgoing, Position, Record, TopicPartition
from streams.restore import Restore, hold_identity
from streams.settings import EngineSettings
from streams.store import MemoryStore
from streams.task import TaskState
from streams.topology import Group as TaskGroup
from tests.simulation.cluster import DELETE_RETENTION_MS, Cluster
from tests.simulation.disk import Disk, Files, SimStore
from tests.simulation.group import Group
from tests.simulation.judge import Judge
from tests.simulation.loop import NOWHERE, SimLoop, Stuck
from tests.simulation.machine import METRICS, Clock, Machine, World, played
from tests.simulation.model import Word
from tests.simulation.network import Network, Weather
from tests.simulation.past import repeated
from tests.simulation.plan import DAY_MS, TOPOLOGIES, Action, Plan
from tests.simulation.readers import Reader
from tests.simulation.sink import Database, SinkGroup

#: Virtual seconds in which everything must have settled once nothing goes wrong any more.
HEAL_S = 90.0


@dataclass
class Outcome:
    """What a history came to. `digest` is equal for equal histories."""

    plan: Plan
    wrong: list[str]
    trace: list[str]
    counts: dict[str, int]
    digest: str = ""

    @property
    def held(self) -> bool:
        return not self.wrong


def run(plan: Plan) -> Outcome:
    """Play one history to its end and judge it."""
    return History(plan).run()


class History:
    """One history. `World` holds what is played in; this holds what is played."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.topology = plan, TOPOLOGIES[plan.topology]
        loop = SimLoop()  # type: ignore[abstract]  # it has what this needs of a loop
        chance = Random(plan.seed ^ 0x5EED)
        app = self.topology.app(plan.partitions)
        clock = Clock(loop)
        network = Network(loop, chance, replace(plan.weather))
        cluster = Cluster(
            loop,
            chance,
            lambda: max(clock.now_ms(), clock.latest_ms),
            transaction_timeout_s=8.0,
            marker_delay_s=plan.marker_delay_s,
            wake_delay_s=plan.wake_delay_s,
        )
        outputs = [TopicPartition(topic, p) for topic in self.topology.outputs for p in range(plan.partitions)]
        settings = EngineSettings(
            app_id=str(app.conf.id),
            bootstrap="simulated",
            state_dir=Path("unused"),
            dead_letter_partitions=plan.partitions,
            batch_max_records=plan.batch_max,
            piece_records=max(1, plan.batch_max // 3),
            session_timeout_ms=3_000,
            rebalance_timeout_ms=10_000,
            standby_replicas=plan.standbys,
            restart_backoff_max_s=2.0,
            poll_s=5.0,
        )
        self.world = World(
            loop=loop,
            chance=chance,
            clock=clock,
            app=app,
            settings=settings,
            cluster=cluster,
            network=network,
            group=Group(loop, 3.0, 10.0),
            database=Database(network),
            sink_group=SinkGroup(loop, network, outputs),
            fail_batch=plan.fail_batch,
            batch_most=plan.batch_most,
        )
        self.world.machines = [Machine(self.world, number) for number in range(plan.machines)]
        self.produced: set[tuple[str, int, int]] = set()
        self.sent: list[Position] = []
        self.readers = [Reader(self.world, self.topology, plan.partitions, self.sent) for _ in range(plan.readers)]
        self.judge = Judge(self.topology, settings.app_id, plan.partitions, cluster)

    # -- playing ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        with played(self.world):
            try:
                self.world.loop.run(self._play())
            except Stuck as stuck:
                self.judge.fault(f"the history came to no end: {stuck}")
        for error in self.world.loop.errors:
            self.judge.fault(f"a callback failed: {error}")
        wrong = self.judge.wrong + self.world.alarms
        return Outcome(self.plan, wrong, self.world.trace, self._counts(), self._digest())

    async def _play(self) -> None:
        world = self.world
        for machine in world.machines:
            machine.start()
        asking = [world.loop.create_task(reader.run(), context=NOWHERE.copy()) for reader in self.readers]
        for action in self.plan.actions:
            if action.at > world.loop.now:
                await asyncio.sleep(action.at - world.loop.now)
            self._act(action)
        await asyncio.sleep(max(0.0, self.plan.length_s - world.loop.now))
        await self._heal()
        settled = await self._converge("after the faults")
        if settled:
            self._do_compact(1.0)
            world.say("a day passes")
            world.clock.advance(DAY_MS + 120_000)
            settled = await self._converge("after a day")
            self._do_compact(1.0)
        for task in asking:
            task.cancel()
        if settled:
            await self._verdict()

    def _act(self, action: Action) -> None:
        self.world.say(str(action)[8:])
        getattr(self, f"_do_{action.kind}")(*action.args)

    # -- what can happen ----------------------------------------------------------------------------------------------

    def _do_send(self, word: Word) -> None:
        tp = TopicPartition(word.topic, word.partition)
        offset = self.world.cluster.append(tp, self._outgoing(word))
        self.produced.add((*tp, offset))
        self.sent.append(Position(word.topic, word.partition, offset))

    def _outgoing(self, word: Word) -> Outgoing:
        return Outgoing(self.world.clock.now_ms(), word.key, word.value, word.headers)

    def _do_foreign(self, *args: object) -> None:
        *words, committed, open_s = args
        records: dict[TopicPartition, list[Outgoing]] = {}
        for word in words:
            assert isinstance(word, Word)
            records.setdefault(TopicPartition(word.topic, word.partition), []).append(self._outgoing(word))
        for tp, outgoing in records.items():
            end = self.world.cluster.at(tp).end
            if committed:
                self.produced.update((*tp, end + number) for number in range(len(outgoing)))
        assert isinstance(open_s, float)
        self.world.cluster.foreign(records, bool(committed), open_s)

    def _do_kill(self, who: int, down_s: float, lose: bool) -> None:
        self.world.machines[who].die(down_s, lose)

    def _do_kill_at(self, who: int, point: str, count: int, down_s: float, lose: bool) -> None:
        self.world.machines[who].set_trap(point, count, down_s, lose)

    def _do_kill_all(self, down_s: float, lose: bool) -> None:
        for machine in self.world.machines:
            machine.die(down_s, lose)

    def _do_freeze(self, who: int, frozen_s: float) -> None:
        machine = self.world.machines[who]
        machine.freeze()
        self.world.loop.call_later(frozen_s, machine.thaw, context=NOWHERE)

    #: Past the end of its session: another worker takes over meanwhile.
    _do_sleep = _do_freeze

    def _do_stop(self, who: int, down_s: float) -> None:
        machine = self.world.machines[who]

        async def stop() -> None:
            await machine.stop()
            await asyncio.sleep(down_s)
            machine.start()

        self.world.loop.create_task(stop(), context=NOWHERE.copy())

    def _do_damage(self, who: int) -> None:
        for store in self.world.machines[who].disk.stores.values():
            store.damaged = True

    def _do_disk_full(self, who: int, full_s: float) -> None:
        disk = self.world.machines[who].disk
        disk.full = True
        self.world.loop.call_later(full_s, _set, disk, "full", False, context=NOWHERE)

    def _do_compact(self, share: float) -> None:
        cluster = self.world.cluster
        for tp, partition in sorted(cluster.partitions.items()):
            if tp.topic.endswith("-changelog"):
                partition.compact(int(partition.end * share), cluster.now_ms(), DELETE_RETENTION_MS)

    def _do_clock(self, ms: int) -> None:
        self.world.clock.advance(ms)

    def _do_broker_away(self, away_s: float) -> None:
        self.world.network.down_until = max(self.world.network.down_until, self.world.loop.now + away_s)

    def _do_database_away(self, away_s: float) -> None:
        self.world.database.away = True
        self.world.loop.call_later(away_s, _set, self.world.database, "away", False, context=NOWHERE)

    # -- healing ------------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """Nothing goes wrong any more, and everybody is there."""
        world = self.world
        world.say("heal")
        world.network.weather = Weather(latency_s=0.001)
        world.fail_batch = 0.0
        world.database.away = False
        for machine in world.machines:
            machine.clear_trap()
            machine.disk.full = False
            machine.thaw()
            machine.start()

    async def _converge(self, when: str) -> bool:
        world, until = self.world, self.world.loop.now + HEAL_S
        why, calm = "?", 0
        while world.loop.now < until and not world.alarms:
            await asyncio.sleep(0.25)
            why = self._unsettled()
            calm = 0 if why else calm + 1
            if calm == 3:  # what is just done may lead to more
                return True
        self.judge.fault(f"nothing settled {when} within {HEAL_S:.0f} s: {'; '.join(world.alarms) or why}")
        return False

    def _unsettled(self) -> str:
        """What is still under way; empty when nothing is."""
        world = self.world
        owners = [name for machine in world.machines if machine.running for name in machine.engine.tasks]
        if sorted(owners) != sorted(self.judge.tasks):
            return f"tasks are {sorted(owners)}"
        for machine in world.machines:
            for name, task in machine.engine.tasks.items() if machine.running else ():
                if task.state is not TaskState.RUNNING:
                    return f"{name} is {task.state}"
                if any(world.cluster.committed.get(tp) != offset for tp, offset in task.committed.items()):
                    return f"{name} does not know yet what it has committed"
                if task._next_due_ms is not None and task._next_due_ms <= world.clock.now_ms():
                    return f"{name} has something due"
        for tp, partition in world.cluster.partitions.items():
            if partition.open:
                return f"{tp} has open transactions"
        for judged in self.judge.tasks.values():
            for tp in judged.positions:
                records, _ = world.cluster.at(tp).read(world.cluster.committed.get(tp, 0), None)
                if records:
                    return f"{tp} has {len(records)} records to go"
        standings = world.database.standings
        for tp in world.sink_group.partitions:
            if world.cluster.at(tp).read(standings[tp].next if tp in standings else 0, None)[0]:
                return f"the sink is behind on {tp}"
        return ""

    # -- judging ------------------------------------------------------------------------------------------------------

    async def _verdict(self) -> None:
        world, judge = self.world, self.judge
        judge.judge_log(self.produced)
        judge.judge_sink(self.topology.outputs, world.database.rows)
        judge.judge_readers([answer for reader in self.readers for answer in reader.told])
        for machine in world.machines:
            for name, store in sorted(machine.disk.stores.items()):
                if name in machine.engine.tasks:
                    self._judge_store(name, store, f"the live store of {machine.name}")
        for machine in world.machines:
            await machine.stop()
        for name, task in judge.tasks.items():
            for table in self.topology.tables[task.group]:
                judge.judge_changelog(name, table, task.partition)
            copies = [(f"{machine.name}'s copy", machine.disk.files.get(name)) for machine in world.machines]
            for where, files in [*copies, ("a new store", Files())]:
                if files is not None:
                    await self._judge_copy(name, files, f"{where}, brought forward")
            await self._judge_replay(name)

    def _judge_store(self, name: str, store: MemoryStore, where: str) -> None:
        for table in self.topology.tables[self.judge.tasks[name].group]:
            self.judge.judge_rows(name, table, store._rows.get(table, {}), where)

    async def _judge_copy(self, name: str, files: Files, where: str) -> None:
        """Whatever a disk holds of a task, the changelog must make the true state of it."""
        store = SimStore(files, Disk(self.world.chance))
        task = self.judge.tasks[name]
        group: TaskGroup = self.world.app.groups[task.group]
        log = StillLog(self.world.cluster)
        try:
            extents = await log.survey(list(group.changelogs(task.partition).values()))
            for family, tp in group.changelogs(task.partition).items():
                first = extents[tp].first
                if first is not None:
                    hold_identity(store, family, tp, first)
            await Restore(log, store, group, task.partition, self.world.clock, METRICS).run(extents)  # type: ignore[arg-type]  # read only
        except Exception as error:
            self.judge.fault(f"{where}: {name} cannot be restored: {error!r}")
            return
        self._judge_store(name, store, where)

    async def _judge_replay(self, name: str) -> None:
        """I6, I7: its inputs, taken again in the order of its journal, come to the same rows and send nothing."""
        world, task = self.world, self.judge.tasks[name]
        try:
            found = await repeated(
                world.cluster, world.app.groups[task.group], task.partition, world.settings, world.clock
            )
        except Exception as error:
            self.judge.fault(f"{name} cannot be replayed: {error!r}")
            return
        if found is not None:
            store, sent = found
            self._judge_store(name, store, "the replay")
            if sent:
                self.judge.fault(f"the replay of {name} sent to {sorted(sent)} (I7)")

    def _counts(self) -> dict[str, int]:
        world = self.world
        told = [answer for reader in self.readers for answer in reader.told]
        return {
            "transactions": self.judge.transactions,
            "aborted": world.cluster.aborted,
            "fenced": world.cluster.fenced,
            "sessions_ended": world.group.expired,
            "generations": world.group.generation,
            "reads": len(told),
            "reads_refused": sum(reader.refused for reader in self.readers),
            "sink_conflicts": world.database.conflicts,
            "calls": world.network.calls,
            "calls_lost": world.network.lost,
            "calls_late": world.network.late,
            "steps": world.loop.steps,
        }

    def _digest(self) -> str:
        """Two runs of one plan that differ anywhere differ here."""
        rows = [
            (tp, partition.end, [record for record, _ in partition.rows if not _is_identity(record)])
            for tp, partition in sorted(self.world.cluster.partitions.items())
        ]
        text = repr((rows, self.world.loop.steps, self.world.loop.now, sorted(self._counts().items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class StillLog:
    """The log at rest, without a network: what a copy is brought forward from."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def survey(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Extent]:
        at = self.cluster.at
        return {tp: Extent(next(iter(at(tp).read(0, 1)[0]), None), at(tp).stable) for tp in partitions}

    async def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int] | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]:
        for tp, start in starts.items():
            end = self.cluster.at(tp).stable if ends is None else ends[tp]
            while start < end:
                records, start = self.cluster.at(tp).read(start, 7, end)
                yield tp, records, start


def _is_identity(record: Record | None) -> bool:
    """Its value is drawn by the engine, not by us."""
    return record is not None and record.key is not None and record.key.startswith(b"\0")


def _set(target: object, name: str, value: object) -> None:
    setattr(target, name, value)


Runner = Callable[[Plan], Outcome]
