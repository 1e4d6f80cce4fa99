"""seeds -> random histories of accounts through the real task loop -> what is true of every one of them.

A history is the life of one account: two dozen of them run at once in one application, over the same clearing accounts,
with commands that repeat, come late, go to the wrong partition, and tasks that die and lose their stores in between.

python -m tests.agents.account_histories 100000        as many histories, from seed 0 on
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson

from cli.books import Books, Lines, write_line
from schemas.accounts import account_id_of
from streams import partition_for
from streams.driver import Driver
from streams.records import StoredRecord
from tests.agents import on_demand
from tests.agents.domain import make_app

COMMANDS, EVENTS = "accounts.commands.v1", "accounts.events.v1"
PARTITIONS = 2
KINDS = [*["deposit"] * 4, "withdraw", *["hold"] * 4, *["capture"] * 3, "release", *["refund"] * 2, "open"]
#: Histories of one application.
TOGETHER = 100
CURRENCIES = ["INR", "JPY", "KWD"]
IDS = {account_id_of(f"u{user}", currency): currency for user in range(TOGETHER) for currency in CURRENCIES}
AMOUNTS = [*range(1, 9), *range(1, 9), 20, 20, 0, -3, 10**13, 10**13 + 1]


class Account:
    """What must come of the commands of one account, worked out without the rules: plain numbers and sets."""

    def __init__(self, currency: str) -> None:
        self.currency, self.open, self.version = currency, False, 0
        self.balance = self.held = 0
        self.holds: dict[str, tuple[int, int | None]] = {}
        self.settled: set[str] = set()
        self.known_holds: dict[str, tuple[int, int | None]] = {}
        self.heard: set[str] = set()
        self.captured: dict[str, int] = {}
        self.refunds: dict[tuple[str, str], int] = {}

    def take(self, said: dict[str, Any]) -> str | None:
        """The type of the event that must answer, a refusal's reason, or None."""
        if said["command_id"] in self.heard:
            return None
        outcome = self._open() if said["type"] == "open_account" else self._judge(said)
        if outcome is not None:
            self.heard.add(said["command_id"])
        if outcome in CHANGES:
            self.version += 1
        return outcome

    def _open(self) -> str | None:
        if self.open:
            return None
        self.open = True
        return "account_opened"

    def _judge(self, said: dict[str, Any]) -> str | None:
        kind, amount = said["type"], said.get("amount_minor")
        amount = 1 if amount is None else amount
        if not self.open:
            return "no_such_account"
        if amount <= 0:
            return "not_positive_amount"
        if amount > 10**13:
            return "amount_above_limit"
        if said.get("currency") not in (None, self.currency):
            return "currency_mismatch"
        free = self.balance - self.held
        if kind == "deposit":
            if self.balance + amount > 2**53 - 1:
                return "balance_above_limit"
            self.balance += amount
            return "funds_deposited"
        if kind == "withdraw":
            if amount > free:
                return "insufficient_funds"
            self.balance -= amount
            return "funds_withdrawn"
        if kind == "refund_funds":
            return self._refund(said)
        return self._hold(said, free) if kind == "hold_funds" else self._settle(said)

    def _refund(self, said: dict[str, Any]) -> str | None:
        hold, amount = said["hold_id"], said["amount_minor"]
        if hold not in self.known_holds:
            return "no_such_hold"
        if hold not in self.captured:
            return "hold_not_captured"
        if (hold, said["refund_id"]) in self.refunds:
            same = self.refunds[hold, said["refund_id"]] == amount
            return None if same else "refund_exists_with_different_content"
        if amount > self.captured[hold]:
            return "amount_above_captured"
        self.refunds[hold, said["refund_id"]] = amount
        self.captured[hold] -= amount
        self.balance += amount
        return "funds_refunded"

    def _hold(self, said: dict[str, Any], free: int) -> str | None:
        hold, content = said["hold_id"], (said["amount_minor"], said.get("expires_at_ms"))
        if hold in self.known_holds:
            return None if self.known_holds[hold] == content else "hold_exists_with_different_content"
        if content[0] > free:
            return "insufficient_funds"
        self.known_holds[hold] = self.holds[hold] = content
        self.held += content[0]
        return "funds_held"

    def _settle(self, said: dict[str, Any]) -> str:
        hold = said["hold_id"]
        if hold in self.settled:
            return "hold_already_settled"
        if hold not in self.holds:
            return "no_such_hold"
        whole = self.holds[hold][0]
        amount = said.get("amount_minor") or whole
        if said["type"] == "capture_hold" and amount > whole:
            return "amount_above_hold"
        self.settled.add(hold)
        del self.holds[hold]
        self.held -= whole
        if said["type"] == "release_hold":
            return "hold_released"
        self.balance -= amount
        self.captured[hold] = amount
        return "hold_captured"


