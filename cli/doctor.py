"""this machine, the broker, topics, PostgreSQL -> one line each: ok, warning or red, and the mend of what is red."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

import aiohttp
import asyncpg
import click
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

import local
from cli.console import PATIENCE_S, Operator, Unreachable, json_option, put_json
from local.kafka import MINIMUM_JAVA, find_java, java_major
from local.ports import holder, is_free
from streams import admin
from streams.admin import BrokerUnreachable, NoLeader, TopicConfig, TopicsDiffer, TopicsRefused
from streams.brokers import Brokers, NotLetIn, client_options

MINIMUM_PYTHON = (3, 11)
GIB = 1 << 30
#: Kafka stops its log directory when the disk is full, so the warning comes while there is time to act.
DISK_RED, DISK_WARNING = 1 * GIB, 5 * GIB
#: Kafka's heap of 512 MiB, PostgreSQL, and one worker at work.
MEMORY_RED, MEMORY_WARNING = GIB // 4, GIB
#: Record timestamps come from several clocks; listings are sorted and deadlines fall due by them.
CLOCK_WARNING_MS, CLOCK_RED_MS = 500, 5_000
#: A commit is several round trips, so a slow one is seen in every answer.
ROUND_TRIP_WARNING_MS = 250


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    RED = "red"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `mend` says what to do; a line that is ok has none."""

    name: str
    state: State
    detail: str
    mend: str | None = None


Check = Callable[[Operator], Awaitable[Finding | Sequence[Finding]]]


@click.command()
@json_option
@click.pass_obj
def doctor(operator: Operator, as_json: bool) -> None:
    """Look at everything that a worker needs, and say how to mend what is not right.

    It makes a topic of its own for the broker's round trip, and deletes it again.

    Exit codes: 0 nothing red (warnings do not count), 1 something is red, 2 usage.
    """
    findings = operator.run(_examine(operator))
    if as_json:
        put_json(
            {
                "ok": not _red(findings),
                "checks": [
                    {"name": each.name, "state": each.state, "detail": each.detail, "mend": each.mend}
                    for each in findings
                ],
            }
        )
    else:
        for finding in findings:
            _show(finding)
    if _red(findings):
        raise click.exceptions.Exit(1)


def _red(findings: Sequence[Finding]) -> bool:
    return any(finding.state is State.RED for finding in findings)


def _show(finding: Finding) -> None:
    click.echo(f"{finding.state:<8} {finding.name:<14} {finding.detail}")
    if finding.mend:
        click.echo(f"{'':<23} -> {finding.mend}")


async def _examine(operator: Operator) -> list[Finding]:
    """In a fixed order. A check that fails in a way nobody thought of is red, and the others still run."""
    findings: list[Finding] = []
    for check in (_python, _java, _ports, _disk, _memory, _data_dir, _broker, _topics, _postgres):
        try:
            found = await check(operator)
        except Exception as error:
            name = check.__name__.removeprefix("_")
            found = Finding(name, State.RED, f"{type(error).__name__}: {error}", "This check itself failed: report it.")
        findings += [found] if isinstance(found, Finding) else found
    return findings


# -- this machine -----------------------------------------------------------------------------------------------------


async def _python(operator: Operator) -> Finding:
    shown = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        return Finding("python", State.RED, shown, f"Python {wanted} or later is needed.")
    return Finding("python", State.OK, shown)


async def _java(operator: Operator) -> Finding:
    if operator.settings.kafka:
        return Finding("java", State.OK, "not needed: ORDERSTREAM_KAFKA names brokers")
    try:
        java = find_java()
    except local.LocalError as error:
        return Finding("java", State.RED, f"none of version {MINIMUM_JAVA} or later", str(error))
    return Finding("java", State.OK, f"{java_major(java)} ({java})")


async def _ports(operator: Operator) -> list[Finding]:
    """The web port, and those of the embedded stack while it is not up (then it holds them itself)."""
    settings = operator.settings
    found = [await _web_port(operator)]
    if local.running(settings.data_dir) is None:
        wanted = [("kafka", settings.kafka_port)] if settings.kafka is None else []
        wanted += [("postgres", settings.postgres_port)] if settings.postgres is None else []
        found += [_port(name, port) for name, port in wanted]
    return found


