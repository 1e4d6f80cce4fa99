"""purchases.events.v1, payments.events.v1 -> folded into the state that PostgreSQL has -> rows of both, each once.

An event of these says what changed and not what came of it, so each is folded into the state that the row keeps. That
is read in the transaction that writes it and moves the position: nobody else can have folded the same event into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from agents.effects.postgres.rows import EVENT_COLUMNS, Row, Rows, Unreadable, insert, names, set_excluded, text
from schemas import payments as payment_words
from schemas import purchases as purchase_words
from schemas.payments import Payment
from schemas.purchases import LineState, Purchase
from schemas.reversals import ReversalKind
from schemas.topics import PAYMENT_EVENTS, PURCHASE_EVENTS
from streams.records import Record

PURCHASE_COLUMNS = (
    "order_uid", "version", "status", "user_id", "outlet_id", "order_number", "payment_method", "currency",
    "total_minor", "authorised_minor", "capture_minor", "captured_minor", "refund_minor", "refunded_minor",
    "lost_minor", "ended", "placed_at", "updated_at", "updated_by",
)  # fmt: skip
LINE_COLUMNS = (
    "order_uid", "line_no", "item_id", "name", "outlet_id", "price_minor", "asked", "reserved", "cancelled", "shipped",
    "delivered", "returned", "exchanged", "refused", "replaces",
)  # fmt: skip
PAYMENT_COLUMNS = (
    "order_uid", "version", "status", "user_id", "method", "currency", "amount_minor", "authorised_minor",
    "captured_minor", "refunding_minor", "refunded_minor", "reason", "attempts", "requested_at", "updated_at",
    "unrequested_refund_minor", "charged_back_minor", "unresolved_reversals",
)  # fmt: skip


def purchase_row(purchase: Purchase) -> Row:
    """A purchase in the columns of `purchases`, without its state."""
    return (
        purchase.order_uid,
        purchase.version,
        str(purchase.status),
        purchase.user_id,
        purchase.outlet_id,
        purchase.order_number,
        str(purchase.payment.method),
        purchase.currency,
        purchase.total_minor,
        purchase.authorised_minor,
        purchase.capture_minor,
        purchase.captured_minor,
        purchase.refund_minor,
        purchase.refunded_minor,
        purchase.lost_minor,
        None if purchase.ended is None else str(purchase.ended),
        datetime.fromisoformat(purchase.placed_at),
        datetime.fromisoformat(purchase.updated_at),
        purchase.updated_by,
    )


def line_rows(purchase: Purchase) -> list[Row]:
    """A purchase's rows in `purchase_lines`."""
    return [_line_row(purchase.order_uid, line) for line in purchase.lines]


def _line_row(uid: str, line: LineState) -> Row:
    return (
        uid,
        line.line,
        line.item_id,
        None if line.name is None else text(line.name),
        line.outlet_id,
        line.price_minor,
        line.asked,
        line.reserved,
        line.cancelled,
        line.shipped,
        line.delivered,
        line.returned,
        line.exchanged,
        None if line.refused is None else text(line.refused),
        line.replaces,
    )


def payment_row(payment: Payment) -> Row:
    """A payment in the columns of `payments`, without its state."""
    return (
        payment.order_uid,
        payment.version,
        str(payment.status),
        payment.user_id,
        str(payment.method),
        payment.currency,
        payment.amount_minor,
        payment.authorised_minor,
        payment.captured_minor,
        payment.refunding_minor,
        payment.refunded_minor,
        None if payment.reason is None else text(payment.reason),
        payment.attempts,
        datetime.fromisoformat(payment.requested_at),
        datetime.fromisoformat(payment.updated_at),
        payment.reversed_minor(ReversalKind.REFUND),
        payment.reversed_minor(ReversalKind.CHARGEBACK),
        len(payment.unresolved()),
    )


def _no_lines(_: Any) -> list[Row]:
    return []


@dataclass(frozen=True)
class Kind:
    """One of the two: its topic, its tables, and what a state is there."""

    topic: str
    table: str
    events: str
    columns: Sequence[str]
    read: Callable[[bytes], Any]
    #: A state from its JSON, and into it; its row; its rows in `purchase_lines`.
    load: Callable[[bytes], Any]
    row: Callable[[Any], Row]
    lines: Callable[[Any], list[Row]] = _no_lines


