"""Webhooks: commands, events, refusals, states of subscriptions and their deliveries. Partition key: subscription_id.

A subscription names a target and what it wants to hear of. Each event that it wants is one delivery with one id, which
follows from both and is the same in every attempt. Secrets are in no record: they follow from a key that workers have
(schemas/signatures.py); records hold a fingerprint.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, Field, TypeAdapter

from schemas.accounts import UserId
from schemas.base import Command, Event, Model, derived_id, one_of

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

#: Attempts under way at one target at the same time: what is slow there presses neither on it nor on others.
AT_ONCE = 4
#: Deliveries of a subscription that are not settled. Beyond it a new one is given up at once, and can be sent again.
MOST_UNSETTLED = 10_000
#: Settled deliveries that the log of a subscription keeps; they can be sent again, and are known again, as long.
KEPT_DELIVERIES = 2_000
#: A secret that is being rotated in, the ones before it, and no more: each is one more signature in every request.
MOST_SECRETS = 3
#: What a receiver has to take in. Of a larger event only the names are sent.
MAX_PAYLOAD_BYTES = 64 << 10
LONGEST_BREAK_MS = 3_600_000
DAY_MS = 24 * 3_600_000
#: The header that `about` writes.
CUSTOMER = "customer"


def _target(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        fits = fits and parts.password is None and not parts.fragment and parts.port != 0
    except ValueError:
        fits = False
    if not fits or any(char <= " " or char > "~" or char == "\\" for char in url):
        raise ValueError("must be https://host[:port][/path][?query] in ASCII, without user and fragment")
    return url


SubscriptionId = Annotated[
    str,
    Field(
        pattern=UUID_PATTERN,
        description="Names the subscription for ever; the partition key.",
        examples=["0b7e6f6e-6c8e-5b0a-9f64-0d5f3a2b1c4d"],
    ),
]
DeliveryId = Annotated[
    str,
    Field(
        pattern=UUID_PATTERN,
        description="Follows from subscription and event: the webhook-id of every attempt.",
        examples=["5f0e1d2c-1a2b-5c3d-8e4f-5a6b7c8d9e0f"],
    ),
]
TargetUrl = Annotated[
    str,
    AfterValidator(_target),
    Field(max_length=2048, description="Where to: https.", examples=["https://example.com/hooks/orders"]),
]
EventPattern = Annotated[
    str,
    Field(
        pattern=r"^(\*|[a-z_]+\.(\*|[a-z_]+))$",
        description="An event's name, `<domain>.<type>`; `<domain>.*` for all of a domain, `*` for all.",
        examples=["purchases.order_paid"],
    ),
]
EventPatterns = Annotated[list[EventPattern], Field(min_length=1, max_length=64)]
CustomerOnly = Annotated[
    UserId | None, Field(description="Only events about this customer; null: all.", examples=[None])
]
Starts = Annotated[
    dict[str, list[Annotated[int, Field(ge=0)]]],
    Field(description="By topic of events, the offset in each partition from which on the subscription hears."),
]
AtMs = Annotated[int, Field(ge=0)]
KeepPreviousMs = Annotated[int, Field(ge=0, le=7 * DAY_MS)]


class SecretName(Model):
    """A secret without the secret. What it is follows from `secret_id` and a key that only workers have."""

    secret_id: str
    fingerprint: str = Field(description="Of the secret: the same secret, the same fingerprint.")


class Policy(Model):
    """How patient a subscription is. It comes with the command, so that a replay decides the same."""

    attempts: Annotated[int, Field(ge=1, le=50)] = 12
    first_pause_ms: Annotated[int, Field(ge=1, le=DAY_MS)] = 5_000
    longest_pause_ms: Annotated[int, Field(ge=1, le=DAY_MS)] = 6 * 3_600_000
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_pause_ms: Annotated[int, Field(ge=1, le=LONGEST_BREAK_MS)] = 30_000


def about(customer_id: str | None) -> tuple[tuple[str, bytes], ...]:
    """The header of an event that does not say itself whom it is about: webhooks of one customer go by it."""
    return () if customer_id is None else ((CUSTOMER, customer_id.encode()),)


def delivery_id_of(subscription_id: str, event_id: str) -> str:
    """The one delivery of an event to a subscription."""
    return derived_id(f"delivery\0{subscription_id}\0{event_id}")


# --- commands ---------------------------------------------------------------------------------------------------------


class CreateSubscription(Command):
    """Tell a target of events from here on."""

    type: Literal["create_subscription"] = "create_subscription"
    subscription_id: SubscriptionId
    url: TargetUrl
    events: EventPatterns
    customer_id: CustomerOnly = None
    starts: Starts = Field(default_factory=dict)
    secret: SecretName
    policy: Policy = Policy()


class ChangeSubscription(Command):
    """What is named changes. While it is paused deliveries wait; to go on closes the breaker."""

    type: Literal["change_subscription"] = "change_subscription"
    subscription_id: SubscriptionId
    url: TargetUrl | None = None
    events: EventPatterns | None = None
    paused: bool | None = None


class DeleteSubscription(Command):
    """Forget the subscription and its deliveries."""

    type: Literal["delete_subscription"] = "delete_subscription"
    subscription_id: SubscriptionId


class RotateSecret(Command):
    """Sign with a new secret, and for a while with those before it as well."""

    type: Literal["rotate_secret"] = "rotate_secret"
    subscription_id: SubscriptionId
    secret: SecretName
    keep_previous_ms: KeepPreviousMs = DAY_MS


class ResendDelivery(Command):
    """Send a settled delivery again, under the same id."""

    type: Literal["resend_delivery"] = "resend_delivery"
    subscription_id: SubscriptionId
    delivery_id: DeliveryId


class RequestDelivery(Command):
    """An event that the subscription wants. Sent by the effect that reads events."""

    type: Literal["request_delivery"] = "request_delivery"
    subscription_id: SubscriptionId
    delivery_id: DeliveryId
    event_id: str
    event_type: str
    position: str = Field(description="Where the event stands: topic-partition-offset.")
    payload: str = Field(description="The body to send, JSON.")


class RecordAttempt(Command):
    """What came of an attempt. Sent by the effect that makes them."""

    type: Literal["record_attempt"] = "record_attempt"
    subscription_id: SubscriptionId
    delivery_id: DeliveryId
    attempt: Annotated[int, Field(ge=1)]
    status: Annotated[int, Field(ge=100, le=999)] | None = Field(None, description="Of the answer, if there was one.")
    error: Annotated[str, Field(max_length=256)] | None = None
    retry_after_ms: AtMs | None = Field(None, description="The target's own wish.")
    took_ms: AtMs = 0

    @property
    def delivered(self) -> bool:
        return self.error is None and self.status is not None and 200 <= self.status < 300


class RetryDelivery(Command):
    """The pause before the next attempt is over. Sent by its deadline."""

    type: Literal["retry_delivery"] = "retry_delivery"
    subscription_id: SubscriptionId
    delivery_id: DeliveryId
    attempt: int = Field(description="The attempt that failed before the pause.")


class ProbeTarget(Command):
    """The breaker has been open for long enough. Sent by its deadline."""

    type: Literal["probe_target"] = "probe_target"
    subscription_id: SubscriptionId
    until_ms: int = Field(description="Until when it was to be open: names the opening.")


class ForgetDeliveries(Command):
    """Drop rows of a subscription that is no more; sent again until none is left."""

    type: Literal["forget_deliveries"] = "forget_deliveries"
    subscription_id: SubscriptionId


AskedCommand = CreateSubscription | ChangeSubscription | DeleteSubscription | RotateSecret | ResendDelivery
AnyWebhookCommand = AskedCommand | RequestDelivery | RecordAttempt | RetryDelivery | ProbeTarget | ForgetDeliveries
WebhookCommand = Annotated[AnyWebhookCommand, Field(discriminator="type")]


def content_of(command: AskedCommand) -> str:
    """What a command asks for, whatever its id. Where hearing begins is no part of it: that differs by the moment."""
    asked = command.model_dump(mode="json", exclude={"command_id", "expected_version", "starts", "policy"})
    return derived_id(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode())


# --- events of subscriptions ------------------------------------------------------------------------------------------


class WebhookRefusal(StrEnum):
    """Why a command changed nothing, in the order decide checks them."""

    NO_SUCH_SUBSCRIPTION = "no_such_subscription"
    WRONG_VERSION = "wrong_version"
    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"
    NOTHING_TO_CHANGE = "nothing_to_change"
    TOO_MANY_SECRETS = "too_many_secrets"
    NO_SUCH_DELIVERY = "no_such_delivery"
    DELIVERY_NOT_SETTLED = "delivery_not_settled"


class PauseReason(StrEnum):
    """Why nothing is sent."""

    REQUESTED = "requested"
    GONE = "gone"


class HeldSecret(SecretName):
    """A secret in use. The newest has no end; those before it are used until theirs."""

    retires_at_ms: AtMs | None = None


class _WebhookEvent(Event):
    subscription_id: SubscriptionId


class _SubscriptionStands(_WebhookEvent):
    """A subscription after the event."""

    version: int = Field(ge=1, description="Of the subscription after this event: one more than before.")
    url: TargetUrl
    events: EventPatterns
    customer_id: CustomerOnly
    paused: PauseReason | None


class SubscriptionCreated(_SubscriptionStands):
    """Events are delivered from here on."""

    type: Literal["subscription_created"] = "subscription_created"
    starts: Starts
    secret: SecretName
    policy: Policy


class SubscriptionChanged(_SubscriptionStands):
    """It wants something else, or elsewhere; or it is paused, or goes on."""

    type: Literal["subscription_changed"] = "subscription_changed"


class SecretRotated(_WebhookEvent):
    """Requests are signed with another secret."""

    type: Literal["secret_rotated"] = "secret_rotated"
    version: int = Field(ge=1)
    secrets: list[HeldSecret] = Field(description="All that are in use after this event, the newest first.")


class SubscriptionDeleted(_WebhookEvent):
    """Nothing is delivered any more."""

    type: Literal["subscription_deleted"] = "subscription_deleted"
    version: int = Field(ge=1)


class WebhookCommandRefused(_WebhookEvent):
    """A command changed nothing."""

    type: Literal["webhook_command_refused"] = "webhook_command_refused"
    version: int = Field(ge=0, description="Of the subscription, which a refusal does not change; 0: there is none.")
    command: str
    reason: WebhookRefusal


SubscriptionEvent = (
    SubscriptionCreated | SubscriptionChanged | SecretRotated | SubscriptionDeleted | WebhookCommandRefused
)

# --- events of deliveries ---------------------------------------------------------------------------------------------


class QueueReason(StrEnum):
    """Why a delivery waits for its turn."""

    REQUESTED = "requested"
    RETRY = "retry"
    RESEND = "resend"


class GiveUpReason(StrEnum):
    """Why a delivery is not attempted any more."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    GONE = "gone"
    BACKLOG_FULL = "backlog_full"


