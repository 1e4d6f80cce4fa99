"""accounts.events.v1, record by record -> every balance added up anew -> the first record at which something is wrong.

Shares no code with agents/ nor with the models of schemas/: what a rule or a model gets wrong must not be so here.
Memory: a few hundred bytes for each account, an id for each hold, sixteen bytes for each movement.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

#: What an event does to the money: the side that the account is on, and whose clearing account stands against it.
MOVES = {
    "funds_deposited": ("credit", "external"),
    "funds_withdrawn": ("debit", "external"),
    "hold_captured": ("debit", "sales"),
    "funds_refunded": ("credit", "sales"),
}
OTHERS = {"account_opened", "funds_held", "hold_released", "account_command_refused"}


class Wrong(Exception):
    """Something in a record cannot be, or differs from a table."""


class Finding(NamedTuple):
    """The first thing that is wrong: in the event at `position`, or where no event is."""

    position: str | None
    account_id: str
    what: str

    def __str__(self) -> str:
        return f"{self.position or 'tables'}: account {self.account_id}: {self.what}"


@dataclass
class Standing:
    """An account as its movements make it."""

    currency: str
    clearing: bool
    balance: int = 0
    held: int = 0
    version: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    #: What of a captured hold has not been given back.
    captured: dict[str, int] = field(default_factory=dict)
    refunds: set[tuple[str, str]] = field(default_factory=set)
    lines: int = 0
    last_line: int = 0


#: The lines of a statement in their order, each as eight bytes of a hash.
Lines = array


def line_of(version: int, movement_id: str, amount: int, balance: int) -> int:
    """A line of a statement as a number that no other line is likely to have."""
    line = b"%d %b %d %d" % (version, movement_id.encode(), amount, balance)
    return int.from_bytes(blake2b(line, digest_size=8).digest())


def write_line(statements: dict[str, Lines[int]], entry: Mapping[str, Any]) -> None:
    """Take the next row of `account_entries`, in the order in which they were written."""
    said = entry["version"], entry["movement_id"], entry["amount_minor"], entry["balance_minor"]
    statements.setdefault(entry["account_id"], array("Q")).append(line_of(*said))


class Books:
    """The ledger, added up from its journal alone and held against what the tables say.

    `accounts`, `lines`: the tables as they were read, before the journal. `read_before`: where the journal ended before
    that, by partition: what stands below must be in the tables. What stands above may be, and is compared if it is.
    """

    def __init__(
        self,
        accounts: Mapping[str, Mapping[str, Any]],
        lines: Mapping[str, Lines[int]],
        read_before: Mapping[int, int],
    ) -> None:
        self.accounts: dict[str, Standing] = {}
        self.events = self.movements = 0
        self._tables, self._lines, self._read_before = accounts, lines, read_before

    def take(self, partition: int, offset: int, topic: str, key: bytes | None, raw: bytes | None) -> Finding | None:
        """Take the next event of a partition; gives what is wrong with it."""
        self.events += 1
        account_id = key.decode(errors="replace") if key else "-"
        try:
            said = self._parse(raw)
            if said["account_id"] != account_id:
                raise Wrong(f"the record's key is not the account that it speaks of, {said['account_id']}")
            touched = self._apply(said, partition)
            self._hold_against_tables(touched, below=offset < self._read_before.get(partition, 0))
        except (KeyError, TypeError, AttributeError) as missing:
            return Finding(f"{topic}-{partition}-{offset}", account_id, f"is not what an event looks like: {missing!r}")
        except Wrong as wrong:
            return Finding(f"{topic}-{partition}-{offset}", account_id, str(wrong))
        return None

    def close(self) -> Finding | None:
        """After the last event: what the tables hold that no event made."""
        for account_id, row in self._tables.items():
            standing = self.accounts.get(account_id)
            version = standing.version if standing else 0
            if row["version"] > version:
                what = f"the table accounts has version {row['version']}, the events end at version {version}"
                return Finding(None, account_id, what)
        for account_id, lines in self._lines.items():
            standing = self.accounts.get(account_id)
            if len(lines) > (standing.lines if standing else 0):
                return Finding(None, account_id, "account_entries has lines that no movement made")
        return None

    def sums(self) -> list[dict[str, Any]]:
        """The trial balance of what was added up, by currency."""
        found: dict[str, dict[str, Any]] = {}
        for standing in self.accounts.values():
            blank = {"currency": standing.currency, "accounts": 0, "accounts_minor": 0, "held_minor": 0}
            line = found.setdefault(standing.currency, {**blank, "clearing_minor": 0})
            if standing.clearing:
                line["clearing_minor"] += standing.balance
            else:
                line["accounts"] += 1
                line["accounts_minor"] += standing.balance
                line["held_minor"] += standing.held
        for line in found.values():
            line["difference_minor"] = line["accounts_minor"] + line["clearing_minor"]
        return [found[currency] for currency in sorted(found)]

    # -- one event ----------------------------------------------------------------------------------------------------

    def _parse(self, raw: bytes | None) -> dict[str, Any]:
        try:
            said = orjson.loads(raw or b"")
        except orjson.JSONDecodeError as error:
            raise Wrong(f"is no event: {error}") from None
        if not isinstance(said, dict) or said.get("type") not in MOVES.keys() | OTHERS:
            raise Wrong("is no event of an account")
        missing = {"account_id", "version"} - said.keys()
        if missing:
            raise Wrong(f"has no {' and no '.join(sorted(missing))}")
        return said

    def _apply(self, said: dict[str, Any], partition: int) -> list[str]:
        """Gives the accounts that the event changed."""
        account_id, kind = said["account_id"], said["type"]
        standing = self.accounts.get(account_id)
        if kind == "account_command_refused":
            if said["version"] != (standing.version if standing else 0):
                raise Wrong(f"a refusal at version {said['version']}, the account is at {_version(standing)}")
            return []
        if kind == "account_opened":
            if standing is not None:
                raise Wrong("is opened a second time")
            standing = self.accounts[account_id] = Standing(said["currency"], clearing=False)
        if standing is None:
            raise Wrong(f"{kind} before the account was opened")
        standing.version += 1
        if said["version"] != standing.version:
            raise Wrong(f"has version {said['version']} where {standing.version} follows")
        touched = [account_id]
        self._hold_or_free(standing, said)
        if kind in MOVES:
            touched.append(self._move(account_id, standing, said, partition))
        if standing.balance < 0 or standing.held < 0 or standing.held > standing.balance:
            raise Wrong(f"is overdrawn: balance {standing.balance}, held {standing.held}")
        for name, added_up in (("balance_minor", standing.balance), ("held_minor", standing.held)):
            if said.get(name) != added_up:
                raise Wrong(f"the event says {name} {said.get(name)}, the movements add up to {added_up}")
        return touched

    def _hold_or_free(self, standing: Standing, said: dict[str, Any]) -> None:
        if said["type"] == "funds_held":
            hold, amount = said["hold_id"], _amount(said, "amount_minor")
            if hold in standing.holds or hold in standing.settled:
                raise Wrong(f"hold {hold} is made a second time")
            standing.holds[hold] = amount
            standing.held += amount
        elif said["type"] in ("hold_captured", "hold_released"):
            hold = said["hold_id"]
            if hold not in standing.holds:
                raise Wrong(f"hold {hold} is settled and is not held")
            amount = standing.holds.pop(hold)
            standing.settled.add(hold)
            standing.held -= amount
            captured = said["movement"]["amount_minor"] if isinstance(said.get("movement"), dict) else 0
            released = said.get("released_minor") if said["type"] == "hold_captured" else said.get("amount_minor")
            if released != amount - captured:
                raise Wrong(f"hold {hold} of {amount} is captured with {captured} and released with {released}")
            if captured:
                standing.captured[hold] = captured
        elif said["type"] == "funds_refunded":
            self._give_back(standing, said)

    def _give_back(self, standing: Standing, said: dict[str, Any]) -> None:
        hold, refund, amount = said["hold_id"], said["refund_id"], said["movement"]["amount_minor"]
        left = standing.captured.get(hold, 0)
        if (hold, refund) in standing.refunds:
            raise Wrong(f"refund {refund} of hold {hold} is made a second time")
        if amount > left:
            raise Wrong(f"refund {refund} gives back {amount}, of what hold {hold} was captured with {left} are left")
        standing.refunds.add((hold, refund))
        standing.captured[hold] = left - amount

    def _move(self, account_id: str, standing: Standing, said: dict[str, Any], partition: int) -> str:
        """Both legs of a movement; gives the clearing account."""
        movement = said.get("movement")
        if not isinstance(movement, dict):
            raise Wrong("money moved without a movement")
        side, against = MOVES[said["type"]]
        other = "debit" if side == "credit" else "credit"
        if not movement.get(side) or not movement.get(other):
            raise Wrong(f"the movement has one leg: debit {movement.get('debit')}, credit {movement.get('credit')}")
        clearing = f"clearing:{against}:{standing.currency}:{partition}"
        if (movement[side], movement[other]) != (account_id, clearing):
            wanted = f"{side} {account_id} and {other} {clearing}"
            raise Wrong(f"the movement has debit {movement['debit']} and credit {movement['credit']}, not {wanted}")
        if movement.get("currency") != standing.currency:
            raise Wrong(f"{movement.get('currency')} moved in an account of {standing.currency}")
        amount = _amount(movement, "amount_minor")
        opposite = self.accounts.setdefault(clearing, Standing(standing.currency, clearing=True))
        opposite.version += 1
        self.movements += 1
        signed = amount if side == "credit" else -amount
        for each, change in ((standing, signed), (opposite, -signed)):
            each.balance += change
            each.lines += 1
            each.last_line = line_of(each.version, str(movement["movement_id"]), change, each.balance)
        return clearing

    # -- the tables ---------------------------------------------------------------------------------------------------

    def _hold_against_tables(self, touched: list[str], *, below: bool) -> None:
        for account_id in touched:
            standing, row = self.accounts[account_id], self._tables.get(account_id)
            at = row["version"] if row else 0
            if below and at < standing.version:
                raise Wrong(f"{account_id} has version {standing.version}, the table accounts has {at}")
            if row is not None and at == standing.version:
                for name, added_up in (("balance_minor", standing.balance), ("held_minor", standing.held)):
                    if row[name] != added_up:
                        raise Wrong(
                            f"the table accounts says {name} {row[name]} for {account_id},"
                            f" the movements add up to {added_up}"
                        )
            lines = self._lines.get(account_id, ())
            if below and len(lines) < standing.lines:
                raise Wrong(f"{account_id} has {standing.lines} movements, account_entries has {len(lines)}")
            if 0 < standing.lines <= len(lines) and lines[standing.lines - 1] != standing.last_line:
                raise Wrong(f"line {standing.lines} of {account_id} in account_entries differs from the movement")


def _version(standing: Standing | None) -> int:
    return standing.version if standing else 0


def _amount(said: Mapping[str, Any], name: str) -> int:
    amount = said.get(name)
    if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
        raise Wrong(f"{name} is {amount!r}, not a whole number above zero")
    return amount
