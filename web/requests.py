"""Requests: a write with an Idempotency-Key -> done once -> the same answer again to whoever repeats it.

Stripe's semantics, kept as an aggregate of their own on requests.commands.v1 (agents/requests.py has the rules): the
key's partition orders all claims, so two workers can never both hold one. In this order, which is what makes a crash
at any point harmless:
1. claim the key; read the row once the claim is committed: whoever it names goes on, everybody else is answered;
2. do the work under a command id that follows from key and content: a second attempt repeats the same command;
3. write the answer down, acknowledged by the broker, and only then give it. A later claim stands behind it in the log.
A worker that dies between 1 and 3 leaves the claim to lapse; the next attempt takes it over and repeats 2 and 3.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from aiohttp import web

from schemas.base import derived_id
from schemas.requests import REQUEST_KEY_PATTERN, ClaimRequest, CompleteRequest, ForgetRequest, Request
from streams.errors import NotReadable
from streams.records import Position
from web import problems
from web.asking import Answer, Desk, Question
from web.commands import Commands
from web.limits import Limits
from web.metrics import HttpMetrics
from web.middlewares import REQUEST_ID
from web.problems import Problem

KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_SANE_KEY = re.compile(REQUEST_KEY_PATTERN)
#: A structured field's string: quotes and backslashes within are escaped by a backslash.
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: What of an answer belongs to it and is kept. The request's own id and the security headers are made anew.
_KEPT_HEADERS = ("Content-Type", "Location", "ETag", "Orderstream-Position", "Retry-After", "Allow")

Act = Callable[[str], Awaitable[web.Response]]


class Table(Protocol):
    """The table of requests, read inside `app.reading`."""

    def get(self, key: str) -> Request | None: ...


class Requests:
    """Runs a write at most once for each Idempotency-Key."""

    def __init__(self, desk: Desk, commands: Commands, table: Table, limits: Limits, metrics: HttpMetrics) -> None:
        self._desk, self._commands, self._table = desk, commands, table
        self._limits, self._metrics = limits, metrics
        self._row = desk.learn(Question("row", "requests", self._read))

    def _read(self, args: Mapping[str, str]) -> Answer:
        row = self._table.get(args["request_key"])
        return Answer() if row is None else Answer(parts=(row.model_dump_json().encode(),))

    async def once(self, request: web.Request, raw: bytes, act: Act) -> web.Response:
        """`act` with a command id; with an Idempotency-Key at most once, and its final answer kept for repetitions.

        Problems that `act` raises are answers like any other. An answer is final unless it says that the outcome is
        not known (202) or the service failed (5xx): then the claim lapses and the same request may be made again. One
        that came too often (429) or for another version (412) was not worked on: the key is free again at once.
        """
        key = _key(request)
        if key is None:
            return await act(str(uuid.uuid4()))
        fingerprint = _fingerprint(request, raw)
        claim_id = str(uuid.uuid4())
        kept = await self._claim(key, fingerprint, claim_id)
        if kept is not None:
            return kept
        try:
            # After a 412 the same request may come for another version: that is another command.
            version = request.headers.get("If-Match")
            answer = await act(derived_id(f"{key}\0{fingerprint}" + ("" if version is None else f"\0{version}")))
        except Problem as problem:
            answer = problems.answer(problem, instance=request.path, request_id=request[REQUEST_ID])
        if answer.status in (problems.TOO_MANY_ORDERS.status, problems.PRECONDITION_FAILED.status):
            await self._commands.send(key=key, value=ForgetRequest(command_id=claim_id, request_key=key))
        elif answer.status < 500 and answer.status != 202:
            await self._complete(key, claim_id, answer)
        return answer

    async def _claim(self, key: str, fingerprint: str, claim_id: str) -> web.Response | None:
        """None: the key is ours. Else the answer that was kept. Raises Problem (409, 422, 503)."""
        claim = ClaimRequest(
            command_id=claim_id,
            request_key=key,
            fingerprint=fingerprint,
            claimed_at_ms=time.time_ns() // 1_000_000,
            lease_ms=int(self._limits.claim_lease_s * 1000),
        )
        position = await self._commands.send(key=key, value=claim)
        row = await self._read_row(key, position)
        outcome, answer = self._judge(row, fingerprint, claim_id)
        self._metrics.claims.labels(outcome).inc()
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def _read_row(self, key: str, position: Position | None) -> Request:
        answer = await self._desk.ask_about(
            self._row, key, {"request_key": key}, after=position, wait_s=self._limits.outcome_wait_s
        )
        if not answer.parts:
            raise NotReadable(f"the claim at {position} was not taken; it may be among the dead letters")
        return Request.model_validate_json(answer.parts[0])

    def _judge(self, row: Request, fingerprint: str, claim_id: str) -> tuple[str, web.Response | Problem | None]:
        """What the claim met, in this order: another request, a kept answer, our own claim, somebody else's."""
        if row.fingerprint != fingerprint:
            return "mismatch", Problem(
                problems.KEY_REUSED, "The key was first sent with another method, address or body; use a new key."
            )
        if row.status is not None:
            return "replayed", _replay(row)
        if row.claimed_by == claim_id:
            return "claimed", None
        return "in_flight", Problem(
            problems.REQUEST_IN_FLIGHT,
            "The first request with this key has not been answered yet.",
            headers={"Retry-After": "1"},
        )

    async def _complete(self, key: str, claim_id: str, answer: web.Response) -> None:
        headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        body = answer.body
        assert isinstance(body, bytes), "handlers of writes answer with bytes"
        complete = CompleteRequest(
            command_id=claim_id, request_key=key, status=answer.status, headers=headers, body=body.decode()
        )
        await self._commands.send(key=key, value=complete)


def _key(request: web.Request) -> str | None:
    """The key of a request, in its bare form. Raises Problem (400) for more than one header and for no valid key.

    The draft standard (draft-ietf-httpapi-idempotency-key-header) makes it a structured string, `"abc"`; most clients
    send `abc`. Both are the key abc.
    """
    given = request.headers.getall(KEY, [])
    if len(given) > 1:
        raise Problem(problems.BAD_PARAMETER, f"`{KEY}` is given more than once.", parameter=KEY)
    if not given:
        return None
    key = given[0].strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED_KEY.fullmatch(key)
        key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
    if not _SANE_KEY.fullmatch(key):
        raise Problem(
            problems.BAD_PARAMETER,
            f"`{KEY}` must be 1 to 255 printable ASCII characters, bare or as a quoted string (RFC 9651 §3.3.3).",
            parameter=KEY,
        )
    return key


def _fingerprint(request: web.Request, raw: bytes) -> str:
    """Same key, same fingerprint: the same request. The body counts byte for byte, as it does for Stripe."""
    head = f"{request.method}\0{request.rel_url.raw_path}\0".encode()
    return hashlib.sha256(head + raw).hexdigest()


def _replay(row: Request) -> web.Response:
    assert row.status is not None
    headers = {**row.headers, REPLAYED: "true"}
    return web.Response(status=row.status, body=row.body.encode(), headers=headers)
