"""payments.events.v1 -> requests to an outside payment service -> Record… commands on payments.commands.v1.

In this order, so that a crash at any point is harmless: ask, under a key that stays the same; write the answer down as
a command whose id follows from event and answer; commit the event's position. Whatever happens an answer is recorded:
when nobody answers in the end, that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never
from urllib.parse import urlsplit

import aiohttp
import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import ValidationError

from schemas.base import derived_id
from schemas.payments import (
    CaptureRequested,
    DeclineReason,
    PaymentCommandRefused,
    PaymentMethod,
    PaymentRequested,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    Recorded,
    RecordFailure,
    RecordRefund,
    RecordVoid,
    RefundRequested,
    ReversalRecorded,
    Source,
    Step,
    VoidRequested,
    read_event,
)
from schemas.provider import (
    SIGNATURE,
    AuthorisationAsked,
    CaptureAsked,
    ProviderAnswer,
    ProviderStatus,
    RefundAsked,
    Signed,
    VoidAsked,
    key_of,
    sign,
)
from schemas.settings import Settings
from schemas.topics import PAYMENT_EVENTS
from streams import App, faults
from streams.effects import Effect
from streams.printable import printable
from streams.records import Record
from streams.sink import Backoff, masked

log = logging.getLogger(__name__)

NAME = "provider"
#: No answer is larger; what is, is not read.
MOST_ANSWER_BYTES = 64 << 10
#: Of the answers that are no 2xx, those that another attempt may change.
TRY_AGAIN = {408, 425, 429, *range(500, 600)}

Asked = PaymentRequested | CaptureRequested | VoidRequested | RefundRequested


@dataclass(frozen=True)
class Provider:
    """Where the payment service is and how it is spoken to. Times in seconds."""

    url: str
    secret: str
    timeout_s: float = 5.0
    attempts: int = 6
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0
    #: How long it knows an idempotency key again. A request older than that is not sent: it could be a second one.
    keys_kept_s: float = 24 * 3600.0


class Refused(Exception):
    """The provider will not do it, however often it is asked."""


class Unreachable(Exception):
    """No attempt was answered."""


class Commands(Protocol):
    """The topic of payments' commands, as far as this room needs it."""

    async def send(self, *, key: str, value: Any) -> Any: ...


# -- words: what is asked, and what the answer means -------------------------------------------------------------------


def request_for(event: Asked) -> tuple[str, str, Any]:
    """Path, idempotency key and body of what an event asks for."""
    uid = event.order_uid
    match event:
        case PaymentRequested():
            asked = AuthorisationAsked(
                order_id=uid,
                user_id=event.user_id,
                amount=event.amount_minor,
                currency=event.currency,
                instrument=event.instrument,
            )
            return "/payments", key_of(uid, Step.AUTHORISE), asked
        case CaptureRequested():
            return f"/payments/{uid}/capture", key_of(uid, Step.CAPTURE), CaptureAsked(amount=event.amount_minor)
        case VoidRequested():
            return f"/payments/{uid}/void", key_of(uid, Step.VOID, event.void_number), VoidAsked()
        case RefundRequested():
            body = RefundAsked(refund_id=event.refund_id, amount=event.amount_minor)
            return f"/payments/{uid}/refunds", key_of(uid, Step.REFUND, event.refund_id), body
    assert_never(event)


def recorded(event: Asked, answer: ProviderAnswer) -> Recorded | None:
    """The command that an answer comes to. None: the provider has not decided; its callback will say."""
    if answer.currency not in (None, event.currency):
        return failed(event, "wrong_currency", f"asked in {event.currency}, answered in {answer.currency}")
    said = {**_said(event, f"{answer.status} {answer.amount}"), "reference": printable(answer.id, lines=False)[:256]}
    match answer.status, event:
        case ProviderStatus.PENDING, _:
            return None
        case ProviderStatus.AUTHORISED, PaymentRequested():
            return RecordAuthorisation(**said, amount_minor=answer.amount)
        case ProviderStatus.DECLINED, PaymentRequested():
            return RecordDecline(**said, reason=DeclineReason.DECLINED_BY_PROVIDER, detail=_shown(answer.reason))
        case ProviderStatus.CAPTURED, PaymentRequested() | CaptureRequested() | VoidRequested():
            return RecordCapture(**said, amount_minor=answer.amount)
        case ProviderStatus.VOIDED, VoidRequested():
            return RecordVoid(**said, void_number=event.void_number)
        case ProviderStatus.VOIDED, PaymentRequested() | CaptureRequested():
            return RecordVoid(**said)
        case ProviderStatus.REFUNDED, RefundRequested():
            return RecordRefund(**said, refund_id=event.refund_id, amount_minor=answer.amount)
        case _:
            return failed(event, "declined_by_provider", answer.reason or f"it answered {answer.status}")


