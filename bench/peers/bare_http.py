"""The peer of our HTTP reads: one aiohttp handler, one RocksDB, no more. The rows are those of the orders' changelog.

`python -m bench.peers.bare_http BOOTSTRAP CHANGELOG STORE PORT`; the store is filled at the first start.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web
from confluent_kafka import Consumer, TopicPartition
from rocksdict import Options, Rdict

from bench.loading import QUIET
from local.ports import HOST


def fill(store: Rdict, bootstrap: str, changelog: str) -> None:
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": changelog, "isolation.level": "read_committed",
        "enable.auto.commit": False, "enable.partition.eof": True, **QUIET,
    })  # fmt: skip
    waiting = set(consumer.list_topics(changelog, 10).topics[changelog].partitions)
    consumer.assign([TopicPartition(changelog, partition, 0) for partition in waiting])
    while waiting:
        for message in consumer.consume(10_000, 1.0):
            if message.error() is not None:
                waiting.discard(message.partition())
            elif (key := message.key()) is not None and (value := message.value()) is not None:
                store[key] = value
    consumer.close()
    store.flush()


def main(bootstrap: str, changelog: str, path: str, port: str) -> None:
    is_new = not Path(path).exists()
    store = Rdict(path, Options(raw_mode=True))
    if is_new:
        fill(store, bootstrap, changelog)

    async def show(request: web.Request) -> web.Response:
        found = store.get(request.match_info["order_uid"].encode())
        return web.Response(body=found or b"", status=200 if found else 404, content_type="application/json")

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/orders/{order_uid}", show)
    app.router.add_get("/health/ready", ready)
    web.run_app(app, host=HOST, port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
