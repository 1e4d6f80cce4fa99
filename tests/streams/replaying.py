"""The toy's past -> `replay` as the command carries it out -> what it came to; in a process that can be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson

from cli.console import Operator
from cli.folding import scratch
from cli.refolding import carry_out, mark_reported
from streams import App
from streams.folding import Plan
from streams.replay import Job, name_of, targets
from tests.streams import toy

PARTITIONS = 4


def topics(partitions: int, _replicas: int) -> int:
    """The toy has its own; all it needs is their partition count."""
    return partitions


def wire(app: App, partitions: int) -> None:
    toy.wire(app, partitions)


async def main(data_dir: Path, kafka: str) -> dict[str, Any]:
    app = toy.make_app(data_dir, partitions=PARTITIONS, broker=f"kafka://{kafka}")
    operator = cast(Operator, SimpleNamespace(app=app))
    here = f"{__spec__.name}:topics"
    plan = Plan("toy", f"{__spec__.name}:wire", here, here, PARTITIONS, "dead_letters.v1")
    chosen = targets(app.groups, (), (), ())
    job = Job("code", tuple(map(name_of, chosen)))
    with scratch(operator) as folder:
        outcome = await carry_out(operator, chosen, job, None, plan, folder, lambda count: None)
    await mark_reported(operator, outcome)
    lines = [line._asdict() for done in outcome.done.values() for line in done.lines]
    return {"run": outcome.run, "continued": outcome.continued, "left": outcome.left, "lines": lines}


if __name__ == "__main__":
    print(orjson.dumps(asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))).decode())
