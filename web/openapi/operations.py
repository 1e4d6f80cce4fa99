"""what each address takes and answers -> one entry per operation; /openapi.json is put together from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from web import problems
from web.openapi.models import (
    Accepted,
    CancellationBody,
    HealthView,
    LiveView,
    Timeline,
)
from web.openapi.purchase_models import AnyOrderOutcome, AnyOrderView, OrderPage, PlacementBody
from web.problems import Kind

#: What any address of the API can answer, whatever it is asked.
EVERYWHERE = (
    problems.UNKNOWN_HOST,
    problems.INTERNAL,
    problems.UNAVAILABLE,
    problems.TIMED_OUT,
    problems.OVERLOADED,
)
WRITES = (
    problems.BAD_JSON,
    problems.INCOMPLETE_BODY,
    problems.BAD_PARAMETER,
    problems.FOREIGN_ORIGIN,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.REQUEST_TIMEOUT,
    problems.REQUEST_IN_FLIGHT,
    problems.TOO_LARGE,
    problems.KEY_REUSED,
    problems.DEAD_LETTERED,
    *EVERYWHERE,
)


@dataclass(frozen=True)
class Success:
    """A good answer: its model (or media type), what it means, which headers it has."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = "application/json"
    headers: tuple[str, ...] = ()
    example: Any = None


@dataclass(frozen=True)
class Operation:
    """One operation; `parameters` and headers name entries of components.py."""

    id: str
    tag: str
    summary: str
    description: str
    answers: dict[int, Success]
    problems: tuple[Kind, ...] = ()
    parameters: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True


_PLACED = {
    201: Success(
        "Placed; or the same document was placed before, and this is the same answer.",
        AnyOrderOutcome,
        headers=("Location", "ETag", "Orderstream-Position", "Idempotency-Replayed"),
    ),
    202: Success(
        "Written down, and not known to be applied when the wait ran out. It will be: ask `outcome`, or send the same"
        " request again.",
        Accepted,
        headers=("Location", "Orderstream-Position", "Retry-After"),
    ),
}

_HEALTH = Success(
    "Healthy.",
    HealthView,
    example={
        "status": "ok",
        "checks": {
            "broker": {"ok": True, "detail": "last confirmed 0.4 s ago", "needed": True},
            "assignment": {"ok": True, "detail": "8 tasks", "needed": True},
            "recovery": {"ok": True, "detail": "0 tasks opening, 0 records to go", "needed": True},
            "store": {"ok": True, "detail": "ok", "needed": True},
            "sink_lag": {"ok": True, "detail": "postgres: connected, 0 behind", "needed": False},
        },
    },
)
_UNHEALTHY = Success("Not ready: a needed check is not ok.", HealthView, headers=("Retry-After",))

OPERATIONS = (
    Operation(
        "listOrders",
        "orders",
        "List orders, newest first",
        "Complete across all partitions and workers: when one partition cannot answer, the answer is 503 and never a"
        " part of the list. Pages stay stable while orders are written, because `placed_at` never changes.",
        {200: Success("A page.", OrderPage)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("customer_id", "buyer", "status", "list_as_of", "limit", "cursor"),
    ),
    Operation(
        "getOrder",
        "orders",
        "Look an order up",
        "Any worker answers for any order. 404 means that the state was read and has no such order; while it cannot be"
        " read the answer is 503. With `min_offset` the read waits until that record is part of the state.",
        {
            200: Success("The order.", AnyOrderView, headers=("ETag",)),
            304: Success("Still the version that If-None-Match names.", headers=("ETag",)),
        },
        (problems.BAD_PARAMETER, problems.NO_SUCH_ORDER, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("order_uid", "min_offset", "as_of", "If-None-Match"),
    ),
    Operation(
        "getTimeline",
        "orders",
        "What happened to an order",
        "Every event and every refusal, with the record that caused it. An order number that was only ever refused has"
        " a timeline too.",
        {200: Success("A page of the timeline, oldest first.", Timeline)},
        (problems.BAD_PARAMETER, problems.NO_SUCH_ORDER, problems.NO_SUCH_PAST, *EVERYWHERE),
        ("order_uid", "min_offset", "as_of", "timeline_limit", "cursor"),
    ),
    Operation(
        "placeOrder",
        "orders",
        "Place an order",
        "The body is an order document, paid elsewhere, or a cart. The answer waits for the outcome: of a cart until"
        " stock and money have answered, so that its status is `approved`, or `rejected` with a `reason`. The same"
        " document again changes nothing and gets the same answer; the same order_uid with other content is refused. A"
        " cart with an `idempotency_key` is one order, however often it is sent.",
        _PLACED,
        (
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.ORDER_REFUSED,
            problems.INVALID_DOCUMENT,
            problems.TOO_MANY_ORDERS,
            *WRITES,
        ),
        ("Idempotency-Key",),
        PlacementBody,
    ),
    Operation(
        "cancelOrder",
        "orders",
        "Cancel an order",
        "Refused when there is no such order (404), it is cancelled already, or a part of it has left (409). Of an"
        " order that was bought here a part can be cancelled too; stock is freed and money goes back.",
        {
            200: Success(
                "Cancelled.", AnyOrderOutcome, headers=("ETag", "Orderstream-Position", "Idempotency-Replayed")
            ),
            202: _PLACED[202],
        },
        (
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.NO_SUCH_ORDER,
            problems.ORDER_REFUSED,
            problems.INVALID_DOCUMENT,
            *WRITES,
        ),
        ("order_uid", "If-Match", "Idempotency-Key"),
        CancellationBody,
    ),
    Operation(
        "placeTestOrder",
        "orders",
        "Place a generated order",
        "For trying things out: places an order that was made up, as placeOrder would. Takes no body.",
        _PLACED,
        (problems.ORDER_REFUSED, *WRITES),
        ("Idempotency-Key",),
    ),
    Operation(
        "health", "operations", "Every check", "`degraded`: orders flow, and something beside them does not.",
        {200: _HEALTH, 503: _UNHEALTHY},
    ),
    Operation(
        "live", "operations", "Is the process alive", "Restart the worker only when this fails.",
        {200: Success("Alive.", LiveView, example={"status": "live"})},
    ),
    Operation(
        "ready", "operations", "Can this worker answer", "For load balancers. A sink that is down does not count.",
        {200: _HEALTH, 503: _UNHEALTHY},
    ),
    Operation(
        "metrics", "operations", "Metrics", "Prometheus' text format.",
        {200: Success("The metrics of engine, web and process.", None, "text/plain; version=1.0.0; charset=utf-8")},
    ),
    Operation(
        "openapi", "documents", "This document", "OpenAPI 3.1.", {200: Success("OpenAPI 3.1.", None, example={})}
    ),
    Operation(
        "asyncapi", "documents", "The topics", "AsyncAPI 3.0: every topic with the schema of its records.",
        {200: Success("AsyncAPI 3.0.", None, example={})},
    ),
)  # fmt: skip
