"""the dead-letter topic, read committed -> letters, and which were redriven -> chosen ones back home, once each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer

from schemas.dead_letters import ATTEMPT, PREFIX, REDRIVEN, DeadLetter, Redriven, read_dead_letter
from schemas.topics import DAY_MS, ORDER_INBOX
from streams import admin
from streams.brokers import Brokers, as_brokers, client_options
from streams.errors import Fenced, OutcomeUnknown
from streams.partitioner import partition_for
from streams.records import Omitted, Outgoing, Position, Record, TopicPartition
from streams.settings import EngineSettings
from streams.transactions import KafkaTransactions

#: One transaction of a redrive. Small enough that a second redrive, which fences the first, costs little work.
MAX_RECORDS = 500
MAX_BYTES = 4 << 20
#: A transaction that is open on the topic may hide a marker; none may stay open longer than the broker lets it.
OPEN_TRANSACTION_S = 60.0
#: How often a redrive that was overtaken by another one starts again.
ATTEMPTS = 10


class Gone(Exception):
    """The topic, or the letter on it, is not on the broker; the message has its name."""


class HiddenByTransaction(Exception):
    """Records behind an open transaction could not be read in time, so what was redriven is not known."""


@dataclass(frozen=True)
class Letter:
    """A dead letter without its value (there may be very many), and where it lies on the dead-letter topic."""

    says: DeadLetter
    lies_at: Position
    redriven: bool = False

    @property
    def id(self) -> str:
        return self.says.id

    @property
    def is_incomplete(self) -> bool:
        """Whether a part of the record is only on the topic that it came from."""
        return self.says.topic == ORDER_INBOX.name or bool(self.says.left_out)

    def row(self) -> dict[str, Any]:
        """Its public shape in lists."""
        return {**self.says.summary(), "redriven": self.redriven}


@dataclass
class Contents:
    """What the topic held when it was read. `foreign` counts records that are no letter of ours."""

    letters: list[Letter] = field(default_factory=list)
    foreign: int = 0


class Reader:
    """Passes over one topic, outside any group, from the start to an end that is fixed at the beginning."""

    def __init__(self, brokers: Brokers | str, topic: str, partitions: int) -> None:
        self.brokers, self._topic = brokers, topic
        self.partitions = [TopicPartition(topic, number) for number in range(partitions)]

    @asynccontextmanager
    async def _consumer(self, isolation_level: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **client_options(self.brokers),
            isolation_level=isolation_level,
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def ends(self, isolation_level: str) -> dict[TopicPartition, int]:
        """Read committed: the end of what can be read now. Read uncommitted: also of what is open."""
        async with self._consumer(isolation_level) as consumer:
            found: dict[TopicPartition, int] = await consumer.end_offsets(self.partitions)
            return found

    async def read(
        self, ends: Mapping[TopicPartition, int], starts: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[Record]:
        """Committed records up to `ends`; an end behind an open transaction is waited for (HiddenByTransaction)."""
        async with self._consumer("read_committed") as consumer:
            consumer.assign(self.partitions)
            first = await consumer.beginning_offsets(self.partitions)
            for partition in self.partitions:
                consumer.seek(partition, max(first[partition], starts.get(partition, 0)))
            moved_at, before = time.monotonic(), -1
            while behind := [part for part in self.partitions if await consumer.position(part) < ends[part]]:
                for partition, records in (await consumer.getmany(*behind, timeout_ms=200)).items():
                    for record in records:
                        if record.offset < ends[partition]:
                            yield record
                reached = sum([await consumer.position(part) for part in self.partitions])
                if reached != before:
                    moved_at, before = time.monotonic(), reached
                elif time.monotonic() - moved_at > OPEN_TRANSACTION_S:
                    raise HiddenByTransaction(
                        f"{self._topic} has a transaction that stays open for more than {OPEN_TRANSACTION_S:g} s; what "
                        "lies behind it cannot be read. It ends when its worker goes on or its time-out runs out"
                    )


async def reader_of(brokers: Brokers | str, topic: str) -> tuple[Reader, dict[str, int]]:
    """A reader of the topic, and the partition count of every topic. Raises Gone, admin.BrokerUnreachable."""
    counts = await admin.partition_counts(brokers)
    if topic not in counts:
        raise Gone(f"there is no topic {topic} on {brokers}; `{admin.MEND}` creates it")
    return Reader(brokers, topic, counts[topic]), counts


async def read_contents(reader: Reader, ends: Mapping[TopicPartition, int]) -> Contents:
    """Every letter up to `ends`, oldest first, each knowing whether a marker says that it was redriven."""
    contents, redriven = Contents(), set[str]()
    async for record in reader.read(ends, {}):
        try:
            match read_dead_letter(record.key, None, record.headers):
                case Redriven(id=id_):
                    redriven.add(id_)
                case DeadLetter() as letter:
                    lies_at = Position(record.topic, record.partition, record.offset)
                    contents.letters.append(Letter(letter, lies_at))
        except ValueError:
            contents.foreign += 1
    contents.letters = [replace(letter, redriven=letter.id in redriven) for letter in contents.letters]
    contents.letters.sort(
        key=lambda each: (each.says.timestamp, each.says.topic, each.says.partition, each.says.offset)
    )
    return contents


async def letters_now(brokers: Brokers | str, topic: str) -> Contents:
    """What a read-committed reader finds from the start to the current end."""
    reader, _ = await reader_of(brokers, topic)
    return await read_contents(reader, await reader.ends("read_committed"))


async def whole(brokers: Brokers | str, letter: Letter) -> DeadLetter:
    """The letter with its original bytes. Raises Gone when its retention ran out meanwhile."""
    reader, _ = await reader_of(brokers, letter.lies_at.topic)
    async with aclosing(_records_of(reader, [letter])) as records:
        async for record in records:
            found = read_dead_letter(record.key, record.value, record.headers)
            if isinstance(found, DeadLetter):
                original = (await _left_behind(brokers, [letter])).get(letter.id)
                if original is None:
                    return found
                headers = found.headers if original.headers is None else _kept(original.headers)
                return found.model_copy(update={"key": original.key, "value": original.value, "headers": headers})
    raise Gone(f"the dead letter {letter.id} is no longer on {letter.lies_at.topic}: its retention is over")


async def _records_of(reader: Reader, letters: Sequence[Letter]) -> AsyncGenerator[Record]:
    """The records of these letters, in the order of the log; reads no further than the last of them."""
    wanted = {letter.lies_at for letter in letters}
    starts: dict[TopicPartition, int] = {}
    ends = dict.fromkeys(reader.partitions, 0)
    for topic, partition, offset in wanted:
        where = TopicPartition(topic, partition)
        starts[where] = min(offset, starts.get(where, offset))
        ends[where] = max(offset + 1, ends[where])
    async for record in reader.read(ends, starts):
        if Position(record.topic, record.partition, record.offset) in wanted:
            yield record


class Original(NamedTuple):
    """What a letter left on its own topic. `headers` None: the letter has them."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None


