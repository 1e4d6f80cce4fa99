"""webhooks.commands.v1 -> decide -> webhooks.events.v1 and deliveries.events.v1; state in tables/webhooks.py.

A subscription, its breaker and its deliveries have one writer. It says when an attempt is due, for a few deliveries at
a time; the rest waits here, in the log's tables, and not in the memory of whoever sends.
"""

from __future__ import annotations

from typing import Any, NamedTuple, assert_never

from schemas.base import derived_id, event_id_for, rfc3339, time_ms
from schemas.webhooks import (
    AT_ONCE,
    LONGEST_BREAK_MS,
    MOST_SECRETS,
    MOST_UNSETTLED,
    SETTLED,
    AnyWebhookCommand,
    AskedCommand,
    AttemptDue,
    AttemptFailed,
    Breaker,
    BreakerClosed,
    BreakerHalfOpened,
    BreakerOpened,
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    Delivery,
    DeliveryChanged,
    DeliveryEvent,
    DeliveryGivenUp,
    DeliveryQueued,
    DeliveryState,
    DeliverySucceeded,
    ForgetDeliveries,
    GiveUpReason,
    HeldSecret,
    PauseReason,
    Policy,
    ProbeTarget,
    QueueReason,
    RecordAttempt,
    RequestDelivery,
    ResendDelivery,
    RetryDelivery,
    RotateSecret,
    SecretName,
    SecretRotated,
    Subscription,
    SubscriptionChanged,
    SubscriptionCreated,
    SubscriptionDeleted,
    SubscriptionEvent,
    Target,
    WebhookCommand,
    WebhookCommandRefused,
    WebhookEvent,
    WebhookRefusal,
)
from streams import App, Position, Record, Stream, Topic
from tables.webhooks import GROUP, WebhookTables

#: Each pause is so many times the one before.
GROWTH = 3
#: No target's wish keeps a delivery waiting for longer.
LONGEST_WISH_MS = 3_600_000
#: Deliveries that one record drops: a large log must not hold up the batch.
DROPPED_AT_ONCE = 500
#: What a target says that wants to hear no more (RFC 9110 §15.5.11).
GONE = 410


class Standing(NamedTuple):
    """What a command meets: its subscription, what is going on there, and the delivery that it names."""

    subscription: Subscription | None
    target: Target
    delivery: Delivery | None


# -- rules: subscriptions ----------------------------------------------------------------------------------------------


def decide(
    standing: Standing, command: AnyWebhookCommand, at_ms: int, *, answered: bool = False
) -> tuple[WebhookEvent, ...]:
    """One case per row of the decision table. `()`: nothing new to say. `at_ms`: the time of the record.

    `answered`: this command_id has had its event or its refusal already. What the effects and the deadlines send needs
    no such memory: it is about an attempt, and the delivery knows which one it waits for.
    """
    if answered:
        return ()
    subscription = standing.subscription
    if subscription is None:
        return _without_subscription(command, at_ms)
    reason = _objection(standing, command, at_ms)
    if reason is not None:
        return (_refused(subscription, command, at_ms, reason),)
    match command:
        case CreateSubscription() | ForgetDeliveries():
            return ()
        case ChangeSubscription():
            return _changed(standing, subscription, command, at_ms)
        case RotateSecret():
            return (_rotated(subscription, command, at_ms),)
        case DeleteSubscription():
            return (SubscriptionDeleted(**_said(command, at_ms), version=subscription.version + 1),)
        case ResendDelivery():
            assert standing.delivery is not None, "a resend of nothing was refused"
            return (_queued(standing.delivery, command, at_ms, QueueReason.RESEND),)
        case RequestDelivery():
            return _requested(standing, command, at_ms)
        case RecordAttempt():
            return _recorded(standing, subscription, command, at_ms)
        case RetryDelivery():
            delivery = standing.delivery
            if delivery is None or (delivery.state, delivery.attempts) != (DeliveryState.PAUSING, command.attempt):
                return ()
            return (_queued(delivery, command, at_ms, QueueReason.RETRY),)
        case ProbeTarget():
            if (standing.target.breaker, standing.target.open_until_ms) != (Breaker.OPEN, command.until_ms):
                return ()
            return (BreakerHalfOpened(**_said(command, at_ms)),)
    assert_never(command)


