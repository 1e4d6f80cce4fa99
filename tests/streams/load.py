"""The toy's topics on a real broker, a load on them, and the judgement at the end: an independent fold of the input."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiokafka import AIOKafkaProducer

from streams import admin
from tests.processes import RunningStack, Worker, Workers
from tests.reading import read_all
from tests.streams.toy import make_app

TOY = "tests.streams.toy_worker"


class Toy:
    """The toy's topics on the real broker, a load on them, and the judgement at the end."""

    def __init__(self, stack: RunningStack, workers: Workers) -> None:
        self.stack, self.workers, self.sent = stack, workers, 0

    async def create_topics(self, only: str = "") -> None:
        app = make_app(self.stack.data_dir, partitions=4, broker=f"kafka://{self.stack.kafka}")
        wanted = [topic for topic in app.required_topics() if only in ("", topic.name)]
        await admin.create(self.stack.kafka, wanted)

    async def start(self, wait: bool = True, **env: str) -> Worker:
        """In a thread, so that the load goes on meanwhile."""
        return await asyncio.to_thread(self.workers.start, app=TOY, env=self.env | env, wait=wait)

    @property
    def env(self) -> dict[str, str]:
        return {"TOY_DATA_DIR": str(self.stack.data_dir), "TOY_KAFKA": self.stack.kafka}

    @asynccontextmanager
    async def load(self, per_second: int = 800, poison_every: int = 97) -> AsyncIterator[None]:
        """Records at a steady rate for as long as the block runs; one in `poison_every` is poison."""
        producer = AIOKafkaProducer(bootstrap_servers=self.stack.kafka, linger_ms=5)
        await producer.start()
        running = True

        async def produce() -> None:
            begun, count = time.monotonic(), 0
            while running:
                while count < (time.monotonic() - begun) * per_second:
                    value = b"bad" if count % poison_every == 0 else b"x"
                    await producer.send("words", key=b"k%d" % (count % 500), value=value)
                    count += 1
                await asyncio.sleep(0.01)
            self.sent += count

        task = asyncio.create_task(produce())
        try:
            yield
        finally:
            running = False
            await task
            await producer.stop()

    async def committed_outputs(self) -> int:
        return len(await read_all(self.stack.kafka, "counted"))

    async def converge(self, timeout_s: float = 60) -> None:
        """Wait until every input has an output or a dead letter."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            done = await self.committed_outputs() + len(await read_all(self.stack.kafka, "dead_letters.v1"))
            if done >= self.sent:
                return
            await asyncio.sleep(0.5)
        raise AssertionError(f"{done} of {self.sent} after {timeout_s} s\n{self.workers.log_tails(15)}")

    async def judge(self, minimum: int) -> None:
        """An independent fold of the input: each output once and right, each poison once, the changelog equal."""
        inputs = await read_all(self.stack.kafka, "words")
        assert len(inputs) == self.sent >= minimum
        expected, counts, poison = {}, Counter[bytes](), set()
        for record in inputs:
            if record.value == b"bad":
                poison.add((record.partition, record.offset))
            else:
                counts[record.key] += 1
                expected[record.partition, record.offset] = counts[record.key]
        seen = Counter[tuple[int, int]]()
        for record in await read_all(self.stack.kafka, "counted"):
            output = orjson.loads(record.value)
            origin = record.partition, output["offset"]
            seen[origin] += 1
            assert output["n"] == expected[origin], f"{origin} was folded wrongly"
        assert seen.keys() == expected.keys(), f"lost {len(expected.keys() - seen.keys())}"
        assert max(seen.values()) == 1, f"doubled {sum(n - 1 for n in seen.values())}"
        letters = Counter(
            (int(h["dead-letter-partition"]), int(h["dead-letter-offset"]))
            for h in (dict(r.headers) for r in await read_all(self.stack.kafka, "dead_letters.v1"))
        )
        assert letters == Counter(dict.fromkeys(poison, 1))
        folded = {r.key: r.value for r in await read_all(self.stack.kafka, "toy-counts-changelog")}
        assert {k: int(v) for k, v in folded.items() if not k.startswith(b"\0")} == dict(counts)

    def rows(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for worker in self.workers.started:
            if worker.child.running():
                status, body = worker.get("/state")
                assert status == 200, body
                assert not found.keys() & body["rows"].keys(), "two workers answer for one key"
                found.update(body["rows"])
        return found


async def ended(worker: Worker, timeout_s: float) -> None:
    for _ in range(int(timeout_s / 0.05)):
        if not worker.child.running():
            return
        await asyncio.sleep(0.05)
