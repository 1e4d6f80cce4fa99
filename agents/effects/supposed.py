"""other rules' events -> what the world outside would have answered -> records for a shadow (streams/shadow.py).

The payment provider is the part of the world that answers what the rules ask. People and carriers act as they did.

- Of an order whose course has not parted from the log, its answers come as they came, or stay out as they did.
- Of one that has parted, an answer of the log counts for the same step (authorise, capture, void, this refund) with the
  amount that is asked now, and falls away when the step is not asked for any more. Money that was taken at once, when
  it was only to be set aside, is taken so again.
- What is asked only now, or after the log's last answer to the step, the provider does at once, as it was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from agents.effects.provider import Asked, asked_by
from schemas.base import derived_id
from schemas.payments import (
    CaptureRequested,
    PaymentRequested,
    RecordAuthorisation,
    RecordCapture,
    Recorded,
    RecordRefund,
    RecordVoid,
    RefundRequested,
    Source,
    Step,
    VoidRequested,
)
from schemas.topics import PAYMENT_COMMANDS, PAYMENT_EVENTS
from streams.records import Record, StoredRecord
from streams.shadow import Answer

#: Of answers, the step that they are about; a failure names its own.
_STEPS = {
    "record_authorisation": Step.AUTHORISE,
    "record_decline": Step.AUTHORISE,
    "record_capture": Step.CAPTURE,
    "record_void": Step.VOID,
    "record_refund": Step.REFUND,
}
_ID = b'"command_id":"'


class About(NamedTuple):
    """What is asked for once, however often: a step of an order's payment; of refunds there may be many."""

    order_uid: str
    step: Step
    refund_id: str | None


class Supposed:
    """The world outside, as far as it answers."""

    def __init__(self) -> None:
        self._asked: dict[About, Asked] = {}
        self._to_come: Counter[About] = Counter()
        #: Orders of which it said that the money is set aside; those where it took the money when asked for no more.
        self._set_aside, self._at_once = set[str](), set[str]()

    def identity(self, value: bytes | None) -> bytes | None:
        """Commands have an id that follows from their cause, and not from what else a rule says in them."""
        start = value.find(_ID) if value else -1
        if value is None or start < 0:
            return None
        start += len(_ID)
        return value[start : value.find(b'"', start)]

    def foresee(self, record: Record) -> None:
        if (answer := _answer(record)) is not None:
            about = _about(answer)
            self._to_come[about] += 1
            if answer["type"] == "record_authorisation":
                self._set_aside.add(about.order_uid)
            elif about.step is Step.CAPTURE and about.order_uid not in self._set_aside:
                self._at_once.add(about.order_uid)

    def heard(self, topic: str, value: bytes | None, parted: bool) -> Iterable[Answer]:
        event = asked_by(value) if topic == PAYMENT_EVENTS.name else None
        if event is None:
            return
        about = _asked_about(event)
        self._asked[about] = event
        if parted and not self._to_come[about]:
            said = _agreed(event).model_dump_json().encode()
            yield Answer(PAYMENT_COMMANDS.name, event.order_uid.encode(), said)

    def instead(self, record: StoredRecord, parted: bool) -> StoredRecord | None:
        answer = _answer(record)
        if answer is None:
            return record
        about = _about(answer)
        self._to_come[about] -= 1
        if not parted:
            return record
        asked = self._asked.get(about)
        if asked is None and about.step is Step.CAPTURE and about.order_uid in self._at_once:
            asked = self._asked.get(about._replace(step=Step.AUTHORISE))
        if asked is None:
            return None
        if "amount_minor" not in answer or isinstance(asked, VoidRequested):
            return record
        return record._replace(value=orjson.dumps(answer | {"amount_minor": asked.amount_minor}))


def _answer(record: Record) -> dict[str, Any] | None:
    """A command of the provider, or of its callback."""
    if record.topic != PAYMENT_COMMANDS.name or b'"record_' not in (record.value or b""):
        return None
    try:
        said = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return None
    if isinstance(said, dict) and said.get("type") == "record_reversal":
        return None  # the provider acted by itself: it answers nothing that the rules asked
    known = isinstance(said, dict) and said.get("source") in (Source.PROVIDER, Source.CALLBACK)
    return said if known and isinstance(said.get("order_uid"), str) else None


def _about(answer: dict[str, Any]) -> About:
    step = _STEPS.get(answer.get("type", ""), answer.get("step"))
    refund_id = answer.get("refund_id")
    return About(answer["order_uid"], Step(step) if step in set(Step) else Step.AUTHORISE, refund_id)


def _asked_about(event: Asked) -> About:
    match event:
        case PaymentRequested():
            return About(event.order_uid, Step.AUTHORISE, None)
        case CaptureRequested():
            return About(event.order_uid, Step.CAPTURE, None)
        case VoidRequested():
            return About(event.order_uid, Step.VOID, None)
        case RefundRequested():
            return About(event.order_uid, Step.REFUND, event.refund_id)


def _agreed(event: Asked) -> Recorded:
    said: dict[str, Any] = {
        "command_id": derived_id(f"{event.event_id} supposed"),
        "order_uid": event.order_uid,
        "source": Source.PROVIDER,
        "reference": "supposed",
    }
    match event:
        case PaymentRequested():
            return RecordAuthorisation(**said, amount_minor=event.amount_minor)
        case CaptureRequested():
            return RecordCapture(**said, amount_minor=event.amount_minor)
        case VoidRequested():
            return RecordVoid(**said, void_number=event.void_number)
        case RefundRequested():
            return RecordRefund(**said, refund_id=event.refund_id, amount_minor=event.amount_minor)
