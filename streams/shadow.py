"""the past of all tasks, other rules -> all domains together in memory -> how everything would have come.

Rules are tried on what came from outside: from the web, producers and effects. What one domain says to another is
said anew. A record of the log that an agent sent has a *slot*, its place in the order in which its task took its
inputs. The shadow waits at a slot until the cause of the record has had its turn: if the shadow has sent the record
too (by name), its own version is taken there; if not, the slot stays empty. What only the shadow sends is taken as soon
as it is sent. So equal rules take every record at its place, and come to the same bytes, whoever raced for what.

Time is that of the log: whoever is earliest goes next. Deadlines fall due at the moments of the journal. Those of a key
whose course has *parted* from the log (an act sent something else) fall due when the log's time has come to them.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, groupby, islice
from math import inf
from pathlib import Path
from typing import NamedTuple, Protocol

from streams.deadlines import Deadline
from streams.fold import Fold, Said, Sent
from streams.partitioner import partition_for
from streams.records import Fields, Outgoing, Record, StoredRecord, TopicPartition
from streams.snapshot import Snapshot
from streams.spool import Taken, Told, read_acts, read_told, tell

#: Offsets of records that stand in no log begin here: none of a real topic is as large.
NOWHERE = 1 << 48
#: How many acts pass between two words about how far it is.
TELL_EVERY = 500
#: Acts of one input that are folded together.
ACTS_AT_ONCE = 200


class Answer(NamedTuple):
    """A record that comes from outside because the shadow asked for it."""

    topic: str
    key: bytes
    value: bytes


class Outside(Protocol):
    """What a domain knows of the world around it. Keys are those of records; `parted`: the key's course has."""

    def identity(self, value: bytes | None) -> bytes | None:
        """What names a record that an agent sends, whatever else its rules write into it. None: its bytes do."""
        ...

    def foresee(self, record: Record) -> None:
        """Everything that came from outside, before anything begins."""
        ...

    def heard(self, topic: str, value: bytes | None, parted: bool) -> Iterable[Answer]:
        """What the shadow tells the world; gives what the world says to it at once."""
        ...

    def instead(self, record: StoredRecord, parted: bool) -> StoredRecord | None:
        """What comes in place of a record from outside. None: nothing does."""
        ...


def name_of(to: TopicPartition, key: bytes | None, value: bytes | None, outside: Outside) -> bytes:
    """The same for the log's record and the shadow's version of it."""
    identity = outside.identity(value)
    what = b"%b\0%b" % (key or b"", value or b"") if identity is None else identity
    return blake2b(b"%b\0%d\0%b" % (to.topic.encode(), to.partition, what), digest_size=16).digest()


def print_of(to: TopicPartition, timestamp: int, key: bytes | None, value: bytes | None) -> bytes:
    """By which a record that was sent is found again in the log."""
    head = b"%b\0%d\0%d\0%b\0" % (to.topic.encode(), to.partition, timestamp, key or b"")
    return blake2b(head + (value or b""), digest_size=16).digest()


def told_of(said: Said, inputs: set[str], outside: Outside) -> Told:
    digest = blake2b(digest_size=16)
    for to, (_, key, value, headers) in said.sent:
        parts = [to.topic.encode(), b"%d" % to.partition, key or b"", value or b""]
        for part in chain(parts, *((name.encode(), value or b"") for name, value in headers)):
            digest.update(b"%d:%b" % (len(part), part))
    made = (
        (print_of(to, *fields[:3]), name_of(to, fields[1], fields[2], outside))
        for to, fields in said.sent
        if to.topic in inputs
    )
    return Told(digest.digest(), tuple(made))


# -- the log's own course ----------------------------------------------------------------------------------------------


async def fold_past(
    fold: Fold,
    number: int,
    task: Path,
    inputs: set[str],
    outside: Outside,
    snapshot: Snapshot,
    moved: Callable[[int], None] = lambda count: None,
) -> None:
    """Fold one task's spooled past with the rules that made it, and write down what each act led to.

    What it is told by other tasks it takes from the log: tasks may be folded in any order, and at once.
    """
    with tell(task) as writer:
        async for count, said in fold_acts(fold, task):
            for each in said:
                writer.add(told_of(each, inputs, outside))
                for to, (_, key, value, _) in each.sent:
                    if to.topic not in inputs:
                        snapshot.add_event(number, to.topic, key or b"", value)
            moved(count)
    keep_rows(fold, snapshot)


async def fold_acts(fold: Fold, task: Path) -> AsyncIterator[tuple[int, list[Said]]]:
    """Fold one task's spooled past, some acts at a time: how many they were, and what each led to."""
    for topic, group in groupby(read_acts(task), key=lambda act: act.topic):
        while acts := list(islice(group, ACTS_AT_ONCE)):
            if topic is None:
                yield len(acts), [each for act in acts for each in fold.due(act.timestamp)]
            else:
                yield len(acts), list(await fold.feed(topic, [act.record(fold.partition) for act in acts]))


def keep_rows(fold: Fold, snapshot: Snapshot) -> None:
    for table in fold.group.tables:
        snapshot.add_rows(table, fold.partition, fold.rows(table))


