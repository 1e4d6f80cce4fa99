"""seeds -> histories, as many as asked for; the figures, or the first failing seed with its trace, and exit code 1.

python -m tests.simulation --histories 1000            from seed 0 on
python -m tests.simulation --seed 4711                 this one, step by step
python -m tests.simulation --mutant NAME               a broken engine: how many histories until it is caught
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from pathlib import Path

from tests.simulation.history import Outcome, run
from tests.simulation.mutants import MUTANTS, hunt
from tests.simulation.plan import Plan, make_plan
from tests.simulation.shrink import shrink

REPORT_EVERY_S = 10.0


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    if options.mutant:
        return _hunt(options.mutant, options.first, options.histories)
    if options.seed is not None:
        outcome = run(make_plan(options.seed, options.topology))
        _show(outcome)
        if not outcome.held and options.shrink:
            _show_shrunk(outcome.plan)
        return 0 if outcome.held else 1
    return _many(options)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one history and show its trace")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many (default 0)")
    parser.add_argument("--histories", type=int, default=1_000, help="how many seeds (default 1000)")
    parser.add_argument("--topology", choices=["toy", "orders"], help="only this one (default: the seed says)")
    parser.add_argument("--mutant", choices=["all", *sorted(MUTANTS)], help="play a broken engine until it is caught")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failing seed")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="show the failing history as it is")
    parser.add_argument("--log", type=Path, help="write failing seeds to this file too")
    return parser.parse_args(arguments)


def _many(options: argparse.Namespace) -> int:
    begun = reported = time.perf_counter()
    cpu_begun = time.process_time()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    done = 0
    for seed in range(options.first, options.first + options.histories):
        outcome = run(make_plan(seed, options.topology))
        done += 1
        counts.update(outcome.counts)
        if not outcome.held:
            failed.append(seed)
            _tell(options.log, f"seed {seed} failed: {outcome.wrong[0]}")
            if not options.go_on:
                _show(outcome)
                if options.shrink:
                    _show_shrunk(outcome.plan)
                break
        if (now := time.perf_counter()) - reported > REPORT_EVERY_S:
            reported = now
            print(f"{done} histories, {len(failed)} failed, {done / (now - begun) * 60:.0f}/min", file=sys.stderr)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    print(f"{done} histories, {len(failed)} failed, in {seconds:.1f} s: {done / seconds * 60:.0f}/min"
          f" ({done / cpu * 60:.0f} per minute of processor time)")  # fmt: skip
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if failed:
        print(f"failing seeds: {failed}; replay one with: make simulate SEED={failed[0]}")
    return 1 if failed else 0


def _tell(log: Path | None, text: str) -> None:
    print(text, file=sys.stderr)
    if log is not None:
        with log.open("a") as file:
            file.write(text + "\n")


def _show(outcome: Outcome) -> None:
    plan = outcome.plan
    print(
        f"seed {plan.seed}: {plan.topology}, {plan.partitions} partitions, {plan.machines} workers,"
        f" {plan.standbys} standbys, batches of {plan.batch_max}, {plan.records} records, {plan.faults} faults"
    )
    print(f"{plan.weather}, markers {plan.marker_delay_s} s, failing batches {plan.fail_batch}")
    print("\n".join(outcome.trace))
    print(", ".join(f"{name} {count}" for name, count in outcome.counts.items()))
    print(f"digest {outcome.digest}")
    for wrong in outcome.wrong:
        print(f"WRONG: {wrong}")
    print("held" if outcome.held else f"{len(outcome.wrong)} things are wrong")


def _show_shrunk(plan: Plan) -> None:
    print("shrinking ...", file=sys.stderr)
    smaller = shrink(plan, lambda plan: not run(plan).held)
    if smaller == plan:
        return
    print(f"\nThe same fault in a smaller history ({len(plan.actions)} actions before, {len(smaller.actions)} now):")
    _show(run(smaller))


def _hunt(name: str, first: int, histories: int) -> int:
    missed = 0
    for mutant in sorted(MUTANTS) if name == "all" else [name]:
        caught = hunt(mutant, histories, first)
        missed += caught is None
        if caught is None:
            print(f"{mutant:36} NOT caught in {histories} histories")
        else:
            print(f"{mutant:36} caught after {caught.histories:5} histories: {caught.wrong:.110}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
