"""a worker: the real engine and the real pump in a process of their own, on a disk that outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import streams.engine
import streams.kafka
import streams.reading
import streams.transactions
from streams import App, faults
from streams.assignment import Member
from streams.clock import ManualClock
from streams.engine import Engine
from streams.membership import Listener
from streams.metrics import Metrics
from streams.settings import EngineSettings
from streams.sink import Backoff, Pump, SinkMetrics
from tests.simulation.clients import SimConsumer, SimProducer, SimReader
from tests.simulation.cluster import Cluster
from tests.simulation.disk import Disk
from tests.simulation.group import Group
from tests.simulation.loop import NOWHERE, PROCESS, Crashed, Process, SimLoop
from tests.simulation.network import Network
from tests.simulation.sink import Database, SimDestination, SimSource, SinkGroup


class Uncounted:
    """Stands for every metric: nobody reads them here, and counting takes a tenth of a history's time."""

    def __getattr__(self, name: str) -> Uncounted:
        return self

    def __call__(self, *arguments: object) -> Uncounted:
        return self


METRICS = cast(Metrics, Uncounted())
SINK_METRICS = cast(SinkMetrics, Uncounted())


class Clock(ManualClock):
    """The wall clock of everything: virtual time, and what was added to it."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__()
        self._loop = loop
        self.latest_ms = 0

    def now_ms(self) -> int:
        now_ms = super().now_ms() + int(self._loop.now * 1000)
        self.latest_ms = max(self.latest_ms, now_ms)
        return now_ms


@dataclass
class World:
    """All that one history is played in."""

    loop: SimLoop
    chance: Random
    clock: Clock
    app: App
    settings: EngineSettings
    cluster: Cluster
    network: Network
    group: Group
    database: Database
    sink_group: SinkGroup
    fail_batch: float
    batch_most: int
    alarms: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    restarted: dict[str, int] = field(default_factory=dict)

    def say(self, text: str) -> None:
        self.trace.append(f"{self.loop.now:9.3f} {text}")

    def point(self, name: str) -> None:
        """A worker passes a fault point: the one that is set there ends it."""
        process = PROCESS.get()
        machine = next((machine for machine in self.machines if machine.process is process), None)
        if machine is not None and machine.trapped(name):
            self.say(f"{machine.name} dies at {name}")
            machine.die()
            raise Crashed(name)


@contextmanager
def played(world: World) -> Iterator[None]:
    """Put the simulated clients and time beneath `streams/` for as long as the history runs."""
    names: list[tuple[Any, str, Any]] = [
        (streams.engine, "time", SimpleNamespace(monotonic=lambda: world.loop.now)),
        (streams.reading, "time", SimpleNamespace(monotonic=lambda: world.loop.now)),
        (streams.reading, "LOOK_EVERY_S", 0.2),  # virtual time costs nothing, looking does
        (streams.kafka, "_reader", lambda settings, max_bytes: SimReader(world.cluster, world.network)),
        (streams.transactions, "time", SimpleNamespace(monotonic=lambda: world.loop.now)),
        (streams.transactions, "AIOKafkaProducer", lambda **options: producer(world, options["transactional_id"])),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in names]
    for module, name, value in names:
        setattr(module, name, value)
    faults.watch(world.point)
    try:
        yield
    finally:
        faults.watch(None)
        for module, name, value in before:
            setattr(module, name, value)


def producer(world: World, id: str) -> SimProducer:
    return SimProducer(world.cluster, world.network, id, fail_batch=world.fail_batch, batch_most=world.batch_most)


class SimEngine(Engine):
    """The real engine; only where it meets aiokafka, RocksDB and Faust's services it meets ours."""

    def __init__(self, world: World, machine: Machine) -> None:
        super().__init__(world.app.groups, METRICS, world.clock)
        self._world, self._machine = world, machine
        self.settings, self.url = world.settings, machine.url
        self.ending = False

    async def _join(self) -> None:
        world = self._world
        consumer = SimConsumer(world.cluster, world.network, world.group, self._assignor, Listener(self))
        self.consumer = consumer
        self._confirm_by_heartbeat(consumer)
        await consumer.start()

    async def _watch(self) -> None:
        await asyncio.get_running_loop().create_future()

    def _open(self, name: str) -> Any:
        return self._machine.disk.open(name)

    def _describe(self) -> Member:
        stored = tuple(sorted(self._machine.disk.files))
        return Member(self.url, tuple(sorted(self._slots)), stored, self.settings.standby_replicas)

    def _damaged(self, name: str, error: Exception) -> None:
        self._world.say(f"{self._machine.name} moves its damaged store of {name} aside")
        self._machine.disk.set_aside(name)

    def add_future(self, coro: Any) -> asyncio.Future[Any]:
        return self._machine.watched(asyncio.get_running_loop().create_task(coro))

    async def crash(self, reason: BaseException) -> None:
        self._world.alarms.append(f"{self._machine.name} stopped for good: {reason}")

    async def sleep(self, n: Any) -> None:
        await asyncio.sleep(n)

    @property
    def should_stop(self) -> bool:
        return self.ending


