"""Reports the health of a worker's engine and sets the gauges that nothing else sets."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from streams.task import TaskState

if TYPE_CHECKING:
    from streams.engine import Engine


class Check(NamedTuple):
    """One check of the health report: whether it holds, and what an operator would ask next."""

    ok: bool
    detail: str


def checks_of(engine: Engine) -> dict[str, Check]:
    """Return the checks of a worker by name; web/health.py says which of them make the worker unready."""
    age, session_s = time.monotonic() - engine.confirmed_at, engine.settings.session_timeout_ms / 1000
    connected, settled = engine.confirmed_at > 0, engine.settled
    mine = [name for name, url in engine.routes.items() if url == engine.url]
    opening = {name: task for name in mine if (task := engine.tasks.get(name)) and task.state is not TaskState.RUNNING}
    failed = {name: engine.failures[name] for name in mine if name not in engine.tasks and name in engine.failures}
    remaining = sum(task.remaining for task in opening.values())
    version = {} if engine.live is None else {"version": Check(engine.works, engine.standing_by() or "live")}
    return version | {
        "broker": Check(
            connected and age < session_s, f"last confirmed {age:.1f} s ago" if connected else "not connected yet"
        ),
        "assignment": Check(settled, f"{len(mine)} tasks" if settled else "rebalancing"),
        "recovery": Check(not opening, f"{len(opening)} tasks opening, {remaining} records to go"),
        "inputs": inputs_of(engine),
        "store": Check(not failed, "; ".join(f"{name}: {why}" for name, why in failed.items()) or "ok"),
    }


def inputs_of(engine: Engine) -> Check:
    """Whether every record of the inputs is read: none was deleted unread since this worker started, and none lies in
    a partition that was added."""
    skipped = [
        f"{int(sample.value)} offsets of {sample.labels['topic']}-{sample.labels['partition']}"
        for family in engine.metrics.skipped_offsets.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    ]
    faults = [f"deleted before they were taken: {', '.join(skipped)} (the log has the details)"] if skipped else []
    if engine.added.found:
        faults.append(f"{engine.added} (`faust -A app topics forward TOPIC` brings them to partitions that are read)")
    return Check(not faults, "; ".join(faults) or "ok")


def set_gauges(engine: Engine) -> None:
    """Set the gauges of tasks by state, of the live version and of the lag of each input partition."""
    metrics, consumer = engine.metrics, engine.consumer
    states = Counter(str(task.state) for task in engine.tasks.values())
    if engine.live is not None:
        metrics.live.labels(engine.live.version).set(int(engine.works))
    for state in TaskState:
        metrics.tasks.labels(str(state)).set(states[str(state)])
    assigned = frozenset() if consumer is None else consumer.assignment()
    for task in engine.tasks.values():
        for partition, offset in task.committed.items():
            end = consumer.highwater(partition) if consumer is not None and partition in assigned else None
            if end is not None:
                metrics.lag_records.labels(partition.topic, str(partition.partition)).set(max(0, end - offset))
