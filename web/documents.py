"""the descriptions of this service, built when asked for -> /openapi.json and /asyncapi.json."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

Make = Callable[[], dict[str, Any]]


class Documents:
    """Both documents as bytes. They follow from code and settings alone, so each is made once.

    When somebody asks for it, and in a thread: it takes a quarter of a second, a tenth of a worker's start.
    """

    def __init__(self) -> None:
        self._makers: dict[str, Make] = {}
        self._made: dict[str, bytes] = {}

    def describe(self, openapi: Make, asyncapi: Make) -> None:
        """Settle what is answered. Called when the routes are known, which include these two."""
        self._makers = {"openapi": openapi, "asyncapi": asyncapi}

    async def openapi(self, request: web.Request) -> web.Response:
        """GET /openapi.json"""
        return await self._document("openapi")

    async def asyncapi(self, request: web.Request) -> web.Response:
        """GET /asyncapi.json"""
        return await self._document("asyncapi")

    async def _document(self, name: str) -> web.Response:
        if name not in self._made:
            self._made[name] = orjson.dumps(await asyncio.to_thread(self._makers[name]))
        body = self._made[name]
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-cache"})
