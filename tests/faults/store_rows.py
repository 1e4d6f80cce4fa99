"""Rows 9, 10, 11, 22: what happens to disks, files and limits."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.kafka import Kafka
from tests.faults.row import row
from tests.faults.trial import BUGGY, Trial, metric
from tests.streams.test_recovery import DAMAGE


@row(11, "a damaged store")
async def damaged(trial: Trial) -> None:
    """Found at open or at the first read, moved aside, rebuilt: the answers are right, or 503 until they are."""
    kinds = sorted(DAMAGE)
    if trial.brief:
        kinds = trial.chance.sample(kinds, 2)
    await trial.up(1)
    (worker,) = await trial.up(1)
    found = 0
    async with trial.under_load():
        for kind in kinds:
            await asyncio.sleep(1 if trial.brief else 2)
            trial.gone(worker)
            assert await asyncio.to_thread(worker.stop) == 0
            files, damage = DAMAGE[kind]
            paths = sorted(worker.state_dir.glob(f"orders-?/{files}"))
            assert paths, f"{kind}: the stores have no {files}"
            for path in paths:
                damage(path)
            since = trial.struck()
            worker = await trial.begin(worker.port)
            trial.urls.append(worker.url)
            await asyncio.to_thread(worker.wait_ready)
            await trial.recovered(since)
            found += int(metric(worker, "streams_store_damaged_total"))
    trial.figures |= {"damaged": " / ".join(kinds), "found by the metric": found}
    await _readable(trial)
    await trial.converge(minimum=700)
    found += int(metric(worker, "streams_store_damaged_total"))
    assert found, "no damage was counted"


async def _readable(trial: Trial) -> None:
    """Damage that shows only in a read is found by reading: until it is mended the answer is 503, never a wrong one."""
    uids = trial.chance.sample(trial.load.placed, 200)
    deadline = time.monotonic() + 60
    for uid in uids:
        for url in trial.urls:
            worker = next(each for each in trial.workers.started if each.url == url and each.child.running())
            while (status := (await asyncio.to_thread(worker.get, f"/api/v1/orders/{uid}"))[0]) == 503:
                assert time.monotonic() < deadline, "a store is still not mended after 60 s"
                await asyncio.sleep(0.2)
            assert status == 200, f"{uid} at {url}: {status}"


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A tmpfs; it needs the right to mount. Without it the row does not hold: it was not run."""
    with tempfile.TemporaryDirectory(prefix="orderstream-disk-") as name:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", name]
        made = subprocess.run(["mount", *options], capture_output=True, text=True)
        assert made.returncode == 0, f"not run: a small tmpfs could not be mounted: {made.stderr.strip()}"
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


@row(9, "disk full under the store")
async def store_full(trial: Trial) -> None:
    """The disk is filled while the worker runs; room is made again and nobody touches the worker."""
    with small_disk(300) as disk:
        worker = await trial.begin(None, BUGGY, ORDERSTREAM_DATA_DIR=str(disk), FAULT_BUFFER_BYTES="1048576")
        await asyncio.to_thread(worker.wait_ready)
        trial.urls.append(worker.url)
        async with trial.under_load(per_second=400):
            ballast = disk / "ballast"
            _fill(ballast)
            trial.struck()
            unready = await _status(trial, 503, 60)
            await asyncio.sleep(3)
            ballast.unlink()
            room = time.monotonic()
            await _status(trial, 200, 60)
            trial.figures |= {"503 after": unready, "ready after": time.monotonic() - room}
            await trial.recovered(room)
        await trial.converge(minimum=1_000, gap_s=90)
        await asyncio.to_thread(trial.workers.stop_all)


def _fill(ballast: Path) -> None:
    """Bigger and bigger until there is no room, and then byte by byte."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


async def _status(trial: Trial, wanted: int, timeout_s: float) -> float:
    """Seconds until the worker's readiness has this status."""
    began, worker = time.monotonic(), trial.workers.started[-1]
    while (await asyncio.to_thread(worker.get, "/health/ready"))[0] != wanted:
        waited = time.monotonic() - began
        assert worker.child.running(), f"the worker ended with {worker.child.exit_code}"
        assert waited < timeout_s, f"readiness did not become {wanted} within {timeout_s:.0f} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


@row(10, "disk full under Kafka", fresh=True)
async def broker_full(trial: Trial) -> None:
    """Kafka ends when its disk is full. With room again it is started, and nothing that it acknowledged is missing."""
    broker = trial.stack.broker
    data = broker.directory / "data"
    await asyncio.to_thread(broker.stop)
    with small_disk(600) as disk, held_on(disk, data):
        try:
            await asyncio.to_thread(broker.start)
            await _with_a_full_disk(trial, broker, disk)
        finally:
            await asyncio.to_thread(trial.workers.stop_all)
            await asyncio.to_thread(broker.stop)


@contextmanager
def held_on(disk: Path, data: Path) -> Iterator[None]:
    """A directory's content on another disk, under its own name. What it was before is there again afterwards."""
    subprocess.run(["cp", "-a", f"{data}/.", str(disk)], check=True)
    subprocess.run(["mount", "--bind", str(disk), str(data)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)


async def _with_a_full_disk(trial: Trial, broker: Kafka, disk: Path) -> None:
    await trial.up(2)
    async with trial.under_load(per_second=400):
        _fill(disk / "ballast")
        since = trial.struck()
        ended = await asyncio.to_thread(_ends, broker, 60.0)
        trial.figures["broker ended after" if ended else "broker lived on"] = time.monotonic() - since
        await asyncio.to_thread(broker.kill)
        (disk / "ballast").unlink()
        await asyncio.to_thread(broker.start)
        away = time.monotonic() - since
        await trial.recovered(time.monotonic(), within_s=45)
    await trial.converge(minimum=1_000, gap_s=away + 90)


def _ends(broker: Kafka, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while broker.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not broker.running()


@row(22, "limits of files and of memory")
async def limited(trial: Trial) -> None:
    """A worker that cannot have what it needs ends with an error that says so; the others do its work."""
    await trial.up(1)
    async with trial.under_load():
        for limit, value, words in (
            ("FAULT_FILES", "40", ("open files",)),
            ("FAULT_MEMORY_MB", "300", ("memory", "alloc")),
        ):
            trial.struck()
            worker = await trial.begin(None, BUGGY, **{limit: value})
            code = await trial.ended(worker, 60)
            said = worker.log()
            trial.figures[limit] = f"exit {code}"
            assert code != 0, f"{limit}={value}: the worker ended with 0"
            assert any(word in said.lower() for word in words), f"{limit}={value}: its log says nothing of it"
    await trial.converge(minimum=500)
