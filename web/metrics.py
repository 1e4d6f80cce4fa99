"""requests -> Prometheus families of the web room. No label holds an id, a path or a query."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class HttpMetrics:
    """One per application. Its families live in the worker's registry: /metrics shows engine and web together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "http_requests_total", "Answered HTTP requests.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "http_request_seconds",
            "From the first byte of a request to its answer, waits included.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=registry,
        )
        # Looking a child up by its labels costs as much as counting in it.
        self._count = lru_cache(maxsize=1024)(self.requests.labels)
        self._time = lru_cache(maxsize=1024)(self.seconds.labels)
        self.asked = Counter(
            "http_owner_questions_total",
            "Questions put to the owner of a partition, here or on another worker.",
            ["question", "where", "outcome"],
            registry=registry,
        )
        self.claims = Counter(
            "http_idempotency_claims_total",
            "Idempotency keys claimed, by what the claim met.",
            ["outcome"],
            registry=registry,
        )

        self.disconnected = Counter(
            "http_connections_closed_total",
            "Connections that the worker closed to stay within its bounds.",
            ["why"],
            registry=registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request."""
        self._count(method, route, str(status)).inc()
        self._time(method, route).observe(seconds)
