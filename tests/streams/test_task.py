"""The task loop over a log in memory: batches, savepoints, dead letters, fencing, recovery, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.driver import Driver
from streams.errors import Fenced, NotReadable, StoreDamaged, StoreUnavailable
from streams.journal import Act, size
from streams.store import Memory, RocksStore
from tests.streams.toy import make_app


async def test_a_record_becomes_state_and_an_event(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        for _ in range(3):
            driver.produce("words", key="a", value=b"x")
        driver.produce("words", key="b", value=b"x")
        assert await driver.run() == 4
        assert driver.rows("counts") == {"a": 3, "b": 1}
        assert sorted(orjson.loads(r.value or b"")["n"] for r in driver.read("counted")) == [1, 1, 2, 3]


async def test_several_writes_of_a_key_leave_one_changelog_record(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        for _ in range(5):
            driver.produce("words", key="a", value=b"x")
        await driver.run()
        assert [r.value for r in driver.read("toy-counts-changelog") if r.key == b"a"] == [b"5"]


async def test_a_task_knows_when_records_wait_for_it(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=4) as driver:
        task = driver.tasks["words-0"]
        found = []
        for count in (1, 2, 4, 0):
            for _ in range(count):
                driver.produce("words", key="a", value=b"x")
            await task.step(0.0)
            found.append(task.pressed)
        assert found == [False, True, True, False]


@pytest.mark.parametrize(("interval_ms", "batch_max", "batches"), [(0, 100, 6), (400, 100, 2), (400, 2, 6)])
async def test_what_arrives_within_the_commit_interval_shares_a_transaction(
    tmp_path: Path, interval_ms: int, batch_max: int, batches: int
) -> None:
    """The first record after a rest waits for nothing, nor does any when half a batch is there already."""
    options: dict[str, Any] = {"commit_interval_ms": interval_ms, "batch_max_records": batch_max}
    async with Driver(make_app(tmp_path, partitions=1), **options) as driver:
        task, taken, done = driver.tasks["words-0"], [], asyncio.Event()
        process = task.process

        async def counted(acts: Sequence[Act]) -> None:
            taken.append(size(acts))
            await process(acts)
            if sum(taken) == 6:
                done.set()

        task.process = counted  # type: ignore[method-assign]
        running = asyncio.create_task(task.run())
        for _ in range(6):
            driver.produce("words", key="a", value=b"x")
            await asyncio.sleep(0.02)
        assert taken[0] == 1, "at once"
        await asyncio.wait_for(done.wait(), 5)
        running.cancel()
        assert len(taken) == batches


async def test_put_is_for_agents(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    with pytest.raises(RuntimeError, match="counted: `put` is for agents"):
        app.declared["counted"].put(key="a", value=b"x")


@pytest.mark.parametrize(
    ("value", "kind", "fault"), [(b"bad", b"poison", "a bad word"), (b"bug", b"failed", "a bug of ours")]
)
async def test_what_a_rejected_record_did_is_undone(tmp_path: Path, value: bytes, kind: bytes, fault: str) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        driver.produce("words", key="a", value=b"x")
        bad = driver.produce("words", key="a", value=value, headers=[("trace", b"1")])
        driver.produce("words", key="a", value=b"x")
        await driver.run()
        assert driver.rows("counts") == {"a": 2}
        assert [orjson.loads(r.value or b"")["offset"] for r in driver.read("counted")] == [0, 2]
        (letter,) = driver.read("dead_letters.v1")
        headers = dict(letter.headers)
        assert (letter.key, letter.value, headers["trace"]) == (b"a", value, b"1")
        assert headers["dead-letter-kind"] == kind
        assert orjson.loads(headers["dead-letter-faults"])[0]["message"] == fault
        assert (headers["dead-letter-topic"], headers["dead-letter-offset"]) == (b"words", b"%d" % bad.offset)


async def test_a_record_without_value_is_poison_for_an_agent_of_values(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        driver.produce("words", key="a", value=None)
        driver.produce("words", key="a", value=b"x")
        await driver.run()
        assert driver.rows("counts") == {"a": 1}
        assert dict(driver.read("dead_letters.v1")[0].headers)["dead-letter-reason"] == b"null_value"


async def test_a_new_owner_fences_the_old_one(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        old = driver.tasks["words-0"]
        await driver.start("words", 0)
        driver.produce("words", key="a", value=b"x")
        with pytest.raises(Fenced):
            await old.step(0)
        assert driver.read("counted") == []
        driver.log.seek(driver.tasks["words-0"].committed)
        await driver.run()
        assert driver.rows("counts") == {"a": 1}


async def test_a_lost_store_is_rebuilt_from_the_changelog(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for key in "abcab":
            driver.produce("words", key=key, value=b"x")
        await driver.run()
        before = driver.rows("counts")
        await driver.start("words", 0, lose_store=True)
        assert driver.rows("counts") == before == {"a": 2, "b": 2, "c": 1}


async def test_a_deadline_becomes_a_record_when_it_is_due_and_survives_its_task(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"remind 5000")
        await driver.run()
        await driver.start("words", 0, lose_store=True)
        await driver.advance(4_999)
        assert driver.rows("counts") == {"a": 1}
        await driver.advance(1)
        assert [r.value for r in driver.read("reminders")] == [b"due"]
        assert driver.rows("counts") == {}
        await driver.advance(60_000)
        assert len(driver.read("reminders")) == 1


async def test_damage_that_a_read_meets_ends_the_task_and_never_gives_a_partial_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"x")
        await driver.run()
        task = driver.tasks["words-0"]

        def torn(*_: object) -> Iterator[tuple[bytes, bytes]]:
            yield b"a", b"1"
            raise StoreDamaged("a block does not match its checksum")

        monkeypatch.setattr(task.store, "range", torn)
        with pytest.raises(NotReadable, match="being rebuilt"):
            driver.rows("counts")
        with pytest.raises(NotReadable, match="being rebuilt"):
            task.view()
        with pytest.raises(StoreDamaged):
            await task.step(0)


def test_a_closed_store_is_unavailable_not_damaged(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", ["counts"], Memory(1 << 20, 1 << 20))
    store.apply({"counts": {b"a": b"1"}}, {"counts": 1}, 0)
    store.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        store.get("counts", b"a")
    with pytest.raises(StoreUnavailable, match="is closed"):
        list(store.range("counts", b"a", b"b", False))
