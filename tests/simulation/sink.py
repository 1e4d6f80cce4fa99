"""the real pump's two neighbours, played: a log that assigns partitions, a database that may be away or answer late."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from streams.records import Record, StoredRecord, TopicPartition
from streams.sink import Move, PositionConflict, Standing, Written
from tests.simulation.clients import Reads
from tests.simulation.cluster import Cluster
from tests.simulation.loop import Life, Process, SimLoop
from tests.simulation.network import Network


class Database:
    """Rows and positions, in one transaction each: what a destination writes to. Shared by the sinks of all workers."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rows: list[StoredRecord] = []
        self.standings: dict[TopicPartition, Standing] = {}
        self.away = False
        self.conflicts = 0

    def standing(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Standing]:
        self.answer()
        return {tp: self.standings[tp] for tp in partitions if tp in self.standings}

    def write(self, records: Sequence[Any], moves: Mapping[TopicPartition, Move]) -> Written:
        """All or nothing."""
        self.answer()
        for tp, move in moves.items():
            held = self.standings.get(tp)
            if (held.next if held else None) != move.expected:
                self.conflicts += 1
                raise PositionConflict(f"{tp} is at {held}, not at {move.expected}")
        self.rows.extend(records)
        self.move(moves)
        return Written({"rows": len(records)})

    def move(self, moves: Mapping[TopicPartition, Move]) -> None:
        for tp, move in moves.items():
            held = self.standings.get(tp)
            self.standings[tp] = Standing(move.next, move.last or (held.last if held else None))

    def answer(self) -> None:
        if self.away:
            raise ConnectionError("the database is away")


class SimDestination:
    """One worker's connection to the database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Standing]:
        found: Mapping[TopicPartition, Standing] = await self.database.network.call(self.database.standing, partitions)
        return found

    async def write(self, records: Sequence[Record], moves: Mapping[TopicPartition, Move]) -> Written:
        written: Written = await self.database.network.call(self.database.write, list(records), dict(moves))
        return written

    async def set_aside(self) -> int:
        return 0

    async def close(self) -> None:
        """Nothing to let go of."""


class SinkGroup:
    """Spreads partitions over the sources that are there, and tells each one late."""

    def __init__(self, loop: SimLoop, network: Network, partitions: Sequence[TopicPartition]) -> None:
        self.loop, self.network, self.partitions = loop, network, list(partitions)
        self.sources: list[SimSource] = []
        self._number = 0

    def join(self, source: SimSource) -> None:
        if source.process.life is not Life.DEAD:
            if source not in self.sources:
                self.sources.append(source)
            self.spread()

    def leave(self, source: SimSource) -> None:
        if source in self.sources:
            self.sources.remove(source)
            self.spread()

    def spread(self) -> None:
        self._number += 1
        for number, source in enumerate(self.sources):
            part = self.partitions[number :: len(self.sources)]
            delay_s = min(5.0, self.network.delay() * self.network.chance.choice([1, 1, 100]))
            self.loop.call_later(delay_s, source.assign, part, self._number, context=source.process.context.copy())


class SimSource(Reads):
    """What a pump reads from."""

    def __init__(self, cluster: Cluster, network: Network, group: SinkGroup, process: Process) -> None:
        super().__init__(cluster, network)
        self.process = process
        self.generation = 0
        self.assigned: frozenset[TopicPartition] = frozenset()
        self._group = group
        self._joined = False
        self._heard = 0

    async def open(self) -> None:
        if not self._joined:
            await self.network.call(self._group.join, self)
            self._joined = True

    async def close(self) -> None:
        try:
            await self.network.call(self._group.leave, self)
        except KafkaError:
            self._group.leave(self)
        self._joined = False
        self.assign((), self._heard)

    def assign(self, partitions: Sequence[TopicPartition], number: int) -> None:
        """The group's word, unless a newer one was heard before."""
        if number < self._heard:
            return
        self._heard = number
        self.generation += 1
        self.assigned = frozenset(partitions)
        self.positions = {}

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        at = self.cluster.at
        found: Mapping[TopicPartition, tuple[int, int]] = await self.network.call(
            lambda: {tp: (0, at(tp).stable) for tp in partitions}
        )
        return found

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:  # type: ignore[override]  # the pump's, of several
        self.positions.update(positions)

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        await asyncio.sleep(self.network.delay())
        taken = self._take(sorted(self.positions), max_records)
        if not taken:
            await self._watch(self.positions, timeout_s)
        return [record for records in taken.values() for record in records]

    def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]