CHANGES = {
    "account_opened", "funds_deposited", "funds_withdrawn", "funds_held", "hold_captured", "hold_released",
    "funds_refunded",
}  # fmt: skip


def words(chance: Random, user: int, now_ms: int, numbers: Iterator[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The commands of one history, with the account that each is for."""
    currency = chance.choice(CURRENCIES)
    account = account_id_of(f"u{user}", currency)
    opening = {"type": "open_account", "user_id": f"u{user}", "currency": currency}
    if chance.random() < 0.9:
        yield account, {**opening, "command_id": f"c{next(numbers)}"}
    if chance.random() < 0.7:
        yield account, {"command_id": f"c{next(numbers)}", "account_id": account, "type": "deposit", "amount_minor": 20}
    for _ in range(chance.randint(2, 8)):
        id = {"command_id": f"c{next(numbers)}"}
        of = {"account_id": account}
        amount = chance.choice(AMOUNTS)
        hold = {"hold_id": chance.choice(["h1", "h2"])}
        expiry = {"expires_at_ms": now_ms + chance.choice([-5, 10, 500, 1_500])} if chance.random() < 0.6 else {}
        named = {"currency": chance.choice([*CURRENCIES, currency, currency])} if chance.random() < 0.2 else {}
        match chance.choice(KINDS):
            case "deposit":
                yield account, {**id, **of, **named, "type": "deposit", "amount_minor": amount}
            case "withdraw":
                yield account, {**id, **of, **named, "type": "withdraw", "amount_minor": amount}
            case "hold":
                yield account, {**id, **of, **named, **hold, **expiry, "type": "hold_funds", "amount_minor": amount}
            case "capture":
                part = {"amount_minor": amount} if chance.random() < 0.5 else {}
                yield account, {**id, **of, **named, **hold, **part, "type": "capture_hold"}
            case "release":
                yield account, {**id, **of, **hold, "type": "release_hold"}
            case "refund":
                which = {"refund_id": chance.choice(["r1", "r2"])}
                yield account, {**id, **of, **named, **hold, **which, "type": "refund_funds", "amount_minor": amount}
            case _:
                yield account, {**id, **opening}


async def play(seed: int, *, replay: bool = False) -> Counter[str]:
    """TOGETHER histories; raises AssertionError where one is not as it must be. Gives what happened how often."""
    chance = Random(seed)
    app, _ = make_app(Path("unused"), PARTITIONS)
    async with Driver(app, batch_max_records=chance.choice([1, 7, *[1_000] * 6])) as driver:
        numbers = iter(range(1_000_000))
        lives = [list(words(chance, user, driver.clock.now_ms(), numbers)) for user in range(TOGETHER)]
        sent: list[tuple[str, dict[str, Any]]] = []
        while any(lives):
            for _ in range(chance.randint(50, 400)):
                live = chance.choice([each for each in lives if each] or [[]])
                if not live:
                    break
                word = live.pop(0)
                sent.append(word)
                send(driver, chance, *word)
                if chance.random() < 0.15:
                    send(driver, chance, *chance.choice(sent))  # again: at once, or much later
            if chance.random() < 0.2:
                await driver.start("accounts", chance.randrange(PARTITIONS), lose_store=chance.random() < 0.5)
            await driver.run()
            check_balances(driver)
            await driver.advance(chance.choice([0, 1, 100, 700]))
        await driver.advance(10_000)
        seen = check_whole(driver)
        if replay:
            before = {name: driver.rows(name) for name in app.groups["accounts"].tables}
            await driver.replay()
            await driver.run()
            assert {name: driver.rows(name) for name in before} == before
            assert check_whole(driver) == seen, "a replay sends nothing again"
        return seen


def send(driver: Driver, chance: Random, account: str, said: dict[str, Any]) -> None:
    anywhere = chance.randrange(PARTITIONS) if chance.random() < 0.1 else None
    driver.produce(COMMANDS, key=account, value=orjson.dumps(said), partition=anywhere)


def check_balances(driver: Driver) -> None:
    """After every batch: each currency adds up to zero in each partition, and nobody is overdrawn."""
    sums: Counter[str] = Counter()
    for account in driver.rows("accounts").values():
        sums[account.currency] += account.balance_minor
        assert account.user_id is None or 0 <= account.held_minor <= account.balance_minor, account
    assert not any(sums.values()), sums


def check_whole(driver: Driver) -> Counter[str]:
    """At the end: the events are what the commands in their order must cause, and the tables what the events say."""
    accounts, wanted = expected(driver)
    found = [orjson.loads(record.value or b"") for record in driver.read(EVENTS)]
    told = Counter((event["caused_by"], outcome_of(event)) for event in found)
    assert told == wanted, (told - wanted, wanted - told)
    assert not driver.read("dead_letters.v1")
    rows, by_account = driver.rows("accounts"), defaultdict(list)
    for event in found:
        if event["type"] in CHANGES:
            by_account[event["account_id"]].append(event["version"])
    for account_id, account in accounts.items():
        assert by_account[account_id] == list(range(1, account.version + 1)), "versions step by one"
        if account.open:
            row = rows[account_id]
            standing = (account.balance, account.held, account.version)
            assert (row.balance_minor, row.held_minor, row.version) == standing
        assert all(expiry is None for _, expiry in account.holds.values()), "what expires is released"
    assert driver.rows("accounts_deadlines") == {}, "no deadline of a settled hold stays"
    check_sums(driver)
    check_books(driver)
    return Counter(outcome for _, outcome in told.elements())


def outcome_of(event: dict[str, Any]) -> str:
    return str(event["reason"] if event["type"] == "account_command_refused" else event["type"])


def expected(driver: Driver) -> tuple[dict[str, Account], Counter[tuple[str, str]]]:
    """The model over the commands as they stand in the log, at home."""
    accounts: dict[str, Account] = {}
    wanted: Counter[tuple[str, str]] = Counter()
    homes = driver.app.declared[COMMANDS].partitions
    for record in driver.read(COMMANDS):
        said = orjson.loads(record.value or b"")
        key = (record.key or b"").decode()
        if partition_for(key.encode(), homes) != record.partition:
            continue
        if key not in accounts:
            accounts[key] = Account(IDS[key])
        outcome = accounts[key].take(said)
        if outcome is not None:
            wanted[said["command_id"], outcome] += 1
    return accounts, wanted


def check_sums(driver: Driver) -> None:
    """The totals are the sums, by partition."""
    sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for account in driver.rows("accounts").values():
        if account.user_id is None:
            sums[account.currency, int(account.account_id[-1])][3] += account.balance_minor
        else:
            line = sums[account.currency, partition_for(account.account_id.encode(), PARTITIONS)]
            line[0] += 1
            line[1] += account.balance_minor
            line[2] += account.held_minor
    written = changes(driver, "ledger_totals")
    assert {((record.key or b"").decode(), record.partition): list(row.values()) for record, row in written} == sums


def changes(driver: Driver, table: str) -> Iterator[tuple[StoredRecord, dict[str, Any]]]:
    """The rows of a table's changelog as they were written."""
    for record in driver.read(driver.app.groups["accounts"].tables[table].changelog):
        if record.value is not None and not (record.key or b"").startswith(b"\0"):
            yield record, orjson.loads(record.value)


def check_books(driver: Driver) -> None:
    """The ledger's own check finds nothing."""
    finding, _ = audit(driver)
    assert finding is None, finding


def audit(driver: Driver) -> tuple[object, Books]:
    """What `faust -A app ledger verify` does, over the log in memory."""
    lines: dict[str, Lines[int]] = {}
    tables = {(record.key or b"").decode(): row for record, row in changes(driver, "accounts")}
    for _, row in changes(driver, "account_entries"):
        write_line(lines, row)
    events = driver.read(EVENTS)
    ends = Counter(record.partition for record in events)
    books = Books(tables, lines, ends)
    for event in events:
        if finding := books.take(event.partition, event.offset, event.topic, event.key, event.value):
            return finding, books
    return books.close(), books


if __name__ == "__main__":
    sys.exit(on_demand.main(play, TOGETHER, sys.argv[1:]))