PURCHASES = Kind(
    PURCHASE_EVENTS.name, "purchases", "purchase_events", PURCHASE_COLUMNS, purchase_words.read_event,
    Purchase.from_json, purchase_row, line_rows,
)  # fmt: skip
PAYMENTS = Kind(
    PAYMENT_EVENTS.name, "payments", "payment_attempts", PAYMENT_COLUMNS, payment_words.read_event,
    Payment.from_json, payment_row,
)  # fmt: skip
KINDS = {kind.table: kind for kind in (PURCHASES, PAYMENTS)}
#: Table -> the rules' fold of its events, which app.py hands over: this room knows no rules.
Folds = Mapping[str, Callable[[Any, Any], Any]]


def reader_of(kind: Kind) -> Callable[[Rows, Record], None]:
    """What a record of the kind's topic adds to a batch: the event, to be folded when the states are known."""

    def read(rows: Rows, record: Record) -> None:
        event = kind.read(record.value or b"")
        reason = getattr(event, "reason", None)
        row = (
            event.event_id,
            event.type,
            event.order_uid,
            event.version,
            datetime.fromisoformat(event.occurred_at),
            event.caused_by,
            None if reason is None else text(str(reason)),
            record.topic,
            record.partition,
            record.offset,
            (record.value or b"").decode(),
        )
        rows.told.setdefault(kind.table, []).append((event, row))

    return read


READERS = {kind.topic: reader_of(kind) for kind in KINDS.values()}


async def keep(connection: Any, rows: Rows, folds: Folds) -> Counter[str]:
    """The events of a batch into the rows of their orders. Raises Unreadable for one that does not fit."""
    counts: Counter[str] = Counter()
    for table, told in rows.told.items():
        kind = KINDS[table]
        uids = list({event.order_uid for event, _ in told})
        found = await connection.fetch(f"SELECT order_uid, state FROM {table} WHERE order_uid = ANY($1)", uids)
        with reading_rows():
            before = {uid: kind.load(state.encode()) for uid, state in found}
            after = folded(before, (event for event, _ in told), folds[table])
            changed = [state for uid, state in after.items() if state is not before.get(uid)]
            values = [(*kind.row(state), state.to_json().decode()) for state in changed]
            lines = [line for state in changed for line in kind.lines(state)]
        if values:
            await connection.executemany(_upsert(table, (*kind.columns, "state"), 1), values)
            counts[table] += len(values)
        if lines:
            await connection.executemany(_upsert("purchase_lines", LINE_COLUMNS, 2), lines)
            counts["purchase_lines"] += len(lines)
        await connection.executemany(insert(kind.events, EVENT_COLUMNS), [row for _, row in told])
        counts[kind.events] += len(told)
    return counts


@contextmanager
def reading_rows(what: str = "") -> Iterator[None]:
    """Raise Unreadable for whatever the rules raise: they are pure, so it follows from the events and the rows."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"{what}{type(error).__name__}: {error}") from error


def folded(before: Mapping[str, Any], events: Iterable[Any], evolve: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The states after the events. A refusal has the version that it met, a change the next one."""
    after = dict(before)
    for event in events:
        state = after.get(event.order_uid)
        version = 0 if state is None else state.version
        if event.version not in (version, version + 1):
            raise Unreadable(f"{event.type} of version {event.version} meets version {version}; rebuild the sink")
        with reading_rows(f"{event.type} meets version {version}, which it cannot: "):
            state = evolve(state, event)
        if state is not None:
            after[event.order_uid] = state
    return after


def _upsert(table: str, columns: Sequence[str], keys: int) -> str:
    conflict = f"ON CONFLICT ({names(columns[:keys])}) DO UPDATE SET {set_excluded(columns[keys:])}"
    return f"{insert(table, columns)} {conflict}"


def state_of(kind: Kind, row: Mapping[str, Any]) -> Any:
    """A row of the platform's own table, as its changelog has it."""
    return kind.load(orjson.dumps(row))
