"""changelogs and committed offsets -> a hash for each table and partition: equal wherever, and however, it was built.

The hash covers every row in key order and the input offsets that the rows reflect. One worker or five, before a kill or
after it, restored or replayed: the same inputs in the same order must come to the same hash (I6).
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

from streams.clock import SystemClock
from streams.errors import NotReadable
from streams.kafka import KafkaLog, onlooker
from streams.log import Log
from streams.metrics import Metrics
from streams.restore import Restore
from streams.settings import EngineSettings
from streams.store import Memory, RocksStore, Store
from streams.table import every_row
from streams.topology import Group, task_name

#: A commit's markers reach the partitions and the offsets one after the other, within milliseconds.
SETTLE_S, TRIES = 0.1, 50


class Attested(NamedTuple):
    """What one partition of a table holds. `position`: by input topic, the offset after the last record in it.

    `hash` is 64 hexadecimal digits: SHA-256 over each key and value with its length before it (4 bytes, big-endian),
    in the order of the keys, and over the position as JSON with sorted keys.
    """

    table: str
    partition: int
    position: Mapping[str, int]
    rows: int
    hash: str


def attested(store: Store, table: str, partition: int, position: Mapping[str, int]) -> Attested:
    """Hash what a store holds of a table."""
    digest, count = hashlib.sha256(), 0
    for key, value in every_row(store, table):
        digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
        count += 1
    digest.update(orjson.dumps(dict(position), option=orjson.OPT_SORT_KEYS))
    return Attested(table, partition, position, count, digest.hexdigest())


async def attest(settings: EngineSettings, groups: Mapping[str, Group]) -> AsyncIterator[Attested]:
    """Every table of every group, one task after the other, from the log alone; needs no worker, disturbs none.

    Rows go through a store on disk, so memory is bounded. Raises NotReadable for a task that does not stand still.
    """
    settings.state_dir.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="attest-", dir=settings.state_dir.parent))
    memory = Memory(settings.block_cache_bytes, settings.write_buffer_bytes)
    try:
        async with onlooker(settings) as consumer:
            log = KafkaLog(settings, consumer)
            for group in groups.values():
                for partition in range(group.partitions) if group.tables else ():
                    store = RocksStore(scratch / task_name(group.name, partition), group.tables, memory)
                    try:
                        position = await bring_to_rest(log, store, group, partition)
                        for table in group.tables:
                            yield attested(store, table, partition, position)
                    finally:
                        store.close()
                        shutil.rmtree(store.path, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def bring_to_rest(log: Log, store: Store, group: Group, partition: int) -> dict[str, int]:
    """Copy the changelogs until they and the offsets belong together; gives the offsets by topic."""
    changelogs = list(group.changelogs(partition).values())
    restore = Restore(log, store, group, partition, SystemClock(), Metrics())
    for _ in range(TRIES):
        before = await log.committed(group.inputs(partition))
        extents = await log.survey(changelogs)
        await restore.run(extents)
        await asyncio.sleep(SETTLE_S)
        after = await log.committed(group.inputs(partition)), await log.survey(changelogs)
        if after == (before, extents):
            return {tp.topic: offset for tp, offset in sorted(before.items())}
    raise NotReadable(
        f"{task_name(group.name, partition)} takes in records all the time: its rows and its offsets could not be read"
        " as of one moment. Try again when less comes in, or stop the workers"
    )


def code_version(rooms: Iterable[Path]) -> str:
    """16 hexadecimal digits over the sources below these folders: what the rules and the engine were."""
    digest = hashlib.sha256()
    for path in sorted(path for room in rooms for path in room.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