class _DeliveryEvent(_WebhookEvent):
    delivery_id: DeliveryId


class DeliveryQueued(_DeliveryEvent):
    """The delivery waits for its turn."""

    type: Literal["delivery_queued"] = "delivery_queued"
    reason: QueueReason
    sequence: int = Field(ge=1, description="Numbers the deliveries of a subscription.")
    about: str = Field(description="event_id of what is delivered.")
    event_type: str
    position: str


class AttemptDue(_DeliveryEvent):
    """The delivery is to be attempted now. The effect that makes attempts waits for this."""

    type: Literal["attempt_due"] = "attempt_due"
    attempt: int = Field(ge=1)
    url: TargetUrl
    secrets: list[SecretName] = Field(description="Those to sign with.")
    payload: str


class DeliverySucceeded(_DeliveryEvent):
    """The target has taken it."""

    type: Literal["delivery_succeeded"] = "delivery_succeeded"
    attempt: int
    status: int
    took_ms: int


class AttemptFailed(_DeliveryEvent):
    """The target has not taken it."""

    type: Literal["attempt_failed"] = "attempt_failed"
    attempt: int
    status: int | None
    error: str
    took_ms: int
    next_attempt_at_ms: AtMs | None = Field(description="When the pause is over; null: there is no next attempt.")


