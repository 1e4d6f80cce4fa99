"""the log, read without a trace -> the pasts of all tasks in a folder -> folded by processes of their own -> snapshots.

The processes know of no broker. The folder goes when the command ends, however it ends: a shell that holds nothing but
a pipe from the command removes it.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cli.attest import DECIDING
from cli.console import Found, Operator, note, progress
from cli.processes import RECORDS_FOR_A_PROCESS, Process, processors, together
from cli.rooms import ROOT
from schemas.topics import DEAD_LETTERS
from streams.attest import code_version
from streams.folding import Plan, part_of, tasks_of
from streams.kafka import KafkaLog, onlooker
from streams.log_identity import LogIdentity
from streams.past import Cursor, cursor_of, past_of, reached
from streams.records import TopicPartition
from streams.snapshot import Snapshot
from streams.spool import spool
from streams.topology import Group, task_name

#: Idempotency keys of HTTP: nothing of an order follows from them, and their topic keeps a week only.
APART = ("requests",)
#: Tasks whose past is read at the same time: most of the time is spent waiting for the broker.
TASKS_AT_ONCE = 4


@contextmanager
def scratch(operator: Operator) -> Iterator[Path]:
    """A folder that is gone afterwards, also when this process is killed."""
    above = operator.app.engine_settings().state_dir.parent
    above.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="folding-", dir=above)
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", 'cat > /dev/null; rm -rf -- "$1"', "sh", folder],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Path(folder).resolve()
    finally:
        assert keeper.stdin is not None, "it was asked for"
        keeper.stdin.close()
        keeper.wait()


def plan(
    operator: Operator, rules: str | None = None, *, apart: tuple[str, ...] = APART, emit: tuple[str, ...] = ()
) -> Plan:
    return Plan(
        app_id=operator.app_id,
        wire="agents.wiring:wire",
        topics="schemas.topics:topics",
        outside="agents.effects.supposed:Supposed",
        partitions=operator.settings.partitions,
        letters=DEAD_LETTERS.name,
        apart=apart,
        emit=emit,
        rules=rules,
    )


class Reached(NamedTuple):
    """A moment: by input the offset that was taken up to, and by task where its fold stopped."""

    inputs: Mapping[TopicPartition, int]
    cursors: Mapping[str, Cursor]


async def spool_pasts(operator: Operator, folder: Path) -> tuple[int, Reached]:
    """Write down what every task took up to now; gives the number of records, and how far each input was taken."""
    settings, tasks = operator.app.engine_settings(), tasks_of(operator.app, APART)
    async with onlooker(settings) as consumer:
        log = KafkaLog(settings, consumer)
        until = await reached(log, list({group.name: group for group, _ in tasks}.values()))
        inputs = [tp for group, number in tasks for tp in group.inputs(number)]
        begins = await log.bounds(inputs)
        count, positions = 0, {tp: until[tp] for tp in inputs if tp in until}
        if gone := [f"{tp.topic}-{tp.partition}" for tp in inputs if begins[tp][0] > 0]:
            note(f"The beginning of {', '.join(gone)} was deleted: what stood there is missing from the past.")
        with progress("reading", sum(end - begins[tp][0] for tp, end in positions.items())) as bar:

            def moved(records: int) -> None:
                nonlocal count
                count += records
                bar.update(records)

            at_once = asyncio.Semaphore(TASKS_AT_ONCE)

            async def one(group: Group, number: int) -> None:
                async with at_once:
                    task = folder / task_name(group.name, number)
                    await spool(past_of(log, group, number, until), task, moved)

            await together(*(one(group, number) for group, number in tasks))
        cursors = {task_name(group.name, number): await cursor_of(log, group, number, until) for group, number in tasks}
        return count, Reached(positions, cursors)


async def fold_pasts(operator: Operator, folder: Path, count: int, into: Path) -> None:
    """With the rules at hand, a process for each processor; into one snapshot."""
    plan(operator).write(folder)
    processes = min(processors(), 1 + count // RECORDS_FOR_A_PROCESS)
    with progress("folding as it was", count) as bar:
        await together(*(_run("past", folder, ROOT, number, processes, bar.update) for number in range(processes)))
    with Snapshot(into, new=True) as snapshot:
        for number in range(processes):
            snapshot.take_in(part_of(folder, number))


async def fold_shadow(operator: Operator, folder: Path, count: int, rooms: Path, rules: str | None) -> Path:
    """With the rules of `rooms`; gives the snapshot. Domains tell each other things, so it is one process."""
    plan(operator, rules).write(folder)
    with progress("folding with other rules", count) as bar:
        await _run("shadow", folder, rooms, 0, 1, bar.update)
    return folder / "shadow.snapshot"


def describe(
    snapshot: Snapshot, reached: Reached, taken_at: str | None = None, identity: LogIdentity | None = None
) -> None:
    """What the snapshot is of. `taken_at`: the moment (RFC 3339) at which the log was read; `identity`: which log."""
    if identity is not None:
        snapshot.say("cluster", identity.cluster)
        for name, id in identity.topics.items():
            snapshot.say(f"topic {name}", id)
    snapshot.say("code", code_version(ROOT / room for room in DECIDING))
    for (topic, partition), end in sorted(reached.inputs.items()):
        snapshot.say(f"position {topic}-{partition}", str(end))
    for task, cursor in sorted(reached.cursors.items()):
        snapshot.say(f"journal {task}", f"{cursor.journal}:{cursor.taken}")
    if taken_at is not None:
        snapshot.say("taken_at", taken_at)


async def _run(what: str, folder: Path, rooms: Path, number: int, count: int, moved: Callable[[int], Any]) -> None:
    """One process over the folder, with the rules of `rooms`. Raises Found with its last words."""
    async with folding_process(what, folder, number, count, rooms) as process:
        async for line in process.lines():
            if line.isdigit():  # rules that are being tried may print
                moved(int(line))
        if (words := await process.last_words()) is not None:
            raise Found(f"The rules could not be folded:\n{words}")


def folding_process(what: str, folder: Path, number: int = 0, count: int = 1, rooms: Path = ROOT) -> Process:
    """`python -m streams.folding`, with the rules of `rooms`."""
    return Process("streams.folding", what, str(folder), str(number), str(count), rooms=rooms, path=str(Path.cwd()))
