"""Accounts: events -> rows -> an account, its statement, its holds, the sums of the ledger. Tables of group `accounts`.

All rows of an account are written by the task of its account_id, and so are those of the clearing accounts of that
partition: both legs of a movement are in one transaction. The layout of the keys (NUL ends a part, none may hold it):

    accounts           account_id -> Account                  and clearing:<side>:<currency>:<partition>
    account_versions   account_id NUL version -> AccountVersion   of users' accounts: how it stood, for `as_of`
    account_entries    account_id NUL version -> LedgerEntry  both legs, each with the running balance of its account
    account_holds      account_id NUL hold_id -> Hold
    account_refunds    account_id NUL hold_id NUL refund_id -> HoldRefund
    account_commands   account_id NUL command_id -> CommandAnswer
    accounts_by_user   user_id NUL account_id -> currency     each partition lists its own: a complete answer asks all
    ledger_totals      currency -> LedgerTotals               sums of this partition
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from schemas.accounts import (
    Account,
    AccountCommand,
    AccountCommandRefused,
    AccountEvent,
    AccountOpened,
    AccountVersion,
    CommandAnswer,
    FundsRefunded,
    Hold,
    HoldRefund,
    LedgerEntry,
    LedgerTotals,
    Movement,
)
from schemas.base import content_of
from streams import App, Codec, Position, Table, positional
from tables.versions import Cut, Mark, NotKept, version_at

GROUP = "accounts"

_NOTHING = LedgerTotals(0, 0, 0, 0)


@dataclass(frozen=True)
class AccountTables:
    """The tables of accounts. Reads work in the group's agents and within `app.reading("accounts", partition)`."""

    accounts: Table[Account]
    versions: Table[AccountVersion]
    entries: Table[LedgerEntry]
    holds: Table[Hold]
    refunds: Table[HoldRefund]
    commands: Table[CommandAnswer]
    by_user: Table[bytes]
    totals: Table[LedgerTotals]

    def account(self, account_id: str) -> Account | None:
        """The account as it stands."""
        return self.accounts.get(account_id)

    def account_at(self, account_id: str, cut: Cut) -> Account | None:
        """The account as it stood at the cut; None when it did not. Raises Undecided, NotKept."""
        account = self.accounts.get(account_id)
        if account is None:
            return None

        def mark(number: int) -> Mark:
            row = self._version(account_id, number)
            return Mark(row.latest_at, Position(row.topic, row.partition, row.offset))

        number = version_at(account.version, mark, cut)
        if number == 0:
            return None
        then = self._version(account_id, number)
        return account._replace(
            balance_minor=then.balance_minor, held_minor=then.held_minor, version=number, updated_at=then.occurred_at
        )

    def made_at(self, account_id: str, version: int) -> str:
        """When a version came to be. Raises NotKept."""
        return self._version(account_id, version).occurred_at

    def _version(self, account_id: str, number: int) -> AccountVersion:
        row = self.versions.get(_version_key(account_id, number))
        if row is None:
            raise NotKept(f"version {number} of account {account_id}")
        return row

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        """The hold as it stands."""
        return self.holds.get(f"{account_id}\0{hold_id}")

    def refund(self, account_id: str, hold_id: str, refund_id: str) -> HoldRefund | None:
        """The refund of a hold, if it was made."""
        return self.refunds.get(f"{account_id}\0{hold_id}\0{refund_id}")

    def answer(self, account_id: str, command_id: str) -> CommandAnswer | None:
        """What became of a command; None when it has not come, or had nothing new to say."""
        return self.commands.get(f"{account_id}\0{command_id}")

    def statement(
        self, account_id: str, *, until: int | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, LedgerEntry]]:
        """What moved in an account, oldest first. `after`: a key given before. `until`: the account's last version."""
        rows = self.entries.range(f"{account_id}\0", after=after, limit=limit)
        return rows if until is None else takewhile(lambda row: row[1].version <= until, rows)

    def of_user(self, user_id: str) -> list[Account]:
        """The user's accounts in this partition; there are at most as many as currencies."""
        prefix = f"{user_id}\0"
        return [self.accounts[key[len(prefix) :]] for key, _ in self.by_user.range(prefix)]

    def sums(self) -> Iterator[tuple[str, LedgerTotals]]:
        """The sums of this partition by currency."""
        return self.totals.range()

    def keep(
        self,
        before: Account | None,
        after: Account | None,
        event: AccountEvent,
        command: AccountCommand,
        cause: Position,
    ) -> None:
        """Write down what an event changed in its account, and that its command is answered."""
        if after is not None and after is not before:
            self._put(before, after)
            self._keep_version(after, cause)
            if isinstance(event, AccountOpened):
                self.by_user[f"{event.user_id}\0{event.account_id}"] = event.currency.encode()
        self.commands[f"{event.account_id}\0{event.caused_by}"] = CommandAnswer(
            content_of(command),
            event.type,
            event.reason if isinstance(event, AccountCommandRefused) else None,
            event.version,
            after.balance_minor if after else 0,
            after.held_minor if after else 0,
            event.occurred_at,
            *cause,
        )

    def _keep_version(self, account: Account, cause: Position) -> None:
        before = self.versions.get(_version_key(account.account_id, account.version - 1))
        self.versions[_version_key(account.account_id, account.version)] = AccountVersion(
            account.balance_minor,
            account.held_minor,
            account.updated_at,
            max(account.updated_at, before.latest_at) if before else account.updated_at,
            *cause,
        )

    def keep_hold(self, hold: Hold) -> None:
        self.holds[f"{hold.account_id}\0{hold.hold_id}"] = hold

    def keep_refund(self, event: FundsRefunded) -> None:
        refund = HoldRefund(event.refund_id, event.hold_id, event.movement.amount_minor, event.occurred_at)
        self.refunds[f"{event.account_id}\0{event.hold_id}\0{event.refund_id}"] = refund

    def keep_movement(
        self,
        account: Account,
        clearing_before: Account | None,
        clearing: Account,
        movement: Movement,
        event: AccountEvent,
    ) -> None:
        """Both legs of a movement: the clearing account, and a line in the statement of each side."""
        self._put(clearing_before, clearing)
        for side, other in ((account, clearing), (clearing, account)):
            amount = movement.amount_minor if movement.credit == side.account_id else -movement.amount_minor
            self.entries[f"{side.account_id}\0{side.version:010d}"] = LedgerEntry(
                side.account_id,
                side.version,
                movement.movement_id,
                other.account_id,
                amount,
                side.balance_minor,
                movement.reason,
                event.occurred_at,
                event.caused_by,
            )

    def _put(self, before: Account | None, after: Account) -> None:
        """An account and its part of the sums, from its own figures: what one leg forgets shows as a difference."""
        self.accounts[after.account_id] = after
        sums = self.totals.get(after.currency, _NOTHING)
        grown = after.balance_minor - (before.balance_minor if before else 0)
        if after.user_id is None:
            self.totals[after.currency] = sums._replace(clearing_minor=sums.clearing_minor + grown)
            return
        self.totals[after.currency] = sums._replace(
            accounts=sums.accounts + (before is None),
            balance_minor=sums.balance_minor + grown,
            held_minor=sums.held_minor + after.held_minor - (before.held_minor if before else 0),
        )


