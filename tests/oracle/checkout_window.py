"""what workers answer about orders, payments, items and accounts -> held to the oracle's fold of checkout."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.oracle.ask import client, each_of, get
from tests.oracle.checkout import Checkout
from tests.oracle.verdict import Kind, Verdict

PATHS = {"purchases": "orders", "payments": "payments", "items": "items", "accounts": "accounts"}


async def judge_answers(
    urls: Sequence[str], found: Checkout, verdict: Verdict, chance: random.Random, sampled: int
) -> None:
    """Some of each table, at every worker; the trial balance, which must be even."""
    async with client() as session:

        async def one(url: str, table: str, key: str, expected: Mapping[str, Any]) -> None:
            answer = await get(session, f"{url}/api/v1/{PATHS[table]}/{key}")
            check, where = f"{table} over HTTP", f"{key} at {url}"
            verdict.looked(check)
            if answer.status != 200:
                verdict.add(Kind.LOST, check, where, f"answered {answer.status}: {answer.body!r}")
                return
            told = _as_a_row(answer.body)
            verdict.equal(check, where, expected, {name: told.get(name) for name in expected})

        async def balance(url: str) -> None:
            answer = await get(session, f"{url}/api/v1/ledger/trial-balance")
            for line in answer.body["currencies"]:
                verdict.looked("trial balances")
                verdict.equal("trial balances", f"{line['currency']} at {url}", 0, line["difference_minor"])

        asked = []
        for table in PATHS:
            rows = {key: row for key, row in found.rows(table).items() if not key.startswith("clearing")}
            keys = chance.sample(sorted(rows), min(sampled, len(rows)))
            asked += [(url, table, key, rows[key]) for url in urls for key in keys]
        await each_of(one, asked)
        await each_of(balance, ((url,) for url in urls))


def _as_a_row(told: Mapping[str, Any]) -> dict[str, Any]:
    """An order says in its `payment` what became of the money."""
    payment = told.get("payment")
    return {**told, **(payment if isinstance(payment, dict) else {})}
