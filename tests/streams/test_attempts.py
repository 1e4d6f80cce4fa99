"""One record's failure stays its own: it is tried again, then set aside, and no other deed is repeated over it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from aiokafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError
from pytest import mark

from streams.attempts import MOST_FAILURES
from streams.effects import Runner
from streams.errors import NotReadable, OutcomeUnknown
from streams.records import Record
from tests.streams.test_effects import Log, runner, until_committed

Act = Callable[[Record], Awaitable[None]]


def failing(at: int, error: Exception, done: Counter[int], times: int | None = None) -> Act:
    """A deed that fails at one offset: always, or so many times."""

    async def act(record: Record) -> None:
        done[record.offset] += 1
        if record.offset == at and (times is None or done[at] <= times):
            raise error

    return act


@mark.parametrize(
    "error",
    [ValueError("x"), OverflowError("o"), TypeError("y"), LookupError("z"), RuntimeError("\x1b[2J"),
     UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), MessageSizeTooLargeError("too large")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_record_that_fails_by_itself_is_set_aside_and_no_other_deed_is_repeated(error: Exception) -> None:
    log, done = Log([str(n) for n in range(20)]), Counter[int]()
    running = runner(log, failing(7, error, done))
    await until_committed(running, log, 20)
    assert done == {**dict.fromkeys(range(20), 1), 7: MOST_FAILURES}
    ((position, text),) = running.attempts.aside
    assert str(position) == "events-0-7" and type(error).__name__ in text and text.isprintable()
    trouble = running.trouble()
    assert trouble is not None and "1 records set aside" in trouble and "events-0-7" in trouble
    assert running.metrics.set_aside.labels("t")._value.get() == 1


@mark.parametrize(
    "error",
    [OSError("away"), ConnectionResetError(), TimeoutError(), NotReadable("rebalancing"), OutcomeUnknown("unknown"),
     NotLeaderForPartitionError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_a_record_is_never_set_aside_while_others_fail(error: Exception) -> None:
    log, done = Log([str(n) for n in range(20)]), Counter[int]()
    running = runner(log, failing(7, error, done, times=4 * MOST_FAILURES))
    await until_committed(running, log, 20)
    assert done == {**dict.fromkeys(range(20), 1), 7: 4 * MOST_FAILURES + 1}
    assert running.trouble() is None and running.attempts.aside_count == 0


async def test_health_names_what_fails_now() -> None:
    log, done = Log(["a"]), Counter[int]()
    running = runner(log, failing(0, OSError("the log is away"), done, times=3))
    while done[0] < 2:
        await running.step()
    assert "events-0-0: OSError: the log is away" in (running.trouble() or "")
    await until_committed(running, log, 1)
    assert running.trouble() is None


async def test_finished_deeds_are_committed_before_a_session_that_failed_is_dropped() -> None:
    log, done = Log([str(n) for n in range(10)]), Counter[int]()
    fails = [True]

    async def act(record: Record) -> None:
        done[record.offset] += 1

    running = runner(log, act)
    poll = log.poll

    async def poll_once_and_fail(max_records: int, timeout_s: float) -> object:
        if done and fails:
            fails.clear()
            await asyncio.sleep(0.01)
            raise ConnectionError("the broker went away")
        return await poll(max_records, timeout_s)

    log.poll = poll_once_and_fail  # type: ignore[method-assign, assignment]
    await until_committed(running, log, 10)
    assert not fails and done == dict.fromkeys(range(10), 1)


async def test_pauses_grow_until_the_position_moves() -> None:
    """A session that opens, reads and fails is not begun ever faster because a round in between went well."""
    log = Log(["a"])
    log.refuses = True

    async def act(record: Record) -> None:
        await asyncio.sleep(0)

    running: Runner = runner(log, act)
    failures = 0
    for _ in range(400):
        await running.step()
        failures = max(failures, running.backoff.failures)
        if failures >= 5:
            break
    assert failures >= 5
    log.refuses = False
    await until_committed(running, log, 1)
    await running.step()
    assert running.backoff.failures == 0