def failed(event: Asked, reason: str, detail: str) -> Recorded:
    """The command that no answer, or one that does not help, comes to."""
    said, detail = _said(event, reason), printable(detail, lines=False)[:256]
    if isinstance(event, PaymentRequested):
        known = {str(each): each for each in DeclineReason}
        return RecordDecline(**said, reason=known.get(reason, DeclineReason.REFUSED), detail=detail)
    steps = {CaptureRequested: Step.CAPTURE, VoidRequested: Step.VOID, RefundRequested: Step.REFUND}
    step: Any = steps[type(event)]
    refund_id = event.refund_id if isinstance(event, RefundRequested) else None
    return RecordFailure(**said, step=step, refund_id=refund_id, reason=reason, detail=detail)


def _said(event: Asked, outcome: str) -> dict[str, Any]:
    """The id follows from event and outcome: the same answer again is the same command again."""
    return {
        "command_id": derived_id(f"{event.event_id} {NAME} {outcome}"),
        "order_uid": event.order_uid,
        "source": Source.PROVIDER,
    }


def _shown(text: str | None) -> str | None:
    return None if text is None else printable(text, lines=False)[:256]


def asked_by(raw: bytes | None) -> Asked | None:
    """The event of a record, if it asks something of the provider."""
    if not raw or b'"provider"' not in raw:  # most are not: they are not worth a parse
        return None
    try:
        event = read_event(raw)
    except ValidationError as error:
        # Nobody but our own agents writes here: another version's new word, which asks for nothing that we know.
        log.error("provider: an event that this version does not know: %s", error.errors(include_input=False)[:1])
        return None
    if isinstance(event, Asked) and event.method is PaymentMethod.PROVIDER:
        return event
    return None


def reversal_of(raw: bytes | None) -> str | None:
    """What a record says of money that nobody requested back: `refund`, `chargeback`, `refused`, or None."""
    if not raw or not any(word in raw for word in _OF_REVERSALS):  # few are: others are not worth a parse
        return None
    try:
        event = read_event(raw)
    except ValidationError:
        return None
    match event:
        case ReversalRecorded():
            return event.kind
        case PaymentCommandRefused(command="record_reversal"):
            return "refused"
        case PaymentCommandRefused(command="record_refund", source=Source.CALLBACK):
            return "refused"
        case _:
            return None


_OF_REVERSALS = (b'"reversal_recorded"', b'"record_reversal"', b'"record_refund"')


# -- calls -------------------------------------------------------------------------------------------------------------


