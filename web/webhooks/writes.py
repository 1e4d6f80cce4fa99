"""POST, PATCH and DELETE of webhooks -> commands on their topic -> the outcome at their owner -> the public answers.

A secret is in the answer to whoever made it, once. It is in no record: not in the command, not in the answer that an
Idempotency-Key keeps, which is why it is put into the answer last of all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from aiohttp import web

from schemas import signatures
from schemas.base import derived_id
from schemas.settings import Settings
from schemas.topics import event_names
from schemas.webhooks import (
    DAY_MS,
    AskedCommand,
    ChangeSubscription,
    CreateSubscription,
    CustomerOnly,
    DeleteSubscription,
    EventPatterns,
    KeepPreviousMs,
    Policy,
    ResendDelivery,
    RotateSecret,
    SecretName,
    TargetUrl,
    WebhookRefusal,
)
from streams.errors import NotReadable
from web import answers, body, problems, reading
from web.asking import Desk
from web.body import Body
from web.commands import Commands, accepted, dead_lettered, outcome_of, position_of, send
from web.limits import Limits
from web.problems import Problem
from web.requests import Requests
from web.webhooks import shapes
from web.webhooks.questions import WebhookQuestions

#: What workers make secrets from, the key for new ones first.
Keys = Callable[[], Sequence[bytes]]
#: Where each topic of events ends now.
Starts = Callable[[], Awaitable[dict[str, list[int]]]]

_WORDS = {
    WebhookRefusal.EXISTS_WITH_DIFFERENT_CONTENT: "A webhook of this id with other content exists.",
    WebhookRefusal.NOTHING_TO_CHANGE: "The body names nothing that would change.",
    WebhookRefusal.TOO_MANY_SECRETS: "As many secrets as can be are in use: wait for one to retire, or keep none.",
    WebhookRefusal.DELIVERY_NOT_SETTLED: "The delivery is not settled: it is sent as it is.",
}


class Creation(Body):
    """The body that creates a webhook."""

    url: TargetUrl
    events: EventPatterns
    customer_id: CustomerOnly = None


class Change(Body):
    """The body that changes a webhook: what is not named, or null, stays."""

    url: TargetUrl | None = None
    events: EventPatterns | None = None
    paused: bool | None = None


class Rotation(Body):
    """The body that rotates a secret."""

    keep_previous_ms: KeepPreviousMs = DAY_MS


class WebhookWrites:
    """The handlers that put a command on its topic: parse, command, wait, present."""

    def __init__(
        self,
        desk: Desk,
        questions: WebhookQuestions,
        commands: Commands,
        requests: Requests,
        limits: Limits,
        settings: Settings,
        keys: Keys,
        starts: Starts,
    ) -> None:
        self._desk, self._questions, self._commands = desk, questions, commands
        self._requests, self._limits = requests, limits
        self._loopback, self._keys, self._starts = settings.webhook_loopback, keys, starts
        self._policy = Policy(attempts=settings.webhook_attempts, first_pause_ms=settings.webhook_first_pause_ms)
        self._names = event_names()

    async def create(self, request: web.Request) -> web.Response:
        """POST /api/v1/webhooks"""
        reading.only(request)
        asked, raw = await body.read_model(request, self._limits, Creation)
        self._check(asked.url, asked.events)
        key, shown = self._key(), list[str]()

        async def act(command_id: str) -> web.Response:
            await self._require_room()
            id = derived_id(f"webhook\0{command_id}")
            name, secret = _made(key, id, command_id)
            command = CreateSubscription(
                command_id=command_id,
                subscription_id=id,
                url=asked.url,
                events=asked.events,
                customer_id=asked.customer_id,
                starts=await self._starts_now(),
                secret=name,
                policy=self._policy,
            )
            shown.append(secret)
            return await self._done(command, 201)

        return _with_secret(await self._requests.once(request, raw, act), shown)

    async def change(self, request: web.Request) -> web.Response:
        """PATCH /api/v1/webhooks/{subscription_id}"""
        reading.only(request)
        id = shapes.subscription_id(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Change)
        self._check(asked.url, asked.events or [])

        async def act(command_id: str) -> web.Response:
            command = ChangeSubscription(
                command_id=command_id, subscription_id=id, expected_version=expected, **asked.model_dump()
            )
            return await self._done(command)

        return await self._requests.once(request, raw, act)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/v1/webhooks/{subscription_id}"""
        reading.only(request)
        id, expected = shapes.subscription_id(request), reading.if_match(request)

        async def act(command_id: str) -> web.Response:
            command = DeleteSubscription(command_id=command_id, subscription_id=id, expected_version=expected)
            return await self._done(command)

        return await self._requests.once(request, b"", act)

    async def rotate(self, request: web.Request) -> web.Response:
        """POST /api/v1/webhooks/{subscription_id}/rotate"""
        reading.only(request)
        id = shapes.subscription_id(request)
        expected = reading.if_match(request)
        asked, raw = await body.read_model(request, self._limits, Rotation, empty=b"{}")
        key, shown = self._key(), list[str]()

        async def act(command_id: str) -> web.Response:
            name, secret = _made(key, id, command_id)
            command = RotateSecret(
                command_id=command_id,
                subscription_id=id,
                expected_version=expected,
                secret=name,
                keep_previous_ms=asked.keep_previous_ms,
            )
            shown.append(secret)
            return await self._done(command)

        return _with_secret(await self._requests.once(request, raw, act), shown)

    async def resend(self, request: web.Request) -> web.Response:
        """POST /api/v1/webhooks/{subscription_id}/deliveries/{delivery_id}/resend"""
        reading.only(request)
        id, delivery_id = shapes.subscription_id(request), shapes.delivery_id(request)

        async def act(command_id: str) -> web.Response:
            command = ResendDelivery(command_id=command_id, subscription_id=id, delivery_id=delivery_id)
            return await self._done(command)

        return await self._requests.once(request, b"", act)

    def _key(self) -> bytes:
        keys = self._keys()
        if not keys:
            raise Problem.unavailable("This worker has no key to make secrets from.", 60.0, problems.WEBHOOKS_OFF)
        return keys[0]

    def _check(self, url: str | None, events: Sequence[str]) -> None:
        """What can be told at once is refused at once. The judgement of a target's address is made at each attempt."""
        faults = []
        if url is not None and (fault := signatures.url_fault(url, loopback=self._loopback)) is not None:
            faults.append({"path": "$.url", "message": fault})
        for number, pattern in enumerate(events):
            if not any(name == pattern or _covers(pattern, name) for name in self._names):
                known = ", ".join(sorted(self._names))
                faults.append({"path": f"$.events[{number}]", "message": f"is no event; there are {known}"})
        if faults:
            raise Problem(problems.INVALID_DOCUMENT, f"{len(faults)} faults, see `faults`.", faults=faults)

    async def _require_room(self) -> None:
        told = await self._desk.ask_every(self._questions.count, {}, wait_s=self._limits.read_wait_s)
        most = self._limits.webhooks_most
        if sum(each.meta["count"] for each in told) >= most:
            raise Problem(problems.WEBHOOK_REFUSED, f"There are {most} webhooks already.", reason="too_many_webhooks")

    async def _starts_now(self) -> dict[str, list[int]]:
        try:
            return await self._starts()
        except Exception as error:
            # Kafka's client has many ways to say that no broker answers; to hear from an unknown place on is no way.
            raise NotReadable(f"where the events end now is not known: {type(error).__name__}") from error

    async def _done(self, command: AskedCommand, status: int = 200) -> web.Response:
        """Send the command and answer as it was answered first."""
        id = command.subscription_id
        position = await send(self._commands, id, command)
        about = {"subscription_id": id, "command_id": command.command_id}
        if isinstance(command, ResendDelivery):
            about["delivery_id"] = command.delivery_id
        wait_s = self._limits.outcome_wait_s
        found = await outcome_of(self._desk, self._questions.outcome, id, about, after=position, wait_s=wait_s)
        where = f"{shapes.HOME}/{id}"
        if found is None:
            return accepted({"subscription_id": id}, where, command.command_id, position)
        first = found.meta["answer"]
        if first is None:
            raise dead_lettered(position)
        if first["reason"] is not None:
            raise _refused(command, first)
        at = position_of(first)
        headers = {"ETag": answers.etag(first["version"]), answers.POSITION: str(at)}
        if status == 201:
            headers["Location"] = where
        return answers.answer(status, {**_told(command, found.meta), "position": str(at)}, headers)


