"""The session's Kafka and PostgreSQL -> worker processes and operator commands on them -> answers, logs, exit codes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local import Embedded
from local.kafka import Kafka
from local.ports import find_free
from local.postgres import Postgres
from local.process import Child, tail
from local.threads import run_async

ROOT = Path(__file__).parent.parent
READY_TIMEOUT_S = 300.0  # only a hang takes as long; a quiet machine takes 2 s


@dataclass(frozen=True)
class RunningStack:
    """The real Kafka and PostgreSQL of this test session."""

    kafka: str  # bootstrap servers
    postgres: str  # DSN
    data_dir: Path
    broker: Kafka  # start, stop, kill, pause, resume, restart; the first of several
    database: Postgres  # the same
    tuning: Mapping[str, str] = field(default_factory=dict)  # settings of every process
    brokers: Sequence[Kafka] = ()  # all of them

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to use this stack, on top of the caller's environment without its own settings."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ORDERSTREAM_")}
        return plain | {
            "ORDERSTREAM_KAFKA": self.kafka,
            "ORDERSTREAM_POSTGRES": self.postgres,
            "ORDERSTREAM_DATA_DIR": str(self.data_dir),
            "ORDERSTREAM_REPLICATION_FACTOR": str(max(1, len(self.brokers))),
            "PYTHONUNBUFFERED": "1",
            **self.tuning,
        }

    def faust(self, *arguments: str, timeout_s: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`faust -A app <arguments>` to its end; fails with its output when it fails and `check` is set."""
        command = [sys.executable, "-m", "faust", "-A", "app", *arguments]
        result = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s)
        if check and result.returncode != 0:
            raise AssertionError(
                f"faust {' '.join(arguments)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def wipe(self) -> None:
        """No topics, no group positions, no rows, no stores: as after the first start. No worker may run."""
        run_async(lambda: delete_all_topics(self.kafka))
        run_async(lambda: empty_database(self.postgres))
        for state in [*self.data_dir.glob("state-*"), *self.data_dir.glob("v*/state-*")]:
            shutil.rmtree(state)


def start_stack(brokers: int = 1) -> tuple[Embedded, RunningStack]:
    """On free ports, in a directory of its own. The jars come from the user's cache."""
    *kafka_ports, postgres_port = find_free(brokers + 1)
    data_dir = Path(tempfile.mkdtemp(prefix="orderstream-tests-"))
    embedded = Embedded(data_dir, kafka_port=kafka_ports, postgres_port=postgres_port)
    stack = embedded.start()
    running = RunningStack(
        stack.kafka, stack.postgres, data_dir, embedded.kafka, embedded.postgres, brokers=tuple(embedded.brokers)
    )
    return embedded, running


@dataclass
class Worker:
    """One `faust -A app worker` process under a guard: it ends with the test session, however that ends."""

    child: Child
    port: int
    state_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.child.pid

    def log(self) -> str:
        return self.child.log.read_text(errors="replace")

    def get(self, path: str, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Status and body (parsed when it is JSON); status 0 when there was no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout_s) as response:
                return response.status, _parsed(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _parsed(error.read())
        except OSError as error:
            return 0, str(error)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> "Worker":
        """Until /health/ready answers 200; fails with the end of the log when the worker ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        answer: tuple[int, Any] = (0, "not asked yet")
        while time.monotonic() < deadline and self.child.running():
            answer = self.get("/health/ready", timeout_s=2.0)
            if answer[0] == 200:
                return self
            time.sleep(0.1)
        ended = "" if self.child.running() else f"; it ended with code {self.child.exit_code}"
        raise AssertionError(f"worker {self.port} is not ready: {answer}{ended}\n{tail(self.child.log, 60)}")

    def wait_standing_by(self, timeout_s: float = READY_TIMEOUT_S) -> "Worker":
        """Until it says that another version is live; fails when it is ready, has ended, or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            status, told = self.get("/health/ready", timeout_s=2.0)
            if status == 503 and "stands by" in str(told["checks"].get("version")):
                return self
            assert status != 200, f"worker {self.port} is ready, and its version is not live"
            assert time.monotonic() < deadline and self.child.running(), f"worker {self.port} does not stand by: {told}"
            time.sleep(0.1)

    def stop(self) -> int:
        return self.child.stop()

    def kill(self) -> int:
        return self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()


@dataclass
class Workers:
    """Starts workers and remembers them, so that the fixture can end them all."""

    stack: RunningStack
    started: list[Worker] = field(default_factory=list)

    def start(
        self,
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        app: str = "app",
        wait: bool = True,
    ) -> Worker:
        """A worker on a free port, or on `port`: the same port finds the same store. `options`: before `worker`."""
        port = port or find_free()[0]
        command = [sys.executable, "-m", "faust", "-A", app, *options, "worker"]
        settings = self.stack.env | {"ORDERSTREAM_WEB_PORT": str(port)} | dict(env or {})
        log = self.stack.data_dir / "logs" / f"worker-{port}.log"
        child = Child.start(f"worker {port}", command, log, env=settings, cwd=ROOT)
        worker = Worker(child, port, self.stack.data_dir / f"state-{port}")
        self.started.append(worker)
        return worker.wait_ready() if wait else worker

    def stop_all(self) -> None:
        """Killed, not stopped: the test is over, and a clean stop is tested where it is meant."""
        for worker in self.started:
            worker.kill()

    def log_tails(self, lines: int = 40) -> str:
        return "\n".join(f"--- {w.child.name}\n{tail(w.child.log, lines)}" for w in self.started)


async def delete_all_topics(bootstrap: str, timeout_s: float = 20.0) -> None:
    """Positions of groups on a topic go with it. Kafka's own topics stay."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        deadline = time.monotonic() + timeout_s
        while names := [name for name in await admin.list_topics() if not name.startswith("__")]:
            if time.monotonic() > deadline:
                raise AssertionError(f"topics are still there after {timeout_s} s: {names}")
            await admin.delete_topics(names)
    finally:
        await admin.close()


async def empty_database(dsn: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(dsn)
    try:
        # The sink keeps its rows and positions in a schema of its own.
        await connection.execute("DROP SCHEMA IF EXISTS orderstream CASCADE; DROP SCHEMA public CASCADE")
        await connection.execute("CREATE SCHEMA public")
    finally:
        await connection.close()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
