"""Stores and changelogs of the toy worker on a real broker: warm, lost, damaged, standing by, or not its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streams import admin
from streams.reset import WorkersRunning, adopt, reset
from tests.oracle.broker import Tail
from tests.processes import Worker
from tests.streams.load import TOY, Toy, ended
from tests.streams.toy import make_app


async def fill(toy: Toy, seconds: float = 2.0) -> dict[str, int]:
    """One worker, some load, a clean stop: the rows that must be found again."""
    worker = await toy.start()
    async with toy.load():
        await asyncio.sleep(seconds)
    await toy.converge()
    rows = toy.rows()
    assert await asyncio.to_thread(worker.stop) == 0
    assert rows
    return rows


async def again(toy: Toy, worker: Worker, **env: str) -> Worker:
    """The same worker once more: same port, same store."""
    return await asyncio.to_thread(
        toy.workers.start,
        port=worker.port,
        app=TOY,
        env=toy.env | env,
        wait=False,
    )


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for at in range(len(raw) // 4, len(raw) // 4 + 64):
        raw[at] ^= 0xFF
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


#: What happens to which files of every store. FACTS of RocksDB: some of it shows at open, some only in a read.
DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a table's bytes flipped": ("*.sst", flip),
    "a table cut": ("*.sst", cut),
    "a table gone": ("*.sst", Path.unlink),
    "the manifest gone": ("MANIFEST-*", Path.unlink),
    "the manifest cut": ("MANIFEST-*", cut),
    "the pointer gone": ("CURRENT", Path.unlink),
}


async def test_a_damaged_store_is_found_moved_aside_and_rebuilt(toy: Toy) -> None:
    rows = await fill(toy)
    worker = toy.workers.started[-1]
    for name, (files, damage) in DAMAGE.items():
        found = sorted(worker.state_dir.glob(f"words-?/{files}"))
        assert found, "there is nothing to damage"
        for path in found:
            damage(path)
        worker = await again(toy, worker)
        await asyncio.to_thread(worker.wait_ready)
        for key, count in rows.items():
            status, body = worker.get(f"/count/{key}")
            for _ in range(100):  # a damaged block is found by the first read of it; until it is rebuilt: 503
                if status == 200:
                    break
                await asyncio.sleep(0.1)
                status, body = worker.get(f"/count/{key}")
            assert (status, body) == (200, {"count": count}), f"{name}: {key}"
        assert toy.rows() == rows, name
        assert await asyncio.to_thread(worker.stop) == 0


async def test_a_standby_takes_over_where_the_owner_was(toy: Toy) -> None:
    owner = await toy.start(TOY_STANDBYS="1")
    standby = await toy.start(TOY_STANDBYS="1")
    async with toy.load():
        await asyncio.sleep(4)
        owner.kill()
        begun = time.monotonic()
        while standby.get("/health/ready")[0] != 200 or len(standby.get("/state")[1].get("rows", ())) < 500:
            assert time.monotonic() - begun < 300
            await asyncio.sleep(0.1)
    await toy.converge()
    await toy.judge(minimum=3_000)
    restored = standby.log().count("restored words")
    print(f"taken over {time.monotonic() - begun:.1f} s after kill -9 with {restored} restores")


async def test_a_member_with_an_id_of_its_own_is_back_in_its_place(toy: Toy) -> None:
    """Killed and started again within its session: same tasks, no rebalance for anybody, no session waited for.

    In a group of its own, since the broker keeps these members for a minute.
    """
    app = make_app(toy.stack.data_dir, "static", 4, broker=f"kafka://{toy.stack.kafka}")
    await admin.create(toy.stack.kafka, app.required_topics())
    settings = {"TOY_ID": "static", "TOY_SESSION_MS": "60000"}  # a restart takes 2 s, or 10 beside other work
    other = await toy.start(True, **settings, TOY_INSTANCE="other")
    worker = await toy.start(True, **settings, TOY_INSTANCE="mine")
    tasks, assignments = worker.get("/state")[1]["tasks"], other.get("/assignments")[1]["assignments"]
    with Tail(toy.stack.kafka, "counted") as tail:
        async with toy.load(per_second=500):
            await asyncio.sleep(1)
            worker.kill()
            tail.forget()
            worker = await again(toy, worker, **settings, TOY_INSTANCE="mine")
            await asyncio.to_thread(worker.wait_ready)
            await asyncio.sleep(1)
            silence = tail.longest_silence()
    await toy.converge()
    print(f"silent for {silence:.1f} s")
    assert silence < 30
    assert worker.get("/state")[1]["tasks"].keys() == tasks.keys() != set()
    assert other.get("/assignments")[1]["assignments"] == assignments, "the other one had to join again"


async def test_of_two_workers_with_one_id_the_older_stops_and_says_why(toy: Toy) -> None:
    older = await toy.start(TOY_INSTANCE="twin")
    newer = await toy.start(TOY_INSTANCE="twin", wait=False)
    await ended(older, 30)
    assert older.child.exit_code == 1 and "another worker uses the group instance id 'twin'" in older.log()
    await asyncio.to_thread(newer.wait_ready)
    assignments = newer.get("/assignments")[1]["assignments"]
    await asyncio.sleep(1.5)
    assert newer.get("/assignments")[1]["assignments"] == assignments, "it is put out again"


@pytest.mark.parametrize(("topic", "mend"), [("toy-counts-changelog", "replay"), ("words", "topics adopt words")])
async def test_a_re_created_topic_stops_the_worker_and_says_what_to_do(toy: Toy, topic: str, mend: str) -> None:
    await fill(toy, 1.0)
    await admin.delete(toy.stack.kafka, [topic])
    await toy.create_topics(only=topic)
    worker = await again(toy, toy.workers.started[-1])
    await ended(worker, 30)
    assert not worker.child.running()
    assert worker.child.exit_code == 1
    assert topic in worker.log()
    assert "re-created" in worker.log()
    assert f"faust -A app {mend}" in worker.log()


async def test_reset_builds_the_same_tables_from_the_input(toy: Toy) -> None:
    rows = await fill(toy, 1.0)
    stopped = toy.workers.started[-1]
    app = make_app(toy.stack.data_dir, partitions=4, broker=f"kafka://{toy.stack.kafka}")
    settings = app.engine_settings()
    worker = await again(toy, stopped)
    await asyncio.to_thread(worker.wait_ready)
    with pytest.raises(WorkersRunning, match="stop them first"):
        await reset(settings, app.groups, app.changelog_topics())
    assert await asyncio.to_thread(worker.stop) == 0
    assert stopped.state_dir in await reset(settings, app.groups, app.changelog_topics())
    worker = await again(toy, stopped)
    await asyncio.to_thread(worker.wait_ready)
    for _ in range(100):
        if toy.rows() == rows:
            break
        await asyncio.sleep(0.1)
    assert toy.rows() == rows


@pytest.mark.parametrize("topic", ["toy-counts-changelog", "words"])
async def test_an_accepted_loss_is_taken_in(toy: Toy, topic: str) -> None:
    await fill(toy, 1.0)
    app = make_app(toy.stack.data_dir, partitions=4, broker=f"kafka://{toy.stack.kafka}")
    await admin.delete(toy.stack.kafka, [topic])
    await toy.create_topics(only=topic)
    assert len(await adopt(app.engine_settings(), app.groups, topic)) == 4
    assert await adopt(app.engine_settings(), app.groups, topic) == []
    worker = await asyncio.to_thread(toy.workers.start, app=TOY, env=toy.env)  # another store: the old one is foreign
    assert await asyncio.to_thread(worker.stop) == 0


async def test_without_its_topics_a_worker_names_the_command(toy: Toy) -> None:
    worker = await asyncio.to_thread(
        toy.workers.start,
        app=TOY,
        env=toy.env | {"TOY_ID": "other"},
        wait=False,
    )
    await ended(worker, 30)
    assert worker.child.exit_code == 1
    assert "other-counts-changelog: missing" in worker.log()
    assert "faust -A app topics create" in worker.log()
    assert "Traceback" not in worker.log()
