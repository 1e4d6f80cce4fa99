"""states of accounts -> what callers see of them."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from schemas.accounts import ACCOUNT_ID_PATTERN, Account, LedgerEntry
from web import problems
from web.problems import Problem

HOME = "/api/v1/accounts"

_ACCOUNT_ID = re.compile(ACCOUNT_ID_PATTERN)


def present(account: Account) -> dict[str, Any]:
    """An account as callers see it."""
    return {
        "account_id": account.account_id,
        "user_id": account.user_id,
        "currency": account.currency,
        "balance_minor": account.balance_minor,
        "held_minor": account.held_minor,
        "available_minor": account.available_minor,
        "version": account.version,
        "opened_at": account.opened_at,
        "updated_at": account.updated_at,
    }


def present_entry(entry: LedgerEntry) -> dict[str, Any]:
    """One line of a statement."""
    told = entry._asdict()
    del told["account_id"]
    return told


def account_id(request: web.Request) -> str:
    """The account that the address names. What cannot be an account_id is no account's; clearing accounts have none."""
    given = request.match_info["account_id"]
    if not _ACCOUNT_ID.fullmatch(given):
        raise no_such_account(given[:64])
    return given


def no_such_account(account_id: str) -> Problem:
    return Problem(problems.NO_SUCH_ACCOUNT, f"There is no account {account_id}.")
