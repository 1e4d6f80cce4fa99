"""The toy topology as a worker of its own: `faust -A tests.streams.toy_worker worker`, for tests on a real broker."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from streams import NotReadable, Position
from tests.streams.toy import GROUP, make_app

app = make_app(
    Path(os.environ["TOY_DATA_DIR"]),
    os.environ.get("TOY_ID", "toy"),
    int(os.environ.get("TOY_PARTITIONS", "4")),
    broker=f"kafka://{os.environ['TOY_KAFKA']}",
    web_bind="127.0.0.1",
    web_host="127.0.0.1",
    web_port=int(os.environ.get("ORDERSTREAM_WEB_PORT", "6066")),
    tuning={
        "session_timeout_ms": int(os.environ.get("TOY_SESSION_MS", "3000")),
        "max_stall_ms": int(os.environ.get("TOY_STALL_MS", "60000")),
        "group_instance_id": os.environ.get("TOY_INSTANCE"),
        "heartbeat_interval_ms": 300,
        "commit_interval_ms": int(os.environ.get("TOY_COMMIT_MS", "25")),
        "batch_max_records": int(os.environ.get("TOY_BATCH", "2000")),
        "standby_replicas": int(os.environ.get("TOY_STANDBYS", "0")),
    },
)


async def count(request: web.Request) -> web.Response:
    """The count of a key, from this worker or a pointer to its owner."""
    key = request.match_info["key"]
    wanted = request.query.get("min_offset")
    try:
        owner = app.owner(GROUP, key)
        if not owner.local:
            return web.json_response({"owner": owner.url}, status=307)
        position = Position.parse(wanted) if wanted else None
        async with app.reading(GROUP, owner.partition, min_position=position):
            return web.json_response({"count": app.groups[GROUP].tables["counts"].get(key)})
    except NotReadable as error:
        return web.json_response({"error": str(error)}, status=503)


async def health(request: web.Request) -> web.Response:
    checks: dict[str, Any] = {name: check._asdict() for name, check in app.engine.health().items()}
    return web.json_response(checks, status=200 if all(check["ok"] for check in checks.values()) else 503)


async def state(request: web.Request) -> web.Response:
    """The committed rows of this worker, and where its tasks stand."""
    rows: dict[str, Any] = {}
    for task in app.engine.tasks.values():
        async with app.reading(GROUP, task.partition):
            rows.update(app.groups[GROUP].tables["counts"].range())
    tasks = {name: task.state for name, task in app.engine.tasks.items()}
    return web.json_response({"tasks": tasks, "rows": rows})


async def assignments(request: web.Request) -> web.Response:
    """How many this worker has got: one for each rebalance."""
    return web.json_response({"assignments": app.engine._assignments})


async def stall(request: web.Request) -> web.Response:
    """Keep the event loop busy, as a record does that takes long, and Python's lock with it but for its switches."""
    until = time.monotonic() + float(request.match_info["seconds"])
    while time.monotonic() < until:
        pass
    beats = app.engine._heartbeats
    return web.json_response({"heartbeats": 0 if beats is None else beats.sent})


def routes(web_app: web.Application) -> None:
    web_app.router.add_get("/count/{key}", count)
    web_app.router.add_get("/health/ready", health)
    web_app.router.add_get("/state", state)
    web_app.router.add_get("/assignments", assignments)
    web_app.router.add_get("/stall/{seconds}", stall)


app.on_web(routes)
