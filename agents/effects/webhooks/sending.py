"""deliveries.events.v1 -> a signed HTTP request for each attempt that is due -> RecordAttempt on webhooks.commands.v1.

In this order, so that a crash at any point is harmless: make the attempt, under the delivery's id; write down what came
of it; commit the event's position. A worker that dies in between leaves the attempt to be made again, under that id.

Targets are somebody else's choice, so a request could be turned against our own network. What is judged is the address
that a connection is about to go to, whether it stood in the URL or a name was resolved to it: there is no second look
that could find another. Redirects are not followed: they are answers like any other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import ValidationError

from agents.effects.webhooks.routing import Commands
from schemas import signatures
from schemas.base import derived_id
from schemas.signatures import address_fault, url_fault
from schemas.webhooks import AttemptDue, RecordAttempt, read_delivery_event
from streams import faults
from streams.errors import NotReadable
from streams.printable import printable
from streams.records import Record
from streams.sink import masked

log = logging.getLogger(__name__)

#: Look-ups at the same time.
LOOKUPS_AT_ONCE = 32
#: The longest wish of a target that is written down; the rule takes less (agents/webhooks.py).
LONGEST_WISH_MS = 24 * 3_600_000
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
#: An attempt that was due longer ago is recorded as failed and not made: after a long outage, or when the effect's
#: position was set back, targets would get requests that nobody expects any more. The next attempt at the delivery is
#: due at its own time, and `resend` asks for one at once.
OLDEST_S = 24 * 3600
TOO_OLD = "not sent: the attempt was due more than 24 hours ago"
#: As socket.getaddrinfo; a test brings its own.
Lookup = Callable[..., Sequence[Any]]
#: JSON -> the same with what was sealed opened, and the paths of what nobody can open any more.
Opened = Callable[[bytes], Awaitable[tuple[bytes, list[str]]]]


@dataclass(frozen=True)
class Settled:
    """What the settings say of requests."""

    timeout_s: float = 10.0
    #: Requests to this machine, for development.
    loopback: bool = False


class NotPublic(OSError):
    """The target is not where a request may go."""


class SenderMetrics:
    """What the attempts come to. No labels that name a target: there may be thousands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "orderstream_webhook_attempts_total",
            "Attempts to deliver to webhooks by what came of them.",
            ("outcome",),
            registry=registry,
        )
        self.seconds = Histogram(
            "orderstream_webhook_attempt_seconds", "Seconds of one attempt to deliver to a webhook.", registry=registry
        )


def due(raw: bytes | None) -> AttemptDue | None:
    """The event of a record, if it says that an attempt is due."""
    if not raw or b'"attempt_due"' not in raw:  # most are not: they are not worth a parse
        return None
    try:
        event = read_delivery_event(raw)
    except ValidationError as error:
        # Nobody but our own agents writes here: another version's new word, which asks for nothing that we know.
        log.error("webhooks: an event that this version does not know: %s", error.errors(include_input=False)[:1])
        return None
    return event if isinstance(event, AttemptDue) else None


def line_of(record: Record) -> bytes | None:
    """Every record is a line of its own: attempts at one target go side by side, as its owner has counted."""
    return b"%d-%d" % (record.partition, record.offset)


def _shown(text: str) -> str:
    """An error as a command can hold it: bounded, and without bytes of an answer that are no text."""
    return printable(text, lines=False)[:256]


