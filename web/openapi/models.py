"""the JSON that the addresses answer with -> pydantic models, for the schema of /openapi.json and the tests that hold
answers against it. Handlers do not build them: they splice bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from schemas.base import Fault
from schemas.orders import CustomerId, OrderDocument, OrderStatus, OrderUid
from schemas.orders.document import DocumentPart
from schemas.purchases import MAX_LINES, Part

Rfc3339 = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-21T12:00:00.000Z"])]
PositionText = Annotated[
    str,
    Field(
        pattern=r"^.+-[0-9]+-[0-9]+$",
        description="Where a record stands: topic-partition-offset. Give it as `min_offset` to read what it did.",
        examples=["orders.commands.v1-2-1234"],
    ),
]
Cursor = Annotated[
    str | None, Field(description="Give it as `cursor` for the next page; null: this was the last.", examples=[None])
]


class Shape(BaseModel):
    """An answer has these members and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class OrderHead(Shape):
    """An order without its document."""

    order_uid: OrderUid
    version: int = Field(ge=1, description="Grows by one with each event; the ETag.", examples=[1])
    status: OrderStatus = Field(examples=["placed"])
    customer_id: CustomerId
    placed_at: Rfc3339
    updated_at: Rfc3339
    cancel_reason: str | None = Field(description="The caller's words; null while not cancelled.", examples=[None])


class ErasedDocument(DocumentPart):
    """A document whose customer was erased: what was personal is null, and listed in `erased`; the rest stands."""

    order_uid: OrderUid
    delivery: dict[str, None]
    payment: dict[str, JsonValue] = Field(description="As ever, but for `bank`.")
    customer_id: CustomerId


Erased = Annotated[
    list[str] | None,
    Field(
        None,
        description="Where personal data is sealed and its key was destroyed: JSON paths of what is null for that.",
        examples=[["$.document.delivery.name"]],
    ),
]


class OrderView(OrderHead):
    """An order as it stands."""

    document: OrderDocument | ErasedDocument = Field(description="As it was received, extra fields included.")
    erased: Erased


class OrderOutcome(OrderHead):
    """What a write came to: the order without its document, and where the record that did it stands."""

    position: PositionText


class Accepted(Shape):
    """The command is written down and will be applied; its outcome was not known in time."""

    order_uid: OrderUid
    position: PositionText
    command_id: str = Field(description="`caused_by` of the event or refusal that will follow.")
    outcome: str = Field(
        description="Address that answers once the command is applied.",
        examples=["/api/v1/orders/b563feb7b2b84b6test?min_offset=orders.commands.v1-2-1234"],
    )


class Entry(Shape):
    """An event or a refusal of an order, and the record that caused it."""

    type: str = Field(description="As on the topics of events.", examples=["order_placed"])
    order_uid: OrderUid
    version: int = Field(ge=0, description="Of the order after it; a refusal leaves it as it was.", examples=[1])
    event_id: str = Field(examples=["6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d"])
    caused_by: str = Field(description="Id of the command.", examples=["0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4"])
    occurred_at: Rfc3339
    reason: str | None = Field(description="Why: of a refusal, or the caller's own of a cancellation.", examples=[None])
    topic: str = Field(examples=["orders.commands.v1"])
    partition: int = Field(examples=[2])
    offset: int = Field(examples=[1234])
    position: PositionText


class Timeline(Shape):
    """What happened to an order, oldest first; refusals stand after the version that they did not change."""

    order_uid: OrderUid
    entries: list[Entry]
    next_cursor: Cursor


class CancellationBody(Shape):
    """Why the order is cancelled; `parts`: of an order that was bought here these quantities only."""

    reason: str = Field(min_length=1, max_length=500, examples=["ordered twice"])
    parts: list[Part] | None = Field(None, min_length=1, max_length=MAX_LINES)


class ProblemDocument(BaseModel):
    """An error (RFC 9457). Members that only some kinds have stand last."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    type: str = Field(description="Which kind: an address of this service that explains it.")
    title: str = Field(description="The kind in words.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What was wrong with this request.")
    instance: str = Field(description="The path that was asked.")
    request_id: str = Field(description="As in X-Request-Id and the logs.")
    reason: str | None = Field(None, description="…-refused, no-such-…: the rule's reason.")
    faults: list[Fault] | None = Field(None, description="invalid-document, bad-json: every fault with its JSON path.")
    parameter: str | None = Field(None, description="bad-parameter: its name.")
    position: str | None = Field(None, description="…-refused: where the refused command stands.")
    balance_minor: int | None = Field(None, description="account-refused, amount-refused: what it was and is.")
    available: int | None = Field(None, description="item-refused, change-refused: what there was and is, in pieces.")
    dead_letter: str | None = Field(None, description="dead-lettered: the id for `dead-letters show`.")
    limit_bytes: int | None = Field(None, description="too-large: the limit.")
    since: str | None = Field(None, description="no-such-past: when it came to be.")
    newest_version: int | None = Field(None, description="no-such-past: the version that it has now.")


class CheckView(Shape):
    """One check."""

    ok: bool
    detail: str
    needed: bool = Field(description="Whether the worker is unready without it.")
    lag_records: dict[str, int | None] | None = Field(None, description="sink_lag: records behind, by sink.")


class HealthView(Shape):
    """Every check by name: broker, assignment, recovery, store, and sink_lag where a sink runs."""

    status: Literal["ok", "degraded", "ready", "not_ready"]
    checks: dict[str, CheckView]


class LiveView(Shape):
    """The process answers."""

    status: Literal["live"]


MODELS = (
    OrderView,
    OrderOutcome,
    Accepted,
    Timeline,
    CancellationBody,
    ProblemDocument,
    HealthView,
    LiveView,
)
