"""records of the events and dead-letter topics -> rows of PostgreSQL; pure, and bytes in the payload stay as they were.

`COLUMNS` is the one list of what a record becomes: the staging tables, the statements and `verify` all read it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from schemas import dead_letters
from schemas.base import time_ms
from streams.records import Headers, Record

Row = tuple[Any, ...]

#: What the columns of `orders` after `cancel_reason` are called in the document.
DOCUMENT_FIELDS = {
    "track_number": ("track_number",),
    "delivery_service": ("delivery_service",),
    "provider": ("payment", "provider"),
    "currency": ("payment", "currency"),
    "amount_minor": ("payment", "amount"),
    "goods_total_minor": ("payment", "goods_total"),
    "delivery_cost_minor": ("payment", "delivery_cost"),
    "custom_fee_minor": ("payment", "custom_fee"),
}
ITEM_FIELDS = {
    "chrt_id": "chrt_id",
    "nm_id": "nm_id",
    "rid": "rid",
    "track_number": "track_number",
    "name": "name",
    "brand": "brand",
    "size": "size",
    "status": "status",
    "price_minor": "price",
    "sale_percent": "sale",
    "total_price_minor": "total_price",
}
STATE = ("order_uid", "version", "status", "customer_id", "placed_at", "updated_at", "updated_by", "cancel_reason")
ORDER_COLUMNS = (*STATE, *DOCUMENT_FIELDS)
ITEM_COLUMNS = ("order_uid", "line_no", *ITEM_FIELDS)
EVENT_COLUMNS = (
    "event_id", "type", "order_uid", "version", "occurred_at", "caused_by", "reason", "topic", "partition", "offset",
    "payload",
)  # fmt: skip
LETTER_COLUMNS = (
    "id", "kind", "reason", "faults", "agent", "attempt", "origin_topic", "origin_partition", "origin_offset",
    "origin_at", "key", "value", "headers", "topic", "partition", "offset",
)  # fmt: skip
REFUSED_COLUMNS = ("topic", "partition", "offset", "record_at", "key", "value", "headers", "error")


def names(columns: Iterable[str], prefix: str = "") -> str:
    """Columns as a statement lists them; some are words of SQL."""
    return ", ".join(f'{prefix}"{column}"' for column in columns)


def set_excluded(columns: Iterable[str]) -> str:
    """What an upsert sets."""
    return ", ".join(f'"{column}" = excluded."{column}"' for column in columns)


def insert(table: str, columns: Sequence[str]) -> str:
    """The statement for one row."""
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({names(columns)}) VALUES ({values})"


class Unreadable(ValueError):
    """A record that cannot become rows: it is set aside in `refused_rows`."""


class Change(NamedTuple):
    """A later version of an order whose document is not in this batch."""

    order_uid: str
    version: int
    status: str
    updated_at: datetime
    updated_by: str
    cancel_reason: str | None


@dataclass
class Rows:
    """What a batch of records comes to. An order appears in it once, in the newest version that the batch has.

    `orders` have one value more than their columns: which of `events` holds their document, so that the database takes
    it from there instead of parsing it twice.
    """

    orders: dict[str, Row] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)
    items: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    letters: dict[str, Row] = field(default_factory=dict)
    redrives: dict[str, datetime] = field(default_factory=dict)
    #: Table -> events to be folded into its rows (bought.py), each with its own row.
    told: dict[str, list[tuple[Any, Row]]] = field(default_factory=dict)
    refused: list[Row] = field(default_factory=list)


def order_rows(order: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """An order's state -> its row in `orders` (without the document) and its rows in `order_items`."""
    document = order["document"]
    payment, uid = document["payment"], order["order_uid"]
    row = (
        uid,
        order["version"],
        order["status"],
        order["customer_id"],
        datetime.fromisoformat(order["placed_at"]),
        datetime.fromisoformat(order["updated_at"]),
        order["updated_by"],
        order.get("cancel_reason"),
        document["track_number"],
        document["delivery_service"],
        payment["provider"],
        payment["currency"],
        payment["amount"],
        payment["goods_total"],
        payment["delivery_cost"],
        payment["custom_fee"],
    )
    return row, [_item(uid, number, item) for number, item in enumerate(document["items"], 1)]


def _item(uid: str, number: int, item: Mapping[str, Any]) -> Row:
    return (
        uid,
        number,
        item["chrt_id"],
        item["nm_id"],
        item["rid"],
        item["track_number"],
        item["name"],
        item["brand"],
        item["size"],
        item["status"],
        item["price"],
        item["sale"],
        item["total_price"],
    )


