"""a directory -> one embedded broker and PostgreSQL for all lines -> topics, processes and a clean slate on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from agents.effects.postgres import SCHEMA
from local import Embedded
from local.ports import HOST, find_free
from local.process import Child
from local.threads import run_async
from streams import admin
from streams.admin import TopicConfig

ROOT = Path(__file__).parent.parent
PARTITIONS = 4
READY_TIMEOUT_S = 90.0
#: The broker stamps what it appends, so that every fold is timed by one clock that none of them holds.
STAMPED = {"message.timestamp.type": "LogAppendTime"}


class NotReady(Exception):
    """A process that ended or took too long; the message has the end of its log."""


@dataclass
class Ground:
    """The broker and the database of one bench, and every process that was started on them."""

    data_dir: Path
    bootstrap: str = ""
    dsn: str = ""
    broker_pid: int = 0
    database_pid: int = 0
    _children: list[Child] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __enter__(self) -> Self:
        shutil.rmtree(self.data_dir, ignore_errors=True)
        wanted = os.environ.get("ORDERSTREAM_KAFKA_PORT")
        kafka_port, postgres_port = find_free(2)
        self._embedded = Embedded(
            self.data_dir, kafka_port=int(wanted) if wanted else kafka_port, postgres_port=postgres_port
        )
        stack = self._embedded.start()
        self.bootstrap, self.dsn = stack.kafka, stack.postgres
        if (broker := self._embedded.kafka.child) is not None:
            self.broker_pid = broker.pid
        if (database := self._embedded.postgres.child) is not None:
            self.database_pid = database.pid
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self._children:
            child.kill()
        self._embedded.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    # -- names and directories ----------------------------------------------------------------------------------------

    def name(self, what: str) -> str:
        """A name that no run before has used: topics, groups and state that carry it begin empty."""
        return f"bench-{what}-{next(self._numbers)}"

    def folder(self, name: str) -> Path:
        path = self.data_dir / "runs" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    # -- topics and rows ----------------------------------------------------------------------------------------------

    def create_topics(self, *names: str, config: Mapping[str, str] | None = None) -> None:
        topics = [TopicConfig(name, PARTITIONS, 1, dict(config or {})) for name in names]
        run_async(lambda: admin.create(self.bootstrap, topics))

    def delete_topics(self, part: str) -> None:
        """Those whose name holds `part`. Positions of groups on them go with them."""
        names = [name for name in self.topics() if part in name]
        run_async(lambda: admin.delete(self.bootstrap, names))

    def delete_product(self) -> None:
        """Topics and rows of the product, which have the same names in each run."""
        names = [name for name in self.topics() if "bench-" not in name and not name.startswith("__")]
        run_async(lambda: admin.delete(self.bootstrap, names))
        self.empty_database()

    def topics(self) -> list[str]:
        return list(run_async(lambda: admin.partition_counts(self.bootstrap)))

    def empty_database(self) -> None:
        async def drop() -> None:
            import asyncpg

            connection = await asyncpg.connect(self.dsn)
            try:
                await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            finally:
                await connection.close()

        run_async(drop)

    # -- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """A process under a guard: it ends with the bench, however that ends."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ORDERSTREAM_")}
        settings = plain | {"PYTHONUNBUFFERED": "1"} | dict(env or {})
        log = self.data_dir / "logs" / f"{name}.log"
        log.unlink(missing_ok=True)  # of an earlier start under this name: logs are searched for what happened
        child = Child.start(name, command, log, env=settings, cwd=ROOT)
        self._children.append(child)
        return child

    def run(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """A process to its end. Raises NotReady with its log when that is not a good one."""
        child = self.start(name, command, env)
        if child.wait(READY_TIMEOUT_S) != 0:
            raise NotReady(f"{name} ended with code {child.exit_code}:\n{child.log_tail()}")

    def python(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]


@dataclass(frozen=True)
class Served:
    """A process with an HTTP server."""

    child: Child
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body (parsed when it is JSON); status 0 when there was no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        except OSError as error:
            return 0, str(error)
        with contextlib.suppress(ValueError):
            return status, json.loads(body)
        return status, body

    def wait_ready(self, path: str = "/health/ready") -> Any:
        """Until it answers 200; gives the body."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        answer: tuple[int, Any] = (0, "not asked yet")
        while time.monotonic() < deadline:
            alive([self.child])
            answer = self.get(path)
            if answer[0] == 200:
                return answer[1]
            time.sleep(0.02)
        raise NotReady(f"{self.child.name} is not ready: {answer}\n{self.child.log_tail(40)}")


def alive(children: Iterable[Child]) -> None:
    """Raises NotReady when one of them has ended."""
    for child in children:
        if not child.running():
            raise NotReady(f"{child.name} ended with code {child.exit_code}:\n{child.log_tail(40)}")


def wait_for_shares(workers: Sequence[Served]) -> None:
    """Until all are ready and each has as many tasks as the others: before that, one of them would work alone."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        shares = {worker.wait_ready()["checks"]["assignment"]["detail"] for worker in workers}
        if len(shares) == 1:
            return
        if time.monotonic() > deadline:
            raise NotReady(f"the workers never shared the tasks evenly: {sorted(shares)}")
        time.sleep(0.1)
