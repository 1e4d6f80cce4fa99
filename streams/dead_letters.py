"""a record that could not be applied -> the same bytes on the dead-letter topic, with where, what and how often."""

from __future__ import annotations

import orjson

from streams.errors import FaultAt, Poison
from streams.records import Outgoing, Record

PREFIX = "dead-letter-"
ATTEMPT = PREFIX + "attempt"
MAX_FAULTS = 100
MAX_MESSAGE = 1_000


def dead_letter(record: Record, agent: str, error: BaseException) -> Outgoing:
    """The original key, value and headers, plus headers that say why and where from.

    `poison`: the record cannot be decoded or validated. `failed`: our code raised, which is a bug of ours.
    """
    if isinstance(error, Poison):
        kind, reason, faults = "poison", error.reason, error.faults
    else:
        kind, reason = "failed", type(error).__name__
        faults = (FaultAt("$", str(error) or repr(error)),)
    kept = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    shown = [{"path": _text(path), "message": _text(message)} for path, message in faults[:MAX_FAULTS]]
    return Outgoing(
        record.timestamp,
        record.key,
        record.value,
        [
            *kept,
            (PREFIX + "kind", kind.encode()),
            (PREFIX + "reason", _text(reason).encode()),
            (PREFIX + "faults", orjson.dumps(shown)),
            (PREFIX + "topic", record.topic.encode()),
            (PREFIX + "partition", b"%d" % record.partition),
            (PREFIX + "offset", b"%d" % record.offset),
            (PREFIX + "timestamp", b"%d" % record.timestamp),
            (ATTEMPT, b"%d" % attempt_of(record)),
            (PREFIX + "agent", agent.encode()),
        ],
    )


def _text(text: str) -> str:
    """Bounded, and without the lone surrogates that a broken input may have put into a message."""
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode()


def attempt_of(record: Record) -> int:
    """How often this record has been tried, this time included: a redriven one carries its number."""
    for name, value in record.headers:
        if name == ATTEMPT and value and value.isdigit() and len(value) < 10:  # a header may have no value
            return int(value)
    return 1
