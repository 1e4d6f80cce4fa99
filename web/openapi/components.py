"""parameters and headers that several operations share -> components of /openapi.json."""

from __future__ import annotations

from typing import Any

from schemas.accounts import ACCOUNT_ID_PATTERN
from schemas.inventory import ITEM_ID_PATTERN
from schemas.orders import ORDER_UID_PATTERN, OrderStatus
from schemas.webhooks import UUID_PATTERN, DeliveryState
from web.limits import Limits

JsonObject = dict[str, Any]


def parameters(limits: Limits, inputs: frozenset[str]) -> JsonObject:
    """By the name that operations use; `inputs` are the topics whose positions can be waited for."""
    found = {
        **_in_path(),
        **_of_items(),
        **_of_accounts(),
        **_of_outlets(),
        **_signature(),
        **_of_webhooks(),
        "customer_id": _query(
            "customer_id", "Only orders of this customer.", {"type": "string", "maxLength": 64}, "test"
        ),
        "buyer": _query(
            "user_id",
            "The same as `customer_id`, by the name that carts have for it.",
            {"type": "string", "maxLength": 64},
            None,
        ),
        "status": _query(
            "status", "Only orders that stand so.", {"type": "string", "enum": [str(s) for s in OrderStatus]}, "placed"
        ),
        "limit": _query("limit", "Rows on a page, at most.", _whole(limits.page_default, limits.page_most), 20),
        "timeline_limit": _query(
            "limit", "Entries on a page, at most.", _whole(limits.page_default, limits.timeline_most), 50
        ),
        "cursor": _query(
            "cursor", "Opaque: `next_cursor` of the page before, with the same filters.", {"type": "string"}, None
        ),
        "min_offset": _query(
            "min_offset",
            "Wait, bounded, until the record at this position is in the state, then read; 503 when that takes too long."
            f" A position as writes answer with it, in {' or '.join(sorted(inputs))},"
            " on the own partition of what is read.",
            {"type": "string", "pattern": r"^(.+-[0-9]+-[0-9]+)?$"},
            "orders.commands.v1-2-1234",
        ),
        **_of_the_past(),
        **_in_headers(),
    }
    return {name: _described(parameter) for name, parameter in found.items()}


def _described(parameter: JsonObject) -> JsonObject:
    """A parameter that may be left out says its example in words.

    The viewer of /docs fills its forms from `example`, and a filter, a version or a key that nobody chose would make
    the first request fail or find nothing.
    """
    if parameter.get("required") or "example" not in parameter:
        return parameter
    rest = {name: value for name, value in parameter.items() if name != "example"}
    return rest | {"description": f"{parameter['description']} For example `{parameter['example']}`."}


def _of_the_past() -> JsonObject:
    """When it was that is asked for."""
    moment = (
        "How it stood then: at a time (RFC 3339, to the millisecond, that one included), at a version, or after the"
        " record at a position, of its events or of the commands that made it. docs/http.md says what each means."
    )
    return {
        "as_of": _query("as_of", moment, {"type": "string"}, "2026-11-21T12:46:34.826Z"),
        "list_as_of": _query(
            "as_of",
            "How everything stood at this time (RFC 3339, to the millisecond, that one included).",
            {"type": "string"},
            "2026-11-21T12:46:34.826Z",
        ),
    }


def _in_headers() -> JsonObject:
    """What a request says of itself."""
    return {
        "If-None-Match": {
            "name": "If-None-Match",
            "in": "header",
            "description": "ETags that the caller has; 304 when one is current.",
            "schema": {"type": "string"},
            "example": '"1"',
        },
        "If-Match": {
            "name": "If-Match",
            "in": "header",
            "description": "The ETag of the version that the write is for; 412 when the resource has another by then.",
            "schema": {"type": "string"},
            "example": '"1"',
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes repeating safe for 24 hours. The same key with the same request gets the same answer;"
            " with another request 422; while the first is being worked on 409.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
            "example": "9b2f6d0e-3c1a-4e57-8f5d-2a7b6c9d0e1f",
        },
        "X-Request-Id": {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Taken over into the answer and the logs when it is 1 to 128 of A-Z a-z 0-9 . _ : -; else a"
            " new one is made.",
            "schema": {"type": "string"},
            "example": "checkout-7f3a",
        },
    }


