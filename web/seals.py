"""personal data at the window: sealed before a command carries it, opened in what callers are answered.

In between nobody reads it, other workers' answers included: whoever was asked opens. Without a keyring nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from schemas.orders import MAX_DOCUMENT_BYTES, OrderDocument
from schemas.seals import seal_address, seal_document
from tables.keys import Keyring
from web import problems, reading
from web.problems import Problem

Address = Mapping[str, str | int | None]


class Shut(NamedTuple):
    """A document as it is carried, and what its request is known again by."""

    raw: bytes
    repeat: bytes


class Seals:
    """Seals what callers send."""

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring

    async def document(self, document: OrderDocument, raw: bytes) -> Shut:
        """A document that was read from these bytes. Raises Problem (413), NotReadable."""
        if self._keyring is None:
            return Shut(raw, raw)
        seal = await self._keyring.seal_for(document.customer_id)
        sealed = seal_document(raw, seal)
        if len(sealed) > MAX_DOCUMENT_BYTES:
            detail = f"With its personal data sealed the document has {len(sealed)} bytes, above {MAX_DOCUMENT_BYTES}."
            raise Problem(problems.TOO_LARGE, detail, limit_bytes=MAX_DOCUMENT_BYTES)
        return Shut(sealed, seal.repeat(raw))

    async def address(self, user_id: str, order_uid: str, address: Address | None) -> dict[str, Any] | None:
        """The address of a cart. Raises NotReadable."""
        if self._keyring is None or address is None:
            return None if address is None else dict(address)
        return seal_address(address, order_uid, await self._keyring.seal_for(user_id))

    async def repeat(self, user_id: str, raw: bytes) -> bytes:
        """What the request with a cart is known again by. Raises NotReadable."""
        return raw if self._keyring is None else (await self._keyring.seal_for(user_id)).repeat(raw)


def opening(keyring: Keyring) -> Middleware:
    """Innermost: what a handler answers, and what was kept of an answer, is opened on its way out.

    An order looks another way once its key is gone, and has the same version: the tag tells the two apart.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not (isinstance(response, web.Response) and isinstance(response.body, bytes)):
            return response
        if response.content_type != "application/json" or not request.path.startswith("/api/"):
            return response
        told, erased = await keyring.opened(response.body)
        if told is response.body:
            return response
        response.body = told
        if tag := response.headers.get("ETag"):
            response.headers["ETag"] = tag = f'{tag[:-1]}-{"erased" if erased else "opened"}"'
            if request.method in ("GET", "HEAD") and reading.matches_etag(request, tag):
                return web.Response(status=304, headers={**response.headers})
        return response

    return middleware
