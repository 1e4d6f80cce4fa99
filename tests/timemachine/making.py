"""a crowd, shoppers and two workers of which one is killed now and then -> a log of so many events, at rest."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

from confluent_kafka import KafkaException

from tests.checkout_load import KafkaWire
from tests.oracle.broker import read_topic
from tests.oracle.log import LETTERS
from tests.processes import Worker
from tests.timemachine.crowd import Crowd
from tests.timemachine.ground import EVENTS, INPUTS, Ground

#: Carts that are placed together, and shoppers over HTTP beside them.
WAVE, SHOPPERS_PER_S = 250, 1.0
#: Waves between two kills; and how many commands may wait, markers of transactions among them, before the next wave.
WAVES_A_KILL, BACKLOG = 6, 400
PATIENCE_S = 600.0


class Making:
    """The log is made once. Killed workers come back on their port, with the store that the kill left."""

    def __init__(self, ground: Ground, seed: int, events: int) -> None:
        self.ground, self.seed, self.events = ground, seed, events
        self.chance = Random(f"kills {seed}")
        self.kills = 0
        self.workers: list[Worker] = []

    async def run(self) -> dict[str, Any]:
        ground, began = self.ground, time.monotonic()
        self.workers = await asyncio.to_thread(ground.up)
        await asyncio.to_thread(ground.subscribe, self.workers[0])
        crowd = Crowd(KafkaWire(ground.stack.kafka), self.seed, [worker.url for worker in self.workers])
        try:
            await crowd.open()
            await crowd.furnish()
            crowd.start(SHOPPERS_PER_S)
            waves = await self._waves(crowd)
            complaints = await self._closed(crowd)
        finally:
            await crowd.aclose()
        made_s = time.monotonic() - began
        found = await asyncio.to_thread(count, ground)
        await asyncio.to_thread(ground.down, self.workers)
        return {
            **found,
            "carts": crowd.carts + waves * WAVE,
            "workers killed": self.kills,
            "complaints of shoppers": complaints,
            "records sent twice": crowd.counts["repetition"],
            "records that are no command": crowd.counts["poison"],
            "moods of the provider": {name: n for name, n in crowd.counts.items() if name.startswith("sandbox:")},
            "seconds": round(made_s, 1),
            "events_per_s": round(found["events"] / made_s),
        }

    async def _waves(self, crowd: Crowd) -> int:
        """Wave after wave until the events are there; each is led on when the next one has been placed."""
        number, before = 0, list[str]()
        while True:
            placed = await crowd.wave(number, WAVE)
            if number % WAVES_A_KILL == WAVES_A_KILL // 2:
                await self._kill(crowd)
            await crowd.lead(number - 1, before)
            number, before = number + 1, placed
            await self._drained()
            ends = await asyncio.to_thread(self.ground.ends, EVENTS)
            # Markers of transactions are a part of what stands there; how many, only reading tells.
            if (
                sum(ends.values()) >= self.events
                and (await asyncio.to_thread(count, self.ground))["events"] >= self.events
            ):
                await crowd.lead(number, placed)
                return number

    @staticmethod
    async def _closed(crowd: Crowd) -> str:
        """What was amiss for the shoppers, if anything; the log is what it is all the same."""
        try:
            await crowd.stop()
        except AssertionError as error:
            return str(error)
        return "none"

    async def _drained(self) -> None:
        """Until the workers have taken most of what was sent."""
        deadline = time.monotonic() + PATIENCE_S
        while await asyncio.to_thread(self._waiting) > BACKLOG:
            assert time.monotonic() < deadline, (
                f"not worked on after {PATIENCE_S:.0f} s\n{self.ground.workers.log_tails()}"
            )
            await asyncio.sleep(0.5)

    def _waiting(self) -> int:
        """Commands of all domains that nobody has taken; more than any bound while nobody can say."""
        try:
            return self.ground.waiting()
        except KafkaException:  # the broker tells no offsets that an open transaction may change
            return BACKLOG + 1

    async def _kill(self, crowd: Crowd) -> None:
        which = self.chance.randrange(2)
        await asyncio.sleep(self.chance.uniform(0.2, 1.5))
        await asyncio.to_thread(self.workers[which].kill)
        self.kills += 1
        self.workers[which] = await asyncio.to_thread(self.ground.begin, which)


def rest(ground: Ground) -> dict[str, Any]:
    """Until nothing is under way: refunds and voids of a provider that was away are asked for for minutes."""
    began = time.monotonic()
    workers = ground.up()
    ground.subscribe(workers[0])
    ground.settle(workers)
    asked = ground.effects()
    ground.down(workers)
    return {
        **count(ground),
        "requests to the provider": sum(asked["provider"].values()),
        "webhooks": sum(asked["webhooks"].values()),
        "seconds": round(time.monotonic() - began, 1),
    }


def count(ground: Ground) -> dict[str, Any]:
    """Records of the checkout as a read-committed reader sees them."""
    per_topic = {topic: len(read_topic(ground.stack.kafka, topic)) for topic in (*EVENTS, *INPUTS, LETTERS)}
    events = Counter({topic: records for topic, records in per_topic.items() if topic in EVENTS})
    return {
        "events": events.total(),
        "commands": sum(records for topic, records in per_topic.items() if topic in INPUTS),
        "dead letters": per_topic[LETTERS],
        "by topic": dict(events),
    }
