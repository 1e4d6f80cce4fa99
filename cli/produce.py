"""order documents from a file or the sample generator -> records on the intake topic -> how many, how fast."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any, NamedTuple

import click
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from cli.console import Found, Operator, json_option, note, progress, put_json
from schemas.orders import samples
from schemas.settings import Settings
from schemas.topics import ORDER_INBOX, ORDERS, TopicSpec
from streams import admin
from streams.admin import BrokerUnreachable
from streams.brokers import Brokers, client_options
from streams.partitioner import partition_for

#: Records on their way and not yet acknowledged: bounds memory, and is far more than one round trip takes.
IN_FLIGHT = 5_000
#: A paced run sleeps between groups of this many milliseconds' records.
PACE_MS = 20


class Outgoing(NamedTuple):
    """One record to send; no key means that the document has no order_uid that could be one."""

    key: bytes | None
    value: bytes


@dataclass
class Summary:
    """What a run did. `failed` counts what was not acknowledged (too large, no answer), by reason."""

    topic: str
    sent: int = 0
    bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        rate = self.sent / self.seconds if self.seconds else 0.0
        return {
            "topic": self.topic,
            "sent": self.sent,
            "bytes": self.bytes,
            "failed": dict(self.failed),
            "seconds": round(self.seconds, 3),
            "records_per_s": round(rate, 1),
            "offsets": {
                str(partition): [self.first[partition], self.last[partition]] for partition in sorted(self.last)
            },
        }


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--count", type=click.IntRange(min=1), help="Generate this many sample orders instead of reading a file.")
@click.option("--seed", type=int, help="Generated: the same seed gives the same orders. Without: new ones each time.")
@click.option(
    "--invalid-percent",
    type=click.FloatRange(0, 100),
    default=0.0,
    help="Generated: about this share is poison, for the dead letters.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Records per second; as fast as it goes without."
)
@click.option(
    "--partition-by",
    type=click.Choice(["key", "no-key", "random"]),
    default="key",
    show_default=True,
    help="key: order_uid, Kafka's murmur2. no-key: no key, any partition. random: with the key, on any partition.",
)
@click.option("--lines", is_flag=True, help="FILE: every line is one record, whatever it holds.")
@click.option("--dry-run", is_flag=True, help="Print the documents, one per line, and send nothing.")
@json_option
@click.pass_obj
def produce(
    operator: Operator,
    file: IO[bytes] | None,
    count: int | None,
    seed: int | None,
    invalid_percent: float,
    rate: float | None,
    partition_by: str,
    lines: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put orders on the intake topic: FILE's (JSON lines, one JSON document or an array; - reads a pipe), or made ones.

    That is orders, or orders.inbox.v1 where they are sealed. Nothing is checked here: the intake does that, and what it
    refuses is in `dead-letters list`.

    Exit codes: 0 all acknowledged, 1 some were not, 2 usage, 3 no broker answers.
    """
    if (file is None) == (count is None):
        raise click.UsageError("Name either a FILE or --count N.")
    if seed is None:
        seed = secrets.randbelow(10**6)
    records = read_documents(file, lines) if file is not None else generated(count or 0, seed, invalid_percent)
    if dry_run:
        _print_only(records, as_json)
        return
    choose, topic = _partitions(partition_by, seed), intake_of(operator.settings).name
    with progress("producing", _length(file) if file is not None else count or 0) as bar:

        def advance(record: Outgoing) -> None:
            bar.update(1 if file is None else len(record.value) + 1)

        summary = operator.run(_send(operator.brokers, topic, records, choose, rate, advance))
    if as_json:
        put_json({**summary.row(), "seed": seed if file is None else None})
    else:
        records_sent = f"{summary.sent:,} record{'' if summary.sent == 1 else 's'} ({summary.bytes:,} bytes)"
        rate_shown = f"{summary.row()['records_per_s']:,.0f}/s"
        click.echo(f"{records_sent} to {summary.topic} in {summary.seconds:.2f} s: {rate_shown}")
        if file is None:
            note(f"--seed {seed} gives the same orders again.")
        note("They are not checked here: the intake does, and `faust -A app dead-letters list` has what it refused.")
    if summary.failed:
        reasons = ", ".join(f"{number} x {reason}" for reason, number in summary.failed.items())
        raise Found(f"{summary.failed.total()} records were not acknowledged: {reasons}.")


def intake_of(settings: Settings) -> TopicSpec:
    """Where producers send orders to."""
    return ORDER_INBOX if settings.seal else ORDERS


def _length(file: IO[bytes]) -> int:
    """Bytes of a file, for the bar; a pipe's are not known."""
    return os.fstat(file.fileno()).st_size


def generated(count: int, seed: int, invalid_percent: float) -> Iterator[Outgoing]:
    """Sample orders; the chance that one is spoilt is drawn from the same seed."""
    chance = random.Random(f"{seed} spoil")
    for document in samples.orders(count, seed=seed):
        spoilt = chance.random() * 100 < invalid_percent
        value = samples.spoil(document, chance) if spoilt else orjson.dumps(document)
        yield Outgoing(str(document["order_uid"]).encode(), value)


