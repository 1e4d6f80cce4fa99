"""the descriptions of this service, built once -> /openapi.json and /asyncapi.json."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web


class Documents:
    """Both documents as bytes. They follow from code and settings alone, so they are made once."""

    def __init__(self) -> None:
        self._openapi = self._asyncapi = b""

    def describe(self, openapi: dict[str, Any], asyncapi: dict[str, Any]) -> None:
        """Settle what is answered. Called when the routes are known, which include these two."""
        self._openapi, self._asyncapi = orjson.dumps(openapi), orjson.dumps(asyncapi)

    async def openapi(self, request: web.Request) -> web.Response:
        """GET /openapi.json"""
        return _document(self._openapi)

    async def asyncapi(self, request: web.Request) -> web.Response:
        """GET /asyncapi.json"""
        return _document(self._asyncapi)


def _document(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-cache"})
