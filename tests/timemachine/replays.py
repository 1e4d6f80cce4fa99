"""a log at rest -> taken once more, killed in the midst of it -> the same hashes, and nobody outside heard a word."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import orjson

from tests.oracle.log import LETTERS
from tests.processes import ROOT, Worker
from tests.timemachine.ground import EVENTS, INPUTS, Ground

BEFORE = "before.json"
DELIVERIES = "deliveries.events.v1"


def attested(ground: Ground) -> list[dict[str, Any]]:
    """The hash of every table's partition, and how long it took to come to them."""
    rows: list[dict[str, Any]] = orjson.loads(ground.stack.faust("attest", "--json", timeout_s=900).stdout)["tables"]
    return rows


def attest(ground: Ground) -> dict[str, Any]:
    """What the log has come to live; everything else is held against it."""
    began = time.monotonic()
    rows = attested(ground)
    (ground.directory / BEFORE).write_bytes(orjson.dumps({"tables": rows}))
    seconds = time.monotonic() - began
    return {
        "partitions of tables": len(rows),
        "rows": sum(row["rows"] for row in rows),
        "seconds": round(seconds, 1),
    }


class Held:
    """What must not change: hashes, ends of all topics that others read, requests to the outside."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.ends = ground.ends([*EVENTS, *INPUTS, LETTERS, DELIVERIES])
        self.effects = ground.effects()

    def require(self) -> dict[str, Any]:
        """Raises AssertionError for the first thing that is not as it was."""
        before = ground_rows(self.ground.directory / BEFORE)
        after = keyed(attested(self.ground))
        different = [place for place in before if before[place] != after.get(place)]
        assert not different and before.keys() == after.keys(), f"{different[:3]}: {after.get(different[0])}"
        ends = self.ground.ends(list(self.ends))
        assert ends == self.ends, {topic: (self.ends[topic], end) for topic, end in ends.items()}
        effects = self.ground.effects()
        assert effects == self.effects, "the world was asked again"
        return {"hashes equal": len(after), "effects repeated": 0}


def keyed(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], tuple[Any, str]]:
    return {(row["table"], row["partition"]): (row["position"], row["hash"]) for row in rows}


def ground_rows(file: Path) -> dict[tuple[str, int], tuple[Any, str]]:
    return keyed(orjson.loads(file.read_bytes())["tables"])


def by_reset(ground: Ground) -> dict[str, Any]:
    """`reset`, two workers, kill -9 for one of them halfway, and its return with the store that the kill left."""
    held, chance = Held(ground), Random("reset")
    began = time.monotonic()
    ground.stack.faust("reset", "--yes", timeout_s=300)
    reset_s = time.monotonic() - began
    workers = [ground.begin(number, **short_batches(held)) for number in range(2)]
    most, at_kill = kill_halfway(ground, workers, chance)
    for worker in workers:
        worker.wait_ready(900)
    seconds = time.monotonic() - began - reset_s
    ground.settle(workers)
    ground.down(workers)
    return {
        "records taken again": round(most),
        "left when one was killed": round(at_kill),
        "reset, s": round(reset_s, 1),
        "seconds": round(seconds, 1),
        "records_per_s": round(most / seconds),
        **held.require(),
    }


def short_batches(held: Held) -> dict[str, str]:
    """A short log would be taken in one batch, and nothing could come in between."""
    records = sum(held.ends.values())
    return {"ORDERSTREAM_BATCH_MAX_RECORDS": "20"} if records < 50_000 else {}


def by_fold(ground: Ground) -> dict[str, Any]:
    """`replay` without workers, killed once some of its tasks are done, and run again."""
    held, began = Held(ground), time.monotonic()
    killed_after = killed(ground, "replay", "--yes")
    again = time.monotonic()
    told = orjson.loads(ground.stack.faust("replay", "--yes", "--json", timeout_s=1_800).stdout)
    return {
        "killed after, s": round(killed_after, 1),
        "seconds, the second run": round(time.monotonic() - again, 1),
        "seconds": round(time.monotonic() - began, 1),
        "said": {name: value for name, value in told.items() if isinstance(value, int | float | str | bool)},
        **held.require(),
    }


def by_version(ground: Ground) -> dict[str, Any]:
    """`replay --into 2`, killed in its midst and run again, while its worker stands by; then the way back."""
    held, began = Held(ground), time.monotonic()
    killed_after = killed(ground, "replay", "--into", "2", "--yes")
    there = ground.begin(1, ORDERSTREAM_VERSION="2").wait_standing_by(600)
    told = switched(ground, "2")
    there.wait_ready(600)
    here = ground.begin(0)
    back = switched(ground, "")
    here.wait_ready(600)
    ground.down([there, here])
    ground.stack.faust("versions", "--remove", "2", "--yes", timeout_s=300)
    return {
        "killed after, s": round(killed_after, 1),
        "records, the second run": told["records"],
        "seconds, the second run": told["built_s"],
        "nobody's, s": told["switched_s"],
        "nobody's on the way back, s": back["switched_s"],
        "tables equal": len(told["tables"]),
        "seconds": round(time.monotonic() - began, 1),
        **held.require(),
    }


def switched(ground: Ground, version: str) -> dict[str, Any]:
    """A version's tables brought to where the live one's are, found equal, and live."""
    command = ["replay", "--into", version, "--yes", "--json"]
    told: dict[str, Any] = orjson.loads(ground.stack.faust(*command, timeout_s=1_800).stdout)
    assert told["switched"] and told["equal"], {name: told[name] for name in ("from", "to", "switched", "equal")}
    return told


def killed(ground: Ground, *command: str) -> float:
    """kill -9 when some tasks are done and others are not begun. Gives the seconds that it ran."""
    log = ground.directory / "killed.log"
    began = time.monotonic()
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "app", *command],
            cwd=ROOT,
            env=ground.stack.env,
            stdout=file,
            stderr=file,
        )
    read: set[str] = set()
    while len(read) < 6:
        read |= {file.stem for file in ground.stack.data_dir.glob("folding-*/**/*.acts")}
        assert child.poll() is None, f"it was over before the kill:\n{log.read_text()}"
        time.sleep(0.02)
    child.kill()
    child.wait()
    return time.monotonic() - began


def kill_halfway(ground: Ground, workers: list[Worker], chance: Random) -> tuple[float, float]:
    """Kill one while much is left; gives the most that was to be done, and what was left at the kill."""
    most, deadline = 0.0, time.monotonic() + 600
    wanted = chance.uniform(0.35, 0.65)
    while True:
        assert time.monotonic() < deadline, f"the replay did not come so far\n{ground.workers.log_tails()}"
        left = ground.replaying(workers)
        most = max(most, left)
        if 0 < left < most * wanted:
            break
        assert left or not most, "the replay was over before the kill"
        time.sleep(0.05)
    victim = chance.randrange(2)
    workers[victim].kill()
    workers[victim] = ground.begin(victim)
    return most, left
