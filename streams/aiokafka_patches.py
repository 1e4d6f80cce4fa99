"""Patches of aiokafka 0.14: what its connections and clients lack on a cluster of several brokers.

`apply()` replaces methods of AIOKafkaConnection and AIOKafkaClient for this process; `streams.brokers` calls it before
any client is made. Each patch says why it is there; tests/streams/test_aiokafka_patches.py has for each one a test of
aiokafka itself that fails when a later version no longer needs it.

1. Time-outs. aiokafka waits `request_timeout_ms` (15 s here, which a rebalance needs) for everything. A broker whose
   process is frozen, or whose host is gone, takes connections and answers nothing: each client that drew it waited 15 s
   for the connection, 15 s for metadata, and so on, while Kafka itself had moved its partitions after 3 to 9 s. Here a
   connection gets CONNECT_S, and a request SILENCE_S without any byte from the broker; a request that waits for other
   brokers or members (PROBED) is given up when the broker does not answer on a new connection either.
2. Addresses that do not answer. Every client of a process tries a dead broker again for itself, 3 ms after the last
   attempt (18,099 connects in 45 s were seen). Here the process remembers the address: attempts are 50 ms apart, and
   twice as much after each failure; until then they fail at once, and another broker is asked.
3. Bootstrap again. aiokafka asks for metadata only the brokers of its last metadata; when all of them are gone it never
   finds the cluster again. Here it then asks the bootstrap addresses (Kafka's KIP-899).
4. Sessions of users. A broker with `connections.max.reauth.ms` (Kafka's KIP-368) closes connections whose login is too
   old. aiokafka does not log in again: each such close ends the requests under way. Here a connection is replaced by a
   new one before that, and is closed when its last answer is there.

Other replacements of single methods live beside their subject: streams/fetch_sessions.py, streams/membership.py,
streams/record_batches.py, and `rest_when_idle` in streams/kafka.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

log = logging.getLogger(__name__)

#: The version that these patches were written for and are tested with.
VERSION = "0.14.0"
#: Until a new connection is established, with TLS, versions and login.
CONNECT_S = 3.0
#: Without any byte from the broker while one of these requests (by API key) waits, which a broker answers by itself. A
#: large answer, or a slow line, is not silence.
SILENCE_S = {
    3: 3.0,  # Metadata
    10: 3.0,  # FindCoordinator
    1: 5.0,  # Fetch, which our clients let wait for half a second at most
    2: 5.0,  # ListOffsets
    12: 2.0,  # Heartbeat: below the session, so that the next coordinator hears of this member in time
}
#: A broker that is silent for less may only be busy: its address is not avoided for it.
MARKING_S = 3.0
#: Requests that wait for others: Produce and commits for the copies in step (9 s, while a frozen follower still counts
#: as one), JoinGroup and SyncGroup for other members. After this silence a new connection finds out whether the broker
#: lives; if it does, they have the whole request time-out.
PROBED = frozenset((0, 8, 9, 11, 13, 14, 22, 24, 25, 26, 28))
PROBE_AFTER_S = 2.0
SASL_AUTHENTICATE = 36
#: Pauses between attempts at an address that refuses, or does not answer: doubled from the first to the last.
REFUSED_S, SILENT_S = (0.05, 1.0), (1.0, 4.0)
#: An attempt that is not made fails after this, so that a caller's loop does not spin.
SKIPPED_S = 0.05
#: The part of a login's life after which its connection is replaced; by chance, so that not all are at once.
RENEW_AFTER = (0.75, 0.9)

Address = tuple[str, int]


@dataclass
class _Failure:
    count: int
    until: float
    why: str
    failed_at: float
    silent: bool


class Unreachable:
    """The addresses that did not answer this process lately. One attempt at a time finds out whether they do again."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: dict[Address, _Failure] = {}

    def skips(self, address: Address) -> str | None:
        """Why no attempt is made now; None when the caller should make one, which it then reports."""
        failure = self._failures.get(address)
        if failure is None:
            return None
        if self._now() < failure.until:
            return failure.why
        failure.until = self._now() + CONNECT_S  # others wait for what this attempt finds
        return None

    def failed(self, address: Address, why: str, *, silent: bool) -> None:
        """It refused the connection, or (`silent`) took it and did not answer."""
        first, last = SILENT_S if silent else REFUSED_S
        before = self._failures.get(address)
        count = 0 if before is None else before.count + 1
        now = self._now()
        self._failures[address] = _Failure(count, now + min(last, first * 2 ** min(count, 10)), why, now, silent)

    def reached(self, address: Address) -> None:
        """It answered, or an attempt has to be made whatever happened before."""
        self._failures.pop(address, None)

    def is_silent_since(self, address: Address, heard_at: float) -> bool:
        """Whether the address took connections or requests without an answer, after this was heard from it."""
        failure = self._failures.get(address)
        return failure is not None and failure.silent and failure.failed_at > heard_at

    def is_avoided(self, address: Address) -> bool:
        """Whether an attempt would fail at once."""
        failure = self._failures.get(address)
        return failure is not None and self._now() < failure.until


