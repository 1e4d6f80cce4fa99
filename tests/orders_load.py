"""a seed -> the same load again: orders, repetitions, conflicts, cancellations and poison, by librdkafka, to Kafka.

Each number has its own chance, so that record `n` does not depend on how many were made before it, and the totals are
sums over numbers, not counts of what was seen:

    every number          one order with a price that follows from it
    7 of 100 numbers      the same document once more; every second time with other white space and order of names
    2 of 100 numbers      an order with the same order_uid and price, and other content: one of the two is refused
    5 of 100 numbers      a cancellation on orders.commands.v1, sent twice under one command_id every second time
    1 of 100 numbers      a cancellation of an order that nobody ever places
    1 of 100 records      poison, each kind in turn, with the path of its fault

Records stray up to ten places from their own. They go by two producers, one with Java's partitioner and one with
librdkafka's default, every tenth without a key.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from tests.oracle.log import COMMANDS, INTAKE, Position, home_of

WINDOW = 10
ANY_PARTITION = -1  # the producer's partitioner decides
CUSTOMERS = 500
PARTITIONERS = ("murmur2_random", "consistent_random")
DELIVERY_COST, CUSTOM_FEE, CHEAPEST, STEPS = 1500, 25, 100, 900


class Planned(NamedTuple):
    """A record to be sent. `partitioner` is the number of the producer that sends it."""

    what: str
    topic: str
    key: bytes | None
    value: bytes | None
    partitioner: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()
    paths: frozenset[str] = frozenset()  # of the faults that were planted


def goods_total(number: int) -> int:
    """What the goods of an order cost, minor units: a closed form, so that totals need no list."""
    return CHEAPEST + number * 7919 % STEPS


def amount(number: int) -> int:
    return goods_total(number) + DELIVERY_COST + CUSTOM_FEE


def order_uid(number: int, seed: int) -> str:
    return f"load{seed}-{number:08d}"


def document(number: int, seed: int) -> dict[str, Any]:
    """Order `number`. One or two items, together goods_total(number)."""
    chance, uid, total = Random(f"document {seed} {number}"), order_uid(number, seed), goods_total(number)
    track = f"LOAD{number:08d}"
    prices = [total] if number % 3 else [total // 3, total - total // 3]
    return {
        "order_uid": uid,
        "track_number": track,
        "entry": "LOAD",
        "delivery": {
            "name": f"Zoë Müller-{number}",
            "phone": f"+49{chance.randrange(10**9, 10**10)}",
            "zip": f"{chance.randrange(10**5):05d}",
            "city": "Kraków",
            "address": "ulica Długa 7 “left”",
            "region": "",
            "email": f"load{number}@example.com",
        },
        "payment": {
            "transaction": uid,
            "request_id": "",
            "currency": chance.choice(("EUR", "JPY", "KWD", "USD")),
            "provider": "cardpay",
            "amount": total + DELIVERY_COST + CUSTOM_FEE,
            "payment_dt": 1_767_571_200 + number,
            "bank": "alpha",
            "delivery_cost": DELIVERY_COST,
            "goods_total": total,
            "custom_fee": CUSTOM_FEE,
        },
        "items": [
            {
                "chrt_id": number * 10 + line,
                "track_number": track,
                "price": price * 2,
                "rid": f"{uid}-{line}",
                "name": "Wollschal",
                "sale": 50,
                "size": "0",
                "total_price": price,
                "nm_id": 2_000_000 + line,
                "brand": "Northloom",
                "status": 202,
            }
            for line, price in enumerate(prices, 1)
        ],
        "locale": "pl",
        "internal_signature": "",
        "customer_id": f"load-{number % CUSTOMERS}",
        "delivery_service": "meest",
        "shardkey": str(number % 10),
        "sm_id": 99,
        "date_created": "2026-01-05T00:00:02.5+01:00",
        "oof_shard": "1",
        "unknown_to_all": {"kept": [1, 2.5, None, True, "as it came"], "number": number},
    }


def compact(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()


def reworded(tree: dict[str, Any]) -> bytes:
    """The same content in other bytes: names the other way round, spread over lines, letters escaped."""
    return (json.dumps(dict(reversed(tree.items())), indent=1) + "\n").encode()


# --- poison -----------------------------------------------------------------------------------------------------------


def _with(tree: dict[str, Any], *path: str | int, value: Any) -> bytes:
    """The document with one member replaced."""
    changed = json.loads(json.dumps(tree))
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return compact(changed)


def _without(tree: dict[str, Any], name: str) -> bytes:
    return compact({key: value for key, value in tree.items() if key != name})


def _as_text(tree: dict[str, Any], *path: str | int, text: bytes) -> bytes:
    """The document with a member that Python's writer of JSON would not write."""
    return _with(tree, *path, value="@@").replace(b'"@@"', text)


