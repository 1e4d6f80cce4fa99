"""a ledger that the real agents wrote, and faults planted in it -> the books name the first offset that is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest import mark, param

from cli.books import Books, Finding, Lines, write_line
from schemas.accounts import account_id_of
from streams import partition_for
from streams.driver import Driver
from tests.agents.account_histories import COMMANDS, EVENTS, changes
from tests.agents.domain import make_app

ME = account_id_of("user", "INR")
OUTSIDE = "clearing:external:INR:0"


class Ledger:
    """Events and tables of one partition, as JSON that a test may spoil."""

    def __init__(self, driver: Driver) -> None:
        self.events = [orjson.loads(record.value or b"") for record in driver.read(EVENTS)]
        self.accounts = {(record.key or b"").decode(): row for record, row in changes(driver, "accounts")}
        self.entries = [row for _, row in changes(driver, "account_entries")]
        self.read_before = len(self.events)

    def check(self) -> tuple[Finding | None, Books]:
        lines: dict[str, Lines[int]] = {}
        for row in self.entries:
            write_line(lines, row)
        books = Books(self.accounts, lines, {0: self.read_before})
        for offset, said in enumerate(self.events):
            raw = said if isinstance(said, bytes) else orjson.dumps(said)
            finding = books.take(0, offset, EVENTS, ME.encode(), raw)
            if finding is not None:
                return finding, books
        return books.close(), books


@pytest.fixture
async def ledger() -> AsyncIterator[Ledger]:
    """0 opened, 1 deposited 100, 2 refused, 3 held 60, 4 captured 40 of them, 5 withdrew 10, 6 held 5, 7 released."""
    app, _ = make_app(Path("unused"), partitions=1)
    assert partition_for(ME.encode(), 1) == 0
    async with Driver(app) as driver:
        commands: list[dict[str, Any]] = [
            {"type": "open_account", "user_id": "user", "currency": "INR"},
            {"type": "deposit", "amount_minor": 100},
            {"type": "withdraw", "amount_minor": 101},
            {"type": "hold_funds", "hold_id": "h", "amount_minor": 60},
            {"type": "capture_hold", "hold_id": "h", "amount_minor": 40},
            {"type": "withdraw", "amount_minor": 10},
            {"type": "hold_funds", "hold_id": "i", "amount_minor": 5},
            {"type": "release_hold", "hold_id": "i"},
        ]
        for number, said in enumerate(commands):
            raw = orjson.dumps({"account_id": ME, "command_id": f"c{number}", **said})
            driver.produce(COMMANDS, key=ME, value=raw)
            await driver.run()  # so that each version of a row is in the changelog
        yield Ledger(driver)


def test_a_right_ledger_and_its_sums(ledger: Ledger) -> None:
    finding, books = ledger.check()
    assert finding is None
    assert (books.events, books.movements) == (8, 3)
    assert books.sums() == [
        {
            "currency": "INR",
            "accounts": 1,
            "accounts_minor": 50,
            "held_minor": 0,
            "clearing_minor": -50,
            "difference_minor": 0,
        }
    ]


def spoil(path: str, value: Any) -> Callable[[Ledger], None]:
    """Sets events.1.movement.debit, accounts.<id>.balance_minor and the like."""

    def plant(ledger: Ledger) -> None:
        first, *steps, last = path.split(".")
        target: Any = getattr(ledger, first)
        for step in steps:
            target = target[int(step) if isinstance(target, list) else step]
        if value is GONE:
            del target[int(last) if isinstance(target, list) else last]
        else:
            target[int(last) if isinstance(target, list) else last] = value

    return plant


GONE = object()


def overdraw(ledger: Ledger) -> None:
    """A withdrawal of more than there is, figures and all."""
    ledger.events[5]["movement"]["amount_minor"] = 70
    ledger.events[5]["balance_minor"] = -10


def mint(ledger: Ledger) -> None:
    """A deposit that nobody made, put at the end with all its figures right; the tables do not know it."""
    again = orjson.loads(orjson.dumps(ledger.events[1]))
    ledger.events.append(again | {"version": 8, "balance_minor": 150})
    ledger.read_before += 1


@mark.parametrize(
    ("plant", "offset", "what"),
    [
        param(spoil(f"accounts.{ME}.balance_minor", 51), 7, "the table accounts says balance_minor 51", id="a balance"),
        param(spoil(f"accounts.{ME}.held_minor", 1), 7, "the table accounts says held_minor 1", id="what is held"),
        param(spoil(f"accounts.{OUTSIDE}.balance_minor", -91), 5, f"-91 for {OUTSIDE}", id="a clearing balance"),
        param(spoil(f"accounts.{ME}", GONE), 0, "the table accounts has 0", id="a lost account"),
        param(spoil(f"accounts.{ME}.version", 9), None, "has version 9, the events end at version 7", id="lost events"),
        param(spoil("entries.0.balance_minor", 99), 1, f"line 1 of {ME} in account_entries", id="a running balance"),
        param(spoil("entries.3.amount_minor", -99), 4, "line 1 of clearing:sales:INR:0", id="a leg"),
        param(spoil("entries.5", GONE), 5, f"{OUTSIDE} has 2 movements, account_entries has 1", id="a lost leg"),
        param(spoil("events.1.movement.debit", GONE), 1, "has one leg", id="one leg"),
        param(spoil("events.5.movement.credit", ""), 5, "has one leg", id="the other leg"),
        param(spoil("events.1.movement", GONE), 1, "money moved without a movement", id="no movement"),
        param(spoil("events.1.movement.debit", "clearing:external:INR:1"), 1, "not credit", id="another partition's"),
        param(spoil("events.5.movement.debit", OUTSIDE), 5, "not debit", id="the wrong way"),
        param(spoil("events.1.movement.currency", "EUR"), 1, "EUR moved", id="another currency"),
        param(spoil("events.1.movement.amount_minor", 99), 1, "add up to 99", id="an amount"),
        param(spoil("events.1.movement.amount_minor", 0), 1, "not a whole number above zero", id="no amount"),
        param(spoil("events.1.movement.amount_minor", 1.0), 1, "not a whole number", id="no whole amount"),
        param(spoil("events.5.balance_minor", 51), 5, "says balance_minor 51", id="an event's balance"),
        param(spoil("events.3.held_minor", 59), 3, "says held_minor 59", id="an event's held"),
        param(spoil("events.4.released_minor", 19), 4, "captured with 40 and released with 19", id="a lost rest"),
        param(spoil("events.7.hold_id", "h"), 7, "is settled and is not held", id="settled twice"),
        param(spoil("events.6.hold_id", "h"), 6, "a second time", id="held twice"),
        param(spoil("events.2.version", 3), 2, "a refusal at version 3", id="a refusal's version"),
        param(spoil("events.1", GONE), 1, "a refusal at version 2", id="a lost event"),
        param(spoil("events.0", GONE), 0, "before the account was opened", id="no opening"),
        param(spoil("events.5", b"{"), 5, "is no event", id="not JSON"),
        param(spoil("events.5.type", "funds_minted"), 5, "is no event", id="an unknown type"),
        param(spoil("events.3.hold_id", GONE), 3, "what an event looks like", id="a lost member"),
        param(spoil("events.5.account_id", "x"), 5, "key is not the account", id="another key"),
        param(overdraw, 5, "is overdrawn: balance -10", id="an overdraft"),
        param(mint, 8, "has version 8, the table accounts has 7", id="money from nowhere"),
    ],
)
def test_a_planted_fault_is_named(
    ledger: Ledger, plant: Callable[[Ledger], None], offset: int | None, what: str
) -> None:
    plant(ledger)
    finding, _ = ledger.check()
    assert finding is not None
    assert finding.position == (None if offset is None else f"{EVENTS}-0-{offset}"), finding
    assert what in str(finding)


def test_what_came_after_the_tables_were_read_is_no_fault(ledger: Ledger) -> None:
    """The check runs beside working agents: tables may be older than the journal's end; what they have is compared."""
    ledger.read_before, ledger.entries = 5, ledger.entries[:4]
    version_5 = {"version": 4, "balance_minor": 60, "held_minor": 0}
    ledger.accounts[ME] = ledger.accounts[ME] | version_5
    ledger.accounts[OUTSIDE] = ledger.accounts[OUTSIDE] | {"version": 1, "balance_minor": -100}
    assert ledger.check()[0] is None
    ledger.accounts[ME]["balance_minor"] = 61
    finding, _ = ledger.check()
    assert finding is not None and finding.position == f"{EVENTS}-0-4"


