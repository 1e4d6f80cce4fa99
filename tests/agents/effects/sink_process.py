"""`python -m tests.agents.effects.sink_process BOOTSTRAP TOPIC DSN`: a sink in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import sys

from prometheus_client import CollectorRegistry

from agents.effects.postgres.destination import PostgresDestination
from agents.effects.postgres.rows import read_event
from streams.sink import Pump, SinkMetrics
from streams.sources import KafkaSource


async def main(bootstrap: str, topic: str, dsn: str) -> None:
    source = KafkaSource(bootstrap, f"group-of-{topic}", [topic], {"session_timeout_ms": 6_000})
    destination = PostgresDestination(lambda: dsn, {topic: read_event})
    pump = Pump("killed", source, destination, SinkMetrics(CollectorRegistry()), max_records=50)
    while True:  # noqa: ASYNC110  # the sleep is the wait that the pump asks for
        await asyncio.sleep(await pump.step())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