def _deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


#: kind -> (paths of its faults, document -> bytes). Null values are made where records are made.
POISON: dict[str, tuple[tuple[str, ...], Any]] = {
    "not JSON": (("$",), lambda tree: b"order please"),
    "cut off": (("$",), lambda tree: compact(tree)[:-25]),
    "empty": (("$",), lambda tree: b""),
    "not UTF-8": (("$",), lambda tree: compact(tree).replace(b"alpha", b"\xff\xfe\xfa")),
    "a list": (("$",), lambda tree: compact([tree])),
    "very deep": (("$",), lambda tree: _deep(200_000)),
    "NaN": (("$.payment.amount",), lambda tree: _as_text(tree, "payment", "amount", text=b"NaN")),
    "1e400": (("$.payment.amount",), lambda tree: _as_text(tree, "payment", "amount", text=b"1e400")),
    "1e400, unknown field": (("$.unknown_to_all",), lambda tree: _as_text(tree, "unknown_to_all", text=b"-1e400")),
    "2^63": (
        ("$.payment.amount",),
        lambda tree: _as_text(tree, "payment", "amount", text=b"9223372036854775808"),
    ),
    "10^30": (
        ("$.items[0].price",),
        lambda tree: _as_text(tree, "items", 0, "price", text=b"1" + b"0" * 30),
    ),
    "a fraction": (("$.items[0].price",), lambda tree: _with(tree, "items", 0, "price", value=1.0)),
    "a word for a number": (("$.payment.amount",), lambda tree: _with(tree, "payment", "amount", value="1817")),
    "true for a number": (("$.sm_id",), lambda tree: _with(tree, "sm_id", value=True)),
    "negative": (("$.items[0].price",), lambda tree: _with(tree, "items", 0, "price", value=-1)),
    "missing": (("$.customer_id",), lambda tree: _without(tree, "customer_id")),
    "null": (("$.delivery",), lambda tree: _with(tree, "delivery", value=None)),
    "no items": (("$.items",), lambda tree: _with(tree, "items", value=[])),
    "another track": (
        ("$.items[0].track_number",),
        lambda tree: _with(tree, "items", 0, "track_number", value="ELSEWHERE"),
    ),
    "wrong amount": (
        ("$.payment.amount",),
        lambda tree: _with(tree, "payment", "amount", value=tree["payment"]["amount"] + 1),
    ),
    "wrong goods": (
        ("$.payment.amount", "$.payment.goods_total"),
        lambda tree: _with(tree, "payment", "goods_total", value=tree["payment"]["goods_total"] + 1),
    ),
    "no currency": (("$.payment.currency",), lambda tree: _with(tree, "payment", "currency", value="XXX")),
    "no such day": (("$.date_created",), lambda tree: _with(tree, "date_created", value="2026-02-30T00:00:00Z")),
    "no e-mail": (("$.delivery.email",), lambda tree: _with(tree, "delivery", "email", value="nobody")),
    "bad uid": (("$.order_uid",), lambda tree: _with(tree, "order_uid", value="../etc/passwd")),
    "NUL": (("$.delivery.city",), lambda tree: _with(tree, "delivery", "city", value="Kra\0ków")),
    "half a character": (
        ("$.delivery.city",),
        lambda tree: _as_text(tree, "delivery", "city", text=b'"\\ud800"'),
    ),
    "a name twice": (
        ("$.payment.bank",),
        lambda tree: compact(tree).replace(b'"bank":"alpha"', b'"bank":"alpha","bank":"beta"'),
    ),
    "two faults": (
        ("$.locale", "$.payment.custom_fee"),
        lambda tree: _with(json.loads(_with(tree, "locale", value="?")), "payment", "custom_fee", value=None),
    ),
}
#: kind -> (paths, order_uid -> the command), for the topic of commands.
POISON_COMMANDS: dict[str, tuple[tuple[str, ...], Any]] = {
    "no type": (("$.type",), lambda uid: {"command_id": "x", "order_uid": uid}),
    "unknown type": (("$.type",), lambda uid: {"type": "refund_order", "command_id": "x", "order_uid": uid}),
    "no id": (("$.command_id",), lambda uid: {"type": "cancel_order", "order_uid": uid, "reason": "late"}),
    "no reason": (("$.reason",), lambda uid: {"type": "cancel_order", "command_id": "x", "order_uid": uid}),
    "two uids": (
        ("$.order_uid",),
        lambda uid: {"type": "place_order", "command_id": "x", "order_uid": "another", "document": document(1, 0)},
    ),
    "a bad document": (
        ("$.document.payment",),
        lambda uid: {
            "type": "place_order", "command_id": "x", "order_uid": order_uid(1, 0),
            "document": {**document(1, 0), "payment": 1},
        },
    ),
}  # fmt: skip


