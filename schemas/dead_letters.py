"""a record of dead_letters.v1 -> what failed, why and where from; or the note that it was sent back."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import Field

from schemas.base import Fault, Model

#: Headers of ours begin so; all others are the original record's.
PREFIX = "dead-letter-"
KIND = PREFIX + "kind"
REASON = PREFIX + "reason"
FAULTS = PREFIX + "faults"
TOPIC = PREFIX + "topic"
PARTITION = PREFIX + "partition"
OFFSET = PREFIX + "offset"
TIMESTAMP = PREFIX + "timestamp"
ATTEMPT = PREFIX + "attempt"
AGENT = PREFIX + "agent"
#: Of what is too large for a letter and stays on its own topic: bytes and SHA-256 of the value, bytes of the key, and
#: the number of headers.
VALUE_BYTES = PREFIX + "value-bytes"
VALUE_SHA256 = PREFIX + "value-sha256"
KEY_BYTES = PREFIX + "key-bytes"
HEADERS_LEFT_OUT = PREFIX + "headers-left-out"
#: On a marker: the id of the dead letter that was sent back to its topic.
REDRIVEN = PREFIX + "redriven"

Headers = Sequence[tuple[str, bytes]]


class DeadLetter(Model):
    """A record that could not be applied. `poison`: it cannot be decoded or validated. `failed`: our code raised."""

    id: str = Field(description="<topic>-<partition>-<offset> of the record's origin.")
    kind: Literal["poison", "failed"]
    reason: str = Field(description="One word of a small set for poison, the exception's name for failed.")
    faults: tuple[Fault, ...]
    topic: str
    partition: int
    offset: int
    timestamp: int = Field(description="Of the original record: Unix time in milliseconds.")
    attempt: int = Field(description="1 at first; one more with each redrive.")
    agent: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = Field(description="The original record's own headers.")
    value_bytes: int | None = Field(None, description="Size of a value that is left out because it is too large.")
    value_sha256: str | None = Field(None, description="Of that value, in hexadecimal.")
    key_bytes: int | None = Field(None, description="Size of a key that is left out.")
    headers_left_out: int | None = Field(None, description="Number of headers, if they are left out.")

    @property
    def left_out(self) -> dict[str, int | str]:
        """What the letter does not carry because of its size; it is on its own topic, at the letter's id."""
        found = {
            "value_bytes": self.value_bytes,
            "value_sha256": self.value_sha256,
            "key_bytes": self.key_bytes,
            "headers_left_out": self.headers_left_out,
        }
        return {name: value for name, value in found.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """One row of a list: where from and why, without the record itself."""
        return {
            "id": self.id,
            "kind": self.kind,
            "reason": self.reason,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "attempt": self.attempt,
            "agent": self.agent,
            "faults": [fault.model_dump() for fault in self.faults],
        }

    def details(self) -> dict[str, Any]:
        """Everything, as JSON can say it: bytes that are UTF-8 as text, others as {"base64": …}."""
        return {
            **self.summary(),
            "key": _shown(self.key),
            "value": _shown(self.value),
            "headers": [{"name": name, "value": _shown(value)} for name, value in self.headers],
            **self.left_out,
        }


class Redriven(NamedTuple):
    """A marker: the dead letter `id` was sent back to its topic, so nobody sends it a second time."""

    id: str


def read_dead_letter(key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter | Redriven:
    """A record of dead_letters.v1. Raises ValueError for one that neither an agent nor a redrive wrote."""
    ours = {name: raw for name, raw in headers if name.startswith(PREFIX)}
    if REDRIVEN in ours:
        return Redriven(ours[REDRIVEN].decode())
    missing = [name for name in (KIND, REASON, FAULTS, TOPIC, PARTITION, OFFSET, TIMESTAMP) if name not in ours]
    if missing:
        raise ValueError(f"not a dead letter: the headers {', '.join(missing)} are missing")
    topic, partition, offset = ours[TOPIC].decode(), int(ours[PARTITION]), int(ours[OFFSET])
    return DeadLetter.model_validate(
        {
            "id": f"{topic}-{partition}-{offset}",
            "kind": ours[KIND].decode(),
            "reason": ours[REASON].decode(),
            "faults": orjson.loads(ours[FAULTS]),
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": int(ours[TIMESTAMP]),
            "attempt": int(ours.get(ATTEMPT, b"1")),
            "agent": ours.get(AGENT, b"").decode(),
            "key": key,
            "value": value,
            "headers": tuple((name, raw) for name, raw in headers if not name.startswith(PREFIX)),
            "value_bytes": _number(ours, VALUE_BYTES),
            "value_sha256": ours[VALUE_SHA256].decode() if VALUE_SHA256 in ours else None,
            "key_bytes": _number(ours, KEY_BYTES),
            "headers_left_out": _number(ours, HEADERS_LEFT_OUT),
        }
    )


def _number(headers: dict[str, bytes], name: str) -> int | None:
    return int(headers[name]) if name in headers else None


def _shown(raw: bytes | None) -> str | dict[str, str] | None:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(raw).decode()}
