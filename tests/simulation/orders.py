"""the domains orders and requests: what producers send, and a model of what must come of it.

Written from the documented behaviour (README, schemas/, the layout of keys in tables/orders.py); no rule is imported.
Whether a document is good is known from how it was made, not found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from uuid import UUID, uuid5

import orjson

from agents.wiring import declare_topics, wire_orders, wire_requests
from schemas.orders.samples import document, spoil
from schemas.topics import topics as topic_specs
from streams import App
from streams.records import StoredRecord
from tests.simulation.model import LETTERS, Due, Out, State, Word, home, json_out, letter, letter_seen

NAMESPACE = UUID("6f1f4f3e-5d0a-5c59-9d0e-0a4f2b7c81e6")
DAY_MS = 24 * 3600 * 1000
LAST_MS = 10**13 - 1
ORDERS, REQUEST_KEYS = 5, ["k1", "k2", "k3"]
#: Groups whose histories are played in tests/agents: their rules have models of their own there.
NOT_HERE = {"accounts", "inventory"}
INTAKE, COMMANDS, EVENTS, REQUESTS = "orders", "orders.commands.v1", "orders.events.v1", "requests.commands.v1"
_CUT = b',"document":'


def derived(name: str) -> str:
    return str(uuid5(NAMESPACE, name))


def moment(timestamp_ms: int) -> str:
    at = datetime.fromtimestamp(timestamp_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z"


@cache
def documents(number: int) -> dict[str, bytes]:
    """An order as it may be sent: once, once more in another shape, and with other content."""
    tree = document(number)
    return {
        "first": orjson.dumps(tree),
        "again": orjson.dumps(tree, option=orjson.OPT_INDENT_2),
        "other": orjson.dumps({**tree, "delivery_service": "another"}),
    }


@cache
def known() -> dict[bytes, tuple[str, str, str]]:
    """Good documents -> (order_uid, customer_id, what it says)."""
    found: dict[bytes, tuple[str, str, str]] = {}
    for number in range(ORDERS):
        tree = document(number)
        for name, raw in documents(number).items():
            content = "other" if name == "other" else "first"
            found[raw] = (str(tree["order_uid"]), str(tree["customer_id"]), content)
    return found


@lru_cache(maxsize=4096)
def parse(raw: bytes) -> Any:
    """A value in normal form: JSON, but a document by its bytes, as it was received."""
    at = raw.find(_CUT)
    if at < 0:
        return orjson.loads(raw)
    return {**orjson.loads(raw[:at] + b"}"), "document": raw[at + len(_CUT) : -1]}


#: The header that says whom an event is about which does not say so itself.
CUSTOMER = "customer"


class Orders:
    """Orders and idempotency keys."""

    name: ClassVar[str] = "orders"
    inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {"orders": (INTAKE, COMMANDS), "requests": (REQUESTS,)}
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "orders": ("orders", "order_timeline", "order_refusals", "orders_by_customer", "orders_by_time"),
        "requests": ("requests", "requests_deadlines"),
    }
    deadlines: ClassVar[Mapping[str, str]] = {"requests": "requests_deadlines"}
    outputs: ClassVar[tuple[str, ...]] = (EVENTS, LETTERS)
    asked: ClassVar[Mapping[str, str]] = {"orders": "orders", "requests": "requests"}

    @staticmethod
    @cache
    def app(partitions: int) -> App:
        """As app.py, without window and effects."""
        app = App("orderstream", data_dir=Path("unused"), broker="kafka://127.0.0.1:9")
        topics = declare_topics(app, (spec for spec in topic_specs(partitions, 1) if spec.group not in NOT_HERE))
        wire_orders(app, topics)
        wire_requests(app, topics)
        return app

    # -- what producers send ------------------------------------------------------------------------------------------

    def words(self, chance: Random, partitions: int, count: int, now_ms: int, first: int = 0) -> list[Word]:
        return [
            word for number in range(first, first + count) for word in self._some(chance, partitions, number, now_ms)
        ]

    def _some(self, chance: Random, partitions: int, number: int, now_ms: int) -> Iterator[Word]:
        order = chance.randrange(ORDERS)
        raw = documents(order)[chance.choice(["first", "first", "again", "other"])]
        uid = known()[raw][0]
        match chance.choice(["intake", "intake", "intake", "place", "cancel", "cancel", "bad", "request", "request"]):
            case "intake":
                yield self._sent(chance, partitions, INTAKE, uid, raw, f"document {order}")
            case "place":
                head = {"type": "place_order", "command_id": f"p{number}", "order_uid": uid}
                value = orjson.dumps({**head, "document": orjson.Fragment(raw)})
                word = self._sent(chance, partitions, COMMANDS, uid, value, f"p{number}: place {order}")
                yield from [word] * chance.choice([1, 1, 2])
            case "cancel":
                head = {"type": "cancel_order", "command_id": f"c{number}", "order_uid": uid, "reason": "so be it"}
                word = self._sent(chance, partitions, COMMANDS, uid, orjson.dumps(head), f"c{number}: cancel {order}")
                yield from [word] * chance.choice([1, 1, 2])
            case "bad":
                topic = chance.choice([INTAKE, COMMANDS, REQUESTS])
                bad = chance.choice([None, b"{", spoil(document(order), chance)])
                yield self._sent(chance, partitions, topic, uid, bad, "poison")
            case _:
                key = chance.choice(REQUEST_KEYS)
                said = self._request(chance, number, key, now_ms)
                yield self._sent(chance, partitions, REQUESTS, key, orjson.dumps(said), f"{said['type']} {key}")

    def _request(self, chance: Random, number: int, key: str, now_ms: int) -> dict[str, Any]:
        if chance.random() < 0.3:
            return {
                "type": "complete_request",
                "command_id": f"d{number}",
                "request_key": key,
                "status": 201,
                "headers": {"ETag": "1"},
                "body": f"{number}",
            }
        due_in_ms = chance.choice([500, 3_000, 10_000, DAY_MS])
        return {
            "type": "claim_request",
            "command_id": f"r{number}",
            "request_key": key,
            "fingerprint": chance.choice("ab") * 64,
            "claimed_at_ms": now_ms + due_in_ms - DAY_MS + number,
            "lease_ms": chance.choice([1, 5_000]),
        }

    def _sent(self, chance: Random, partitions: int, topic: str, key: str, value: bytes | None, about: str) -> Word:
        """Mostly at home, sometimes where another partitioner would put it, or without a key."""
        raw = key.encode()
        at = home(raw, partitions) if chance.random() < 0.7 else chance.randrange(partitions)
        headers = (("trace", about.encode()),) if chance.random() < 0.2 else ()
        return Word(topic, at, raw if chance.random() < 0.8 else None, value, about, headers)

    # -- what must come of it -----------------------------------------------------------------------------------------

    def work(self, state: State, record: StoredRecord, partitions: int) -> list[Out]:
        if record.topic == REQUESTS:
            return self._work_request(state, record, partitions)
        command = self._command(record)
        if command is None:
            return [letter(record, "poison", partitions)]
        uid = command["order_uid"]
        at = home(uid.encode(), partitions)
        if at != record.partition:
            return [Out(COMMANDS, at, record.timestamp, uid.encode(), command, record.headers)]
        event = self._decide(state, command)
        if event is None:
            return []
        event |= {
            "event_id": derived(f"{command['command_id']}-0"),
            "caused_by": command["command_id"],
            "occurred_at": moment(record.timestamp),
            "order_uid": uid,
        }
        self._keep(state, event, record)
        order = state.tables["orders"].get(uid.encode())
        about = () if order is None or event["type"] == "order_placed" else ((CUSTOMER, order["customer_id"].encode()),)
        return [Out(EVENTS, at, record.timestamp, uid.encode(), event, about)]

    def _command(self, record: StoredRecord) -> dict[str, Any] | None:
        """What the record asks for; None for poison."""
        if record.value is None:
            return None
        if record.topic == INTAKE:
            if record.value not in known():
                return None
            return {
                "type": "place_order",
                "command_id": derived(f"{record.topic}-{record.partition}-{record.offset}"),
                "order_uid": known()[record.value][0],
                "document": record.value,
            }
        try:
            said = dict(parse(record.value))
        except ValueError:
            return None
        return said if said.get("type") in ("place_order", "cancel_order") else None

    def _decide(self, state: State, command: dict[str, Any]) -> dict[str, Any] | None:
        uid = command["order_uid"]
        order = state.tables["orders"].get(uid.encode())
        mine = uid.encode() + b"\0"
        entries = state.tables["order_timeline"]
        if any(key.startswith(mine) and row["caused_by"] == command["command_id"] for key, row in entries.items()):
            return None
        version = order["version"] if order else 0
        if command["type"] == "place_order":
            _, customer, content = known()[command["document"]]
            if order is None:
                placed = {"type": "order_placed", "version": 1, "customer_id": customer}
                return {**placed, "document": command["document"]}
            if known()[order["document"]][2] == content:
                return None
            return {"type": "order_refused", "version": version, "reason": "exists_with_different_content"}
        if order is None:
            return {"type": "cancellation_refused", "version": 0, "reason": "no_such_order"}
        if order["status"] == "cancelled":
            return {"type": "cancellation_refused", "version": version, "reason": "already_cancelled"}
        return {"type": "order_cancelled", "version": version + 1, "reason": command["reason"]}

    def _keep(self, state: State, event: dict[str, Any], record: StoredRecord) -> None:
        uid, version, refused = event["order_uid"], event["version"], event["type"].endswith("refused")
        words = ("type", "order_uid", "version", "event_id", "caused_by", "occurred_at")
        entry = {name: event[name] for name in words} | {
            "reason": event.get("reason"),
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
        }
        key = f"{uid}\0{version:010d}" + (f"\0{record.topic}\0{record.offset:020d}" if refused else "")
        state.tables["order_timeline"][key.encode()] = entry
        if refused:
            state.tables["order_refusals"][f"{uid}\0{event['caused_by']}".encode()] = str(version)
            return
        orders = state.tables["orders"]
        at = event["occurred_at"]
        if event["type"] == "order_placed":
            order = {
                "order_uid": uid,
                "version": 1,
                "status": "placed",
                "customer_id": event["customer_id"],
                "placed_at": at,
                "cancel_reason": None,
                "document": event["document"],
            }
        else:
            order = orders[uid.encode()] | {"version": version, "status": "cancelled", "cancel_reason": event["reason"]}
        order |= {"updated_at": at, "updated_by": event["caused_by"]}
        orders[uid.encode()] = order
        placed_ms = int(datetime.fromisoformat(order["placed_at"]).timestamp() * 1000 + 0.5)
        place = f"{LAST_MS - placed_ms:013d}\0{uid}"
        state.tables["orders_by_time"][place.encode()] = order["status"]
        state.tables["orders_by_customer"][f"{order['customer_id']}\0{place}".encode()] = order["status"]

    def _work_request(self, state: State, record: StoredRecord, partitions: int) -> list[Out]:
        try:
            said = orjson.loads(record.value or b"")
            key, kind = said["request_key"], said["type"]
        except (ValueError, KeyError, TypeError):
            return [letter(record, "poison", partitions)]
        at = home(key.encode(), partitions)
        if at != record.partition:
            return [Out(REQUESTS, at, record.timestamp, key.encode(), said, record.headers)]
        rows, raw = state.tables["requests"], key.encode()
        row = rows.get(raw)
        if kind == "forget_request":
            rows.pop(raw, None)
        elif kind == "complete_request":
            if row is not None and row["status"] is None:
                rows[raw] = row | {"status": said["status"], "headers": said["headers"], "body": said["body"]}
        elif row is None or self._lapsed(row, said):
            names = ("request_key", "fingerprint", "claimed_at_ms", "lease_ms")
            claimed = {name: said[name] for name in names} | {"claimed_by": said["command_id"]}
            rows[raw] = claimed | {"status": None, "headers": {}, "body": ""}
            forget = {
                "command_id": derived(f"forget {said['command_id']}"),
                "type": "forget_request",
                "request_key": key,
            }
            state.schedule(Due(said["claimed_at_ms"] + DAY_MS, key, REQUESTS, key, orjson.dumps(forget)))
        return []

    def _lapsed(self, row: dict[str, Any], claim: dict[str, Any]) -> bool:
        """Whether a second claim takes the key over."""
        return (
            row["fingerprint"] == claim["fingerprint"]
            and row["status"] is None
            and row["claimed_by"] != claim["command_id"]
            and claim["claimed_at_ms"] >= row["claimed_at_ms"] + row["lease_ms"]
        )

    # -- normal forms -------------------------------------------------------------------------------------------------

    def row(self, table: str, value: bytes) -> Any:
        return value.decode() if table in ("order_refusals", "orders_by_customer", "orders_by_time") else parse(value)

    def out(self, record: StoredRecord) -> Out:
        return letter_seen(record) if record.topic == LETTERS else json_out(record, parse)

    def due_value(self, value: bytes) -> Any:
        return orjson.loads(value)

    def identity(self, out: Out) -> str | None:
        return str(out.value["event_id"]) if out.topic == EVENTS else None

    def keys(self, group: str) -> list[str]:
        if group == "requests":
            return REQUEST_KEYS
        return sorted({uid for uid, _, _ in known().values()})

    def told(self, value: Any) -> Any:
        return parse(value.to_json() if hasattr(value, "to_json") else value.model_dump_json().encode())