def add_rows(rows: Rows, records: Iterable[Record], readers: Mapping[str, Callable[[Rows, Record], None]]) -> None:
    """Every record goes to its topic's reader, in order; one that cannot be read is refused with the reason."""
    for record in records:
        try:
            readers[record.topic](rows, record)
        except MemoryError:
            raise  # not the record's fault
        except Exception as error:  # readers are pure: whatever they raise follows from the record
            what = f"no field {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            rows.refused.append(refused_row(record, f"not readable: {what}"))


def read_event(rows: Rows, record: Record) -> None:
    """orders.events.v1: the event itself and what it makes of the order. Refusals change no order."""
    raw = record.value
    event = orjson.loads(raw or b"")
    kind, uid, version = event["type"], event["order_uid"], event["version"]
    at = datetime.fromisoformat(event["occurred_at"])
    row = (
        event["event_id"],
        kind,
        uid,
        version,
        at,
        event["caused_by"],
        event.get("reason"),
        record.topic,
        record.partition,
        record.offset,
        jsonb(raw or b""),
    )
    if kind == "order_placed":
        time, cause = event["occurred_at"], event["caused_by"]
        state = {"status": "placed", "placed_at": time, "updated_at": time, "updated_by": cause}
        order, items = order_rows(event | state)
        if uid not in rows.orders or rows.orders[uid][1] < version:
            rows.orders[uid] = (*order, len(rows.events))
        rows.items += items
    elif kind == "order_cancelled":
        _cancel(rows, Change(uid, version, "cancelled", at, event["caused_by"], event["reason"]))
    elif kind not in ("order_refused", "cancellation_refused"):
        raise Unreadable(f"event type {kind!r} is unknown to this version; upgrade, then rebuild the sink")
    rows.events.append(row)


def _cancel(rows: Rows, change: Change) -> None:
    placed = rows.orders.get(change.order_uid)
    if placed is None:
        rows.changes[change.order_uid] = change
    elif placed[1] < change.version:
        merged = dict(zip((*ORDER_COLUMNS, "event"), placed, strict=True)) | change._asdict()
        rows.orders[change.order_uid] = tuple(merged.values())


def read_dead_letter(rows: Rows, record: Record) -> None:
    """dead_letters.v1: a dead letter, or the marker that one was redriven."""
    letter = dead_letters.read_dead_letter(record.key, record.value, record.headers)
    if isinstance(letter, dead_letters.Redriven):
        rows.redrives[letter.id] = time_of(record.timestamp)
        return
    faults = [{"path": text(fault.path), "message": text(fault.message)} for fault in letter.faults]
    rows.letters[letter.id] = (
        letter.id,
        letter.kind,
        text(letter.reason),
        jsonb(orjson.dumps(faults)),
        text(letter.agent),
        letter.attempt,
        letter.topic,
        letter.partition,
        letter.offset,
        time_of(letter.timestamp),
        letter.key,
        letter.value,
        jsonb(headers_json(letter.headers)),
        record.topic,
        record.partition,
        record.offset,
    )


def refused_row(record: Record, error: str) -> Row:
    """A row that PostgreSQL takes whatever the record holds."""
    return (
        record.topic,
        record.partition,
        record.offset,
        time_of(record.timestamp),
        record.key,
        record.value,
        jsonb(headers_json(record.headers)),
        text(error[:2000]),
    )


def jsonb(raw: bytes) -> bytes:
    """PostgreSQL's binary form of jsonb: a version byte, then the text. The server parses it; nothing here does."""
    return b"\x01" + raw


def headers_json(headers: Headers | Iterable[tuple[str, bytes | None]]) -> bytes:
    """Header values are bytes: text where they are text, base64 where they are not. One may have no value at all."""
    shown: list[dict[str, str]] = []
    for name, value in headers:
        entry = {"name": text(name)}
        shown.append(entry)
        if value is None:
            continue
        try:
            entry["value"] = value.decode()
            if "\x00" in entry["value"]:
                raise ValueError
        except ValueError:
            entry.pop("value", None)
            entry["base64"] = base64.b64encode(value).decode()
    return orjson.dumps(shown)


def text(value: str) -> str:
    """Text that PostgreSQL can hold: no lone surrogates, no NUL."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def time_of(timestamp_ms: int) -> datetime:
    """A record's timestamp. Producers' clocks say anything: it is brought into the range that is known."""
    return datetime.fromtimestamp(time_ms(timestamp_ms) / 1000, UTC)
