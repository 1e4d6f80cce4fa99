"""what an outlet has said, and its series of numbers -> what callers see of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from schemas.inventory import ITEM_ID_PATTERN
from schemas.outlets import Outlet, Series
from web import reading

HOME = "/api/v1/outlets"

_ID = re.compile(ITEM_ID_PATTERN)


def present(outlet_id: str, outlet: Outlet | None, series: Iterable[tuple[Series, int]]) -> dict[str, Any]:
    """An outlet as callers see it; one that has said nothing goes by what the platform says."""
    approval = outlet.approval if outlet else None
    prefix = outlet.number_prefix if outlet else None
    return {
        "outlet_id": outlet_id,
        "approval": approval.model_dump(mode="json") if approval else None,
        "number_prefix": prefix,
        "version": outlet.version if outlet else 0,
        "updated_at": outlet.updated_at if outlet else None,
        "series": [
            {"prefix": each.prefix, "year": each.year, "last": last, "last_number": each.number(last)}
            for each, last in series
        ],
    }


def outlet_id(request: web.Request) -> str:
    """The outlet that the address names."""
    given = request.match_info["outlet_id"]
    if not _ID.fullmatch(given):
        raise reading.bad("outlet_id", "must have 1 to 64 letters, digits and . _ ~ -, the first no sign.")
    return given
