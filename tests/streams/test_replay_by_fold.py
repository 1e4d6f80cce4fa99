"""A replay by fold: plans, scopes, what it writes and what it leaves, and kill -9 between any two of its steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from streams import faults
from streams.driver import Driver
from streams.errors import Fenced, LogMismatch
from streams.fold import Fold
from streams.journal import REPORTED, Run
from streams.past import Cursor, cursor_of, past_of, reached
from streams.records import Fields, TopicPartition
from streams.replay import Done, Job, NotWhole, Rebuild, Span, Target, find_span, targets, unfinished
from streams.store import MemoryStore
from streams.topology import task_name, transactional_id
from tests.streams.killing import Killed, kill_at
from tests.streams.test_journal import live, outputs, sent
from tests.streams.toy import make_app

POINTS = ("replay_fenced", "replay_restored", "replay_begun", "replay_sent", "replay_committed", "replay_done")
DEADLINE = b'[1,"x","reminders","k",""]'
COUNTS = TopicPartition("toy-counts-changelog", 0)


@pytest.fixture(autouse=True)
def nobody_watches() -> Iterator[None]:
    yield
    faults.watch(None)


def job_of(driver: Driver, chosen: list[Target] | None = None, **options: tuple[str, ...] | str) -> Job:
    chosen = targets(driver.app.groups, (), (), ()) if chosen is None else chosen
    return Job("code", tuple(task_name(group.name, number) for group, number in chosen), **options)  # type: ignore[arg-type]


async def spans_of(driver: Driver, job: Job) -> list[Span]:
    all_of = targets(driver.app.groups, (), (), ())
    wanted = [each for each in all_of if task_name(each[0].name, each[1]) in job.tasks]
    found = [await find_span(driver.log, *each) for each in wanted]
    return [span for span in found if span is not None]


async def replay(driver: Driver, job: Job, rules: Path = Path("unused")) -> dict[str, Done]:
    """As the command does it, one task after the other and in this process."""
    fences = {name: driver.log.transactions(transactional_id("toy", name)) for name in job.tasks}
    for fence in fences.values():
        await fence.start()
    faults.point("replay_fenced")
    spans = await spans_of(driver, job)
    run, did = unfinished(spans, job) or (random.randbytes(4).hex(), {})
    for span in spans:
        if span.name not in did:
            group = make_app(rules).groups[span.group.name]
            store, again = MemoryStore(), list[tuple[TopicPartition, Fields]]()
            fold = Fold(group, span.partition, store, TopicPartition("dead_letters.v1", span.partition))
            async for act in past_of(driver.log, group, span.partition, span.until):
                said = [one for each in await fold.take(act) for one in each.sent]
                again += [(one.to, one.fields) for one in said if one.to.topic in job.emit]
            fold.keep()
            await fold.close()
            rebuild = Rebuild(driver.log, span, run, job, driver.clock)
            did = did | {span.name: await rebuild.carry_out(fences[span.name], store, MemoryStore, again)}
    faults.point("replay_done")
    if did:
        driver.log.append(TopicPartition("toy-words-journal", 0), (0, REPORTED, run.encode(), ()))
    return did


async def restarted(driver: Driver, lose_store: bool = False) -> None:
    for number in range(2):
        await driver.start("words", number, lose_store=lose_store)
    await driver.run()


def plant(driver: Driver, key: bytes, value: bytes | None, partition: int = 0) -> None:
    driver.log.append(TopicPartition(COUNTS.topic, partition), (0, key, value, ()))


@pytest.mark.parametrize("seed", range(20))
async def test_what_was_not_touched_is_equal_and_nothing_is_written_but_that(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Driver(make_app(tmp_path), batch_max_records=chance.choice([1, 7, 100])) as driver:
        await live(driver, chance)
        rows, said, changelog = driver.rows("counts"), outputs(driver), driver.read(COUNTS.topic)
        if seed % 3 == 0:  # a reset in the midst, and a replay by workers that is not done
            await driver.replay()
            await driver.tasks["words-0"].step(0.0)
        done = await replay(driver, job_of(driver))
        lines = [line for each in done.values() for line in each.lines]
        assert len(lines) == 4 and all(line.equal for line in lines)
        if seed % 3:
            assert not any(line.changed for line in lines) and all(line.before for line in lines)
            assert driver.read(COUNTS.topic) == changelog
        await restarted(driver, lose_store=seed % 2 == 0)
        assert (driver.rows("counts"), outputs(driver)) == (rows, said)
        await live(driver, chance, 20)
        assert all(line.equal for each in (await replay(driver, job_of(driver))).values() for line in each.lines)


async def test_rows_that_are_not_what_the_past_says_are_named_and_mended(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for key in "abc":
            driver.produce("words", key=key, value=b"word")
        await driver.run()
        plant(driver, b"b", b"17")
        plant(driver, b"c", None)
        plant(driver, b"d", b"1")
        done = await replay(driver, job_of(driver))
        line = next(line for line in done["words-0"].lines if line.table == "counts")
        assert (line.changed, line.first, line.rows, line.equal) == (3, "b", 3, False)
        await driver.start("words", 0)
        assert driver.rows("counts") == {"a": 1, "b": 1, "c": 1}
        written = driver.read("toy-words-journal")[-2].value or b""
        assert (read := Done.decode(written)) is not None and read.lines == done["words-0"].lines
        newer = orjson.dumps(orjson.loads(written) | {"job": orjson.loads(written)["job"] | {"of_later": 1}})
        assert Done.decode(newer) is None


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("emit", [(), ("counted",)])
async def test_killed_anywhere_it_goes_on_to_the_same_end(
    tmp_path: Path, point: str, count: int, emit: tuple[str, ...]
) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(11))
        rows, said, before = driver.rows("counts"), sent(driver, "counted"), {0: b"a", 1: b"b"}
        for number, key in before.items():
            plant(driver, b"planted-" + key, b"9", number)
        if count == 1 or point not in ("replay_fenced", "replay_done"):
            kill_at(point, count)
            with pytest.raises(Killed):
                await replay(driver, job_of(driver, emit=emit))
            faults.watch(None)
        first, second = [await replay(driver, job_of(driver, emit=emit)) for _ in range(2)]
        found = {line.first for done in first.values() for line in done.lines if not line.equal}
        assert found == {"planted-a", "planted-b"}, "what the killed run had mended is not forgotten"
        assert {done.run for done in second.values()}.isdisjoint({done.run for done in first.values()})
        assert all(line.equal for done in second.values() for line in done.lines)
        await restarted(driver)
        assert driver.rows("counts") == rows
        again = sent(driver, "counted")
        for number in range(2):
            once = [record for record in said if record[1] == number]
            assert [record for record in again if record[1] == number] == once * (3 if emit else 1)


async def test_a_worker_that_begins_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"word")
        await driver.run()
        plant(driver, b"z", b"1")
        fence = driver.log.transactions(transactional_id("toy", "words-0"))
        await fence.start()
        [span] = await spans_of(driver, job_of(driver))
        await driver.start("words", 0)
        driver.produce("words", key="a", value=b"word")
        await driver.run()
        end = len(driver.read(COUNTS.topic))
        with pytest.raises(Fenced):
            await Rebuild(driver.log, span, "run", job_of(driver), driver.clock).carry_out(
                fence, MemoryStore(), MemoryStore
            )
        assert len(driver.read(COUNTS.topic)) == end


async def test_only_the_tables_that_are_named_change(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(4))
        plant(driver, b"planted", b"1")
        driver.log.append(
            TopicPartition("toy-words_deadlines-changelog", 0), (0, b"iplanted", b'[1,"x","r","k",""]', ())
        )
        chosen = targets(driver.app.groups, (), [0], ["counts"])
        done = await replay(driver, job_of(driver, chosen, tables=("counts",)))
        assert [(line.table, line.partition, line.first) for line in done["words-0"].lines] == [
            ("counts", 0, "planted")
        ]
        assert list(done) == ["words-0"]
        await restarted(driver)
        assert "planted" not in driver.rows("counts") and "iplanted" in driver.rows("words_deadlines")


async def test_a_changelog_that_was_lost_is_written_anew(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(8))
        rows, said = driver.rows("counts"), outputs(driver)
        driver.log.topics.pop(COUNTS)
        with pytest.raises(LogMismatch, match=r"topic was lost or re-created.*faust -A app replay"):
            await driver.start("words", 0, lose_store=True)
        with pytest.raises(LogMismatch, match="table counts is left out of this replay"):
            await replay(driver, job_of(driver, tables=("words_deadlines",)))
        done = await replay(driver, job_of(driver))
        assert [line.before for line in done["words-0"].lines if line.table == "counts"] == [None]
        await restarted(driver, lose_store=True)
        assert (driver.rows("counts"), outputs(driver)) == (rows, said)


async def test_what_was_reset_is_replayed_whole(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(8))
        await driver.replay()
        with pytest.raises(LogMismatch, match="was reset: all of its tables"):
            await replay(driver, job_of(driver, tables=("counts",)))


async def test_a_past_without_its_beginning_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        driver.produce("words", key="a", value=b"word")
        driver.produce("words", key="b", value=b"word")
        await driver.run()
        bounds, end = driver.log.bounds, len(driver.read(COUNTS.topic))

        async def shorter(partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
            found = await bounds(partitions)
            return {tp: (1 if tp.topic == "words" else begin, last) for tp, (begin, last) in found.items()}

        monkeypatch.setattr(driver.log, "bounds", shorter)
        with pytest.raises(NotWhole, match=r"beginning of words-0 was deleted.*1 rows would be others.*counts, key a"):
            await replay(driver, job_of(driver))
        assert len(driver.read(COUNTS.topic)) == end
        await driver.replay()  # whoever resets accepts it
        await replay(driver, job_of(driver))
        await driver.start("words", 0, lose_store=True)
        assert driver.rows("counts") == {"b": 1}


async def test_a_plan_says_how_much_there_is(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        assert (await spans_of(driver, job_of(driver)))[0].records == 0
        for topic in ("words", "reminders", "words"):
            driver.produce(topic, key="a", value=b"word")
            await driver.run()
        [span] = await spans_of(driver, job_of(driver))
        assert (span.records, span.steps, dict(span.ends)) == (3, 4, {"words": 2, "reminders": 1})
        assert (span.truncated, span.boundary, span.done) == ([], None, ())
        await replay(driver, job_of(driver))
        [span] = await spans_of(driver, job_of(driver))
        assert [done.job for done in span.done] == [job_of(driver)]


@pytest.mark.parametrize(
    ("domains", "partitions", "tables", "said"),
    [
        (["nobody"], [], [], "there is no domain nobody; there are words"),
        ([], [7], [], "there is no partition 7"),
        ([], [], ["nothing"], "there is no table nothing; there are counts, words_deadlines"),
    ],
)
def test_a_scope_that_is_not_there_is_refused(
    tmp_path: Path, domains: list[str], partitions: list[int], tables: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        targets(make_app(tmp_path).groups, domains, partitions, tables)


@pytest.mark.parametrize("emit", [(), ("counted",)])
async def test_a_run_is_not_gone_on_with_when_records_came_in_since(tmp_path: Path, emit: tuple[str, ...]) -> None:
    """But for outputs that it has sent already: those must not be sent a third time."""
    async with Driver(make_app(tmp_path)) as driver:
        await live(driver, random.Random(11))
        kill_at("replay_committed")
        with pytest.raises(Killed):
            await replay(driver, job_of(driver, emit=emit))
        faults.watch(None)
        await restarted(driver)
        for number in range(20):
            driver.produce("words", key=f"new-{number}", value=b"word")
        await driver.run()
        spans = await spans_of(driver, job_of(driver, emit=emit))
        assert [len(span.done) for span in spans] == [1, 0]
        found = unfinished(spans, job_of(driver, emit=emit))
        assert (found is not None) is bool(emit)
        assert unfinished(spans, job_of(driver, emit=emit, since="2026-11-21T12:00:00Z")) is None


@pytest.mark.parametrize(
    ("cursor", "said"),
    [
        (Cursor({"words": 99}, 0, 0), "the snapshot has words-0 at 99 of words, of which 0 to 3 was taken"),
        (Cursor({"words": 1}, 99, 0), "at 99 of its journal, which ends at"),
    ],
)
async def test_a_snapshot_of_another_log_is_refused(tmp_path: Path, cursor: Cursor, said: str) -> None:
    async with Driver(make_app(tmp_path, partitions=1)) as driver:
        for _ in range(3):
            driver.produce("words", key="a", value=b"word")
        await driver.run()
        with pytest.raises(LogMismatch, match=said):
            await find_span(driver.log, driver.app.groups["words"], 0, cursor)


async def test_from_a_snapshot_on_only_what_followed_is_taken(tmp_path: Path) -> None:
    async with Driver(make_app(tmp_path, partitions=1), batch_max_records=1) as driver:
        for topic in ("words", "reminders", "words"):
            driver.produce(topic, key="a", value=b"word")
            await driver.run()
        groups = list(driver.app.groups.values())
        cursor = await cursor_of(driver.log, groups[0], 0, await reached(driver.log, groups))
        for topic in ("reminders", "words"):
            driver.produce(topic, key="b", value=b"word")
            await driver.run()
        span = await find_span(driver.log, groups[0], 0, cursor)
        assert span is not None and (span.records, span.steps, span.begins) == (2, 2, {"words": 2, "reminders": 1})
        acts = [act async for act in past_of(driver.log, groups[0], 0, span.until, span.since)]
        runs = [(act.partition.topic, act.end) for act in acts if isinstance(act, Run)]
        assert runs == [("reminders", 2), ("words", 3)]
