"""rows, a seed -> each row on real processes -> a table, a result file, and exit code 1 when one did not hold."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
from pathlib import Path

from tests.faults import rows
from tests.faults.row import Outcome, table, write
from tests.faults.trial import run
from tests.processes import start_stack


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", default=os.environ.get("FAULTS", ""), help="1,2,5; all when left out")
    parser.add_argument("--seed", default=os.environ.get("SEED", ""), help="repeats a run; by chance when left out")
    parser.add_argument("--rounds", default=os.environ.get("ROUNDS", ""), help="how often, each with the next seed")
    parser.add_argument("--json", type=Path, help="a result file for programs")
    parser.add_argument("--brief", action="store_true", help="the shorter form that `make test` runs")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    wanted = [int(number) for number in given.faults.split(",") if number] or sorted(rows)
    if unknown := [number for number in wanted if number not in rows]:
        print(f"error: there is no row {unknown}; rows: {sorted(rows)}", file=sys.stderr)
        return 2
    seed = int(given.seed) if given.seed else random.SystemRandom().randrange(10_000)
    outcomes: list[Outcome] = []
    embedded, stack = start_stack()
    try:
        for turn in range(int(given.rounds or 1)):
            for number in wanted:
                print(f"=== fault {number}: {rows[number].name}, SEED={seed + turn}", flush=True)
                outcomes.append(asyncio.run(run(rows[number], stack, seed + turn, given.brief)))
                print(table(outcomes[-1:]), flush=True)
                if given.json:
                    write(given.json, outcomes)
    finally:
        embedded.stop()
        shutil.rmtree(stack.data_dir, ignore_errors=True)
    print(f"\n{table(outcomes)}\n{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} held")
    return 0 if all(outcome.held for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
