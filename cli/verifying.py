"""parts of the application by name -> each held against a fold of the log, or added up anew -> a result for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson

from cli import items, ledger, numbers, sink
from cli.auditing import audit
from cli.console import Operator, readable
from cli.letters import reader_of
from cli.processes import together
from schemas.topics import DEAD_LETTERS, topics
from streams.errors import LogMismatch, NotReadable
from streams.folding import tasks_of
from streams.kafka import KafkaLog, onlooker
from streams.records import TopicPartition
from streams.reset import local_stores
from streams.store import Memory
from streams.topology import Group, task_name
from streams.verify import Difference, Place, Verification, Verified

#: Tasks that are looked at together: half of the time is spent waiting for the broker.
TASKS_AT_ONCE = 3

Result = dict[str, Any]
Tell = Callable[[Result], None]


def tasks(operator: Operator) -> dict[str, tuple[Group, int]]:
    """Every task, by its name."""
    return {task_name(group.name, number): (group, number) for group, number in tasks_of(operator.app, ())}


# -- tables, changelogs, outputs: task by task -------------------------------------------------------------------------


async def verify_tasks(
    operator: Operator, names: Iterable[str], scratch: Path, tell: Tell, moved: Callable[[int], None]
) -> None:
    """`tell` hears of each as soon as it is done. One that cannot be looked at now is told as `failed`."""
    settings, every = operator.app.engine_settings(), tasks(operator)
    async with onlooker(settings) as consumer:
        log, memory = KafkaLog(settings, consumer), Memory(settings.block_cache_bytes, settings.write_buffer_bytes)
        at_once = asyncio.Semaphore(TASKS_AT_ONCE)

        async def one(name: str) -> None:
            group, number = every[name]
            async with at_once:
                place = place_of(operator, group, number, scratch / name, memory, moved)
                try:
                    tell({"part": name, **told(await Verification(log, group, number, place).run())})
                except (NotReadable, LogMismatch) as error:
                    tell({"part": name, "failed": f"{error}.", "exit_code": 1})

        await together(*(one(name) for name in names))


def place_of(
    operator: Operator, group: Group, number: int, scratch: Path, memory: Memory, moved: Callable[[int], None]
) -> Place:
    app, partitions = operator.app, operator.settings.partitions
    inputs = {topic for each in app.groups.values() for topic in each.agents}
    writer = f"the agents of group {group.name}"
    specs = topics(partitions, 1)
    stores = [state / task_name(group.name, number) for state in local_stores(app.engine_settings())]
    return Place(
        inputs=inputs,
        outputs=[spec.name for spec in specs if spec.writer == writer and spec.name not in inputs],
        letters=TopicPartition(DEAD_LETTERS.name, number % partitions),
        scratch=scratch,
        memory=memory,
        stores=[store for store in stores if (store / "CURRENT").exists()],
        moved=moved,
    )


def told(found: Verified) -> Result:
    difference = found.difference
    return {
        "positions": found.positions,
        "records": found.records,
        "rows": found.rows,
        "events": found.events,
        "stores": found.stores,
        "unfounded": found.unfounded,
        "difference": None if difference is None else shown(difference),
    }


def shown(found: Difference) -> Result:
    """A difference as data: JSON as JSON, other bytes as the text that they look like."""
    return {
        **found._asdict(),
        "key": None if found.key is None else found.key.decode(errors="replace"),
        "sides": {name: readable(raw) for name, raw in found.sides.items()},
    }


# -- what has its own accountant: PostgreSQL, money, stock, numbers ----------------------------------------------------


def audits(operator: Operator) -> dict[str, Callable[[], Result]]:
    """By name. PostgreSQL is one of them where the sink writes to it."""
    found: dict[str, Callable[[], Result]] = {
        "ledger": partial(_audited, operator, ledger.EVENTS, ledger.books_of),
        "stock": partial(_audited, operator, items.EVENTS, items.count_of),
        "numbers": partial(_audited, operator, numbers.EVENTS, numbers.count_of),
    }
    return found | ({"postgres": partial(_postgres, operator)} if operator.settings.sink else {})


def verify_audits(operator: Operator, names: Iterable[str], tell: Tell) -> None:
    """The same for parts that are read as a whole."""
    known = audits(operator)
    for name in names:
        try:
            tell({"part": name, **known[name]()})
        except click.ClickException as error:
            tell({"part": name, "failed": error.message, "exit_code": error.exit_code})


def _audited(operator: Operator, topic: str, prepare: Any) -> Result:
    ends = operator.run(_ends(operator, topic))
    check, finding = audit(operator, topic, "adding up", partial(prepare, operator))
    difference = None
    if finding is not None:
        said: Mapping[str, Any] = finding._asdict()
        key = next(value for name, value in said.items() if name not in ("position", "what"))
        difference = {"what": str(finding), "name": topic, "partition": None, "key": key, "sides": {}}
        difference["at"] = said["position"]
    return {"positions": ends, "events": check.events, "difference": difference}


async def _ends(operator: Operator, topic: str) -> dict[str, int]:
    reader, _ = await reader_of(operator.brokers, topic)
    return {f"{tp.topic}-{tp.partition}": end for tp, end in (await reader.ends("read_committed")).items()}


def _postgres(operator: Operator) -> Result:
    found = sink.verified(operator)
    difference = None
    if (first := found.difference) is not None:
        sides = {"the tables": side(first.expected), "PostgreSQL": side(first.found)}
        difference = {"what": str(first), "name": first.table, "partition": None, "key": first.key, "sides": sides}
        difference["at"] = None
    return {"positions": {}, "rows": found.rows + found.items + sum(found.bought.values()), "difference": difference}


def side(value: Any) -> Any:
    """A value of a row as JSON has it: what is not there, dates and numbers of PostgreSQL as text."""
    try:
        orjson.dumps(value)
    except TypeError:
        return str(value)
    return value


def parts(operator: Operator) -> Iterator[str]:
    """Everything there is to verify. Those that are read as a whole come first: they cannot be shared out."""
    yield from audits(operator)
    yield from tasks(operator)