def _without_subscription(command: AnyWebhookCommand, at_ms: int) -> tuple[WebhookEvent, ...]:
    match command:
        case CreateSubscription():
            event = SubscriptionCreated(
                **_said(command, at_ms),
                version=1,
                url=command.url,
                events=command.events,
                customer_id=command.customer_id,
                paused=None,
                starts=command.starts,
                secret=command.secret,
                policy=command.policy,
            )
            return (event,)
        case ChangeSubscription() | RotateSecret() | DeleteSubscription() | ResendDelivery():
            return (_refused(None, command, at_ms, WebhookRefusal.NO_SUCH_SUBSCRIPTION),)
        case RequestDelivery() | RecordAttempt() | RetryDelivery() | ProbeTarget() | ForgetDeliveries():
            return ()  # it was deleted meanwhile
    assert_never(command)


def _objection(standing: Standing, command: AnyWebhookCommand, at_ms: int) -> WebhookRefusal | None:
    """Why the command changes nothing; the first reason in the order of WebhookRefusal."""
    subscription, delivery = standing.subscription, standing.delivery
    assert subscription is not None, "without one there is another table"
    if command.is_outdated(subscription.version):
        return WebhookRefusal.WRONG_VERSION
    match command:
        case CreateSubscription():
            same = (subscription.url, subscription.events, subscription.customer_id) == (
                command.url,
                command.events,
                command.customer_id,
            )
            return None if same else WebhookRefusal.EXISTS_WITH_DIFFERENT_CONTENT
        case ChangeSubscription() if (command.url, command.events, command.paused) == (None, None, None):
            return WebhookRefusal.NOTHING_TO_CHANGE
        case RotateSecret() if len(_in_use(subscription, at_ms)) >= MOST_SECRETS and command.keep_previous_ms > 0:
            return WebhookRefusal.TOO_MANY_SECRETS
        case ResendDelivery() if delivery is None:
            return WebhookRefusal.NO_SUCH_DELIVERY
        case ResendDelivery() if delivery is not None and delivery.state not in SETTLED:
            return WebhookRefusal.DELIVERY_NOT_SETTLED
        case _:
            return None


def _changed(
    standing: Standing, subscription: Subscription, command: ChangeSubscription, at_ms: int
) -> tuple[WebhookEvent, ...]:
    url = command.url or subscription.url
    events = command.events or subscription.events
    paused = subscription.paused
    if command.paused is not None:
        paused = (paused or PauseReason.REQUESTED) if command.paused else None
    if (url, events, paused) == (subscription.url, subscription.events, subscription.paused):
        return ()
    said = _said(command, at_ms)
    after = {"version": subscription.version + 1, "url": url, "events": events, "paused": paused}
    changed = SubscriptionChanged(**said, **after, customer_id=subscription.customer_id)
    # Elsewhere, or told to go on: what was found of the target before says nothing any more.
    anew = url != subscription.url or (subscription.paused is not None and paused is None)
    if anew and standing.target.breaker is not Breaker.CLOSED:
        return changed, BreakerClosed(**_said(command, at_ms, 1))
    return (changed,)


def _rotated(subscription: Subscription, command: RotateSecret, at_ms: int) -> SecretRotated:
    ends_ms = at_ms + command.keep_previous_ms
    before = [
        secret.model_copy(update={"retires_at_ms": min(ends_ms, secret.retires_at_ms or ends_ms)})
        for secret in _in_use(subscription, at_ms)
        if command.keep_previous_ms > 0
    ]
    newest = HeldSecret(**command.secret.model_dump())
    return SecretRotated(**_said(command, at_ms), version=subscription.version + 1, secrets=[newest, *before])


