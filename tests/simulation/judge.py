"""the log, the tables, the readers and the sink after a history -> every difference from what the model says.

The log's committed transactions are taken as the claim of how the work was cut; everything in them is worked out anew
by the model: what each took from where (each input once, in order), what it wrote, sent and emitted. What readers of
committed data see, what the tables and their rebuilt copies hold and what the sink wrote must then be the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from streams.records import StoredRecord, TopicPartition
from streams.topology import task_name
from tests.simulation.cluster import Cluster, Txn
from tests.simulation.model import Due, Out, State, Topology, due_out
from tests.simulation.readers import Told

_GONE: Any = object()


@dataclass
class Task:
    """What one task must have done, transaction by transaction."""

    group: str
    partition: int
    state: State
    positions: dict[TopicPartition, int]
    number: int = 0
    #: (table, key) -> (number of the transaction, the row from there on)
    history: dict[tuple[str, bytes], list[tuple[int, Any]]] = field(default_factory=lambda: defaultdict(list))
    #: input partition -> (position reached, number of the transaction)
    reached: dict[TopicPartition, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


class Judge:
    """Collects what is wrong; an empty list is a history that held."""

    def __init__(self, topology: Topology, app_id: str, partitions: int, cluster: Cluster) -> None:
        self.topology, self.app_id, self.partitions, self.cluster = topology, app_id, partitions, cluster
        self.wrong: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.transactions = 0
        self._changelogs: dict[TopicPartition, str] = {}
        self._names: set[str] = set()
        for group, topics in topology.inputs.items():
            for partition in range(partitions):
                state = State({name: {} for name in topology.tables[group]}, {}, topology.deadlines.get(group, ""))
                positions = dict.fromkeys((TopicPartition(topic, partition) for topic in topics), 0)
                self.tasks[task_name(group, partition)] = Task(group, partition, state, positions)
                for name in topology.tables[group]:
                    self._changelogs[TopicPartition(f"{app_id}-{name}-changelog", partition)] = name

    def fault(self, text: str) -> None:
        self.wrong.append(text)

    # -- the log ------------------------------------------------------------------------------------------------------

    def judge_log(self, produced: set[tuple[str, int, int]]) -> None:
        """I1, I2, I4: `produced` is what came from outside; all else must be a task's committed work."""
        for txn in self.cluster.trail:
            name = txn.id.removeprefix(f"{self.app_id}-").split("#")[0]
            self._judge_transaction(self.tasks[name], txn)
            self.transactions += 1
        for name, task in self.tasks.items():
            for tp, position in task.positions.items():
                left = [record.offset for record in self.cluster.at(tp).visible() if record.offset >= position]
                if left:
                    self.fault(f"{name} never committed {tp.topic}-{tp.partition}: offsets {left} are left (I1)")
            now_ms = self.cluster.now_ms()
            late = [due for due in task.state.due.values() if due.due_at_ms <= now_ms]
            if late:
                self.fault(f"{name} never sent what was due: {late} (I1)")
        self._judge_outsiders(produced)

    def _judge_outsiders(self, produced: set[tuple[str, int, int]]) -> None:
        for tp, partition in sorted(self.cluster.partitions.items()):
            for record, txn in partition.rows:
                if record is None or (txn is not None and (txn.id != "foreign" or not txn.committed)):
                    continue
                if (tp.topic, tp.partition, record.offset) not in produced:
                    self.fault(f"{_place(record)} is in no task's transaction, and nobody else sent it (I2)")

    def _judge_transaction(self, task: Task, txn: Txn) -> None:
        about = f"transaction {task.number} of {task.group}-{task.partition}"
        taken = self._taken(task, txn, about)
        changes = {tp: records for tp, records in txn.sent.items() if tp in self._changelogs}
        # What a journal says is judged by what it leads to: every history is replayed at its end.
        outputs = {tp: records for tp, records in txn.sent.items() if not tp.topic.endswith("-journal")}
        sent = {tp: [self._out(r) for r in records] for tp, records in outputs.items() if tp not in self._changelogs}
        faults: list[str] = []
        for order in permutations(taken.values()):
            state, expected = task.state.copy(), defaultdict(list)
            for records in order:
                for record in records:
                    for out in self.topology.work(state, record, self.partitions):
                        expected[TopicPartition(out.topic, out.partition)].append(out)
            faults = [
                *self._judge_outputs(state, expected, sent, txn),
                *self._judge_changes(task.state, state, changes),
            ]
            if not faults:
                break
        for fault in faults:
            self.fault(f"{about}: {fault}")
        self._step(task, state, txn, sent)

    def _taken(self, task: Task, txn: Txn, about: str) -> dict[TopicPartition, list[StoredRecord]]:
        """The records that this transaction has consumed, from where the one before it ended."""
        taken: dict[TopicPartition, list[StoredRecord]] = {}
        for tp, end in sorted(txn.offsets.items()):
            begin = task.positions.get(tp)
            if begin is None:
                self.fault(f"{about} commits offsets of {tp}, which is not its input")
                continue
            if end < begin:
                self.fault(f"{about} takes {tp.topic}-{tp.partition} back from {begin} to {end} (I2)")
                continue
            records, _ = self.cluster.at(tp).read(begin, None, end)
            if records:
                taken[tp] = records
        return taken

    def _out(self, record: StoredRecord) -> Out | str:
        try:
            return self.topology.out(record)
        except (ValueError, KeyError, TypeError) as error:
            return f"{_place(record)} cannot be read: {error!r}"

    def _judge_outputs(
        self,
        state: State,
        expected: dict[TopicPartition, list[Out]],
        sent: dict[TopicPartition, list[Out | str]],
        txn: Txn,
    ) -> Iterator[str]:
        """What the agents caused comes first; behind it only deadlines may stand that were due."""
        for tp in sorted(expected.keys() | sent.keys()):
            wanted, found = expected.get(tp, []), sent.get(tp, [])
            if found[: len(wanted)] != wanted:
                yield f"{tp.topic}-{tp.partition} should have {_short(wanted)}, not {_short(found)} (I1, I2)"
                continue
            for out in found[len(wanted) :]:
                due = self._claimed(state, out, txn)
                if due is None:
                    yield f"{tp.topic}-{tp.partition} has {_short([out])}, which nothing asked for (I2)"
                else:
                    state.cancel(due.id)

    def _claimed(self, state: State, out: Out | str, txn: Txn) -> Due | None:
        for due in state.due.values():
            came = due.due_at_ms <= txn.decided_at_ms
            if came and due_out(due, self.partitions, self.topology.due_value(due.value)) == out:
                return due
        return None

    def _judge_changes(
        self, before: State, after: State, changes: dict[TopicPartition, list[StoredRecord]]
    ) -> Iterator[str]:
        """The changelogs hold what the tables have become: for each key that changed, and no other value."""
        seen: dict[str, set[bytes]] = defaultdict(set)
        for tp, records in changes.items():
            name = self._changelogs[tp]
            newest = {record.key: record for record in records if record.key is not None}
            for key, record in newest.items():
                if key.startswith(b"\0"):
                    continue
                seen[name].add(key)
                held = after.tables[name].get(key, _GONE)
                said = _GONE if record.value is None else self.topology.row(name, record.value)
                if held != said:
                    yield f"{name}[{key!r}] is {_row(said)} in the changelog and should be {_row(held)} (I6)"
        for name, rows in after.tables.items():
            old = before.tables[name]
            if rows != old:
                for key in rows.keys() | old.keys():
                    if key not in seen[name] and rows.get(key, _GONE) != old.get(key, _GONE):
                        yield f"{name}[{key!r}] became {_row(rows.get(key, _GONE))}, but not in the changelog (I6)"

    def _step(self, task: Task, state: State, txn: Txn, sent: dict[TopicPartition, list[Out | str]]) -> None:
        for name, rows in state.tables.items():
            old = task.state.tables[name]
            if rows is not old and rows != old:
                for key in rows.keys() | old.keys():
                    if rows.get(key, _GONE) != old.get(key, _GONE):
                        task.history[name, key].append((task.number, rows.get(key, _GONE)))
        for tp, end in txn.offsets.items():
            task.positions[tp] = end
            task.reached[tp].append((end, task.number))
        for tp, outs in sent.items():
            for out in outs:
                identity = None if isinstance(out, str) else self.topology.identity(out)
                if identity in self._names:
                    self.fault(f"{tp.topic} says {identity} twice (I2, I7)")
                if identity is not None:
                    self._names.add(identity)
        task.state = state
        task.number += 1

    # -- tables, readers, sink ----------------------------------------------------------------------------------------

    def judge_rows(self, name: str, table: str, rows: dict[bytes, bytes], where: str) -> None:
        """I5, I6: these rows, wherever they were found, are what the log comes to."""
        held = self.tasks[name].state.tables[table]
        found = {key: value for key, value in rows.items() if not key.startswith(b"\0")}
        for key in sorted(held.keys() | found.keys()):
            said = self.topology.row(table, found[key]) if key in found else _GONE
            if said != held.get(key, _GONE):
                self.fault(f"{where}: {table}[{key!r}] is {_row(said)}, not {_row(held.get(key, _GONE))} (I6)")

    def judge_changelog(self, name: str, table: str, partition: int) -> None:
        """I6: the changelog, folded by a reader of its own, is the table, however it was compacted."""
        rows: dict[bytes, bytes] = {}
        for record in self.cluster.at(TopicPartition(f"{self.app_id}-{table}-changelog", partition)).visible():
            if record.key is not None:
                if record.value is None:
                    rows.pop(record.key, None)
                else:
                    rows[record.key] = record.value
        self.judge_rows(name, table, rows, "the changelog, folded")

    def judge_readers(self, told: Sequence[Told]) -> None:
        """I4: every answer was true at some moment, no answer is older than one that was given before it was asked."""
        ends = sorted(told, key=lambda answer: answer.told_at)
        least: dict[int, int] = {}
        for number, answer in enumerate(ends):
            floor = max(
                (
                    least[earlier]
                    for earlier in range(number)
                    if ends[earlier].task == answer.task and ends[earlier].told_at <= answer.asked_at
                ),
                default=-1,
            )
            least[number] = self._judge_answer(answer, floor)

    def _judge_answer(self, answer: Told, floor: int) -> int:
        """The first transaction, not before `floor`, after which this answer is true. -1: before the first."""
        task = self.tasks[answer.task]
        wanted = floor
        if answer.min_position is not None:
            position = answer.min_position
            reached = task.reached[TopicPartition(position.topic, position.partition)]
            wanted = max(floor, next((n for end, n in reached if end > position.offset), floor))
        value = _GONE if answer.value is None else answer.value
        spans: list[tuple[int, Any]] = [(-1, _GONE), *task.history[answer.table, answer.key]]
        for index, (begin, row) in enumerate(spans):
            end = spans[index + 1][0] if index + 1 < len(spans) else task.number + 1
            if row == value and end > wanted:
                return max(begin, wanted)
        self.fault(
            f"{answer.by} said at {answer.told_at:.3f} that {answer.table}[{answer.key!r}] is {_row(value)}:"
            f" that was never so after transaction {wanted} of {answer.task} (I4)"
        )
        return floor

    def judge_sink(self, topics: Sequence[str], rows: Sequence[StoredRecord]) -> None:
        """I5: the sink has each committed record once, in the order of its partition."""
        found: dict[TopicPartition, list[int]] = defaultdict(list)
        for row in rows:
            found[TopicPartition(row.topic, row.partition)].append(row.offset)
        for topic in topics:
            for partition in self.cluster.topic(topic):
                wanted = [record.offset for record in partition.visible()]
                if found[partition.tp] != wanted:
                    self.fault(
                        f"the sink has {topic}-{partition.tp.partition} {found[partition.tp]}, not {wanted} (I5)"
                    )


def _place(record: StoredRecord) -> str:
    return f"{record.topic}-{record.partition}-{record.offset}"


def _row(value: Any) -> str:
    return "absent" if value is _GONE else f"{value!r:.200}"


def _short(outs: Sequence[Out | str]) -> str:
    return f"{[out if isinstance(out, str) else (out.key, out.value) for out in outs]!r:.300}"
