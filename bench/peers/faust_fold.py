"""The peer on stock Faust, run by its own Python: orders -> checked -> table and its changelog -> one event each.

`python faust_fold.py --datadir DIR worker --web-port N`, with BENCH_KAFKA, BENCH_ID, BENCH_IN and BENCH_OUT in the
environment. Every setting is Faust's default, at-least-once included: its exactly-once is not, and it is no faster.
"""

from __future__ import annotations

import os
from typing import Any

import faust
import orjson

NEEDED = ("order_uid", "track_number", "delivery", "payment", "items", "customer_id")

app = faust.App(os.environ["BENCH_ID"], broker=f"kafka://{os.environ['BENCH_KAFKA']}", store="rocksdb://")
source = app.topic(os.environ["BENCH_IN"], key_type=str, key_serializer="raw", value_serializer="raw", value_type=bytes)
events = app.topic(os.environ["BENCH_OUT"], key_type=str, key_serializer="raw", value_serializer="json")
orders = app.Table("orders", partitions=4)


@app.agent(source)
async def accept(stream: Any) -> None:
    """Check, remember, tell."""
    async for raw in stream:
        order = orjson.loads(raw)
        for name in NEEDED:
            if order.get(name) is None:
                raise ValueError(f"{name} is missing")
        payment = order["payment"]
        if sum(item["total_price"] for item in order["items"]) != payment["goods_total"]:
            raise ValueError("goods_total is not the sum of the items")
        uid = order["order_uid"]
        stored = orders.get(uid)
        version = 1 if stored is None else stored["version"] + 1
        orders[uid] = {"status": "accepted", "version": version, "order": order}
        event = {"type": "order.accepted", "order_uid": uid, "amount": payment["amount"], "version": version}
        await events.send(key=uid, value=event)


if __name__ == "__main__":
    app.main()