# --- the plan ---------------------------------------------------------------------------------------------------------


class Totals(NamedTuple):
    """What a load comes to, whatever the order in which its records are worked on."""

    orders: int  # placed in the end
    amount_minor: int  # of all orders together
    repetitions: int  # say nothing new
    order_refusals: int
    cancellations: int  # each cancels, or is refused
    poison: int


def _traits(number: int, seed: int) -> tuple[bool, bool, bool, bool, bool]:
    """Whether the order comes again, has a rival, is cancelled, and whether a cancellation finds nothing; reworded."""
    lot = Random(f"traits {seed} {number}").randrange(200)
    return lot < 14, 14 <= lot < 18, 18 <= lot < 28, 28 <= lot < 30, lot % 2 == 0


def totals(count: int, seed: int, first: int = 0) -> Totals:
    """Of the numbers from `first` on. Sums over numbers; nothing is generated for it."""
    numbers = range(first, first + count)
    traits = [_traits(number, seed) for number in numbers]
    again, rivals, cancelled, nothing = (sum(trait[which] for trait in traits) for which in range(4))
    resent = sum(trait[2] and trait[4] for trait in traits)
    return Totals(
        orders=count,
        amount_minor=sum(map(amount, numbers)),
        repetitions=again + resent,
        order_refusals=rivals,
        cancellations=cancelled + nothing,
        poison=sum(number % 100 == 50 for number in numbers),
    )


def plan(count: int, seed: int, first: int = 0) -> Iterator[Planned]:
    """The records of these numbers, each up to WINDOW places from its own."""
    chance = Random(f"plan {seed} {first}")
    held: list[Planned] = []
    for number in range(first, first + count):
        for record in _records(number, seed):
            held.append(record)
            if len(held) > WINDOW:
                yield held.pop(chance.randrange(WINDOW))
    yield from held