def _version_key(account_id: str, version: int) -> str:
    return f"{account_id}\0{version:010d}"


def declare(app: App) -> AccountTables:
    """Declare the tables on the app. Their changelogs are named after them."""
    return AccountTables(
        accounts=app.Table(
            "accounts", group=GROUP, codec=Codec(Account.to_json, Account.from_json), help="Accounts by id."
        ),
        versions=app.Table(
            "account_versions",
            group=GROUP,
            codec=positional(AccountVersion),
            help="How each account stood before, version by version.",
        ),
        entries=app.Table(
            "account_entries",
            group=GROUP,
            codec=Codec(LedgerEntry.to_json, LedgerEntry.from_json),
            help="Statements: every leg of every movement.",
        ),
        holds=app.Table(
            "account_holds", group=GROUP, codec=Codec(Hold.to_json, Hold.from_json), help="Money set aside."
        ),
        refunds=app.Table(
            "account_refunds",
            group=GROUP,
            codec=Codec(HoldRefund.to_json, HoldRefund.from_json),
            help="Captured money that was given back.",
        ),
        commands=app.Table(
            "account_commands",
            group=GROUP,
            codec=Codec(CommandAnswer.to_json, CommandAnswer.from_json),
            help="Answered commands, so that none counts twice.",
        ),
        by_user=app.Table("accounts_by_user", group=GROUP, value_type=bytes, help="Accounts of a user."),
        totals=app.Table(
            "ledger_totals",
            group=GROUP,
            codec=Codec(LedgerTotals.to_json, LedgerTotals.from_json),
            help="Sums by currency: the trial balance.",
        ),
    )
