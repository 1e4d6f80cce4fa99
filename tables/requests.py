"""Requests: an Idempotency-Key -> who holds it, or the answer it stands for. One table of the group `requests`."""

from __future__ import annotations

from schemas.requests import Request
from streams import App, Table

GROUP = "requests"


def declare(app: App) -> Table[Request]:
    """Declare the table on the app; its key is the request_key. Bounded: a deadline forgets each key after a day."""
    return app.Table("requests", group=GROUP, value_type=Request, help="Idempotency keys of HTTP requests.")