def _in_use(subscription: Subscription, at_ms: int) -> list[HeldSecret]:
    return [each for each in subscription.secrets if each.retires_at_ms is None or each.retires_at_ms > at_ms]


# -- rules: deliveries -------------------------------------------------------------------------------------------------


def _requested(standing: Standing, command: RequestDelivery, at_ms: int) -> tuple[WebhookEvent, ...]:
    if standing.delivery is not None:
        return ()
    queued = DeliveryQueued(
        **_said(command, at_ms),
        delivery_id=command.delivery_id,
        reason=QueueReason.REQUESTED,
        sequence=standing.target.next_sequence,
        about=command.event_id,
        event_type=command.event_type,
        position=command.position,
    )
    if standing.target.unsettled < MOST_UNSETTLED:
        return (queued,)
    return queued, _given_up(command, at_ms, 1, GiveUpReason.BACKLOG_FULL)


def _recorded(
    standing: Standing, subscription: Subscription, command: RecordAttempt, at_ms: int
) -> tuple[WebhookEvent, ...]:
    delivery, target = standing.delivery, standing.target
    if delivery is None or (delivery.state, delivery.attempts) != (DeliveryState.UNDER_WAY, command.attempt):
        return ()  # a second answer to the same attempt
    if command.delivered:
        assert command.status is not None, "delivered: the target has answered"
        succeeded = DeliverySucceeded(
            **_said(command, at_ms),
            delivery_id=command.delivery_id,
            attempt=command.attempt,
            status=command.status,
            took_ms=command.took_ms,
        )
        mended = target.breaker is not Breaker.CLOSED
        return (succeeded, BreakerClosed(**_said(command, at_ms, 1))) if mended else (succeeded,)
    gone = command.status == GONE
    last = gone or delivery.attempts - delivery.spent >= subscription.policy.attempts
    failed = AttemptFailed(
        **_said(command, at_ms),
        delivery_id=command.delivery_id,
        attempt=command.attempt,
        status=command.status,
        error=command.error or f"HTTP {command.status}",
        took_ms=command.took_ms,
        next_attempt_at_ms=None if last else at_ms + _pause_ms(subscription.policy, delivery, command),
    )
    events: list[WebhookEvent] = [failed]
    if last:
        reason = GiveUpReason.GONE if gone else GiveUpReason.ATTEMPTS_EXHAUSTED
        events.append(_given_up(command, at_ms, 1, reason))
    if gone and subscription.paused is None:
        events.append(_paused_as_gone(subscription, command, at_ms))
    if (opened := _opened(target, subscription.policy, command, at_ms)) is not None:
        events.append(opened)
    return tuple(events)


def _opened(target: Target, policy: Policy, command: RecordAttempt, at_ms: int) -> BreakerOpened | None:
    enough = target.breaker is Breaker.CLOSED and target.failures + 1 >= policy.breaker_failures
    if not enough and target.breaker is not Breaker.HALF_OPEN:
        return None
    openings = target.openings + 1
    length_ms = min(policy.breaker_pause_ms * 2 ** min(openings - 1, 30), LONGEST_BREAK_MS)
    until_ms = at_ms + _jittered(length_ms, f"breaker {command.command_id}")
    return BreakerOpened(**_said(command, at_ms, 3), until_ms=until_ms, openings=openings)


def _pause_ms(policy: Policy, delivery: Delivery, command: RecordAttempt) -> int:
    """Exponential, with a jitter that follows from delivery and attempt: many failures do not come back as one crowd,
    and a replay waits as long.
    """
    made = delivery.attempts - delivery.spent
    length_ms = min(policy.first_pause_ms * GROWTH ** (made - 1), policy.longest_pause_ms)
    wish_ms = min(command.retry_after_ms or 0, LONGEST_WISH_MS)
    return max(_jittered(length_ms, f"{delivery.delivery_id} {command.attempt}"), wish_ms)


def _jittered(length_ms: int, name: str) -> int:
    """Between 80 and 120 per cent of a length."""
    share = int(derived_id(name)[:8], 16) / 0xFFFFFFFF
    return max(1, round(length_ms * (0.8 + 0.4 * share)))


