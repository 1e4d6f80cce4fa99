"""Does the deed of one record until it succeeds, or sets the record aside when the record itself is what fails.

A failure stays with its record: the deeds of others are neither repeated nor cut off by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError

from streams.errors import NotReadable, OutcomeUnknown
from streams.printable import printable
from streams.records import Position, Record
from streams.sink import Backoff, masked

log = logging.getLogger(__name__)

#: Failures of one record, none of which another system explains, after which it is set aside.
MOST_FAILURES = 5
#: Records whose positions health shows. All are in the log, and the metric counts them.
MOST_SHOWN = 100


class SetAside(NamedTuple):
    """A record whose deed was given up."""

    position: Position
    error: str


def is_of_others(error: BaseException) -> bool:
    """Whether a broker, a network or another worker failed, so that the same record can succeed later."""
    if isinstance(error, (MessageSizeTooLargeError, RecordTooLargeError)):
        return False
    return isinstance(error, (OSError, KafkaError, NotReadable, OutcomeUnknown))


class Attempts:
    """Runs deeds. `errors` and `set_aside` are counters of the effect's metrics."""

    def __init__(
        self, name: str, act: Callable[[Record], Awaitable[None]], backoff: Backoff, errors: Any, set_aside: Any
    ) -> None:
        self._name, self._act, self._backoff = name, act, backoff
        self._errors, self._set_aside = errors, set_aside
        self._failing: dict[Position, str] = {}
        self.aside: deque[SetAside] = deque(maxlen=MOST_SHOWN)
        self.aside_count = 0

    async def run(self, record: Record) -> None:
        """Do the deed of a record; return when it is done or the record is set aside. Raises only cancellation.

        While others fail it is tried for ever, with growing pauses. A failure of the record's own is tried
        MOST_FAILURES times: a bug or a bad record would otherwise hold its partition for ever.
        """
        position = Position(record.topic, record.partition, record.offset)
        pauses, own_failures = Backoff(self._backoff.first_s, self._backoff.cap_s), 0
        try:
            while True:
                try:
                    await self._act(record)
                    return
                except Exception as error:
                    own_failures += not is_of_others(error)
                    self._note(position, error)
                    if own_failures >= MOST_FAILURES:
                        self._put_aside(position, error)
                        return
                await asyncio.sleep(pauses.next())
        finally:
            self._failing.pop(position, None)

    def _note(self, position: Position, error: Exception) -> None:
        self._failing[position] = text = printable(masked(f"{type(error).__name__}: {error}"), lines=False)[:500]
        self._errors.inc()
        log.warning("effect %s: the record at %s failed and is tried again: %s", self._name, position, text)

    def _put_aside(self, position: Position, error: Exception) -> None:
        text = self._failing[position]
        self.aside.append(SetAside(position, text))
        self.aside_count += 1
        self._set_aside.inc()
        log.error(
            "effect %s: the record at %s failed %d times and is set aside, so that the others go on: %s",
            self._name,
            position,
            MOST_FAILURES,
            text,
            exc_info=error,
        )

    def trouble(self) -> str | None:
        """What is wrong, in words for an operator; None: nothing."""
        found = []
        if self._failing:
            position, error = next(iter(self._failing.items()))
            found.append(f"{len(self._failing)} records fail, the one at {position}: {error}")
        if self.aside_count:
            last = self.aside[-1]
            found.append(
                f"{self.aside_count} records set aside since the start, the last at {last.position}: {last.error}"
            )
        return "; ".join(found) or None
