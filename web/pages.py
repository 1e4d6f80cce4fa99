"""files of web/static and the list of problems -> the pages for people: /, /docs, /problems."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from aiohttp import web

from web.problems import KINDS

STATIC = Path(__file__).parent / "static"

#: Looked up by name, so that no path can lead elsewhere.
_FILES = {str(file.relative_to(STATIC)): file for file in STATIC.rglob("*") if file.suffix in {".js", ".css", ".txt"}}

#: Everything from this worker, nothing from anywhere else. The viewer of /docs writes inline styles and data: images.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}


async def start(request: web.Request) -> web.StreamResponse:
    """The start page: every address, the newest orders, the health of this worker."""
    return web.FileResponse(STATIC / "index.html", headers=_HEADERS)


async def docs(request: web.Request) -> web.StreamResponse:
    """The viewer of /openapi.json, vendored (static/swagger-ui)."""
    return web.FileResponse(STATIC / "docs.html", headers=_HEADERS)


async def static(request: web.Request) -> web.StreamResponse:
    """Scripts and styles of the pages. aiohttp answers conditional requests for them."""
    file = _FILES.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return web.FileResponse(file, headers={"Cache-Control": "public, max-age=3600"})


async def problems(request: web.Request) -> web.StreamResponse:
    """Every kind of problem with what to do about it: where the `type` of an error answer points."""
    return web.Response(text=_problems_page(), content_type="text/html", headers=_HEADERS)


def _problems_page() -> str:
    rows = "\n".join(
        f'<tr id="{kind.slug}"><td><code>{kind.slug}</code></td><td>{kind.status}</td>'
        f"<td><b>{escape(kind.title)}.</b> {_code(escape(kind.advice))}</td></tr>"
        for kind in KINDS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Orderstream: problems</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/static/style.css"></head><body><h1>Problems</h1>'
        '<p class="lead">Every error is answered as application/problem+json (RFC 9457); its <code>type</code> points'
        " here.</p><table><tr><th>type</th><th>status</th><th>meaning, and what to do</th></tr>"
        f"{rows}</table></body></html>"
    )


def _code(text: str) -> str:
    """Names in backticks, as the same text has them in /openapi.json, as HTML has them."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