async def _left_behind(brokers: Brokers | str, letters: Iterable[Letter]) -> dict[str, Original]:
    """By id, what letters have left on their own topics: what was too large, and what came in clear to the inbox.

    Raises Gone for one whose original is gone, or is too large to be read here.
    """
    by_topic: dict[str, list[Letter]] = {}
    for each in letters:
        if each.is_incomplete:
            by_topic.setdefault(each.says.topic, []).append(each)
    found: dict[str, Original] = {}
    for topic, wanted in by_topic.items():
        places = {Position(topic, each.says.partition, each.says.offset): each for each in wanted}
        reader, _ = await reader_of(brokers, topic)
        ends = await reader.ends("read_committed")  # a topic that was made anew may not have come as far
        there = [replace(each, lies_at=at) for at, each in places.items() if at.offset < ends.get(_part(at), 0)]
        async with aclosing(_records_of(reader, there)) as records:
            async for record in records:
                letter = places[Position(record.topic, record.partition, record.offset)]
                found[letter.id] = _original(letter, record)
        for letter in wanted:
            if letter.id not in found:
                raise Gone(_why_gone(letter))
    return found


def _original(letter: Letter, record: Record) -> Original:
    """Raises Gone when the record is not the one that the letter is about, or is too large to be read here."""
    says, value = letter.says, record.value
    if isinstance(value, Omitted):
        raise Gone(
            f"the record of the dead letter {letter.id} has a value of {value.size} bytes, which is more than is read"
            f" here. Kafka's own tools read it: kafka-console-consumer.sh --topic {says.topic} --partition"
            f" {says.partition} --offset {says.offset} --max-messages 1"
        )
    if says.value_sha256 is not None and sha256(value or b"").hexdigest() != says.value_sha256:
        raise Gone(
            f"the record at {letter.id} is not the one that the dead letter is about: its topic was created again"
        )
    return Original(record.key, value, None if says.headers_left_out is None else tuple(record.headers))


def _why_gone(letter: Letter) -> str:
    what = f"the record of the dead letter {letter.id} is gone"
    if letter.says.topic == ORDER_INBOX.name:
        return f"{what}: {ORDER_INBOX.name} keeps records in clear for {ORDER_INBOX.retention_ms // DAY_MS} days"
    return f"{what}: it was too large for the letter, and {letter.says.topic} no longer has it"


def _part(position: Position) -> TopicPartition:
    return TopicPartition(position.topic, position.partition)


@dataclass
class Outcome:
    """Ids that this redrive sent back, and chosen ones that had been sent back before."""

    redriven: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    #: Sent in a commit that was not answered: the next look at the markers tells.
    in_doubt: set[str] = field(default_factory=set)


