"""Sends bytes to a worker as they are, and reads the answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from tests.web.platform import Client

#: Only a hang reaches it.
PATIENCE_S = 60.0


class Answered(NamedTuple):
    """An answer as it came: status 0 and no headers when the worker hung up."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(method: str, path: str, body: bytes = b"", *lines: str, host: str = "localhost") -> bytes:
    """A request that closes its connection. A header in `lines` takes the place of the usual one."""
    given = {line.partition(":")[0].lower() for line in lines}
    usual = {"Host": host, "Connection": "close"}
    if body:
        usual |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    head = [f"{method} {path} HTTP/1.1", *lines, *(f"{k}: {v}" for k, v in usual.items() if k.lower() not in given)]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


async def exchange(client: Client, sent: bytes, *, then_close: bool = False) -> Answered:
    """Send bytes, and read until the worker closes. `then_close`: go away at once, without reading."""
    url = client.make_url("")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(sent)
        await writer.drain()
        if then_close:
            return Answered(0, {}, b"")
        async with asyncio.timeout(PATIENCE_S):
            raw = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    if not raw:
        return Answered(0, {}, b"")
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in rest)
    return Answered(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)
