"""states of items -> what callers see of them."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from schemas.inventory import ITEM_ID_PATTERN, Item
from web import problems, reading
from web.problems import Problem

HOME = "/api/v1/items"

_ID = re.compile(ITEM_ID_PATTERN)
#: Words that one query may have, and its length: each is looked for in each row.
MOST_WORDS, LONGEST_QUERY = 8, 128


def present(item: Item) -> dict[str, Any]:
    """An item as callers see it."""
    return {
        "item_id": item.item_id,
        "outlet_id": item.outlet_id,
        "name": item.name,
        "price_minor": item.price_minor,
        "currency": item.currency,
        "attributes": item.attributes,
        "low_stock_at": item.low_stock_at,
        "on_hand": item.on_hand,
        "reserved": item.reserved,
        "available": item.available,
        "version": item.version,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def item_id(request: web.Request) -> str:
    """The item that the address names. What cannot be an item_id is no item's."""
    given = request.match_info["item_id"]
    if not _ID.fullmatch(given):
        raise no_such_item(given[:64])
    return given


def outlet_id(request: web.Request) -> str | None:
    """The outlet that a list is about, if one is named."""
    given = reading.one(request, "outlet_id")
    if given is not None and not _ID.fullmatch(given):
        raise reading.bad("outlet_id", "must have 1 to 64 letters, digits and . _ ~ -, the first no sign.")
    return given


def words(request: web.Request) -> list[str]:
    """What is looked for: words, each of which name or id must have."""
    given = (reading.one(request, "query") or "").split()
    if len(given) > MOST_WORDS or sum(map(len, given)) > LONGEST_QUERY:
        raise reading.bad("query", f"must have at most {MOST_WORDS} words, {LONGEST_QUERY} characters together.")
    return given


def no_such_item(item_id: str) -> Problem:
    return Problem(problems.NO_SUCH_ITEM, f"There is no item {item_id}.")
