"""`make bench` and `python -m bench [run|profile|table|chart|guard]` -> figures, each command in a line of --help."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench import chart, guard, latency, machine, profile, results
from bench.folds import OurFold
from bench.ground import ROOT, Ground
from bench.lines import GROUPS, chosen
from bench.rounds import FAILURES, Bench, say
from local.errors import LocalError
from schemas.settings import Settings

HERE = Path(__file__).parent
#: The broker is a JVM too: the first line must not pay for its compiling. Large and small transactions take other ways.
WARM_ORDERS, WARM_PER_S, WARM_S = 100_000, 1_000, 40
RESULTS, CHART = HERE / "results.json", HERE / "chart.svg"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed of Orderstream beside its peers.")
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="run lines side by side, print the table, write results and chart (default)")
    profiled = commands.add_parser("profile", help="where the time of one order goes, into bench/profile.md (py-spy)")
    commands.add_parser("table", help="the table of bench/results.json as Markdown")
    commands.add_parser("chart", help="bench/chart.svg anew from bench/results.json")
    guarded = commands.add_parser("guard", help="CPU per order against the committed baseline, without a broker")
    guarded.add_argument("--write", action="store_true", help="make what is found now the baseline")
    # The environment is how `make bench LINES=…` passes these on.
    env = os.environ.get
    for one in (parser, run):
        one.add_argument("--lines", default=env("LINES", ""), help=f"of {', '.join(GROUPS)}, or lines of them; all")
        one.add_argument("--rounds", type=int, default=int(env("ROUNDS") or 3), help="runs of each way, interleaved; 3")
        one.add_argument("--scale", type=float, default=float(env("SCALE") or 1), help="of all counts and times; 1")
        one.add_argument("--no-peers", action="store_true", help="only ours: nothing is installed")
        one.add_argument("--out", type=Path, default=None, help="bench/results.json at scale 1, else below the data")
    profiled.add_argument("--scale", type=float, default=float(env("SCALE") or 1), help="of the 300,000 orders; 1")
    profiled.add_argument("--bare", action="store_true", help="the bare fold instead of the product")
    parsed = parser.parse_args()
    if parsed.command in (None, "run") and (parsed.rounds < 1 or parsed.scale <= 0):
        parser.error("--rounds and --scale must be positive")
    return parsed


def data_dir() -> Path:
    """Below the data directory of the settings, which holds nothing else of this name."""
    return Settings.load().data_dir.absolute() / "bench"


def warm(ground: Ground, at_once: int, steady_s: float) -> None:
    with OurFold(ground) as fold:
        fold.feed(at_once)
        places = (ground.bootstrap, fold.source, fold.output)
        latency.measure(*places, fold.processes, per_s=WARM_PER_S, warm_s=0, seconds=steady_s, first=at_once)


def run(chosen_options: argparse.Namespace) -> int:
    out: Path = chosen_options.out or (RESULTS if chosen_options.scale == 1 else data_dir() / "results.json")
    try:
        groups = chosen(chosen_options.lines)
    except ValueError as error:
        say(f"LINES: {error}.")
        return 2
    if (warning := machine.warning()) is not None:
        say(warning)
    about = machine.about(chosen_options.rounds, chosen_options.scale)
    code = 0
    found: dict[str, Any] = {}
    with Ground(data_dir() / "ground") as ground:
        if (count := int(WARM_ORDERS * chosen_options.scale)) >= 1_000:
            say("warming the broker ...")
            warm(ground, count, WARM_S * chosen_options.scale)
        for name in groups:
            say(f"{name} ...")
            bench = Bench(ground, chosen_options.rounds, chosen_options.scale, not chosen_options.no_peers)
            try:
                GROUPS[name].run(bench)
            except FAILURES as error:
                say(f"{name} failed: {error}")
                code = 1
            code = code or int(bool(bench.failures))
            samples = bench.measured.samples
            lines = {line.name: judged for line in GROUPS[name].lines if (judged := line.judged(samples)) is not None}
            found |= lines
            # After each group, so that a run that is cut off keeps what it has.
            whole = results.write(out, lines, about | {"skipped": bench.measured.skipped})
    print(results.as_text(found))
    if out == RESULTS:
        CHART.write_text(chart.draw(whole["lines"]))
    say(f"Written to {os.path.relpath(out)}.")
    return code


def main() -> int:
    parsed = options()
    try:
        match parsed.command:
            case None | "run":
                return run(parsed)
            case "profile":
                with Ground(data_dir() / "ground") as ground:
                    text = profile.run(ground, int(300_000 * parsed.scale), bare=parsed.bare)
                path = HERE / "profile.md" if parsed.scale == 1 and not parsed.bare else data_dir() / "profile.md"
                path.write_text(text)
                print(text)
                say(f"Written to {os.path.relpath(path)}.")
            case "table":
                print(results.as_markdown(json.loads(RESULTS.read_text())["lines"]), end="")
            case "chart":
                CHART.write_text(chart.draw(json.loads(RESULTS.read_text())["lines"]))
            case "guard":
                return guard.report(write=parsed.write)
    except LocalError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
