"""What all words share: models, commands, events, faults -> ids that a re-run repeats, times as text and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha1
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

#: RFC 9562 version 5 needs a name space; this one is ours and must never change, or a replay would give other ids.
NAMESPACE = UUID("6f1f4f3e-5d0a-5c59-9d0e-0a4f2b7c81e6")

#: The last moment that 13 digits of milliseconds can hold (2286-11-20). Keys that sort by time rely on the width.
MAX_TIME_MS = 10**13 - 1

#: The largest integer that JavaScript and every other reader of JSON numbers holds exactly (RFC 7493).
MAX_WHOLE = 2**53 - 1

#: A record can be bad in more places than anybody reads, and the headers of a dead letter must stay small.
MAX_FAULTS = 100

#: An id that may stand alone as a segment of a URL's path. The first character is a letter or a digit, so that no id is
#: `.` or `..`: every HTTP client removes those from a path, and the request then reaches another resource. All other
#: characters are unreserved (RFC 3986 §2.3), so that an id needs no percent-encoding and has no `/`.
PATH_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,63}$"
ORDER_UID_PATTERN = PATH_ID_PATTERN
OrderUid = Annotated[
    str,
    Field(
        pattern=ORDER_UID_PATTERN,
        description="Names the order for ever; the partition key of everything about it.",
        examples=["b563feb7b2b84b6test"],
    ),
]
CommandId = Annotated[
    str,
    Field(pattern=r"^[!-~]{1,64}$", description="Names the command. The same id again is the same command again."),
]


class Model(BaseModel):
    """A word. Frozen; unknown fields are ignored, so that an old worker can read a new record.

    Its validator is made when it is first used: making all of them takes a quarter of a second of each start.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Command(Model):
    """An order to do something. It may be refused; a refusal is an event."""

    # Any producer may write commands, so "1" is not 1 and 1.0 is not 1.
    model_config = ConfigDict(strict=True)

    command_id: CommandId
    # Left out of the record when it is not given: most commands are sent by rules, which know the state they act on.
    expected_version: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda version: version is None,
        description="When given, the version that the command is for: in any other it is refused as `wrong_version`.",
    )

    def is_outdated(self, version: int) -> bool:
        """Whether the command is for another version than this one."""
        return self.expected_version is not None and self.expected_version != version


class Event(Model):
    """A fact. `event_id` follows from `caused_by`, so that a re-run says it in the same bytes."""

    event_id: str = Field(description="uuid5 of the cause and a counter: the same when the cause is worked on again.")
    caused_by: str = Field(description="`command_id` of the command that caused this event.")
    occurred_at: str = Field(description="RFC 3339, UTC, milliseconds: the timestamp of the record that caused it.")


def one_of(events: Any) -> TypeAdapter[Any]:
    """Reads whichever of these words it is, told apart by `type`."""
    return TypeAdapter(Annotated[events, Field(discriminator="type")], config=ConfigDict(defer_build=True))


class Fault(Model):
    """What is wrong with a document, and where."""

    path: str = Field(description="JSON path (RFC 9535).", examples=["$.items[0].price"])
    message: str = Field(description="What is wrong and what would be right.")


class InvalidDocument(ValueError):
    """A document that cannot be accepted. `faults` are all, or the first MAX_FAULTS; `reason` not_json or invalid."""

    def __init__(self, faults: Iterable[Fault], reason: str = "invalid") -> None:
        self.faults = _bounded(tuple(faults))
        self.reason = reason
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in self.faults))


def _bounded(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    if len(faults) <= MAX_FAULTS:
        return faults
    return (*faults[: MAX_FAULTS - 1], Fault(path="$", message="has more faults than are listed; mend these first"))


_namespace_digest = sha1(NAMESPACE.bytes, usedforsecurity=False)
#: The digit of RFC 9562's variant: two bits are fixed, two are the digest's.
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def derived_id(name: str) -> str:
    """uuid5(NAMESPACE, name) as text, in a third of the standard library's time: each order needs two."""
    digest = _namespace_digest.copy()
    digest.update(name.encode())
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:32]}"


def content_of(command: Command) -> str:
    """What a command asks for, whatever its id and the version that it expects.

    Two commands of one id and other contents cannot both be meant.
    """
    asked = command.model_dump(mode="json", exclude={"command_id", "expected_version"})
    return derived_id(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode())


def command_id_at(topic: str, partition: int, offset: int) -> str:
    """The id of a command that came as a bare record: its place in the log, which no re-run changes."""
    return derived_id(f"{topic}-{partition}-{offset}")


def event_id_for(caused_by: str, counter: int) -> str:
    """The id of the counter-th event (from 0) that a command causes."""
    return derived_id(f"{caused_by}-{counter}")


def time_ms(timestamp_ms: int) -> int:
    """A record's timestamp within the range that the keys can hold: producers' clocks say anything, -1 included."""
    return min(max(timestamp_ms, 0), MAX_TIME_MS)


# Records of one batch share their milliseconds, and a second conversion of the same one costs a tenth of the first.
@lru_cache(maxsize=4096)
def rfc3339(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as 2021-11-26T06:22:19.000Z; outside 1970..2286 the nearest end of that range."""
    seconds, milliseconds = divmod(time_ms(timestamp_ms), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def utc(text: str) -> str:
    """Any RFC 3339 time as `rfc3339` writes its moment; what is finer than a millisecond is cut off.

    Raises ValueError that says what is wrong with it.
    """
    if not _RFC3339.fullmatch(text):
        hint = " (a + must be written as %2B in an address)" if " " in text else ""
        raise ValueError(f"is no RFC 3339 time with its offset: {text[:64]!r}{hint}")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"is a time that there is not: {text[:64]!r}") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=4096)
def unix_ms(text: str) -> int:
    """What `rfc3339` wrote, as milliseconds since the epoch. Raises ValueError for other text."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
