"""the engine with one line of its argument broken -> how many histories until the judge sees it.

A mutant is the product's own source with a few words changed, so that it stays the product but for the one step that
is left out. A mutant that no longer fits the source says so.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import streams.kafka
import streams.restore
from streams.batch import Batch
from streams.deadlines import Deadlines
from streams.engine import Engine
from streams.journal import STEPS, Writer
from streams.records import Record, TopicPartition
from streams.restore import Restore
from streams.sink import Move, Written
from streams.task import Task
from streams.transactions import KafkaTransactions
from tables.orders import OrderTables
from tests.simulation.history import run
from tests.simulation.plan import make_plan
from tests.simulation.sink import Database, SimDestination


class Change(NamedTuple):
    """Words of a method, and what stands in their place."""

    owner: type
    method: str
    old: str
    new: str


class Mutant(NamedTuple):
    """What is broken, which invariant it must cost, and the topology that shows it (None: any)."""

    about: str
    costs: str
    changes: Sequence[Change | tuple[Any, str, Any]]
    topology: str | None = None


class Caught(NamedTuple):
    """After how many histories, by which seed, and what was wrong."""

    histories: int
    seed: int
    wrong: str


def hunt(name: str, histories: int, first: int = 0) -> Caught | None:
    """Play histories on a broken engine until one fails."""
    mutant = MUTANTS[name]
    with broken(mutant):
        for number in range(histories):
            outcome = run(make_plan(first + number, mutant.topology))
            if not outcome.held:
                return Caught(number + 1, first + number, outcome.wrong[0])
    return None


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """The engine as the mutant has it, for as long as this lasts."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for change in mutant.changes:
            owner, name = change[0], change[1]
            before.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, _rewritten(change) if isinstance(change, Change) else change[2])
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _rewritten(change: Change) -> Any:
    source = textwrap.dedent(inspect.getsource(getattr(change.owner, change.method)))
    if source.count(change.old) != 1:
        raise LookupError(
            f"{change.owner.__name__}.{change.method} has no single {change.old!r} any more: mend the mutant"
        )
    names, made = vars(sys.modules[change.owner.__module__]), dict[str, Any]()  # its own: histories change its names
    names["mutants"] = sys.modules[__name__]
    exec(compile(source.replace(change.old, change.new), f"<mutant {change.method}>", "exec"), names, made)
    return made[change.method]


# -- what the changed words call ---------------------------------------------------------------------------------------

_owners = count()


def own_id(id: str) -> str:
    """A transactional id that no other owner of the task has: nobody is fenced."""
    return f"{id}#{next(_owners)}"


def produce(task: Any, records: Mapping[TopicPartition, Sequence[Any]]) -> None:
    """Send outside of any transaction."""
    cluster = task._log._consumer.cluster
    for tp, some in records.items():
        for fields in some:
            cluster.append(tp, fields)


def journal(task: Any, steps: bytes) -> None:
    """Write down what a task is about to take, and not what it took."""
    produce(task, {task.journal: [(0, STEPS, steps, ())]})


