"""Settings -> Kafka, PostgreSQL and the sandboxes in one directory -> stack.json, by which others find them."""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from local.carrier_service import SandboxCarrier
from local.errors import LocalError
from local.jars import cache_dir
from local.kafka import Kafka, Quorum
from local.lock import Lock
from local.postgres import Postgres
from local.private import is_regular, make_private
from local.sandbox_service import SandboxProvider
from local.service import HANDOVER_S, Service
from schemas.settings import Settings

STACK_FILE = "stack.json"


@dataclass(frozen=True)
class Stack:
    """A running embedded stack, as written to <data_dir>/stack.json."""

    kafka: str  # bootstrap servers
    postgres: str  # DSN, with its password: the file is readable by its owner only
    pid: int  # of the process that holds the stack up
    started_at: float  # that process's start, seconds since 1970: a pid alone may have been given to another
    provider: str | None = None  # URL of the sandbox provider, if it runs; its secret stays in its directory
    carrier: bool = False  # whether the sandbox carrier runs: it has no address

    @property
    def brokers(self) -> int:
        return len(self.kafka.split(","))


class Embedded:
    """The stack while this process runs it. Each of `brokers`, and `postgres`, can be killed and paused alone."""

    def __init__(
        self,
        data_dir: Path,
        *,
        kafka_port: int | Sequence[int],
        postgres_port: int,
        jars: Path | None = None,
        sandbox_port: int | None = None,
        callback_url: str = "",
        carrier: bool = False,
    ) -> None:
        """`kafka_port`: one port for each broker (see BROKER_COUNTS); a single number for one broker.

        Without `sandbox_port` there is no sandbox provider; `carrier`: whether there is a sandbox carrier.
        """
        self.data_dir = data_dir.absolute()
        self.logs = self.data_dir / "logs"
        kafka_ports = [kafka_port] if isinstance(kafka_port, int) else list(kafka_port)
        self.brokers = _brokers(self.data_dir / "kafka", kafka_ports, cache_dir(jars), self.logs)
        self.bootstrap = ",".join(broker.bootstrap for broker in self.brokers)
        self.postgres = Postgres(self.data_dir / "postgres", postgres_port, log=self.logs / "postgres.log")
        self.provider = sandbox_port and SandboxProvider(
            self.data_dir / "provider",
            sandbox_port,
            callback_url=callback_url,
            log=self.logs / "provider.log",
            two_secrets=True,
        )
        self.carrier = (
            SandboxCarrier(self.data_dir / "carrier", self.bootstrap, log=self.logs / "carrier.log")
            if carrier
            else None
        )
        self._lock = Lock(self.data_dir / "lock", "The stack")

    @property
    def kafka(self) -> Kafka:
        """The broker, or the first of several."""
        return self.brokers[0]

    @classmethod
    def from_settings(cls, settings: Settings, brokers: int | None = None) -> Self:
        """`brokers`: how many, instead of the setting's number."""
        count = brokers or settings.kafka_brokers
        for name, value in (("KAFKA", settings.kafka), ("POSTGRES", settings.postgres)):
            if value is not None:
                raise LocalError(
                    f"ORDERSTREAM_{name} is set, so the embedded stack would not be used. Unset it, or start only "
                    "the worker: faust -A app worker."
                )
        return cls(
            settings.data_dir,
            kafka_port=range(settings.kafka_port, settings.kafka_port + count),
            postgres_port=settings.postgres_port,
            jars=settings.cache_dir,
            sandbox_port=None if settings.provider_url else settings.sandbox_port,
            callback_url=f"{settings.url}/api/v1/orders/payment-callback",
            carrier=settings.carrier == "sandbox",
        )

    @property
    def services(self) -> list[Service]:
        """In the order in which they are started; each is launched before any is waited for."""
        sandboxes = (self.provider, self.carrier)
        return [*self.brokers, self.postgres, *(service for service in sandboxes if service)]

    def start(self) -> Stack:
        """Returns when both answer. Raises LocalError, and leaves nothing behind, when one does not."""
        self._claim()
        try:
            self._require_same_brokers()
            # All are launched before any is waited for: PostgreSQL is ready while the JVM still warms up.
            for service in self.services:
                service.begin()
            for service in self.services:
                service.finish()
            url = self.provider.url if self.provider else None
            me = os.getpid(), psutil.Process().create_time()
            stack = Stack(self.bootstrap, self.postgres.dsn, *me, provider=url, carrier=self.carrier is not None)
            _write(self.data_dir / STACK_FILE, stack)
        except BaseException:
            self.stop()
            raise
        return stack

    def stop(self) -> None:
        """Also after a start that failed, or never came to hold the directory: then another's stack.json stays."""
        if self._lock.held:
            (self.data_dir / STACK_FILE).unlink(missing_ok=True)
        # All brokers of a cluster at once: one after the other, the last would wait for a quorum that is gone.
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(Kafka.stop, self.brokers))
        for service in self.services:
            if service not in self.brokers:
                service.stop()
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _require_same_brokers(self) -> None:
        """Kafka's data of one broker is no cluster's, and the other way round."""
        directory, count = self.data_dir / "kafka", len(self.brokers)
        found = brokers_in(directory)
        if found not in (None, count):
            raise LocalError(
                f"{directory} holds the data of {_counted(found)}, and {_counted(count)} should start: their records "
                f"would be missing. Start what is there with `python -m local up --brokers {found}` (for `make dev` "
                f"and `make demo` set ORDERSTREAM_KAFKA_BROKERS={found}), delete it with `python -m local reset`, or "
                "set ORDERSTREAM_DATA_DIR to another directory."
            )
        for broker in self.brokers:  # all of them, so that a start that is cut off can still be counted
            broker.directory.mkdir(parents=True, exist_ok=True)

    def _claim(self) -> None:
        try:
            make_private(self.data_dir, self.postgres.group)
            claimed = self._lock.try_acquire()
        except OSError as error:
            raise LocalError(
                f"Cannot write to {self.data_dir}: {error}. Set ORDERSTREAM_DATA_DIR to a directory you can write."
            ) from error
        if not claimed:
            found = running(self.data_dir)
            who = f"by pid {found.pid}, Kafka on {found.kafka}" if found else "and is just starting or stopping"
            raise LocalError(
                f"A stack already runs on {self.data_dir}, {who}. Use it, stop it (python -m local stop), or set "
                "ORDERSTREAM_DATA_DIR and the ports to have a second one."
            )


