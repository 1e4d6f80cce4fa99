"""rows, a seed -> each row on real processes -> a table, a result file, and exit code 1 when one did not hold."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from local import Embedded
from tests.faults import rows
from tests.faults.recording import record
from tests.faults.row import Outcome, shortcoming, table, write
from tests.faults.trial import run
from tests.processes import RunningStack, start_stack


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", default=os.environ.get("FAULTS", ""), help="1,2,5; all when left out")
    parser.add_argument("--seed", default=os.environ.get("SEED", ""), help="repeats a run; by chance when left out")
    parser.add_argument("--rounds", default=os.environ.get("ROUNDS", ""), help="how often, each with the next seed")
    parser.add_argument("--json", type=Path, help="a result file for programs")
    parser.add_argument("--brief", action="store_true", help="the shorter form that `make test` runs")
    parser.add_argument("--record", metavar="NAME", help="no run: write what this code does to recorded/NAME.jsonl")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.record:
        print(record(given.record))
        return 0
    wanted = [int(number) for number in given.faults.split(",") if number] or sorted(rows)
    if unknown := [number for number in wanted if number not in rows]:
        print(f"error: there is no row {unknown}; rows: {sorted(rows)}", file=sys.stderr)
        return 2
    seed = int(given.seed) if given.seed else random.SystemRandom().randrange(10_000)
    outcomes = [outcome for turn in range(int(given.rounds or 1)) for outcome in one_round(given, wanted, seed + turn)]
    held = all(outcome.held for outcome in outcomes)
    print(f"\n{table(outcomes)}\n{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} held")
    missing = None if given.brief or wanted != sorted(rows) else shortcoming(outcomes)
    if missing:
        print(missing)
    return 0 if held and not missing else 1


def one_round(given: argparse.Namespace, wanted: list[int], seed: int) -> Iterator[Outcome]:
    """Each row once; those that want it on a Kafka and a PostgreSQL of their own."""
    embedded, stack = start_stack(rows[wanted[0]].brokers)
    used = False
    outcomes: list[Outcome] = []
    try:
        for number in wanted:
            if (rows[number].fresh and used) or rows[number].brokers != len(stack.brokers):
                end(embedded, stack)
                embedded, stack = start_stack(rows[number].brokers)
            used = True
            print(f"=== fault {number}: {rows[number].name}, SEED={seed}", flush=True)
            outcomes.append(asyncio.run(run(rows[number], stack, seed, given.brief)))
            print(table(outcomes[-1:]), flush=True)
            if given.json:
                write(given.json, outcomes)
            yield outcomes[-1]
    finally:
        end(embedded, stack)


def end(embedded: Embedded, stack: RunningStack) -> None:
    embedded.stop()
    shutil.rmtree(stack.data_dir, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
