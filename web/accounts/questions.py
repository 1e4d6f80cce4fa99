"""a question about accounts -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from tables.accounts import GROUP, AccountTables
from web.accounts.shapes import present, present_entry
from web.asking import Answer, Desk, Question


class AccountQuestions:
    """What the owner of accounts can be asked."""

    def __init__(self, desk: Desk, tables: AccountTables) -> None:
        self._tables = tables
        self.account = desk.learn(Question("account", GROUP, self._account))
        self.statement = desk.learn(Question("statement", GROUP, self._statement))
        self.outcome = desk.learn(Question("outcome", GROUP, self._outcome))
        self.of_user = desk.learn(Question("of_user", GROUP, self._of_user))
        self.sums = desk.learn(Question("sums", GROUP, self._sums))

    def _account(self, args: Mapping[str, str]) -> Answer:
        account = self._tables.account(args["account_id"])
        return Answer({"account": present(account) if account else None})

    def _statement(self, args: Mapping[str, str]) -> Answer:
        account, limit = self._tables.account(args["account_id"]), int(args["limit"])
        rows = list(self._tables.statement(args["account_id"], after=args.get("after"), limit=limit + 1))
        return Answer(
            {
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
        return Answer({"accounts": [present(account) for account in self._tables.of_user(args["user_id"])]})

    def _sums(self, args: Mapping[str, str]) -> Answer:
        return Answer({"sums": {currency: sums._asdict() for currency, sums in self._tables.sums()}})
