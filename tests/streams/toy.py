"""A toy topology: words counted by key, forgotten when a reminder is due. Enough to reach every part of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from streams import App, Event, FaultAt, Poison, Stream, Table

GROUP = "words"


def make_app(data_dir: Path, app_id: str = "toy", partitions: int = 2, **options: Any) -> App:
    """`words` (key -> text) -> `counts` per key, `counted` events; "bad" is poison, "bug" raises after its writes."""
    app = App(app_id, data_dir=data_dir, broker=options.pop("broker", "kafka://127.0.0.1:9"), **options)
    wire(app, partitions)
    if app.live is not None:
        app.topic(app.live.partition.topic, partitions=1)
    return app


def wire(app: App, partitions: int) -> None:
    words = app.topic("words", group=GROUP, partitions=partitions)
    reminders = app.topic("reminders", group=GROUP, partitions=partitions)
    counted = app.topic("counted", partitions=partitions)
    app.topic("dead_letters.v1", partitions=4, config={})
    counts: Table[int] = app.Table("counts", group=GROUP, value_type=int, help="How often each key came.")
    deadlines = app.deadlines(GROUP)
    deadlines.target(reminders)

    @app.agent(words)
    async def count(stream: Stream[bytes]) -> None:
        """Count each key."""
        async for value in stream:
            event: Event = stream.event
            key = (event.key or b"none").decode()
            number = (counts.get(key) or 0) + 1
            counts[key] = number
            await counted.send(key=key, value=orjson.dumps({"key": key, "n": number, "offset": event.offset}))
            if value == b"bad":
                raise Poison([FaultAt("$", "a bad word")])
            if value == b"bug":
                raise ValueError("a bug of ours")
            if value.startswith(b"remind"):
                deadlines.schedule(event.timestamp + int(value.split()[1]), reminders, key=key, value=b"due", id=key)

    @app.agent(reminders)
    async def remind(stream: Stream[bytes]) -> None:
        """Forget a key when its reminder comes."""
        async for event in stream.events():
            if event.key is not None:
                del counts[event.key.decode()]
