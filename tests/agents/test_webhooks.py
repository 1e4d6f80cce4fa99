"""Webhooks: the rules as a table of outcomes, a row for every refusal and every way that an attempt can end."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark, param

from agents.webhooks import (
    GROWTH,
    LONGEST_WISH_MS,
    Standing,
    decide,
    evolve,
    evolve_delivery,
    evolve_target,
    next_attempt,
    probe_of,
    retry_of,
)
from schemas.base import derived_id, rfc3339
from schemas.webhooks import (
    AT_ONCE,
    LONGEST_BREAK_MS,
    MOST_UNSETTLED,
    AnyWebhookCommand,
    AttemptDue,
    AttemptFailed,
    Breaker,
    BreakerChanged,
    BreakerOpened,
    ChangeSubscription,
    CreateSubscription,
    DeleteSubscription,
    Delivery,
    DeliveryState,
    ForgetDeliveries,
    HeldSecret,
    PauseReason,
    Policy,
    ProbeTarget,
    RecordAttempt,
    RequestDelivery,
    ResendDelivery,
    RetryDelivery,
    RotateSecret,
    SecretName,
    SecretRotated,
    Subscription,
    SubscriptionChanged,
    SubscriptionEvent,
    Target,
    WebhookCommand,
    WebhookCommandRefused,
    WebhookEvent,
    WebhookRefusal,
    about,
    content_of,
    delivery_id_of,
)

ME = derived_id("me")
ID = delivery_id_of(ME, "e1")
NOW = 1_795_262_400_000
URL = "https://example.com/hook"
S: dict[str, Any] = {"subscription_id": ME}
D: dict[str, Any] = {**S, "delivery_id": ID}


def secret(number: int) -> SecretName:
    return SecretName(secret_id=f"s{number}", fingerprint=f"f{number}")


CREATE = CreateSubscription(command_id="c", **S, url=URL, events=["orders.*"], customer_id="asha", secret=secret(1))
REQUEST = RequestDelivery(
    command_id=ID, **D, event_id="e1", event_type="orders.order_placed", position="orders.events.v1-0-7", payload="{}"
)
POLICY = Policy(attempts=3, first_pause_ms=1_000, longest_pause_ms=5_000, breaker_failures=2, breaker_pause_ms=10_000)


def subscription(**changes: Any) -> Subscription:
    (created,) = decide(Standing(None, Target(), None), CREATE, NOW)
    assert isinstance(created, SubscriptionEvent)
    made = evolve(None, created)
    assert made is not None
    return made.model_copy(update={"policy": POLICY, **changes})


def delivery(**changes: Any) -> Delivery:
    first = Delivery(ID, 1, "e1", "orders.order_placed", "p", DeliveryState.WAITING, 0, 0, rfc3339(NOW), rfc3339(NOW))
    return first._replace(**changes)


UNDER_WAY = delivery(state=DeliveryState.UNDER_WAY, attempts=1)
PAUSING = delivery(state=DeliveryState.PAUSING, attempts=1, next_attempt_at_ms=NOW)
DONE = delivery(state=DeliveryState.DELIVERED, attempts=1)
GIVEN_UP = delivery(state=DeliveryState.GIVEN_UP, attempts=3)
OPEN = Target(breaker=Breaker.OPEN, openings=1, open_until_ms=NOW + 5, failures=2, unsettled=1)
PROBED = OPEN._replace(breaker=Breaker.HALF_OPEN, open_until_ms=None, under_way=1)
BUSY = Target(next_sequence=2, unsettled=1, under_way=1)


def tried(status: int | None = None, **more: Any) -> RecordAttempt:
    return RecordAttempt(command_id="r", **D, attempt=more.pop("attempt", 1), status=status, **more)


def change(**what: Any) -> ChangeSubscription:
    return ChangeSubscription(command_id="x", **S, **what)


def rotate(**more: Any) -> RotateSecret:
    return RotateSecret(command_id="x", **S, secret=secret(9), **more)


RESEND = ResendDelivery(command_id="x", **D)
RETRY = RetryDelivery(command_id="x", **D, attempt=1)
PROBE = ProbeTarget(command_id="x", **S, until_ms=NOW + 5)
DELETE = DeleteSubscription(command_id="x", **S)
FORGET = ForgetDeliveries(command_id="x", **S)
SECRETS = [
    HeldSecret(secret_id=f"s{n}", fingerprint=f"f{n}", retires_at_ms=None if n == 3 else NOW + 1) for n in (3, 2, 1)
]
FULL = subscription(secrets=SECRETS)
PAUSED = subscription(paused=PauseReason.REQUESTED)


def told(events: tuple[WebhookEvent, ...]) -> list[str]:
    """Events as words; of refusals and of what is given up the reason."""
    return [f"{event.type}: {event.reason}" if hasattr(event, "reason") else event.type for event in events]


def refused(reason: WebhookRefusal) -> list[str]:
    return [f"webhook_command_refused: {reason}"]


R = WebhookRefusal
TABLE = [
    param(None, Target(), None, CREATE, ["subscription_created"], id="created"),
    param(subscription(), Target(), None, CREATE, [], id="created again, the same"),
    param(
        subscription(url="https://other.example"),
        Target(), None, CREATE, refused(R.EXISTS_WITH_DIFFERENT_CONTENT), id="created again, another",
    ),
    *(
        param(None, Target(), None, command, refused(R.NO_SUCH_SUBSCRIPTION), id=f"{command.type} of nothing")
        for command in (change(paused=True), rotate(), DELETE, RESEND)
    ),
    *(
        param(None, Target(), None, command, [], id=f"{command.type} after the end")
        for command in (REQUEST, tried(200), RETRY, PROBE, FORGET)
    ),
    param(subscription(), Target(), None, change(expected_version=9), refused(R.WRONG_VERSION), id="another version"),
    param(subscription(), Target(), None, change(), refused(R.NOTHING_TO_CHANGE), id="a change of nothing"),
    param(subscription(), Target(), None, change(url=URL), [], id="changed to what it is"),
    param(subscription(), Target(), None, change(events=["*"]), ["subscription_changed"], id="changed"),
    param(subscription(), OPEN, None, change(events=["*"]), ["subscription_changed"], id="changed, the target stays"),
    param(
        subscription(), OPEN, None, change(url=URL + "/2"), ["subscription_changed", "breaker_closed"],
        id="another target: what was found of the first counts no more",
    ),
    param(subscription(), Target(), None, change(paused=True), ["subscription_changed"], id="paused"),
    param(PAUSED, Target(), None, change(paused=True), [], id="paused again"),
    param(PAUSED, OPEN, None, change(paused=False), ["subscription_changed", "breaker_closed"], id="goes on"),
    param(subscription(), OPEN, None, change(paused=False), [], id="goes on, and was not paused"),
    param(subscription(), Target(), None, rotate(), ["secret_rotated"], id="rotated"),
    param(FULL, Target(), None, rotate(), refused(R.TOO_MANY_SECRETS), id="rotated once too often"),
    param(FULL, Target(), None, rotate(keep_previous_ms=0), ["secret_rotated"], id="rotated, none is kept"),
    param(subscription(), Target(), None, DELETE, ["subscription_deleted"], id="deleted"),
    param(subscription(), Target(), None, FORGET, [], id="rows of one that is there are not dropped"),
    param(subscription(), Target(), None, RESEND, refused(R.NO_SUCH_DELIVERY), id="resend of nothing"),
    *(
        param(subscription(), BUSY, each, RESEND, refused(R.DELIVERY_NOT_SETTLED), id=f"resend while {each.state}")
        for each in (delivery(), UNDER_WAY, PAUSING)
    ),
    *(
        param(subscription(), Target(), each, RESEND, ["delivery_queued: resend"], id=f"resend after {each.state}")
        for each in (DONE, GIVEN_UP)
    ),
    param(subscription(), Target(), None, REQUEST, ["delivery_queued: requested"], id="requested"),
    param(PAUSED, Target(), None, REQUEST, ["delivery_queued: requested"], id="requested while paused: it waits"),
    param(subscription(), BUSY, delivery(), REQUEST, [], id="requested again"),
    param(subscription(), BUSY, DONE, REQUEST, [], id="requested again, delivered long ago"),
    param(
        subscription(), Target(unsettled=MOST_UNSETTLED), None, REQUEST,
        ["delivery_queued: requested", "delivery_given_up: backlog_full"], id="requested, and too many wait",
    ),
    param(subscription(), BUSY, UNDER_WAY, tried(200), ["delivery_succeeded"], id="delivered"),
    param(subscription(), BUSY, UNDER_WAY, tried(204), ["delivery_succeeded"], id="delivered without a word"),
    param(subscription(), PROBED, UNDER_WAY, tried(200), ["delivery_succeeded", "breaker_closed"], id="probe arrives"),
    param(subscription(), OPEN, UNDER_WAY, tried(200), ["delivery_succeeded", "breaker_closed"], id="late arrival"),
    param(subscription(), BUSY, UNDER_WAY, tried(500), ["attempt_failed"], id="failed"),
    param(subscription(), BUSY, UNDER_WAY, tried(302, error="redirected"), ["attempt_failed"], id="redirected"),
    param(subscription(), BUSY, UNDER_WAY, tried(None, error="away"), ["attempt_failed"], id="no answer"),
    param(subscription(), BUSY, UNDER_WAY, tried(200, error="cut off"), ["attempt_failed"], id="half an answer"),
    param(
        subscription(), BUSY, delivery(state=DeliveryState.UNDER_WAY, attempts=3), tried(500, attempt=3),
        ["attempt_failed", "delivery_given_up: attempts_exhausted"], id="failed for the last time",
    ),
    param(
        subscription(), BUSY, delivery(state=DeliveryState.UNDER_WAY, attempts=4, spent=3), tried(500, attempt=4),
        ["attempt_failed"], id="failed for the first time since it was sent again",
    ),
    param(
        subscription(), BUSY, UNDER_WAY, tried(410),
        ["attempt_failed", "delivery_given_up: gone", "subscription_changed"], id="gone",
    ),
    param(
        PAUSED, BUSY, UNDER_WAY, tried(410), ["attempt_failed", "delivery_given_up: gone"], id="gone, and paused before"
    ),
    param(
        subscription(), BUSY._replace(failures=1), UNDER_WAY, tried(500), ["attempt_failed", "breaker_opened"],
        id="failed once too often",
    ),
    param(subscription(), PROBED, UNDER_WAY, tried(500), ["attempt_failed", "breaker_opened"], id="the probe fails"),
    param(subscription(), OPEN, UNDER_WAY, tried(500), ["attempt_failed"], id="a late one fails: it is open already"),
    *(
        param(subscription(), BUSY, each, tried(200), [], id=f"an answer while {each.state}")
        for each in (delivery(), PAUSING, DONE, GIVEN_UP)
    ),
    param(subscription(), BUSY, UNDER_WAY, tried(200, attempt=2), [], id="an answer to another attempt"),
    param(subscription(), BUSY, None, tried(200), [], id="an answer about what the log has forgotten"),
    param(subscription(), BUSY, PAUSING, RETRY, ["delivery_queued: retry"], id="the pause is over"),
    *(
        param(subscription(), BUSY, each, RETRY, [], id=f"pause over, {each.state if each else None}")
        for each in (delivery(), UNDER_WAY, DONE, PAUSING._replace(attempts=2), None)
    ),
    param(subscription(), OPEN, None, PROBE, ["breaker_half_opened"], id="the break is over"),
    *(
        param(subscription(), each, None, PROBE, [], id=f"the break is over while {each.breaker}")
        for each in (Target(), PROBED, OPEN._replace(open_until_ms=NOW + 6))
    ),
]  # fmt: skip


@mark.parametrize(("there", "target", "named", "command", "expected"), TABLE)
def test_webhooks(
    there: Subscription | None, target: Target, named: Delivery | None, command: AnyWebhookCommand, expected: list[str]
) -> None:
    said = decide(Standing(there, target, named), command, NOW)
    assert told(said) == expected
    assert len({event.event_id for event in said}) == len(said), "each event has an id of its own"
    assert {event.caused_by for event in said} <= {command.command_id}
    assert decide(Standing(there, target, named), command, NOW, answered=True) == ()


def test_the_table_has_every_refusal() -> None:
    reasons = {word.partition(": ")[2] for row in TABLE for word in row.values[4] if "refused" in word}  # type: ignore[union-attr]
    assert reasons == {str(reason) for reason in WebhookRefusal}


def test_a_refusal_says_what_was_refused_and_leaves_all_as_it_was() -> None:
    (event,) = decide(Standing(subscription(), Target(), None), RESEND, NOW)
    assert isinstance(event, WebhookCommandRefused)
    assert (event.command, event.version, event.subscription_id) == ("resend_delivery", 1, ME)
    assert evolve(subscription(), event) == subscription()


def test_versions_grow_by_one_and_the_rest_is_as_told() -> None:
    (changed,) = decide(Standing(subscription(), Target(), None), change(events=["payments.*"]), NOW + 1)
    assert isinstance(changed, SubscriptionChanged)
    after = evolve(subscription(), changed)
    assert after == subscription(events=["payments.*"], version=2, updated_at=rfc3339(NOW + 1))


def test_a_rotation_keeps_those_before_for_as_long_as_asked_and_no_longer_than_they_had() -> None:
    short = HeldSecret(secret_id="s2", fingerprint="f2", retires_at_ms=NOW + 10)
    over = HeldSecret(secret_id="s0", fingerprint="f0", retires_at_ms=NOW)
    there = subscription(secrets=[HeldSecret(secret_id="s3", fingerprint="f3"), short, over])
    (rotated,) = decide(Standing(there, Target(), None), rotate(keep_previous_ms=1_000), NOW)
    assert isinstance(rotated, SecretRotated)
    after = evolve(there, rotated)
    assert after is not None
    assert [(s.secret_id, s.retires_at_ms) for s in after.secrets] == [
        ("s9", None),
        ("s3", NOW + 1_000),
        ("s2", NOW + 10),
    ]
    attempt = next_attempt(after, Target(), delivery(), "{}", REQUEST, NOW + 10)
    assert attempt is not None and [s.secret_id for s in attempt.secrets] == ["s9", "s3"]


@mark.parametrize(
    ("target", "paused", "due"),
    [
        param(Target(), None, True, id="nothing under way"),
        param(Target(under_way=AT_ONCE - 1), None, True, id="room for one"),
        param(Target(under_way=AT_ONCE), None, False, id="enough under way"),
        param(Target(), PauseReason.REQUESTED, False, id="paused"),
        param(OPEN, None, False, id="open"),
        param(PROBED._replace(under_way=0), None, True, id="half open: the probe"),
        param(PROBED, None, False, id="half open, and probed"),
    ],
)
def test_when_an_attempt_is_due(target: Target, paused: PauseReason | None, due: bool) -> None:
    attempt = next_attempt(subscription(paused=paused), target, delivery(attempts=2), '{"a":1}', REQUEST, NOW)
    assert (attempt is not None) is due
    if attempt is not None:
        assert (attempt.attempt, attempt.delivery_id, attempt.payload, attempt.url) == (3, ID, '{"a":1}', URL)


def failure(made: int, **more: Any) -> AttemptFailed:
    there = subscription(policy=POLICY.model_copy(update={"attempts": 50}))
    under_way = delivery(state=DeliveryState.UNDER_WAY, attempts=made)
    events = decide(Standing(there, BUSY, under_way), tried(500, attempt=made, **more), NOW)
    assert isinstance(events[0], AttemptFailed)
    return events[0]


def test_pauses_grow_up_to_the_longest_and_differ_a_little() -> None:
    pauses = [(failure(made).next_attempt_at_ms or 0) - NOW for made in range(1, 8)]
    for made, pause in enumerate(pauses):
        length = min(1_000 * GROWTH**made, 5_000)
        assert 0.8 * length <= pause <= 1.2 * length
    assert len(set(pauses)) == len(pauses), "each has a jitter of its own"
    assert failure(1) == failure(1), "and a re-run the same"


def test_a_target_can_ask_for_longer_within_reason() -> None:
    assert failure(1, retry_after_ms=60_000).next_attempt_at_ms == NOW + 60_000
    assert failure(1, retry_after_ms=10**12).next_attempt_at_ms == NOW + LONGEST_WISH_MS
    assert failure(1, retry_after_ms=1).next_attempt_at_ms == failure(1).next_attempt_at_ms


@mark.parametrize(("openings", "length_ms"), [(0, 10_000), (1, 20_000), (3, 80_000), (40, LONGEST_BREAK_MS)])
def test_breaks_double_up_to_an_hour(openings: int, length_ms: int) -> None:
    target = PROBED._replace(openings=openings)
    (_, opened) = decide(Standing(subscription(), target, UNDER_WAY), tried(500), NOW)
    assert isinstance(opened, BreakerOpened) and opened.openings == openings + 1
    assert 0.8 * length_ms <= opened.until_ms - NOW <= 1.2 * length_ms
    after = evolve_target(target, opened)
    assert (after.breaker, after.open_until_ms) == (Breaker.OPEN, opened.until_ms)
    assert told(decide(Standing(subscription(), after, None), probe_of(opened), opened.until_ms)) == [
        "breaker_half_opened"
    ]


def play(target: Target, named: Delivery | None, *commands: AnyWebhookCommand) -> tuple[Target, Delivery | None]:
    """Commands one after the other; whatever is due is begun."""
    there = subscription()
    for command in commands:
        said = list(decide(Standing(there, target, named), command, NOW))
        while True:
            for event in said:
                if not isinstance(event, SubscriptionEvent):
                    target = evolve_target(target, event)
                    if not isinstance(event, BreakerChanged):
                        named = evolve_delivery(named, event)
            waits = named is not None and named.state is DeliveryState.WAITING
            due = next_attempt(there, target, named, "{}", command, NOW) if waits and named else None
            if due is None:
                break
            said = [due]
    return target, named


def test_what_is_counted_comes_out_even() -> None:
    retry = RetryDelivery(command_id="y", **D, attempt=1)
    target, named = play(Target(), None, REQUEST)
    assert (target.unsettled, target.under_way, target.next_sequence) == (1, 1, 2)
    target, named = play(target, named, tried(500))
    assert named is not None and (target.unsettled, target.under_way, named.state) == (1, 0, DeliveryState.PAUSING)
    target, named = play(target, named, retry, tried(200, attempt=2))
    assert named is not None and (target.unsettled, target.under_way, target.failures) == (0, 0, 0)
    assert (named.state, named.attempts, named.last_status, named.last_error) == (DeliveryState.DELIVERED, 2, 200, None)
    target, named = play(target, named, RESEND)
    assert named is not None and (named.state, named.attempts, named.spent) == (DeliveryState.UNDER_WAY, 3, 2)
    assert (target.unsettled, target.under_way, target.next_sequence) == (1, 1, 2), "the same delivery, not another"
    target, named = play(target, named, tried(410, attempt=3))
    assert (target.unsettled, target.under_way) == (0, 0)
    target, named = play(Target(unsettled=MOST_UNSETTLED), None, REQUEST)
    assert named is not None and (named.state, target.unsettled) == (DeliveryState.GIVEN_UP, MOST_UNSETTLED)


def test_one_delivery_has_one_id_and_an_attempt_one_as_well() -> None:
    assert delivery_id_of(ME, "e1") == ID != delivery_id_of(ME, "e2") != delivery_id_of(derived_id("other"), "e2")
    attempts = [
        next_attempt(subscription(), Target(), delivery(attempts=n), "{}", cause, NOW)
        for n in (0, 1)
        for cause in (REQUEST, RETRY)
    ]
    ids = [attempt.event_id for attempt in attempts if isinstance(attempt, AttemptDue)]
    assert ids[0] == ids[1] != ids[2] == ids[3], "whatever made room for it"


def test_a_retry_names_its_attempt() -> None:
    (failed,) = decide(Standing(subscription(), BUSY, UNDER_WAY), tried(500), NOW)
    assert isinstance(failed, AttemptFailed)
    paused = evolve_delivery(UNDER_WAY, failed)
    assert told(decide(Standing(subscription(), BUSY, paused), retry_of(failed), NOW)) == ["delivery_queued: retry"]


def test_what_a_creation_asks_for_is_not_where_it_begins() -> None:
    later = CREATE.model_copy(update={"starts": {"orders.events.v1": [1]}, "command_id": "other"})
    assert content_of(CREATE) == content_of(later) != content_of(CREATE.model_copy(update={"customer_id": None}))


@mark.parametrize(
    "url",
    [
        *("ftp://a.example", "https://", "//a.example", "https://user@a.example", "https://u:p@a.example/"),
        *("https://a.example/#x", "https://a.example:0", "https://a.example:99999", "https://a b", "https://ä.example"),
        *(
            "https://a.example\\@b.example",
            "https://a.example\\b",
            "https://[::1",
            "javascript:alert(1)",
            "https://a.example/\n",
        ),
    ],
)
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(ValidationError):
        CreateSubscription(command_id="c", **S, url=url, events=["*"], secret=secret(1))


@mark.parametrize("pattern", ["", "orders", "orders.", ".x", "orders.*.x", "Orders.x", "orders.order placed", "**"])
def test_what_is_no_event(pattern: str) -> None:
    with pytest.raises(ValidationError):
        CreateSubscription(command_id="c", **S, url=URL, events=[pattern], secret=secret(1))


def test_words_are_read_as_they_were_written() -> None:
    words: TypeAdapter[AnyWebhookCommand] = TypeAdapter(WebhookCommand)
    for command in (CREATE, REQUEST, tried(500, error="x", retry_after_ms=1), change(paused=True), rotate(), RESEND,
                    RETRY, PROBE, DELETE, FORGET):  # fmt: skip
        assert words.validate_json(command.model_dump_json()) == command
    assert Target.from_json(OPEN.to_json()) == OPEN
    assert Delivery.from_json(GIVEN_UP.to_json()) == GIVEN_UP


def test_an_event_says_whom_it_is_about() -> None:
    assert about("Zoë") == (("customer", b"Zo\xc3\xab"),)
    assert about(None) == ()
