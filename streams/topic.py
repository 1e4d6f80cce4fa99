"""a declaration -> a topic that agents read and send to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from streams import partitioner
from streams.batch import Batch, current_view
from streams.codec import codec_for, encode_json
from streams.records import Headers, Position

#: How a record leaves that no agent sends: topic, partition, key, value, headers -> where it stands.
Produce = Callable[[str, int, bytes | None, bytes | None, Headers], Awaitable[Position]]

#: An agent asks for the partition of the same key several times in a row; murmur2 in Python costs microseconds.
partition_for = lru_cache(maxsize=8192)(partitioner.partition_for)


class Topic:
    """A topic: its name, the group that consumes it (if any), its partitions and what its values are.

    `value_type` None or bytes: values are raw. Anything else that pydantic can validate: JSON of that type.
    """

    def __init__(
        self,
        name: str,
        *,
        produce: Produce,
        partitions: int,
        group: str | None = None,
        value_type: Any = None,
        config: dict[str, str] | None = None,
        max_message_bytes: int = 1 << 20,
    ) -> None:
        self._produce = produce
        self.name, self.partitions, self.group = name, partitions, group
        self.codec = codec_for(value_type)
        self.value_type = value_type
        self.config = dict(config or {})
        self.max_message_bytes = max_message_bytes

    def get_topic_name(self) -> str:
        """Faust's name for it: `faust -A app agents` asks."""
        return self.name

    async def send(
        self, *, key: str | bytes | None = None, value: Any = None, partition: int | None = None, headers: Headers = ()
    ) -> Position | None:
        """Send one record to the home partition of its key.

        Inside an agent it joins the batch's transaction, carries the time of the record in hand and gives None.
        Elsewhere it is produced at once, acknowledged by all replicas, and its Position is returned.
        Raises ValueError for a record larger than the topic takes.
        """
        raw_key = key.encode() if isinstance(key, str) else key
        raw = None if value is None else encode_json(value)
        if partition is None:
            partition = partition_for(raw_key, self.partitions) if raw_key is not None else 0
        size = (len(raw) if raw else 0) + (len(raw_key) if raw_key else 0) + 512
        if size > self.max_message_bytes:
            raise ValueError(f"a record of {size} bytes is larger than {self.name} takes ({self.max_message_bytes})")
        view = current_view.get()
        if isinstance(view, Batch):
            view.send(self.name, partition, (view.timestamp, raw_key, raw, headers))
            return None
        return await self._produce(self.name, partition, raw_key, raw, headers)

    def __repr__(self) -> str:
        return f"<Topic {self.name}, {self.partitions} partitions>"