class Machine:
    """A place where one worker runs at a time."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.name = world, f"w{number}"
        self.url = f"http://{self.name}"
        self.disk = Disk(world.chance)
        self.process: Process | None = None
        self.engine: SimEngine
        self.source: SimSource
        self._pumping: asyncio.Task[None]
        self._trap: tuple[str, int, float, bool] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None

    # -- a process's life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.process is not None:
            return
        self.world.say(f"{self.name} starts")
        self.process = Process(self.name)
        self.engine = SimEngine(self.world, self)
        self.source = SimSource(self.world.cluster, self.world.network, self.world.sink_group, self.process)
        self.spawn(self.engine._membership())
        self._pumping = self.spawn(self._pump())

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the worker's process."""
        assert self.process is not None
        return self.watched(self.world.loop.create_task(coro, context=self.process.context.copy()))

    def watched(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        """A background task that ends in an error is one."""
        task.add_done_callback(self._ended, context=NOWHERE)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Crashed):
            self.world.alarms.append(f"{self.name}: {task.get_coro()!r:.60} ended in {error!r}")

    def die(self, down_s: float | None = None, lose: bool = False) -> None:
        """As SIGKILL, and whatever that leaves on the disk; another process starts after a while."""
        if self.process is None:
            return
        if self._trap is not None and down_s is None:
            _, _, down_s, lose = self._trap
        self._trap = None
        self.process.kill()
        self.disk.crash()
        if lose:
            self.disk.lose()
        self.process = None
        self._missed()
        if down_s is not None:
            self.world.loop.call_later(down_s, self.start, context=NOWHERE)

    def _missed(self) -> None:
        """The sink's group notices after a session."""
        session_s = self.world.settings.session_timeout_ms / 1000
        self.world.loop.call_later(session_s, self.world.sink_group.leave, self.source, context=NOWHERE)

    def set_trap(self, point: str, count: int, down_s: float, lose: bool) -> None:
        """Die the count-th time that this point is passed."""
        self._trap = (point, count, down_s, lose)

    def clear_trap(self) -> None:
        self._trap = None

    def trapped(self, point: str) -> bool:
        if self._trap is None or self._trap[0] != point:
            return False
        name, count, down_s, lose = self._trap
        self._trap = (name, count - 1, down_s, lose)
        return count <= 1

    def freeze(self) -> None:
        if self.process is not None:
            self.world.loop.freeze(self.process)

    def thaw(self) -> None:
        if self.process is not None:
            self.world.loop.thaw(self.process)

    async def stop(self) -> None:
        """As SIGTERM: it finishes what it has in hand and leaves."""
        if self.process is None or self.engine.ending:
            return
        process, engine = self.process, self.engine
        engine.ending = True
        await self._until_dead(process, self.spawn(engine.on_stop()))
        if self.process is process:
            self._pumping.cancel()
            await self._until_dead(process, self.spawn(self.source.close()))
        if self.process is process:
            process.kill()
            self.disk.crash()
            self.process = None
            self._missed()

    async def _until_dead(self, process: Process, task: asyncio.Task[Any]) -> None:
        while not task.done() and self.process is process:  # noqa: ASYNC110  # a dead process sets no event
            await asyncio.sleep(0.05)

    async def _pump(self) -> None:
        world = self.world
        pump = Pump(
            "sim",
            self.source,
            SimDestination(world.database),
            SINK_METRICS,
            max_records=world.chance.choice([1, 2, 5, 100]),
            poll_s=2.0,
            backoff=Backoff(0.1, 2.0, world.chance),
            now_s=lambda: world.loop.now,
        )
        while True:
            wait_s = await pump.step()
            await asyncio.sleep(wait_s)