# -- the other course --------------------------------------------------------------------------------------------------


class Course:
    """One task of the shadow: where it is in its past, and what waits for it that the past does not know."""

    def __init__(self, number: int, fold: Fold, task: Path) -> None:
        self.number, self.fold, self.task = number, fold, task
        #: The acts that have had their turn, and the moment that the last one was of.
        self.passed, self.time = 0, 0
        self.head: Taken | None = None
        self.head_name: bytes | None = None
        self.head_told = Told(b"", ())
        #: By act: the task and the act that sent its record; -1 for what came from outside.
        self.cause_task, self.cause_act = array("i"), array("q")
        self.extra: deque[tuple[int, StoredRecord]] = deque()
        self.dues: list[tuple[int, int, Deadline]] = []
        self.scheduled: dict[bytes, list[Deadline]] = defaultdict(list)
        self._acts, self._told = read_acts(task), read_told(task)

    def go_on(self, outside: Outside) -> None:
        """Look at the next act."""
        self.head = next(self._acts, None)
        self.head_told = next(self._told, self.head_told)
        self.head_name = None
        if self.head is not None and self.head.topic is not None and self.cause_task[self.passed] >= 0:
            to = TopicPartition(self.head.topic, self.fold.partition)
            self.head_name = name_of(to, self.head.key, self.head.value, outside)


