"""Sends the group's heartbeats from a thread of its own while the worker's event loop is busy.

A worker's agents, its garbage collection and its store run on one event loop. While one of them takes the loop for
longer than a session (6 s), the loop sends no heartbeat, the group gives the worker's partitions to others, and the
same record then does the same to them. This thread has a loop and connections of its own. It sends Heartbeat with the
worker's member id and generation when the worker itself was not confirmed for a third of a session, and stops after
`max_stall_ms` without any progress of the worker's loop (as Kafka's max.poll.interval.ms), so that a worker that hangs
loses its partitions after all.

Why nothing breaks:

- Writes. Heartbeats protect no write. Each transaction is fenced by its transactional id: the next owner of a
  partition registers its id first, and the broker refuses the older owner from then on, even while that one takes
  itself for a member.
- Reads. A worker answers from its tables only within a session of the last confirmation (Engine.readable_task). An
  answer without an error, from the coordinator, to this member in this generation proves that the member was in the
  current generation when the request was sent, whichever thread sent it. So it extends the lease, counted from the
  sending, for the generation that was asked about and no other. "Rebalance in progress" keeps the member in the group
  and extends no lease: the others may be given its partitions when the rebalance has timed out.
- Membership. The thread only reads the coordinator's member id and generation, and never changes them. A pair that is
  read in the middle of a change is refused by the broker, and nothing follows from the refusal: the worker's own
  heartbeat finds out, and joins again.
- A process that is stopped (SIGSTOP, a frozen machine) stops this thread too, so its partitions move after a session,
  as before. So it is with one C call that keeps Python's lock for seconds: it stops all threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NoError,
    NotCoordinatorError,
    RebalanceInProgressError,
    for_code,
)
from aiokafka.protocol.group import HeartbeatRequest

from streams.membership import InstanceHeartbeat
from streams.settings import EngineSettings

log = logging.getLogger(__name__)

#: Ask for the coordinator again after these.
MOVED = (CoordinatorNotAvailableError, NotCoordinatorError, CoordinatorLoadInProgressError)
#: The thread checks this often within a session whether a heartbeat is due: a third of a session leaves two more tries.
LOOKS_PER_SESSION = 15
#: How long the end of the worker waits for the thread; a request under way may not be answered.
END_S = 2.0


@dataclass(frozen=True)
class Confirmed:
    """The last heartbeat of the thread that was answered without an error. `at`: time.monotonic() of its sending."""

    member_id: str
    generation: int
    at: float


class Heartbeats:
    """The thread and what it shares with the worker's loop: attributes that are each read and written as a whole."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._session_s = settings.session_timeout_ms / 1000
        self._progress_at = self._confirmed_at = time.monotonic()
        self._coordinator: Any = None
        self._confirmed: Confirmed | None = None
        self._refused: tuple[str, int] | None = None
        self._has_reported = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self.sent = 0

    # -- called by the worker's loop ----------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. Returns at the latest after END_S; the thread ends with the process in any case."""
        self._ending.set()
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(lambda: None)
        await asyncio.to_thread(self._thread.join, END_S)

    def watch(self, coordinator: Any) -> None:
        """Send for the member that this aiokafka coordinator is; None: send none."""
        self._coordinator = coordinator

    def note_progress(self) -> None:
        """The worker's loop runs. To be called more often than `max_stall_ms`."""
        self._progress_at = time.monotonic()

    def note_confirmed(self, sent_at: float) -> None:
        """The worker's own heartbeat, sent then, was confirmed."""
        self._confirmed_at = max(self._confirmed_at, sent_at)

    def confirmed_at(self, member_id: str, generation: int) -> float:
        """When the thread sent the last heartbeat that was confirmed for this member in this generation; 0.0: never."""
        confirmed = self._confirmed
        if confirmed is None or (confirmed.member_id, confirmed.generation) != (member_id, generation):
            return 0.0
        return confirmed.at

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        except Exception:
            log.exception("the heartbeat thread has ended: a busy event loop now costs this worker its partitions")

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            client = AIOKafkaClient(**self._settings.client_options | {"request_timeout_ms": self._request_timeout_ms})
            try:
                await client.bootstrap()
                await self._beat_with(client)
            except (KafkaError, OSError, TimeoutError) as error:
                log.info("the heartbeat thread connects again: %r", error)
                await asyncio.sleep(self._session_s / LOOKS_PER_SESSION)
            finally:
                await client.close()

    @property
    def _request_timeout_ms(self) -> int:
        """A second try must fit into the session."""
        return self._settings.session_timeout_ms // 3

    async def _beat_with(self, client: AIOKafkaClient) -> None:
        """Until the end, or until the broker does not answer. Raises KafkaError."""
        node: int | None = None
        while not self._ending.is_set():
            if self._is_due():
                if node is None:
                    node = await client.coordinator_lookup(CoordinationType.GROUP, self._settings.app_id)
                if not await self._send(client, node):
                    node = None
            await asyncio.sleep(self._session_s / LOOKS_PER_SESSION)

    def _is_due(self) -> bool:
        """Whether a heartbeat is to be sent now, or the worker's loop has been blocked for so long that none may be."""
        now, coordinator = time.monotonic(), self._coordinator
        if coordinator is None or coordinator.generation < 0 or not coordinator.member_id:
            return False
        if (coordinator.member_id, coordinator.generation) == self._refused:
            return False
        stalled_s = now - self._progress_at
        if stalled_s <= self._settings.max_stall_ms / 1000:
            self._has_reported = False
            confirmed_at = max(self._confirmed_at, self.confirmed_at(coordinator.member_id, coordinator.generation))
            return now - confirmed_at > self._session_s / 3
        if not self._has_reported:
            self._has_reported = True
            log.error(
                "the worker's event loop has been blocked for %.0f s, which is more than max_stall_ms (%d ms): its"
                " heartbeats end, and other workers take its partitions over after a session. The dead letters or the"
                " log of the worker that takes over show the record that costs so much",
                stalled_s,
                self._settings.max_stall_ms,
            )
        return False

    async def _send(self, client: AIOKafkaClient, node: int) -> bool:
        """Send one heartbeat and note what it proves; False when the coordinator is another one now."""
        coordinator = self._coordinator
        if coordinator is None:
            return True
        member_id, generation = coordinator.member_id, coordinator.generation
        request: Any = HeartbeatRequest(self._settings.app_id, generation, member_id)
        if self._settings.group_instance_id is not None:
            request = InstanceHeartbeat(request, self._settings.group_instance_id)
        sent_at = time.monotonic()
        answer = await client.send(node, request, group=ConnectionGroup.COORDINATION)
        self.sent += 1
        error = for_code(answer.error_code)
        if error is NoError:
            self._confirmed = Confirmed(member_id, generation, sent_at)
            log.info("heartbeat sent for an event loop that has been blocked for %.1f s", sent_at - self._progress_at)
        elif error in MOVED:
            return False
        elif error is not RebalanceInProgressError:
            self._refused = member_id, generation  # the worker's own heartbeat finds out, and joins again
        return True