async def test_a_refund_is_a_movement_and_never_more_than_was_captured() -> None:
    app, _ = make_app(Path("unused"), partitions=1)
    async with Driver(app) as driver:
        hold = {"hold_id": "h"}
        commands: list[dict[str, Any]] = [
            {"type": "open_account", "user_id": "user", "currency": "INR"},
            {"type": "deposit", "amount_minor": 100},
            {"type": "hold_funds", **hold, "amount_minor": 60},
            {"type": "capture_hold", **hold},
            {"type": "refund_funds", **hold, "refund_id": "r1", "amount_minor": 40},
            {"type": "refund_funds", **hold, "refund_id": "r2", "amount_minor": 20},
        ]
        for number, said in enumerate(commands):
            raw = orjson.dumps({"account_id": ME, "command_id": f"c{number}", **said})
            driver.produce(COMMANDS, key=ME, value=raw)
            await driver.run()
        ledger = Ledger(driver)
        finding, books = ledger.check()
        assert finding is None and (books.events, books.movements) == (6, 4)
        assert [line["accounts_minor"] for line in books.sums()] == [100]
        ledger.events[5]["refund_id"] = "r1"
        assert "refund r1 of hold h is made a second time" in str(ledger.check()[0])
        ledger.events[5] |= {"refund_id": "r2", "movement": ledger.events[5]["movement"] | {"amount_minor": 21}}
        found = ledger.check()[0]
        assert found is not None and found.position == f"{EVENTS}-0-5"
        assert "gives back 21, of what hold h was captured with 20 are left" in str(found)