async def redrive(
    brokers: Brokers | str,
    app_id: str,
    topic: str,
    choose: Callable[[Letter], bool],
    sent: Callable[[int, int], None] = lambda done, total: None,
    edited: Mapping[str, bytes] | None = None,
) -> Outcome:
    """Send chosen letters back to where they came from, each once, however many redrives run and wherever they die.

    1. Taking the transactional id `<app id>-redrive` fences every other redrive and resolves its open transaction.
    2. All that was written until then is read: markers name what was redriven. A marker may stand behind an open
       transaction of a worker, so the reader waits for the high watermark and not only for the last stable offset.
    3. The records and their markers are committed in one transaction. An overtaken redrive starts again at 1.

    `edited`: by id, the value that goes back in place of the original. Raises Gone, HiddenByTransaction, Fenced or
    OutcomeUnknown (when it was overtaken too often).
    """
    outcome = Outcome()
    for attempt in range(1, ATTEMPTS + 1):
        transactions = KafkaTransactions(_settings(brokers, app_id), f"{app_id}-redrive")
        try:
            await transactions.start()
            reader, counts = await reader_of(brokers, topic)
            contents = await read_contents(reader, await reader.ends("read_uncommitted"))
            await _send_back(
                transactions,
                reader,
                counts,
                [each for each in contents.letters if choose(each)],
                outcome,
                sent,
                edited or {},
            )
            return outcome
        except (Fenced, OutcomeUnknown):
            if attempt == ATTEMPTS:
                raise
            await _give_way(attempt)
        finally:
            await transactions.stop()
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _give_way(attempt: int) -> None:
    """Longer each time and never as long as the other's, so that one of two gets through."""
    await asyncio.sleep(random.uniform(0.3, 1.0) * attempt)


async def _send_back(
    transactions: KafkaTransactions,
    reader: Reader,
    counts: Mapping[str, int],
    chosen: Sequence[Letter],
    outcome: Outcome,
    sent: Callable[[int, int], None],
    edited: Mapping[str, bytes],
) -> None:
    marked = {letter.id for letter in chosen if letter.redriven}
    outcome.redriven += sorted(outcome.in_doubt & marked)
    outcome.in_doubt.clear()
    outcome.already = sorted(marked - set(outcome.redriven))
    pending = {letter.lies_at: letter for letter in chosen if not letter.redriven}
    total = len(outcome.redriven) + len(pending)
    gone = sorted({letter.says.topic for letter in pending.values()} - set(counts))
    if gone:
        raise Gone(f"letters of {', '.join(gone)} cannot go back: no such topic. Create it, or choose others")
    left_behind = await _left_behind(reader.brokers, [each for each in pending.values() if each.id not in edited])
    async with aclosing(_records_of(reader, list(pending.values()))) as records:
        async for chunk in _chunks(records):
            letters = [pending[Position(record.topic, record.partition, record.offset)] for record in chunk]
            ids = [letter.id for letter in letters]
            outcome.in_doubt.update(ids)
            await transactions.begin()
            await transactions.send(_outgoing(zip(letters, chunk, strict=True), counts, left_behind, edited))
            await transactions.commit()
            outcome.in_doubt.clear()
            outcome.redriven += ids
            sent(len(outcome.redriven), total)


async def _chunks(records: AsyncIterator[Record]) -> AsyncIterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    async for record in records:
        chunk.append(record)
        size += len(record.value or b"")
        if len(chunk) >= MAX_RECORDS or size >= MAX_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _outgoing(
    letters: Iterable[tuple[Letter, Record]],
    counts: Mapping[str, int],
    left_behind: Mapping[str, Original],
    edited: Mapping[str, bytes],
) -> dict[TopicPartition, list[Outgoing]]:
    """For each letter its record, back to the partition it came from, and the marker that it was sent."""
    now = int(time.time() * 1000)
    outgoing: dict[TopicPartition, list[Outgoing]] = {}
    for letter, record in letters:
        key, value, headers = left_behind.get(letter.id, (record.key, record.value, None))
        headers = record.headers if headers is None else headers
        back = Outgoing(now, key, edited.get(letter.id, value), headers_back(headers, letter.says))
        outgoing.setdefault(home_of(letter.says, counts[letter.says.topic]), []).append(back)
        name, id_ = letter.lies_at.topic, letter.id.encode()
        marker = Outgoing(now, id_, b"{}", [(REDRIVEN, id_)])
        outgoing.setdefault(TopicPartition(name, partition_for(id_, counts[name])), []).append(marker)
    return outgoing


def headers_back(headers: Sequence[tuple[str, bytes | None]], says: DeadLetter) -> list[tuple[str, bytes]]:
    """The original's, and which attempt this is."""
    return [*_kept(headers), (ATTEMPT, b"%d" % (says.attempt + 1))]  # type: ignore[list-item]  # may have no value


def _kept(headers: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX))


def home_of(says: DeadLetter, partitions: int) -> TopicPartition:
    """Where it was; a topic that was re-created with fewer partitions takes it by its key."""
    partition = says.partition
    if partition >= partitions:
        partition = partition_for(says.key, partitions) if says.key is not None else 0
    return TopicPartition(says.topic, partition)


def _settings(brokers: Brokers | str, app_id: str) -> EngineSettings:
    """A redrive keeps no state; its transaction, should it die, must not hold readers up for long."""
    where = as_brokers(brokers)
    return EngineSettings(
        app_id=app_id,
        bootstrap=where.addresses,
        security=where.security,
        state_dir=Path(),
        transaction_timeout_ms=10_000,
    )
