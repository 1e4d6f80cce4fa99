"""a stock that the real agents kept, and faults planted in it -> the count names the first offset that is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark, param

from cli.stock import Count, Finding
from streams.driver import Driver
from tests.agents.domain import make_app
from tests.agents.inventory_histories import COMMANDS, EVENTS, latest

ME = "mascara-1"
LINE = f"{ME}\0o:1"


class Stock:
    """Events and tables of one item, as JSON that a test may spoil."""

    def __init__(self, driver: Driver) -> None:
        self.events: list[Any] = [orjson.loads(record.value or b"") for record in driver.read(EVENTS)]
        self.items, self.reservations = latest(driver, "items"), latest(driver, "stock_reservations")
        self.read_before = len(self.events)

    def check(self) -> tuple[Finding | None, Count]:
        count = Count(self.items, self.reservations, {0: self.read_before})
        for offset, said in enumerate(self.events):
            raw = said if isinstance(said, bytes) else orjson.dumps(said)
            finding = count.take(0, offset, EVENTS, ME.encode(), raw)
            if finding is not None:
                return finding, count
        return count.close(), count


@pytest.fixture
async def stock() -> AsyncIterator[Stock]:
    """0 created, 1 received 10, 2 refused, 3 reserved 4, 4 shipped 3, 5 released 1, 6 took 5, 7 reserved 2, 8 out."""
    app, _ = make_app(Path("unused"), partitions=1)
    async with Driver(app) as driver:
        line = {"order_uid": "o", "line": 1}
        commands: list[dict[str, Any]] = [
            {"type": "create_item", "outlet_id": "x", "name": "n", "price_minor": 5, "currency": "INR"},
            {"type": "adjust_stock", "delta": 10, "reason": "receive"},
            {"type": "adjust_stock", "delta": -11, "reason": "count"},
            {"type": "reserve_stock", **line, "quantity": 4},
            {"type": "commit_stock", **line, "quantity": 3},
            {"type": "release_stock", **line},
            {"type": "adjust_stock", "delta": -5, "reason": "damage"},
            {"type": "reserve_stock", **line, "line": 2, "quantity": 2},
        ]
        for number, said in enumerate(commands):
            driver.produce(COMMANDS, key=ME, value=orjson.dumps({"item_id": ME, "command_id": f"c{number}", **said}))
        await driver.run()
        yield Stock(driver)


def test_a_right_stock_and_its_sums(stock: Stock) -> None:
    finding, count = stock.check()
    assert finding is None and count.events == 9
    assert count.sums() == {"items": 1, "on_hand": 2, "reserved": 2, "committed": 3, "open_reservations": 1}


def spoil(path: str, value: Any) -> Callable[[Stock], None]:
    """Sets events.1.delta, items.<id>.on_hand and the like."""

    def plant(stock: Stock) -> None:
        first, *steps, last = path.split(".")
        target: Any = getattr(stock, first)
        for step in steps:
            target = target[int(step) if isinstance(target, list) else step]
        if value is GONE:
            del target[int(last) if isinstance(target, list) else last]
        else:
            target[int(last) if isinstance(target, list) else last] = value

    return plant


GONE = object()


def leave_behind(stock: Stock) -> None:
    """The row as it was a version ago, figures and all."""
    stock.items[ME] |= {"version": 6, "on_hand": 2, "reserved": 0}


def sell_twice(stock: Stock) -> None:
    """A reservation of more than there is, figures and all."""
    stock.events[7] |= {"quantity": 3, "reserved": 3}


def twice(number: int, **figures: int) -> Callable[[Stock], None]:
    """An event once more at the end, with the next version and its figures right; the tables do not know it."""

    def plant(stock: Stock) -> None:
        stock.events.append(stock.events[number] | {"version": 8, "on_hand": 2, "reserved": 2, **figures})

    return plant


@mark.parametrize(
    ("plant", "offset", "what"),
    [
        param(
            spoil(f"items.{ME}.on_hand", 3), 7, "the table items says on_hand 3, the events add up to 2", id="on hand"
        ),
        param(spoil(f"items.{ME}.reserved", 1), 7, "the table items says reserved 1", id="reserved"),
        param(leave_behind, 7, "is at version 7, the table items has 6", id="a row left behind"),
        param(spoil(f"items.{ME}.version", 8), None, "has version 8, the events end at version 7", id="a row ahead"),
        param(spoil(f"items.{ME}", GONE), 0, "is at version 1, the table items has 0", id="a lost item"),
        param(spoil(f"reservations.{LINE}.committed", 2), None, "no event made it so", id="a reservation's figures"),
        param(spoil(f"reservations.{LINE}.quantity", 5), None, "no event made it so", id="a reservation's size"),
        param(spoil(f"reservations.{LINE}", GONE), None, "does not have it", id="a lost reservation"),
        param(
            spoil(f"reservations.{ME}\0o:9", {"quantity": 1, "committed": 0, "released": 0}),
            None,
            "says of o:9",
            id="a reservation of nobody",
        ),
        param(spoil("events.1", GONE), 1, "inventory_command_refused at version 2", id="a lost event"),
        param(spoil("events.0", GONE), 0, "stock_adjusted before the item was created", id="a lost creation"),
        param(spoil("events.1.delta", 11), 1, "the event says on_hand 10, the events add up to 11", id="a delta"),
        param(spoil("events.1.delta", "10"), 1, "delta is '10', not a whole number", id="a delta that is none"),
        param(spoil("events.2.version", 1), 2, "at version 1, the item is at version 2", id="a refusal's version"),
        param(spoil("events.3.quantity", 0), 3, "quantity is 0", id="nothing reserved"),
        param(spoil("events.3.version", 4), 3, "has version 4 where 3 follows", id="a version left out"),
        param(spoil("events.3.line", GONE), 3, "is not what an event looks like: KeyError('line')", id="a member gone"),
        param(spoil("events.4.line", 3), 4, "o:3 is settled and was never reserved", id="shipped, never reserved"),
        param(spoil("events.4.remaining", 2), 4, "the event says 2 remain", id="what remains"),
        param(spoil("events.5.quantity", 2), 5, "3 committed and 2 released", id="released more than there was"),
        param(spoil("events.7.line", 1), 7, "o:1 is reserved a second time", id="reserved twice"),
        param(sell_twice, 7, "is sold twice: 2 on hand, 3 reserved", id="sold twice"),
        param(spoil("events.8.reserved", 1), 8, "the event says reserved 1", id="a warning's figures"),
        param(spoil("events.8.version", 6), 8, "stock_out at version 6", id="a warning's version"),
        param(twice(0), 9, "is created a second time", id="created twice"),
        param(twice(6, on_hand=-3), 9, "is sold twice", id="taken from nothing"),
        param(spoil("events.3", b"{"), 3, "is no event", id="no JSON"),
        param(spoil("events.3", []), 3, "is no event of an item", id="no object"),
        param(spoil("events.3.type", "order_placed"), 3, "is no event of an item", id="another's event"),
        param(spoil("events.3.version", GONE), 3, "has no version", id="no version"),
        param(spoil("events.3.item_id", "other"), 3, "the record's key is not the item", id="another's key"),
    ],
)
def test_the_first_offset_that_is_wrong(
    stock: Stock, plant: Callable[[Stock], None], offset: int | None, what: str
) -> None:
    plant(stock)
    finding, _ = stock.check()
    assert finding is not None
    assert finding.position == (None if offset is None else f"{EVENTS}-0-{offset}")
    assert what in finding.what and str(finding).endswith(finding.what)


def test_what_is_written_while_it_is_read_is_no_fault(stock: Stock) -> None:
    """The tables were read before the last events were there, or in the middle of them."""
    whole = dict(stock.reservations)
    stock.read_before = 4
    stock.items[ME] |= {"version": 3, "on_hand": 10, "reserved": 4}
    stock.reservations = {LINE: whole[LINE] | {"committed": 0, "released": 0}}
    assert stock.check()[0] is None
    stock.reservations = {LINE: whole[LINE] | {"committed": 3, "released": 0}}
    assert stock.check()[0] is None
