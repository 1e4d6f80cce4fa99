"""A worker's own tables against their changelogs: what is changed on a side is named, what moves meanwhile is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams import audit
from streams.audit import Audit, Finding
from streams.driver import Driver
from streams.records import StoredRecord, TopicPartition
from streams.task import TaskState
from tests.agents.domain import home, make_app
from tests.agents.shop import Shop

TABLE = "purchases"


class Watched:
    """A shop whose task of group orders is audited."""

    def __init__(self, driver: Driver, shop: Shop, uids: list[str]) -> None:
        self.driver, self.shop, self.uid = driver, shop, uids[0]
        self.task = driver.tasks[f"orders-{home(self.uid)}"]
        self.changelog: list[StoredRecord] = driver.log.topics[
            TopicPartition(f"orderstream-{TABLE}-changelog", self.task.partition)
        ]
        self.pressed = False
        self.audit = Audit({self.task.name: self.task}, driver.metrics, driver.clock, lambda: self.pressed, share=1.0)

    async def whole(self) -> list[Finding]:
        """One pass over all of its tables."""
        found = [await self.audit.step(self.driver.log)]
        while self.audit._to_do:
            found.append(await self.audit.step(self.driver.log))
        return [each for each in found if each is not None]

    def count(self, name: str) -> float:
        return self.driver.metrics.registry.get_sample_value(f"streams_audit_{name}") or 0.0


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("book", 50, 100)
        await shop.fund(100_000)
        yield Watched(driver, shop, [await shop.buy(("book", 1)) for _ in range(8)])


async def test_equal_tables_and_what_is_counted(watched: Watched) -> None:
    began = watched.count("whole_pass_timestamp_seconds")
    watched.driver.clock.advance(60_000)
    assert await watched.whole() == []
    assert watched.count("slices_total") == len(watched.task.group.tables) and not watched.count("differences_total")
    assert watched.count("whole_pass_timestamp_seconds") == began + 60


async def test_a_row_that_the_changelog_does_not_have(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.task.store.apply({TABLE: {b"nobody": b"{}"}}, {}, 0)
    assert await watched.whole() == [Finding(b"nobody", True, None)]
    assert watched.count("differences_total") == 1
    assert f"table {TABLE}, partition {watched.task.partition}, key b'nobody': this worker has a row" in caplog.text


async def test_a_changed_row_a_lost_row_and_a_changed_record(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    key = watched.uid.encode()
    at = max(n for n, record in enumerate(watched.changelog) if record.key == key)
    row = watched.changelog[at].value
    for store, record in ((b"{}", row), (None, row), (row, b"{}"), (row, None)):
        watched.task.store.apply({TABLE: {key: store}}, {}, 0)
        watched.changelog[at] = watched.changelog[at]._replace(value=record)
        assert await watched.whole() == [Finding(key, store is not None, None if record is None else at)]
    assert f"orderstream-{TABLE}-changelog-{watched.task.partition}-{at}" in caplog.text


async def test_large_tables_are_looked_at_in_shares(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_KEYS", 10)
    monkeypatch.setattr(audit, "PIECE", 2)
    assert await watched.whole() == []
    assert watched.count("slices_total") > len(watched.task.group.tables)
    watched.task.store.apply({TABLE: {watched.uid.encode(): b"{}"}}, {}, 0)
    assert [finding.key for finding in await watched.whole()] == [watched.uid.encode()], "in one of the shares"


async def test_what_changes_meanwhile_is_not_judged(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is read, then the changelog; in between an order is packed, and another one is bought."""
    compared = watched.audit._compared

    async def later(*args: object) -> Finding | None:
        if args[2].table == TABLE:  # type: ignore[attr-defined]  # a slice
            await watched.shop.lead(watched.uid, "pack_order")
            await watched.shop.buy(("book", 1))
        return await compared(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(watched.audit, "_compared", later)
    before = len(watched.changelog)
    assert await watched.whole() == []
    assert len(watched.changelog) > before


async def test_a_task_that_leaves_is_left_alone(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.task.store.apply({TABLE: {b"nobody": b"{}"}}, {}, 0)
    compared = watched.audit._compared

    async def leaves(*args: object) -> Finding | None:
        watched.task.state = TaskState.CLOSED
        return await compared(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(watched.audit, "_compared", leaves)
    assert await watched.whole() == [] and not watched.count("slices_total")


async def test_what_goes_wrong_with_one_slice_does_not_end_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(BaseException):
        """Ends the loop."""

    times = 0

    async def step(log: object) -> None:
        nonlocal times
        times += 1
        raise OSError("the broker is away") if times < 3 else Enough

    monkeypatch.setattr(watched.audit, "step", step)
    with pytest.raises(Enough):
        await watched.audit.keep_on(lambda: watched.driver.log, 0.001)
    assert caplog.text.count("could not be audited: OSError: the broker is away") == 2
