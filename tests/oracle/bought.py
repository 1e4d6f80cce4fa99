"""commands and events of the domains of checkout -> each command with what it led to, and what has no cause.

Each of these domains has one topic of commands and one of events, keyed alike, so the order of the one is the order of
the other: no interleaving is to be guessed. Shipping alone has two that lead to its events: commands, and what carriers
answer; each is told by itself, and parcels.py puts them together by their events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from tests.oracle.inlet import origin_of
from tests.oracle.log import LETTERS, Log, Position, Record, derived, home_of, moment
from tests.oracle.verdict import Kind, Verdict


class Domain(NamedTuple):
    """One aggregate: its topics, the member that is its key, and the commands that are known here.

    `type`, `id`: the members that say what is commanded, and under which name; `cause` stands before that name in what
    follows from it.
    """

    name: str
    key: str
    words: frozenset[str]
    type: str = "type"
    id: str = "command_id"
    cause: str = ""

    @property
    def commands(self) -> str:
        return "shipping.responses" if self is CARRIERS else f"{self.name}.commands.v1"

    @property
    def events(self) -> str:
        return "shipping.events" if self in (SHIPPING, CARRIERS) else f"{self.name}.events.v1"

    def leads_to(self, event: Mapping[str, Any]) -> bool:
        """Whether an event on its topic is of this domain's making."""
        return self.events != SHIPPING.events or event["caused_by"].startswith(CARRIERS.cause) == (self is CARRIERS)

    def event_id(self, told: Told, number: int) -> str:
        """What the event is called that a command led to as so manieth, from 0."""
        who = f"shipping {told.said[self.key]} " if self.events == SHIPPING.events else ""
        return derived(f"{who}{told.id}-{number}")


PURCHASES = Domain(
    "purchases",
    "order_uid",
    frozenset(
        [
            "place_cart",
            "record_reservation",
            "record_shortage",
            "record_payment",
            "record_payment_failure",
            "settle_payment",
            "settle_refund",
            "record_number",
            "expire_order",
            "approve_order",
            "reject_order",
            "pack_order",
            "ship_order",
            "send_out",
            "deliver_shipment",
            "return_shipment",
            "request_shipment",
            "withdraw_shipment",
            "record_tracking",
            "note_carrier",
            "settle_shipment",
            "complete_order",
            "cancel_purchase",
            "request_return",
            "approve_return",
            "refuse_return",
            "receive_return",
        ]
    ),
)
PAYMENTS = Domain(
    "payments",
    "order_uid",
    frozenset(
        [
            "authorise_payment",
            "capture_payment",
            "void_payment",
            "refund_payment",
            "retry_step",
            "record_authorisation",
            "record_decline",
            "record_capture",
            "record_void",
            "record_refund",
            "record_reversal",
            "resolve_reversal",
            "record_failure",
        ]
    ),
)
ACCOUNTS = Domain(
    "accounts",
    "account_id",
    frozenset(["open_account", "deposit", "withdraw", "hold_funds", "capture_hold", "release_hold", "refund_funds"]),
)
INVENTORY = Domain(
    "inventory",
    "item_id",
    frozenset(["create_item", "change_item", "adjust_stock", "reserve_stock", "commit_stock", "release_stock"]),
)
OUTLETS = Domain("outlets", "outlet_id", frozenset(["configure_outlet", "issue_number"]))
SHIPPING = Domain(
    "shipping",
    "order_uid",
    frozenset(["book_shipment", "cancel_booking", "recall_shipment", "ask_again", "release_held"]),
)
#: What carriers answer: their words are statuses.
CARRIERS = Domain(
    "carriers",
    "order_uid",
    frozenset(
        ["registered", "picked_up", "out_for_delivery", "delivered", "failed", "returned_to_origin", "cancelled"]
    ),
    type="status",
    id="response_id",
    cause="response ",
)
DOMAINS = (PURCHASES, PAYMENTS, ACCOUNTS, INVENTORY, OUTLETS, SHIPPING, CARRIERS)
TOPICS = tuple(dict.fromkeys(topic for domain in DOMAINS for topic in (domain.commands, domain.events)))


def account_of(user_id: str, currency: str) -> str:
    """The one account that a user has in a currency."""
    return derived(f"account\0{user_id}\0{currency}")


def order_of(command_id: str) -> str:
    """The order that a cart becomes."""
    return derived(f"purchase {command_id}")


@dataclass(slots=True)
class Told:
    """A command at its home and the events that it led to. `again`: an earlier record had the same id.

    `place`: the offset of its first event.
    """

    domain: Domain
    record: Record
    said: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    again: bool = False
    place: int = -1

    @property
    def id(self) -> str:
        """What its events name as their cause."""
        return f"{self.domain.cause}{self.said[self.domain.id]}"

    @property
    def at(self) -> str:
        return moment(self.record.timestamp)

    def __str__(self) -> str:
        return f"{self.said[self.domain.type]} at {self.record.position}"


def key_of(domain: Domain, said: Mapping[str, Any]) -> str | None:
    """The key that a command belongs under; None when it names none."""
    if domain is ACCOUNTS and said.get("type") == "open_account":
        return account_of(str(said.get("user_id")), str(said.get("currency")))
    key = said.get(domain.key)
    return key if isinstance(key, str) else None


def parsed(domain: Domain, record: Record) -> dict[str, Any] | None:
    """A command; None for what is none: not JSON, of no known type, without its key or its id."""
    try:
        said = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    if (
        not isinstance(said, dict)
        or said.get(domain.type) not in domain.words
        or not isinstance(said.get(domain.id), str)
        or (domain is CARRIERS and said["status"] == "registered" and not said.get("tracking_number"))
    ):
        return None
    return said if key_of(domain, said) is not None else None


