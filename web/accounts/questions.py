"""a question about accounts -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from schemas.accounts import Account
from tables.accounts import GROUP, AccountTables
from tables.versions import Cut
from web import as_of
from web.accounts.shapes import present, present_entry
from web.asking import Answer, Desk, Question

#: Whose records make an account's versions known.
TOLD_ON = "accounts.events.v1"


class AccountQuestions:
    """What the owner of accounts can be asked."""

    def __init__(self, desk: Desk, tables: AccountTables) -> None:
        self._tables = tables
        self.account = desk.learn(Question("account", GROUP, self._account))
        self.moment = desk.learn(Question("moment", GROUP, self._moment))
        self.statement = desk.learn(Question("statement", GROUP, self._statement, costly=True))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.of_user = desk.learn(Question("of_user", GROUP, self._of_user, costly=True))
        self.sums = desk.learn(Question("sums", GROUP, self._sums, costly=True))

    def _account(self, args: Mapping[str, str]) -> Answer:
        now = self._tables.account(args["account_id"])
        account, past = self._at(now, as_of.cut_in(args))
        return Answer({"account": present(account) if account else None, **past})

    def _at(self, now: Account | None, cut: Cut | None) -> tuple[Account | None, dict[str, Any]]:
        """An account as it stood at the cut, or why there is nothing to show."""
        if now is None or cut is None:
            return now, {}
        return as_of.looked_up(lambda: self._tables.account_at(now.account_id, cut), now.version, now.opened_at)

    def _moment(self, args: Mapping[str, str]) -> Answer:
        """When a version came to be."""
        id = args["account_id"]
        account = self._tables.account(id)
        if account is None:
            return Answer()
        made_at = partial(self._tables.made_at, id)
        return Answer(as_of.moment(args, account.version, account.opened_at, TOLD_ON, made_at))

    def _statement(self, args: Mapping[str, str]) -> Answer:
        id, limit, cut = args["account_id"], int(args["limit"]), as_of.cut_in(args)
        account, past = self._at(self._tables.account(id), cut)
        until = account.version if account is not None and cut is not None else None
        rows = (
            list(self._tables.statement(id, until=until, after=args.get("after"), limit=limit + 1)) if account else []
        )
        return Answer(
            {
                **past,
                "account": present(account) if account else None,
                "entries": [present_entry(entry) for _, entry in rows[:limit]],
                "next": rows[limit - 1][0] if len(rows) > limit else None,
            }
        )

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it had one, and the account as it stands now."""
        account = self._tables.account(args["account_id"])
        answer = self._tables.answer(args["account_id"], args["command_id"])
        return Answer(
            {"account": present(account) if account else None, "answer": answer._asdict() if answer else None}
        )

    def _of_user(self, args: Mapping[str, str]) -> Answer:
        cut = as_of.cut_in(args)
        found = [self._at(account, cut) for account in self._tables.of_user(args["user_id"])]
        lost = next((past for _, past in found if as_of.is_lost(past)), {})
        return Answer({"accounts": [present(account) for account, _ in found if account], **lost})

    def _sums(self, args: Mapping[str, str]) -> Answer:
        return Answer({"sums": {currency: sums._asdict() for currency, sums in self._tables.sums()}})
