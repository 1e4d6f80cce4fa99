"""states of orders -> what callers see of them."""

from __future__ import annotations

import re
from typing import Any

import orjson
from aiohttp import web

from schemas.orders import ORDER_UID_PATTERN, Order, TimelineEntry
from schemas.purchases import LineState, Purchase, Return, Shipment
from streams.records import Position
from web import problems
from web.problems import Problem

_ORDER_UID = re.compile(ORDER_UID_PATTERN)
_PART_ID = re.compile(r"[!-~]{1,64}")


def present(order: Order | Purchase) -> bytes:
    """An order as callers see it; the document of one that came as a document is spliced in as it was received."""
    if isinstance(order, Purchase):
        return orjson.dumps(present_purchase(order))
    return orjson.dumps({**head(order), "document": orjson.Fragment(order.document)})


def head(order: Order) -> dict[str, Any]:
    """An order without its document."""
    return {
        "order_uid": order.order_uid,
        "version": order.version,
        "status": order.status,
        "customer_id": order.customer_id,
        "placed_at": order.placed_at,
        "updated_at": order.updated_at,
        "cancel_reason": order.cancel_reason,
    }


def present_purchase(purchase: Purchase) -> dict[str, Any]:
    """An order that is bought here. `order_id` is its order_uid: orders of both kinds have one name space."""
    return {
        "order_id": purchase.order_uid,
        "order_uid": purchase.order_uid,
        "version": purchase.version,
        "status": purchase.status,
        "order_number": purchase.order_number,
        "user_id": purchase.user_id,
        "customer_id": purchase.user_id,
        "placed_at": purchase.placed_at,
        "updated_at": purchase.updated_at,
        "currency": purchase.currency,
        "split": purchase.split,
        "total_minor": purchase.total_minor,
        "lines": [_present_line(line) for line in purchase.lines],
        "payment": {
            **purchase.payment.model_dump(mode="json"),
            "authorised_minor": purchase.authorised_minor,
            "captured_minor": purchase.captured_minor,
            "refunded_minor": purchase.refunded_minor,
            "lost_minor": purchase.lost_minor,
        },
        "address": purchase.address,
        "reason": purchase.ended,
        "detail": purchase.end_detail,
        "shipments": [
            {**_present_parts(each, "shipment_id"), "tracking_number": each.tracking_number}
            for each in purchase.shipments
        ],
        "returns": [{**_present_parts(each, "return_id"), "exchange": each.exchange} for each in purchase.returns],
    }


def _present_line(line: LineState) -> dict[str, Any]:
    return {
        "line": line.line,
        "item_id": line.item_id,
        "name": line.name,
        "outlet_id": line.outlet_id,
        "price_minor": line.price_minor,
        "refused": line.refused,
        "asked": line.asked,
        "reserved": line.reserved,
        "cancelled": line.cancelled,
        "shipped": line.shipped,
        "delivered": line.delivered,
        "returned": line.returned,
        "exchanged": line.exchanged,
        "replaces": line.replaces,
    }


def _present_parts(each: Shipment | Return, id: str) -> dict[str, Any]:
    parts = [{"line": part.line, "quantity": part.quantity} for part in each.parts]
    return {id: getattr(each, id), "status": each.state, "parts": parts}


def present_entry(entry: TimelineEntry) -> dict[str, Any]:
    """One line of a timeline. `position` can be waited for with `min_offset`."""
    told = orjson.loads(entry.to_json())
    return {**told, "position": str(position_of(entry))}


def position_of(entry: TimelineEntry) -> Position:
    return Position(entry.topic, entry.partition, entry.offset)


def order_uid(request: web.Request) -> str:
    """The order that the address names. What cannot be an order_uid is no order's."""
    given = request.match_info["order_uid"]
    if not _ORDER_UID.fullmatch(given):
        raise no_such_order(given[:64])
    return given


def part_id(request: web.Request, name: str) -> str:
    """The shipment or return that the address names."""
    given = request.match_info[name]
    if not _PART_ID.fullmatch(given):
        raise Problem(problems.NO_SUCH_ROUTE, f"{name} has 1 to 64 printable ASCII characters and no space.")
    return given


def no_such_order(order_uid: str) -> Problem:
    return Problem(problems.NO_SUCH_ORDER, f"There is no order {order_uid}.")