unreachable = Unreachable()
#: Connections that are replaced and still wait for an answer; nothing else refers to them.
_draining: set[AIOKafkaConnection] = set()

_connect, _send, _connected = AIOKafkaConnection.connect, AIOKafkaConnection.send, AIOKafkaConnection.connected
_handle_frame, _data_received = AIOKafkaConnection._handle_frame, AIOKafkaProtocol.data_received
_metadata_update, _random_node = AIOKafkaClient._metadata_update, AIOKafkaClient.get_random_node


def apply() -> None:
    """Put the patches in place; a second call changes nothing."""
    AIOKafkaConnection.connect = connect
    AIOKafkaConnection.send = send
    AIOKafkaConnection.connected = connected
    AIOKafkaConnection._handle_frame = handle_frame
    AIOKafkaProtocol.data_received = data_received
    AIOKafkaClient._metadata_update = metadata_update
    AIOKafkaClient.get_random_node = random_node


# -- 1 and 2: connections ----------------------------------------------------------------------------------------------


async def connect(self: AIOKafkaConnection) -> Any:
    """Within CONNECT_S, unless the address did not answer lately. Raises KafkaConnectionError and as aiokafka's."""
    address = self.host, self.port
    if (why := unreachable.skips(address)) is not None:
        await asyncio.sleep(SKIPPED_S)
        raise KafkaConnectionError(f"{self.host}:{self.port} did not answer a moment ago: {why}")
    whole = self._request_timeout
    self._request_timeout = min(whole, CONNECT_S)
    try:
        found = await _connect(self)
    except ssl.SSLError:
        raise  # it does answer
    except (OSError, KafkaConnectionError) as error:  # a TimeoutError is an OSError
        unreachable.failed(address, repr(error), silent=isinstance(error, TimeoutError))
        raise
    finally:
        self._request_timeout = whole
    unreachable.reached(address)
    return found


def data_received(self: AIOKafkaProtocol, data: bytes) -> None:
    """Note that the broker said something."""
    self.heard_at = time.monotonic()
    _data_received(self, data)


