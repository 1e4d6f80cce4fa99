"""fetch requests of a consumer -> incremental ones: brokers and we tell each other only what is new (KIP-227).

aiokafka 0.14 names all of its partitions in each fetch, and is told about each of them. A worker has many (ours sixty),
of which one or two have anything new: in Python that is half a millisecond for every fetch, hundreds of times a second.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.fetch import FetchRequest

from streams.records import TopicPartition

#: Requests of a session are numbered from 1, in 31 bits; 0 asks for a new one.
LAST_EPOCH = (1 << 31) - 1

#: What a partition is asked for: from which offset, and how many bytes at most.
Wanted = Mapping[TopicPartition, tuple[int, int]]


@dataclass
class _Session:
    """What a broker has been told, and under which number it goes on. 0: it knows nothing yet."""

    id: int = 0
    epoch: int = 0
    told: Wanted = field(default_factory=dict)


class FetchSessions:
    """The sessions of one consumer, one for each broker. One that is in doubt is dropped, and a new one begun."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._send = consumer._client.send
        self._sessions: dict[Any, _Session] = {}

    async def send(self, node_id: Any, request: Any, **options: Any) -> Any:
        """aiokafka sends one fetch at a time to each broker. What is no fetch goes its way."""
        if not isinstance(request, FetchRequest):
            return await self._send(node_id, request, **options)
        session = self._sessions.pop(node_id, None) or _Session()
        wanted = {TopicPartition(topic, each[0]): each[1:] for topic, some in request.topics for each in some}
        answer = await self._send(node_id, _Incremental(request, wanted, session), **options)
        # An error of the whole answer is one of the session: it has none of the partitions. 0: the broker keeps none.
        if answer.API_VERSION >= 7 and not answer.error_code and answer.session_id:
            epoch = session.epoch + 1 if session.epoch < LAST_EPOCH else 1
            self._sessions[node_id] = _Session(answer.session_id, epoch, wanted)
        return answer


class _Incremental:
    """A fetch as aiokafka's connection takes one: it becomes a request when the broker's version is known."""

    API_KEY = FetchRequest.API_KEY

    def __init__(self, whole: FetchRequest, wanted: Wanted, session: _Session) -> None:
        self._whole, self._wanted, self._session = whole, wanted, session

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        if versions[FetchRequest.API_KEY][1] < 7:
            return self._whole.prepare(versions)
        session, part = self._session, copy.copy(self._whole)
        part._topics = _by_topic(
            (tp, (tp.partition, *asked)) for tp, asked in self._wanted.items() if session.told.get(tp) != asked
        )
        request = part.prepare(versions)
        request.session_id, request.session_epoch = session.id, session.epoch
        # What lies here unread is not asked for; the broker would go on sending it.
        request.forgotten_topics_data = _by_topic(
            (tp, tp.partition) for tp in session.told.keys() - self._wanted.keys()
        )
        return request


def _by_topic(found: Iterable[tuple[TopicPartition, Any]]) -> list[tuple[str, list[Any]]]:
    of_topic: dict[str, list[Any]] = defaultdict(list)
    for partition, what in found:
        of_topic[partition.topic].append(what)
    return list(of_topic.items())


def remember_fetches(consumer: AIOKafkaConsumer) -> None:
    """Let a started consumer fetch in sessions."""
    consumer._client.send = FetchSessions(consumer).send
