"""what a handler says -> a JSON answer, and the headers that answers of every domain share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

POSITION = "Orderstream-Position"
#: Of reads: what is kept must be asked about before it is shown again.
FRESH = {"Cache-Control": "private, no-cache"}


def etag(version: int) -> str:
    """The version as HTTP quotes it."""
    return f'"{version}"'


def answer(status: int, told: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(told), content_type="application/json", headers=headers)
