"""what can be tuned in the engine -> one frozen object, each default with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streams.brokers import PLAINTEXT, Brokers, Security, client_options


@dataclass(frozen=True)
class EngineSettings:
    """Times in milliseconds unless the name says otherwise. Figures: two cores, broker on the same machine."""

    app_id: str
    bootstrap: str
    state_dir: Path
    security: Security = PLAINTEXT
    dead_letters: str = "dead_letters.v1"
    dead_letter_partitions: int = 4
    replication_factor: int = 1
    # One transaction holds at most this many records: 2,000 and 5,000 are equally fast, 500 costs a tenth.
    batch_max_records: int = 2_000
    # Records that agents take before all else in the process has its turn: 3 ms of the product. A whole batch is a
    # tenth of a second, and a lookup over HTTP would wait for one of each task.
    piece_records: int = 64
    # How long a fetch may wait for data. stock Faust's 1,500 makes p99 1.7 s; 5 gives 40 ms at 1,000/s. With nothing to
    # read it grows to streams/kafka.py's IDLE_FETCH_MS.
    fetch_max_wait_ms: int = 5
    # A task's pause between two transactions, unless records wait for it; 0 is for latency. What arrives meanwhile
    # shares a transaction, which costs both sides more than its records. Kafka Streams, exactly-once, takes 100.
    commit_interval_ms: int = 0
    # One fetch's bytes for one partition: bounds memory, and 4 MiB is where larger brought nothing more.
    fetch_max_bytes: int = 4 << 20
    # The wait before a retry inside a transaction: the default of 100 showed as p99 of 134 to 194 ms.
    retry_backoff_ms: int = 3
    # A dead worker's tasks move after this long without a heartbeat.
    session_timeout_ms: int = 6_000
    heartbeat_interval_ms: int = 1_000
    # A worker whose event loop stands still for longer loses its tasks although its process lives: the heartbeats of
    # streams/heartbeats.py end. Kafka's max.poll.interval.ms is 5 minutes; no batch here takes 10 s.
    max_stall_ms: int = 60_000
    # How long a rebalance waits for members to hand over; a batch is done in far less.
    rebalance_timeout_ms: int = 15_000
    # An open transaction of a dead owner that nobody takes over blocks read-committed readers this long at most.
    transaction_timeout_ms: int = 15_000
    request_timeout_ms: int = 15_000
    # A single record from outside agents (HTTP, an effect) is given up after this long: the leader of a partition that
    # lost its broker is elected in less, and a caller would not wait longer.
    delivery_timeout_ms: int = 20_000
    # A static member's restart does not move its tasks; every worker needs an id of its own.
    group_instance_id: str | None = None
    # Copies of each task's store kept warm on other workers. They cost those workers the restore work of every write.
    standby_replicas: int = 0
    # Shared by all stores of a worker.
    block_cache_bytes: int = 64 << 20
    write_buffer_bytes: int = 64 << 20
    # The wait before a failed task is tried again doubles from here to its maximum.
    restart_backoff_s: float = 0.2
    restart_backoff_max_s: float = 15.0
    # Seconds between two slices of tables that a worker holds against their changelogs; 0: never. Each reads a
    # changelog from its beginning, at a twentieth of a processor.
    audit_every_s: float = 0.0
    # How long an idle task waits in one fetch before it looks up again.
    poll_s: float = 0.5

    @property
    def brokers(self) -> Brokers:
        """The cluster, and how it is spoken to."""
        return Brokers(self.bootstrap, self.security)

    @property
    def client_options(self) -> dict[str, Any]:
        """What every client of this application connects with."""
        return {**client_options(self.brokers), "request_timeout_ms": self.request_timeout_ms}