def _records(number: int, seed: int) -> Iterator[Planned]:
    """What is sent for one number, in its natural order."""
    chance = Random(f"records {seed} {number}")
    again, rival, cancelled, nothing, other = _traits(number, seed)
    uid, tree = order_uid(number, seed), document(number, seed)

    def sent(what: str, topic: str, value: bytes | None, paths: tuple[str, ...] = ()) -> Planned:
        key = None if chance.random() < 0.1 else uid.encode()
        headers = (("load", str(number).encode()), ("bytes", b"\xff\x00")) if number % 5 == 0 else ()
        return Planned(what, topic, key, value, chance.randrange(2), headers, frozenset(paths))

    yield sent("order", INTAKE, compact(tree))
    if again:
        yield sent("repetition", INTAKE, reworded(tree) if other else compact(tree))
    if rival:
        yield sent("rival", INTAKE, compact({**tree, "locale": "de"}))
    if cancelled or nothing:
        whose = uid if cancelled else f"nobody-{uid}"
        command = {"type": "cancel_order", "command_id": f"cancel-{uid}", "order_uid": whose, "reason": "too late ☔"}
        cancellation = sent("cancellation", COMMANDS, compact(command))._replace(key=whose.encode())
        yield cancellation
        if cancelled and other:
            yield cancellation._replace(what="repetition")
    if number % 100 == 50:
        yield _poison(number // 100, sent, tree)


def poison(count: int, seed: int) -> Iterator[Planned]:
    """Nothing but poison: every kind in turn, without a key or with one, by both partitioners."""
    for turn in range(count):
        chance, number = Random(f"poison {seed} {turn}"), 10_000_000 + turn

        def sent(what: str, topic: str, value: bytes | None, paths: tuple[str, ...]) -> Planned:
            key = None if chance.random() < 0.5 else order_uid(number, seed).encode()  # noqa: B023  used at once
            return Planned(what, topic, key, value, chance.randrange(2), paths=frozenset(paths))  # noqa: B023

        yield _poison(turn, sent, document(number, seed))


def markers(partitions: int, seed: int) -> Iterator[tuple[int, Planned]]:
    """One order at home in each partition: when its event can be read, no transaction before it is open any more."""
    for partition in range(partitions):
        tree = document(20_000_000 + partition, seed)
        uids = (f"marker{seed}-{partition}-{turn}" for turn in range(10_000))
        uid = next(uid for uid in uids if home_of(uid, partitions) == partition)
        yield partition, Planned("marker", INTAKE, uid.encode(), compact({**tree, "order_uid": uid}))


def _poison(turn: int, sent: Any, tree: dict[str, Any]) -> Planned:
    """Each kind in turn; one in eight on the topic of commands, one in sixteen without any value."""
    if turn % 16 == 15:
        return sent("null value", INTAKE, None, ("$",))  # type: ignore[no-any-return]
    if turn % 8 == 3:
        kind, (paths, make) = list(POISON_COMMANDS.items())[turn // 8 % len(POISON_COMMANDS)]
        return sent(kind, COMMANDS, compact(make(tree["order_uid"])), paths)  # type: ignore[no-any-return]
    kind, (paths, make) = list(POISON.items())[turn % len(POISON)]
    return sent(kind, INTAKE, make(tree), paths)  # type: ignore[no-any-return]


# --- sending ----------------------------------------------------------------------------------------------------------


def patience(bootstrap: str) -> dict[str, int]:
    """Of several brokers one may be frozen: librdkafka's own 30 to 60 s would be taken for the platform's."""
    return {"socket.timeout.ms": 3_000, "request.timeout.ms": 3_000} if "," in bootstrap else {}


@dataclass
class Load:
    """Sends a plan and keeps what the broker said: `send` at once, or `start` and `stop` for a steady rate."""

    bootstrap: str
    seed: int
    positions: dict[Position, Planned] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    placed: list[str] = field(default_factory=list)  # order_uids that the broker has taken
    numbers: int = 0  # how many numbers of the plan were sent whole
    failures: list[str] = field(default_factory=list)
    _running: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._producers = [
            Producer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "partitioner": partitioner,
                    "linger.ms": 5,
                    "compression.type": compression,
                    "enable.idempotence": True,
                    "queue.buffering.max.messages": 200_000,
                    **patience(self.bootstrap),
                }
            )
            for partitioner, compression in zip(PARTITIONERS, ("lz4", "zstd"), strict=True)
        ]

    def send(self, count: int) -> Totals:
        """The next `count` numbers, as fast as it goes, acknowledged; what all numbers so far come to."""
        self._send(count)
        return totals(self.numbers, self.seed)

    def poison(self, count: int) -> None:
        """Nothing but poison, acknowledged."""
        for record in poison(count, self.seed):
            self._produce(record)
        self._flush()

    def mark(self, partitions: int) -> None:
        """An order into each partition of the intake, acknowledged: what comes after everything else."""
        for partition, record in markers(partitions, self.seed):
            self._produce(record, partition)
        self._flush()

    def start(self, per_second: int, step: int = 100) -> None:
        """Numbers at a steady rate from a thread, until `stop`."""
        self._running.set()
        self._thread = threading.Thread(target=self._go_on, args=(per_second, step), daemon=True)
        self._thread.start()

    def stop(self) -> Totals:
        """All that was begun is sent and acknowledged; what it all comes to."""
        self._running.clear()
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive(), "the broker took the load's records for longer than a minute"
        return totals(self.numbers, self.seed)

    def close(self) -> None:
        """Producers left open would look for the broker for ever."""
        for producer in self._producers:
            producer.close()

    def sent_to(self, topic: str) -> frozenset[Position]:
        return frozenset(position for position in self.positions if position.topic == topic)

    def _go_on(self, per_second: int, step: int) -> None:
        began, sent = time.monotonic(), 0
        while self._running.is_set():
            self._send(step)
            sent += step
            time.sleep(max(0.0, sent / per_second - (time.monotonic() - began)))

    def _send(self, count: int) -> None:
        for record in plan(count, self.seed, self.numbers):
            self._produce(record)
        self.numbers += count
        self._flush()

    def _produce(self, record: Planned, partition: int = ANY_PARTITION) -> None:
        producer = self._producers[record.partitioner]
        self.counts[record.what] += 1

        def told(error: KafkaError | None, message: Message) -> None:
            topic, at, offset = message.topic(), message.partition(), message.offset()
            if error is not None or topic is None or at is None or offset is None:
                self.failures.append(f"{record.what}: {error}")
            else:
                self.positions[Position(topic, at, offset)] = record
                if record.what == "order" and record.key is not None:
                    self.placed.append(record.key.decode())

        while True:
            try:
                producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=partition,
                    headers=list(record.headers),
                    on_delivery=told,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)

    def _flush(self) -> None:
        for producer in self._producers:
            left = producer.flush(30)
            assert not left, f"{left} records were not taken by the broker within 30 s"
        assert not self.failures, self.failures[:3]