def next_attempt(
    subscription: Subscription, target: Target, delivery: Delivery, payload: str, cause: AnyWebhookCommand, at_ms: int
) -> AttemptDue | None:
    """The attempt that is due now for the delivery whose turn it is; None: the target has enough to do, or no rest."""
    room = {Breaker.CLOSED: AT_ONCE, Breaker.HALF_OPEN: 1, Breaker.OPEN: 0}[target.breaker]
    if subscription.paused is not None or target.under_way >= room:
        return None
    attempt = delivery.attempts + 1
    said = {**_said(cause, at_ms), "event_id": derived_id(f"attempt {delivery.delivery_id} {attempt}")}
    secrets = [SecretName(secret_id=s.secret_id, fingerprint=s.fingerprint) for s in _in_use(subscription, at_ms)]
    return AttemptDue(
        **said,
        delivery_id=delivery.delivery_id,
        attempt=attempt,
        url=subscription.url,
        secrets=secrets,
        payload=payload,
    )


# -- states ------------------------------------------------------------------------------------------------------------


def evolve(subscription: Subscription | None, event: SubscriptionEvent) -> Subscription | None:
    """The subscription after the event. Versions grow by one with each event that is no refusal."""
    match event:
        case SubscriptionCreated():
            return Subscription(
                subscription_id=event.subscription_id,
                url=event.url,
                events=event.events,
                customer_id=event.customer_id,
                paused=event.paused,
                secrets=[HeldSecret(**event.secret.model_dump())],
                policy=event.policy,
                version=event.version,
                created_at=event.occurred_at,
                updated_at=event.occurred_at,
            )
        case SubscriptionChanged():
            changed = {"url": event.url, "events": event.events, "paused": event.paused}
            return _stands(subscription, event, **changed)
        case SecretRotated():
            return _stands(subscription, event, secrets=event.secrets)
        case SubscriptionDeleted():
            return None
        case WebhookCommandRefused():
            return subscription
    assert_never(event)


def _stands(subscription: Subscription | None, event: SubscriptionChanged | SecretRotated, **more: Any) -> Subscription:
    assert subscription is not None, "decide changes only what exists"
    return subscription.model_copy(update={**more, "version": event.version, "updated_at": event.occurred_at})


def evolve_target(target: Target, event: DeliveryEvent) -> Target:
    """What is going on at the target after the event."""
    match event:
        case DeliveryQueued(reason=QueueReason.REQUESTED):
            return target._replace(next_sequence=event.sequence + 1, unsettled=target.unsettled + 1)
        case DeliveryQueued(reason=QueueReason.RESEND):
            return target._replace(unsettled=target.unsettled + 1)
        case DeliveryQueued():
            return target
        case AttemptDue():
            return target._replace(under_way=target.under_way + 1)
        case DeliverySucceeded():
            return target._replace(under_way=target.under_way - 1, unsettled=target.unsettled - 1, failures=0)
        case AttemptFailed():
            return target._replace(under_way=target.under_way - 1, failures=target.failures + 1)
        case DeliveryGivenUp():
            return target._replace(unsettled=target.unsettled - 1)
        case BreakerOpened():
            return target._replace(breaker=Breaker.OPEN, openings=event.openings, open_until_ms=event.until_ms)
        case BreakerHalfOpened():
            return target._replace(breaker=Breaker.HALF_OPEN, open_until_ms=None)
        case BreakerClosed():
            return target._replace(breaker=Breaker.CLOSED, openings=0, open_until_ms=None, failures=0)
    assert_never(event)


