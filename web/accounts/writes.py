"""POST of accounts -> commands on their topic -> the outcome at their owner -> the public answers."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from schemas.accounts import (
    AccountRefusal,
    AmountMinor,
    Currency,
    Deposit,
    Expected,
    OpenAccount,
    UserId,
    Withdraw,
    account_id_of,
)
from schemas.base import content_of
from schemas.requests import REQUEST_KEY_PATTERN
from streams.records import Position
from web import answers, body, problems, reading
from web.accounts import shapes
from web.accounts.questions import AccountQuestions
from web.asking import Desk
from web.body import Body
from web.commands import Commands, accepted, dead_lettered, id_of, outcome_of, position_of, send
from web.limits import Limits
from web.problems import Problem
from web.requests import REPLAYED, Requests

IdempotencyKey = Annotated[
    str | None,
    Field(
        pattern=REQUEST_KEY_PATTERN,
        description="Names this movement within its account, for ever: sent again, it gets the first answer and moves"
        " nothing. 1 to 255 printable ASCII characters.",
    ),
]

#: Refusals that no later state of the account would change; the others depend on what is in it.
_OF_THE_AMOUNT = {
    AccountRefusal.NOT_POSITIVE_AMOUNT,
    AccountRefusal.AMOUNT_ABOVE_LIMIT,
    AccountRefusal.CURRENCY_MISMATCH,
}
_WORDS = {
    AccountRefusal.NOT_POSITIVE_AMOUNT: "The amount must be above zero.",
    AccountRefusal.AMOUNT_ABOVE_LIMIT: "The amount is larger than one movement may be.",
    AccountRefusal.CURRENCY_MISMATCH: "The account has another currency.",
    AccountRefusal.INSUFFICIENT_FUNDS: "More than is available in the account.",
    AccountRefusal.BALANCE_ABOVE_LIMIT: "The balance would be larger than an account may hold.",
}


class _Body(Body):
    idempotency_key: IdempotencyKey = None


class Opening(_Body):
    """The body that opens an account."""

    user_id: UserId
    currency: Currency


class Amount(_Body):
    """The body of a deposit or a withdrawal."""

    amount_minor: AmountMinor
    currency: Expected = None


class AccountWrites:
    """The handlers that put a command on its topic: parse, command, wait, present."""

    def __init__(
        self, desk: Desk, questions: AccountQuestions, commands: Commands, requests: Requests, limits: Limits
    ) -> None:
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits = requests, limits

    async def open(self, request: web.Request) -> web.Response:
        """POST /api/v1/accounts: 201 when this request opened it, 200 with the same id when it was there."""
        reading.only(request)
        asked, raw = await body.read_model(request, self._limits, Opening)

        async def act(command_id: str) -> web.Response:
            account_id = account_id_of(asked.user_id, asked.currency)
            id = id_of(account_id, asked.idempotency_key, command_id)
            command = OpenAccount(command_id=id, user_id=asked.user_id, currency=asked.currency)
            position, told = await self._command(command)
            if told is None:
                return _accepted(command, position)
            account, first = told["account"], told["answer"]
            if first is not None and (first["content"] != content_of(command) or first["type"] != "account_opened"):
                raise _reused()
            if account is None:
                raise dead_lettered(position)
            if first is None:
                return _done(200, account, position, position)
            opened = {"balance_minor": 0, "held_minor": 0, "available_minor": 0, "version": first["version"]}
            return _done(201, {**account, **opened, "updated_at": first["occurred_at"]}, position_of(first), position)

        return await self._requests.once(request, raw, act)

    async def deposit(self, request: web.Request) -> web.Response:
        """POST /api/v1/accounts/{account_id}/deposits"""
        return await self._move(request, Deposit)

    async def withdraw(self, request: web.Request) -> web.Response:
        """POST /api/v1/accounts/{account_id}/withdrawals"""
        return await self._move(request, Withdraw)

    async def _move(self, request: web.Request, kind: type[Deposit] | type[Withdraw]) -> web.Response:
        reading.only(request)
        account_id = shapes.account_id(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Amount)

        async def act(command_id: str) -> web.Response:
            command = kind(
                command_id=id_of(account_id, asked.idempotency_key, command_id),
                account_id=account_id,
                expected_version=expected,
                amount_minor=asked.amount_minor,
                currency=asked.currency,
            )
            return await self._moved(command)

        return await self._requests.once(request, raw, act)

    async def _moved(self, command: Deposit | Withdraw) -> web.Response:
        """The answer is the one that the command had first: a repetition says the same, whatever happened since."""
        position, told = await self._command(command)
        if told is None:
            return _accepted(command, position)
        account, first = told["account"], told["answer"]
        if first is None:
            raise dead_lettered(position)
        if first["content"] != content_of(command):
            raise _reused()
        if first["reason"] is not None:
            raise _refused(command, first)
        then = {
            "balance_minor": first["balance_minor"],
            "held_minor": first["held_minor"],
            "available_minor": first["balance_minor"] - first["held_minor"],
            "version": first["version"],
            "updated_at": first["occurred_at"],
        }
        return _done(201, {**account, **then, "amount_minor": command.amount_minor}, position_of(first), position)

    async def _command(self, command: OpenAccount | Deposit | Withdraw) -> tuple[Position, dict[str, Any] | None]:
        """Put a command on its topic and wait for what becomes of it; None when the wait ran out."""
        key, wait_s = command.account_id, self._limits.outcome_wait_s
        position = await send(self._commands, key, command)
        args = {"account_id": key, "command_id": command.command_id}
        outcome = await outcome_of(self._desk, self._questions.outcome, key, args, after=position, wait_s=wait_s)
        return position, None if outcome is None else outcome.meta


def _done(status: int, told: dict[str, Any], first: Position, mine: Position) -> web.Response:
    headers = {"ETag": answers.etag(told["version"]), answers.POSITION: str(first)}
    if status == 201:
        headers["Location"] = f"{shapes.HOME}/{told['account_id']}"
    if first != mine:
        headers[REPLAYED] = "true"
    return answers.answer(status, {**told, "position": str(first)}, headers)


def _refused(command: Deposit | Withdraw, first: dict[str, Any]) -> Problem:
    reason, at = AccountRefusal(first["reason"]), position_of(first)
    told: dict[str, Any] = {"reason": reason, "position": str(at)}
    if reason is AccountRefusal.NO_SUCH_ACCOUNT:
        return Problem(
            problems.NO_SUCH_ACCOUNT,
            f"There is no account {command.account_id}.",
            headers={answers.POSITION: str(at)},
            **told,
        )
    if reason is AccountRefusal.WRONG_VERSION:
        return Problem.outdated(f"account {command.account_id}", first["version"], str(at))
    kind = problems.AMOUNT_REFUSED if reason in _OF_THE_AMOUNT else problems.ACCOUNT_REFUSED
    headers = {"ETag": answers.etag(first["version"]), answers.POSITION: str(at)}
    return Problem(kind, _WORDS[reason], headers=headers, balance_minor=first["balance_minor"], **told)


def _reused() -> Problem:
    return Problem(problems.KEY_REUSED, "`idempotency_key` was first sent with another content; use a new key.")


def _accepted(command: OpenAccount | Deposit | Withdraw, position: Position) -> web.Response:
    id = command.account_id
    return accepted({"account_id": id}, f"{shapes.HOME}/{id}", command.command_id, position)