def _brokers(directory: Path, kafka_ports: Sequence[int], jars: Path, logs: Path) -> list[Kafka]:
    """One broker in the directory itself, or several below it."""
    if len(kafka_ports) == 1:
        return [Kafka(directory, kafka_ports[0], cache=jars, log=logs / "kafka.log")]
    quorum = Quorum([directory / str(node) for node in range(1, len(kafka_ports) + 1)])
    return [
        Kafka(place, port, cache=jars, log=logs / f"kafka-{node}.log", node=node, quorum=quorum)
        for node, (place, port) in enumerate(zip(quorum.directories, kafka_ports, strict=True), 1)
    ]


def brokers_in(directory: Path) -> int | None:
    """How many brokers have their data below Kafka's directory; None before the first start."""
    if (directory / "data").exists():
        return 1
    return len([path for path in directory.glob("*") if path.is_dir() and path.name.isdecimal()]) or None


def _counted(brokers: int | None) -> str:
    return "one Kafka broker" if brokers == 1 else f"{brokers} Kafka brokers"


def running(data_dir: Path) -> Stack | None:
    """The embedded stack that is up on this data directory, if its process is alive."""
    file = data_dir / STACK_FILE
    try:
        if not is_regular(file):
            return None
        stack = Stack(**json.loads(file.read_text()))
        process = psutil.Process(stack.pid)
        # The process must be the one that wrote the file: it began when the file says, and is the file's owner's. A
        # file that another user has put here must not make root stop a process of root.
        if abs(process.create_time() - stack.started_at) > 1.0 or process.uids().real != file.lstat().st_uid:
            return None
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return stack


def _write(path: Path, stack: Stack) -> None:
    """At once or not at all, and for the owner's eyes only."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "w") as file:
        file.write(json.dumps(asdict(stack), indent=2) + "\n")
    new.replace(path)


def released(data_dir: Path, timeout_s: float = HANDOVER_S) -> str | None:
    """Wait until nothing of a stack is left on the directory; the name of what still is there, or None."""
    deadline = time.monotonic() + timeout_s
    members = [(f"kafka/{path.name}", Kafka.name) for path in (data_dir / "kafka").glob("[0-9]*")]
    parts = (("kafka", Kafka.name), *members, ("postgres", Postgres.name), ("provider", SandboxProvider.name))
    for name, what in (("", "The stack"), *parts, ("carrier", SandboxCarrier.name)):
        if not (data_dir / name / "lock").exists():
            continue
        lock = Lock(data_dir / name / "lock", what)
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                return what
            time.sleep(0.1)
        lock.release()
    return None
