"""GET of accounts and of the ledger -> questions to their owners -> the public answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from tables.versions import Cut
from web import answers, as_of, listing, reading
from web.accounts import shapes
from web.accounts.questions import TOLD_ON, AccountQuestions
from web.asking import Answer, Desk, Question
from web.limits import Limits
from web.told import About, Told


class AccountReads:
    """The handlers that change nothing: parse, ask, present."""

    def __init__(self, desk: Desk, questions: AccountQuestions, inputs: frozenset[str], limits: Limits) -> None:
        """`inputs`: the topics whose positions can be waited for, because accounts are made from their records."""
        self._desk, self._questions, self._inputs, self._limits = desk, questions, inputs, limits
        self._told = Told(desk, limits)

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/v1/accounts/{account_id}"""
        reading.only(request, "min_offset", "as_of")
        account_id = shapes.account_id(request)
        about, cut = await self._cut(request, account_id)
        told = (await self._ask(request, self._questions.account, account_id, {}, cut)).meta
        as_of.require(told, about.what, cut)
        account = told["account"]
        if account is None:
            raise shapes.no_such_account(account_id)
        headers = {"ETag": answers.etag(account["version"]), **answers.FRESH}
        if reading.matches_etag(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return answers.answer(200, account, headers)

    async def statement(self, request: web.Request) -> web.Response:
        """GET /api/v1/accounts/{account_id}/entries"""
        reading.only(request, "min_offset", "as_of", "limit", "cursor")
        account_id = shapes.account_id(request)
        limit = reading.whole(request, "limit", self._limits.page_default, self._limits.timeline_most)
        about, cut = await self._cut(request, account_id)
        digest = listing.filters_digest("entries", account_id, *as_of.carried(cut).values())
        args = {"limit": str(limit)}
        if cursor := reading.one(request, "cursor"):
            args["after"] = listing.read_cursor(cursor, digest, self._limits.cursor_keys())
        told = (await self._ask(request, self._questions.statement, account_id, args, cut)).meta
        as_of.require(told, about.what, cut)
        if told["account"] is None:
            raise shapes.no_such_account(account_id)
        keys = self._limits.cursor_keys()
        page = {
            "account_id": account_id,
            "currency": told["account"]["currency"],
            "entries": told["entries"],
            "next_cursor": listing.write_cursor(told["next"], digest, keys) if told["next"] else None,
        }
        return answers.answer(200, page, answers.FRESH)

    async def _cut(self, request: web.Request, account_id: str) -> tuple[About, Cut | None]:
        """The moment that is asked for, and of what."""
        cut = as_of.cut_of(request, self._inputs | {TOLD_ON})
        about = About(f"account {account_id}", "account_id", account_id, {TOLD_ON}, self._questions.moment)
        return about, await self._told.settle(cut, about)

    async def of_user(self, request: web.Request) -> web.Response:
        """GET /api/v1/accounts?user_id=: every partition is asked, and one that cannot answer makes the answer 503."""
        reading.only(request, "user_id", "as_of")
        user_id = reading.one(request, "user_id")
        if user_id is None:
            raise reading.bad("user_id", "is required: whose accounts?")
        if len(user_id) > 64 or any(char < " " or char == "\x7f" for char in user_id):
            raise reading.bad("user_id", "must have 1 to 64 characters, none of them a control character.")
        then = as_of.carried(as_of.time_of(request))
        told = await self._ask_every(self._questions.of_user, {"user_id": user_id, **then})
        for each in told:
            as_of.require_kept(each.meta)
        accounts = sorted((account for each in told for account in each.meta["accounts"]), key=_by_currency)
        return answers.answer(200, {"accounts": accounts}, answers.FRESH)

    async def trial_balance(self, request: web.Request) -> web.Response:
        """GET /api/v1/ledger/trial-balance: sums of every partition, each of one committed moment."""
        reading.only(request)
        sums: dict[str, Counter[str]] = {}
        for each in await self._ask_every(self._questions.sums, {}):
            for currency, part in each.meta["sums"].items():
                sums.setdefault(currency, Counter()).update(part)
        lines = [
            {
                "currency": currency,
                "accounts": total["accounts"],
                "accounts_minor": total["balance_minor"],
                "held_minor": total["held_minor"],
                "clearing_minor": total["clearing_minor"],
                "difference_minor": total["balance_minor"] + total["clearing_minor"],
            }
            for currency, total in sorted(sums.items())
        ]
        return answers.answer(200, {"currencies": lines}, answers.FRESH)

    async def _ask(
        self,
        request: web.Request,
        question: Question,
        account_id: str,
        args: dict[str, Any],
        cut: Cut | None = None,
    ) -> Answer:
        after, then = as_of.waited_for(request, self._inputs, cut)
        args = {"account_id": account_id, **args, **then}
        return await self._desk.ask_about(question, account_id, args, after=after, wait_s=self._limits.read_wait_s)

    async def _ask_every(self, question: Question, args: dict[str, str]) -> list[Answer]:
        return await self._desk.ask_every(question, args, wait_s=self._limits.read_wait_s)


def _by_currency(account: dict[str, Any]) -> str:
    return str(account["currency"])