class DeliveryGivenUp(_DeliveryEvent):
    """It is not attempted any more, unless somebody asks for it."""

    type: Literal["delivery_given_up"] = "delivery_given_up"
    reason: GiveUpReason


class BreakerOpened(_WebhookEvent):
    """The target has failed so often that it is left alone for a while."""

    type: Literal["breaker_opened"] = "breaker_opened"
    until_ms: AtMs
    openings: int = Field(ge=1, description="In a row: each lasts twice as long as the one before, up to an hour.")


class BreakerHalfOpened(_WebhookEvent):
    """One attempt is allowed, to see how the target is."""

    type: Literal["breaker_half_opened"] = "breaker_half_opened"


class BreakerClosed(_WebhookEvent):
    """The target answers again, or somebody says that it does."""

    type: Literal["breaker_closed"] = "breaker_closed"


DeliveryChanged = DeliveryQueued | AttemptDue | DeliverySucceeded | AttemptFailed | DeliveryGivenUp
BreakerChanged = BreakerOpened | BreakerHalfOpened | BreakerClosed
DeliveryEvent = DeliveryChanged | BreakerChanged
WebhookEvent = SubscriptionEvent | DeliveryEvent

_subscription_events: TypeAdapter[SubscriptionEvent] = one_of(SubscriptionEvent)
_delivery_events: TypeAdapter[DeliveryEvent] = one_of(DeliveryEvent)


