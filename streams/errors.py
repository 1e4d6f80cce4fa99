"""what can go wrong -> one exception for each answer that somebody has to give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: More faults of one record are not listed.
MAX_FAULTS = 100


class FaultAt(NamedTuple):
    """One fault of a record: where (a JSON path such as `$.items[0].price`) and what."""

    path: str
    message: str


class Poison(Exception):
    """A record that cannot be decoded or validated. Raised in an agent, it sends the record to the dead letters.

    Shapes: `faults` is every fault found, not only the first; `reason` is one word of a small, stable set.
    """

    def __init__(self, faults: Iterable[FaultAt], reason: str = "invalid") -> None:
        self.faults = tuple(faults)
        self.reason = reason
        super().__init__("; ".join(f"{path}: {message}" for path, message in self.faults) or reason)


class TooLarge(ValueError):
    """A record or a row that its topic or changelog cannot take. In an agent it fails the record that caused it."""


class NotReadable(Exception):
    """The state of this key cannot be read right now (recovery, rebalance, no owner). Never means "does not exist"."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        self.reason, self.retry_after_s = reason, retry_after_s
        super().__init__(reason)


class NotOwner(NotReadable):
    """Another worker owns the partition; `url` is where it answers."""

    def __init__(self, url: str) -> None:
        super().__init__(f"the owner is {url}", 0.1)
        self.url = url


class Fenced(Exception):
    """A newer owner of this task has begun: nothing that this one still tries to write will ever be committed."""


class NotLive(Exception):
    """Another version of the application is live: this task stands by, and tries again when that has changed."""


class OutcomeUnknown(Exception):
    """A commit was sent and not answered. The task drops what it holds and reads the truth back from the log."""


class StoreDamaged(Exception):
    """The local store cannot be trusted (checksum, missing file, foreign content). It is moved aside and rebuilt."""


class StoreUnavailable(Exception):
    """The local store cannot take writes now (disk full, locked by another process); its content is not in doubt."""


class LogMismatch(Exception):
    """The log is not the one that this state was built from (a topic was lost or re-created). Stops the task."""


class Misdeclared(Exception):
    """Topics, tables and agents do not fit together; the message names both sides."""
