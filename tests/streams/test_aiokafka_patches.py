"""The patches of aiokafka against brokers that are silent, slow, gone, or want a new login.

The tests named `test_aiokafka_...` are about aiokafka alone: one that fails says that its patch is no longer needed, or
has to be looked at again, with the version of aiokafka that is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiokafka
import aiokafka.conn
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import BrokerMetadata

from streams import aiokafka_patches as patches
from streams.aiokafka_patches import Unreachable
from tests.processes import RunningStack

#: Longer than any wait that should not happen; shorter than a person's patience with a test that hangs.
HANG_S = 60.0
METADATA, VERSIONS = 3, 18
#: A metadata answer, version 0: no brokers, no topics.
NOTHING = struct.pack(">ii", 0, 0)


class Broker:
    """A listener that answers ApiVersions, and other requests as it is told."""

    def __init__(self) -> None:
        self.answers: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]] | None = None
        self.says_versions = True
        self.connections = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                api, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                head = struct.pack(">i", correlation)
                if api == VERSIONS and self.says_versions:
                    body = head + struct.pack(">hi", 0, 2) + struct.pack(">hhhhhh", METADATA, 0, 0, VERSIONS, 0, 0)
                    writer.write(struct.pack(">i", len(body)) + body)
                elif api != VERSIONS and self.answers is not None:
                    body = head + NOTHING
                    await self.answers(writer, struct.pack(">i", len(body)) + body)

    async def connect(self, request_timeout_ms: int = 120_000) -> AIOKafkaConnection:
        return await aiokafka.conn.create_conn("127.0.0.1", self.port, request_timeout_ms=request_timeout_ms)


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    patches.apply()
    monkeypatch.setattr(patches, "unreachable", Unreachable())
    made = Broker()
    await made.start()
    yield made
    made.server.close()


# -- when they are no longer needed ------------------------------------------------------------------------------------


def test_aiokafka_is_the_version_that_is_patched() -> None:
    """Read what has changed in aiokafka/conn.py and aiokafka/client.py, then the tests below, then set VERSION."""
    assert aiokafka.__version__ == patches.VERSION


def test_aiokafka_has_one_time_out_for_everything() -> None:
    """Patches 1 and 2: once it has a time-out for connecting, or a back-off, use those."""
    known = inspect.signature(aiokafka.conn.create_conn).parameters
    assert [name for name in known if "timeout" in name or "backoff" in name] == ["request_timeout_ms"]


def test_aiokafka_knows_nothing_of_sessions_of_users() -> None:
    """Patch 4: once it reads session_lifetime_ms (KIP-368), it logs in again by itself."""
    assert "session_lifetime" not in inspect.getsource(aiokafka.conn)


async def test_aiokafka_does_not_go_back_to_the_bootstrap_addresses(stack: RunningStack) -> None:
    """Patch 3: once this is True, it does."""
    async with lost_client(stack) as client:
        assert not await patches._metadata_update(client, client.cluster, [])


@contextlib.asynccontextmanager
async def lost_client(stack: RunningStack) -> AsyncIterator[AIOKafkaClient]:
    """A client whose last metadata names one broker, at an address where none listens any more."""
    client = AIOKafkaClient(bootstrap_servers=stack.kafka)
    await client.bootstrap()
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # taken, and nobody listens
        client.cluster._brokers = {99: BrokerMetadata(99, "127.0.0.1", gone.getsockname()[1], None)}
        try:
            yield client
        finally:
            await client.close()


# -- what they do ------------------------------------------------------------------------------------------------------


async def test_a_broker_that_takes_a_connection_and_says_nothing_is_given_up(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "CONNECT_S", 0.05)
    broker.says_versions = False
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await broker.connect()
    assert time.monotonic() - began < HANG_S, "its request time-out is 120 s"


async def test_silence_ends_a_request_and_its_connection(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(patches.SILENCE_S, METADATA, 0.05)
    monkeypatch.setattr(patches, "MARKING_S", 0.05)
    connection, other = await broker.connect(), await broker.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(HANG_S):
            await connection.send(MetadataRequest([]))
    assert not connection.connected()
    assert patches.unreachable.is_avoided(("127.0.0.1", broker.port))
    assert not other.connected(), "other clients send nothing there, either"


async def test_a_request_that_waits_for_others_is_kept_while_the_broker_lives(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Produce does for copies, and JoinGroup for members: probed again and again, and answered at last."""
    monkeypatch.delitem(patches.SILENCE_S, METADATA)
    monkeypatch.setattr(patches, "PROBED", {METADATA})
    monkeypatch.setattr(patches, "PROBE_AFTER_S", 0.05)

    async def late(writer: asyncio.StreamWriter, frame: bytes) -> None:
        async with asyncio.timeout(HANG_S):
            while broker.connections < 4:  # noqa: ASYNC110  # the server counts in another task
                await asyncio.sleep(0.01)
        writer.write(frame)

    broker.answers = late
    connection = await broker.connect()
    assert (await connection.send(MetadataRequest([]))).brokers == []
    connection.close()


