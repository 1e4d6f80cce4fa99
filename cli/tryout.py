"""one record, the tables as they are now -> what it would change and send, in every domain -> nothing is written."""

from __future__ import annotations

from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cli.console import Operator, readable
from cli.folding import scratch
from schemas.dead_letters import DeadLetter, read_dead_letter
from schemas.topics import DEAD_LETTERS
from streams.attest import bring_to_rest
from streams.fold import Fold
from streams.kafka import KafkaLog, onlooker
from streams.log import Log
from streams.records import Fields, Record, StoredRecord, TopicPartition
from streams.shadow import NOWHERE
from streams.store import Memory, RocksStore
from streams.topology import task_name

#: What follows in other tasks is followed for so many records; below the number that a fold keeps in memory.
MOST_RECORDS = 100


class Tryout:
    """Tasks with their tables as they are now; each is read from its changelogs when a record comes to it."""

    def __init__(self, operator: Operator, log: Log, folder: Path, stack: AsyncExitStack) -> None:
        self._operator, self._log, self._folder, self._stack = operator, log, folder, stack
        settings = operator.app.engine_settings()
        self._memory = Memory(settings.block_cache_bytes, settings.write_buffer_bytes)
        self._owner = {topic: group for group in operator.app.groups.values() for topic in group.agents}
        self._folds: dict[str, Fold] = {}
        self._count = 0
        self.taken: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.letters: list[DeadLetter] = []
        #: What was not followed any further.
        self.left = 0

    async def take(self, record: Record) -> None:
        """This record, and what follows from it. Raises NotReadable for a task that does not stand still."""
        waiting = deque([record])
        while waiting and len(self.taken) < MOST_RECORDS:
            each = waiting.popleft()
            self.taken.append({"topic": each.topic, "partition": each.partition, **_shown(each.key, each.value)})
            fold = await self._fold(each.topic, each.partition)
            for said in await fold.feed(each.topic, [each]):
                for to, fields in said.sent:
                    if to.topic in self._owner:
                        waiting.append(self._record(to, fields))
                    else:
                        self._tell(to.topic, fields)
        self.left = len(waiting)

    def changes(self) -> list[dict[str, Any]]:
        """Every row that is another one now."""
        found = []
        for name, fold in self._folds.items():
            for table, rows in fold.batch.changelog().items():
                for key, after in rows.items():
                    before = fold.store.get(table.name, key)
                    if before != after:
                        row = {"table": table.name, "task": name, "key": key.decode(errors="replace")}
                        found.append(row | {"before": readable(before), "after": readable(after)})
        return found

    def _record(self, to: TopicPartition, fields: Fields) -> Record:
        self._count += 1
        return StoredRecord(to.topic, to.partition, NOWHERE + self._count, *fields)

    def _tell(self, topic: str, fields: Fields) -> None:
        _, key, value, headers = fields
        if topic == DEAD_LETTERS.name:
            letter = read_dead_letter(key, value, headers)
            assert isinstance(letter, DeadLetter), "an agent sends no markers"
            self.letters.append(letter)
        else:
            self.events.append({"topic": topic, **_shown(key, value)})

    async def _fold(self, topic: str, partition: int) -> Fold:
        group = self._owner[topic]
        name = task_name(group.name, partition)
        if name not in self._folds:
            store = RocksStore(self._folder / name, group.tables, self._memory)
            await bring_to_rest(self._log, store, group, partition)
            letters = TopicPartition(DEAD_LETTERS.name, partition)
            fold = self._folds[name] = Fold(group, partition, store, letters)
            self._stack.push_async_callback(fold.close)
        return self._folds[name]


async def try_record(operator: Operator, record: Record) -> dict[str, Any]:
    """What the record would do if it came now: rows that change, events, whether it would be a dead letter again."""
    settings = operator.app.engine_settings()
    with scratch(operator) as folder:
        async with onlooker(settings) as consumer, AsyncExitStack() as stack:
            trial = Tryout(operator, KafkaLog(settings, consumer), folder, stack)
            await trial.take(record)
            return {
                "applied": not trial.letters,
                "faults": [
                    {"topic": letter.topic, "reason": letter.reason, **fault.model_dump()}
                    for letter in trial.letters
                    for fault in letter.faults
                ],
                "records": trial.taken,
                "not_followed": trial.left,
                "events": trial.events,
                "changes": trial.changes(),
            }


def _shown(key: bytes | None, value: bytes | None) -> dict[str, Any]:
    return {"key": None if key is None else key.decode(errors="replace"), "value": readable(value)}
