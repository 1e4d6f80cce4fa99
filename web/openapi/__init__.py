"""routes, operations and schemas -> the OpenAPI 3.1 document, complete: every parameter, status and problem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.base import rfc3339
from schemas.orders import OrderDocument
from schemas.orders.samples import SAMPLE_ORDER
from web.limits import Limits
from web.openapi import (
    accounts,
    components,
    items,
    models,
    operations,
    outlets,
    payments,
    purchase_models,
    purchases,
    shipping,
    webhooks,
)
from web.openapi.components import JsonObject
from web.openapi.models import Accepted, Timeline
from web.openapi.operations import Operation, Success
from web.problems import CONTENT_TYPE, PRECONDITION_FAILED, Kind

VERSION = "1.0.0"

OPERATIONS = (
    *operations.OPERATIONS,
    *purchases.OPERATIONS,
    *outlets.OPERATIONS,
    *accounts.OPERATIONS,
    *items.OPERATIONS,
    *payments.OPERATIONS,
    *shipping.OPERATIONS,
    *webhooks.OPERATIONS,
)
MODELS = (
    *models.MODELS,
    *purchase_models.MODELS,
    *outlets.MODELS,
    *accounts.MODELS,
    *items.MODELS,
    *payments.MODELS,
    *shipping.MODELS,
    *webhooks.MODELS,
)
_REF = "#/components/schemas/{model}"


class Address(NamedTuple):
    """A public route; `operation` is its name in OPERATIONS. The first address of an operation is the canonical one."""

    method: str
    path: str
    operation: str


def document(addresses: Iterable[Address], limits: Limits, inputs: frozenset[str]) -> JsonObject:
    """The whole document. Raises KeyError for an operation that nobody has described."""
    described = {operation.id: operation for operation in OPERATIONS}
    paths: dict[str, JsonObject] = {}
    canonical: dict[str, str] = {}
    for address in addresses:
        first = canonical.setdefault(address.operation, address.path)
        entry = _operation(described[address.operation], None if first == address.path else first)
        paths.setdefault(address.path, {})[address.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": _INFO,
        "servers": [{"url": "/", "description": "Any worker: each answers for every order."}],
        "tags": _TAGS,
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "parameters": components.parameters(limits, inputs),
            "headers": components.headers(),
        },
    }


_INFO = {
    "title": "Orderstream",
    "version": VERSION,
    "summary": "Orders in, state held, orders looked up.",
    "description": (
        "Every error is `application/problem+json` (RFC 9457); its `type` points to /problems. Money is integer minor"
        " units. A 503 has Retry-After and never hides a 404. An address that does not exist answers 404"
        " `no-such-route`, another method 405 with `Allow`."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}
_TAGS = [
    {"name": "orders", "description": "Buy, place, look up, list and cancel orders, and lead them through their life."},
    {"name": "accounts", "description": "Money: accounts, deposits, withdrawals, statements, the ledger's sums."},
    {"name": "items", "description": "The catalogue of each outlet, and what is in stock."},
    {"name": "payments", "description": "How an order is paid: its payment, every attempt, the provider's callback."},
    {"name": "webhooks", "description": "Who is told of events over HTTP, and what came of telling them."},
    {"name": "outlets", "description": "How outlets take orders: the queue for approval, the series of order numbers."},
    {"name": "operations", "description": "For machines that watch a worker."},
    {"name": "documents", "description": "The interface itself."},
]


def schemas() -> JsonObject:
    """JSON Schema of every model, by name."""
    _, whole = models_json_schema([(model, "validation") for model in (OrderDocument, *MODELS)], ref_template=_REF)
    defined: JsonObject = whole["$defs"]
    return {name: defined[name] for name in sorted(defined)}


def _operation(operation: Operation, canonical: str | None) -> JsonObject:
    """`canonical`: the address that this one is a short form of."""
    entry: JsonObject = {
        "operationId": operation.id if canonical is None else f"{operation.id}Short",
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description if canonical is None else f"Short for {canonical}.",
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in (*operation.parameters, "X-Request-Id")],
        "responses": _responses(operation),
    }
    if operation.body is not None:
        media = {
            "schema": _schema_of(operation.body),
            "examples": {"sample": {"value": _EXAMPLES[operation.body.__name__]}},
        }
        entry["requestBody"] = {"required": True, "content": {"application/json": media}}
    return entry


def _responses(operation: Operation) -> JsonObject:
    responses: JsonObject = {str(status): _success(success) for status, success in operation.answers.items()}
    by_status: dict[int, list[Kind]] = {}
    versioned = (PRECONDITION_FAILED,) if "If-Match" in operation.parameters else ()
    for kind in dict.fromkeys((*operation.problems, *versioned)):
        by_status.setdefault(kind.status, []).append(kind)
    for status in sorted(by_status):
        responses[str(status)] = _problem(by_status[status])
    return responses


def _success(success: Success) -> JsonObject:
    response: JsonObject = {"description": success.description, "headers": _headers(success.headers)}
    if success.model is not None:
        example = _EXAMPLES.get(success.model.__name__) if success.example is None else success.example
        media: JsonObject = {"schema": _schema_of(success.model)}
        if example is not None:
            media["examples"] = {"sample": {"value": example}}
        response["content"] = {success.media_type: media}
    elif success.media_type != "application/json":
        response["content"] = {success.media_type: {"schema": {"type": "string"}}}
    elif success.example is not None:
        response["content"] = {success.media_type: {"schema": {"type": "object"}}}
    return response


def _problem(kinds: list[Kind]) -> JsonObject:
    """One response for all kinds of a status, with an example of each."""
    later = kinds[0].status in (429, 503) or any(kind.slug == "request-in-flight" for kind in kinds)
    retry = ("Retry-After",) if later else ()
    return {
        "description": " ".join(f"**{kind.slug}**: {kind.title}. {kind.advice}" for kind in kinds),
        "headers": _headers(retry),
        "content": {
            CONTENT_TYPE: {
                "schema": {"$ref": _REF.format(model="ProblemDocument")},
                "examples": {kind.slug: {"summary": kind.title, "value": problem_example(kind)} for kind in kinds},
            }
        },
    }


def problem_example(kind: Kind) -> JsonObject:
    """A problem as it would be answered."""
    example = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": _DETAILS.get(kind.slug, kind.advice),
        "instance": "/api/v1/orders",
        "request_id": "checkout-7f3a",
    }
    return {**example, **_MEMBERS.get(kind.slug, {})}


def _headers(names: Iterable[str]) -> JsonObject:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "X-Request-Id")}


def _schema_of(model: type[BaseModel]) -> JsonObject:
    return {"$ref": _REF.format(model=model.__name__)}


_UID = "b563feb7b2b84b6test"
_POSITION = "orders.commands.v1-2-1234"
_AT = rfc3339(1_795_262_400_000)
_HEAD = {
    "order_uid": _UID,
    "version": 1,
    "status": "placed",
    "customer_id": "test",
    "placed_at": _AT,
    "updated_at": _AT,
    "cancel_reason": None,
}
_DOCUMENT = orjson.loads(SAMPLE_ORDER)
_ENTRY = {
    "type": "order_placed",
    "order_uid": _UID,
    "version": 1,
    "event_id": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d",
    "caused_by": "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4",
    "occurred_at": _AT,
    "reason": None,
    "topic": "orders.commands.v1",
    "partition": 2,
    "offset": 1234,
    "position": _POSITION,
}
_EXAMPLES: dict[str, Any] = {
    "PlacementBody": _DOCUMENT,
    "CancellationBody": {"reason": "ordered twice"},
    "AnyOrderView": {**_HEAD, "document": _DOCUMENT},
    "OrderPage": {"orders": [{**_HEAD, "document": _DOCUMENT}], "next_cursor": None},
    "AnyOrderOutcome": {**_HEAD, "position": _POSITION},
    Accepted.__name__: {
        "order_uid": _UID,
        "position": _POSITION,
        "command_id": _ENTRY["caused_by"],
        "outcome": f"/api/v1/orders/{_UID}?min_offset={_POSITION}",
    },
    Timeline.__name__: {"order_uid": _UID, "entries": [_ENTRY], "next_cursor": None},
    **purchases.EXAMPLES,
    **outlets.EXAMPLES,
    **accounts.EXAMPLES,
    **items.EXAMPLES,
    **payments.EXAMPLES,
    **shipping.EXAMPLES,
    **webhooks.EXAMPLES,
}
_DETAILS = {
    "bad-parameter": "`limit` must be a whole number from 1 to 200, not '0'.",
    "no-such-order": f"There is no order {_UID}.",
    "order-refused": f"An order {_UID} with other content exists.",
    "invalid-document": "The document has one fault.",
    "too-large": "The body is too large: 2097152 bytes are declared, the limit is 1048576.",
    "unavailable": "the group is rebalancing",
    **purchases.DETAILS,
    "no-such-past": f"There was no order {_UID} at 2021-11-26T06:22:19.000Z: it is there since {_AT}, and has had 2"
    " versions until now.",
    **accounts.DETAILS,
    **items.DETAILS,
    **payments.DETAILS,
    **webhooks.DETAILS,
}
_MEMBERS: dict[str, JsonObject] = {
    "bad-parameter": {"parameter": "limit"},
    "order-refused": {"reason": "exists_with_different_content", "position": _POSITION},
    "invalid-document": {
        "faults": [
            {"path": "$.payment.amount", "message": "is 1816, but goods_total + delivery_cost + custom_fee is 1817"}
        ]
    },
    "too-large": {"limit_bytes": 1_048_576},
    "dead-lettered": {"dead_letter": _POSITION},
    **purchases.MEMBERS,
    "no-such-past": {"reason": "not_there", "since": _AT, "newest_version": 2},
    **accounts.MEMBERS,
    **items.MEMBERS,
    **payments.MEMBERS,
    **webhooks.MEMBERS,
}
