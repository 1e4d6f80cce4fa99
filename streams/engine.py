"""group membership -> tasks started, paused, restarted and stopped; the worker's only background service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from mode import Service

from streams import faults
from streams.added_partitions import EVERY_S, AddedPartitions
from streams.assignment import Member, TaskAssignor
from streams.audit import Audit
from streams.brokers import told
from streams.clock import Clock, SystemClock
from streams.errors import Fenced, LogMismatch, NotLive, NotOwner, NotReadable, OutcomeUnknown, StoreDamaged
from streams.fetch_sessions import remember_fetches
from streams.heap import Heap, calm_collector
from streams.heartbeats import Heartbeats
from streams.kafka import KafkaLog, KafkaReader, rest_when_idle
from streams.live import Live, Turn
from streams.membership import Confirmation, FencedInstanceId, Listener, is_member, name_instance
from streams.metrics import Metrics
from streams.producer import PlainProducer
from streams.records import Headers, Position, TopicPartition
from streams.settings import EngineSettings
from streams.standby import Standby
from streams.store import Memory, RocksStore, open_store, set_aside
from streams.task import Task, TaskState
from streams.topology import Group, parse_task_name, task_name
from streams.vitals import Check, checks_of, set_gauges

log = logging.getLogger(__name__)

#: A batch under way when a rebalance begins is given this long; past it, the fence of the next owner decides.
HAND_OVER_S = 8.0
#: A task that has run this long is taken for healthy again, and its back-off begins anew.
HEALTHY_AFTER_S = 60.0
#: Whether this version is live is looked up this often: while it works, and while it waits for its turn.
LOOK_EVERY_S, LOOK_SOON_S = 0.5, 0.1
#: A task that closes waits at most 5 s for its producer and then flushes its store; only after that is it asked again.
CLOSING_S, CANCELLATIONS = 8.0, 3


class Engine(Service):
    """Joins the consumer group and keeps one Task for each partition that it is given."""

    def __init__(
        self,
        groups: Mapping[str, Group],
        metrics: Metrics,
        clock: Clock | None = None,
        live: Live | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups, self.metrics, self.clock, self.live = groups, metrics, clock or SystemClock(), live
        self.settings: EngineSettings
        self.url = ""
        self.tasks: dict[str, Task] = {}
        self._slots: dict[str, asyncio.Task[None]] = {}
        self._standbys: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self.failures: dict[str, str] = {}
        self._doubted: set[str] = set()
        self._settled = asyncio.Event()
        self.consumer: AIOKafkaConsumer | None = None
        self._producer: PlainProducer | None = None
        self.added = AddedPartitions(groups, metrics)
        self._assignor = TaskAssignor(groups, self._describe)
        self._confirmed_at = 0.0
        self._heartbeats: Heartbeats | None = None
        self._generation: tuple[str, int] | None = None  # member id and generation of the last assignment
        self._assignments = 0
        self._stopping = False  # a task has found that the worker must stop
        self._fenced_at: dict[str, float] = {}
        self._memory: Memory

    def configure(self, settings: EngineSettings, url: str) -> None:
        """Settle what is known only when the worker starts (Faust reads its options late)."""
        self.settings, self.url = settings, url.rstrip("/")

    @property
    def pressed(self) -> bool:
        """Whether records wait for this worker, so that whatever can wait should."""
        return any(task.pressed and task.state is TaskState.RUNNING for task in self.tasks.values())

    @property
    def confirmed_at(self) -> float:
        """When the last heartbeat was sent that the group confirmed (time.monotonic()); 0.0 before the first.

        One of the heartbeat thread counts if it was for the member and the generation of the last assignment.
        """
        if self._heartbeats is None or self._generation is None:
            return self._confirmed_at
        return max(self._confirmed_at, self._heartbeats.confirmed_at(*self._generation))

    @property
    def settled(self) -> bool:
        """Whether the group has given this worker its tasks and does not rebalance."""
        return self._settled.is_set()

    @property
    def works(self) -> bool:
        """Whether the version that this worker runs is the live one, as far as is known here."""
        return self.live is None or self.live.works

    def standing_by(self) -> str | None:
        """Why this worker does nothing, if its version is not the live one."""
        return None if self.works else str(self.live)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        calm_collector()
        self._memory = Memory(self.settings.block_cache_bytes, self.settings.write_buffer_bytes)
        self.settings.state_dir.mkdir(parents=True, exist_ok=True)
        self._heartbeats = Heartbeats(self.settings)
        self._heartbeats.start()
        self.add_future(self._membership())
        self.add_future(self._observe())
        self.add_future(self._refresh_added_partitions())
        if self.settings.audit_every_s > 0:
            audit = Audit(self.tasks, self.metrics, self.clock, lambda: self.pressed)
            self.add_future(audit.keep_on(self._log, self.settings.audit_every_s))

    def _log(self) -> KafkaLog | None:
        """The log for whoever only looks; None while this worker is no member."""
        return None if self.consumer is None else KafkaLog(self.settings, self.consumer)

    async def on_stop(self) -> None:
        """Finish or drop the batch under way, then leave the group, so that the others need no time-out."""
        self._settled.clear()
        for task in self.tasks.values():
            task.pause()
        await asyncio.gather(*(task.quiet(HAND_OVER_S) for task in self.tasks.values()))
        await self._let_go(list(self._slots), list(self._standbys))
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        if self._heartbeats is not None:
            self._heartbeats.watch(None)
            await self._heartbeats.stop()
        if self.consumer is not None:
            await self.consumer.stop()
        if self._producer is not None:
            await self._producer.stop()

    async def _membership(self) -> None:
        """Be a member; when the membership breaks for good, say why, let everything go and begin again."""
        backoff = self.settings.restart_backoff_s
        while not self.should_stop:
            joined_at = time.monotonic()
            try:
                await self._admitted()
                await self._join()
                await self._watch()
                log.warning("leaving group %s: %s", self.settings.app_id, self.live)
                await self.revoked()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if self.should_stop:
                    return
                # aiokafka raises another error with the text of this one.
                if self.settings.group_instance_id and FencedInstanceId.__name__ in repr(error):
                    await self.crash(
                        RuntimeError(
                            f"another worker uses the group instance id {self.settings.group_instance_id!r}: this one"
                            " stops. Give each worker an id of its own"
                        )
                    )
                    return
                broke = "membership of group %s broke: %s; joining again in %.1f s"
                log.error(broke, self.settings.app_id, told(error), backoff)
            self._settled.clear()
            if self._heartbeats is not None:
                self._heartbeats.watch(None)
            await self._let_go(list(self._slots), list(self._standbys))
            if self.consumer is not None:
                await self.consumer.stop()
                self.consumer = None
            if time.monotonic() - joined_at > HEALTHY_AFTER_S:
                backoff = self.settings.restart_backoff_s
            await self.sleep(backoff)
            backoff = min(backoff * 2, self.settings.restart_backoff_max_s)

    async def _admitted(self) -> None:
        """While its version is being switched from, a worker is no member: that tells the switch that it knows."""
        if self.live is None or self.live.turn is not Turn.LETS_GO:
            return
        async with KafkaReader(self.settings) as reader:
            while await self.live.look(reader) is Turn.LETS_GO and not self.should_stop:
                await self.sleep(LOOK_SOON_S)

    async def _join(self) -> None:
        settings = self.settings
        self._producer = self._producer or PlainProducer(settings)
        self._producer.renew()  # a membership that broke may have lost the addresses of all brokers with it
        await self._producer.start()
        self.consumer = consumer = AIOKafkaConsumer(
            **settings.client_options,
            group_id=settings.app_id,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            # Of a record that was deleted beneath a task, find_standing decides; "earliest" passes over it silently.
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            max_partition_fetch_bytes=settings.fetch_max_bytes,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            # Tasks, not the poll loop, tell whether this worker is alive: a long restore fetches nothing.
            max_poll_interval_ms=24 * 3600 * 1000,
            partition_assignment_strategy=(self._assignor,),
            check_crcs=False,
        )
        topics = sorted({topic for group in self.groups.values() for topic in group.agents})
        consumer.subscribe(topics, listener=Listener(self))
        await consumer.start()
        rest_when_idle(consumer, settings)
        remember_fetches(consumer)
        self._confirm_by_heartbeat(consumer)

    def _confirm_by_heartbeat(self, consumer: AIOKafkaConsumer) -> None:
        """Note when the group last confirmed this member, counted from when the heartbeat was sent.

        A worker that slept past its session must not answer reads from a state that others have moved on from; its own
        monotonic clock tells it so before the broker does.
        """
        coordinator = consumer._coordinator
        heartbeat = coordinator._do_heartbeat

        async def confirmed() -> bool:
            sent_at = time.monotonic()
            ok: bool = await heartbeat()
            if ok:
                self._confirmed_at = max(self._confirmed_at, sent_at)
                if self._heartbeats is not None:
                    self._heartbeats.note_confirmed(sent_at)
            return ok

        coordinator._do_heartbeat = confirmed
        name_instance(coordinator)
        if self._heartbeats is not None:
            self._heartbeats.watch(coordinator)

    async def _watch(self) -> None:
        """aiokafka keeps some group errors to itself and lets the process live on, doing nothing: ask for them.

        Returns when another version takes over from this one.
        """
        heap = Heap()
        confirmation = Confirmation(self.settings.session_timeout_ms, self.settings.rebalance_timeout_ms)
        while not self.should_stop:
            assert self.consumer is not None
            self.consumer._coordinator.check_errors()
            confirmation.check(self.confirmed_at)
            self._begin_ended_slots()
            await heap.look(sum(sum(task.committed.values()) for task in self.tasks.values()), self.pressed)
            if self.live is not None and await self._gives_way(self.live):
                return
            await self.sleep(LOOK_EVERY_S if self.works else LOOK_SOON_S)

    def _begin_ended_slots(self) -> None:
        """Start again each assigned task whose slot has ended. No path is known that ends one while it is assigned;
        should there be one, its partition must not wait for a rebalance that may never come."""
        ended = [name for name, slot in self._slots.items() if slot.done()] if self._settled.is_set() else []
        for name in ended if not self._stopping else ():
            slot = self._slots[name]
            error = None if slot.cancelled() else slot.exception()
            log.error("task %s is assigned to this worker and had ended (%r); it is started again", name, error)
            self._begin(name)

    def _begin(self, name: str) -> None:
        self._slots[name] = asyncio.get_running_loop().create_task(self._supervise(name), name=f"task {name}")

    async def _gives_way(self, live: Live) -> bool:
        """Look whose turn it is. A broker that does not answer changes nothing: a switch waits for this worker."""
        try:
            async with asyncio.timeout(self.settings.session_timeout_ms / 1000):
                if live.turn is None and self.consumer is not None:
                    # Asked for a topic that it does not know, the consumer would wait 100 ms before it asks again.
                    await self.consumer._client.add_topic(live.partition.topic)
                turn = await live.look(KafkaLog(self.settings, self.consumer))
        except (OutcomeUnknown, TimeoutError) as error:
            log.info("which version is live is not known now: %r", error)
            return False
        return turn is Turn.LETS_GO or (turn is Turn.STANDS_BY and bool(self.tasks))

    # -- rebalance ----------------------------------------------------------------------------------------------------

    async def revoked(self) -> None:
        """Heartbeats go on during this callback: it may wait for the batches under way."""
        self._settled.clear()
        for task in self.tasks.values():
            task.pause()
        await asyncio.gather(*(task.quiet(HAND_OVER_S) for task in self.tasks.values()))
        faults.point("revoked")

    async def assigned(self, partitions: set[TopicPartition]) -> None:
        """No heartbeat runs until this returns: it only starts things."""
        assert self.consumer is not None
        faults.point("assigned")
        self.consumer.pause(*partitions)
        self.metrics.rebalances.inc()
        wanted = {
            task_name(group.name, partition)
            for group in self.groups.values()
            for partition in range(group.partitions)
            if TopicPartition(next(iter(group.agents)), partition) in partitions
        }
        standbys = {name for name, urls in self._assignor.standbys.items() if self.url in urls} - wanted
        self._assignments += 1
        coordinator = self.consumer._coordinator
        kept = wanted if self._was_there_before(coordinator.member_id, coordinator.generation) else set()
        await self._let_go(
            [name for name in self._slots if name not in kept],
            [name for name in self._standbys if name not in standbys],
            wait=False,
        )
        loop = asyncio.get_running_loop()
        for name in sorted(wanted):
            if name in self._slots and not self._slots[name].done():
                if name in self.tasks:
                    self.tasks[name].flow()
            else:
                self._begin(name)
        for name in sorted(standbys - self._standbys.keys()):
            self._standbys[name] = loop.create_task(self._stand_by(name), name=f"standby {name}")
        self._settled.set()
        self._confirm_soon()
        log.info("assigned %s, standby for %s", sorted(wanted), sorted(standbys))

    def _was_there_before(self, member_id: str, generation: int) -> bool:
        """Whether this member has missed no generation since its last assignment.

        In one that this member missed, its tasks may have been another's: theirs is the newer state, and what still
        runs here would answer reads from an older one until its next write is fenced (found by the simulation). The
        same member in the same generation has the same assignment again: the broker answers so to a follower that
        joins with nothing new to say.
        """
        before, self._generation = self._generation, (member_id, generation)
        return before is not None and (generation == before[1] + 1 or self._generation == before)

    def _confirm_soon(self) -> None:
        """Ask the group at once whether it still knows this member, so that reads go on without waiting a second."""
        consumer = self.consumer

        async def ask() -> None:
            try:
                if consumer is not None:
                    await consumer._coordinator._do_heartbeat()
            except Exception as error:
                log.info("the first heartbeat of this generation failed: %r; the next one follows", error)

        self.add_future(ask())

    async def _let_go(self, slots: list[str], standbys: list[str], wait: bool = True) -> None:
        """Cancel tasks and standbys. Their stores close in the background; whoever starts next on one waits for it."""
        for names, running in ((slots, self._slots), (standbys, self._standbys)):
            for name in names:
                self._leaving[name] = asyncio.get_running_loop().create_task(end(running.pop(name)))
        if wait:
            await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    # -- tasks --------------------------------------------------------------------------------------------------------

    async def _supervise(self, name: str) -> None:
        """Run a task; when it ends, find out whether it may be tried again."""
        await self._left(name)
        backoff = self.settings.restart_backoff_s
        group_name, partition = parse_task_name(name)
        while True:
            await self._until_working(name)
            assert self.consumer is not None
            kafka = KafkaLog(self.settings, self.consumer)
            task = Task(
                self.groups[group_name],
                partition,
                kafka,
                lambda: self._open(name),
                self.settings,
                self.clock,
                self.metrics,
                self.live,
            )
            self.tasks[name] = task
            if not self._settled.is_set():
                task.pause()
            started_at, fenced = time.monotonic(), False
            try:
                await task.run()
            except Exception as error:
                if time.monotonic() - started_at > HEALTHY_AFTER_S:
                    self._doubted.discard(name)
                self.failures[name] = f"{type(error).__name__}: {error}"
                if not self._may_restart(name, error):
                    return
                fenced = isinstance(error, Fenced)
            finally:
                await self._close(name, task)
            if fenced:
                await self._confirm_ownership(name)
            if time.monotonic() - started_at > HEALTHY_AFTER_S:
                backoff = self.settings.restart_backoff_s
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, self.settings.restart_backoff_max_s)

    async def _until_working(self, name: str) -> None:
        """While another version is live, keep a copy of the store that will be gone on from.

        Nothing is fenced before it is this version's turn: whoever builds its tables has the fence meanwhile.
        """
        if self.live is None or await self.live.until_known() is Turn.WORKS:
            return
        self.failures.pop(name, None)
        waiting = asyncio.get_running_loop().create_task(self._stand_by(name, follow=False), name=f"waiting {name}")
        try:
            await self.live.until_working()
        finally:
            await end(waiting)

    async def _confirm_ownership(self, name: str) -> None:
        """Wait until the group confirms that this member still owns a task that was fenced; then it may start again.

        A fence has two causes. A newer owner has begun: then this member is not in the current generation, the group
        refuses its heartbeat, and the next assignment cancels this wait or confirms the task. Or the broker has ended
        the transaction itself (it took longer than its time-out), or an older owner was late: then this member is in
        the current generation, nobody else has the task, and it starts again without a rebalance for the whole group.

        This runs after the task was closed and never gives up by itself, so a slow close cannot leave a partition
        that is assigned and not worked on: the slot of the task does not end while this member keeps the assignment.
        Fenced again within a session, it asks for a rebalance: a coordinator that was deposed and does not know it
        confirms heartbeats from its memory, but completes no rebalance, which has to be written to the log.
        """
        session_s, now, assignments = self.settings.session_timeout_ms / 1000, time.monotonic(), self._assignments
        again = now - self._fenced_at.get(name, -session_s) < session_s
        self._fenced_at[name] = now
        if again and self.consumer is not None:
            self.consumer._coordinator.request_rejoin()
        while True:
            await self._settled.wait()
            consumer, decided = self.consumer, not again or assignments < self._assignments
            if consumer is not None and decided and await is_member(consumer._coordinator):
                return
            await asyncio.sleep(self.settings.restart_backoff_s)

    def _may_restart(self, name: str, error: Exception) -> bool:
        """Report why a task ended; False when its worker stops over it."""
        if isinstance(error, NotLive):
            log.info("task %s: %s", name, error)
            self.failures.pop(name, None)
            return True
        self.metrics.task_failures.labels(type(error).__name__).inc()
        if isinstance(error, Fenced):
            self.metrics.fenced.inc()
            log.warning("task %s: %s. It starts again when the group confirms that this worker owns it", name, error)
            return True
        if isinstance(error, LogMismatch) and name in self._doubted:
            log.error("task %s: %s", name, error)
            self._stopping = True
            self.add_future(self.crash(error))
            return False
        if isinstance(error, LogMismatch):
            # A newer owner that just begins its first transaction shows an older one half of it. That happens once.
            self._doubted.add(name)
        if isinstance(error, StoreDamaged):
            self._damaged(name, error)
        log.error("task %s failed and is started again: %s: %s", name, type(error).__name__, error)
        return True

    def _damaged(self, name: str, error: Exception) -> None:
        self.metrics.store_damaged.inc()
        task = self.tasks[name]
        if hasattr(task, "store") and isinstance(task.store, RocksStore):
            task.store.abandon()
            log.error("the store of %s is damaged (%s); moved to %s", name, error, set_aside(task.store.path))

    async def _close(self, name: str, task: Task) -> None:
        if self.tasks.get(name) is task:
            del self.tasks[name]
        try:
            await task.close()
        except Exception as error:
            log.error("task %s did not close cleanly: %r; its store catches up from the changelog", name, error)

    async def _stand_by(self, name: str, follow: bool = True) -> None:
        await self._left(name)
        group_name, partition = parse_task_name(name)
        while True:
            assert self.consumer is not None
            kafka = KafkaLog(self.settings, self.consumer)
            standby = Standby(
                self.groups[group_name], partition, kafka, lambda: self._open(name), self.clock, self.metrics, follow
            )
            try:
                await standby.run()
            except (LogMismatch, StoreDamaged) as error:
                log.error("standby %s: %s; it begins anew", name, error)
                set_aside(self._path(name))
            except Exception as error:
                log.error("standby %s failed and is started again: %r", name, error)
            await asyncio.sleep(self.settings.restart_backoff_max_s / 5)

    async def _left(self, name: str) -> None:
        """Wait until the one before has let go of the store."""
        before = self._leaving.pop(name, None)
        if before is not None:
            await asyncio.wait([before])

    def _path(self, name: str) -> Path:
        return self.settings.state_dir / name

    def _open(self, name: str) -> RocksStore:
        group, _ = parse_task_name(name)

        def tell(path: Path, aside: Path, error: Exception) -> None:
            self.metrics.store_damaged.inc()
            log.error("the store %s is damaged (%s); moved to %s and rebuilt from the changelog", path, error, aside)

        return open_store(self._path(name), self.groups[group].tables, self._memory, tell)

    def _describe(self) -> Member:
        stored = [path.name for path in self.settings.state_dir.glob("*-*") if (path / "CURRENT").exists()]
        known = {task_name(group.name, p) for group in self.groups.values() for p in range(group.partitions)}
        return Member(
            self.url, tuple(sorted(self._slots)), tuple(sorted(known & set(stored))), self.settings.standby_replicas
        )

    # -- reads, writes and health -------------------------------------------------------------------------------------

    @property
    def routes(self) -> dict[str, str]:
        """Task name -> URL of its owner, as of the last assignment."""
        return self._assignor.routes

    def readable_task(self, group: str, partition: int) -> Task:
        """The local task, if this worker may answer for it now. Raises NotOwner or NotReadable."""
        if not self._settled.is_set():
            raise NotReadable("the group is rebalancing")
        if (reason := self.standing_by()) is not None:
            raise NotReadable(reason)
        name = task_name(group, partition)
        url = self.routes.get(name)
        if url is not None and url != self.url:
            raise NotOwner(url)
        if time.monotonic() - self.confirmed_at > self.settings.session_timeout_ms / 1000:
            raise NotReadable("this worker has not heard from the group for a whole session and may have been replaced")
        task = self.tasks.get(name)
        if task is None:
            raise NotReadable(f"task {name} is not running: {self.failures.get(name, 'it is being started')}")
        return task

    def log_reader(self) -> KafkaReader:
        """The log, to be looked into outside of tasks. Raises NotReadable before this worker has joined the group."""
        if self.consumer is None:
            raise NotReadable("this worker is not connected to the broker yet")
        return KafkaReader(self.settings)

    async def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> Position:
        """One record from outside an agent. Raises NotReadable when the broker cannot be reached."""
        if self._producer is None:
            raise NotReadable("this worker is not connected to the broker yet")
        return await self._producer.send(topic, partition, key, value, headers)

    def health(self) -> dict[str, Check]:
        """Return the checks by name: broker, assignment, recovery, store, and version where there are versions."""
        return checks_of(self)

    async def _refresh_added_partitions(self) -> None:
        while not self.should_stop:
            if self.consumer is not None and self.settled:
                await self.added.refresh(self.consumer, self.tasks)
            await self.sleep(EVERY_S)

    async def _observe(self) -> None:
        """Keep the gauges that nothing else sets."""
        while not self.should_stop:
            set_gauges(self)
            if self._heartbeats is not None:
                self._heartbeats.note_progress()
            await self.sleep(1.0)


async def end(task: asyncio.Task[None]) -> None:
    """Cancel until it has ended: aiokafka swallows a cancellation here and there, and a task would live on."""
    for _ in range(CANCELLATIONS):
        task.cancel()
        await asyncio.wait([task], timeout=CLOSING_S)
        if task.done():
            return
    log.error("%s does not end; it is left behind", task.get_name())
