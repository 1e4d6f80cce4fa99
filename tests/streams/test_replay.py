"""`reset` of the toy worker on a real broker: topics that race, deadlines, and kill -9 in the midst of the replay."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys

import orjson
from aiokafka import AIOKafkaProducer

from streams.attest import Attested, attest
from streams.reset import mark, reset
from streams.settings import EngineSettings
from streams.topology import Group
from tests.processes import ROOT, Worker
from tests.reading import read_all
from tests.streams.load import TOY, Toy, ended
from tests.streams.toy import make_app

OUTPUTS = ("counted", "reminders", "dead_letters.v1")


async def race(toy: Toy, records: int = 3_000) -> None:
    """Words that count and reminders that forget, from two producers, for the same few keys; deadlines among them."""
    chance = random.Random(7)
    words = AIOKafkaProducer(bootstrap_servers=toy.stack.kafka, linger_ms=5)
    reminders = AIOKafkaProducer(bootstrap_servers=toy.stack.kafka, linger_ms=5)
    async with words, reminders:
        for number in range(records):
            key = b"k%d" % chance.randrange(200)
            if chance.random() < 0.1:
                await reminders.send("reminders", key=key, value=b"now")
            else:
                value = b"remind %d" % chance.randrange(1, 1_500) if chance.random() < 0.05 else b"x"
                await words.send("words", key=key, value=b"bad" if chance.random() < 0.02 else value)
            if number % 50 == 0:
                await asyncio.sleep(0.02)


async def sent(toy: Toy) -> dict[str, int]:
    return {topic: len(await read_all(toy.stack.kafka, topic)) for topic in OUTPUTS}


async def settled(toy: Toy) -> tuple[dict[str, int], dict[str, int]]:
    """The rows and the number of outputs, once neither changes for two seconds."""
    before: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for _ in range(60):
        now = toy.rows(), await sent(toy)
        if now == before:
            return now
        before = now
        await asyncio.sleep(2)
    raise AssertionError(f"still moving after a minute: {now[1]}")


async def hashes(settings: EngineSettings, groups: dict[str, Group]) -> dict[tuple[str, int], Attested]:
    return {(each.table, each.partition): each async for each in attest(settings, groups)}


async def restarted(toy: Toy, worker: Worker, **env: str) -> Worker:
    """The same worker once more, in small batches, so that a replay is many transactions."""
    return await asyncio.to_thread(
        toy.workers.start, port=worker.port, app=TOY, env=toy.env | {"TOY_BATCH": "50"} | env, wait=False
    )


async def test_a_replay_that_is_killed_again_and_again_ends_in_the_same_rows_and_sends_nothing(toy: Toy) -> None:
    worker = await toy.start()
    await race(toy)
    rows, outputs = await settled(toy)
    assert rows and outputs["reminders"] > 400, "no deadline fell due: this tests nothing"
    assert await asyncio.to_thread(worker.stop) == 0

    app = make_app(toy.stack.data_dir, partitions=4, broker=f"kafka://{toy.stack.kafka}")
    before = await hashes(app.engine_settings(), app.groups)
    assert sum(each.rows for each in before.values()) > 20
    await mark(app.engine_settings(), app.groups, frozenset())  # as a reset that was killed right after its first step
    await reset(app.engine_settings(), app.groups, app.changelog_topics())
    for fault in ("sent:2", "committed:5", "restored:3"):
        worker = await restarted(toy, worker, STREAMS_FAULT=fault)
        await ended(worker, 30)
        assert worker.child.exit_code == 137, f"{fault} was never passed: this tests nothing"
    worker = await restarted(toy, worker)
    await asyncio.to_thread(worker.wait_ready)
    assert await settled(toy) == (rows, outputs)
    assert await hashes(app.engine_settings(), app.groups) == before  # beside a worker, too
    await race(toy, 200)
    more, after = await settled(toy)
    assert more != rows and after["counted"] > outputs["counted"]
    later = await hashes(app.engine_settings(), app.groups)
    assert later["counts", 0].position != before["counts", 0].position
    await plant(toy, "toy-counts-changelog", b"k1", b"17")
    found = await hashes(app.engine_settings(), app.groups)
    assert [at for at, each in found.items() if each != later[at]] == [("counts", 0)]
    refused = await asyncio.to_thread(replayed, toy)
    assert refused.returncode == 1 and f"has running workers ({worker.url})" in refused.stderr
    assert await asyncio.to_thread(worker.stop) == 0
    await folded_again_though_killed(toy)
    assert await hashes(app.engine_settings(), app.groups) == later
    assert await sent(toy) == after


async def folded_again_though_killed(toy: Toy) -> None:
    """The row that was planted is found, mended and not forgotten, whichever run it was that mended it."""
    for fault in ("replay_sent:2", "replay_committed:3"):
        ended = await asyncio.to_thread(replayed, toy, STREAMS_FAULT=fault)
        assert ended.returncode == -signal.SIGKILL, f"{fault} was never passed: {ended.stderr}"
    done = await asyncio.to_thread(replayed, toy)
    assert done.returncode == 0, done.stderr
    said = orjson.loads(done.stdout)
    assert len(said["continued"]) >= 3 and not said["left"] and len(said["lines"]) == 8
    other = [(each["table"], each["partition"], each["first"]) for each in said["lines"] if each["changed"]]
    assert other == [("counts", 0, "k1")]
    assert not list(toy.stack.data_dir.glob("state-*/words-*")), "stores are made again"


def replayed(toy: Toy, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.streams.replaying", str(toy.stack.data_dir), toy.stack.kafka]
    return subprocess.run(
        command, cwd=ROOT, env=toy.stack.env | env, capture_output=True, text=True, timeout=120, check=False
    )


async def plant(toy: Toy, topic: str, key: bytes, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=toy.stack.kafka) as producer:
        await producer.send_and_wait(topic, value, key=key, partition=0)
