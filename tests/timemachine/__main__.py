"""steps -> each on real processes, the long log made first -> a table of what was seen, and exit code 1 for a failure.

python -m tests.timemachine --events 200000 --data /some/where     keeps the log, so that steps can be done again
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.timemachine import cuts, replays, trials
from tests.timemachine.ground import Ground
from tests.timemachine.making import Making, rest

Step = Callable[[Ground, argparse.Namespace], Mapping[str, Any]]
STEPS: dict[str, tuple[str, Step]] = {
    "make": ("a log under faults", lambda ground, given: asyncio.run(Making(ground, given.seed, given.events).run())),
    "rest": ("until nothing is under way", lambda ground, given: rest(ground)),
    "attest": ("hashes of what it came to live", lambda ground, given: replays.attest(ground)),
    "reset": ("replay by reset, one worker killed halfway", lambda ground, given: replays.by_reset(ground)),
    "replay": ("replay by a fold, killed in its midst and run again", lambda ground, given: replays.by_fold(ground)),
    "into": (
        "into a version of its own, killed and run again, and back",
        lambda ground, given: replays.by_version(ground),
    ),
    "verify": ("everything against everything", lambda ground, given: trials.verify(ground)),
    "cuts": (
        "random moments, against fresh engines",
        lambda ground, given: asyncio.run(cuts.random_cuts(ground, given.cuts, given.seed)),
    ),
    "same": ("what-if by the same rules", lambda ground, given: trials.same_rules(ground)),
    "dearer": ("what-if by a dearer thing", lambda ground, given: trials.dearer(ground)),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.timemachine", description=__doc__)
    parser.add_argument("--events", type=int, default=int(os.environ.get("EVENTS") or 200_000))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or 1))
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--data", type=Path, help="where the log is kept; steps that are done are not done again")
    parser.add_argument("--steps", default="", help=f"of {','.join(STEPS)}; all when left out")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    wanted = [step for step in given.steps.split(",") if step] or list(STEPS)
    if unknown := [step for step in wanted if step not in STEPS]:
        print(f"error: there is no step {unknown[0]}; steps: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    directory = given.data or Path(tempfile.mkdtemp(prefix="timemachine-"))
    try:
        with Ground(directory) as ground:
            outcomes = {step: run(ground, given, step) for step in wanted if is_based(ground, step)}
            print(table(ground.kept.get("seen", {})))
        return 0 if all(outcomes.values()) and len(outcomes) == len(wanted) else 1
    finally:
        if given.data is None:
            shutil.rmtree(directory, ignore_errors=True)


def is_based(ground: Ground, step: str) -> bool:
    """Whether what the step stands on is there: a log at rest, and its hashes."""
    seen = ground.kept.get("seen", {})
    before = list(STEPS)[: min(list(STEPS).index(step), 3)]
    return all(seen.get(each, {}).get("held") for each in before)


def run(ground: Ground, given: argparse.Namespace, step: str) -> bool:
    """Do a step that was not done yet; whether it held."""
    seen: dict[str, Any] = ground.kept.setdefault("seen", {})
    if seen.get(step, {}).get("held"):
        return True
    print(f"--- {step}: {STEPS[step][0]}", flush=True)
    try:
        seen[step] = {"held": True, **STEPS[step][1](ground, given)}
    except Exception as error:
        traceback.print_exc()
        print(ground.workers.log_tails(20))
        seen[step] = {"held": False, "why": f"{type(error).__name__}: {error}"[:300]}
        ground.workers.stop_all()
    ground.keep(seen=seen)
    print(table({step: seen[step]}), flush=True)
    return bool(seen[step]["held"])


def table(seen: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each figure."""
    lines = []
    for step, figures in seen.items():
        lines.append(f"{step:<8} {STEPS[step][0]}: {'held' if figures['held'] else 'DID NOT HOLD'}")
        for name, value in figures.items():
            if name != "held":
                shown = f"{value:,}" if isinstance(value, int) else value
                lines.append(f"         {name:<36} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