class Names(AbstractResolver):
    """Looks names up, in threads of its own: one that nobody answers for holds its thread for half a minute."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(self._lookup, host, port, family=family, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(hostname=host, host=str(place[0]), port=port, family=kind, proto=proto, flags=NUMERIC)
            for kind, _, proto, _, place in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def guarded_socket(loopback: bool) -> Callable[[Any], socket.socket]:
    """What makes the socket of each connection, when its address is settled: the last moment to refuse it.

    Nothing is looked up after this, so that no name can mean one address here and another when it is connected to.
    """

    def make(info: Any) -> socket.socket:
        family, kind, proto, _, place = info
        if address_fault(place[0], loopback=loopback) is not None:
            raise NotPublic("its address is not public")  # which it is, is nobody's business
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    return make


class Sender:
    """Makes the attempts."""

    def __init__(
        self,
        commands: Commands,
        keys: Callable[[], Sequence[bytes]],
        rules: Settled,
        metrics: SenderMetrics,
        lookup: Lookup = socket.getaddrinfo,
        now: Callable[[], float] = time.time,
        opened: Opened | None = None,
    ) -> None:
        """`opened`: personal data in a payload, which is sealed where that is wanted, opened for the receiver."""
        self._opened = opened
        self._commands, self._keys, self._rules, self._metrics = commands, keys, rules, metrics
        self._lookup, self._now = lookup, now
        self._session: aiohttp.ClientSession | None = None
        #: What is wrong here, and not with a target.
        self.wrong: str | None = None

    async def act(self, record: Record) -> None:
        """The deed of the effect: an attempt that is due is made, and what came of it is written down."""
        event = due(record.value)
        if event is None:
            return
        began = time.perf_counter()
        is_too_old = self._now() - record.timestamp / 1000 > OLDEST_S
        result = (None, TOO_OLD, None, "too_old") if is_too_old else await self._attempt(event)
        status, error, retry_after_ms, outcome = result
        took_s = time.perf_counter() - began
        self._metrics.attempts.labels(outcome).inc()
        self._metrics.seconds.observe(took_s)
        command = RecordAttempt(
            command_id=derived_id(f"{event.delivery_id} {event.attempt} {status} {error}"),
            subscription_id=event.subscription_id,
            delivery_id=event.delivery_id,
            attempt=event.attempt,
            status=status,
            error=error,
            retry_after_ms=retry_after_ms,
            took_ms=int(took_s * 1000),
        )
        faults.point("webhook_answered")
        await self._commands.send(key=event.subscription_id, value=command)

    async def _attempt(self, event: AttemptDue) -> tuple[int | None, str | None, int | None, str]:
        """Status, error, the target's wish, and the word for the metric. Raises nothing that it could answer."""
        secrets = self._secrets_for(event)
        if not secrets:
            self.wrong = "a subscription's secret was made with a key that ORDERSTREAM_WEBHOOK_KEYS has not"
            return None, "this worker has not the key of its secret", None, "no_key"
        self.wrong = None
        fault = url_fault(event.url, loopback=self._rules.loopback)
        if fault is not None:
            return None, fault, None, "not_public"
        try:
            body = event.payload.encode()
            if self._opened is not None:
                body, _ = await self._opened(body)
            status, retry_after, location = await self._post(event, secrets, body)
        except NotReadable as unknown:
            return None, unknown.reason[:256], None, "no_key"
        except TimeoutError:
            return None, f"no answer within {self._rules.timeout_s:g} s", None, "timed_out"
        except Exception as error:
            # A target answers what it likes, and what a client library raises over it is no closed set.
            if isinstance(error.__cause__, NotPublic):
                return None, str(error.__cause__), None, "not_public"
            return None, _shown(masked(f"{type(error).__name__}: {error}")), None, "no_answer"
        if 200 <= status < 300:
            return status, None, None, "delivered"
        if 300 <= status < 400:
            return status, _shown(f"HTTP {status}: redirects are not followed{location}"), None, "refused"
        known = status if 100 <= status <= 999 else None
        return known, f"HTTP {status}", self._wish_ms(retry_after), "refused"

    def _secrets_for(self, event: AttemptDue) -> list[bytes]:
        """The secrets to sign with, those that a key of ours makes: the fingerprint tells which key it was."""
        found = []
        for name in event.secrets:
            made = (signatures.secret_of(key, event.subscription_id, name.secret_id) for key in self._keys())
            found += [secret for secret in made if signatures.fingerprint(secret) == name.fingerprint][:1]
        return found

    async def _post(self, event: AttemptDue, secrets: Sequence[bytes], body: bytes) -> tuple[int, str | None, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Orderstream-Webhooks/1",
            **signatures.headers(secrets, event.delivery_id, int(self._now()), body),
        }
        async with self._open().post(event.url, data=body, headers=headers, allow_redirects=False) as response:
            # What it says besides is not read: the connection is closed over it.
            location = response.headers.get("Location")
            where = f" (to {location[:100]})" if location else ""
            return response.status, response.headers.get("Retry-After"), where

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=Names(self._lookup),
                socket_factory=guarded_socket(self._rules.loopback),
                use_dns_cache=False,
                force_close=True,  # of a target that moves, the next attempt finds the new place
                limit=0,  # the effect bounds how many there are
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=self._rules.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would look names up itself
            )
        return self._session

    def _wish_ms(self, retry_after: str | None) -> int | None:
        """Retry-After (RFC 9110 §10.2.3): seconds, or a date."""
        if retry_after is None:
            return None
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
            return min(int(retry_after) * 1000, LONGEST_WISH_MS)
        try:
            at = parsedate_to_datetime(retry_after)
            wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.fromtimestamp(self._now(), UTC)
        except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
            return None  # no date, or one beyond the calendar
        return min(max(0, int(wait.total_seconds() * 1000)), LONGEST_WISH_MS)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