def read_documents(file: IO[bytes], lines: bool) -> Iterator[Outgoing]:
    """JSON lines as they are, one at a time; or a whole file that is one document or an array of them.

    Which of them it is shows in the first line, at once: a file with nothing to send is a usage error before anything
    is connected.
    """
    first = next((line for line in file if line.strip()), b"")
    if not first:
        raise click.UsageError("The file is empty: there is nothing to send.")
    if lines or _is_json(first):
        return _from_lines(chain([first], file))
    whole = first + file.read()
    if not _is_json(whole):
        raise click.UsageError(
            f"The file is neither JSON nor JSON lines: {_fault(whole)}. "
            "With --lines every line is sent, whatever it holds."
        )
    return _documents(whole.strip())


def _from_lines(lines: Iterable[bytes]) -> Iterator[Outgoing]:
    for line in lines:
        if line.strip():
            yield from _documents(line.strip())


def _is_json(raw: bytes) -> bool:
    return _fault(raw) is None


def _fault(raw: bytes) -> str | None:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return str(error)
    return None


def _documents(raw: bytes) -> Iterator[Outgoing]:
    """The document with its bytes as they are; an array's elements each on their own. What is no JSON has no key."""
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        yield Outgoing(None, raw)
        return
    if isinstance(parsed, list):
        for element in parsed:
            yield Outgoing(_key(element), orjson.dumps(element))
    else:
        yield Outgoing(_key(parsed), raw)


def _key(document: Any) -> bytes | None:
    uid = document.get("order_uid") if isinstance(document, dict) else None
    return uid.encode() if isinstance(uid, str) and uid else None


def _print_only(records: Iterable[Outgoing], as_json: bool) -> None:
    count = 0
    for record in records:
        count += 1
        if not as_json:
            click.echo(record.value.replace(b"\n", b" "))
    if as_json:
        put_json({"topic": ORDERS.name, "sent": 0, "would_send": count, "dry_run": True})


Choose = Callable[[Outgoing, int], tuple[bytes | None, int]]


def _partitions(by: str, seed: int) -> Choose:
    """The key and partition for a record, given how many partitions there are."""
    chance = random.Random(f"{seed} partition")

    def choose(record: Outgoing, partitions: int) -> tuple[bytes | None, int]:
        key = None if by == "no-key" else record.key
        if by == "key" and key is not None:
            return key, partition_for(key, partitions)
        return key, chance.randrange(partitions)

    return choose


async def _send(
    brokers: Brokers,
    topic: str,
    records: Iterable[Outgoing],
    choose: Choose,
    rate: float | None,
    advance: Callable[[Outgoing], None],
) -> Summary:
    partitions = (await admin.partition_counts(brokers)).get(topic)
    if partitions is None:
        raise Found(f"There is no topic {topic} on {brokers}; `{admin.MEND}` creates it.")
    summary = Summary(topic)
    room = asyncio.Semaphore(IN_FLIGHT)
    started = time.perf_counter()
    async with _producer(brokers) as producer:
        async for record in _paced(records, rate):
            await room.acquire()
            key, partition = choose(record, partitions)
            try:
                future = await producer.send(topic, record.value, key, partition)
            except KafkaError as error:
                room.release()
                _settle(summary, record, error)
                continue
            future.add_done_callback(_when_done(summary, record, room, advance))
        await producer.flush()
        for _ in range(IN_FLIGHT):  # every record in flight has given its place back: none is forgotten
            await room.acquire()
    summary.seconds = time.perf_counter() - started
    return summary


def _when_done(
    summary: Summary, record: Outgoing, room: asyncio.Semaphore, advance: Callable[[Outgoing], None]
) -> Callable[[asyncio.Future[Any]], None]:
    def done(future: asyncio.Future[Any]) -> None:
        room.release()
        advance(record)
        error = future.exception()
        _settle(summary, record, error if error is not None else future.result())

    return done


def _settle(summary: Summary, record: Outgoing, result: Any) -> None:
    if isinstance(result, BaseException):
        summary.failed[type(result).__name__] += 1
        return
    summary.sent += 1
    summary.bytes += len(record.value)
    summary.first[result.partition] = min(result.offset, summary.first.get(result.partition, result.offset))
    summary.last[result.partition] = max(result.offset, summary.last.get(result.partition, result.offset))


@asynccontextmanager
async def _producer(brokers: Brokers) -> AsyncIterator[AIOKafkaProducer]:
    """Idempotent and acknowledged by all replicas; sends are joined for 5 ms, which is what makes it fast."""
    producer = AIOKafkaProducer(
        **client_options(brokers), acks="all", enable_idempotence=True, linger_ms=5, max_batch_size=256 << 10
    )
    try:
        await producer.start()
    except KafkaError as error:
        await producer.stop()
        raise BrokerUnreachable(brokers, str(error)) from error
    try:
        yield producer
    finally:
        await producer.stop()


async def _paced(records: Iterable[Outgoing], rate: float | None) -> AsyncIterator[Outgoing]:
    """At most `rate` a second on average since the start, so that one slow moment is made up for."""
    started = time.perf_counter()
    for yielded, record in enumerate(records):
        if rate is not None:
            ahead_s = yielded / rate - (time.perf_counter() - started)
            if ahead_s * 1000 > PACE_MS or (ahead_s > 0 and rate < 1000 / PACE_MS):
                await asyncio.sleep(ahead_s)
        yield record
