"""numbers that the real agents gave, and faults planted in them -> the count names the first offset that is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark, param

from cli.numbers import numbers
from cli.series import Count, Finding, Recorded
from streams.driver import Driver
from tests.agents.outlet_histories import COMMANDS, EVENTS, TOLD, make_app
from tests.cli.running import desk

ME = "o1"


class Street:
    """Events and tables of one outlet, as JSON that a test may spoil."""

    def __init__(self, driver: Driver) -> None:
        self.events: list[Any] = [orjson.loads(record.value or b"") for record in driver.read(EVENTS)]
        self.last = driver.rows("number_series")
        self.numbers = {key: raw.decode() for key, raw in driver.rows("order_numbers").items()}
        told = [orjson.loads(record.value or b"") for record in driver.read(TOLD)]
        self.recorded = {
            said["order_uid"]: Recorded(said["order_number"], f"purchases.events.v1-0-{number}")
            for number, said in enumerate(told)
        }
        self.read_before = len(self.events)

    def check(self) -> tuple[Finding | None, Count]:
        count = Count(self.last, self.numbers, self.recorded, {0: self.read_before})
        for offset, said in enumerate(self.events):
            raw = said if isinstance(said, bytes) else orjson.dumps(said)
            finding = count.take(0, offset, EVENTS, ME.encode(), raw)
            if finding is not None:
                return finding, count
        return count.close(), count


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    """0 a, 1 b, 2 the prefix is INV from here on, 3 c, 4 d, 5 e."""
    async with Driver(make_app()) as driver:
        orders = {"type": "issue_number"}
        for number, said in enumerate(
            [
                *({**orders, "order_uid": order} for order in "ab"),
                {"type": "configure_outlet", "number_prefix": "INV"},
                *({**orders, "order_uid": order} for order in "cdea"),
            ]
        ):
            value = orjson.dumps({"command_id": f"c{number}", "outlet_id": ME, **said})
            driver.produce(COMMANDS, key=ME, value=value)
        await driver.run()
        yield Street(driver)


async def test_what_the_agents_gave_is_right(street: Street) -> None:
    finding, count = street.check()
    assert finding is None
    assert count.sums() == {"outlets": 1, "series": 2, "numbers": 5, "not_yet_recorded": 0}
    del street.recorded["e"]
    finding, count = street.check()
    assert finding is None and count.sums()["not_yet_recorded"] == 1


async def test_what_came_after_the_tables_were_read_is_not_missing(street: Street) -> None:
    del street.numbers["o1\0e"]
    street.last["o1\0INV\x002023"] = 2
    street.read_before = 5
    assert street.check()[0] is None
    street.read_before = 6
    assert str(street.check()[0]).startswith("outlets.events.v1-0-5: outlet o1:")


def number(offset: int, **members: Any) -> Callable[[Street], None]:
    return lambda street: street.events[offset].update(members)


def gone(offset: int) -> Callable[[Street], None]:
    return lambda street: street.events.pop(offset)


def row(key: str, value: Any) -> Callable[[Street], None]:
    def plant(street: Street) -> None:
        street.numbers[key] = value

    return plant


@mark.parametrize(
    ("plant", "offset", "what"),
    [
        param(gone(3), 3, "leaves a gap", id="a number is missing"),
        param(lambda street: street.events.insert(4, street.events[3]), 4, "a second time", id="twice"),
        param(number(5, order_uid="c"), 5, "order c has a second number", id="one order, two numbers"),
        param(number(4, order_number="INV/2023/000007"), 4, "is not how 2 of", id="another text"),
        param(number(3, prefix="o1"), 3, "the outlet's begin with INV", id="a prefix of before"),
        param(number(1, occurred_at="2024-01-01T00:00:00.000Z"), 1, "is of 2023", id="another year"),
        param(number(1, sequence=True), 1, "not a whole number", id="no number"),
        param(number(2, version=2), 2, "where 1 follows", id="a version"),
        param(number(0, outlet_id="o2"), 0, "the record's key", id="a key"),
        param(lambda street: street.events.__setitem__(1, b"{"), 1, "is no event", id="no JSON"),
        param(number(1, type="number_lost"), 1, "is no event of an outlet", id="no event"),
        param(lambda street: street.events[1].pop("year"), 1, "is not what an event looks like", id="a member"),
        param(row("o1\0b", "o1/2023/000009"), 1, "the table order_numbers says", id="the table says another"),
        param(row("o1\0x", "o1/2023/000003"), None, "no event did", id="the table has one more"),
        param(lambda street: street.last.update({"o1\0INV\x002023": 9}), None, "events end at 3", id="a series' end"),
        param(lambda street: street.last.update({"o1\0INV\x002023": 2}), 5, "number_series has", id="a series behind"),
    ],
)
async def test_the_first_wrong_offset_is_named(
    street: Street, plant: Callable[[Street], None], offset: int | None, what: str
) -> None:
    plant(street)
    finding, _ = street.check()
    assert finding is not None and what in finding.what, finding
    assert finding.position == (None if offset is None else f"{EVENTS}-0-{offset}")


async def test_an_order_that_says_another_number_is_named_by_its_own_event(street: Street) -> None:
    street.recorded["b"] = Recorded("INV/2023/000001", "purchases.events.v1-0-1")
    street.recorded["z"] = Recorded("INV/2023/000004", "purchases.events.v1-0-9")
    assert str(street.check()[0]).startswith("purchases.events.v1-0-1: outlet o1: order b has INV/2023/000001")
    del street.recorded["b"]
    assert str(street.check()[0]) == (
        "purchases.events.v1-0-9: outlet -: order z has INV/2023/000004, it was given none"
    )


def test_without_a_broker_it_is_3(tmp_path: Path) -> None:
    result = desk("127.0.0.1:1", tmp_path).run(numbers, "verify")
    assert (result.exit_code, result.stdout) == (3, ""), result.output
