"""Blue works under load, green stands by; the switch, its command killed in the midst; and back: nothing goes wrong.

With the toy. Row 27 of `make faults` does it to the product, kills at each step, and has workers sleep through it.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any, NamedTuple

import orjson

from streams import admin
from tests.processes import ROOT, Worker
from tests.streams.load import Toy
from tests.streams.switching import LIVE
from tests.streams.toy import make_app

KEYS = [f"k{number}" for number in range(8)]


class Look(NamedTuple):
    """What a worker said of a key, when it was asked and when it had answered."""

    key: str
    asked_at: float
    answered_at: float
    status: int
    shown: int | None


async def test_versions_take_turns_under_load(toy: Toy) -> None:
    for version in ("", "2"):
        app = make_app(toy.stack.data_dir, partitions=4, version=version, live_topic=LIVE)
        await admin.create(toy.stack.kafka, app.required_topics())
    green = await toy.start(wait=False, TOY_LIVE=LIVE, TOY_VERSION="2")
    blue, looks = await toy.start(TOY_LIVE=LIVE), list[Look]()
    async with toy.load(per_second=300):
        looking = asyncio.create_task(look_on([blue, green], looks))
        await asyncio.to_thread(standing_by, green)
        killed = await asyncio.to_thread(switched, toy, "2", STREAMS_FAULT="switch_fenced")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        for to, live, aside in (("2", green, blue), ("", blue, green)):
            done = await asyncio.to_thread(switched, toy, to)
            assert done.returncode == 0, done.stderr
            told = orjson.loads(done.stdout)
            assert told["switched"] and told["equal"] and len(told["tables"]) == 8, told
            assert all(seen["before"] == seen["after"] for seen in told["tables"])
            await asyncio.to_thread(live.wait_ready)
            await asyncio.to_thread(standing_by, aside)
        await asyncio.sleep(0.5)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    await toy.converge()
    await toy.judge(minimum=1_000)
    judge_looks(looks)


async def look_on(workers: list[Worker], looks: list[Look]) -> None:
    while True:
        for number, key in enumerate(KEYS):
            asked_at = time.monotonic()
            status, told = await asyncio.to_thread(workers[number % 2].get, f"/count/{key}", 3.0)
            count = told["count"] if status == 200 else None
            looks.append(Look(key, asked_at, time.monotonic(), status, count))
        KEYS.append(KEYS.pop(0))
        await asyncio.sleep(0.02)


def judge_looks(looks: list[Look]) -> None:
    """No count is gone, or less, for whoever asks after it was shown."""
    by_key: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        assert look.status in (0, 200, 503), look
        by_key[look.key].append(look)
    for key, of_key in by_key.items():
        shown: list[tuple[float, int]] = []
        for look in of_key:
            known = max((count for at, count in shown if at < look.asked_at), default=0)
            if look.status == 200:
                assert (look.shown or 0) >= known, f"{key}: {look} after {known}"
                shown.append((look.answered_at, look.shown or 0))
        assert len(shown) > 10, f"{key} was seen {len(shown)} times: this tests nothing"


def standing_by(worker: Worker, timeout_s: float = 60.0) -> None:
    deadline, told = time.monotonic() + timeout_s, Any
    while time.monotonic() < deadline and worker.child.running():
        status, told = worker.get("/health/ready", 2.0)
        if status == 503 and "stands by" in told["version"]["detail"]:
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {worker.port} does not stand by: {told}\n{worker.log()[-2000:]}")


def switched(toy: Toy, into: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.streams.switching", str(toy.stack.data_dir), toy.stack.kafka, into]
    return subprocess.run(
        command, cwd=ROOT, env=toy.stack.env | env, capture_output=True, text=True, timeout=120, check=False
    )