class Shadow:
    """All tasks of all domains together. `run` it once; then `snapshot` has what they came to."""

    def __init__(self, folds: Sequence[tuple[Fold, Path]], outside: Outside, snapshot: Snapshot) -> None:
        self._courses = [Course(number, fold, task) for number, (fold, task) in enumerate(folds)]
        self._outside, self._snapshot = outside, snapshot
        self._owner = {tp: course for course in self._courses for tp in course.fold.group.inputs(course.fold.partition)}
        self._inputs = {tp.topic for tp in self._owner}
        self._partitions = {topic: sum(tp.topic == topic for tp in self._owner) for topic in self._inputs}
        #: Places that the log has for a record of this name and that are still to come; what waits for them.
        self._slots: Counter[bytes] = Counter()
        self._sent: dict[bytes, deque[Fields]] = {}
        #: What the log's course sent too, and nobody had taken when the log was cut.
        self._untaken: Counter[bytes] = Counter()
        self.parted: set[bytes] = set()
        self._now = self._end = self._count = 0

    async def run(self, moved: Callable[[int], None] = lambda count: None) -> None:
        self._look_ahead()
        steps = 0
        while (course := self._next()) is not None:
            await self._step(course)
            steps += 1
            if steps % TELL_EVERY == 0:
                moved(TELL_EVERY)
        moved(steps % TELL_EVERY)
        for course in self._courses:
            keep_rows(course.fold, self._snapshot)

    def _look_ahead(self) -> None:
        """Find for every record of the log the act that sent it.

        The same bytes of the same moment may lie there from outside too. Which is which does not matter, but that no
        place comes before its cause: the last places are the agents'.
        """
        made, names = self._made()
        from_outside = Counter(self._prints_among(made))
        from_outside.subtract({found: len(causes) for found, causes in made.items()})
        for course in self._courses:
            for act, found in self._printed(course):
                self._end = max(self._end, act.timestamp)
                task, number = -1, -1
                if found is not None and made.get(found) and from_outside[found] <= 0:
                    _, task, number = made[found].pop(0)
                    self._slots[names[found]] += 1
                elif found is not None:
                    if found in made:
                        from_outside[found] -= 1
                    self._outside.foresee(act.record(course.fold.partition))
                course.cause_task.append(task)
                course.cause_act.append(number)
            course.go_on(self._outside)
        for found, causes in made.items():
            self._untaken[names[found]] += len(causes)

    def _made(self) -> tuple[dict[bytes, list[tuple[int, int, int]]], dict[bytes, bytes]]:
        """By the print of what was sent: when, and by which act of which task; and its name."""
        found: dict[bytes, list[tuple[int, int, int]]] = {}
        names: dict[bytes, bytes] = {}
        for course in self._courses:
            for number, (act, told) in enumerate(zip(read_acts(course.task), read_told(course.task), strict=True)):
                for mark, name in told.made:
                    found.setdefault(mark, []).append((act.timestamp, course.number, number))
                    names[mark] = name
        return {mark: sorted(causes) for mark, causes in found.items()}, names

    def _prints_among(self, made: Container[bytes]) -> Iterator[bytes]:
        for course in self._courses:
            yield from (found for _, found in self._printed(course) if found is not None and found in made)

    def _printed(self, course: Course) -> Iterator[tuple[Taken, bytes | None]]:
        """Every act with the print of its record; deadlines have none."""
        for act in read_acts(course.task):
            if act.topic is None:
                yield act, None
            else:
                to = TopicPartition(act.topic, course.fold.partition)
                yield act, print_of(to, act.timestamp, act.key, act.value)

    # -- whose turn it is ----------------------------------------------------------------------------------------------

    def _next(self) -> Course | None:
        first = min(self._courses, key=self._moment, default=None)
        if first is None or self._moment(first) < inf:
            return first
        # Each waits for another: a name that was sent twice was laid to the wrong cause. The earliest waits no more.
        waiting = [course for course in self._courses if course.head is not None]
        return min(waiting, key=lambda course: course.head.timestamp if course.head else inf, default=None)

    def _moment(self, course: Course) -> float:
        return min(self._extra_at(course), self._due_at(course), self._head_at(course))

    def _extra_at(self, course: Course) -> float:
        return course.extra[0][0] if course.extra else inf

    def _due_at(self, course: Course) -> float:
        return course.dues[0][0] if course.dues and course.dues[0][0] <= self._end else inf

    def _head_at(self, course: Course) -> float:
        head, name = course.head, course.head_name
        if head is None:
            return inf
        if name is not None and not self._sent.get(name):
            task, act = course.cause_task[course.passed], course.cause_act[course.passed]
            if self._courses[task].passed <= act:
                return inf
        return max(course.time, head.timestamp)

    # -- a turn --------------------------------------------------------------------------------------------------------

    async def _step(self, course: Course) -> None:
        extra, due, head = self._extra_at(course), self._due_at(course), self._head_at(course)
        if extra < inf and extra <= min(due, head):
            self._now, record = course.extra.popleft()
            course.time = max(course.time, self._now)
            self._tell(course, await course.fold.feed(record.topic, [record]), None)
        elif due < inf and due <= head:
            self._now, _, deadline = heapq.heappop(course.dues)
            course.time = max(course.time, self._now)
            self._tell(course, course.fold.send_due(deadline), None)
        else:
            await self._take(course)

    async def _take(self, course: Course) -> None:
        """The next act of the past."""
        act, told, fold = course.head, course.head_told, course.fold
        assert act is not None, "a course without a head has no turn"
        self._now = course.time = max(course.time, act.timestamp)
        said: Sequence[Said] = ()
        if act.topic is None:
            said = fold.due(act.timestamp)
        elif act.topic in fold.group.agents:  # older rules may not know it
            record = self._version(course, act.record(fold.partition))
            if record is None or record.value != act.value:
                self._part(act.key)
            if record is not None:
                said = await fold.feed(act.topic, [record])
        course.passed += 1
        course.go_on(self._outside)
        self._tell(course, said, told)

    def _version(self, course: Course, record: StoredRecord) -> StoredRecord | None:
        """What stands at this place in the shadow."""
        name = course.head_name
        if name is None:
            return self._outside.instead(record, record.key in self.parted)
        self._slots[name] -= 1
        if not (waiting := self._sent.get(name)):
            return None
        timestamp, key, value, headers = waiting.popleft()
        if not waiting:
            del self._sent[name]
        return record._replace(timestamp=timestamp, key=key, value=value, headers=headers)

    def _tell(self, course: Course, said: Sequence[Said], told: Told | None) -> None:
        """Bring what was sent where it belongs. `told`: what the log's course sent here."""
        self._note_deadlines(course)
        for each in said:
            same = told is not None and told_of(each, self._inputs, self._outside).digest == told.digest
            if not same and each.record is not None:
                self._part(each.record.key)
            for sent in each.sent:
                self._bring(course, sent, same)

    def _bring(self, course: Course, sent: Sent, same: bool) -> None:
        to, fields = sent
        timestamp, key, value, _ = fields
        if to in self._owner:
            name = name_of(to, key, value, self._outside)
            if self._slots[name] > len(self._sent.get(name, ())):
                self._sent.setdefault(name, deque()).append(fields)
            elif self._untaken[name] > 0:
                self._untaken[name] -= 1
            else:
                self._put(to, fields)
            return
        self._snapshot.add_event(course.number, to.topic, key or b"", value)
        for answer in self._outside.heard(to.topic, value, key in self.parted and not same):
            home = TopicPartition(answer.topic, partition_for(answer.key, self._partitions[answer.topic]))
            self._put(home, Outgoing(timestamp, answer.key, answer.value))

    def _put(self, to: TopicPartition, fields: Fields) -> None:
        """A record that the log does not have is taken at once."""
        self._count += 1
        self._part(fields[1])
        self._owner[to].extra.append((self._now, StoredRecord(to.topic, to.partition, NOWHERE + self._count, *fields)))

    # -- deadlines of what has parted ----------------------------------------------------------------------------------

    def _note_deadlines(self, course: Course) -> None:
        scheduled = course.fold.batch.scheduled
        for deadline in scheduled:
            key = deadline.key.encode()
            course.scheduled[key].append(deadline)
            if key in self.parted:
                self._wind_up(course, deadline)
        scheduled.clear()

    def _part(self, key: bytes | None) -> None:
        if key is None or key in self.parted:
            return
        self.parted.add(key)
        for course in self._courses:
            for deadline in course.scheduled.get(key, ()):
                self._wind_up(course, deadline)

    def _wind_up(self, course: Course, deadline: Deadline) -> None:
        self._count += 1
        heapq.heappush(course.dues, (deadline.due_at_ms, self._count, deadline))