class ProviderMetrics:
    """What the calls come to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "orderstream_provider_calls_total",
            "Requests to the payment provider by what came of them.",
            ("path", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "orderstream_provider_call_seconds", "Seconds of one request to the payment provider.", registry=registry
        )
        self.reversals = Counter(
            "orderstream_payment_reversals_total",
            "Reports of captured money that the provider took back without a request, by kind, or refused.",
            ("kind",),
            registry=registry,
        )
        for kind in ("refund", "chargeback", "refused"):
            self.reversals.labels(kind)  # from 0 on, so that `increase` sees the first one


class Client:
    """Asks the provider, again and again with growing pauses, within bounds."""

    def __init__(self, provider: Callable[[], Provider | None], metrics: ProviderMetrics) -> None:
        """`provider` is asked before each request: where it is may be known later than the worker starts."""
        self._provider, self._metrics = provider, metrics
        self._session: aiohttp.ClientSession | None = None
        self.wrong: str | None = None

    async def record_for(self, event: Asked, age_s: float) -> Recorded | None:
        """The command that an event comes to. Raises nothing that a further attempt could mend."""
        provider = self._provider()
        if provider is None:
            why = "Set ORDERSTREAM_PROVIDER_URL and ORDERSTREAM_PROVIDER_SECRET on every worker."
            return failed(event, "provider_not_configured", why)
        if age_s > provider.keys_kept_s:
            return failed(event, "provider_unreachable", f"Asked {age_s:.0f} s ago: the key may be forgotten.")
        path, key, asked = request_for(event)
        try:
            return recorded(event, await self._ask(provider, path, key, asked.model_dump_json().encode()))
        except Refused as error:
            return failed(event, "refused", str(error))
        except Unreachable as error:
            return failed(event, "provider_unreachable", str(error))

    async def _ask(self, provider: Provider, path: str, key: str, body: bytes) -> ProviderAnswer:
        backoff = Backoff(provider.first_pause_s, provider.longest_pause_s)
        kind = path.rsplit("/", 1)[-1]
        for attempt in range(1, provider.attempts + 1):
            began = time.perf_counter()
            try:
                answer = await self._once(provider, path, key, body)
            except Refused:
                self._metrics.calls.labels(kind, "refused").inc()
                self.wrong = None
                raise
            except Exception as error:  # what a client library raises over an odd answer is no closed set
                self._metrics.calls.labels(kind, "no_answer").inc()
                self.wrong = masked(f"{type(error).__name__}: {error}")
                log.warning("provider: %s, attempt %d of %d: %s", path, attempt, provider.attempts, self.wrong)
                if attempt < provider.attempts:
                    await asyncio.sleep(backoff.next())
                continue
            finally:
                self._metrics.seconds.observe(time.perf_counter() - began)
            self.wrong = None
            self._metrics.calls.labels(kind, answer.status).inc()
            return answer
        raise Unreachable(f"{provider.attempts} attempts; the last: {self.wrong}")

    async def _once(self, provider: Provider, path: str, key: str, body: bytes) -> ProviderAnswer:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        about = Signed("POST", urlsplit(provider.url).path + path, key)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            SIGNATURE: sign(provider.secret, body, int(time.time()), about),
        }
        timeout = aiohttp.ClientTimeout(total=provider.timeout_s)
        # A redirect is an answer like any other that is no 2xx: what was signed for one place goes nowhere else.
        async with self._session.post(
            provider.url + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            raw = await _read(response)
            if response.status in TRY_AGAIN:
                raise Unreachable(f"HTTP {response.status}")
            if not 200 <= response.status < 300:
                raise Refused(f"HTTP {response.status}: {_reason(raw)}")
        try:
            return ProviderAnswer.model_validate_json(raw)
        except ValidationError as error:
            raise Unreachable(f"HTTP {response.status}, not an answer: {error.error_count()} faults") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a bound: what is cut off is no answer."""
    raw = b""
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > MOST_ANSWER_BYTES:
            break
    return raw[:MOST_ANSWER_BYTES]


def _reason(raw: bytes) -> str:
    try:
        told = orjson.loads(raw)
        return str(told.get("detail") or told.get("reason") or told)[:200]
    except (orjson.JSONDecodeError, AttributeError):
        return raw[:200].decode(errors="replace")


def attach(app: App, commands: Commands, settings: Settings, where: Callable[[], tuple[str, str] | None]) -> Effect:
    """Run the effect in every worker of the app; they share the partitions. Its `health()` is for health checks.

    `where`: URL and secret of the provider, if there is one.
    """

    def provider() -> Provider | None:
        found = where()
        if found is None:
            return None
        return Provider(
            *found,
            timeout_s=settings.provider_timeout_ms / 1000,
            attempts=settings.provider_attempts,
            keys_kept_s=settings.provider_keys_kept_ms / 1000,
        )

    metrics = ProviderMetrics(app.metrics.registry)
    client = Client(provider, metrics)

    async def act(record: Record) -> None:
        if (reversal := reversal_of(record.value)) is not None:
            metrics.reversals.labels(reversal).inc()
            at = f"{record.topic}-{record.partition}-{record.offset}"
            log.warning(
                "provider: money was taken back without a request (%s): see payment %a at %s", reversal, record.key, at
            )
        event = asked_by(record.value)
        if event is None:
            return
        command = await client.record_for(event, time.time() - record.timestamp / 1000)
        faults.point("effect_answered")
        if command is not None:
            await commands.send(key=command.order_uid, value=command)

    effect = Effect(
        app,
        NAME,
        [PAYMENT_EVENTS.name],
        act,
        health=lambda: client.wrong,
        close=client.close,
        works=lambda: app.engine.works,
    )
    app.add_service(effect)
    return effect