async def _web_port(operator: Operator) -> Finding:
    port = operator.settings.web_port
    if is_free(port):
        return Finding("web port", State.OK, f"{port} is free: no worker runs on it")
    try:
        patience = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(timeout=patience) as session,
            session.get(f"{operator.web_url}/health/live") as answer,
        ):
            if answer.status == 200 and "json" in answer.content_type:
                return Finding("web port", State.OK, f"{port}: a worker answers at {operator.web_url}")
    except (aiohttp.ClientError, TimeoutError):
        pass
    return _port("web", port)


def _port(name: str, port: int) -> Finding:
    if is_free(port):
        return Finding(f"{name} port", State.OK, f"{port} is free")
    who = holder(port) or "a process that this user may not see"
    mend = f"Stop it, or set ORDERSTREAM_{name.upper()}_PORT to a free port."
    return Finding(f"{name} port", State.RED, f"{port} is taken by {who}", mend)


async def _disk(operator: Operator) -> Finding:
    place = _existing(operator.settings.data_dir)
    usage = shutil.disk_usage(place)
    detail = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} at {place}"
    mend = "Free space there, or set ORDERSTREAM_DATA_DIR to a larger disk. Kafka stops when its disk is full."
    return _graded("disk", usage.free, DISK_RED, DISK_WARNING, detail, mend)


async def _memory(operator: Operator) -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} GiB available of {memory.total / GIB:.1f}"
    mend = "Stop something. The embedded stack takes about 0.6 GiB, each worker 0.2 GiB and more under load."
    return _graded("memory", memory.available, MEMORY_RED, MEMORY_WARNING, detail, mend)


def _graded(name: str, amount: float, red: float, warning: float, detail: str, mend: str) -> Finding:
    """More is better."""
    if amount >= warning:
        return Finding(name, State.OK, detail)
    return Finding(name, State.RED if amount < red else State.WARNING, detail, mend)


async def _data_dir(operator: Operator) -> Finding:
    directory = operator.settings.data_dir.absolute()
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(directory), prefix=".doctor-") as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        mend = "Make it writable for this user, or set ORDERSTREAM_DATA_DIR to a directory that is."
        return Finding("data dir", State.RED, f"{directory} cannot be written: {error.strerror}", mend)
    return Finding(
        "data dir", State.OK, f"{directory} can be written" + ("" if directory.exists() else " (made at start)")
    )


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


# -- what it talks to -------------------------------------------------------------------------------------------------


async def _broker(operator: Operator) -> list[Finding]:
    """One record to a topic of the check's own and back: it shows the round trip, the rights and the broker's clock."""
    brokers = operator.brokers
    name = f"{operator.app_id}-doctor-{uuid4().hex[:8]}"
    topic = TopicConfig(name, 1, 1, {"message.timestamp.type": "LogAppendTime", "retention.ms": "60000"})
    try:
        async with asyncio.timeout(PATIENCE_S * 3), _topic_for_a_moment(brokers, topic):
            round_trip_ms, ahead_ms = await _round_trip(brokers, name)
    except BrokerUnreachable as error:
        return [Finding("broker", State.RED, str(error), local.no_broker(operator.settings))]
    except NotLetIn as error:
        return [Finding("broker", State.RED, str(error), local.no_access(operator.settings))]
    except (TopicsRefused, NoLeader, KafkaError, TimeoutError) as error:
        mend = "The broker answers and refuses or stalls: look at its log, its disk, and this user's rights on it."
        return [Finding("broker", State.RED, f"{brokers}: {error or 'a record took too long'}", mend)]
    detail = f"{brokers}: a record there and back in {round_trip_ms:.0f} ms"
    mend = "The network or the broker's disk is slow; every commit waits for both."
    slow = Finding("broker", State.WARNING, detail, mend)
    return [slow if round_trip_ms > ROUND_TRIP_WARNING_MS else Finding("broker", State.OK, detail), _clock(ahead_ms)]


