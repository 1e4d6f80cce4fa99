"""a declaration -> a topic that agents read and send to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from streams.batch import Batch, current_view
from streams.codec import codec_for, encode_json
from streams.errors import TooLarge
from streams.partitioner import partition_for
from streams.records import RECORD_OVERHEAD_BYTES, Headers, Position, Record, TopicPartition, size_of

#: How a record leaves that no agent sends: topic, partition, key, value, headers -> where it stands.
Produce = Callable[[str, int, bytes | None, bytes | None, Headers], Awaitable[Position]]


class _Places(dict[int, TopicPartition]):
    """A topic's partitions by number: each record needs one, and making it costs more than finding it."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic

    def __missing__(self, partition: int) -> TopicPartition:
        place = self[partition] = TopicPartition(self._topic, partition)
        return place


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
        looked_into: bool = False,
        check: Callable[[bytes], None] | None = None,
    ) -> None:
        """`looked_into`: a topic that no agent reads and requests do, through `App.log_reader`.

        `check` sees the bytes of each value before they are decoded, and raises Poison (see `codec_for`).
        """
        self._produce, self.looked_into = produce, looked_into
        self.name, self.partitions, self.group = name, partitions, group
        self._places = _Places(name)
        self.codec = codec_for(value_type, check)
        self.value_type = value_type
        self.config = dict(config or {})
        self.max_message_bytes = max_message_bytes

    @property
    def is_kept(self) -> bool:
        """Whether no record may be deleted: only a declared retention lets the broker delete what was not read."""
        return all(int(self.config.get(name, -1)) < 0 for name in ("retention.ms", "retention.bytes"))

    def get_topic_name(self) -> str:
        """Faust's name for it: `faust -A app agents` asks."""
        return self.name

    def put(
        self, *, key: str | bytes | None = None, value: Any = None, partition: int | None = None, headers: Headers = ()
    ) -> None:
        """What `send` does inside an agent: nothing there is waited for, and a coroutine costs half a microsecond."""
        batch = current_view.get()
        if not isinstance(batch, Batch):
            raise RuntimeError(f"{self.name}: `put` is for agents, whose batch it joins; elsewhere `await send(...)`")
        place, raw_key, raw = self._prepared(key, value, partition, headers)
        batch.send(place, (batch.timestamp, raw_key, raw, headers))

    def take_home(self, cause: Record, *, key: str, value: Any) -> bool:
        """Whether `cause` was not on the home partition of the key, and has been sent there, headers and all.

        A producer may use another partitioner or no key. Home is where every worker looks for what the record is about.
        """
        home = partition_for(key.encode(), self.partitions)
        if home == cause.partition:
            return False
        self.put(key=key, value=value, partition=home, headers=cause.headers)
        return True

    async def send(
        self, *, key: str | bytes | None = None, value: Any = None, partition: int | None = None, headers: Headers = ()
    ) -> Position | None:
        """Send one record to the home partition of its key.

        Inside an agent it joins the batch's transaction, carries the time of the record in hand and gives None.
        Elsewhere it is produced at once, acknowledged by all replicas, and its Position is returned.
        Raises TooLarge for a record, headers included, that is larger than the topic takes.
        """
        if isinstance(current_view.get(), Batch):
            self.put(key=key, value=value, partition=partition, headers=headers)
            return None
        place, raw_key, raw = self._prepared(key, value, partition, headers)
        return await self._produce(self.name, place.partition, raw_key, raw, headers)

    def _prepared(
        self, key: str | bytes | None, value: Any, partition: int | None, headers: Headers
    ) -> tuple[TopicPartition, bytes | None, bytes | None]:
        raw_key = key.encode() if isinstance(key, str) else key
        raw = None if value is None else encode_json(value)
        if partition is None:
            partition = partition_for(raw_key, self.partitions) if raw_key is not None else 0
        self.require_room(raw_key, raw, headers)
        return self._places[partition], raw_key, raw

    def require_room(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Raise TooLarge for a record that the topic does not take."""
        size = (len(value) if value else 0) + (len(key) if key else 0) + RECORD_OVERHEAD_BYTES
        if headers:
            size += size_of(None, None, headers)
        if size > self.max_message_bytes:
            raise TooLarge(f"a record of {size} bytes is larger than {self.name} takes ({self.max_message_bytes})")

    def __repr__(self) -> str:
        return f"<Topic {self.name}, {self.partitions} partitions>"