def tell(domain: Domain, log: Log, verdict: Verdict, sent: frozenset[Position] | None) -> list[Told]:
    """Every command at its home, in the order of the log, with its events. What does not fit is found here.

    `sent`: where clients' own producers wrote; None: nobody kept that.
    """
    letters = _letters(domain, log)
    home: list[Told] = []
    strays: list[Told] = []
    seen: set[tuple[str, str]] = set()
    for record in log.of(domain.commands):
        verdict.looked("commands")
        said = parsed(domain, record)
        if (said is None) != (record.position in letters):
            kind, what = (
                (Kind.LOST, "no command, and no dead letter") if said is None else (Kind.WRONG, "a dead letter")
            )
            verdict.add(kind, "commands", record.position, f"{what}: {(record.value or b'')[:120]!r}")
        if letters.get(record.position, 1) > 1:
            verdict.add(Kind.DOUBLED, "dead letters", record.position, f"{letters[record.position]} dead letters")
        if said is None:
            continue
        key = key_of(domain, said)
        assert key is not None, "parsed gives none without"
        told = Told(domain, record, said, again=(key, said[domain.id]) in seen)
        if home_of(key, log.partitions) != record.partition:
            strays.append(told)
            continue
        seen.add((key, said[domain.id]))
        home.append(told)
    for position in letters.keys() - {record.position for record in log.of(domain.commands)}:
        verdict.add(Kind.WRONG, "dead letters", position, "of a record that is not there")
    _judge_strays(domain, home, strays, verdict, sent)
    _attach(domain, log, home, verdict)
    return home


def _letters(domain: Domain, log: Log) -> Counter[Position]:
    origins = (origin_of(letter) for letter in log.of(LETTERS))
    return Counter(origin for origin in origins if origin is not None and origin.topic == domain.commands)


def _judge_strays(
    domain: Domain, home: list[Told], strays: list[Told], verdict: Verdict, sent: frozenset[Position] | None
) -> None:
    """A command away from its home is brought there once, with all that it says."""
    at_home: dict[str, list[Told]] = defaultdict(list)
    for told in home:
        if sent is None or told.record.position not in sent:
            at_home[told.id].append(told)
    for stray in strays:
        verdict.looked("brought home")
        found = at_home.get(stray.id)
        if not found:
            verdict.add(Kind.LOST, "brought home", stray, "it is not at its home")
            continue
        brought = found.pop(0)
        if not _within(stray.said, brought.said):
            verdict.add(Kind.WRONG, "brought home", stray, f"{stray.said} came as {brought.said}")
    if sent is not None:
        for id in {stray.id for stray in strays}:
            for extra in at_home[id]:
                verdict.add(Kind.DOUBLED, "brought home", extra, f"{id} was brought here once more than it strayed")


def _within(part: Any, whole: Any) -> bool:
    """Whether all that is said here is said there; what is not said may be filled in."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(name in whole and _within(value, whole[name]) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_within, part, whole))
    return bool(part == whole)


def _attach(domain: Domain, log: Log, home: list[Told], verdict: Verdict) -> None:
    """Give each command the events that name it, and hold their ids, times and order to it."""
    waiting: dict[tuple[int, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    ids: set[str] = set()
    for record in log.of(domain.events):
        said = orjson.loads(record.value or b"")
        if not domain.leads_to(said):
            continue
        verdict.looked("events of checkout")
        if said["event_id"] in ids:
            verdict.add(Kind.DOUBLED, "events of checkout", record.position, f"{said['type']} was said before")
            continue
        ids.add(said["event_id"])
        if (record.key or b"").decode() != said[domain.key] or home_of(
            said[domain.key], log.partitions
        ) != record.partition:
            verdict.add(Kind.WRONG, "events of checkout", record.position, "it is not at its home")
        waiting[record.partition, said["caused_by"]].append((record.offset, said))
    latest: dict[int, int] = defaultdict(lambda: -1)
    for told in home:
        place = (told.record.partition, told.id)
        found = waiting.get(place)
        # One that was silent may come again and speak then: its events have the time of the record that they answer.
        if not found or found[0][1]["occurred_at"] != told.at or found[0][1][domain.key] != key_of(domain, told.said):
            continue
        told.events, told.place = [said for _, said in waiting.pop(place)], found[0][0]
        for number, said in enumerate(told.events):
            verdict.equal("ids of events", told, domain.event_id(told, number), said["event_id"])
        if found[0][0] < latest[told.record.partition]:
            verdict.add(Kind.REORDERED, "events of checkout", told, "its events stand before those of an earlier one")
        latest[told.record.partition] = max(latest[told.record.partition], found[-1][0])
    for (partition, cause), left in waiting.items():
        for offset, said in left:
            where = f"{domain.events}-{partition}-{offset}"
            verdict.add(Kind.WRONG, "events of checkout", where, f"{said['type']}: no command {cause} accounts for it")


def must(verdict: Verdict, check: str, told: Told, expected: Mapping[str, Any] | None) -> None:
    """The first event of a command is as expected, in the members that are named; None: it says nothing new."""
    if expected is None:
        if told.events:
            verdict.add(Kind.WRONG, check, told, f"nothing new was to say, and it said {told.events[0]['type']}")
        return
    if not told.events:
        verdict.add(Kind.LOST, check, told, f"expected {dict(expected)}")
        return
    verdict.equal(check, told, dict(expected), {name: told.events[0].get(name) for name in expected})


def each_event(home: list[Told]) -> Iterator[tuple[Told, dict[str, Any]]]:
    """All events with their commands."""
    return ((told, event) for told in home for event in told.events)
