"""The oracle of checkout judged: honest histories are clean, and what is planted in one is found (I9)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import param

from streams.driver import Driver
from tests.agents.checkout_histories import DAY_MS, PARTITIONS, Shop
from tests.agents.domain import make_app
from tests.oracle.bought import TOPICS
from tests.oracle.checkout import Checkout, judge_checkout, judge_provider, judge_rest
from tests.oracle.log import LETTERS, Log, Record
from tests.oracle.verdict import Kind, Verdict

ORDERS = 60


async def play(seed: int) -> Log:
    chance = random.Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app) as driver:
        shop = Shop(driver, chance)
        await shop.open()
        while len(shop.orders) < ORDERS:
            for _ in range(chance.randint(1, 9)):
                shop.buy()
            for _ in range(chance.randint(0, 40)):
                shop.act()
            await driver.run()
            shop.provider.answer()
            await driver.advance(chance.choice([0, 10, 1_000, 20_000]))
        for _ in range(12):
            shop.provider.answer(faithful=True)
            await driver.advance(90_000)
        await driver.advance(30 * DAY_MS)
        return read(driver)


def read(driver: Driver) -> Log:
    def of(topic: str) -> list[Record]:
        found = driver.read(topic)
        return [Record(topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found]

    return Log(PARTITIONS, {topic: of(topic) for topic in (*TOPICS, LETTERS)})


if __name__ == "__main__":
    import sys, collections
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        log = asyncio.run(play(seed))
        v = Verdict()
        found = judge_checkout(log, v)
        judge_rest(found, v)
        print(seed, v)