def commit_offsets(task: Any, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit offsets as a plain consumer does."""
    task._log._consumer.cluster.committed.update(offsets)


def seek_once(task: Any) -> None:
    """Seek when the task begins, and never again."""
    if not hasattr(task, "sought"):
        task.sought = True
        task._log.seek(task.committed)
    else:
        task._log._consumer.resume(*task.inputs)


async def _rows_then_positions(
    self: SimDestination, records: Sequence[Record], moves: Mapping[TopicPartition, Move]
) -> Written:
    network, database = self.database.network, self.database
    await network.call(database.rows.extend, list(records))
    await network.call(database.move, dict(moves))
    return Written({"rows": len(records)})


def _write_unasked(self: Database, records: Sequence[Any], moves: Mapping[TopicPartition, Move]) -> Written:
    self.answer()
    self.rows.extend(records)
    self.move(moves)
    return Written({"rows": len(records)})


def _not_answered(self: OrderTables, *arguments: Any) -> bool:
    return False


def _nothing(*arguments: Any) -> None:
    return None


_FENCE = '    await self._producer.start()\n    faults.point("fenced")\n'
_LOOK = "    if self._live is not None:\n        await self._live.require(self._log)\n"
_COMMIT = "    await self._producer.commit()\n"
_SEND_OFFSETS = """\
    if moved:
        await self._producer.send_offsets(moved)
    faults.point("offsets_sent")
"""
_APPLY = """\
    self.store.apply(
        {table.name: rows for table, rows in changes.items()},
        {table.name: reached[TopicPartition(table.changelog, self.partition)] for table in changes},
        begun_at_ms,
    )
"""

MUTANTS: dict[str, Mutant] = {
    "store_before_commit": Mutant(
        "step 5 before step 4: the store is ahead of the log",
        "I4, I6",
        [Change(Task, "process", _COMMIT, _APPLY + _COMMIT)],
    ),
    "offsets_outside_transaction": Mutant(
        "step 3 by a plain commit, after the transaction",
        "I1, I2",
        [
            Change(
                Task,
                "process",
                _SEND_OFFSETS + _COMMIT,
                _COMMIT + "    await asyncio.sleep(0.001)\n    mutants.commit_offsets(self, moved)\n",
            )
        ],
    ),
    "offsets_read_before_fencing": Mutant(
        "the committed offset is asked for before older owners are fenced",
        "I2",
        [
            Change(
                Task,
                "open",
                _FENCE + _LOOK + "    await self._find_offsets()\n",
                "    await self._find_offsets()\n" + _FENCE + _LOOK,
            )
        ],
    ),
    "no_fencing": Mutant(
        "each owner has a transactional id of its own",
        "I2",
        [
            Change(
                Task,
                "open",
                "transactional_id(self._settings.app_id, self.name)",
                "mutants.own_id(transactional_id(self._settings.app_id, self.name))",
            )
        ],
    ),
    "outputs_outside_transaction": Mutant(
        "the outbox is sent by a plain producer, only the changelog in the transaction",
        "I2",
        [
            Change(
                Task,
                "process",
                "outgoing = self._changelog_records(changes, newest_ms) | self._sent_by(batch)",
                "outgoing = self._changelog_records(changes, newest_ms); mutants.produce(self, self._sent_by(batch))",
            )
        ],
    ),
    "recovery_stops_early": Mutant(
        "a restore leaves out the last record of a changelog",
        "I6",
        [
            Change(
                Restore,
                "_run",
                "{tp: extents[tp].end for tp in starts}",
                "{tp: max(starts[tp], extents[tp].end - 2) for tp in starts}",
            )
        ],
    ),
    "recovery_skipped": Mutant(
        "a store that has anything is taken for current",
        "I6",
        [
            Change(
                Restore,
                "_run",
                "if start < ends[tp]:",
                "if start > 0:\n            starts[tp] = ends[tp]\n        elif start < ends[tp]:",
            )
        ],
    ),
    "one_position_for_all_families": Mutant(
        "a restore begins every family where the furthest one is",
        "I6",
        [
            Change(
                Restore,
                "_run",
                "starts = {tp: self._store.position(name) for tp, name in self._families.items()}",
                "most = max((self._store.position(name) for name in self._families.values()), default=0)\n"
                "    starts = {tp: min(most, extents[tp].end) for tp in self._families}",
            )
        ],
    ),
    "position_ahead_of_data": Mutant(
        "a restore writes the position before the rows that reach it",
        "I6",
        [
            Change(
                Restore,
                "copy",
                "self._store.apply({family: rows}, {family: reached}, self._current_at_ms[tp])",
                "self._store.apply({}, {family: reached}, self._current_at_ms[tp])\n"
                "    self._store.apply({family: rows}, {}, 0)",
            )
        ],
    ),
    "acknowledgements_unchecked": Mutant(
        "the commit goes on when a batch was not taken",
        "I1, I6",
        [
            Change(
                KafkaTransactions,
                "_produce",
                "raise self._translated(outcome, where) from outcome",
                "batches.pop(partition)",
            )
        ],
    ),
    "repeated_in_place": Mutant(
        "a change of the transaction that was not answered is sent again in the same epoch",
        "I2",
        [
            Change(
                KafkaTransactions,
                "_change",
                'raise OutcomeUnknown(f"{self._id}: {type(request).__name__} was not answered: {error!r}") from error',
                "refusal = ConcurrentTransactions()",
            )
        ],
    ),
    "old_stores_trusted": Mutant(
        "a store is brought forward however long it was away",
        "I6",
        [(streams.restore, "MOST_MISSED_MS", 10**15)],
    ),
    "mismatch_believed_at_once": Mutant(
        "a log that looks lost stops the worker at the first look, though only its task was fenced",
        "a worker stops for good",
        [
            Change(
                Engine,
                "_may_restart",
                "isinstance(error, LogMismatch) and name in self._doubted",
                "isinstance(error, LogMismatch)",
            )
        ],
    ),
    "fenced_and_ended": Mutant(
        "a fenced task asks for a rebalance and ends; while it closes, the rebalance finds it still there",
        "a partition is assigned and nobody works on it",
        [
            Change(
                Engine,
                "_may_restart",
                "self.metrics.fenced.inc()",
                "self.metrics.fenced.inc(); self.consumer._coordinator.request_rejoin()",
            ),
            Change(Engine, "_supervise", "await self._confirm_ownership(name)", "return"),
        ],
    ),
    "rollback_undone_not": Mutant(
        "what a rejected record wrote and sent stays",
        "I1, I5",
        [(Batch, "rollback", _nothing)],
    ),
    "deadline_not_forgotten": Mutant(
        "a deadline stays after it was sent",
        "I2",
        [Change(Deadlines, "send", "self.cancel(deadline.id)", "pass")],
    ),
    "journal_not_written": Mutant(
        "nothing says in which order a task took its inputs",
        "I6",
        [Change(Task, "process", "if steps is not None:", "if False:")],
    ),
    "journal_outside_transaction": Mutant(
        "the journal is written by a plain producer, whether the transaction commits or not",
        "I6",
        [
            Change(
                Task,
                "process",
                "outgoing[self.journal] = ",
                "await asyncio.sleep(0); mutants.journal(self, steps); _ = ",
            )
        ],
    ),
    "journal_without_the_older_owner": Mutant(
        "a new owner takes it that no run was open",
        "I6",
        [
            Change(
                Writer,
                "steps",
                "dict(committed), self._open",
                "dict(committed), self._open if len(self._open) < 2 else ()",
            )
        ],
    ),
    "journal_without_moments": Mutant(
        "a replay is not told when deadlines fell due",
        "I6",
        [Change(Writer, "steps", "steps.append(Step(None, act.now_ms))", "pass")],
    ),
    "replay_sends_again": Mutant(
        "a replay sends what is in the log already",
        "I7",
        [Change(Task, "_sent_by", "if partition.topic in emit", "")],
    ),
    "dedup_removed": Mutant(
        "a command that was answered is decided again",
        "I2, I7",
        [(OrderTables, "answered", _not_answered)],
        topology="orders",
    ),
    "no_seek_after_pause": Mutant(
        "after a rebalance a task reads on behind what it had fetched and dropped",
        "I1",
        [Change(Task, "flow", "self._log.seek(self.committed)", "mutants.seek_once(self)")],
    ),
    "no_lease": Mutant(
        "a worker answers reads however long ago the group confirmed it",
        "I4",
        [Change(Engine, "readable_task", "if time.monotonic() - self.confirmed_at >", "if 0 >")],
    ),
    "sink_positions_apart": Mutant(
        "rows and positions in two transactions of the destination",
        "I5",
        [(SimDestination, "write", _rows_then_positions)],
    ),
    "sink_positions_unasked": Mutant(
        "the destination does not compare the position that the writer believes in",
        "I5",
        [(Database, "write", _write_unasked)],
    ),
}

Hunt = Callable[[str, int, int], Caught | None]
