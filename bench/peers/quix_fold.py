"""The peer on Quix Streams 3, run by its own Python: orders -> checked -> state and its changelog -> one event each.

Arguments: bootstrap servers, consumer group, input, output, state directory. Exactly-once; all else is the default.
"""

from __future__ import annotations

import sys
from typing import Any

from quixstreams import Application, State  # type: ignore[import-not-found]  # it lives in an environment of its own

NEEDED = ("order_uid", "track_number", "delivery", "payment", "items", "customer_id")


def accept(order: dict[str, Any], state: State) -> dict[str, Any]:
    """Check, remember, tell."""
    missing = [name for name in NEEDED if order.get(name) is None]
    if missing:
        raise ValueError(f"{missing} are missing")
    if sum(item["total_price"] for item in order["items"]) != order["payment"]["goods_total"]:
        raise ValueError("goods_total is not the sum of the items")
    stored = state.get("order")
    version = 1 if stored is None else stored["version"] + 1
    state.set("order", {"status": "accepted", "version": version, "order": order})
    return {
        "type": "order.accepted",
        "order_uid": order["order_uid"],
        "amount": order["payment"]["amount"],
        "version": version,
    }


def main(bootstrap: str, group: str, source: str, output: str, state_dir: str) -> None:
    app = Application(
        broker_address=bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=state_dir,
        loglevel="INFO",
    )
    orders = app.topic(source, key_deserializer="str", value_deserializer="json")
    events = app.topic(output, key_serializer="str", value_serializer="json")
    app.dataframe(orders).apply(accept, stateful=True).to_topic(events)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