def _in_path() -> JsonObject:
    """What an address names."""
    return {
        "order_uid": {
            "name": "order_uid",
            "in": "path",
            "required": True,
            "description": "The order's number, as its document has it.",
            "schema": {"type": "string", "pattern": ORDER_UID_PATTERN},
            "example": "b563feb7b2b84b6test",
        },
        "shipment_id": _part("shipment_id", "The shipment's id within its order.", "s1"),
        "return_id": _part("return_id", "The return's id within its order.", "r1"),
        "outlet": {
            "name": "outlet_id",
            "in": "path",
            "required": True,
            "description": "The outlet that sells.",
            "schema": {"type": "string", "pattern": ITEM_ID_PATTERN},
            "example": "outlet-1",
        },
        "account_id": {
            "name": "account_id",
            "in": "path",
            "required": True,
            "description": "The account's id, as opening it answered.",
            "schema": {"type": "string", "pattern": ACCOUNT_ID_PATTERN},
            "example": "6a1b52e0-6c8e-5b0a-9f64-0d5f3a2b1c4d",
        },
        "item_id": {
            "name": "item_id",
            "in": "path",
            "required": True,
            "description": "The item's id.",
            "schema": {"type": "string", "pattern": ITEM_ID_PATTERN},
            "example": "mascara-9934930",
        },
    }


def _of_items() -> JsonObject:
    """What a list of items is filtered by."""
    return {
        "outlet_id": _query(
            "outlet_id", "Only items of this outlet.", {"type": "string", "pattern": ITEM_ID_PATTERN}, "outlet-1"
        ),
        "query": _query(
            "query",
            "Only items that have all these words in their name or id, in any case; a part of a word is enough. At most"
            " 8 words, 128 characters together.",
            {"type": "string"},
            "mascara",
        ),
    }


def _part(name: str, description: str, example: str) -> JsonObject:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": "^[!-~]{1,64}$"},
        "example": example,
    }


def _of_accounts() -> JsonObject:
    """What lists of accounts take."""
    user = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": r"^[^\x00-\x1f\x7f]+$"}
    return {"user_id": {**_query("user_id", "Whose accounts.", user, "test"), "required": True}}


def _of_webhooks() -> JsonObject:
    """What the addresses of webhooks name, and what their log is filtered by."""

    def uuid(name: str, description: str, example: str) -> JsonObject:
        return {**_part(name, description, example), "schema": {"type": "string", "pattern": UUID_PATTERN}}

    states = {"type": "string", "enum": [str(state) for state in DeliveryState]}
    return {
        "subscription_id": uuid(
            "subscription_id", "The webhook's id, as creating it answered.", "0b7e6f6e-6c8e-5b0a-9f64-0d5f3a2b1c4d"
        ),
        "delivery_id": uuid("delivery_id", "The delivery's id in the log.", "5f0e1d2c-1a2b-5c3d-8e4f-5a6b7c8d9e0f"),
        "state": _query("state", "Only deliveries that stand so.", states, "given_up"),
    }


def _of_outlets() -> JsonObject:
    """What a queue for approval is ordered by."""
    orders = {"type": "string", "enum": ["oldest", "newest"], "default": "oldest"}
    return {"waiting_order": _query("order", "Who comes first: who waits longest, or shortest.", orders, "oldest")}


def _signature() -> JsonObject:
    """What the payment provider signs its callbacks with."""
    return {
        "Orderstream-Signature": {
            "name": "Orderstream-Signature",
            "in": "header",
            "required": True,
            "description": "When the body was signed, and its HMAC-SHA256 under the shared secret.",
            "schema": {"type": "string", "pattern": "^t=[0-9]{1,12},v1=[0-9a-f]{64}$"},
            "example": "t=1795262400,v1=" + "0f" * 32,
        },
    }


def headers() -> JsonObject:
    """Headers of answers."""
    return {
        "ETag": _header("The version of what is answered, quoted.", '"1"'),
        "Location": _header("Where it stands.", "/api/v1/orders/b563feb7b2b84b6test"),
        "Orderstream-Position": _header("The record that did it; for `min_offset`.", "orders.commands.v1-2-1234"),
        "Retry-After": _header("Seconds to wait before asking again.", "1"),
        "Idempotency-Replayed": _header("`true`: this answer was kept from the first request with the key.", "true"),
        "X-Request-Id": _header("The request's id, as in the logs.", "checkout-7f3a"),
        "Allow": _header("Methods that this address answers.", "GET, HEAD"),
    }


def _query(name: str, description: str, schema: JsonObject, example: Any) -> JsonObject:
    # An empty one counts as not given, as forms send it.
    parameter = {
        "name": name,
        "in": "query",
        "description": description,
        "allowEmptyValue": True,
        "schema": schema,
    }
    return parameter if example is None else {**parameter, "example": example}


def _whole(default: int, most: int) -> JsonObject:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}


def _header(description: str, example: str) -> JsonObject:
    return {"description": description, "schema": {"type": "string"}, "example": example}
