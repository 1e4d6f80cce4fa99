"""Row 27: another version of the tables takes over under load, and gives back."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from typing import Any

import orjson

from tests.faults.row import row
from tests.faults.trial import RECOVERED_S, Trial
from tests.processes import Worker

IN_EACH_PIECE = ("build_begun", "build_sent", "build_committed")
BUILDING = ("build_fenced", *IN_EACH_PIECE)
SWITCHING = ("switch_said", "switch_left", "switch_fenced", "switch_brought")
KILLED = -9
#: Two cores fold, compare and serve at once.
COMMAND_S = 300.0


@row(27, "another version takes over, and gives back")
async def versions_take_turns(trial: Trial) -> None:
    """In brief: kill -9 in the midst of the building and of the switch, by the seed; in full: at each of the steps."""
    blue = await trial.up(1 if trial.brief else 2)
    async with trial.under_load():
        for point in [trial.chance.choice(BUILDING)] if trial.brief else BUILDING:
            await _killed(trial, "2", point)
        green = [await trial.begin(ORDERSTREAM_VERSION="2") for _ in blue]
        for worker in green:
            await asyncio.to_thread(worker.wait_standing_by)
            trial.urls.append(worker.url)
        points = [trial.chance.choice(SWITCHING)] if trial.brief else list(SWITCHING)
        for point in points[:-1]:
            await _killed(trial, "2", point)
            since = trial.struck()
            await _command(trial, "versions", "--abandon", "--yes")
            await trial.recovered(since)
        await _killed(trial, "2", points[-1])
        await _switched(trial, "2", None if trial.brief else blue[-1])
        await _switched(trial, "", None if trial.brief else green[-1])
        for worker in green:
            trial.gone(worker)
    trial.figures["killed in the switch at"] = " ".join(points)
    await trial.converge(minimum=500, gap_s=COMMAND_S)  # who stands by answers 503 all the time


async def _command(trial: Trial, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    stack = replace(trial.stack, tuning={**trial.stack.tuning, **env})
    check = "STREAMS_FAULT" not in env
    return await asyncio.to_thread(stack.faust, *arguments, timeout_s=COMMAND_S, check=check)


async def _killed(trial: Trial, to: str, point: str) -> None:
    ended = await _command(
        trial, "replay", "--into", to, "--yes", STREAMS_FAULT=f"{point}:3" if point in IN_EACH_PIECE else point
    )
    assert ended.returncode == KILLED, f"{point}: exit {ended.returncode}\n{ended.stderr}"
    trial.struck()


async def _switched(trial: Trial, to: str, sleeper: Worker | None) -> None:
    """`sleeper`: a worker of the version that lets go, frozen meanwhile. It must not tell what was when it wakes."""
    if sleeper is not None:
        trial.gone(sleeper)
        sleeper.pause()
    since = trial.struck()
    told = (await _command(trial, "replay", "--into", to, "--yes", "--json")).stdout
    report: dict[str, Any] = orjson.loads(told)
    if sleeper is not None:
        sleeper.resume()
        trial.urls.append(sleeper.url)
    assert report["switched"] and report["equal"], told
    for seen in report["tables"]:
        trial.verdict.looked("tables as of a switch")
        trial.verdict.equal(
            "tables as of a switch", f"{seen['table']}-{seen['partition']}", seen["before"], seen["after"]
        )
    trial.figures[f"to {to or 'blue'}, s"] = report["switched_s"]
    assert to or report["switched_s"] < RECOVERED_S, "nobody had cut it short"
    await trial.recovered(since, within_s=COMMAND_S)
