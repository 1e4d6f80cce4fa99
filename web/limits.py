"""settings -> what one request may cost: every bound with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from schemas.settings import Settings

#: What cursors are signed with where no worker has a secret: it finds mistakes, and keeps nobody from making a cursor.
NO_SECRET = b"no secret is configured"


@dataclass(frozen=True)
class Limits:
    """Bounds of one request. Times in seconds, sizes in bytes."""

    #: The largest body that is read (`max_request_bytes`).
    body_bytes: int = 1 << 20
    #: The largest body that is not an order document or an item: a cart of 100 lines has about 10 kB.
    small_body_bytes: int = 64 << 10
    #: Requests under way at the same time, health checks excluded (`max_requests`).
    requests_most: int = 512
    #: Bodies that wait for the careful reader, which names every fault; it reads one at a time.
    careful_waiting: int = 64
    #: An order is nested three deep; a document far deeper is an attack on whoever walks it (`max_json_depth`).
    json_depth: int = 32
    #: How long a write waits for its outcome before it answers 202 (`outcome_wait_ms`).
    outcome_wait_s: float = 5.0
    #: The whole request, waits included: a bound on what any path can add up to (`request_timeout_ms`).
    request_s: float = 15.0
    #: A body that trickles in holds a connection and nothing else; after this it is refused.
    body_wait_s: float = 10.0
    #: How long a read waits for a partition that moves or recovers, or for `min_offset`, before it answers 503.
    read_wait_s: float = 3.0
    #: A worker that claims an Idempotency-Key and dies frees it after this; longer than its request can have taken.
    claim_lease_s: float = 20.0
    #: Orders on a page when the caller names no number, and at most.
    page_default: int = 50
    page_most: int = 200
    #: Index rows that one partition reads in one go: a filter that matches little must not hold the worker up.
    page_scan_rows: int = 2_000
    #: The same for a list of the past: each row there is a fold of its own.
    page_scan_past_rows: int = 200
    #: Records of a topic of events that one request may read to find a position in it (`as_of_max_records`).
    as_of_records: int = 100_000
    #: How long one look at the past may take at once; the page ends there, and the list goes on in its next turn.
    page_scan_past_s: float = 0.02
    #: Reads of many rows that may wait for their turn at one worker.
    costly_waiting: int = 256
    #: How long a list goes on looking for rows before it answers with a short page and a cursor.
    page_search_s: float = 1.0
    #: A page ends early when its documents are this large together.
    page_bytes: int = 4 << 20
    #: Entries of a timeline in one answer. Refusals can be many: anybody can send the same order number again.
    timeline_most: int = 1_000
    #: How far the time of a callback's signature may be from now (`callback_window_ms`). Whoever caught one can send it
    #: again for so long; it is taken in once all the same.
    callback_window_s: float = 300.0
    #: Subscriptions in all: every worker holds what each wants, and looks at all of them for each event.
    webhooks_most: int = 1_000
    #: What cursors are signed with, the newest first: the same on every worker, as any of them may read a cursor.
    cursor_keys: Callable[[], Sequence[bytes]] = field(default=lambda: (NO_SECRET,), compare=False, repr=False)
    #: Requests waiting for one other worker at the same time; more would only queue there.
    connections_per_worker: int = 64

    def signing(self, settings: Settings, shared: Callable[[], Sequence[bytes]]) -> Limits:
        """These bounds, with cursors signed by `web_cursor_key`, or else by what all workers share for webhooks."""
        given = settings.web_cursor_key
        own = (given.get_secret_value().encode(),) if given else ()
        return replace(self, cursor_keys=lambda: own or tuple(shared()) or (NO_SECRET,))

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The bounds that these settings give."""
        request_s = settings.request_timeout_ms / 1000
        return cls(
            body_bytes=settings.max_request_bytes,
            requests_most=settings.max_requests,
            json_depth=settings.max_json_depth,
            outcome_wait_s=min(settings.outcome_wait_ms / 1000, request_s * 0.8),
            request_s=request_s,
            body_wait_s=min(cls.body_wait_s, request_s * 0.8),
            read_wait_s=min(cls.read_wait_s, request_s * 0.8),
            claim_lease_s=request_s + 5.0,
            as_of_records=settings.as_of_max_records,
            callback_window_s=settings.callback_window_ms / 1000,
        )
