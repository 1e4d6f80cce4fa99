"""Records that are made to cost CPU -> each is judged, and what comes behind it is applied."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from bench.hostile import corpus
from schemas.orders.samples import generate
from streams import App, Stream, Table, TopicPartition
from streams.driver import Driver
from tests.agents.domain import make_app


async def test_every_hostile_record_is_judged_and_a_good_one_behind_it_is_applied(tmp_path: Path) -> None:
    app, _ = make_app(tmp_path, partitions=1)
    async with Driver(app) as driver:
        sent = 0
        for hostile in islice(corpus(), 0, None, 41):
            driver.produce(hostile.topic, value=hostile.value, partition=0, headers=hostile.headers)
            await driver.run()
            sent += 1
        order = generate(77)
        driver.produce("orders", value=order, partition=0)
        await driver.run()
        uid = json.loads(order)["order_uid"]
        assert uid in driver.rows("orders")
        read = {TopicPartition(name, 0) for group in app.groups.values() for name in group.topics}
        assert {tp: len(driver.log.topics[tp]) for tp in read} == {tp: driver.log.offsets[tp] for tp in read}
        letters = driver.read("dead_letters.v1")
        assert sent > 30 and len(letters) > 20
        assert max(len(letter.value or b"") + sum(len(v) for _, v in letter.headers) for letter in letters) < 400 << 10


async def test_a_row_or_a_deadline_that_does_not_fit_fails_its_record_and_not_its_partition(tmp_path: Path) -> None:
    app = App("toy", data_dir=tmp_path, broker="kafka://127.0.0.1:9")
    words = app.topic("words", partitions=1, group="words")
    out = app.topic("out", partitions=1)
    app.topic("dead_letters.v1", partitions=1)
    notes: Table[bytes] = app.Table("notes", group="words")
    deadlines = app.deadlines("words")

    @app.agent(words)
    async def count(stream: Stream[bytes]) -> None:
        async for word in stream:
            what, _, size = word.partition(b" ")
            notes["first"] = b"written, and undone with what fails"
            if what == b"row":
                notes["row"] = b"x" * int(size)
            elif what == b"deadline":
                deadlines.schedule(1_700_000_000_001, out, key="k", value=b"x" * int(size), id="d")
            elif what == b"headers":
                await out.send(key="k", value=b"v", headers=[("h", b"x" * int(size))])
            elif what == b"key":
                await out.send(key="k" * int(size), value=b"v")
            notes["last"] = word

    async with Driver(app) as driver:
        for word in (b"row 4194304", b"deadline 1048576", b"headers 1048576", b"key 1048576"):
            driver.produce("words", key=b"a", value=word)
        await driver.run()
        assert driver.rows("notes") == {}
        letters = [dict(letter.headers) for letter in driver.read("dead_letters.v1")]
        assert [letter["dead-letter-reason"] for letter in letters] == [b"TooLarge"] * 4
        for word in (b"row 4190000", b"deadline 1040000", b"headers 1040000", b"key 1040000"):
            driver.produce("words", key=b"a", value=word)
        await driver.run()
        assert driver.rows("notes").keys() == {"first", "row", "last"}
        assert len(driver.read("dead_letters.v1")) == 4
        await driver.advance(1_000)
        assert len(driver.read("out")) == 3
