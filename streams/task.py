"""a batch of one partition -> one Kafka transaction -> one step of the local store.

A task is (group, partition). It takes whatever has arrived, lets the agents run over it, and commits, in this order:

1. run the agents over the batch: reads see the batch's overlay, then the store; writes go to the overlay, sends to the
   outbox; a record whose agent raises is rolled back to its savepoint and dead-lettered;
2. begin the transaction; send the folded changelog records and the outbox;
3. when all of them were acknowledged, add the input offsets to the transaction;
4. commit the transaction;
5. apply the overlay to the store, together with the changelog position that it reaches.

A crash before 4 leaves nothing that a read-committed reader sees; a crash between 4 and 5 leaves a store that is
behind, and the changelog brings it forward. The store is never ahead of the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from streams import faults
from streams.agent import AgentRun
from streams.batch import Batch, CommittedView, using
from streams.clock import Clock
from streams.errors import LogMismatch, NotReadable, OutcomeUnknown, StoreDamaged
from streams.journal import STEPS, Act, Due, Replay, Run, Writer, began_record, size
from streams.live import Live
from streams.log import Extent, Log, Transactions
from streams.metrics import Metrics
from streams.records import Fields, Outgoing, Position, Record, TopicPartition
from streams.restore import Restore, require_settled, verify_identities
from streams.settings import EngineSettings
from streams.standing import Standing, find_standing, to_repeat
from streams.store import IDENTITY, Store
from streams.table import Table
from streams.topology import Group, task_name, transactional_id

log = logging.getLogger(__name__)

#: How often a commit, or a transaction without records, marks all families of a store as current. A store that was not
#: marked for longer than streams/restore.py's MOST_MISSED_MS may be copied from the beginning.
PROVEN_EVERY_MS = 3600 * 1000

Changes = Mapping[Table[Any], Mapping[bytes, bytes | None]]


class TaskState(StrEnum):
    """Where a task stands; only a running one is read from."""

    CREATED = "created"
    FENCING = "fencing"
    RESTORING = "restoring"
    REPLAYING = "replaying"
    RUNNING = "running"
    FAILED = "failed"
    CLOSED = "closed"


class Task:
    """One partition of a group at work: its producer, its store, its agents."""

    def __init__(
        self,
        group: Group,
        partition: int,
        log_: Log,
        open_store: Callable[[], Store],
        settings: EngineSettings,
        clock: Clock,
        metrics: Metrics,
        live: Live | None = None,
    ) -> None:
        self.group, self.partition, self.name = group, partition, task_name(group.name, partition)
        self.inputs = group.inputs(partition)
        self.journal = group.journal(partition)
        self.state = TaskState.CREATED
        self.committed: dict[TopicPartition, int] = {}
        #: The last look found at least half of a full batch: records wait for this task, and not it for them.
        self.pressed = False
        self.store: Store
        self.batch: Batch
        self._log, self._open_store, self._settings = log_, open_store, settings
        self._clock, self._metrics, self._live = clock, metrics, live
        self._producer: Transactions
        self._runs: dict[str, AgentRun] = {}
        self._waiting: list[tuple[TopicPartition, int, asyncio.Future[None]]] = []
        self._began = False
        self._standing: Standing
        self._held = False
        self._flowing = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._fetching: asyncio.Task[Mapping[TopicPartition, Sequence[Record]]] | None = None
        self._restore: Restore | None = None
        self._writer = Writer(self.inputs)
        self._replay: Replay | None = None
        self._ahead: dict[TopicPartition, Sequence[Record]] = {}
        self._next_due_ms: int | None = None
        self._damage: StoreDamaged | None = None
        #: By changelog, the offset that the next record of this task gets.
        self._ends: dict[TopicPartition, int] = {}
        self._proven_at_ms = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Fence older owners; see whose turn it is; then read the offsets, open the store, and bring it to the end.

        Read earlier, the offsets could still be moved by the older owner: 2,560 doubles in 462 fencings. And a version
        that looked before it fenced could be switched from in between (streams/live.py). Raises NotLive.
        """
        self.state = TaskState.FENCING
        self._producer = self._log.transactions(transactional_id(self._settings.app_id, self.name))
        await self._producer.start()
        faults.point("fenced")
        if self._live is not None:
            await self._live.require(self._log)
        await self._find_offsets()
        self.store = self._open_store()
        self.state = TaskState.RESTORING
        extents = await self._log.survey([*self.group.changelogs(self.partition).values(), self.journal])
        require_settled(self.name, extents)
        fresh = verify_identities(extents, self.store, self.group, self.partition, self._began)
        await self._find_replay(extents[self.journal])
        if not self._began:
            await self._begin_for_the_first_time(fresh, extents[self.journal].first is None)
        self._restore = Restore(self._log, self.store, self.group, self.partition, self._clock, self._metrics)
        await self._restore.run(extents)
        self._proven_at_ms = self._clock.now_ms()
        self._ends |= {tp: extents[tp].end for tp in self.group.changelogs(self.partition).values() - self._ends.keys()}
        await self._pass_over_deleted_inputs()
        faults.point("restored")
        self.batch = Batch(self.store, self.partition)
        letters = TopicPartition(self._settings.dead_letters, self.partition % self._settings.dead_letter_partitions)
        for topic, agent in self.group.agents.items():
            self._runs[topic] = AgentRun(agent, self.batch, letters, self._metrics)
        self._look_at_deadlines(0)
        self.state = TaskState.RUNNING if self._replay is None else TaskState.REPLAYING
        if self._replay is not None:
            log.warning("%s takes its past again: %d records, no answers until then", self.name, self.remaining)
        if not self._held:
            self.flow()

    async def _find_offsets(self) -> None:
        """The committed offsets; the beginning of the topics when this task has never run. Raises LogMismatch."""
        self._standing = await find_standing(self._log, self.group, self.partition)
        self._began, self.committed = self._standing.began, self._standing.offsets

    async def _find_replay(self, journal: Extent) -> None:
        """Whether the past is to be repeated: a `reset` has forgotten the offsets, or the owner before was at it."""
        found = await to_repeat(self._log, self.group, self.partition, self._standing, journal)
        if found is not None:
            start = self._standing.replayed_to or 0
            self._replay = Replay(self._log, self.journal, start, *found)

    async def _begin_for_the_first_time(self, identities: Mapping[str, bytes], new: bool) -> None:
        """One transaction says that this task has begun: an identity for each changelog, an offset for each input.

        From here on a missing one of either is a loss, and not a beginning. `new`: its journal is empty too.
        """
        changelogs = self.group.changelogs(self.partition)
        records = {changelogs[name]: [Outgoing(0, IDENTITY, identity)] for name, identity in identities.items()}
        await self._producer.begin()
        if new:
            records[self.journal] = [began_record()]
        if records:
            reached = await self._producer.send(records)
            self._ends = {tp: reached[tp] + self._log.markers for tp in records if tp != self.journal}
        replay = {} if self._replay is None else {self.journal: self._replay.position}
        await self._producer.send_offsets(self.committed | replay)
        await self._producer.commit()
        for name, identity in identities.items():
            self.store.identify(name, identity)

    async def _pass_over_deleted_inputs(self) -> None:
        """Report the offsets that a retention deleted before this task had taken them, and commit those behind them.

        Committed at once, they are reported once, and not again by each owner until the next record comes.
        """
        skipped = self._standing.skipped
        if not skipped:
            return
        await self._producer.begin()
        await self._producer.send_offsets({tp: self.committed[tp] for tp in skipped})
        await self._producer.commit()
        for tp, count in skipped.items():
            self._metrics.skipped_offsets.labels(tp.topic, str(tp.partition)).inc(count)
            log.error(
                "%s was at %d of %s-%d, which begins at %d: %d offsets were deleted before it had taken them, and their"
                " records are in no table and no dead letter. The topic has a retention, and it was over before a"
                " worker ran: raise the topic's retention.ms, or see to it that workers are not down for as long",
                self.name,
                self.committed[tp] - count,
                *tp,
                self.committed[tp],
                count,
            )

    async def run(self) -> None:
        """Open, then take batch after batch until cancelled. Raises what ended it."""
        try:
            await self.open()
            while True:
                await self._flowing.wait()
                if not self._flowing.is_set():  # paused again before this came to run: a rebalance waits for `quiet`
                    continue
                self._quiet.clear()
                try:
                    taken = await self.step(self._settings.poll_s)
                finally:
                    self._quiet.set()
                if taken and self._settings.commit_interval_ms and not self.pressed and self._replay is None:
                    await asyncio.sleep(self._settings.commit_interval_ms / 1000)
        except asyncio.CancelledError:
            raise
        except Exception:
            self.state = TaskState.FAILED
            self._give_up_waiters()
            raise

    async def step(self, timeout_s: float) -> int:
        """Take what has arrived and commit it; gives the number of records (deadlines that were due count as one).

        One step is one transaction at most.
        """
        if self._replay is not None:
            return await self._repeat(self._replay, timeout_s)
        if self._next_due_ms is not None:
            timeout_s = max(0.0, min(timeout_s, (self._next_due_ms - self._clock.now_ms()) / 1000))
        most = self._settings.batch_max_records
        fetched = await self._fetch(self.inputs, most, timeout_s)
        self.pressed = 2 * sum(map(len, fetched.values())) >= most
        if self._damage is not None:
            raise self._damage
        acts: list[Act] = [Run(partition, records) for partition, records in fetched.items()]
        now_ms = self._clock.now_ms()
        if self._next_due_ms is not None and self._next_due_ms <= now_ms:
            acts.append(Due(now_ms))
        if not acts:
            await self._prove_ownership(now_ms)
            return 0
        await self.process(acts)
        return size(acts)

    async def _prove_ownership(self, now_ms: int) -> None:
        """Once in PROVEN_EVERY_MS without a commit: commit the offsets again, in a transaction that holds nothing else.

        That it commits proves that no newer owner had begun before: the store has missed nothing of its changelogs,
        however old its last row is, and is marked so. And neither the transactional id nor the offsets of a task that
        has nothing to do expire (7 days, unless the broker is set otherwise).
        """
        if abs(now_ms - self._proven_at_ms) < PROVEN_EVERY_MS:
            return
        await self._producer.begin()
        replay = {} if self._replay is None else {self.journal: self._replay.position}
        await self._producer.send_offsets(self.committed | replay)
        await self._producer.commit()
        self._apply({}, {}, now_ms)

    async def _repeat(self, replay: Replay, timeout_s: float) -> int:
        """One transaction of the past: the same records and moments in the same order, as many as fit a batch."""
        acts: list[Act] = []
        reached, room, waiting = dict(self.committed), self._settings.batch_max_records, False
        while room > 0 and (step := await replay.current()) is not None:
            if step.topic is None:
                acts.append(Due(step.end))
                room -= 1
                replay.taken()
                continue
            partition = TopicPartition(step.topic, self.partition)
            left = step.end - reached.get(partition, step.end)  # an input that is no more has no agent to repeat it
            if left <= 0:
                replay.taken()
                continue
            records = await self._fetch_until(partition, step.end, min(room, left), timeout_s)
            if not records:
                await self._hold_end(partition, step.end)
                waiting = True
                break
            run = Run(partition, records)
            acts.append(run)
            reached[partition] = run.end
            room -= len(records)
            if run.end >= step.end:
                replay.taken()
        if self._damage is not None:
            raise self._damage
        if waiting and not acts:  # the journal is no input of the group: its offset expires while the group is at work
            await self._prove_ownership(self._clock.now_ms())
        if acts or not waiting:
            await self.process(acts)
            self._metrics.replay_remaining.labels(self.group.name, str(self.partition)).set(self.remaining)
        if not waiting and await replay.current() is None:
            await self._end_replay(replay)
        return size(acts)

    async def _hold_end(self, partition: TopicPartition, wanted: int) -> None:
        """Raise LogMismatch when a replay would wait for ever."""
        _, end = (await self._log.bounds([partition]))[partition]
        if wanted > end:
            raise LogMismatch(
                f"{self.name} took {partition.topic}-{partition.partition} up to {wanted} once, but that topic ends at"
                f" {end}: it was deleted or re-created, and what it held cannot be replayed"
            )

    async def _fetch_until(self, partition: TopicPartition, end: int, most: int, timeout_s: float) -> Sequence[Record]:
        """Records before `end`; what came beyond it is kept for the next step. Offsets have gaps, so some may come."""
        records = self._ahead.pop(partition, None)
        if not records:
            records = (await self._fetch([partition], most, timeout_s)).get(partition, ())
        count = next((n for n, record in enumerate(records) if record.offset >= end), len(records))
        count = min(count, most)
        if count < len(records):
            self._ahead[partition] = records[count:]
        return records[:count]

    async def _end_replay(self, replay: Replay) -> None:
        await replay.close()
        self._replay = None
        self.state = TaskState.RUNNING
        log.warning("%s has taken its past again and goes on with what is new", self.name)
        if self._flowing.is_set():
            self.flow()

    def pause(self) -> None:
        """Take no further batch; the one under way ends first (see `quiet`)."""
        self._held = True
        self._flowing.clear()
        if self._fetching is not None:
            self._fetching.cancel()

    def flow(self) -> None:
        """Read on from the committed offsets. Whatever was fetched and not committed is read again."""
        self._held = False
        self._ahead.clear()
        if self.state in (TaskState.RUNNING, TaskState.REPLAYING):
            self._log.seek(self.committed)
            self._flowing.set()

    async def quiet(self, timeout_s: float) -> bool:
        """Wait until no batch is under way."""
        try:
            await asyncio.wait_for(self._quiet.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Let go of everything. A transaction that is open is left to the fence, which aborts it."""
        self.state = TaskState.CLOSED
        self._give_up_waiters()
        try:
            await asyncio.gather(*(run.close() for run in self._runs.values()), return_exceptions=True)
            if hasattr(self, "_producer"):
                await self._producer.stop()
            if self._replay is not None:
                await self._replay.close()
        finally:
            if hasattr(self, "store"):
                self.store.close()

    @property
    def remaining(self) -> int:
        """Changelog records still to copy, or input records still to repeat; 0 before they were counted."""
        if self.state is TaskState.REPLAYING and self._replay is not None:
            offsets = self._replay.boundary.offsets
            return sum(max(0, offsets.get(tp.topic, 0) - reached) for tp, reached in self.committed.items())
        return self._restore.remaining if self._restore is not None else 0

    # -- one batch ----------------------------------------------------------------------------------------------------

    async def _fetch(
        self, partitions: Sequence[TopicPartition], most: int, timeout_s: float
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        fetch = self._log.fetch(partitions, most, timeout_s)
        self._fetching = asyncio.get_running_loop().create_task(fetch)
        try:
            fetched = await self._fetching
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is not None and this.cancelling():
                raise  # it is the task that was cancelled, not only its fetch
            return {}
        finally:
            self._fetching = None
        # Records that arrive after a pause are dropped: flow() seeks back to what is committed.
        return {tp: records for tp, records in fetched.items() if records} if self._flowing.is_set() else {}

    async def process(self, acts: Sequence[Act]) -> None:
        """Steps 1 to 5 over these acts."""
        batch, replay = self.batch, self._replay
        batch.reset()
        ends = self._offsets_after(acts)
        for act in acts:
            if isinstance(act, Run):
                piece = self._settings.piece_records
                for first in range(0, len(act.records), piece):
                    await self._runs[act.partition.topic].feed(act.records[first : first + piece])
            else:
                self._emit_deadlines(act.now_ms)
        faults.point("agents_ran")
        began = time.perf_counter()
        offsets = {partition: end for partition, end in ends.items() if end != self.committed[partition]}
        changes = batch.changelog()
        begun_at_ms = self._clock.now_ms()  # a newer owner writes later than this, however long the commit takes
        newest_ms = max((act.records[-1].timestamp for act in acts if isinstance(act, Run)), default=begun_at_ms)
        outgoing = self._changelog_records(changes, newest_ms) | self._sent_by(batch)
        steps = self._writer.steps(acts, self.committed) if replay is None else None
        if steps is not None:
            outgoing[self.journal] = [(newest_ms, STEPS, steps, ())]
        await self._producer.begin()
        faults.point("begun")
        reached = await self._producer.send(outgoing) if outgoing else {}
        self._require_continuity(changes, reached)
        faults.point("sent")
        moved = offsets if replay is None else offsets | {self.journal: replay.position}
        if moved:
            await self._producer.send_offsets(moved)
        faults.point("offsets_sent")
        await self._producer.commit()
        faults.point("committed")
        self._apply(changes, reached, begun_at_ms)
        faults.point("applied")
        self.committed.update(offsets)
        if replay is None:
            self._writer.committed()
        self._wake_waiters()
        self._count(acts, time.perf_counter() - began)
        self._look_at_deadlines(self._nothing_due_before(changes))

    def _apply(self, changes: Changes, reached: Mapping[TopicPartition, int], begun_at_ms: int) -> None:
        """Step 5. A transaction that has committed proves that no newer owner wrote before `begun_at_ms`: now and then
        all families are marked so, changed or not, on disk too, since whoever is killed loses what is in memory."""
        changelogs = self.group.changelogs(self.partition)
        positions = {table.name: reached[changelogs[table.name]] for table in changes}
        proven = abs(begun_at_ms - self._proven_at_ms) >= PROVEN_EVERY_MS
        if proven:
            positions = {name: self.store.position(name) for name in changelogs} | positions
        self.store.apply({table.name: rows for table, rows in changes.items()}, positions, begun_at_ms)
        for table in changes:
            self._ends[changelogs[table.name]] = reached[changelogs[table.name]] + self._log.markers
        if proven:
            self._proven_at_ms = begun_at_ms
            self.store.flush()

    def _require_continuity(self, changes: Changes, reached: Mapping[TopicPartition, int]) -> None:
        """Raise LogMismatch, before the commit, unless each table's records follow upon the last ones of this task.

        One comparison for each table finds a restore that stopped early, somebody else's records, and a log that was
        cut: this task is the only writer of its changelogs.
        """
        for table, rows in changes.items():
            tp = TopicPartition(table.changelog, self.partition)
            if (first := reached[tp] - len(rows)) != self._ends[tp]:
                raise LogMismatch(
                    f"{self.name} wrote to {tp.topic}-{tp.partition} at {first} instead of {self._ends[tp]}: something"
                    " else has written to this changelog, or the broker has lost its end. Nothing was committed; at its"
                    " next start the task reads what is there. Make sure that nothing but its workers writes there"
                )

    def _offsets_after(self, acts: Iterable[Act]) -> dict[TopicPartition, int]:
        """The offsets that these acts lead to. Raises OutcomeUnknown when one begins before what is committed."""
        ends = dict(self.committed)
        for act in acts:
            if isinstance(act, Run):
                if act.records[0].offset < ends[act.partition]:
                    raise OutcomeUnknown(
                        f"{act.partition} went back to {act.records[0].offset}, {ends[act.partition]} is committed"
                    )
                ends[act.partition] = act.end
        return ends

    def _sent_by(self, batch: Batch) -> dict[TopicPartition, list[Fields]]:
        """What the agents sent. What a replay sends is in the log already, but for topics that are to get it again."""
        if self._replay is None:
            return batch.outbox
        emit = self._replay.boundary.emit
        return {partition: records for partition, records in batch.outbox.items() if partition.topic in emit}

    def _changelog_records(self, changes: Changes, newest_ms: int) -> dict[TopicPartition, list[Fields]]:
        return {
            TopicPartition(table.changelog, self.partition): [
                (newest_ms, key, value, ()) for key, value in rows.items()
            ]
            for table, rows in changes.items()
        }

    def _emit_deadlines(self, now_ms: int) -> None:
        if self.group.deadlines is None:
            return
        with using(self.batch):
            self.batch.savepoint(None)
            self.group.deadlines.emit(now_ms, self._nothing_due_before(self.batch.changes) or 0)

    def _nothing_due_before(self, changes: Changes) -> int | None:
        """A moment before which no deadline is due, these changes included; None when there is no deadline at all."""
        if self.group.deadlines is None:
            return None
        return self.group.deadlines.floor_ms(self._next_due_ms, changes.get(self.group.deadlines.table, {}))

    def _look_at_deadlines(self, since_ms: int | None) -> None:
        """Find the next deadline; it is not before `since_ms` (None: there is none)."""
        if self.group.deadlines is None:
            return
        self._next_due_ms = None
        if since_ms is not None:
            with using(CommittedView(self.store, self.partition, self._found_damage)):
                self._next_due_ms = self.group.deadlines.next_due_ms(since_ms)
        pending = self._metrics.deadlines_pending.labels(self.group.name, str(self.partition))
        pending.set(0 if self._next_due_ms is None else 1)

    def _count(self, acts: Iterable[Act], commit_s: float) -> None:
        metrics, total = self._metrics, 0
        runs = [act for act in acts if isinstance(act, Run)]
        for partition, records in runs:
            metrics.records.labels(partition.topic).inc(len(records))
            total += len(records)
        metrics.commits.inc()
        metrics.commit_seconds.observe(commit_s)
        metrics.batch_records.observe(total)
        if runs and self._replay is None:
            oldest = min(run.records[0].timestamp for run in runs)
            metrics.end_to_end_seconds.observe(max(0, self._clock.now_ms() - oldest) / 1000)

    # -- reads --------------------------------------------------------------------------------------------------------

    def view(self) -> CommittedView:
        """Committed state. Raises NotReadable while there is none to be had."""
        if self._damage is not None:
            raise NotReadable(f"the store of {self.name} is damaged and is being rebuilt")
        if self.state is not TaskState.RUNNING:
            left = self.remaining
            raise NotReadable(f"task {self.name} is {self.state}" + (f", {left} records to go" if left else ""))
        return CommittedView(self.store, self.partition, self._found_damage)

    def _found_damage(self, error: StoreDamaged) -> None:
        """A read met it; the loop ends the task over it at its next look, and the store is rebuilt."""
        self._damage = error

    async def reached(self, position: Position, timeout_s: float) -> None:
        """Wait until the record at this position is in committed state. Raises NotReadable when it takes too long."""
        partition = TopicPartition(position.topic, position.partition)
        if partition not in self.committed:
            raise NotReadable(f"{position} is not an input of task {self.name}")
        if self.committed[partition] > position.offset:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((partition, position.offset, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise NotReadable(f"{position} is not committed yet: {self.committed[partition]} is reached") from None
        finally:
            self._waiting = [waiter for waiter in self._waiting if waiter[2] is not future]

    def _wake_waiters(self) -> None:
        for partition, offset, future in self._waiting:
            if self.committed[partition] > offset and not future.done():
                future.set_result(None)

    def _give_up_waiters(self) -> None:
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(NotReadable(f"task {self.name} is {self.state}"))
