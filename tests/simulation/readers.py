"""clients that ask for rows, through whoever believes to be the owner -> what each was told, and when."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from streams.errors import NotOwner, NotReadable
from streams.reading import Reading
from streams.records import Position
from streams.topology import task_name
from tests.simulation.loop import NOWHERE
from tests.simulation.machine import Machine, World
from tests.simulation.model import Topology, home

#: A client waits this long for an answer, then forgets the question.
PATIENCE_S = 10.0


class Told(NamedTuple):
    """An answer. `min_position`: what the client wanted to see in it at least."""

    task: str
    table: str
    key: bytes
    value: Any
    asked_at: float
    told_at: float
    min_position: Position | None
    by: str


class Reader:
    """One client: asks any worker, follows one pointer to the owner, and asks again later when nobody can answer."""

    def __init__(self, world: World, topology: Topology, partitions: int, sent: list[Position]) -> None:
        self.world, self.topology, self.partitions, self.sent = world, topology, partitions, sent
        self.told: list[Told] = []
        self.refused = 0
        self._asking: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Ask for ever."""
        chance = self.world.chance
        while True:
            await asyncio.sleep(0.05 + chance.random() * 0.6)
            group = chance.choice(sorted(self.topology.asked))
            key = chance.choice(self.topology.keys(group))
            partition = home(key.encode(), self.partitions)
            machines, recent = self.world.machines, self._recent(group, partition)
            asleep = [machine for machine in machines if machine.process and not machine.process.alive]
            awake = [machine for machine in machines if machine not in asleep]
            await self._ask(chance.choice(awake or machines), group, partition, key, recent)
            # Whoever sleeps may wake up believing that it still owns what it owned: what was just read elsewhere is
            # asked for once more there, and nobody waits for the answer.
            if asleep:
                again = self._ask(chance.choice(asleep), group, partition, key, None)
                self._asking.append(asyncio.get_running_loop().create_task(again))

    def _recent(self, group: str, partition: int) -> Position | None:
        """Now and then: read what I wrote."""
        topics = self.topology.inputs[group]
        mine = [p for p in self.sent[-8:] if p.topic in topics and p.partition == partition]
        return self.world.chance.choice(mine) if mine and self.world.chance.random() < 0.4 else None

    async def _ask(self, first: Machine, group: str, partition: int, key: str, min_position: Position | None) -> None:
        world = self.world
        machine: Machine | None = first
        asked_at = world.loop.now
        for _ in range(2):
            await asyncio.sleep(world.network.delay())
            if machine is None or machine.process is None:
                return
            try:
                value = await self._answer(machine, group, partition, key, min_position)
            except NotOwner as elsewhere:
                machine = next((other for other in world.machines if other.url == elsewhere.url), None)
                continue
            except (NotReadable, TimeoutError):
                self.refused += 1
                return
            await asyncio.sleep(world.network.delay())
            table, task = self.topology.asked[group], task_name(group, partition)
            answer = Told(task, table, key.encode(), value, asked_at, world.loop.now, min_position, machine.name)
            self.told.append(answer)
            return

    async def _answer(
        self, machine: Machine, group: str, partition: int, key: str, min_position: Position | None
    ) -> Any:
        """The worker's part, run in its process: it may die or freeze over it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        engine, table = machine.engine, self.world.app.groups[group].tables[self.topology.asked[group]]

        async def read() -> None:
            try:
                async with Reading(engine, group, partition, min_position, 2.0):
                    value = table.get(key)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
                return
            if not answer.done():
                answer.set_result(None if value is None else self.topology.told(value))

        machine.spawn(read())
        self.world.loop.call_later(PATIENCE_S, _give_up, answer, context=NOWHERE)
        return await answer


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