def _clock(ahead_ms: float) -> Finding:
    if abs(ahead_ms) < CLOCK_WARNING_MS:
        return Finding("clock", State.OK, f"the broker's differs by {abs(ahead_ms):.0f} ms")
    detail = f"the broker's is {abs(ahead_ms):.0f} ms {'ahead' if ahead_ms > 0 else 'behind'}"
    state = State.RED if abs(ahead_ms) > CLOCK_RED_MS else State.WARNING
    return Finding("clock", state, detail, "Keep both machines' clocks by NTP (chrony or systemd-timesyncd).")


@asynccontextmanager
async def _topic_for_a_moment(brokers: Brokers, topic: TopicConfig) -> AsyncIterator[None]:
    await admin.create(brokers, [topic], timeout_s=PATIENCE_S)
    try:
        yield
    finally:
        client = AIOKafkaAdminClient(**client_options(brokers), request_timeout_ms=int(PATIENCE_S * 1000))
        await client.start()
        try:
            await client.delete_topics([topic.name])
        finally:
            await client.close()


async def _round_trip(brokers: Brokers, topic: str) -> tuple[float, float]:
    """Milliseconds from a send to the same record read, and by how many the broker's clock is ahead of this one."""
    producer = AIOKafkaProducer(**client_options(brokers), acks="all")
    consumer = AIOKafkaConsumer(
        topic, **client_options(brokers), auto_offset_reset="earliest", fetch_max_wait_ms=20, enable_auto_commit=False
    )
    await producer.start()
    try:
        await consumer.start()
        await producer.send_and_wait(topic, b"first: it waits for connections and leaders")
        await consumer.getone()
        sent_at, started = time.time() * 1000, time.perf_counter()
        sent = await producer.send_and_wait(topic, b"second: it is measured")
        acknowledged_at = time.time() * 1000
        await consumer.getone()
        return (time.perf_counter() - started) * 1000, sent.timestamp - (sent_at + acknowledged_at) / 2
    finally:
        await consumer.stop()
        await producer.stop()


async def _topics(operator: Operator) -> Finding | list[Finding]:
    wanted = operator.app.required_topics()
    try:
        await admin.check(operator.brokers, wanted, timeout_s=PATIENCE_S)
    except BrokerUnreachable:
        return Finding("topics", State.RED, "not known: no broker answers", local.no_broker(operator.settings))
    except NotLetIn as error:
        return Finding("topics", State.RED, f"not known: {error}", local.no_access(operator.settings))
    except TopicsDiffer as error:
        mend = f"`{admin.MEND}`; `faust -A app topics plan` shows each."
        return Finding("topics", State.RED, f"{len(error.differences)} differences from what is declared", mend)
    except (NoLeader, TopicsRefused) as error:
        return Finding("topics", State.RED, str(error), "Start every broker of the cluster.")
    found = Finding("topics", State.OK, f"{len(wanted)} are as declared, and every partition has a leader")
    risks = await admin.risks(operator.brokers, wanted, timeout_s=PATIENCE_S)
    return [found, *(Finding("durability", State.WARNING, *_split(risk)) for risk in risks)]


def _split(risk: str) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    what, _, mend = risk.partition(". ")
    return what, mend


async def _postgres(operator: Operator) -> Finding:
    settings = operator.settings
    if not settings.sink:
        return Finding("postgres", State.OK, "not needed: ORDERSTREAM_SINK is off")
    try:
        dsn, place = operator.postgres(), operator.postgres_place()
    except Unreachable:
        return Finding("postgres", State.RED, "none is up", local.no_postgres(operator.settings))
    started = time.perf_counter()
    try:
        connection = await asyncpg.connect(dsn, timeout=PATIENCE_S)
        try:
            version = await connection.fetchval("SHOW server_version", timeout=PATIENCE_S)
        finally:
            await connection.close(timeout=PATIENCE_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, socket.gaierror) as error:
        return Finding(
            "postgres", State.RED, f"{place}: {error or type(error).__name__}", local.no_postgres(operator.settings)
        )
    taken_ms = (time.perf_counter() - started) * 1000
    return Finding("postgres", State.OK, f"{version} at {place}, connected and asked in {taken_ms:.0f} ms")
