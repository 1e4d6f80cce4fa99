"""accounts.commands.v1 -> every event that it must have led to, to the last figure -> balances, holds, both legs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.bought import Told, account_of, must
from tests.oracle.verdict import Kind, Verdict

LARGEST, FULL = 10**13, 2**53 - 1
CHECK = "accounts"


@dataclass(slots=True)
class Hold:
    amount: int
    expires: int | None
    order: str | None
    state: str = "held"
    captured: int = 0
    refunds: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    user_id: str
    currency: str
    balance: int = 0
    held: int = 0
    version: int = 1
    holds: dict[str, Hold] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.balance - self.held


@dataclass
class Ledger:
    """All accounts by what their commands must have led to, and every leg by what the events say."""

    partitions: int
    accounts: dict[str, Account] = field(default_factory=dict)
    legs: Counter[str] = field(default_factory=Counter)  # account, clearing ones too -> its balance by the legs
    deposited: Counter[str] = field(default_factory=Counter)  # user_id -> deposits less withdrawals
    _answered: set[tuple[str, str]] = field(default_factory=set)

    def judge(self, home: list[Told], verdict: Verdict) -> None:
        for told in home:
            expected = self.expect(told.said, told.record.partition)
            must(verdict, CHECK, told, expected)
            if len(told.events) > 1:
                verdict.add(Kind.DOUBLED, CHECK, told, f"it led to {len(told.events)} events")
            for event in told.events:
                self._post(event, verdict, told)
        for id, account in self.accounts.items():
            verdict.looked(CHECK)
            verdict.equal("legs", id, account.balance, self.legs[id])
        if sum(self.legs.values()):
            verdict.add(Kind.WRONG, "legs", "all accounts", f"they add up to {sum(self.legs.values())}, not to 0")

    def _post(self, event: dict[str, Any], verdict: Verdict, told: Told) -> None:
        """Both legs of a movement: one is the account's, the other that of the clearing account of its partition."""
        movement = event.get("movement")
        if movement is None:
            return
        verdict.looked("movements")
        sale = movement["reason"] in ("capture", "refund")
        side = f"clearing:{'sales' if sale else 'external'}:{movement['currency']}:{told.record.partition}"
        verdict.equal("legs", told, {side, event["account_id"]}, {movement["debit"], movement["credit"]})
        self.legs[movement["debit"]] -= movement["amount_minor"]
        self.legs[movement["credit"]] += movement["amount_minor"]

    def expect(self, said: dict[str, Any], partition: int) -> dict[str, Any] | None:
        """What a command must lead to, with the account as those before it left it; None: nothing new."""
        kind = said["type"]
        id = account_of(said["user_id"], said["currency"]) if kind == "open_account" else said["account_id"]
        if (id, said["command_id"]) in self._answered:
            return None
        account = self.accounts.get(id)
        if kind == "open_account":
            if account is not None:
                return None
            self._answered.add((id, said["command_id"]))
            account = self.accounts[id] = Account(said["user_id"], said["currency"])
            return self._stands("account_opened", account)
        hold = account.holds.get(said.get("hold_id", "")) if account else None
        reason = self._objection(account, hold, said)
        if reason is None and self._is_so_already(hold, said):
            return None
        self._answered.add((id, said["command_id"]))
        if reason is not None:
            version = account.version if account else 0
            return {"type": "account_command_refused", "command": kind, "reason": reason, "version": version}
        assert account is not None, "a command without an account was refused"
        return self._carry_out(account, hold, said)

    def _is_so_already(self, hold: Hold | None, said: dict[str, Any]) -> bool:
        if said["type"] == "hold_funds":
            return hold is not None
        return said["type"] == "refund_funds" and hold is not None and said["refund_id"] in hold.refunds

    def _objection(self, account: Account | None, hold: Hold | None, said: dict[str, Any]) -> str | None:
        """The first reason, in the order in which the reasons are documented."""
        kind: str = said["type"]
        amount: Any = said.get("amount_minor")
        if account is None:
            return "no_such_account"
        if kind != "release_hold":
            if amount is not None and amount <= 0:
                return "not_positive_amount"
            if amount is not None and amount > LARGEST:
                return "amount_above_limit"
            if said.get("currency") not in (None, account.currency):
                return "currency_mismatch"
        if kind == "deposit":
            return "balance_above_limit" if account.balance + amount > FULL else None
        if kind == "hold_funds" and hold is not None:
            same = (hold.amount, hold.expires) == (amount, said.get("expires_at_ms"))
            return None if same else "hold_exists_with_different_content"
        if kind in ("withdraw", "hold_funds"):
            return "insufficient_funds" if amount > account.free else None
        if hold is None:
            return "no_such_hold"
        if kind in ("capture_hold", "release_hold"):
            if hold.state != "held":
                return "hold_already_settled"
            above = kind == "capture_hold" and amount is not None and amount > hold.amount
            return "amount_above_hold" if above else None
        if hold.state != "captured":
            return "hold_not_captured"
        if said["refund_id"] in hold.refunds:
            same_sum = hold.refunds[said["refund_id"]] == amount
            return None if same_sum else "refund_exists_with_different_content"
        return "amount_above_captured" if sum(hold.refunds.values()) + amount > hold.captured else None

    def _carry_out(self, account: Account, hold: Hold | None, said: dict[str, Any]) -> dict[str, Any]:
        kind: str = said["type"]
        amount: Any = said.get("amount_minor")
        account.version += 1
        if kind in ("deposit", "withdraw"):
            moved = amount if kind == "deposit" else -amount
            account.balance += moved
            self.deposited[account.user_id] += moved
            return self._stands("funds_deposited" if moved > 0 else "funds_withdrawn", account)
        if kind == "hold_funds":
            account.holds[said["hold_id"]] = Hold(amount, said.get("expires_at_ms"), said.get("order_uid"))
            account.held += amount
            return self._stands("funds_held", account, hold_id=said["hold_id"], amount_minor=amount)
        assert hold is not None, "a command without its hold was refused"
        if kind == "refund_funds":
            hold.refunds[said["refund_id"]] = amount
            account.balance += amount
            total = sum(hold.refunds.values())
            return self._stands("funds_refunded", account, refund_id=said["refund_id"], refunded_minor=total)
        account.held -= hold.amount
        if kind == "release_hold":
            hold.state = "expired" if said.get("reason") == "expired" else "released"
            return self._stands("hold_released", account, hold_id=said["hold_id"], amount_minor=hold.amount)
        hold.state, hold.captured = "captured", hold.amount if amount is None else amount
        account.balance -= hold.captured
        free = hold.amount - hold.captured
        return self._stands("hold_captured", account, hold_id=said["hold_id"], released_minor=free)

    @staticmethod
    def _stands(kind: str, account: Account, **more: Any) -> dict[str, Any]:
        standing = {"version": account.version, "balance_minor": account.balance, "held_minor": account.held}
        return {"type": kind, **standing, **more}
