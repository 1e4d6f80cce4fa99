"""states of orders -> what callers see of them."""

from __future__ import annotations

import re
from typing import Any

import orjson
from aiohttp import web

from schemas.orders import ORDER_UID_PATTERN, Order, TimelineEntry
from streams.records import Position
from web import problems
from web.problems import Problem

_ORDER_UID = re.compile(ORDER_UID_PATTERN)


def present(order: Order) -> bytes:
    """An order as callers see it, its document spliced in as it was received."""
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


def no_such_order(order_uid: str) -> Problem:
    return Problem(problems.NO_SUCH_ORDER, f"There is no order {order_uid}.")
