"""`order --from-log`: an order folded from its events, to a moment; the same as the tables have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest import mark, param

from cli import past
from cli.past import Folds, Standing, as_it_was
from schemas.base import rfc3339
from streams import Position
from streams.driver import Driver
from streams.records import Record, TopicPartition
from tables.versions import AfterRecord, AtTime, AtVersion, Cut
from tests.agents.domain import PARTITIONS, home, make_app
from tests.agents.shop import Shop


class LogReader:
    """A topic of the driver's log, as cli.letters.Reader has one of Kafka's."""

    def __init__(self, driver: Driver, topic: str) -> None:
        self.driver, self.partitions = driver, [TopicPartition(topic, number) for number in range(PARTITIONS)]

    async def ends(self, isolation_level: str) -> dict[TopicPartition, int]:
        assert isolation_level == "read_committed"
        return {partition: len(self.driver.log.topics[partition]) for partition in self.partitions}

    async def read(self, ends: dict[TopicPartition, int], _: Any) -> AsyncIterator[Record]:
        for partition in self.partitions:
            for record in self.driver.log.topics[partition][: ends[partition]]:
                yield record


@pytest.fixture
async def bought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Shop, str]]:
    """A shop, and an order whose versions are a second apart where they can be, with a refusal among its events."""
    app, domains = make_app(tmp_path)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("book", 5, 100)
        await shop.fund(1_000)
        uid = await shop.buy(("book", 2))
        for kind, more in (("pack_order", {}), ("pack_order", {}), ("ship_order", {"shipment_id": "s"})):
            await driver.advance(1_000)
            await shop.lead(uid, kind, **more)

        async def reader_of(_: Any, topic: str) -> tuple[LogReader, None]:
            return LogReader(driver, topic), None

        monkeypatch.setattr(past, "reader_of", reader_of)
        monkeypatch.setattr(past, "progress", Bar)
        yield shop, uid


class Bar:
    def __init__(self, *_: Any) -> None: ...
    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None: ...
    def update(self, _: int) -> None: ...


async def folded(shop: Shop, uid: str, cut: Cut | None) -> Standing:
    return await as_it_was("", Folds(shop.domains.orders, shop.domains.purchases, shop.domains.payments), uid, cut)  # type: ignore[arg-type]


def told(uid: str, offset: int) -> AfterRecord:
    return AfterRecord(Position("purchases.events.v1", home(uid), offset))


async def test_every_moment_as_the_tables_have_it(bought: tuple[Shop, str]) -> None:
    shop, uid = bought
    now = shop.order(uid)
    assert (await folded(shop, uid, None)).order == now
    happened = shop.happened(uid)
    assert sum(":" in each for each in happened) == 1, "a refusal is among them"
    version = 0
    for offset, each in enumerate(happened):
        version += ":" not in each
        standing = await folded(shop, uid, told(uid, offset))
        assert standing.order.version == version
        with shop.reading("orders", uid):
            assert standing.order == shop.domains.purchases.purchase_at(uid, AtVersion(version))
        assert standing == await folded(shop, uid, AtVersion(version))
    for seconds in range(4):
        at = AtTime(rfc3339(shop.driver.clock.now_ms() - seconds * 1_000))
        with shop.reading("orders", uid):
            assert (await folded(shop, uid, at)).order == shop.domains.purchases.purchase_at(uid, at)


@mark.parametrize(
    "cut", [param(AtVersion(99), id="too many versions"), param(AtTime("2020-01-01T00:00:00.000Z"), id="too early")]
)
async def test_it_was_not_there(bought: tuple[Shop, str], cut: Cut) -> None:
    shop, uid = bought
    assert await folded(shop, uid, cut) == past.NOT_THERE
    assert await folded(shop, "never", None) == past.NOT_THERE


async def test_a_position_that_says_nothing_of_it(bought: tuple[Shop, str]) -> None:
    shop, uid = bought
    end = len(shop.driver.log.topics[TopicPartition("purchases.events.v1", home(uid))])
    with pytest.raises(LookupError, match=f"ends at {end}"):
        await folded(shop, uid, told(uid, end))
    elsewhere = AfterRecord(Position("purchases.events.v1", (home(uid) + 1) % PARTITIONS, 0))
    with pytest.raises(LookupError, match="lives on partition"):
        await folded(shop, uid, elsewhere)