def evolve_delivery(delivery: Delivery | None, event: DeliveryChanged) -> Delivery:
    """The delivery after the event."""
    at = event.occurred_at
    if isinstance(event, DeliveryQueued) and delivery is None:
        return Delivery(
            delivery_id=event.delivery_id,
            sequence=event.sequence,
            event_id=event.about,
            event_type=event.event_type,
            position=event.position,
            state=DeliveryState.WAITING,
            attempts=0,
            spent=0,
            queued_at=at,
            updated_at=at,
        )
    assert delivery is not None, "all else is about a delivery that was queued"
    moved = delivery._replace(updated_at=at, next_attempt_at_ms=None)
    match event:
        case DeliveryQueued():
            spent = delivery.attempts if event.reason is QueueReason.RESEND else delivery.spent
            return moved._replace(state=DeliveryState.WAITING, spent=spent, given_up=None)
        case AttemptDue():
            return moved._replace(state=DeliveryState.UNDER_WAY, attempts=event.attempt)
        case DeliverySucceeded():
            answered = moved._replace(last_status=event.status, last_error=None, last_took_ms=event.took_ms)
            return answered._replace(state=DeliveryState.DELIVERED)
        case AttemptFailed():
            answered = moved._replace(last_status=event.status, last_error=event.error, last_took_ms=event.took_ms)
            return answered._replace(state=DeliveryState.PAUSING, next_attempt_at_ms=event.next_attempt_at_ms)
        case DeliveryGivenUp():
            return moved._replace(state=DeliveryState.GIVEN_UP, given_up=event.reason)
    assert_never(event)


# -- words -------------------------------------------------------------------------------------------------------------


def _said(command: AnyWebhookCommand, at_ms: int, counter: int = 0) -> dict[str, Any]:
    return {
        "event_id": event_id_for(command.command_id, counter),
        "caused_by": command.command_id,
        "occurred_at": rfc3339(at_ms),
        "subscription_id": command.subscription_id,
    }


def _queued(
    delivery: Delivery, command: RetryDelivery | ResendDelivery, at_ms: int, reason: QueueReason
) -> DeliveryQueued:
    return DeliveryQueued(
        **_said(command, at_ms),
        delivery_id=delivery.delivery_id,
        reason=reason,
        sequence=delivery.sequence,
        about=delivery.event_id,
        event_type=delivery.event_type,
        position=delivery.position,
    )


def _given_up(
    command: RequestDelivery | RecordAttempt, at_ms: int, counter: int, reason: GiveUpReason
) -> DeliveryGivenUp:
    return DeliveryGivenUp(**_said(command, at_ms, counter), delivery_id=command.delivery_id, reason=reason)


def _paused_as_gone(subscription: Subscription, command: RecordAttempt, at_ms: int) -> SubscriptionChanged:
    return SubscriptionChanged(
        **_said(command, at_ms, 2),
        version=subscription.version + 1,
        url=subscription.url,
        events=subscription.events,
        customer_id=subscription.customer_id,
        paused=PauseReason.GONE,
    )


def _refused(
    subscription: Subscription | None, command: AnyWebhookCommand, at_ms: int, reason: WebhookRefusal
) -> WebhookCommandRefused:
    version = subscription.version if subscription else 0
    return WebhookCommandRefused(**_said(command, at_ms), version=version, command=command.type, reason=reason)


def retry_of(event: AttemptFailed) -> RetryDelivery:
    """What the deadline after a failed attempt sends. Its id follows from the event."""
    return RetryDelivery(
        command_id=derived_id(f"retry {event.event_id}"),
        subscription_id=event.subscription_id,
        delivery_id=event.delivery_id,
        attempt=event.attempt,
    )


def probe_of(event: BreakerOpened) -> ProbeTarget:
    """What the deadline of an open breaker sends."""
    return ProbeTarget(
        command_id=derived_id(f"probe {event.event_id}"), subscription_id=event.subscription_id, until_ms=event.until_ms
    )


def attach(app: App, *, commands: Topic, events: Topic, deliveries: Topic, tables: WebhookTables) -> None:
    """Wire the rules to their topics. Pauses and breaks end by a record, which a deadline sends."""
    _Obedience(app, commands, events, deliveries, tables).bind(app)