def send(self: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Coroutine[Any, Any, Any]:
    """As aiokafka's, with a limit on the broker's silence for the requests of SILENCE_S."""
    answer: Coroutine[Any, Any, Any] = _send(self, request, expect_response)
    api = getattr(request, "API_KEY", None)
    limit_s = None if api is None else SILENCE_S.get(api)
    if not expect_response or (limit_s is None and api != SASL_AUTHENTICATE and api not in PROBED):
        return answer
    if api == SASL_AUTHENTICATE:
        return _log_in(self, answer)
    answer.close()  # it waits for the future below, for as long as any request
    future = self._requests[-1][2]
    if limit_s is None:
        return _await_answer(self, future, PROBE_AFTER_S, is_probed=True)
    return _await_answer(self, future, min(limit_s, self._request_timeout))


async def _await_answer(
    connection: AIOKafkaConnection, future: asyncio.Future[Any], limit_s: float, *, is_probed: bool = False
) -> Any:
    """Raises TimeoutError, as aiokafka's wait does, and closes the connection: a frozen broker's answers are late."""
    address = connection.host, connection.port
    sent_at = alive_at = time.monotonic()
    deadline = sent_at + connection._request_timeout
    try:
        while True:
            heard_at = max(alive_at, getattr(connection._protocol, "heard_at", sent_at))
            wait_s = min(deadline, heard_at + limit_s) - time.monotonic()
            if wait_s > 0:
                await asyncio.wait([future], timeout=wait_s)
            elif is_probed and time.monotonic() < deadline and await _is_alive(connection, heard_at):
                alive_at = time.monotonic()
            elif not future.done():
                raise TimeoutError
            if future.done():
                return future.result()
    except TimeoutError:
        future.cancel()
        if not is_probed and limit_s >= MARKING_S:
            unreachable.failed(address, f"silent for {limit_s:g} s", silent=True)
        connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
        raise
    except asyncio.CancelledError:
        future.cancel()
        raise


async def _is_alive(connection: AIOKafkaConnection, heard_at: float) -> bool:
    """Whether the broker answers on a new connection; what another client has just found out is not asked again."""
    address = connection.host, connection.port
    if unreachable.is_avoided(address):
        return not unreachable.is_silent_since(address, heard_at)
    try:
        probe = await create_conn(connection.host, connection.port, **_options(connection))
    except (OSError, KafkaError):
        return not unreachable.is_silent_since(address, heard_at)
    probe.close()
    return True


def _options(client: Any) -> dict[str, Any]:
    """What a connection like this one, or like those of this client, is made with."""
    return {
        "client_id": client._client_id,
        "ssl_context": client._ssl_context,
        "security_protocol": client._security_protocol,
        "sasl_mechanism": client._sasl_mechanism,
        "sasl_plain_username": client._sasl_plain_username,
        "sasl_plain_password": client._sasl_plain_password,
    }


# -- 3: metadata -------------------------------------------------------------------------------------------------------


def random_node(self: AIOKafkaClient) -> Any:
    """One that answered lately, if there is any."""
    brokers = [broker for broker in self.cluster.brokers() if not unreachable.is_avoided((broker.host, broker.port))]
    return random.choice(brokers).nodeId if brokers else _random_node(self)


async def metadata_update(self: AIOKafkaClient, cluster: Any, topics: Any) -> bool:
    """From the brokers of the last metadata, and when none of them answers from the bootstrap addresses."""
    if await _metadata_update(self, cluster, topics):
        return True
    known = {(broker.host, broker.port) for broker in self.cluster.brokers()}
    for host, port, _ in self.hosts:
        if (host, port) in known and unreachable.is_avoided((host, port)):
            continue
        if (metadata := await _ask_for_metadata(self, host, port, topics)) is not None and metadata.brokers:
            log.warning("no known broker answered; the cluster was found again through %s:%s", host, port)
            cluster.update_metadata(metadata)
            return True
    return False


async def _ask_for_metadata(client: AIOKafkaClient, host: str, port: int, topics: Any) -> Any:
    try:
        connection = await create_conn(host, port, request_timeout_ms=client._request_timeout_ms, **_options(client))
    except (OSError, KafkaError) as error:
        log.debug("no metadata from %s:%s: %r", host, port, error)
        return None
    try:
        return await connection.send(MetadataRequest(list(topics) if topics else None))
    except (KafkaError, TimeoutError) as error:
        log.debug("no metadata from %s:%s: %r", host, port, error)
        return None
    finally:
        connection.close()


# -- 4: logins ---------------------------------------------------------------------------------------------------------


async def _log_in(connection: AIOKafkaConnection, answer: Coroutine[Any, Any, Any]) -> Any:
    """An answer to SaslAuthenticate: its version 1 says how long the login lasts; 0 is for ever."""
    response = await answer
    lifetime_s = (getattr(response, "session_lifetime_ms", 0) or 0) / 1000
    if lifetime_s > 0:
        after_s = lifetime_s * random.uniform(*RENEW_AFTER)
        connection._renew_at = time.monotonic() + after_s
        asyncio.get_running_loop().call_later(after_s, _close_if_idle, weakref.ref(connection))
    return response


def connected(self: AIOKafkaConnection) -> bool:
    """False also for one that is to be replaced: its client then makes another one for the next request.

    And for one to a broker that was found silent since it was last heard here: no request is sent into the void.
    """
    if not _connected(self):
        return False
    if unreachable.is_silent_since((self.host, self.port), getattr(self._protocol, "heard_at", time.monotonic())):
        self.close(reason=CloseReason.CONNECTION_TIMEOUT)
        return False
    if not _is_due(self):
        return True
    _draining.add(self)
    _close_if_idle(weakref.ref(self))
    return False


def handle_frame(self: AIOKafkaConnection, response: bytes) -> None:
    """As aiokafka's; with the last answer a replaced connection ends."""
    _handle_frame(self, response)
    if _is_due(self):
        _close_if_idle(weakref.ref(self))


def _is_due(connection: AIOKafkaConnection) -> bool:
    return time.monotonic() >= getattr(connection, "_renew_at", float("inf"))


def _close_if_idle(reference: weakref.ref[AIOKafkaConnection]) -> None:
    connection = reference()
    if connection is None:
        return
    if _connected(connection) and not connection._requests:
        connection.close(reason=CloseReason.IDLE_DROP)
    if not _connected(connection):
        _draining.discard(connection)
