"""A record that is tried says what then happens when it comes, in every domain; nothing happens by trying it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from cli.console import Operator
from cli.tryout import Tryout
from schemas.purchases import order_uid_of
from schemas.settings import Settings
from streams.driver import Driver
from streams.records import StoredRecord, TopicPartition
from tests.agents.domain import PARTITIONS, home, make_app
from tests.agents.shop import Shop
from tests.cli.running import Desk


async def tried(driver: Driver, folder: Path, record: StoredRecord) -> tuple[Tryout, list[dict[str, Any]]]:
    """By an operator who has nothing but the log."""
    app, _ = make_app(folder, PARTITIONS)
    operator: Operator = Desk(app, Settings.load({}, data_dir=folder)).operator
    async with AsyncExitStack() as stack:
        trial = Tryout(operator, driver.log, folder / "stores", stack)
        await trial.take(record)
        return trial, trial.changes()


def everything(driver: Driver) -> dict[TopicPartition, list[StoredRecord]]:
    return {tp: list(records) for tp, records in driver.log.topics.items() if records}


async def test_it_says_what_then_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.attest.SETTLE_S", 0.0)
    app, domains = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        shop = Shop(driver, domains)
        await shop.stock("pen", 10, 700)
        await shop.fund(5_000)
        uid = order_uid_of("mended")
        cart = {"order_uid": uid, "user_id": "buyer", "lines": [{"item_id": "pen", "quantity": 2}]}
        said = {"type": "place_cart", "command_id": "mended", "payment": {"method": "account"}, **cart}
        topic, now = "purchases.commands.v1", driver.clock.now_ms()
        record = StoredRecord(topic, home(uid), 7, now, uid.encode(), orjson.dumps(said))
        before, offsets = everything(driver), dict(driver.log.offsets)
        trial, changes = await tried(driver, tmp_path, record)
        assert (everything(driver), driver.log.offsets) == (before, offsets)
        sent = {name: len(driver.read(name)) for name in app.declared}

        driver.produce(topic, key=uid, value=record.value)
        await driver.run()
        happened = [
            (name, orjson.loads(each.value or b"")["type"])
            for name in app.declared
            if name.endswith(".events.v1")
            for each in driver.read(name)
            if each not in before.get(TopicPartition(name, each.partition), [])
        ]
        assert sorted((event["topic"], event["value"]["type"]) for event in trial.events) == sorted(happened)
        assert ("purchases.events.v1", "order_approved") in happened and len(trial.taken) > 6
        rows = {(row["table"], row["key"]): row for row in changes}
        assert rows["purchases", uid]["before"] is None
        assert rows["purchases", uid]["after"] == orjson.loads(shop.order(uid).to_json())
        assert (rows["items", "pen"]["before"]["reserved"], rows["items", "pen"]["after"]["reserved"]) == (0, 2)
        assert sent["purchases.events.v1"] == 0
        assert not trial.letters and not trial.left


async def test_one_that_cannot_be_applied_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.attest.SETTLE_S", 0.0)
    app, _ = make_app(tmp_path, PARTITIONS)
    async with Driver(app) as driver:
        record = StoredRecord("orders", 1, 7, driver.clock.now_ms(), b"x", b'{"order_uid": "x"}')
        trial, changes = await tried(driver, tmp_path, record)
    assert [(letter.topic, letter.reason) for letter in trial.letters] == [("orders", "invalid")]
    assert not trial.events and not changes