class _Obedience:
    """The agent: one command, what follows from it, and the attempts that it makes room for."""

    def __init__(self, app: App, commands: Topic, events: Topic, deliveries: Topic, tables: WebhookTables) -> None:
        self._commands, self._events, self._deliveries, self._tables = commands, events, deliveries, tables
        self._deadlines = app.deadlines(GROUP)
        self._deadlines.target(commands)

    def bind(self, app: App) -> None:
        @app.agent(self._commands, name="webhooks.commands")
        async def obey(stream: Stream[WebhookCommand]) -> None:
            """Keep subscriptions, and say when a delivery is to be attempted."""
            async for command in stream:
                self.carry_out(command, stream.event)

    def carry_out(self, command: AnyWebhookCommand, cause: Record) -> None:
        """Decide, remember and tell, if this partition is the subscription's home; else bring the command home."""
        key, tables = command.subscription_id, self._tables
        if self._commands.take_home(cause, key=key, value=command):
            return
        home = cause.partition
        at_ms = time_ms(cause.timestamp)
        asked = command if isinstance(command, AskedCommand) else None
        answered = asked is not None and tables.answer(key, command.command_id) is not None
        delivery_id = getattr(command, "delivery_id", None)
        delivery = tables.delivery(key, delivery_id) if delivery_id else None
        standing = Standing(tables.subscription(key), tables.target(key), delivery)
        said = decide(standing, command, at_ms, answered=answered)
        if isinstance(command, RequestDelivery) and said:
            tables.keep_payload(key, command.delivery_id, command.payload)
        for event in said:
            self._apply(event, home)
        if asked is not None and not answered:
            stands = tables.subscription(key)
            version = stands.version if stands else 0
            position = Position(cause.topic, cause.partition, cause.offset)
            tables.keep_answer(asked, said[0] if said else None, version, position)
        if isinstance(command, DeleteSubscription | ForgetDeliveries):
            self._forget(command, home)
        self._attempt(command, at_ms, home)

    def _attempt(self, command: AnyWebhookCommand, at_ms: int, home: int) -> None:
        """Say what is due now, while there is room at the target."""
        key, tables = command.subscription_id, self._tables
        while (subscription := tables.subscription(key)) and (delivery := tables.first_waiting(key)):
            payload = tables.payload(key, delivery.delivery_id)
            due = next_attempt(subscription, tables.target(key), delivery, payload, command, at_ms)
            if due is None:
                return
            self._apply(due, home)

    def _apply(self, event: WebhookEvent, home: int) -> None:
        key, tables = event.subscription_id, self._tables
        if isinstance(event, SubscriptionEvent):
            before = tables.subscription(key)
            tables.keep(before, evolve(before, event))
            self._events.put(key=key, value=event, partition=home)
            return
        target = tables.target(key)
        after = evolve_target(target, event)
        tables.keep_target(key, target, after)
        if isinstance(event, DeliveryChanged):
            delivery = tables.delivery(key, event.delivery_id)
            tables.keep_delivery(key, delivery, evolve_delivery(delivery, event), after.next_sequence - 1)
        self._keep_time(event)
        self._deliveries.put(key=key, value=event, partition=home)

    def _keep_time(self, event: DeliveryEvent) -> None:
        key, deadlines = event.subscription_id, self._deadlines
        match event:
            case AttemptFailed(next_attempt_at_ms=int(due)):
                id = f"webhook\0{event.delivery_id}"
                deadlines.schedule(due, self._commands, key=key, value=retry_of(event), id=id)
            case BreakerOpened():
                id = f"webhook\0{key}\0probe"
                deadlines.schedule(event.until_ms, self._commands, key=key, value=probe_of(event), id=id)
            case BreakerClosed():
                deadlines.cancel(f"webhook\0{key}\0probe")
            case _:
                pass

    def _forget(self, command: DeleteSubscription | ForgetDeliveries, home: int) -> None:
        """The rows of a subscription that is no more, some with each record."""
        key = command.subscription_id
        if self._tables.subscription(key) is None and self._tables.drop_some(key, DROPPED_AT_ONCE):
            again = ForgetDeliveries(command_id=derived_id(f"forget {command.command_id}"), subscription_id=key)
            self._commands.put(key=key, value=again, partition=home)