def _told(command: AskedCommand, meta: dict[str, Any]) -> dict[str, Any]:
    """What the write came to; of what was deleted, or went meanwhile, the id."""
    id = {"subscription_id": command.subscription_id}
    if isinstance(command, ResendDelivery) and meta["delivery"] is not None:
        return {**id, **meta["delivery"]}
    return meta["webhook"] or {**id, "deleted": True}


def _made(key: bytes, subscription_id: str, command_id: str) -> tuple[SecretName, str]:
    """A secret that follows from the command, so that the same command again makes the same one: its name, itself."""
    secret_id = derived_id(f"secret {command_id}")
    secret = signatures.secret_of(key, subscription_id, secret_id)
    return SecretName(secret_id=secret_id, fingerprint=signatures.fingerprint(secret)), signatures.written(secret)


def _with_secret(answer: web.Response, shown: Sequence[str]) -> web.Response:
    """The answer with the secret that this request made, if it made one and nobody refused it."""
    if not shown or answer.status >= 300:
        return answer
    assert isinstance(answer.body, bytes), "handlers of writes answer with bytes"
    answer.body = orjson.dumps({**orjson.loads(answer.body), "secret": shown[-1]})
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _covers(pattern: str, name: str) -> bool:
    return pattern == "*" or pattern == f"{name.partition('.')[0]}.*"


def _refused(command: AskedCommand, first: dict[str, Any]) -> Problem:
    reason = WebhookRefusal(first["reason"])
    at = str(position_of(first))
    headers = {answers.POSITION: at}
    if reason is WebhookRefusal.NO_SUCH_SUBSCRIPTION:
        detail = f"There is no webhook {command.subscription_id}."
        return Problem(problems.NO_SUCH_WEBHOOK, detail, headers=headers, reason=reason, position=at)
    if reason is WebhookRefusal.WRONG_VERSION:
        return Problem.outdated(f"webhook {command.subscription_id}", first["version"], at)
    if reason is WebhookRefusal.NO_SUCH_DELIVERY:
        detail = "There is no such delivery in the log of this webhook."
        return Problem(problems.NO_SUCH_DELIVERY, detail, headers=headers, reason=reason, position=at)
    return Problem(problems.WEBHOOK_REFUSED, _WORDS[reason], headers=headers, reason=reason, position=at)
