"""a dead-letter topic and an intake topic of one test's own -> `place`, which writes letters as the engine does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from cli import letters
from cli.letters import Outcome
from streams import admin
from streams.admin import TopicConfig
from streams.dead_letters import dead_letter
from streams.errors import FaultAt, Poison
from streams.records import Position, StoredRecord
from tests.reading import read_all


@dataclass(frozen=True)
class Place:
    """A dead-letter topic and an intake topic of one test's own."""

    bootstrap: str
    intake: str
    topic: str
    app_id: str

    async def put(self, count: int, *, reason: str = "invalid", start: int = 0, same: bool = False) -> list[str]:
        """Dead letters as the engine writes them, of records of the intake topic; returns their ids.

        `same`: all of one time and one offset, in partitions that count down.
        """
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        futures, ids = [], []
        for number in range(start, start + count):
            record = StoredRecord(
                self.intake,
                count - number if same else number % 3,
                0 if same else number,
                1_700_000_000_000 + (0 if same else number),
                b"key-%d" % number,
                b"raw \xff %d" % number,
                [("trace", b"t-%d" % number)],
            )
            lost = dead_letter(record, "intake", Poison([FaultAt("$.payment.amount", "not a number")], reason))
            ids.append(str(Position(record.topic, record.partition, record.offset)))
            futures.append(
                await producer.send(
                    self.topic, lost.value, lost.key, number % 2, lost.timestamp, headers=list(lost.headers)
                )
            )
        await asyncio.gather(*futures)
        await producer.stop()
        return ids

    async def read(self, topic: str) -> list[Any]:
        return await read_all(self.bootstrap, topic)

    async def redrive(self, choose: Any = lambda letter: True) -> Outcome:
        return await letters.redrive(self.bootstrap, self.app_id, self.topic, choose)


@pytest.fixture
async def place(stack: Any) -> AsyncIterator[Place]:
    name = uuid4().hex[:10]
    found = Place(stack.kafka, f"intake-{name}", f"dead-{name}", f"app-{name}")
    # Letters of 2023: every five minutes the broker looks for what is older than its week.
    kept = {"retention.ms": "-1"}
    await admin.create(
        stack.kafka, [TopicConfig(found.intake, 3, config=kept), TopicConfig(found.topic, 2, config=kept)]
    )
    yield found
