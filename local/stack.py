"""Settings -> Kafka, PostgreSQL and the sandboxes in one directory -> stack.json, by which others find them."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from local.carrier_service import SandboxCarrier
from local.errors import LocalError
from local.jars import cache_dir
from local.kafka import Kafka
from local.lock import Lock
from local.postgres import Postgres
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


class Embedded:
    """The stack while it is held up by this process. `kafka` and `postgres` can be killed and paused one by one."""

    def __init__(
        self,
        data_dir: Path,
        *,
        kafka_port: int,
        postgres_port: int,
        jars: Path | None = None,
        sandbox_port: int | None = None,
        callback_url: str = "",
        carrier: bool = False,
    ) -> None:
        """Without `sandbox_port` there is no sandbox provider; `carrier`: whether there is a sandbox carrier."""
        self.data_dir = data_dir.absolute()
        self.logs = self.data_dir / "logs"
        self.kafka = Kafka(self.data_dir / "kafka", kafka_port, cache=cache_dir(jars), log=self.logs / "kafka.log")
        self.postgres = Postgres(self.data_dir / "postgres", postgres_port, log=self.logs / "postgres.log")
        self.provider = sandbox_port and SandboxProvider(
            self.data_dir / "provider", sandbox_port, callback_url=callback_url, log=self.logs / "provider.log"
        )
        self.carrier = (
            SandboxCarrier(self.data_dir / "carrier", self.kafka.bootstrap, log=self.logs / "carrier.log")
            if carrier
            else None
        )
        self._lock = Lock(self.data_dir / "lock", "The stack")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        for name, value in (("KAFKA", settings.kafka), ("POSTGRES", settings.postgres)):
            if value is not None:
                raise LocalError(
                    f"ORDERSTREAM_{name} is set, so the embedded stack would not be used. Unset it, or start only "
                    "the worker: faust -A app worker."
                )
        return cls(
            settings.data_dir,
            kafka_port=settings.kafka_port,
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
        return [self.kafka, self.postgres, *(service for service in sandboxes if service)]

    def start(self) -> Stack:
        """Returns when both answer. Raises LocalError, and leaves nothing behind, when one does not."""
        self._claim()
        try:
            # All are launched before any is waited for: PostgreSQL is ready while the JVM still warms up.
            for service in self.services:
                service.begin()
            for service in self.services:
                service.finish()
            url = self.provider.url if self.provider else None
            me = os.getpid(), psutil.Process().create_time()
            stack = Stack(self.kafka.bootstrap, self.postgres.dsn, *me, provider=url, carrier=self.carrier is not None)
            _write(self.data_dir / STACK_FILE, stack)
        except BaseException:
            self.stop()
            raise
        return stack

    def stop(self) -> None:
        """Also after a start that failed, or never came to hold the directory: then another's stack.json stays."""
        if self._lock.held:
            (self.data_dir / STACK_FILE).unlink(missing_ok=True)
        for service in self.services:
            service.stop()
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _claim(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
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


def running(data_dir: Path) -> Stack | None:
    """The embedded stack that is up on this data directory, if its process is alive."""
    try:
        stack = Stack(**json.loads((data_dir / STACK_FILE).read_text()))
        if abs(psutil.Process(stack.pid).create_time() - stack.started_at) > 1.0:
            return None
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return stack


def _write(path: Path, stack: Stack) -> None:
    """At once or not at all, and for the owner's eyes only."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(asdict(stack), indent=2) + "\n")
    new.replace(path)


def released(data_dir: Path, timeout_s: float = HANDOVER_S) -> str | None:
    """Wait until nothing of a stack is left on the directory; the name of what still is there, or None."""
    deadline = time.monotonic() + timeout_s
    parts = (("kafka", Kafka.name), ("postgres", Postgres.name), ("provider", SandboxProvider.name))
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
