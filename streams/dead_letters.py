"""Writes a record that could not be applied to the dead-letter topic: its bytes, origin, reason and attempt."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import orjson

from streams.errors import MAX_FAULTS, FaultAt, Poison
from streams.records import Omitted, Outgoing, Record, size_of

PREFIX = "dead-letter-"
ATTEMPT = PREFIX + "attempt"
MAX_MESSAGE = 1_000
#: A value above this stays on its own topic: the letter has its size and SHA-256. Key and headers likewise, together.
#: With the faults a letter is below 400 KiB, so that every broker takes it (1 MiB by default), and small batches that
#: expand far cannot fill the dead-letter topic.
MAX_VALUE_BYTES = MAX_KEY_AND_HEADERS_BYTES = 64 << 10
MAX_FAULTS_BYTES = 256 << 10


def dead_letter(record: Record, agent: str, error: BaseException) -> Outgoing:
    """The original key, value and headers, plus headers that give reason, origin and attempt.

    `poison`: the record cannot be decoded or validated. `failed`: our code raised, or what the record causes does not
    fit its topic. What is too large is left out; headers then give its size in bytes and, of a value, its SHA-256.
    """
    if isinstance(error, Poison):
        kind, reason, faults = "poison", error.reason, error.faults
    else:
        kind, reason = "failed", type(error).__name__
        faults = (FaultAt("$", str(error) or repr(error)),)
    key, value, kept = record.key, record.value, record.headers
    left_out: list[tuple[str, bytes]] = []
    if value is not None and (isinstance(value, Omitted) or len(value) > MAX_VALUE_BYTES):
        size, digest = (value.size, value.sha256) if isinstance(value, Omitted) else (len(value), _digest(value))
        left_out += [(PREFIX + "value-bytes", b"%d" % size), (PREFIX + "value-sha256", digest.encode())]
        value = None
    # Their number first: to add up the sizes of a million headers takes too long.
    if len(kept) > MAX_KEY_AND_HEADERS_BYTES // 64 or size_of(key, None, kept) > MAX_KEY_AND_HEADERS_BYTES:
        left_out.append((PREFIX + "headers-left-out", b"%d" % len(kept)))
        attempt, kept = attempt_of(record) if len(kept) <= MAX_KEY_AND_HEADERS_BYTES else 1, ()
        if key is not None and len(key) > MAX_KEY_AND_HEADERS_BYTES:
            left_out.append((PREFIX + "key-bytes", b"%d" % len(key)))
            key = None
    else:
        attempt = attempt_of(record)
    return Outgoing(
        record.timestamp,
        key,
        value,
        [
            *((name, content) for name, content in kept if not name.startswith(PREFIX)),
            (PREFIX + "kind", kind.encode()),
            (PREFIX + "reason", _text(reason).encode()),
            (PREFIX + "faults", _listed(faults)),
            (PREFIX + "topic", record.topic.encode()),
            (PREFIX + "partition", b"%d" % record.partition),
            (PREFIX + "offset", b"%d" % record.offset),
            (PREFIX + "timestamp", b"%d" % record.timestamp),
            (ATTEMPT, b"%d" % attempt),
            (PREFIX + "agent", agent.encode()),
            *left_out,
        ],
    )


def _digest(value: bytes) -> str:
    return sha256(value).hexdigest()


def _listed(faults: Sequence[FaultAt]) -> bytes:
    """The first MAX_FAULTS as JSON, or as many of them as MAX_FAULTS_BYTES hold."""
    shown = [{"path": _text(path), "message": _text(message)} for path, message in faults[:MAX_FAULTS]]
    listed = orjson.dumps(shown)
    while len(listed) > MAX_FAULTS_BYTES:
        shown = shown[: len(shown) // 2]
        listed = orjson.dumps(shown)
    return listed


def _text(text: str) -> str:
    """Bounded, and without the lone surrogates that a broken input may have put into a message."""
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode()


def attempt_of(record: Record) -> int:
    """How often this record has been tried, this time included: a redriven one carries its number."""
    for name, value in record.headers:
        if name == ATTEMPT and value and value.isdigit() and len(value) < 10:  # a header may have no value
            return int(value)
    return 1