async def test_a_request_that_waits_for_others_is_given_up_with_a_broker_that_says_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(patches.SILENCE_S, METADATA)
    monkeypatch.setattr(patches, "PROBED", {METADATA})
    monkeypatch.setattr(patches, "PROBE_AFTER_S", 0.05)
    connection = await broker.connect()
    broker.says_versions = False
    monkeypatch.setattr(patches, "CONNECT_S", 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(HANG_S):
            await connection.send(MetadataRequest([]))
    assert not connection.connected()


async def test_a_slow_answer_is_not_silence(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte it takes longer than the silence that is allowed."""
    monkeypatch.setitem(patches.SILENCE_S, METADATA, 1.0)

    async def slowly(writer: asyncio.StreamWriter, frame: bytes) -> None:
        for byte in frame:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.1)

    broker.answers = slowly
    connection = await broker.connect()
    began = time.monotonic()
    assert (await connection.send(MetadataRequest([]))).brokers == []
    assert time.monotonic() - began > 1.0
    connection.close()


async def test_who_was_busy_itself_takes_the_answer_that_is_there(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop was held up longer than the silence that is allowed, and the answer came meanwhile."""
    monkeypatch.setitem(patches.SILENCE_S, METADATA, 0.2)

    async def at_once(writer: asyncio.StreamWriter, frame: bytes) -> None:
        writer.write(frame)
        await writer.drain()
        time.sleep(0.5)  # noqa: ASYNC251  # this very loop is held up

    broker.answers = at_once
    connection = await broker.connect()
    assert (await connection.send(MetadataRequest([]))).brokers == []
    connection.close()


async def test_an_address_that_refuses_is_not_asked_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    patches.apply()
    monkeypatch.setattr(patches, "REFUSED_S", (HANG_S, HANG_S))
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await aiokafka.conn.create_conn(*address)
        with pytest.raises(KafkaConnectionError, match="did not answer a moment ago"):
            await aiokafka.conn.create_conn(*address)
    patches.unreachable.reached(address)


def test_pauses_double_up_to_a_bound_and_one_attempt_finds_out() -> None:
    now = 100.0
    places = Unreachable(lambda: now)
    here, there = ("a", 1), ("b", 1)
    pauses = []
    for _ in range(8):
        assert places.skips(here) is None
        places.failed(here, "refused", silent=False)
        until = places._failures[here].until
        pauses.append(round(until - now, 3))
        now = until
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert places.skips(there) is None
    assert places.skips(here) is None, "the time is over: this one tries"
    assert places.skips(here) == "refused", "and the others wait for what it finds"
    places.reached(here)
    assert places.skips(here) is None and not places.is_avoided(here)


async def test_lost_metadata_are_found_again_through_the_bootstrap_addresses(stack: RunningStack) -> None:
    patches.apply()
    async with lost_client(stack) as client:
        assert await client._metadata_update(client.cluster, [])
        assert {broker.port for broker in client.cluster.brokers()} == {stack.broker.port}


async def test_a_node_that_did_not_answer_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    patches.apply()
    monkeypatch.setattr(patches, "unreachable", Unreachable())
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    client.cluster._brokers = {n: BrokerMetadata(n, "127.0.0.1", n, None) for n in (1, 2)}
    patches.unreachable.failed(("127.0.0.1", 1), "silent", silent=True)
    assert {client.get_random_node() for _ in range(50)} == {2}
    patches.unreachable.failed(("127.0.0.1", 2), "silent", silent=True)
    assert client.get_random_node() in {1, 2}, "better a silent one than none"


async def test_a_connection_whose_login_ends_is_replaced_when_it_is_idle(broker: Broker) -> None:
    connection = await broker.connect()
    assert connection.connected()
    connection._renew_at = time.monotonic()
    assert not connection.connected(), "its client makes another one"
    assert connection._reader is None, "and this one is closed"
    assert connection not in patches._draining


async def test_a_replaced_connection_waits_for_its_last_answer(broker: Broker) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def when_told(writer: asyncio.StreamWriter, frame: bytes) -> None:
        asked.set()
        await may_answer.wait()
        writer.write(frame)

    broker.answers = when_told
    connection = await broker.connect()
    waiting = asyncio.create_task(connection.send(MetadataRequest([])))
    await asyncio.wait_for(asked.wait(), HANG_S)
    connection._renew_at = time.monotonic()
    assert not connection.connected() and connection in patches._draining
    may_answer.set()
    assert (await asyncio.wait_for(waiting, HANG_S)).brokers == []
    assert connection._reader is None and connection not in patches._draining


async def test_the_lifetime_of_a_login_is_read_from_its_answer(broker: Broker) -> None:
    connection = await broker.connect()

    async def answer() -> Any:
        return type("Answer", (), {"session_lifetime_ms": 100_000})

    await patches._log_in(connection, answer())
    assert connection._renew_at - time.monotonic() + 1 >= 75 and connection._renew_at - time.monotonic() <= 90
    connection.close()