def read_event(raw: bytes) -> SubscriptionEvent:
    """An event of a subscription as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _subscription_events.validate_json(raw)


def read_delivery_event(raw: bytes) -> DeliveryEvent:
    """An event of a delivery as it was written, newer fields ignored. Raises pydantic's ValidationError."""
    return _delivery_events.validate_json(raw)


# --- states -----------------------------------------------------------------------------------------------------------


class Subscription(Model):
    """A subscription as it stands: the value of the table `webhooks`."""

    subscription_id: str
    url: str
    events: list[str]
    customer_id: str | None
    paused: PauseReason | None
    secrets: list[HeldSecret]
    policy: Policy
    version: int
    created_at: str
    updated_at: str


class Breaker(StrEnum):
    """Whether a target is left alone."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Target(NamedTuple):
    """What is going on at a subscription's target: the value of the table `webhook_targets`."""

    next_sequence: int = 1
    unsettled: int = 0
    under_way: int = 0
    failures: int = 0  # in a row
    breaker: Breaker = Breaker.CLOSED
    openings: int = 0  # in a row
    open_until_ms: int | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "breaker": Breaker(row["breaker"])})


class DeliveryState(StrEnum):
    """Where a delivery stands. The last two are settled."""

    WAITING = "waiting"
    UNDER_WAY = "under_way"
    PAUSING = "pausing"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


SETTLED = (DeliveryState.DELIVERED, DeliveryState.GIVEN_UP)


class Delivery(NamedTuple):
    """A delivery as it stands: the value of the table `webhook_deliveries`."""

    delivery_id: str
    sequence: int
    event_id: str
    event_type: str
    position: str
    state: DeliveryState
    attempts: int
    spent: int  # attempts made before it was last asked for: they do not count against the policy
    queued_at: str
    updated_at: str
    next_attempt_at_ms: int | None = None
    last_status: int | None = None
    last_error: str | None = None
    last_took_ms: int | None = None
    given_up: GiveUpReason | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        reason = GiveUpReason(row["given_up"]) if row["given_up"] else None
        return cls(**{**row, "state": DeliveryState(row["state"]), "given_up": reason})


class CommandAnswer(NamedTuple):
    """What became of a command that somebody asked for, and its record: the value of `webhook_commands`."""

    content: str
    type: str
    reason: WebhookRefusal | None
    version: int
    topic: str
    partition: int
    offset: int

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        row = orjson.loads(raw)
        return cls(**{**row, "reason": WebhookRefusal(row["reason"]) if row["reason"] else None})
